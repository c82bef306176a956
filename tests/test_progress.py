"""What `verbose=1` shows: bars on a terminal, whole lines elsewhere, and nothing with 0."""

import errno
import io
import multiprocessing
import os
import re
import sys
import types
from itertools import pairwise

import numpy as np
import pytest

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.contract import progress
from skbert.contract.progress import FitBar, plan_epochs, show_fit, show_texts
from skbert.engine.training import classification
from skbert.engine.training.classification import TrainingRun

SECONDS = r"\d+\.\d s"
LEFT = r"\d\d:\d\d left"


class Terminal(io.StringIO):
    """What a terminal receives."""

    def isatty(self):
        return True

    @property
    def states(self):
        """The states of the bars, each without its trailing spaces, and the lines after them."""
        return [s for s in (s.rstrip() for s in re.split(r"[\r\n]", self.getvalue())) if s]


@pytest.fixture
def new_terminal(monkeypatch):
    """Make stderr a terminal. Each test calls this, because pytest sets stderr after fixtures."""

    def made():
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return made


@pytest.fixture
def at_once(monkeypatch):
    """Show everything as soon as it is known, however quick it is."""
    for name in ("REFRESH_SECONDS", "DELAY_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)


def classifier(model, **parameters):
    defaults = {"max_length": 32, "max_epochs": 2, "batch_size": 16, "random_state": 0}
    return BertSentimentClassifier(model, **(defaults | {"verbose": 1} | parameters))


def pretrainer(model, **parameters):
    defaults = {"max_length": 32, "max_epochs": 2, "batch_size": 16, "random_state": 0}
    return BertPretrainer(model, **(defaults | {"verbose": 1} | parameters))


def check_lines(text, *patterns):
    """Check that `text` is exactly these lines, without a carriage return."""
    assert "\r" not in text and text.endswith("\n")
    lines = text[:-1].split("\n")
    assert len(lines) == len(patterns), text
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def losing(monkeypatch, losses):
    """Let the validation losses be these numbers."""
    known = iter(losses)
    monkeypatch.setattr(
        "skbert.contract.finetuning.evaluate",
        lambda *_: classification.Evaluation(loss=next(known), score=0.5),
    )


# a fit that writes to a file ----------------------------------------------------------------------


def test_a_file_gets_one_line_per_epoch(tiny_bert, toy_reviews, capsys):
    X, y = toy_reviews
    clf = classifier(tiny_bert, pretraining_epochs=1, learning_rate=1e-3)
    clf.fit(X, y, X_val=X[:8], y_val=y[:8])
    first, second = clf.history_
    assert capsys.readouterr().out == ""
    clf.fit(X, y, X_val=X[:8], y_val=y[:8])
    rate = clf.pretraining_history_[0]["learning_rate"]
    check_lines(
        capsys.readouterr().err,
        rf"pre-training epoch 1/1: loss {clf.pretraining_history_[0]['train_loss']:.3f}, "
        rf"learning rate {rate:.2g}, {SECONDS}, {LEFT}",
        *(
            rf"epoch {i}/2: loss {record['train_loss']:.3f}, val_loss {record['val_loss']:.3f}, "
            rf"val_score {record['val_score']:.3f}, "
            rf"learning rate {record['learning_rate']:.2g}, {SECONDS}{left}"
            for i, record, left in [(1, first, f", {LEFT}"), (2, second, "")]
        ),
    )


def test_pretraining_has_lines_too(tiny_bert, toy_reviews, capsys):
    texts = toy_reviews[0]
    documents = [texts[i : i + 4] for i in range(0, len(texts), 4)]
    fitted = pretrainer(tiny_bert).fit(documents)
    check_lines(
        capsys.readouterr().err,
        *(
            rf"pre-training epoch {i}/2: loss {record['train_loss']:.3f}, "
            rf"learning rate [-\de.]+, {SECONDS}{left}"
            for i, record, left in zip([1, 2], fitted.history_, [f", {LEFT}", ""], strict=True)
        ),
    )


def test_epochs_have_the_numbers_of_the_history(tiny_bert, toy_reviews, capsys):
    X, y = toy_reviews
    clf = classifier(tiny_bert, max_epochs=1, warm_start=True).fit(X, y)
    clf.set_params(max_epochs=2).fit(X, y).partial_fit(X, y)
    shown = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["epoch 1/1", "epoch 2/3", "epoch 3/3", "epoch 4/4"]
    assert [record["epoch"] for record in clf.history_] == [1, 2, 3, 4]


def test_a_resumed_fit_shows_what_is_left(tiny_bert, toy_reviews, tmp_path, monkeypatch, capsys):
    X, y = toy_reviews
    plain_epoch, seen = TrainingRun.epoch, []

    def interrupted(self, progress=None):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain_epoch(self, progress)

    parameters = {"max_epochs": 4, "pretraining_epochs": 1, "checkpoint_dir": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            classifier(tiny_bert, **parameters).fit(X, y)
    shown = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["pre-training epoch 1/1", "epoch 1/4", "epoch 2/4"]
    classifier(tiny_bert, **parameters).fit(X, y)
    check_lines(
        capsys.readouterr().err, rf"epoch 3/4: .*{SECONDS}, {LEFT}", rf"epoch 4/4: .*{SECONDS}"
    )


def test_the_time_left_is_that_of_the_steps_left(monkeypatch, capsys):
    clock = iter([100.0, 130.0])
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    record = {"train_loss": 0.5, "learning_rate": 2e-5, "seconds": 29.0}
    with show_fit(1, [*plan_epochs("epoch", 1, 10), *plan_epochs("epoch", 1, 30)]) as shown:
        shown.end_epoch(record)
    assert capsys.readouterr().err == (
        "epoch 1/1: loss 0.500, learning rate 2e-05, 29.0 s, 01:30 left\n"
    )


# early stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.5, 0.4, 0.6, 0.7], "stopped early after epoch 4 of 6; kept epoch 2"),
        ([0.5, 0.4, 0.3, 0.3, 0.2, 0.3], "kept epoch 5 of 6"),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], None),
        ([0.9, 0.8, 0.7, 0.6, 0.7, 0.8], "kept epoch 4 of 6"),  # stops, but was at its end
    ],
)
@pytest.mark.parametrize("kind", ["file", "terminal"])
def test_which_epoch_is_kept_is_said(tiny_bert, toy_reviews, monkeypatch, kind, losses, expected):
    stream = Terminal() if kind == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    losing(monkeypatch, losses)
    clf = classifier(tiny_bert, max_epochs=6, batch_size=80, early_stopping=True)
    clf.fit(*toy_reviews)
    lines = [line for line in stream.getvalue().split("\n") if line]
    if expected is None:
        assert clf.best_epoch_ == 6 and "kept" not in stream.getvalue()
    else:
        assert lines[-1] == expected
        assert str(clf.best_epoch_) in expected
    if kind == "terminal":  # the bar is full, and its line has ended
        last = lines[0].split("\r")[-1].strip()
        assert last.startswith(f"epoch {len(losses)}/6: 100%|")


