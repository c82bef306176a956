"""scikit-learn's callback protocol, which exists since 1.9, and a substitute for 1.7 and 1.8.

Only this file knows the difference. A fit is a task with one subtask per epoch, or without any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from skbert.engine.training.distributed import Ranks

_Method = TypeVar("_Method", bound=Callable[..., Any])

if not TYPE_CHECKING:
    try:
        from sklearn.callback import CallbackSupportMixin, with_callbacks
    except ImportError:  # scikit-learn < 1.9
        CallbackSupportMixin = None

if TYPE_CHECKING or CallbackSupportMixin is None:  # scikit-learn has no types

    class CallbackSupportMixin:
        """Substitute for scikit-learn's mixin, without callbacks."""

    def with_callbacks(method: _Method) -> _Method:
        """Return `method` as it is."""
        return method


__all__ = ["CallbackSupportMixin", "EpochTasks", "with_callbacks"]


class EpochTasks:
    """Tells the callbacks of an estimator, if there are any, about the progress of its fit.

    Parameters
    ----------
    estimator : estimator
    max_epochs : int
        0 for a fit without epochs.
    X, y : array-like
        The arguments of `fit`.
    sample_weight : array-like or None
        The argument of `fit`. Callbacks do not get other arguments, such as validation texts,
        because scorers accept no metadata but weights.
    ranks : Ranks or None
        The processes that share the fit. Only the callbacks of rank 0 are told, and all ranks do
        what these request.
    """

    def __init__(
        self,
        estimator: Any,
        max_epochs: int,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        ranks: Ranks | None = None,
    ) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = self._epoch = None
        self._ranks = ranks
        is_told = ranks is None or ranks.is_first
        if is_told and hasattr(estimator, "_init_callback_context"):
            self._fit = estimator._init_callback_context(max_subtasks=max_epochs)
            self._fit.call_on_fit_task_begin(**self._arguments)

    def begin_epoch(self) -> None:
        """Tell the callbacks that an epoch begins."""
        if self._fit is not None:
            self._epoch = self._fit.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._arguments)

    def end_epoch(self, fitted_attributes: Callable[[], dict[str, Any]]) -> bool:
        """Tell the callbacks that the epoch has ended; True if one of them requests to stop.

        Parameters
        ----------
        fitted_attributes : callable
            Returns the attributes that a copy of the estimator needs to predict. Called only if
            a callback requests such a copy.
        """
        stops = False
        if self._epoch is not None:
            stops = self._epoch.call_on_fit_task_end(
                **self._arguments, reconstruction_attributes=fitted_attributes
            )
        return stops if self._ranks is None else self._ranks.from_first(stops)

    def end_fit(self) -> None:
        """Tell the callbacks that the fit has ended."""
        if self._fit is not None:
            self._fit.call_on_fit_task_end(**self._arguments)
