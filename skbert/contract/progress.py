"""Progress on stderr, unless `verbose` is 0: bars on a terminal and in notebooks, otherwise lines.

The processes of a pool, such as those of joblib, write lines on a terminal, too: each process would
draw its bar over those of the others.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from skbert.engine.prediction.parts import BatchProgress
from skbert.engine.training.loop import StepProgress

#: A bar of a fit shows the loss of new steps after this number of seconds.
REFRESH_SECONDS = 0.2

#: Computing vectors or predictions shows a bar after this number of seconds.
DELAY_SECONDS = 1.0

#: Without a bar, it writes a line after this number of seconds, or later: when a tenth is done.
LINE_SECONDS = 5.0

#: Whether a fit is shown in this thread, so that what a callback predicts in it shows nothing.
_inside_fit: ContextVar[bool] = ContextVar("skbert_inside_fit", default=False)


@dataclass(frozen=True)
class PlannedEpoch:
    """An epoch that a fit is going to train.

    Attributes
    ----------
    phase : {"epoch", "pre-training epoch"}
    number : int
        Its number in `history_`, from 1.
    last : int
        Number of the last epoch of the phase, unless it stops early.
    n_steps : int
        Number of optimizer steps.
    """

    phase: str
    number: int
    last: int
    n_steps: int


def plan_epochs(phase: str, n_epochs: int, n_steps: int, n_before: int = 0) -> list[PlannedEpoch]:
    """List `n_epochs` epochs of `n_steps` steps each, which follow `n_before` others."""
    last = n_before + n_epochs
    return [PlannedEpoch(phase, n_before + i + 1, last, n_steps) for i in range(n_epochs)]


class FitProgress:
    """The progress of a fit; this class shows nothing.

    Parameters
    ----------
    epochs : list of PlannedEpoch
        All epochs of the fit, in order. It may end before the last one.

    Attributes
    ----------
    after_step : StepProgress or None
        What the training loop calls after each step.
    """

    after_step: StepProgress | None = None

    def __init__(self, epochs: list[PlannedEpoch]) -> None:
        self._epochs = epochs
        self._n_epochs = self._n_steps = 0  # that have ended
        self._total = sum(epoch.n_steps for epoch in epochs)
        self._stopped_by = ""
        self._kept: int | None = None

    def begin(self) -> None:
        """Show that the fit begins."""

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Show the record of the next epoch, as it is in `history_`."""
        epoch = self._epochs[self._n_epochs]
        self._n_epochs += 1
        self._n_steps += epoch.n_steps
        self._show(epoch, record)

    def _show(self, epoch: PlannedEpoch, record: dict[str, Any]) -> None:
        """Show the record of an epoch that has ended."""

    def stop(self, by: str) -> None:
        """Note that the fit ends after this epoch: "early" or "by a callback"."""
        self._stopped_by = by

    def keep(self, epoch: int) -> None:
        """Note the number of the epoch whose weights the fit keeps."""
        self._kept = epoch

    def result(self) -> str:
        """Describe how the fit ended; empty if it kept the weights of the last planned epoch."""
        if not self._epochs:
            return ""
        last = self._epochs[max(self._n_epochs - 1, 0)]
        stopped = self._n_epochs < len(self._epochs) and self._stopped_by
        if stopped:
            kept = "" if self._kept is None else f"; kept epoch {self._kept}"
            return f"stopped {self._stopped_by} after epoch {last.number} of {last.last}{kept}"
        if self._kept in (None, last.number):
            return ""
        return f"kept epoch {self._kept} of {last.last}"

    def end(self) -> None:
        """Show that the fit has succeeded."""

    def close(self) -> None:
        """Leave the terminal as it should be; called in any case."""


class FitLines(FitProgress):
    """Writes one line per epoch."""

    def begin(self) -> None:
        """Note when the fit began."""
        self._start = time.monotonic()

    def _show(self, epoch: PlannedEpoch, record: dict[str, Any]) -> None:
        text = f"{epoch.phase} {epoch.number}/{epoch.last}: {', '.join(_measures(record))}"
        text += f", learning rate {record['learning_rate']:.2g}, {record['seconds']:.1f} s"
        if self._n_steps < self._total:
            text += f", {_left(self._start, self._n_steps / self._total)} left"
        write_line(text)

    def end(self) -> None:
        """Write how the fit ended, unless that is as planned."""
        if result := self.result():
            write_line(result)