def test_a_callback_that_stops_is_named():
    with show_fit(0, plan_epochs("epoch", 5, 10)) as shown:
        for _ in range(2):
            shown.end_epoch({})
        shown.stop("by a callback")
    assert shown.result() == "stopped by a callback after epoch 2 of 5"


# a fit on a terminal ------------------------------------------------------------------------------


def test_a_terminal_gets_one_bar(tiny_bert, toy_reviews, new_terminal, at_once, capsys):
    terminal = new_terminal()
    X, y = toy_reviews
    clf = classifier(tiny_bert, pretraining_epochs=1).fit(X, y, X_val=X[:8], y_val=y[:8])
    assert capsys.readouterr().out == ""
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().endswith("\n")
    shown = terminal.states
    form = re.compile(
        r"((?:pre-training )?epoch) (\d)/\d: +(\d+)%\|.*\| \d\d:\d\d<(?:\d\d:\d\d|\?)(?:, (.*))?"
    )
    assert [state for state in shown if not form.fullmatch(state)] == []
    parts = [form.fullmatch(state).groups() for state in shown]
    percents = [int(percent) for *_, percent, _ in parts]
    assert percents == sorted(percents) and percents[0] == 0 and percents[-1] == 100
    assert {*percents} == {round(100 * n / 15) for n in range(16)}
    names = [(phase, number) for phase, number, *_ in parts]
    expected = [("pre-training epoch", "1"), ("epoch", "1"), ("epoch", "2")]
    assert [name for i, name in enumerate(names) if name not in names[:i]] == expected
    ends = [
        f"loss {record['train_loss']:.3f}, val_loss {record['val_loss']:.3f}, "
        f"val_score {record['val_score']:.3f}"
        for record in clf.history_
    ]
    assert parts[-1][-1] == ends[-1]
    assert ends[0] in [measures for *_, measures in parts]


