"""`BertSentimentClassifier` on each native family: every feature that it has with BERT."""

import pickle

import numpy as np
import pytest
import torch

from skbert import BertSentimentClassifier
from skbert.engine.model import families
from skbert.engine.model.families import FAMILIES
from skbert.engine.training import classification, frozen
from skbert.engine.training.loop import Trainer
from tests.test_compact_embeddings import WholeVocabulary

SHARED = [name for name, family in FAMILIES.items() if family.are_blocks_shared]
LAYERED = [name for name in FAMILIES if name not in SHARED]

PAIRS = [["a film", "so dull"], ["it was fun", "very good"], ["", "not bad"], ["a", "a film " * 9]]


@pytest.fixture(params=FAMILIES)
def folder(request, family_folders):
    return family_folders[request.param]


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 3, "batch_size": 16, "learning_rate": 5e-3}
    return BertSentimentClassifier(model, device="cpu", random_state=0, **(settings | parameters))


def weights_of(clf):
    return {**clf.model_.state_dict(), **clf.head_.state_dict()}


def assert_same_weights(a, b, **tolerance):
    """Compare all weights but the keys' biases: their gradient is 0, apart from rounding."""
    biases = {id(block.key.bias) for block in families.blocks_of(a.model_)}
    rounded = {name for name, weight in a.model_.named_parameters() if id(weight) in biases}
    assert rounded
    for name, weight in weights_of(a).items():
        if name in rounded:
            continue
        other = weights_of(b)[name]
        np.testing.assert_allclose(weight.numpy(), other.numpy(), **({"rtol": 0} | tolerance))