class FitBar(FitProgress):
    """Shows one bar for all epochs."""

    def begin(self) -> None:
        """Show the empty bar."""
        self.after_step = self._after_step
        self._last_shown = time.monotonic()
        self._validated: list[str] = []
        self._bar = tqdm(
            total=self._total,
            desc=self._label(),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            mininterval=0,
            miniters=1,
            smoothing=0,  # the time left is that of all steps so far, with their validation
            **_place(),
        )

    def _label(self) -> str:
        epoch = self._epochs[min(self._n_epochs, len(self._epochs) - 1)]
        return f"{epoch.phase} {epoch.number}/{epoch.last}"

    def _after_step(self, n_steps: int, mean_loss: Callable[[], float]) -> None:
        now = time.monotonic()
        if now - self._last_shown >= REFRESH_SECONDS:
            self._last_shown = now
            self._draw(self._n_steps + n_steps, [f"loss {mean_loss():.3f}", *self._validated])

    def _draw(self, n_steps: int, measures: list[str]) -> None:
        self._bar.set_postfix_str(", ".join(measures), refresh=False)
        self._bar.n = n_steps
        self._bar.refresh()

    def _show(self, epoch: PlannedEpoch, record: dict[str, Any]) -> None:
        loss, *self._validated = _measures(record)
        self._bar.set_description_str(self._label(), refresh=False)
        self._draw(self._n_steps, [loss, *self._validated])

    def end(self) -> None:
        """Show a full bar, also of a fit that stopped early, and how the fit ended."""
        result = self.result()
        if self._n_epochs:
            last = self._epochs[self._n_epochs - 1]
            self._bar.set_description_str(f"{last.phase} {last.number}/{last.last}", refresh=False)
        if self._stopped_by:
            self._bar.total = self._n_steps
        if result and _is_notebook():  # where a line on stderr looks like an error
            shown = [text for text in (self._bar.postfix, result) if text]
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.refresh()
        self._bar.close()
        if result and not _is_notebook():
            write_line(result)

    def close(self) -> None:
        """End the line of the bar."""
        self._bar.close()


@contextmanager
def show_fit(verbose: int, epochs: list[PlannedEpoch]) -> Iterator[FitProgress]:
    """Show the progress of a fit inside the block.

    Parameters
    ----------
    verbose : int
    epochs : list of PlannedEpoch
        All epochs that the fit is going to train.

    Yields
    ------
    FitProgress
    """
    kinds = {"bar": FitBar, "lines": FitLines, "nothing": FitProgress}
    progress = kinds[_display(verbose) if epochs else "nothing"](epochs)
    progress.begin()
    before = _inside_fit.set(True)
    try:
        yield progress
        progress.end()
    finally:
        _inside_fit.reset(before)
        progress.close()


