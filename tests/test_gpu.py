"""The estimators on a CUDA device against the same estimators on the CPU.

Skipped on machines without such a device. `pytest tests/test_gpu.py` takes about two minutes there.
"""

import pickle

import numpy as np
import pytest
import torch
from transformers import BertConfig

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no CUDA device"
)

# Without dropout, whose masks differ between devices.
SETTINGS = {
    "max_length": 32,
    "max_epochs": 3,
    "learning_rate": 5e-3,
    "dropout": 0.0,
    "random_state": 0,
}


def losses_of(clf):
    return [record["train_loss"] for record in clf.history_]


@pytest.fixture(scope="module")
def on_cpu(tiny_bert, toy_reviews):
    return BertSentimentClassifier(tiny_bert, device="cpu", **SETTINGS).fit(*toy_reviews)


def test_float32_gives_the_losses_and_probabilities_of_the_cpu(tiny_bert, toy_reviews, on_cpu):
    clf = BertSentimentClassifier(tiny_bert, precision="float32", **SETTINGS).fit(*toy_reviews)
    assert clf.device_.startswith("cuda") and clf.head_.weight.is_cuda
    np.testing.assert_allclose(losses_of(clf), losses_of(on_cpu), rtol=0, atol=1e-3)
    X, _ = toy_reviews
    np.testing.assert_allclose(clf.predict_proba(X), on_cpu.predict_proba(X), rtol=0, atol=1e-2)


def test_bfloat16_is_the_default_where_the_device_supports_it(tiny_bert, toy_reviews, on_cpu):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the compute capability of this device is below 8.0")
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y)
    assert clf.precision_ == "bfloat16"
    # Later epochs differ more: rounding changes the weights, and these the next gradients.
    assert losses_of(clf)[0] == pytest.approx(losses_of(on_cpu)[0], abs=0.02)
    assert losses_of(clf)[-1] < losses_of(clf)[0]


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "mean", "n_frozen_layers": 1},
        {"early_stopping": True, "n_iter_no_change": 20, "class_weight": "balanced"},
        {"pretraining_epochs": 1},
    ],
    ids=lambda parameters: "-".join(parameters),
)
def test_other_ways_to_fit_learn(tiny_bert, toy_reviews, parameters):
    settings = SETTINGS | {"dropout": 0.1, "max_epochs": 20} | parameters
    X, y = toy_reviews
    assert BertSentimentClassifier(tiny_bert, **settings).fit(X, y).score(X, y) > 0.9


def test_the_same_seed_gives_the_same_weights(tiny_bert, toy_reviews):
    settings = SETTINGS | {"dropout": 0.1, "precision": "float32"}
    a, b = (BertSentimentClassifier(tiny_bert, **settings).fit(*toy_reviews) for _ in range(2))
    for ours, theirs in zip(a.model_.parameters(), b.model_.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_pickles_and_folders_come_back_to_the_device(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y)
    clf.save_pretrained(tmp_path / "model")
    for loaded in (
        pickle.loads(pickle.dumps(clf)),
        BertSentimentClassifier.from_pretrained(tmp_path / "model"),
    ):
        assert loaded.device_.startswith("cuda")
        np.testing.assert_allclose(loaded.predict_proba(X), clf.predict_proba(X), atol=1e-6)


def test_a_second_partial_fit_continues(tiny_bert, toy_reviews):
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS)
    for _ in range(3):
        clf.partial_fit(*toy_reviews, classes=["bad", "good"])
    first, *_, last = losses_of(clf)
    assert last < first


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "pooler"])
def test_float32_vectors_are_those_of_the_cpu(tiny_bert, toy_reviews, pooling):
    X, _ = toy_reviews
    expected, found = (
        BertEmbeddingTransformer(
            tiny_bert, pooling=pooling, max_length=32, device=device, precision="float32"
        ).transform(X)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_pretrainer_trains_and_predicts_with_both_heads(toy_reviews, tmp_path):
    X, _ = toy_reviews
    documents = [X[start : start + 5] for start in range(0, len(X), 5)]
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    pretrainer = BertPretrainer(
        config, max_length=32, max_epochs=20, learning_rate=5e-3, random_state=0
    ).fit(documents)
    assert pretrainer.device_.startswith("cuda")
    first, *_, last = (record["masked_loss"] for record in pretrainer.history_)
    assert last < first
    assert len(pretrainer.fill_mask("a [MASK] film", top_k=3).words[0]) == 3
    assert 0 < pretrainer.predict_next_sentence([(X[0], X[1])])[0] < 1
    assert np.isfinite(pretrainer.score(X)) and np.isfinite(pretrainer.transform(X)).all()
