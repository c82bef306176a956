"""With `warm_start` and `checkpoint_dir`, a fit of more epochs continues a finished one."""

import json
import re
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingGridSearchCV

from skbert import BertSentimentClassifier, BertSentimentRegressor
from skbert.contract.callbacks import EpochTasks
from skbert.engine.training.loop import Trainer
from tests.test_resuming import assert_same_weights


def classifier(model, folder, **parameters):
    settings = {"max_length": 32, "max_epochs": 3, "batch_size": 32, "learning_rate": 5e-3}
    settings |= {"random_state": 0, "warm_start": True, "checkpoint_dir": folder}
    return BertSentimentClassifier(model, **(settings | parameters))


@pytest.fixture
def steps(monkeypatch):
    """The learning rates of all optimizer steps from now on."""
    taken = []
    plain = Trainer.step

    def step(self, *arguments):
        plain(self, *arguments)
        taken.append(self._learning_rate(self.n_steps))

    monkeypatch.setattr(Trainer, "step", step)
    return taken


def test_only_the_missing_epochs_are_trained_on_the_schedule_of_all(
    tiny_bert, toy_reviews, tmp_path, steps
):
    X, y = toy_reviews  # 3 steps an epoch
    classifier(tiny_bert, tmp_path, max_epochs=1, warmup_fraction=0.0).fit(X, y)
    np.testing.assert_allclose(steps, 5e-3 * np.array([3, 2, 1]) / 3)
    steps.clear()
    clf = classifier(tiny_bert, tmp_path, max_epochs=3, warmup_fraction=0.0).fit(X, y)
    np.testing.assert_allclose(steps, 5e-3 * np.array([6, 5, 4, 3, 2, 1]) / 9)
    assert clf.n_epochs_ == clf.best_epoch_ == clf.max_epochs_ == 3
    assert [record["epoch"] for record in clf.history_] == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2  # one file for each number of epochs


PARAMETERS = [
    {},
    {"n_frozen_layers": 1},
    {"early_stopping": True, "n_iter_no_change": 9},
    {"pretraining_epochs": 1},
    {"truncation": "windows", "pooling": "mean"},
]


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_with_one_schedule_the_weights_are_those_of_one_fit(
    tiny_bert, toy_reviews, tmp_path, monkeypatch, parameters
):
    monkeypatch.setattr(Trainer, "_learning_rate", lambda self, step: 5e-3)
    alone = classifier(tiny_bert, None, warm_start=False, **parameters)
    whole = alone.fit(*toy_reviews)
    for max_epochs in (1, 2, 3):
        clf = classifier(tiny_bert, tmp_path, max_epochs=max_epochs, **parameters)
        clf.fit(*toy_reviews)
        assert clf.n_epochs_ == max_epochs
    assert_same_weights(clf, whole)
    for name in ("train_loss", "val_loss"):
        assert [r.get(name) for r in clf.history_] == [r.get(name) for r in whole.history_]
    assert clf.best_epoch_ == whole.best_epoch_
    assert len(clf.pretraining_history_) == len(whole.pretraining_history_)


def test_a_regressor_continues_too(tiny_bert, toy_reviews, tmp_path, steps):
    X, y = toy_reviews
    regressor = BertSentimentRegressor(
        tiny_bert, max_length=32, batch_size=32, random_state=0, warm_start=True
    ).set_params(checkpoint_dir=tmp_path)
    stars = np.where(y == "good", 5.0, 1.0)
    clone(regressor).set_params(max_epochs=4).fit(X, stars)
    assert clone(regressor).set_params(max_epochs=5).fit(X, stars).n_epochs_ == 5
    assert len(steps) == 5 * 3


def test_with_as_many_epochs_nothing_is_trained(tiny_bert, toy_reviews, tmp_path, steps):
    first = classifier(tiny_bert, tmp_path).fit(*toy_reviews)
    steps.clear()
    second = classifier(tiny_bert, tmp_path).fit(*toy_reviews)
    assert steps == []
    assert second.history_ == first.history_
    assert_same_weights(first, second)