@contextmanager
def show_texts(
    phase: str, n_texts: int | None, verbose: int
) -> Iterator[Callable[[int], BatchProgress | None]]:
    """Show the progress of computing something for each text inside the block, if it takes long.

    Parameters
    ----------
    phase : str
        What is shown before the numbers.
    n_texts : int or None
        Number of all texts; None if a stream does not tell. Then neither a share nor the time left
        is shown.
    verbose : int

    Yields
    ------
    callable
        Called with the number of texts of the next part, for example all of them; returns what
        shows the progress of its batches, or None. These have about equally many tokens, so each
        of them advances the bar equally.
    """
    display = _display(verbose)
    if display == "nothing":
        yield lambda n: None
        return
    lines = TextsLines(phase, n_texts) if n_texts else LinesOfStream(phase)
    shown = TextsBar(phase, n_texts) if display == "bar" else lines
    n_before = 0

    def part(n: int) -> BatchProgress:
        nonlocal n_before
        start, n_before = n_before, n_before + n

        def batches_of_part(batches: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
            for number, batch in enumerate(batches, start=1):
                yield batch
                shown.advance(start + n * number // len(batches))

        return batches_of_part

    try:
        yield part
    finally:
        shown.close()


class TextsBar:
    """A bar for many texts."""

    def __init__(self, phase: str, n_texts: int | None) -> None:
        self._bar = tqdm(total=n_texts, desc=phase, unit=" texts", delay=DELAY_SECONDS, **_place())

    def advance(self, n_done: int) -> None:
        """Show that `n_done` texts are done."""
        self._bar.update(n_done - self._bar.n)

    def close(self) -> None:
        """End the line of the bar, if there is one."""
        self._bar.close()


class TextsLines:
    """Lines for many texts: at most one for each tenth, and none at first."""

    def __init__(self, phase: str, n_texts: int) -> None:
        self._phase, self._n_texts = phase, n_texts
        self._start = self._last_time = time.monotonic()
        self._last_share = 0.0

    def advance(self, n_done: int) -> None:
        """Write a line if more than a tenth, and some seconds, have passed since the last one."""
        now, share = time.monotonic(), n_done / self._n_texts
        is_last = n_done == self._n_texts and self._last_share > 0
        is_due = share - self._last_share >= 0.1 and now - self._last_time >= LINE_SECONDS
        if not (is_last or is_due):
            return
        self._last_time, self._last_share = now, share
        text = f"{self._phase}: {n_done} of {self._n_texts} texts, {now - self._start:.1f} s"
        write_line(text if share == 1 else f"{text}, {_left(self._start, share)} left")

    def close(self) -> None:
        """Do nothing: lines are always complete."""


class LinesOfStream:
    """Lines for a stream of texts: none at first, then at ever larger distances."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._start = self._last_time = time.monotonic()
        self._n_done = self._n_shown = 0

    def advance(self, n_done: int) -> None:
        """Write a line if there are a tenth more texts than in the last one, and after seconds."""
        self._n_done, now = n_done, time.monotonic()
        if n_done >= 1.1 * self._n_shown and now - self._last_time >= LINE_SECONDS:
            self._last_time = now
            self._write()

    def _write(self) -> None:
        self._n_shown = self._n_done
        seconds = time.monotonic() - self._start
        write_line(f"{self._phase}: {self._n_done} texts, {seconds:.1f} s")

    def close(self) -> None:
        """Write the number of all texts, if there was a line before."""
        if 0 < self._n_shown < self._n_done:
            self._write()


def _display(verbose: int) -> Literal["bar", "lines", "nothing"]:
    """Decide what to show in this process and thread."""
    if not verbose or sys.stderr is None or _inside_fit.get():
        return "nothing"
    if multiprocessing.parent_process() is not None:
        return "lines"
    return "bar" if _is_notebook() or _is_terminal(sys.stderr) else "lines"


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # not a real file, or a closed one
        return False


class _Stderr:
    """The stderr of now for tqdm; a full disk or a closed pipe must not end a fit."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> None:
        """Write the text, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _place() -> dict[str, Any]:
    """Say where tqdm draws, and let it follow the width of the terminal."""
    if _is_notebook():
        return {"dynamic_ncols": True}
    with suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns == 0:  # what some terminals say
            return {"file": _Stderr(), "ncols": 80}
    return {"file": _Stderr(), "dynamic_ncols": True}


def _is_notebook() -> bool:
    """Whether tqdm shows widgets."""
    return any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


def write_line(text: str) -> None:
    """Write a line to stderr in one piece; in a process of a pool, with the name of the process."""
    if multiprocessing.parent_process() is not None:
        text = f"{multiprocessing.current_process().name}: {text}"
    stderr = _Stderr()
    stderr.write(f"{text}\n")
    stderr.flush()


def _measures(record: dict[str, Any]) -> list[str]:
    """Format the loss of an epoch, and what was measured on the validation texts."""
    names = {"train_loss": "loss", "val_loss": "val_loss", "val_score": "val_score"}
    return [f"{shown} {record[name]:.3f}" for name, shown in names.items() if name in record]


def _left(start: float, share: float) -> str:
    """Estimate the time left, as "mm:ss", when a share in (0, 1] has been done since `start`."""
    return tqdm.format_interval((time.monotonic() - start) * (1 / share - 1))
