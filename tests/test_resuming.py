"""Resume with checkpoint_dir, and survive interruption and divergence."""

import json
import os
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import skbert
from skbert import BertSentimentClassifier
from skbert.contract import prepare_finetuning
from skbert.contract.callbacks import EpochTasks
from skbert.engine.training.loop import Trainer

SKBERT = os.path.dirname(skbert.__file__)


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 3, "batch_size": 32, "learning_rate": 5e-3}
    settings |= {"random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


def weights_of(clf):
    return {**clf.model_.state_dict(), **clf.head_.state_dict()}


def assert_same_weights(a, b):
    for name, weight in weights_of(a).items():
        np.testing.assert_array_equal(weight.numpy(), weights_of(b)[name].numpy())


@pytest.fixture
def interrupt(monkeypatch):
    """Interrupt the training before a step, as Ctrl+C does; undo with `interrupt(None)`."""
    plain = Trainer.step

    def after(n_steps):
        taken = iter(range(10**9))

        def step(self, *arguments):
            if n_steps is not None and next(taken) == n_steps:
                raise KeyboardInterrupt
            return plain(self, *arguments)

        monkeypatch.setattr(Trainer, "step", step)

    return after


KILL_AND_RESUME = """
from tests.kill_and_resume import main
main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_weights_of_an_uninterrupted_run(
    prepared, tiny_bert, tmp_path
):
    arguments = [tiny_bert, str(tmp_path), "20"]
    done = prepared.run(KILL_AND_RESUME, *arguments, folder=tmp_path / "elsewhere")
    report = json.loads(done.stdout)
    assert report["kills"] == 20  # each after the first step of a child, before its end
    assert report["resumed"] >= 5  # children that found an epoch
    assert report["left"] == []
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
    with pytest.warns(
        UserWarning, match=r"holds 1 run\(s\) with other data, parameters or versions"
    ):
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
    with pytest.raises(ValueError, match=r"^Could not read the .* Delete it to train"):
        clf.fit(*toy_reviews)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_does_not_lose_the_fit(tiny_bert, toy_reviews, tmp_path, full_disk):
    whole = classifier(tiny_bert).fit(*toy_reviews)
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path)
    with (
        full_disk(10_000),
        pytest.warns(UserWarning, match=r"Could not write .* Free some disk") as said,
    ):
        clf.fit(*toy_reviews)
    assert sum("Could not write" in str(warning.message) for warning in said) == 3  # an epoch each
    assert_same_weights(clf, whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_disk_that_fills_up_leaves_the_epoch_before(
    tiny_bert, toy_reviews, tmp_path, full_disk, interrupt
):
    whole = classifier(tiny_bert).fit(*toy_reviews)
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    interrupt(4)
    with full_disk(10_000), pytest.warns(UserWarning, match="Could not write"):
        with pytest.raises(KeyboardInterrupt):
            clf.fit(*toy_reviews)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    interrupt(None)
    assert_same_weights(clf.fit(*toy_reviews), whole)


def test_a_folder_that_cannot_be_made_is_an_error_before_training(
    tiny_bert, toy_reviews, tmp_path, interrupt
):
    (tmp_path / "file").write_text("")
    interrupt(0)
    with pytest.raises(OSError, match=r"^Could not create checkpoint_dir='.*file' \(.*File exists"):
        classifier(tiny_bert, checkpoint_dir=tmp_path / "file").fit(*toy_reviews)


def test_what_killed_writers_left_goes_after_an_hour(tiny_bert, toy_reviews, tmp_path, interrupt):
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    interrupt(None)
    (run,) = tmp_path.iterdir()
    old, new = (tmp_path / f".{run.name}-{digit * 32}" for digit in "ab")
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (1, 1))
    clf.fit(*toy_reviews)
    assert list(tmp_path.iterdir()) == [new]


def test_class_weights_of_any_label_name_the_same_run(tiny_bert, toy_reviews, tmp_path, interrupt):
    X, y = toy_reviews
    numbers = (y == "good").astype(np.int64)
    weight = {label: 1.0 + label for label in np.unique(numbers)}  # JSON has no such keys
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path, class_weight=weight)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, numbers)
    interrupt(3 + 3)
    clf.fit(X, numbers)
    assert clf.n_epochs_ == 3


def test_a_callback_that_stopped_the_run_is_not_asked_again(
    tiny_bert, toy_reviews, tmp_path, interrupt, monkeypatch
):
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path)
    monkeypatch.setattr(EpochTasks, "end_epoch", lambda *arguments: True)
    monkeypatch.setattr(EpochTasks, "end_fit", None)  # the process ends after the training
    with pytest.raises(TypeError):
        clf.fit(*toy_reviews)
    monkeypatch.undo()
    interrupt(0)  # no step is left
    assert clf.fit(*toy_reviews).n_epochs_ == 1


# Interruptions ----------------------------------------------------------------------------------


def state_of(clf):
    """All attributes of an estimator, with weights as numbers."""
    state = {name: value for name, value in vars(clf).items() if name != "_trainer"}
    if hasattr(clf, "model_"):
        state["weights"] = {k: v.numpy().tolist() for k, v in weights_of(clf).items()}
    return {name: str(value) if name.startswith("_w") else value for name, value in state.items()}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_interrupted_first_fit_leaves_it_unfitted(tiny_bert, toy_reviews, interrupt, method):
    X, y = toy_reviews
    frame = pd.DataFrame({"text": X})
    clf = classifier(tiny_bert)
    before = dict(vars(clf))
    interrupt(2)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(frame, y) if method == "fit" else clf.partial_fit(frame, y, ["bad", "good"])
    assert vars(clf) == before
    with pytest.raises(NotFittedError):
        clf.predict(frame)
    interrupt(None)
    expected = classifier(tiny_bert).fit(X, y)
    assert_same_weights(clf.fit(X, y), expected)


@pytest.mark.parametrize("warm_start", [False, True])
def test_an_interrupted_second_fit_leaves_the_first(tiny_bert, toy_reviews, interrupt, warm_start):
    X, y = toy_reviews
    clf = classifier(tiny_bert, warm_start=warm_start).fit(X, y)
    before = state_of(clf)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(pd.DataFrame({"a": X, "b": X}), y)
    assert state_of(clf) == before and clf.n_epochs_ == 3


def test_an_interrupted_partial_fit_leaves_the_one_before(tiny_bert, toy_reviews, interrupt):
    X, y = toy_reviews
    clf = classifier(tiny_bert).partial_fit(X, y, ["bad", "good"])
    before = state_of(clf)
    interrupt(2)
    with pytest.raises(KeyboardInterrupt):
        clf.partial_fit(X, y)
    assert state_of(clf) == before and clf.n_epochs_ == 1
    interrupt(None)
    # The optimizer is new, as it is after a pickle.
    expected = pickle.loads(pickle.dumps(clf)).partial_fit(X, y)
    assert_same_weights(clf.partial_fit(X, y), expected)


def test_a_refused_partial_fit_costs_nothing(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf, other = (classifier(tiny_bert).partial_fit(X, y, ["bad", "good"]) for _ in range(2))
    with pytest.raises(ValueError, match="not one of the classes"):
        clf.partial_fit(X, ["better"] * len(X))
    assert_same_weights(clf.partial_fit(X, y), other.partial_fit(X, y))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_interruption_at_any_line_leaves_the_old_or_the_new(tiny_bert, toy_reviews, method):
    """Interrupt a fit at many lines of skbert, as a signal between two instructions does."""
    X, y = toy_reviews
    X, y = X[:8], y[:8]
    first = classifier(tiny_bert, max_epochs=1, warm_start=True).fit(X, y)
    data = pickle.dumps(first)

    def lines_until(stop):
        """Run once more; raise at line number `stop`, and return the estimator and the lines."""
        clf, n_lines = pickle.loads(data), 0

        def trace(frame, event, argument):
            nonlocal n_lines
            name = frame.f_code.co_filename
            if not name.startswith(SKBERT) or name.endswith("contract/fitting.py"):
                return None  # not in the few lines that restore the estimator
            if event == "line":
                n_lines += 1
                if n_lines == stop:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            getattr(clf, method)(X, y)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        return clf, n_lines

    whole, n_lines = lines_until(-1)
    old, new = state_of(pickle.loads(data)), state_of(whole)
    assert n_lines > 500 and old["n_epochs_"] == 1 and new["n_epochs_"] == 2
    found = set()
    for stop in [*range(1, n_lines, n_lines // 40), *range(n_lines - 40, n_lines)]:
        state = state_of(lines_until(stop)[0])
        is_old = state["weights"] == old["weights"]
        expected = old if is_old else new
        found.add(is_old)
        assert state["weights"] == expected["weights"], stop
        for name in ("n_epochs_", "n_truncated_", "_n_columns"):
            assert state[name] == expected[name], (stop, name)
        assert len(state["history_"]) == state["n_epochs_"]
    assert found == {True, False}


# Divergence -------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_too_high_keeps_the_last_good_weights(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert, learning_rate=1e30)
    with pytest.warns(
        ConvergenceWarning,
        match=r"not finite in step \d+ \(loss .*, learning rate .*\)\. Lower the learning rate",
    ):
        clf.fit(*toy_reviews)
    for weight in weights_of(clf).values():
        assert np.isfinite(weight.numpy()).all()
    with pytest.raises(
        ValueError, match=r"The logits of X\[0\] are \[.*nan.*\], so there is no predicted class"
    ):
        clf.predict(toy_reviews[0])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_last_good_weights_are_those_before_the_step(
    tiny_bert, toy_reviews, monkeypatch, early_stopping
):
    settings = {"early_stopping": early_stopping, "max_epochs": 1, "n_iter_no_change": 1}
    plain = Trainer._accumulate_gradients
    good = {}

    def sometimes_nan(self, objective, step):
        sums = plain(self, objective, step)
        if self.n_steps == 2:
            head = objective._classifier.head
            good.update({name: weight.clone() for name, weight in head.state_dict().items()})
            return sums * np.nan
        return sums

    monkeypatch.setattr(Trainer, "_accumulate_gradients", sometimes_nan)
    clf = classifier(tiny_bert, **settings)
    with pytest.warns(
        ConvergenceWarning, match=r"not finite in step 3 \(loss nan, learning rate \d.*\)\."
    ):
        clf.fit(*toy_reviews)
    for name, weight in clf.head_.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), good[name].numpy())
    assert clf.n_epochs_ == 0 and len(clf.predict(toy_reviews[0])) == 80


def test_a_partial_fit_that_diverges_keeps_the_weights_before(tiny_bert, toy_reviews):
    clf = classifier(tiny_bert).partial_fit(*toy_reviews, ["bad", "good"])
    before = state_of(clf)
    clf.set_params(learning_rate=1e30)
    with pytest.raises(ArithmeticError, match=r"not finite in step \d+ \(loss .*, learning rate"):
        clf.partial_fit(*toy_reviews)
    clf.set_params(learning_rate=5e-3)
    assert state_of(clf) == before


def test_a_model_that_is_not_finite_is_an_error(tiny_bert, toy_reviews, monkeypatch):
    clf = classifier(tiny_bert)
    plain = prepare_finetuning.new_state

    def broken(*arguments):
        state = plain(*arguments)
        next(state.network.encoder.parameters()).data.fill_(float("nan"))
        return state

    monkeypatch.setattr(prepare_finetuning, "new_state", broken)
    with pytest.raises(ArithmeticError, match=r"not finite in step 1 \(loss nan"):
        clf.fit(*toy_reviews)
