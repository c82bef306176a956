"""What fit records, what it shows, and that it changes nothing it was given."""

import copy
import json
import pickle
import random
import re
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone

from skbert import BertPretrainer, BertSentimentClassifier, TruncationWarning


def classifier(model, **parameters):
    defaults = {"max_length": 32, "max_epochs": 2, "batch_size": 16, "random_state": 0}
    return BertSentimentClassifier(model, **(defaults | parameters))


def state_hash(fitted):
    """A hash of all weights, of a classifier with those of its head."""
    weights = dict(fitted.model_.state_dict())
    if isinstance(fitted, BertSentimentClassifier):
        weights |= fitted.head_.state_dict()
    return joblib.hash({name: weight.numpy() for name, weight in weights.items()})


def fit_classifier(model, X, y, random_state):
    return classifier(model, random_state=random_state).fit(X, y)


def fit_pretrainer(model, X, y, random_state):
    documents = [X[i : i + 4] for i in range(0, len(X), 4)]
    settings = {"max_length": 32, "max_epochs": 2, "batch_size": 16}
    return BertPretrainer(model, random_state=random_state, **settings).fit(documents)


#: The estimators that draw random numbers. BertEmbeddingTransformer draws none.
DRAWING = {"BertSentimentClassifier": fit_classifier, "BertPretrainer": fit_pretrainer}


def global_states():
    """The process-wide random states, comparable."""
    return pickle.dumps((random.getstate(), np.random.get_state())), (  # noqa: NPY002
        torch.get_rng_state().tolist()
    )


def test_history_by_hand(tiny_bert):
    texts = ["a good film", "so dull", "fun"]  # "so" is two pieces: 5, 5 and 3 tokens
    clf = classifier(tiny_bert, max_epochs=2, batch_size=2, learning_rate=0.001)
    clf.fit(texts, [1, 0, 1])
    assert clf.n_epochs_ == len(clf.history_) == 2
    for number, record in enumerate(clf.history_, start=1):
        assert [*record] == ["epoch", "train_loss", "learning_rate", "seconds", "n_tokens"]
        assert (record["epoch"], record["n_tokens"]) == (number, 13)
        assert record["seconds"] > 0
        assert np.isfinite(record["train_loss"])
        assert {type(value) for value in record.values()} <= {int, float}
    # 4 steps, the first of them warm-up: 1/2, 1, 2/3, 1/3 of the highest learning rate
    assert [record["learning_rate"] for record in clf.history_] == pytest.approx([0.001, 0.001 / 3])


