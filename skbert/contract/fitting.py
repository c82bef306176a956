"""The transaction around a fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from skbert.engine.training.loop import DivergenceError, Trainer

#: What scikit-learn's callbacks leave on an estimator until after its fit.
_TORN_DOWN_LATER = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[list[Callable[[], None]]]:
    """Give the estimator back all attributes it had if the fit fails or is interrupted.

    In one assignment, which no second interruption can cut in two. What scikit-learn has yet to
    tear down stays.

    Yields
    ------
    list of callable
        To add to: each is called before, to undo what was changed inside an attribute.
    """
    before = dict(vars(estimator))
    undo: list[Callable[[], None]] = []
    try:
        yield undo
    except BaseException:
        for call in undo:
            call()
        now = vars(estimator)
        unfinished = {name: now[name] for name in _TORN_DOWN_LATER if name in now}
        estimator.__dict__ = before | unfinished
        raise


def stop_diverged(error: DivergenceError, trainer: Trainer) -> None:
    """Keep what was learned before the step, if anything was."""
    if trainer.n_steps == 0:
        raise error
    warnings.warn(
        f"{error} Training ended there; the weights are those before that step.",
        ConvergenceWarning,
        stacklevel=4,
    )