def test_the_loss_is_the_mean_of_the_steps_so_far(tiny_bert, toy_reviews, monkeypatch):
    seen = []
    plain = FitBar._after_step

    def after_step(self, n_steps, mean_loss):
        seen.append((n_steps, mean_loss()))
        plain(self, n_steps, mean_loss)

    monkeypatch.setattr(FitBar, "_after_step", after_step)
    monkeypatch.setattr(sys, "stderr", Terminal())
    clf = classifier(tiny_bert, batch_size=32).fit(*toy_reviews)  # 32 + 32 + 16 texts
    assert [n for n, _ in seen] == [1, 2, 3, 1, 2, 3]
    assert [seen[i][1] for i in (2, 5)] == [record["train_loss"] for record in clf.history_]
    first = classifier(tiny_bert, batch_size=32, max_epochs=1, verbose=0, learning_rate=1e-30)
    first.fit(*toy_reviews)
    assert seen[0][1] != seen[1][1] != seen[2][1]
    assert seen[0][1] == pytest.approx(first.history_[0]["train_loss"], rel=0.5)


def test_bars_are_drawn_a_few_times_a_second(tiny_bert, toy_reviews, new_terminal, monkeypatch):
    terminal = new_terminal()
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 1e6)
    classifier(tiny_bert, batch_size=4).fit(*toy_reviews)
    assert len({re.sub(r"\d\d:\d\d|\?", "", state) for state in terminal.states}) <= 5


@pytest.mark.parametrize("columns", [0, 90])
def test_a_real_terminal(tiny_bert, toy_reviews, monkeypatch, columns):
    termios = pytest.importorskip("termios", reason="Windows has no pseudo-terminals")
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        classifier(tiny_bert).fit(*toy_reviews)
        stream.flush()
        received = b""
        while not received.endswith(b"\n"):
            received += os.read(ours, 2**16)
    os.close(ours)
    last = received.decode().split("\r\n")[0].split("\r")[-1].rstrip()
    assert re.fullmatch(r"epoch 2/2: 100%\|.+\| \d\d:\d\d<00:00, loss \d\.\d{3}", last)
    assert 70 < len(last) <= (columns or 80)


def test_a_notebook_gets_the_message_in_its_widget(monkeypatch, capsys):
    widgets = []

    class Widget(progress.tqdm):
        __module__ = "tqdm.notebook"

        def close(self):
            if not self.disable:
                widgets.append((self.n, self.total, self.desc, self.postfix))
            super().close()

    monkeypatch.setattr(progress, "tqdm", Widget)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no terminal
    record = {"train_loss": 0.5, "learning_rate": 2e-5, "seconds": 29.0}
    with show_fit(1, plan_epochs("epoch", 5, 10)) as shown:
        shown.end_epoch(record)
        shown.end_epoch(record)
        shown.stop("early")
        shown.keep(1)
    stopped = "loss 0.500, stopped early after epoch 2 of 5; kept epoch 1"
    assert widgets == [(20, 20, "epoch 2/5", stopped)]
    assert "\nstopped" not in sys.stderr.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_fit_that_fails_ends_its_line(tiny_bert, toy_reviews, new_terminal, monkeypatch, error):
    terminal = new_terminal()
    plain_epoch, seen = TrainingRun.epoch, []

    def fails(self, progress=None):
        seen.append(1)
        if len(seen) == 2:
            raise error
        return plain_epoch(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "epoch", fails)
        with pytest.raises(error):
            classifier(tiny_bert).fit(*toy_reviews)
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().endswith("\n")
    assert re.match(r"epoch 2/2: +50%\|", terminal.states[-1])
    assert not progress.tqdm._instances
    with show_texts("predicting", 10, 1) as part:  # a fit is no longer shown
        assert part(10) is not None


