"""Sample and class weights, early stopping, warm starts and partial_fit."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skbert import BertSentimentClassifier

SETTINGS = {"max_length": 32, "max_epochs": 2, "learning_rate": 1e-3, "random_state": 0}


def probabilities(model, X, y, **fit_parameters):
    parameters = {**SETTINGS, **fit_parameters.pop("parameters", {})}
    clf = BertSentimentClassifier(model, **parameters).fit(X, y, **fit_parameters)
    return clf.predict_proba(X)


# The last four are beyond float32, or their sum is
@pytest.mark.parametrize("weight", [1.0, 2.0, 1.2e38, 3.41e38, 1e308, 1e-300])
def test_equal_weights_are_no_weights(tiny_bert, toy_reviews, weight):
    X, y = toy_reviews
    weighted = probabilities(tiny_bert, X, y, sample_weight=np.full(len(X), weight))
    assert weighted.tolist() == probabilities(tiny_bert, X, y).tolist()


def test_weight_zero_is_as_if_the_text_were_absent(tiny_bert, toy_reviews):
    X, y = toy_reviews
    weights = np.ones(len(X))
    weights[[3, 10, 11]] = 0
    kept = np.flatnonzero(weights)
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y, sample_weight=weights)
    without = BertSentimentClassifier(tiny_bert, **SETTINGS).fit([X[i] for i in kept], y[kept])
    assert clf.predict_proba(X).tolist() == without.predict_proba(X).tolist()


def test_larger_weights_pull_towards_their_labels(tiny_bert, toy_reviews):
    X, y = toy_reviews
    settings = {"parameters": {"learning_rate": 5e-3}}
    plain = probabilities(tiny_bert, X, y, **settings)
    weights = np.where(y == "good", 100.0, 1.0)
    weighted = probabilities(tiny_bert, X, y, sample_weight=weights, **settings)
    assert weighted[:, 1].mean() > plain[:, 1].mean() + 0.1  # of "good"


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_only_the_proportions_of_weights_count(tiny_bert, toy_reviews, unit):
    X, y = toy_reviews
    weights = np.arange(1.0, len(X) + 1)
    given = probabilities(tiny_bert, X, y, sample_weight=weights)
    scaled = probabilities(
        tiny_bert,
        X,
        y,
        sample_weight=weights * unit,
        parameters={"class_weight": dict.fromkeys(["good", "bad"], unit)},
    )
    np.testing.assert_allclose(scaled, given, atol=1e-6)


def test_balanced_is_the_dict_of_inverse_frequencies(tiny_bert, toy_reviews):
    X, y = toy_reviews
    rows = np.r_[np.flatnonzero(y == "good"), np.flatnonzero(y == "bad")[:10]]  # 40 and 10
    X, y = [X[i] for i in rows], y[rows]
    balanced = probabilities(tiny_bert, X, y, parameters={"class_weight": "balanced"})
    by_hand = probabilities(
        tiny_bert, X, y, parameters={"class_weight": {"good": 50 / 80, "bad": 50 / 20}}
    )
    assert balanced.tolist() == by_hand.tolist()
    plain = probabilities(tiny_bert, X, y)
    assert balanced[:, 0].mean() > plain[:, 0].mean()  # "bad" is first


def test_balanced_counts_each_text_with_its_weight(tiny_bert, toy_reviews):
    X, y = toy_reviews
    balanced = {"class_weight": "balanced"}
    weights = np.where(y == "good", 1.0, 0.25)
    found = probabilities(tiny_bert, X, y, sample_weight=weights, parameters=balanced)
    by_hand = {"class_weight": {"good": 1, "bad": 4}}
    expected = probabilities(tiny_bert, X, y, sample_weight=weights, parameters=by_hand)
    assert found.tolist() == expected.tolist()


def test_balanced_does_not_count_texts_of_weight_0(tiny_bert, toy_reviews):
    X, y = toy_reviews
    balanced = {"class_weight": "balanced"}
    rows = np.r_[np.flatnonzero(y == "good"), np.flatnonzero(y == "bad")[:10]]
    alone = probabilities(tiny_bert, [X[i] for i in rows], y[rows], parameters=balanced)
    more = [X[i] for i in rows] + ["fun"] * 30
    labels, weights = np.r_[y[rows], ["good"] * 30], np.r_[np.ones(50), np.zeros(30)]
    found = probabilities(tiny_bert, more, labels, sample_weight=weights, parameters=balanced)
    np.testing.assert_allclose(found[:50], alone, atol=1e-6)


def test_balanced_weights_are_those_of_the_fold(tiny_bert, toy_reviews):
    X, y = toy_reviews
    rows = np.r_[0:40, 40:80:2]  # 40 good and 20 bad; there are 40 of each in all
    balanced = BertSentimentClassifier(tiny_bert, **SETTINGS, class_weight="balanced")
    folds = [(rows, np.arange(41, 80, 2))]
    (found,) = cross_validate(balanced, X, y, cv=folds, return_estimator=True)["estimator"]
    weights = {"good": 60 / 80, "bad": 60 / 40}
    by_hand = probabilities(
        tiny_bert, [X[i] for i in rows], y[rows], parameters={"class_weight": weights}
    )
    assert found.predict_proba([X[i] for i in rows]).tolist() == by_hand.tolist()


def test_label_smoothing_makes_less_certain(tiny_bert, toy_reviews):
    X, y = toy_reviews
    settings = {"max_epochs": 15, "learning_rate": 5e-3}
    sharp = probabilities(tiny_bert, X, y, parameters=settings)
    smooth = probabilities(tiny_bert, X, y, parameters={**settings, "label_smoothing": 0.4})
    assert smooth.max(axis=1).mean() < sharp.max(axis=1).mean()


def test_sample_weight_is_routed_through_pipeline_and_grid_search(tiny_bert, toy_reviews):
    X, y = toy_reviews
    with sklearn.config_context(enable_metadata_routing=True):
        clf = BertSentimentClassifier(tiny_bert, **SETTINGS).set_fit_request(sample_weight=True)
        pipeline = Pipeline([("same", FunctionTransformer()), ("bert", clf)])
        accuracy = get_scorer("accuracy").set_score_request(sample_weight=True)
        search = GridSearchCV(pipeline, {"bert__dropout": [0.0]}, cv=2, scoring=accuracy)
        weights = np.where(y == "good", 1.0, 0.0) + np.arange(len(y)) % 3
        search.fit(X, y, sample_weight=weights)
    alone = probabilities(tiny_bert, X, y, sample_weight=weights, parameters={"dropout": 0.0})
    assert search.predict_proba(X).tolist() == alone.tolist()


def test_best_epoch_counts_the_epochs_of_earlier_fits(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    settings = {**SETTINGS, "max_epochs": 2, "pooling": "cls", "warm_start": True}
    clf = BertSentimentClassifier(tiny_bert, **settings).fit(X, y)
    assert (clf.n_epochs_, clf.best_epoch_) == (2, 2)
    wrong = np.where(y == "good", "bad", "good")
    clf.set_params(early_stopping=True, learning_rate=2e-2, max_epochs=5, n_iter_no_change=1)
    clf.fit(X, y, X_val=X, y_val=wrong)
    losses = [record["val_loss"] for record in clf.history_[2:]]
    assert clf.best_epoch_ == 3 + int(np.argmin(losses)) < clf.n_epochs_
    clf.save_pretrained(tmp_path)
    loaded = BertSentimentClassifier.from_pretrained(tmp_path)
    assert (loaded.n_epochs_, loaded.best_epoch_) == (clf.n_epochs_, clf.best_epoch_)
    clf.partial_fit(X, y)
    assert clf.best_epoch_ == clf.n_epochs_


def test_early_stopping_goes_back_to_the_best_epoch(tiny_bert, toy_reviews):
    X, y = toy_reviews
    # so high a rate that the validation loss soon gets worse
    clf = BertSentimentClassifier(
        tiny_bert,
        **{**SETTINGS, "max_epochs": 30, "learning_rate": 2e-2},
        early_stopping=True,
        n_iter_no_change=2,
    )
    wrong = np.where(y == "good", "bad", "good")
    clf.fit(X, y, X_val=X, y_val=wrong)
    losses = [record["val_loss"] for record in clf.history_]
    assert len(losses) < 30 and int(np.argmin(losses)) == len(losses) - 3
    assert (clf.n_epochs_, clf.best_epoch_) == (len(losses), len(losses) - 2)
    log_proba = clf.predict_log_proba(X)
    found = -log_proba[np.arange(len(X)), (wrong == "good").astype(int)].mean()
    assert found == pytest.approx(min(losses), abs=1e-5)


def test_a_stratified_part_is_set_aside(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = BertSentimentClassifier(
        tiny_bert, **SETTINGS, early_stopping=True, validation_fraction=0.25
    ).fit(X, y)
    assert {"val_loss", "val_score"} <= set(clf.history_[0])
    whole = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y)
    assert 0.6 < clf.history_[0]["n_tokens"] / whole.history_[0]["n_tokens"] < 0.9


def test_validation_texts_go_through_the_pipeline(tiny_bert, toy_reviews):
    X, y = toy_reviews
    with sklearn.config_context(enable_metadata_routing=True):
        clf = BertSentimentClassifier(tiny_bert, **SETTINGS).set_fit_request(X_val=True, y_val=True)
        upper = FunctionTransformer(lambda texts: [text.replace("zz", "good") for text in texts])
        pipeline = Pipeline([("replace", upper), ("bert", clf)], transform_input=["X_val"])
        pipeline.fit(X, y, X_val=["zz"] * 4, y_val=["good", "good", "bad", "bad"])
        direct = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(
            X, y, X_val=["good"] * 4, y_val=["good", "good", "bad", "bad"]
        )
    losses = [[r["val_loss"] for r in c.history_] for c in (pipeline.named_steps["bert"], direct)]
    assert losses[0] == losses[1]


def test_warm_start_goes_on_and_a_plain_fit_starts_over(tiny_bert, toy_reviews):
    X, y = toy_reviews
    warm = BertSentimentClassifier(tiny_bert, **SETTINGS, warm_start=True).fit(X, y)
    once = warm.predict_proba(X)
    assert [r["epoch"] for r in warm.fit(X, y).history_] == [1, 2, 3, 4]
    assert np.abs(warm.predict_proba(X) - once).max() > 1e-4
    cold = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y).fit(X, y)
    assert cold.predict_proba(X).tolist() == once.tolist()


def test_partial_fit_learns_from_call_to_call(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **{**SETTINGS, "learning_rate": 5e-3, "dropout": 0.0})
    clf.partial_fit(X[:40], y[:40], classes=["good", "bad"])
    first = clf.score(X, y)
    for _ in range(14):
        clf.partial_fit(X, y)
    assert clf.n_epochs_ == 15 and clf.classes_.tolist() == ["bad", "good"]
    assert clf.score(X, y) == 1.0 > first


def test_partial_fit_keeps_the_optimizer_and_its_schedule(tiny_bert, toy_reviews):
    X, y = toy_reviews  # 80 texts are 3 steps
    clf = BertSentimentClassifier(tiny_bert, **{**SETTINGS, "warmup_fraction": 0.9}, batch_size=32)
    for _ in range(2):
        clf.partial_fit(X, y, classes=["good", "bad"])
    # 3 steps of warm-up in the first call, to 3/4 of the rate; then it stays
    assert [r["learning_rate"] for r in clf.history_] == pytest.approx([0.75e-3, 1e-3])
    moments = clf._trainer.tensors()
    assert {int(step) for name, step in moments.items() if name.endswith(".step")} == {6}
    loaded = pickle.loads(pickle.dumps(clf))  # without the optimizer, which starts again
    assert loaded.partial_fit(X, y).history_[2]["learning_rate"] == pytest.approx(0.75e-3)
    # a changed parameter needs another optimizer
    clf.set_params(learning_rate=2e-3).partial_fit(X, y)
    assert clf.history_[2]["learning_rate"] == pytest.approx(1.5e-3)


def test_partial_fit_knows_nothing_of_max_epochs(tiny_bert, toy_reviews):
    """With `fit`, the learning rate falls until the last epoch; here, no epoch is the last."""
    X, y = toy_reviews
    short, long = (
        BertSentimentClassifier(tiny_bert, **{**SETTINGS, "max_epochs": n}) for n in (2, 5)
    )
    for _ in range(2):
        short.partial_fit(X, y, classes=["good", "bad"])
        long.partial_fit(X, y, classes=["good", "bad"])
    assert short.predict_proba(X).tolist() == long.predict_proba(X).tolist()
    assert short.history_[1]["learning_rate"] == SETTINGS["learning_rate"]


def test_halving_searches_over_epochs(tiny_bert, toy_reviews):
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    search = HalvingGridSearchCV(
        BertSentimentClassifier(tiny_bert, **SETTINGS),
        {"learning_rate": [1e-5, 5e-3]},
        resource="max_epochs",
        min_resources=1,
        max_resources=2,
        factor=2,
        cv=2,
    ).fit(*toy_reviews)
    assert search.n_iterations_ == 2
    assert search.best_estimator_.max_epochs == 2
