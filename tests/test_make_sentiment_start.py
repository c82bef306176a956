"""benchmarks/make_sentiment_start.py: the excerpts of reviews, their loss, and the cut."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import classifier_and_tokens, loss_of
from torch import nn

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TEXTS = ["good movie", "a bad film", "not good at all", "i love it", "boring", "a good story"]
# The texts of four excerpts, the second of which has three.
FIRST_TEXTS = np.array([0, 1, 4, 5, 6])
LABELS = np.array([1, 0, 0, 1])


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("make_sentiment_start")
    sys.modules.pop("make_sentiment_start", None)


@pytest.fixture
def network(script, tiny_bert):
    torch.manual_seed(0)
    classifier, _ = classifier_and_tokens(tiny_bert, TEXTS, "mean")
    heads = [nn.Linear(classifier.head.in_features, 2) for _ in range(2)]
    return script.TwoHeads(classifier.encoder, *heads)


@pytest.fixture
def reviews(script, tiny_bert):
    _, tokens = classifier_and_tokens(tiny_bert, TEXTS, "mean")
    return script.Reviews(tokens, FIRST_TEXTS, LABELS)


def plain_loss(network, tokens, excerpts):
    """The loss of some excerpts, with each text alone in the encoder of transformers."""
    of_excerpt = []
    for excerpt in excerpts:
        texts = range(*FIRST_TEXTS[excerpt : excerpt + 2])
        ids = [torch.from_numpy(tokens.take(np.array([text])).ids).long() for text in texts]
        states = [network.encoder(of_text[None]).last_hidden_state[0] for of_text in ids]
        of_mean = torch.stack([network.mean_head(s.mean(0)) for s in states]).mean(0)
        of_cls = torch.stack([network.cls_head(s[0]) for s in states]).mean(0)
        label = torch.tensor(LABELS[excerpt])
        of_excerpt.append((F.cross_entropy(of_mean, label) + F.cross_entropy(of_cls, label)) / 2)
    return torch.stack(of_excerpt).sum()


@pytest.mark.parametrize("rows", [[0], [1], [3, 1], [0, 1, 2, 3]])
def test_the_logit_of_an_excerpt_is_the_mean_of_its_texts(script, network, reviews, rows):
    n_in_batch = 4
    network.encoder.eval()
    loss = loss_of(script.TwoPoolings(network, reviews), np.array(rows), np.arange(n_in_batch))
    loss.part.backward()
    gradients = {
        name: w.grad.clone() for name, w in network.weights().items() if w.grad is not None
    }
    for weight in network.weights().values():
        weight.grad = None
    expected = plain_loss(network, reviews.tokens, rows) / n_in_batch
    expected.backward()
    assert torch.allclose(loss.part, expected, atol=1e-6)
    for name, weight in network.weights().items():
        if weight.grad is not None:
            assert torch.allclose(gradients[name], weight.grad, atol=1e-6), name


def test_the_length_of_an_excerpt_is_that_of_all_its_texts(script, network, reviews):
    lengths = reviews.tokens.lengths
    expected = [lengths[0], lengths[1:4].sum(), lengths[4], lengths[5]]
    assert script.TwoPoolings(network, reviews).lengths.tolist() == expected


DOCUMENT = "The plot is thin. I was bored. Why? The actors do their best. Avoid this film."


def test_single_sentences_are_texts_of_their_own(script):
    drawn = script.single_sentences(DOCUMENT, np.random.default_rng(0))
    assert sorted(drawn) == [  # without "Why?", which is too short
        "Avoid this film.",
        "I was bored.",
        "The actors do their best.",
        "The plot is thin.",
    ]


def test_no_more_than_six_single_sentences_are_drawn(script):
    document = " ".join(f"This is sentence {i}." for i in range(20))
    assert len(set(script.single_sentences(document, np.random.default_rng(0)))) == 6


@pytest.mark.parametrize("seed", range(5))
def test_a_passage_is_one_text_of_following_sentences(script, seed):
    (text,) = script.passage(DOCUMENT, np.random.default_rng(seed))
    assert text in DOCUMENT.replace("Why? ", "")
    assert 1 <= text.count(".") <= script.MOST_SENTENCES


def test_a_document_of_short_sentences_is_used_nevertheless(script):
    assert script.single_sentences("Wow!", np.random.default_rng(0)) == ["Wow!"]


def test_runs_with_more_weight_count_more(script):
    mean = script.MeanWeights()
    mean.add({"weight": torch.tensor([0.0])}, 1 / 3)
    mean.add({"weight": torch.tensor([3.0])}, 2 / 3)
    assert torch.allclose(mean.means["weight"], torch.tensor([2.0]))


def test_a_kept_run_is_found_only_with_the_same_settings(script, monkeypatch, tmp_path):
    trained = []

    def train(network, reviews, seed):
        trained.append(seed)
        return {"weight": torch.tensor([float(len(trained))])}

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(script, "new_network", lambda: None)
    monkeypatch.setattr(script, "draw_reviews", lambda seed, run: None)
    run = script.Run({"whole": 1.0}, 6, weight=0.5)
    others = [
        (1, run),
        (0, replace(run, n_excerpts=12)),
        (0, replace(run, kinds={"passage": 1.0})),
    ]
    first = script.train_or_find(0, run, tmp_path)
    assert script.train_or_find(0, replace(run, weight=1.0), tmp_path) == first
    assert trained == [0]
    for seed, other in others:
        assert script.train_or_find(seed, other, tmp_path) != first
    assert trained == [0, 1, 0, 0]


def test_the_covariances_are_those_of_all_tokens(script, network, reviews):
    encoder = network.encoder.eval()
    found = script.input_covariances(encoder, reviews.tokens)
    matrices = {n for n, w in encoder.named_parameters() if w.ndim == 2 and "embedding" not in n}
    assert found.keys() == matrices
    ids = [torch.from_numpy(reviews.tokens.take(np.array([i])).ids)[None] for i in range(6)]
    states = [encoder(of_text, output_hidden_states=True).hidden_states[0] for of_text in ids]
    expected = torch.cat(states, dim=1)[0].T.cov(correction=0)
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.allclose(found[name].float(), expected, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in encoder.modules())