def test_showing_changes_no_weight(tiny_bert, toy_reviews, new_terminal, at_once):
    new_terminal()
    shown = classifier(tiny_bert).fit(*toy_reviews)
    hidden = classifier(tiny_bert, verbose=0).fit(*toy_reviews)
    X = toy_reviews[0]
    assert np.array_equal(shown.decision_function(X), hidden.decision_function(X))


# predictions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tiny_bert, toy_reviews):
    return classifier(tiny_bert, max_epochs=1, verbose=0).fit(*toy_reviews)


@pytest.fixture(scope="module")
def pretrained(tiny_bert, toy_reviews):
    texts = toy_reviews[0]
    documents = [texts[i : i + 4] for i in range(0, len(texts), 4)]
    return pretrainer(tiny_bert, max_epochs=1, verbose=0).fit(documents)


def calls(tiny_bert, fitted, pretrained, X, y):
    """All methods that take long for many texts, and what they show before the numbers."""
    embed = BertEmbeddingTransformer(tiny_bert, max_length=32)
    return {
        "predict": (fitted, "predicting", lambda: fitted.predict(X)),
        "predict_proba": (fitted, "predicting", lambda: fitted.predict_proba(X)),
        "decision_function": (fitted, "predicting", lambda: fitted.decision_function(X)),
        "score": (fitted, "predicting", lambda: fitted.score(X, y)),
        "explain": (fitted, "explaining", lambda: fitted.explain(X, method="occlusion")),
        "transform": (embed, "embedding", lambda: embed.transform(X)),
        "token_embeddings": (embed, "embedding", lambda: embed.token_embeddings(X)),
        "pretrainer.transform": (pretrained, "embedding", lambda: pretrained.transform(X)),
        "pretrainer.score": (pretrained, "scoring", lambda: pretrained.score(X)),
        "fill_mask": (
            pretrained,
            "filling masks",
            lambda: pretrained.fill_mask([f"[MASK] {text}" for text in X]),
        ),
        "predict_next_sentence": (
            pretrained,
            "predicting",
            lambda: pretrained.predict_next_sentence([*zip(X, X[1:] + X[:1], strict=True)]),
        ),
    }


@pytest.mark.parametrize("name", [*calls("", None, None, [""], [])])
def test_long_computations_are_shown(
    tiny_bert, fitted, pretrained, toy_reviews, monkeypatch, at_once, name
):
    for module in ("predict", "embed", "fill_mask"):
        monkeypatch.setattr(f"skbert.engine.prediction.{module}.token_budget", lambda device: 64)
    monkeypatch.setattr("skbert.engine.training.masked_lm.token_budget", lambda device: 64)
    monkeypatch.setattr("skbert.contract.explanation._TEXTS_AT_ONCE", 10)
    estimator, phase, call = calls(tiny_bert, fitted, pretrained, *toy_reviews)[name]
    monkeypatch.setattr(estimator, "verbose", 1)
    on_file, on_terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", on_file)
    call()
    lines = on_file.getvalue().splitlines()
    counts = [int(re.match(rf"{phase}: (\d+) of 80 texts, {SECONDS}", line)[1]) for line in lines]
    assert "\r" not in on_file.getvalue() and counts[-1] == 80 and len(counts) > 5
    assert all(after - before >= 8 for before, after in pairwise(counts[:-1]))
    assert all(re.search(rf", {LEFT}$", line) for line in lines[:-1])
    monkeypatch.setattr(sys, "stderr", on_terminal)
    call()
    assert on_terminal.getvalue().count("\n") == 1
    assert re.match(rf"{phase}: 100%\|.*\| 80/80 \[", on_terminal.states[-1])


def test_parts_of_many_texts_have_one_bar(fitted, toy_reviews, monkeypatch, at_once, capsys):
    monkeypatch.setattr("skbert.contract.text_parts.TEXTS_AT_ONCE", 20)
    monkeypatch.setattr(fitted, "verbose", 1)
    fitted.predict(toy_reviews[0])
    check_lines(
        capsys.readouterr().err,
        *(rf"predicting: {n} of 80 texts, {SECONDS}, {LEFT}" for n in (20, 40, 60)),
        rf"predicting: 80 of 80 texts, {SECONDS}",
    )
    monkeypatch.setattr(sys, "stderr", Terminal())
    fitted.predict(toy_reviews[0])
    assert sys.stderr.getvalue().count("\n") == 1


