"""What "auto" gives for batch size and epochs, and the warning of too few steps."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skbert import BertSentimentClassifier
from skbert.contract.steps import (
    resolve_batch_size,
    resolve_learning_rate,
    resolve_max_epochs,
)
from skbert.engine.training.classification import TrainingRun


def classifier(model, **parameters):
    settings = {"max_length": 32, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


@pytest.mark.parametrize(
    ("n_texts", "batch_size", "max_epochs"),
    [
        (1, 8, 10),
        (16, 8, 10),
        (160, 8, 10),
        (200, 8, 8),
        (512, 8, 4),
        (513, 16, 7),
        (2048, 16, 3),
        (2049, 32, 4),
        (2200, 32, 3),
        (1_000_000, 32, 3),
    ],
)
def test_few_texts_get_small_batches_and_more_epochs(n_texts, batch_size, max_epochs):
    assert resolve_batch_size("auto", n_texts) == batch_size
    assert resolve_max_epochs("auto", n_texts, batch_size) == max_epochs


def test_auto_gives_200_steps_or_ten_epochs():
    for n_texts in range(1, 5000, 7):
        size = resolve_batch_size("auto", n_texts)
        n_epochs = resolve_max_epochs("auto", n_texts, size)
        assert n_epochs * -(-n_texts // size) >= 200 or n_epochs == 10
        assert 3 <= n_epochs <= 10


@pytest.mark.parametrize(
    ("n_texts", "n_classes", "contains_classifier", "expected"),
    [
        (16, 3, True, 2e-5),
        (512, 3, True, 2e-5),
        (513, 3, True, 5e-5),
        (513, None, True, 5e-5),
        (513, 2, True, 2e-5),
        (2048, 2, True, 2e-5),
        (2049, 2, True, 5e-5),
        (16, 2, False, 5e-5),
    ],
)
def test_few_texts_change_little_of_a_model_that_knows_classes(
    n_texts, n_classes, contains_classifier, expected
):
    task = {"contains_classifier": contains_classifier, "n_classes": n_classes}
    assert resolve_learning_rate("auto", n_texts, **task) == expected
    assert resolve_learning_rate(1e-3, n_texts, **task) == 1e-3


@pytest.mark.weights
def test_the_learning_rate_depends_on_the_model(real_weights, toy_reviews, tmp_path):
    X, y = (column[:16] for column in toy_reviews)
    settings = {"max_epochs": 2, "max_length": 16, "pooling": "cls", "random_state": 0}
    clf = BertSentimentClassifier(**settings).fit(X, y)
    assert (clf.learning_rate_, clf.get_params()["learning_rate"]) == (2e-5, "auto")
    assert 0 < clf.history_[-1]["learning_rate"] < 2e-5
    clf.save_pretrained(tmp_path)
    assert BertSentimentClassifier.from_pretrained(tmp_path).learning_rate_ == 2e-5
    clf.set_params(learning_rate=1e-4).fit(X, y)
    assert clf.learning_rate_ == 1e-4
    assert BertSentimentClassifier(real_weights, **settings).fit(X, y).learning_rate_ == 5e-5


@pytest.mark.weights
def test_the_learning_rate_of_partial_fit_stays_that_of_the_first_call(real_weights):
    clf = BertSentimentClassifier(max_length=16, random_state=0)
    clf.partial_fit(["bad", "good"] * 1025, ["bad", "good"] * 1025, classes=["bad", "good"])
    assert clf.learning_rate_ == 5e-5  # 2,050 texts
    trainer = clf._trainer
    clf.partial_fit(["bad", "good"], ["bad", "good"])
    assert (clf.learning_rate_, clf._trainer) == (5e-5, trainer)


def test_numbers_are_obeyed_and_shown(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert, max_epochs=5, batch_size=4).fit(*toy_reviews)
    assert (clf.max_epochs_, clf.batch_size_, clf.n_epochs_) == (5, 4, 5)


def test_auto_is_resolved_from_the_texts_that_are_trained_on(tiny_bert, toy_reviews):
    X, y = toy_reviews
    weights = np.r_[np.ones(40), np.zeros(40)]  # half of the texts count
    clf = classifier(tiny_bert).fit(X, y, sample_weight=weights)
    assert (clf.batch_size_, clf.max_epochs_, clf.n_epochs_) == (8, 10, 10)
    clf = classifier(tiny_bert, early_stopping=True, validation_fraction=0.5, n_iter_no_change=50)
    clf.fit(X * 4, np.tile(y, 4))  # 160 texts are trained on
    assert (clf.batch_size_, clf.max_epochs_, clf.n_epochs_) == (8, 10, 10)
    clf.set_params(validation_fraction=0.25).fit(X * 4, np.tile(y, 4))  # 240
    assert (clf.batch_size_, clf.max_epochs_, clf.n_epochs_) == (8, 7, 7)


def test_auto_with_a_number_for_the_other(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert, batch_size=40).fit(*toy_reviews)
    assert (clf.max_epochs_, clf.batch_size_) == (10, 40)
    clf = classifier(tiny_bert, max_epochs=6).fit(*toy_reviews)
    assert (clf.max_epochs_, clf.batch_size_) == (6, 8)


def test_too_few_steps_are_warned_of(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert, max_epochs=2, batch_size=16)
    message = (
        r"^max_epochs=2 and batch_size=16 give 10 optimizer steps for 80 texts, with which BERT "
        r"usually learns too little\. Increase max_epochs, decrease batch_size, or set both to "
        r"'auto', which gives 100 steps\.$"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        clf.fit(*toy_reviews)
    assert clf.n_epochs_ == 2


def test_one_number_that_allows_too_few_steps_is_warned_of(tiny_bert, toy_reviews):
    message = r"^max_epochs='auto' and batch_size=40 give 20 optimizer steps for 80 texts"
    with pytest.warns(ConvergenceWarning, match=message):
        classifier(tiny_bert, batch_size=40).fit(*toy_reviews)
    message = r"^max_epochs=3 and batch_size='auto' give 30 optimizer steps for 80 texts"
    with pytest.warns(ConvergenceWarning, match=message):
        classifier(tiny_bert, max_epochs=3).fit(*toy_reviews)


def test_enough_steps_are_not_warned_of(tiny_bert, toy_reviews, recwarn):
    classifier(tiny_bert, max_epochs=5, batch_size=8).fit(*toy_reviews)  # 50 steps
    assert [str(warning.message) for warning in recwarn] == []


def test_auto_is_never_warned_of(tiny_bert, recwarn):
    classifier(tiny_bert).fit(["good", "bad"], [1, 0])  # 10 steps
    classifier(tiny_bert, max_epochs=10, batch_size=4).fit(["good", "bad"], [1, 0])
    assert [str(warning.message) for warning in recwarn] == []


def test_a_fit_that_continues_another_is_not_warned_of(tiny_bert, toy_reviews, recwarn):
    clf = classifier(tiny_bert, max_epochs=5, warm_start=True).fit(*toy_reviews)
    clf.set_params(max_epochs=1).fit(*toy_reviews)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_batch_size_of_partial_fit_stays_that_of_the_first_call(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = classifier(tiny_bert).partial_fit(X * 8, np.tile(y, 8), classes=["bad", "good"])
    assert clf.batch_size_ == 16  # 640 texts
    trainer = clf._trainer
    clf.partial_fit(X, y)
    assert (clf.batch_size_, clf._trainer) == (16, trainer)


def test_a_search_over_numbers_and_auto(tiny_bert, toy_reviews):
    grid = {"max_epochs": ["auto", 2], "batch_size": ["auto", 16]}
    search = GridSearchCV(classifier(tiny_bert), grid, cv=2).fit(*toy_reviews)
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
    assert search.best_estimator_.n_epochs_ == search.best_estimator_.max_epochs_


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("max_epochs", "batch_size", "learning_rate")
        for value in (0, -1, 1.5, "many", None)
        if (name, value) != ("learning_rate", 1.5)
    ],
)
def test_other_values_are_refused(tiny_bert, name, value, toy_reviews):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of BertSentimentClassifier"):
        classifier(tiny_bert, **{name: value}).fit(*toy_reviews)


def test_auto_resumes_with_the_weights_of_an_uninterrupted_fit(
    tiny_bert, toy_reviews, tmp_path, monkeypatch
):
    X, y = toy_reviews
    whole = classifier(tiny_bert).fit(X, y)
    plain_epoch, seen = TrainingRun.epoch, []

    def interrupted(self, progress=None):
        seen.append(self)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain_epoch(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            classifier(tiny_bert, checkpoint_dir=tmp_path).fit(X, y)
    resumed = classifier(tiny_bert, checkpoint_dir=tmp_path).fit(X, y)
    assert resumed.n_epochs_ == whole.n_epochs_ == 10
    assert np.array_equal(resumed.predict_proba(X), whole.predict_proba(X))
