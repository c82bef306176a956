"""What every fit goes through: one transaction around it, and one loop over its epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sklearn.exceptions import ConvergenceWarning

from skbert.contract.callbacks import EpochTasks
from skbert.contract.progress import FitProgress
from skbert.engine.training.loop import DivergenceError, EpochRecord, StepProgress, Trainer
from skbert.engine.training.stopping import EarlyStopping
from skbert.engine.warn import warn_user

#: What scikit-learn's callbacks leave on an estimator until after its fit.
_TORN_DOWN_LATER = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


@dataclass(frozen=True)
class Transaction:
    """What a fit has to do when it ends.

    Attributes
    ----------
    undo : list of callable
        Called if the fit fails, to restore what it changed inside an attribute.
    afterwards : list of callable
        Called once the fit has succeeded.
    """

    undo: list[Callable[[], None]] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[Transaction]:
    """Restore all attributes of the estimator if its fit fails or is interrupted.

    A single assignment restores them, so a second interruption cannot leave half of them. The
    attributes that scikit-learn's callbacks still have to tear down stay.

    Yields
    ------
    Transaction
    """
    before = dict(vars(estimator))
    transaction = Transaction()
    try:
        yield transaction
    except BaseException:
        for call in transaction.undo:
            call()
        now = vars(estimator)
        unfinished = {name: now[name] for name in _TORN_DOWN_LATER if name in now}
        estimator.__dict__ = before | unfinished
        raise
    for call in transaction.afterwards:
        call()


class EpochRun(Protocol):
    """A training run that advances by epochs."""

    trainer: Trainer

    def epoch(self, progress: StepProgress | None) -> EpochRecord:
        """Train on every text once."""


@dataclass(frozen=True)
class EpochLoop:
    """Trains epoch by epoch, and after each one validates, tells the callbacks, and saves.

    Attributes
    ----------
    run : EpochRun
    tasks : EpochTasks
        Tells scikit-learn's callbacks.
    progress : FitProgress
    fitted_attributes : callable
        History so far -> the attributes that a copy of the estimator needs to predict.
    validate : callable or None
        Returns what to add to the record of an epoch, among it "val_loss".
    stopping : EarlyStopping or None
        Requires `validate`.
    save : callable or None
        Called with the history so far, whether training stops after this epoch, and whether a
        callback has stopped it.
    """

    run: EpochRun
    tasks: EpochTasks
    progress: FitProgress
    fitted_attributes: Callable[[list[dict[str, Any]]], dict[str, Any]]
    validate: Callable[[], dict[str, float]] | None = None
    stopping: EarlyStopping | None = None
    save: Callable[[list[dict[str, Any]], bool, bool], None] | None = None

    def train(self, n_epochs: int, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Train at most `n_epochs`, and return `history` with their records appended."""
        history = list(history)
        for _ in range(n_epochs):
            self.tasks.begin_epoch()
            try:
                record = self.run.epoch(self.progress.after_step).as_dict()
            except DivergenceError as error:
                raise_or_warn(error, self.run.trainer)
                break
            record["epoch"] = len(history) + 1
            history.append(record | (self.validate() if self.validate else {}))
            self.progress.end_epoch(history[-1])
            if self._ends(history):
                break
        return history

    def _ends(self, history: list[dict[str, Any]]) -> bool:
        """Finish an epoch; True if it is the last one."""
        stop = self.stopping is not None and self.stopping.should_stop(history[-1]["val_loss"])
        if stop:
            self.progress.stop("early")
        requested = self.tasks.end_epoch(lambda: self.fitted_attributes(list(history)))
        by_callback = requested and not stop
        if by_callback:
            self.progress.stop("by a callback")
        if self.save:
            self.save(history, stop or by_callback, by_callback)
        return stop or by_callback


def raise_or_warn(error: DivergenceError, trainer: Trainer) -> None:
    """Raise the error if nothing was learned before it; otherwise warn, and keep what was."""
    if trainer.n_steps == 0:
        raise error
    warn_user(
        f"{error} Training ended early, with the weights before that step.", ConvergenceWarning
    )