@pytest.mark.parametrize("kind", ["file", "terminal"])
def test_short_computations_show_nothing(
    tiny_bert, fitted, pretrained, toy_reviews, monkeypatch, kind
):
    monkeypatch.setattr(sys, "stderr", Terminal() if kind == "terminal" else io.StringIO())
    for estimator, _, call in calls(tiny_bert, fitted, pretrained, *toy_reviews).values():
        monkeypatch.setattr(estimator, "verbose", 1)
        call()
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("verbose", [0, False])
def test_nothing_is_shown_without_verbose(
    tiny_bert, fitted, pretrained, toy_reviews, new_terminal, at_once, verbose
):
    terminal = new_terminal()
    X, y = toy_reviews
    classifier(tiny_bert, verbose=verbose, early_stopping=True, pretraining_epochs=1).fit(X, y)
    for _, _, call in calls(tiny_bert, fitted, pretrained, X, y).values():
        call()
    assert terminal.getvalue() == ""


def test_callbacks_that_predict_show_nothing_inside_a_fit(new_terminal, at_once):
    terminal = new_terminal()
    with show_fit(1, plan_epochs("epoch", 1, 2)):
        before = terminal.getvalue()
        with show_texts("predicting", 100, 1) as part:
            assert part(100) is None
        with show_fit(1, plan_epochs("epoch", 1, 2)):
            pass
        assert terminal.getvalue() == before


# where nothing can be shown -----------------------------------------------------------------------


def test_processes_of_a_pool_write_lines_with_their_names(monkeypatch, new_terminal):
    terminal = new_terminal()
    process = types.SimpleNamespace(name="LokyProcess-2")
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: process)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: process)
    record = {"train_loss": 0.5, "learning_rate": 2e-5, "seconds": 29.0}
    with show_fit(1, plan_epochs("epoch", 1, 10)) as shown:
        shown.end_epoch(record)
    assert terminal.getvalue() == (
        "LokyProcess-2: epoch 1/1: loss 0.500, learning rate 2e-05, 29.0 s\n"
    )


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


class Plain:
    """It has no `isatty`."""

    def write(self, text):
        pass

    def flush(self):
        pass


class BrokenTerminal(Terminal):
    """It has failed `n_failures` times, in `write` or in `flush`."""

    def __init__(self, error, method):
        super().__init__()
        self.n_failures = 0
        setattr(self, method, self.fail)
        self.error = error

    def fail(self, *text):
        self.n_failures += 1
        raise self.error


BROKEN_TERMINALS = {
    f"{name} {method}": (error, method)
    for name, error in {
        "pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
        "disk": OSError(errno.ENOSPC, "No space left on device"),
        "detached": ValueError("underlying buffer has been detached"),
    }.items()
    for method in ("write", "flush")
}


@pytest.mark.parametrize("kind", ["none", "closed", "broken", "no file", *BROKEN_TERMINALS])
def test_a_fit_survives_a_stderr_that_fails(tiny_bert, toy_reviews, monkeypatch, at_once, kind):
    closed = io.StringIO()
    closed.close()
    streams = {"none": None, "closed": closed, "broken": Broken(), "no file": Plain()}
    streams |= {name: BrokenTerminal(*how) for name, how in BROKEN_TERMINALS.items()}
    monkeypatch.setattr(sys, "stderr", streams[kind])
    losing(monkeypatch, [0.4, 0.5])  # so that a line follows the bar
    X, y = toy_reviews
    clf = classifier(tiny_bert, early_stopping=True).fit(X, y)
    assert clf.n_epochs_ == 2
    n_failures = getattr(sys.stderr, "n_failures", 0)
    assert clf.predict(X[:4]).shape == (4,)
    if kind in BROKEN_TERMINALS:
        assert 0 < n_failures < sys.stderr.n_failures  # the fit and predict wrote