def test_with_fewer_epochs_it_starts_from_the_beginning(tiny_bert, toy_reviews, tmp_path, steps):
    classifier(tiny_bert, tmp_path, max_epochs=4).fit(*toy_reviews)
    steps.clear()
    clf = classifier(tiny_bert, tmp_path, max_epochs=2).fit(*toy_reviews)
    assert len(steps) == 2 * 3
    fresh = classifier(tiny_bert, tmp_path / "other", max_epochs=2).fit(*toy_reviews)
    assert_same_weights(clf, fresh)


def test_the_longest_run_that_is_not_too_long_is_continued(tiny_bert, toy_reviews, tmp_path, steps):
    for max_epochs in (2, 1, 5):
        classifier(tiny_bert, tmp_path, max_epochs=max_epochs).fit(*toy_reviews)
    steps.clear()
    classifier(tiny_bert, tmp_path, max_epochs=4).fit(*toy_reviews)
    assert len(steps) == 2 * 3


@pytest.mark.parametrize("change", ["label", "text", "parameter", "seed"])
def test_other_data_or_parameters_start_from_the_beginning(
    tiny_bert, toy_reviews, tmp_path, steps, change
):
    X, y = toy_reviews
    classifier(tiny_bert, tmp_path, max_epochs=1).fit(X, y)
    clf = classifier(tiny_bert, tmp_path)
    if change == "label":
        y = np.where(np.arange(len(y)) == 5, "good", y)
    elif change == "text":
        X = [*X[:-1], "bad bad"]
    else:
        clf.set_params(**{"parameter": {"dropout": 0.2}, "seed": {"random_state": 1}}[change])
    steps.clear()
    clf.fit(X, y)  # and no warning of the other run, because a search keeps many in a folder
    assert len(steps) == 3 * 3


def test_an_early_end_is_the_end_of_longer_runs(tiny_bert, toy_reviews, tmp_path, steps):
    settings = {"early_stopping": True, "n_iter_no_change": 1, "learning_rate": 1e-9}
    first = classifier(tiny_bert, tmp_path, max_epochs=50, **settings).fit(*toy_reviews)
    assert first.n_epochs_ < 50
    steps.clear()
    second = classifier(tiny_bert, tmp_path, max_epochs=60, **settings).fit(*toy_reviews)
    assert steps == [] and second.history_ == first.history_
    assert second.best_epoch_ == first.best_epoch_
    assert_same_weights(first, second)


def test_interrupted_while_it_continues_it_resumes(
    tiny_bert, toy_reviews, tmp_path, steps, monkeypatch
):
    for folder in ("whole", "interrupted"):
        classifier(tiny_bert, tmp_path / folder, max_epochs=1).fit(*toy_reviews)
    whole = classifier(tiny_bert, tmp_path / "whole", max_epochs=4).fit(*toy_reviews)
    clf = classifier(tiny_bert, tmp_path / "interrupted", max_epochs=4)
    plain = Trainer.epoch

    def third(self, *arguments):
        if self._n_epochs == 2:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "epoch", third)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(*toy_reviews)
    steps.clear()
    clf.fit(*toy_reviews)
    assert len(steps) == 2 * 3
    assert_same_weights(clf, whole)
    names = [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("whole", "interrupted")]
    assert names[0] == names[1]


def test_a_fitted_estimator_continues_from_its_own_weights(tiny_bert, toy_reviews, tmp_path, steps):
    clf = classifier(tiny_bert, tmp_path, max_epochs=1).fit(*toy_reviews)
    files = [p.name for p in tmp_path.iterdir()]
    plain = classifier(tiny_bert, None, max_epochs=1).fit(*toy_reviews).fit(*toy_reviews)
    steps.clear()
    clf.fit(*toy_reviews)
    assert len(steps) == 3 and clf.n_epochs_ == 2
    assert_same_weights(clf, plain)
    assert [p.name for p in tmp_path.iterdir()] == files


