"""scikit-learn's callbacks: one task an epoch, a stop that is heard, a model that can score."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.contract import progress

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


def test_progress_names_the_callback_and_not_its_predictions(
    tiny_bert, toy_reviews, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    clf = BertSentimentClassifier(tiny_bert, max_epochs=4, verbose=1, **SETTINGS)
    clf.set_callbacks(Recorder(stop_after=2)).fit(*toy_reviews)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["epoch 1/4", "epoch 2/4"]
    assert lines[-1] == "stopped by a callback after epoch 2 of 4"


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scoring_monitor_through_grid_search_and_pipeline(tiny_bert, toy_reviews, n_jobs):
    X, y = toy_reviews
    pipeline = Pipeline(
        [
            ("same", FunctionTransformer()),
            ("bert", BertSentimentClassifier(tiny_bert, max_epochs=2, **SETTINGS)),
        ]
    )
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    pipeline.named_steps["bert"].set_callbacks(monitor)
    search = GridSearchCV(
        pipeline,
        {"bert__learning_rate": [1e-3, 5e-3]},
        cv=2,
        n_jobs=n_jobs,
        scoring="neg_log_loss",
        return_train_score=True,
    )
    search.fit(X, y)
    logs = monitor.get_logs().data_as_pandas
    # two epochs of each fit: both folds of the first candidate, of the second, and the last fit
    assert logs.groupby("parent_task_id_path")["task_id"].agg(list).tolist() == [[0, 1]] * 5
    # what was measured after the last epoch is the score of the fitted pipeline
    scores = logs[logs["task_id"] == 1].set_index("parent_task_id_path")["neg_log_loss"]
    results = search.cv_results_
    expected = np.array([results["split0_train_score"], results["split1_train_score"]])
    refit = get_scorer("neg_log_loss")(search, X, y)
    np.testing.assert_allclose(
        sorted(scores), sorted([*expected.ravel(), refit]), rtol=0, atol=1e-6
    )
    # each fold of each candidate was another
    assert len(set(scores.round(6))) == 5


def test_scoring_monitor_is_spared_the_validation_texts(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, max_epochs=2, **SETTINGS)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    weights = np.where(y == "good", 3.0, 1.0)
    clf.set_callbacks(monitor).fit(X, y, sample_weight=weights, X_val=X[:8], y_val=y[:8])
    scores = [record["accuracy"] for record in monitor.get_logs().data]
    assert len(scores) == 2
    assert scores[-1] == clf.score(X, y, sample_weight=weights)


def test_the_mode_of_the_model_stays(tiny_bert, toy_reviews):
    """Scores are computed without dropout, and training continues with it."""
    X, y = toy_reviews
    modes = []

    class Looks(Recorder):
        def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
            if context.task_name == "epoch":
                first, second = (fitted_estimator.decision_function(X) for _ in range(2))
                assert first.tolist() == second.tolist()
                modes.append(fitted_estimator.model_.training)

    watched, alone = (
        BertSentimentClassifier(tiny_bert, max_epochs=3, dropout=0.5, **SETTINGS) for _ in range(2)
    )
    watched.set_callbacks(Looks()).fit(X, y)
    alone.fit(X, y)
    assert len(modes) == 3 and set(modes) == {alone.model_.training}
    assert [r["train_loss"] for r in watched.history_] == [r["train_loss"] for r in alone.history_]
    watched.model_.train()  # by a user, who forgets it
    assert watched.predict_proba(X).tolist() == alone.predict_proba(X).tolist()
    assert watched.model_.training


def test_the_transformer_is_a_task_too(tiny_bert, toy_reviews, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    embed = BertEmbeddingTransformer(tiny_bert, max_length=32)
    recorder = Recorder()
    embed.set_callbacks(recorder).fit(toy_reviews[0])
    assert recorder.events == ["setup", "begin fit", "end fit", "teardown"]
    pipeline = Pipeline([("embed", clone(embed).set_callbacks()), ("lr", LogisticRegression())])
    pipeline.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(*toy_reviews)
    assert "BertEmbeddingTransformer" in capsys.readouterr().out


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
        # FunctionTransformer has no callbacks, so scikit-learn warns
        warnings.filterwarnings("ignore", ".*FunctionTransformer does not support callbacks")
        search.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(*toy_reviews)
    shown = capsys.readouterr().out
    # an epoch is a step of the innermost bar
    for bar in ("GridSearchCV - fit", "Pipeline - fit", "BertSentimentClassifier - fit"):
        assert bar in shown
