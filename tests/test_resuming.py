"""Runs that survive: checkpoint_dir, interruption, divergence."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from skbert import BertSentimentClassifier
from skbert.engine.training import Trainer
from tests.offline import ROOT


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 3, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


def weights_of(clf):
    return {**clf.model_.state_dict(), **clf.head_.state_dict()}


def assert_same_weights(a, b):
    for name, weight in weights_of(a).items():
        np.testing.assert_array_equal(weight.numpy(), weights_of(b)[name].numpy())


@pytest.fixture
def interrupt(monkeypatch):
    """Let the training stop before a step, as Ctrl+C does; undo with `interrupt(None)`."""
    plain = Trainer.step

    def after(n_steps):
        taken = iter(range(10**9))

        def step(self, *arguments):
            if n_steps is not None and next(taken) == n_steps:
                raise KeyboardInterrupt
            return plain(self, *arguments)

        monkeypatch.setattr(Trainer, "step", step)

    return after


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
def test_killed_twenty_times_it_ends_with_the_weights_of_an_uninterrupted_run(tiny_bert, tmp_path):
    command = [sys.executable, "tests/kill_and_resume.py", tiny_bert, str(tmp_path), "20"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 20 and report["resumed"] >= 5 and report["left"] == []
    whole, resumed = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "resumed.npz")
    assert whole["losses"].shape == (12, 2)
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"dropout": 0.0},
        {"n_frozen_layers": 1},
        {"early_stopping": True, "n_iter_no_change": 4, "max_epochs": 4},
        {"pooling": "mean", "class_weight": "balanced"},
    ],
)
@pytest.mark.parametrize("n_steps", [1, 4, 7])
def test_an_interrupted_fit_goes_on(
    tiny_bert, toy_reviews, tmp_path, interrupt, parameters, n_steps
):
    whole = classifier(tiny_bert, **parameters).fit(*toy_reviews)
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path / "runs", **parameters)
    interrupt(n_steps)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    interrupt(None)
    clf.fit(*toy_reviews)
    assert_same_weights(clf, whole)
    assert [r["train_loss"] for r in clf.history_] == [r["train_loss"] for r in whole.history_]
    assert list((tmp_path / "runs").iterdir()) == []


def test_epochs_that_were_done_are_not_done_again(tiny_bert, toy_reviews, tmp_path, interrupt):
    clf = classifier(tiny_bert, checkpoint_dir=str(tmp_path))
    interrupt(7)  # 3 steps an epoch: in the third
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    interrupt(3)  # more than the third epoch would be one too many
    clf.fit(*toy_reviews)
    assert clf.n_epochs_ == 3


def test_without_a_seed_it_goes_on_with_the_one_it_had(tiny_bert, toy_reviews, tmp_path, interrupt):
    settings = {"random_state": None, "early_stopping": True, "n_iter_no_change": 3}
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path, **settings)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    interrupt(None)
    (run,) = tmp_path.iterdir()
    with safe_open(run, framework="np") as file:
        (first_epoch,) = json.loads(file.metadata()["skbert"])["history"]
    clf.fit(*toy_reviews)
    assert clf.history_[0] == first_epoch
    assert clf.n_epochs_ == 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["label", "text", "parameter", "seed"])
def test_other_data_or_parameters_start_over_and_say_so(
    tiny_bert, toy_reviews, tmp_path, interrupt, change
):
    X, y = toy_reviews
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    interrupt(None)
    if change == "label":
        y = np.where(np.arange(len(y)) == 5, "good", y)
    elif change == "text":
        X = [*X[:-1], "bad bad"]
    else:
        clf.set_params(**{"parameter": {"dropout": 0.2}, "seed": {"random_state": 1}}[change])
    with pytest.warns(UserWarning, match=r"holds 1 run\(s\) of other data, parameters or versions"):
        clf.fit(X, y)
    fresh = classifier(tiny_bert, dropout=clf.dropout, random_state=clf.random_state).fit(X, y)
    assert_same_weights(clf, fresh)
    assert len(list(tmp_path.iterdir())) == 1  # the other run is still there


def test_a_damaged_run_is_refused(tiny_bert, toy_reviews, tmp_path, interrupt):
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    interrupt(None)
    (run,) = tmp_path.iterdir()
    run.write_bytes(run.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot be read .* Delete it to start"):
        clf.fit(*toy_reviews)


def test_an_interrupted_first_fit_leaves_it_unfitted(tiny_bert, toy_reviews, interrupt):
    X, y = toy_reviews
    frame = pd.DataFrame({"text": X})
    clf = classifier(tiny_bert)
    before = dict(vars(clf))
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(frame, y)
    assert {k: v for k, v in vars(clf).items() if k in before or k.endswith("_")} == before
    with pytest.raises(NotFittedError):
        clf.predict(frame)


def test_an_interrupted_second_fit_leaves_the_first(tiny_bert, toy_reviews, interrupt):
    X, y = toy_reviews
    clf = classifier(tiny_bert, warm_start=True).fit(X, y)
    proba = clf.predict_proba(X)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(pd.DataFrame({"a": X, "b": X}), y)
    assert clf.predict_proba(X).tolist() == proba.tolist() and clf.n_epochs_ == 3


def test_a_learning_rate_that_is_too_high_keeps_the_last_good_weights(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert, learning_rate=1e30)
    with pytest.warns(
        ConvergenceWarning,
        match=r"not finite in step \d+ \(loss .*, learning rate .*\)\. Lower the learning rate",
    ):
        clf.fit(*toy_reviews)
    for weight in weights_of(clf).values():
        assert np.isfinite(weight.numpy()).all()
    assert len(clf.predict_proba(toy_reviews[0])) == 80


def test_a_model_that_is_not_finite_is_an_error(tiny_bert, toy_reviews, monkeypatch):
    clf = classifier(tiny_bert)
    plain = clf._start

    def broken(*arguments):
        state = plain(*arguments)
        state.network.head.weight.data.fill_(float("nan"))
        return state

    monkeypatch.setattr(clf, "_start", broken)
    with pytest.raises(ArithmeticError, match=r"not finite in step 1 \(loss nan"):
        clf.fit(*toy_reviews)
