"""scikit-learn's callback protocol, where there is one (1.9), and its absence (1.6 to 1.8).

The one file that knows the difference. A fit is a task with one subtask an epoch, or none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's mixin; there are no callbacks to support."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return `method` as it is."""
        return method


__all__ = ["CallbackSupportMixin", "EpochTasks", "with_callbacks"]


class EpochTasks:
    """Tells the callbacks of an estimator, if it can have any, how far its fit is.

    Parameters
    ----------
    estimator : estimator
    max_epochs : int
        0 for a fit without epochs.
    X, y : array-like
        As they came to fit.
    sample_weight : array-like or None
        As it came to fit. What else came, validation texts for example, is kept from the
        callbacks: a scorer is given all that they get, and takes nothing but weights.
    """

    def __init__(
        self, estimator: Any, max_epochs: int, X: Any, y: Any, sample_weight: Any = None
    ) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = self._epoch = None
        if hasattr(estimator, "_init_callback_context"):
            self._fit = estimator._init_callback_context(max_subtasks=max_epochs)
            self._fit.call_on_fit_task_begin(**self._arguments)

    def begin_epoch(self) -> None:
        """Say that an epoch begins."""
        if self._fit is not None:
            self._epoch = self._fit.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._arguments)

    def end_epoch(self, fitted_attributes: Callable[[], dict[str, Any]]) -> bool:
        """Say that the epoch has ended; True if a callback asks to stop.

        Parameters
        ----------
        fitted_attributes : callable
            Returns what a copy of the estimator needs to predict; called only if a callback
            wants such a copy.
        """
        if self._epoch is None:
            return False
        return self._epoch.call_on_fit_task_end(
            **self._arguments, reconstruction_attributes=fitted_attributes
        )

    def end_fit(self) -> None:
        """Say that the fit has ended."""
        if self._fit is not None:
            self._fit.call_on_fit_task_end(**self._arguments)