def padded_states(clf, texts):
    """Compute the last hidden states with transformers, with padding: (n_texts, L, d_model)."""
    inputs = clf.tokenizer_(texts, padding=True, return_tensors="pt")
    if families.n_segments(clf.model_.config) is None:
        inputs.pop("token_type_ids", None)
    return clf.model_(**inputs).last_hidden_state, inputs["attention_mask"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_it_learns_and_predicts_as_transformers_computes(folder, toy_reviews, pooling):
    texts, labels = toy_reviews
    clf = classifier(folder, pooling=pooling, max_epochs=15).fit(texts, labels)
    assert clf.score(texts, labels) >= 0.9
    with torch.no_grad():
        hidden, mask = padded_states(clf, texts)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        expected = clf.head_(hidden[:, 0] if pooling == "cls" else mean).softmax(-1)
    np.testing.assert_allclose(clf.predict_proba(texts), expected.numpy(), rtol=0, atol=1e-5)


def test_pairs(folder):
    clf = classifier(folder).fit(PAIRS, [0, 1, 0, 1])
    assert clf.predict_proba(PAIRS).shape == (4, 2)
    changed = [[first, second + " dull"] for first, second in PAIRS]
    assert np.abs(clf.predict_proba(PAIRS) - clf.predict_proba(changed)).max() > 1e-4


def test_rows_of_embeddings_that_occur_suffice(folder, toy_reviews, monkeypatch):
    compact = classifier(folder).fit(*toy_reviews)
    monkeypatch.setattr(classification, "CompactEmbeddings", WholeVocabulary)
    assert_same_weights(compact, classifier(folder).fit(*toy_reviews), atol=2e-5)


@pytest.mark.parametrize("name", LAYERED)
def test_frozen_layers_stay_and_the_others_learn(family_folders, name, toy_reviews, monkeypatch):
    parameters = {"n_frozen_layers": 1, "dropout": 0}
    clf = classifier(family_folders[name], **parameters).fit(*toy_reviews)
    start = classifier(family_folders[name], max_epochs=1, learning_rate=1e-9).fit(*toy_reviews)
    trained = {id(weight) for weight in families.block_modules(clf.model_)[1].parameters()}
    any_change = {id(families.blocks_of(clf.model_)[1].key.bias)}  # softmax does not depend on it
    for (part, weight), before in zip(
        clf.model_.named_parameters(), start.model_.parameters(), strict=True
    ):
        change = (weight - before).abs().max().item()
        if id(weight) not in any_change:
            assert (change > 1e-3) if id(weight) in trained else (change < 1e-6), part
    monkeypatch.setattr(frozen, "_LARGEST_CACHE", 0)  # compute the frozen states in each epoch
    with pytest.warns(UserWarning, match="frozen layers"):
        again = classifier(family_folders[name], **parameters).fit(*toy_reviews)
    assert_same_weights(clf, again, atol=2e-5)


@pytest.mark.parametrize("name", SHARED)
def test_frozen_layers_are_refused_where_layers_share_weights(family_folders, name, toy_reviews):
    message = (
        f"n_frozen_layers=1, but the layers of the model, {name!r}, share their weights, so only 0 "
        "is allowed. Set n_frozen_layers=0."
    )
    with pytest.raises(ValueError) as caught:
        classifier(family_folders[name], n_frozen_layers=1).fit(*toy_reviews)
    assert str(caught.value) == message


def test_bfloat16_agrees_roughly(folder, toy_reviews, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    exact = classifier(folder, dropout=0).fit(*toy_reviews)
    rounded = classifier(folder, dropout=0, precision="bfloat16").fit(*toy_reviews)
    difference = np.abs(exact.predict_proba(toy_reviews[0]) - rounded.predict_proba(toy_reviews[0]))
    assert 0 < difference.mean() < 0.1
    assert {weight.dtype for weight in rounded.model_.parameters()} == {torch.float32}


def test_pickle_keeps_every_bit(folder, toy_reviews):
    clf = classifier(folder).fit(*toy_reviews)
    again = pickle.loads(pickle.dumps(clf))
    assert type(again.model_) is type(clf.model_)
    np.testing.assert_array_equal(
        again.predict_proba(toy_reviews[0]), clf.predict_proba(toy_reviews[0])
    )
    assert_same_weights(clf, again, atol=0)


def test_resumed_after_an_interruption_the_weights_are_the_same(
    folder, toy_reviews, tmp_path, monkeypatch
):
    whole = classifier(folder).fit(*toy_reviews)
    plain, steps = Trainer.step, iter(range(100))

    def step(self, *arguments):
        if next(steps) == 12:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    clf = classifier(folder, checkpoint_dir=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(*toy_reviews)
    assert [*tmp_path.iterdir()]
    assert_same_weights(whole, clf.fit(*toy_reviews), atol=0)


def test_warm_start_and_partial_fit_go_on(folder, toy_reviews):
    clf = classifier(folder, warm_start=True, max_epochs=5).fit(*toy_reviews)
    clf.fit(*toy_reviews)
    losses = [epoch["train_loss"] for epoch in clf.history_]
    assert len(losses) == 10 and losses[5] < losses[0]
    before = {name: weight.clone() for name, weight in weights_of(clf).items()}
    clf.partial_fit(*toy_reviews)
    assert any(not torch.equal(weight, before[name]) for name, weight in weights_of(clf).items())


def test_early_stopping_keeps_the_best_epoch(folder, toy_reviews):
    clf = classifier(folder, early_stopping=True, max_epochs=4, validation_fraction=0.25)
    clf.fit(*toy_reviews)
    assert 1 <= clf.best_epoch_ <= clf.n_epochs_ <= 4


def test_a_text_may_use_all_positions(folder):
    texts, labels = ["film " * 100, "dull " * 100], [0, 1]
    with pytest.warns(UserWarning, match="truncated"):
        clf = classifier(folder, max_length=64).fit(texts, labels)
    assert clf.predict_proba(texts[:1]).shape == (1, 2)
    with pytest.raises(ValueError, match="max_length=65, but the model has 64 positions"):
        classifier(folder, max_length=65).fit(texts, labels)