def test_validation_texts_are_in_the_history(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = classifier(tiny_bert).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    last = clf.history_[-1]
    assert [*last][-2:] == ["val_loss", "val_score"]
    assert last["val_score"] == clf.score(X[60:], y[60:])
    proba = clf.predict_proba(X[60:])
    right = proba[np.arange(20), (y[60:] == clf.classes_[1]).astype(int)]
    assert last["val_loss"] == pytest.approx(-np.log(right).mean(), rel=1e-5)


def test_the_first_loss_is_near_chance_and_the_last_is_lower(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert, max_epochs=15, learning_rate=5e-3, dropout=0.0).fit(*toy_reviews)
    losses = [record["train_loss"] for record in clf.history_]
    assert losses[0] < 3 * np.log(2)
    assert losses[-1] < 0.1


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_learns(tiny_bert, toy_reviews, pooling, dropout):
    clf = classifier(tiny_bert, pooling=pooling, dropout=dropout, max_epochs=15, learning_rate=5e-3)
    assert clf.fit(*toy_reviews).score(*toy_reviews) == 1


FIT_WITH_SEED_3 = """
import json, torch
from tests.test_fitting import DRAWING, state_hash
estimator, model, texts, n_threads = sys.argv[1:]
torch.set_num_threads(int(n_threads))  # another number gives another last bit
print(state_hash(DRAWING[estimator](model, *json.loads(texts), random_state=3)))
"""


@pytest.mark.parametrize("estimator", DRAWING)
def test_the_seed_decides_the_weights(prepared, tiny_bert, toy_reviews, tmp_path, estimator):
    """In a second fit, whatever torch drew in between, and in another process."""
    X, y = toy_reviews
    first = state_hash(DRAWING[estimator](tiny_bert, X, y, random_state=3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        again = state_hash(DRAWING[estimator](tiny_bert, X, y, random_state=3))
    other = state_hash(DRAWING[estimator](tiny_bert, X, y, random_state=4))
    assert first == again != other
    arguments = [estimator, tiny_bert, json.dumps([X, y.tolist()]), str(torch.get_num_threads())]
    done = prepared.run(FIT_WITH_SEED_3, *arguments, folder=tmp_path / "run")
    assert done.stdout.strip() == first


@pytest.mark.parametrize("estimator", DRAWING)
def test_a_random_state_instance_is_drawn_from(tiny_bert, toy_reviews, estimator):
    X, y = toy_reviews
    rng = np.random.RandomState(0)
    first, second = (
        state_hash(DRAWING[estimator](tiny_bert, X, y, random_state=rng)) for _ in range(2)
    )
    again = DRAWING[estimator](tiny_bert, X, y, random_state=np.random.RandomState(0))
    assert first == state_hash(again) != second


def test_without_a_seed_each_fit_is_another(tiny_bert, toy_reviews):
    first, second = (
        state_hash(classifier(tiny_bert, random_state=None).fit(*toy_reviews)) for _ in range(2)
    )
    assert first != second


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_random_states_are_neither_changed_nor_read(tiny_bert, toy_reviews, random_state):
    clf = classifier(tiny_bert, random_state=random_state)
    before = global_states()
    clf.fit(*toy_reviews).predict(toy_reviews[0])
    assert global_states() == before
    found = state_hash(clf)
    random.seed(1)
    try:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        again = state_hash(clf.fit(*toy_reviews))
    finally:
        random.seed()
        torch.seed()
        np.random.seed()  # noqa: NPY002
    assert (again == found) is (random_state == 0)


def test_fit_changes_no_parameter(tiny_bert, toy_reviews):
    rng = np.random.RandomState(0)
    weights = {"good": 1.0, "bad": 2.0}
    clf = classifier(tiny_bert, class_weight=weights, random_state=rng)
    before = clf.get_params()
    clf.fit(*toy_reviews).predict(toy_reviews[0])
    assert all(clf.get_params()[name] is value for name, value in before.items())
    assert weights == {"good": 1.0, "bad": 2.0}


@pytest.mark.weights
@pytest.mark.parametrize("seed", range(3))
def test_few_texts_do_not_end_in_one_class(real_weights, seed):
    texts = ["what a joy", "i loved it", "so dull", "a waste of time"] * 4
    labels = ["good", "good", "bad", "bad"] * 4
    clf = BertSentimentClassifier(max_epochs=10, batch_size=8, random_state=seed)
    assert clf.fit(texts, labels).score(texts, labels) == 1


def test_a_second_fit_forgets_the_first(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = classifier(tiny_bert)
    expected = state_hash(clf.fit(X, y))
    clf.fit(["a", "b", "film"], [1, 2, 3])
    assert state_hash(clf.fit(X, y)) == expected
    assert clf.classes_.tolist() == ["bad", "good"]


def test_clone_and_deepcopy(tiny_bert, toy_reviews):
    X, _ = toy_reviews
    clf = classifier(tiny_bert).fit(*toy_reviews)
    assert clone(clf).get_params() == clf.get_params()
    assert not hasattr(clone(clf), "classes_")
    twin = copy.deepcopy(clf)
    expected = clf.predict_proba(X)
    np.testing.assert_array_equal(twin.predict_proba(X), expected)
    with torch.no_grad():
        twin.model_.embeddings.word_embeddings.weight.zero_()
    np.testing.assert_array_equal(clf.predict_proba(X), expected)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_the_methods_agree(tiny_bert, toy_reviews, n_classes):
    X, _ = toy_reviews
    y = np.arange(len(X)) % n_classes * 10
    clf = classifier(tiny_bert).fit(X, y)
    proba, decision, found = clf.predict_proba(X), clf.decision_function(X), clf.predict(X)
    assert proba.shape == (len(X), n_classes)
    assert (proba.dtype, clf.predict_log_proba(X).dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(X)), proba, rtol=1e-12)
    np.testing.assert_array_equal(found, clf.classes_[proba.argmax(axis=1)])
    assert clf.score(X, y) == (found == y).mean()
    weights = np.arange(len(X))
    weighted = np.average(found == y, weights=weights)
    assert clf.score(X, y, sample_weight=weights) == pytest.approx(weighted)
    if n_classes == 2:
        assert decision.shape == (len(X),)
        np.testing.assert_array_equal(found, clf.classes_[(decision > 0).astype(int)])
        np.testing.assert_allclose(1 / (1 + np.exp(-decision)), proba[:, 1], rtol=1e-5)
    else:
        assert decision.shape == (len(X), n_classes)
        np.testing.assert_array_equal(found, clf.classes_[decision.argmax(axis=1)])
        odds = np.exp(decision - decision.max(axis=1, keepdims=True))
        np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), proba, rtol=1e-5)


# Truncation is reported


TRUNCATED = (
    "{} of {} texts are longer than max_length=5 tokens and were truncated; {} tokens were cut "
    "off, {} of all. Increase max_length, or choose with `truncation` which part to keep."
)


def test_truncation_by_hand(tiny_bert):
    # 3 + 2 tokens, 5 + 2, 6 + 2; room for 3 beside [CLS] and [SEP]
    texts = ["a good film", "a very very good film", "a bad bad bad bad film"]
    clf = classifier(tiny_bert, max_length=5, max_epochs=50)
    message = TRUNCATED.format(2, 3, 5, "25.0%")
    with pytest.warns(TruncationWarning, match=f"^{re.escape(message)}$") as caught:
        clf.fit(texts, [1, 1, 0])
    assert len(caught) == 1
    assert clf.n_truncated_ == 2
    message = TRUNCATED.format(1, 1, 2, "28.6%")
    with pytest.warns(TruncationWarning, match=f"^{re.escape(message)}$") as caught:
        copy.deepcopy(clf).predict(texts[1:2])
    assert len(caught) == 1
    assert clf.n_truncated_ == 2


def test_no_truncation_no_warning(tiny_bert):
    clf = classifier(tiny_bert, max_length=5, max_epochs=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.fit(["a good film", "dull"], [1, 0]).predict(["film film film"])
    assert clf.n_truncated_ == 0


@pytest.mark.parametrize("truncation", ["head", "tail", "head+tail"])
def test_only_what_is_kept_is_read(tiny_bert, truncation):
    clf = classifier(tiny_bert, max_length=6, truncation=truncation)
    clf.fit(["a film", "dull"], [1, 0])
    kept = {
        "head": "good bad dull fun",
        "tail": "joy love waste hate",
        "head+tail": "good love waste hate",
    }
    with pytest.warns(TruncationWarning):
        found = clf.decision_function(["good bad dull fun movie joy love waste hate"])
    np.testing.assert_allclose(found, clf.decision_function([kept[truncation]]), atol=1e-6)


# Progress; tests/test_progress.py has the rest


def test_nothing_is_shown_by_default(tiny_bert, capfd):
    classifier(tiny_bert).fit(["good", "bad"], [1, 0]).predict(["good"])
    assert capfd.readouterr() == ("", "")
