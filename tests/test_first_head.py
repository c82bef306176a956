"""With few texts, `fit` starts with the logistic regression on the vectors of the encoder."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.contract import finetuning, first_head

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
    monkeypatch.setattr(first_head, "MOST_TEXTS", 79)
    clf = BertSentimentClassifier(tiny_bert, **STANDING_STILL).fit(X, y)
    expected = regression_on_vectors(tiny_bert, X, y, "cls")
    assert np.abs(clf.decision_function(X) - expected).max() > 0.1


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

    def watch(network, data):
        first_head.start_head(network, data)
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