@pytest.mark.parametrize(
    ("random_state", "shown"), [(None, "None"), (np.random.RandomState(0), "a RandomState")]
)
def test_without_a_number_as_seed_it_says_that_nothing_is_continued(
    tiny_bert, toy_reviews, tmp_path, random_state, shown
):
    clf = classifier(tiny_bert, tmp_path, random_state=random_state, max_epochs=1)
    message = (
        f"warm_start=True and checkpoint_dir={str(tmp_path)!r} continue finished runs with fewer "
        f"epochs only if random_state is an int, but it is {shown}, which asks for a new run in "
        "each fit. So this fit continues no finished run, and is not kept for longer ones. Set "
        "random_state to an int, or warm_start=False."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        clf.fit(*toy_reviews)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_finished_run_is_refused(tiny_bert, toy_reviews, tmp_path):
    classifier(tiny_bert, tmp_path, max_epochs=1).fit(*toy_reviews)
    (run,) = tmp_path.iterdir()
    run.write_bytes(run.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^Could not read the .*-1\.skbert-finished.* Delete it"):
        classifier(tiny_bert, tmp_path).fit(*toy_reviews)


def test_a_run_that_a_callback_ended_is_not_kept(
    tiny_bert, toy_reviews, tmp_path, steps, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(EpochTasks, "end_epoch", lambda *arguments: True)
        assert classifier(tiny_bert, tmp_path).fit(*toy_reviews).n_epochs_ == 1
    assert list(tmp_path.iterdir()) == []  # a longer run may have no such callback
    steps.clear()
    assert classifier(tiny_bert, tmp_path, max_epochs=2).fit(*toy_reviews).n_epochs_ == 2
    assert len(steps) == 6


# Searches -----------------------------------------------------------------------------------------


def accuracy_and_note(clf, X, y, folder):
    """Score, and write the history of the fit to a file; runs in the process of the fit."""
    Path(folder, uuid.uuid4().hex).write_text(json.dumps(clf.history_), encoding="utf-8")
    return clf.score(X, y)


def epochs_in(folder) -> set:
    """All different epochs in the noted histories; a continued history repeats their times."""
    histories = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).iterdir()]
    return {(r["epoch"], r["seconds"], r["train_loss"]) for h in histories for r in h}


def search_in_rounds(clf, notes, **parameters):
    """4, 2 and 1 candidates of 1, 2 and 4 epochs, on 2 folds."""
    notes.mkdir(exist_ok=True)
    grid = {"learning_rate": [1e-5, 5e-3], "dropout": [0.0, 0.1]}
    return HalvingGridSearchCV(
        clf,
        grid,
        resource="max_epochs",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=2,
        scoring=partial(accuracy_and_note, folder=str(notes)),
        refit=False,
        random_state=0,
        **parameters,
    )


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_halving_search_trains_the_missing_epochs_of_each_round(
    tiny_bert, toy_reviews, tmp_path, n_jobs
):
    clf = classifier(tiny_bert, tmp_path / "runs")
    search = search_in_rounds(clf, tmp_path / "notes", n_jobs=n_jobs).fit(*toy_reviews)
    assert search.n_candidates_ == [4, 2, 1] and search.n_resources_ == [1, 2, 4]
    missing = 4 * 1 + 2 * (2 - 1) + 1 * (4 - 2)
    assert len(epochs_in(tmp_path / "notes")) == 2 * missing
    assert len(list((tmp_path / "runs").iterdir())) == 2 * (4 + 2 + 1)


def test_without_warm_start_a_halving_search_trains_all_epochs_anew(
    tiny_bert, toy_reviews, tmp_path
):
    clf = classifier(tiny_bert, tmp_path / "runs", warm_start=False)
    search_in_rounds(clf, tmp_path / "notes").fit(*toy_reviews)
    assert len(epochs_in(tmp_path / "notes")) == 2 * (4 * 1 + 2 * 2 + 1 * 4)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_repeated_halving_search_trains_nothing(tiny_bert, toy_reviews, tmp_path, steps):
    clf = classifier(tiny_bert, tmp_path / "runs")
    first, second = (
        search_in_rounds(clf, tmp_path / name).fit(*toy_reviews).cv_results_
        for name in ("first", "second")
    )
    assert epochs_in(tmp_path / "first") == epochs_in(tmp_path / "second")
    assert first["mean_test_score"].tolist() == second["mean_test_score"].tolist()
