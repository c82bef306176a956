"""With few texts, `fit` starts with the logistic regression on the vectors of the encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.contract import finetuning, first_head, steps
from skbert.engine.files.low_rank import ClassifierHead
from skbert.engine.files.weights import linear_of
from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.predict import predict_logits, predict_vectors
from skbert.engine.training.classification import LabelledTexts

STANDING_STILL = {
    "max_length": 32,
    "max_epochs": 1,
    "learning_rate": 1e-12,
    "random_state": 0,
}


def regression_on_vectors(model, texts, labels, pooling, weights=None):
    """Logits of a logistic regression on vectors of mean norm 1."""
    vectors = BertEmbeddingTransformer(model, pooling=pooling, max_length=32).fit_transform(texts)
    vectors = vectors / np.linalg.norm(vectors, axis=1).mean()
    regression = LogisticRegression(C=first_head._C, max_iter=1000)
    return regression.fit(vectors, labels, weights).decision_function(vectors)


def known_classifier(vectors, labels, pooling="mean"):
    """A classifier of two classes that separates the vectors, as a model may contain it."""
    regression = LogisticRegression(C=1e4, max_iter=10_000).fit(vectors, labels)
    weight, bias = torch.from_numpy(regression.coef_), torch.from_numpy(regression.intercept_)
    weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return ClassifierHead(weight.float(), bias.float(), ["bad", "good"], pooling)


@pytest.fixture
def known(tiny_bert, toy_reviews):
    """A new network, the vectors of the toy reviews, and a classifier that knows their labels."""
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, pooling="mean", **STANDING_STILL).fit(X, y)
    network = TextClassifier(clf.model_, clf.head_, "mean")
    tokens = clf._subword_tokenizer(X, None, max_length=32, truncation="head")
    numbers = np.searchsorted(clf.classes_, y)
    vectors = predict_vectors(network, tokens)
    return network, tokens, numbers, known_classifier(vectors, numbers)


def logits_of_classifier(known):
    """Logits of all reviews from the classifier that the model contains."""
    network, tokens, _, own = known
    return predict_logits(replace(network, head=own.new_module()), tokens)


def logits_after_start(known, labels, rows, classifier=None, weights=None):
    """Logits of all reviews, after the first layer has seen some of them."""
    network, tokens, _, own = known
    head = linear_of(torch.zeros(len(np.unique(labels)), 32), torch.zeros(len(np.unique(labels))))
    network = TextClassifier(network.encoder, head, "mean")
    weights = np.ones(len(rows), np.float32) if weights is None else weights
    data = LabelledTexts(tokens.take(rows), labels[rows], weights)
    first_head.start_head(network, data, classifier or own)
    return predict_logits(network, tokens)


@pytest.mark.parametrize("swapped", [False, True], ids=["same order", "other order"])
def test_two_texts_find_the_classifier_of_the_model_again(known, swapped):
    numbers = 1 - known[2] if swapped else known[2]
    rows = np.array([np.flatnonzero(numbers == 0)[0], np.flatnonzero(numbers == 1)[0]])
    found = logits_after_start(known, numbers, rows).argmax(axis=1)
    own = logits_of_classifier(known).argmax(axis=1)
    assert np.mean(found == (1 - own if swapped else own)) > 0.95
    other_pooling = replace(known[3], pooling="cls")
    found = logits_after_start(known, numbers, rows, other_pooling).argmax(axis=1)
    assert np.mean(found == numbers) < 0.9


def test_texts_can_say_something_else_than_the_classifier(known):
    unrelated = np.random.default_rng(0).permutation(known[2])
    found = logits_after_start(known, unrelated, np.arange(80)).argmax(axis=1)
    without = logits_after_start(known, unrelated, np.arange(80), replace(known[3], pooling="cls"))
    assert np.mean(found == unrelated) >= np.mean(without.argmax(axis=1) == unrelated) - 0.05


def test_rare_classes_stay_rare(known):
    numbers = known[2]
    rows = np.r_[np.flatnonzero(numbers == 0)[:18], np.flatnonzero(numbers == 1)[:2]]
    as_drawn = logits_after_start(known, numbers, rows)
    balanced = np.where(numbers[rows] == 0, 10 / 18, 10 / 2).astype(np.float32)
    as_balanced = logits_after_start(known, numbers, rows, weights=balanced)
    shift = (as_drawn - as_balanced) @ [-1, 1]
    np.testing.assert_allclose(shift, np.log(2 / 18), atol=1e-3)


def test_three_classes_get_the_logit_and_a_free_intercept(known):
    numbers = known[2].copy()
    numbers[np.flatnonzero(numbers == 1)[::2]] = 2
    logits = logits_after_start(known, numbers, np.arange(80))
    negative_or_not = logits[:, 0] < logits[:, 1:].max(axis=1)
    own = logits_of_classifier(known).argmax(axis=1)
    assert np.mean(negative_or_not == (own > 0)) > 0.95


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_two_classes(tiny_bert, toy_reviews, pooling):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, pooling=pooling, **STANDING_STILL).fit(X, y)
    expected = regression_on_vectors(tiny_bert, X, y, pooling)
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=1e-3)


def test_three_classes(tiny_bert, toy_reviews):
    X, y = toy_reviews
    labels = np.where(np.arange(80) % 3 == 0, "other", y)
    clf = BertSentimentClassifier(tiny_bert, pooling="mean", **STANDING_STILL).fit(X, labels)
    expected = regression_on_vectors(tiny_bert, X, labels, "mean")
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=1e-3)


def test_weights_count(tiny_bert, toy_reviews):
    X, y = toy_reviews
    weights = np.linspace(0.2, 1.8, 80)
    clf = BertSentimentClassifier(tiny_bert, pooling="mean", **STANDING_STILL)
    expected = regression_on_vectors(tiny_bert, X, y, "mean", weights)
    found = clf.fit(X, y, sample_weight=weights).decision_function(X)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_many_texts_start_with_a_random_layer(tiny_bert, toy_reviews, monkeypatch):
    X, y = toy_reviews
    monkeypatch.setattr(first_head, "few_texts_limit", lambda contains_classifier, n_classes: 79)
    clf = BertSentimentClassifier(tiny_bert, **STANDING_STILL).fit(X, y)
    expected = regression_on_vectors(tiny_bert, X, y, "cls")
    assert np.abs(clf.decision_function(X) - expected).max() > 0.1


@pytest.mark.parametrize("contains_classifier", [True, False])
def test_more_texts_are_few_for_a_model_that_contains_a_classifier(
    known, monkeypatch, contains_classifier
):
    network, tokens, numbers, own = known
    monkeypatch.setattr(steps, "FEW_TEXTS", 79)
    network = replace(network, head=linear_of(torch.zeros(2, 32), torch.zeros(2)))
    data = LabelledTexts(tokens, numbers, np.ones(80, np.float32))
    first_head.start_head(network, data, own if contains_classifier else None)
    assert network.head.weight.any().item() is contains_classifier


def test_an_earlier_fit_keeps_its_layer(tiny_bert, toy_reviews, monkeypatch):
    X, y = toy_reviews
    settings = STANDING_STILL | {"learning_rate": 5e-3, "max_epochs": 5}
    clf = BertSentimentClassifier(tiny_bert, warm_start=True, **settings).fit(X, y)
    before = clf.decision_function(X)
    monkeypatch.setattr(finetuning, "start_head", None)  # not called again
    clf.set_params(learning_rate=1e-12).fit(X, y)
    np.testing.assert_allclose(clf.decision_function(X), before, atol=1e-3)


def test_it_starts_from_the_encoder_after_pre_training(tiny_bert, toy_reviews):
    X, y = toy_reviews
    settings = STANDING_STILL | {"learning_rate": 1e-3, "dropout": 0.0}
    clf = BertSentimentClassifier(tiny_bert, pretraining_epochs=1, **settings)
    seen = []

    def watch(network, data, classifier, criterion, ranks):
        first_head.start_head(network, data, classifier, criterion)
        seen.append(first_head.predict_vectors(network, data.tokens))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "start_head", watch)
        clf.fit(X, y)
    plain = BertEmbeddingTransformer(tiny_bert, max_length=32).fit_transform(X)
    assert np.abs(seen[0] - plain).max() > 0.01


def test_a_class_without_texts_leaves_the_layer_random(tiny_bert):
    X, y = ["good", "bad", "dull"] * 4, ["a", "b", "c"] * 4
    weights = [1.0, 1.0, 0.0] * 4
    clf = BertSentimentClassifier(tiny_bert, **STANDING_STILL).fit(X, y, sample_weight=weights)
    assert clf.predict_proba(X).shape == (12, 3)
