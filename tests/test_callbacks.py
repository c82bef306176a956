"""scikit-learn's callbacks: one task an epoch, a stop that is heard, a model that can score."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skbert import BertSentimentClassifier

callback = pytest.importorskip("sklearn.callback", reason="the protocol came with 1.9")

SETTINGS = {"max_length": 32, "learning_rate": 1e-3, "random_state": 0}


class Recorder:
    """Writes down each call; asks to stop after `stop_after` epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events = []
        self.probabilities = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.probabilities.append(fitted_estimator.predict_proba(X))
            return context.task_id + 1 == self.stop_after

    def teardown(self, estimator, context):
        self.events.append("teardown")


def test_one_task_an_epoch_each_with_an_estimator_that_predicts(tiny_bert, toy_reviews):
    X, y = toy_reviews
    recorder = Recorder()
    clf = BertSentimentClassifier(tiny_bert, max_epochs=2, **SETTINGS)
    clf.set_callbacks(recorder).fit(X, y)
    epoch = ["begin epoch", "end epoch"]
    assert recorder.events == ["setup", "begin fit", *epoch * 2, "end fit", "teardown"]
    first, last = recorder.probabilities
    assert np.abs(first - last).max() > 1e-3
    np.testing.assert_allclose(last, clf.predict_proba(X), rtol=0, atol=1e-6)


def test_watching_changes_nothing(tiny_bert, toy_reviews):
    watched, alone = (
        BertSentimentClassifier(tiny_bert, max_epochs=2, **SETTINGS) for _ in range(2)
    )
    watched.set_callbacks(Recorder()).fit(*toy_reviews)
    alone.fit(*toy_reviews)
    X, _ = toy_reviews
    assert watched.predict_proba(X).tolist() == alone.predict_proba(X).tolist()


def test_a_callback_that_returns_true_stops_training(tiny_bert, toy_reviews):
    clf = BertSentimentClassifier(tiny_bert, max_epochs=5, **SETTINGS)
    clf.set_callbacks(Recorder(stop_after=2)).fit(*toy_reviews)
    assert clf.n_epochs_ == 2


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor_through_grid_search_and_pipeline(tiny_bert, toy_reviews, n_jobs):
    X, y = toy_reviews
    pipeline = Pipeline(
        [
            ("same", FunctionTransformer()),
            ("bert", BertSentimentClassifier(tiny_bert, max_epochs=2, **SETTINGS)),
        ]
    )
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipeline.named_steps["bert"].set_callbacks(monitor)
    search = GridSearchCV(pipeline, {"bert__dropout": [0.0, 0.1]}, cv=2, n_jobs=n_jobs)
    search.fit(X, y)
    assert search.best_estimator_.named_steps["bert"].n_epochs_ == 2
    logs = monitor.get_logs().data_as_pandas
    # 2 candidates x 2 folds and the final fit, 2 epochs each
    assert len(logs) == 10
    assert logs["accuracy"].between(0, 1).all()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_bars_nest_down_to_the_epoch(tiny_bert, toy_reviews, capsys, monkeypatch, n_jobs):
    monkeypatch.setenv("COLUMNS", "250")  # for rich, which cuts names short
    pipeline = Pipeline(
        [
            ("same", FunctionTransformer()),
            ("bert", BertSentimentClassifier(tiny_bert, max_epochs=2, **SETTINGS)),
        ]
    )
    search = GridSearchCV(pipeline, {"bert__dropout": [0.0, 0.1]}, cv=2, n_jobs=n_jobs)
    with warnings.catch_warnings():
        # FunctionTransformer has no callbacks, and scikit-learn says so
        warnings.filterwarnings("ignore", ".*FunctionTransformer does not support callbacks")
        search.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(*toy_reviews)
    shown = capsys.readouterr().out
    # an epoch is a step of the innermost bar
    for bar in ("GridSearchCV - fit", "Pipeline - fit", "BertSentimentClassifier - fit"):
        assert bar in shown
