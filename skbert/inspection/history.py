"""TrainingHistoryDisplay: the loss, the scores and the learning rate of each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import is_regressor
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skbert.inspection.drawing import (
    check_estimator,
    mark_style,
    merge_style,
    refused,
    split_axes,
)

_ALLOWED = "a fitted BertSentimentClassifier, BertSentimentRegressor or BertPretrainer"


@dataclass(frozen=True)
class _Line:
    """How to draw one key of the records."""

    label: str
    color: str
    marker: str
    linestyle: str = "-"


@dataclass(frozen=True)
class _Plot:
    """The keys of the records that share a plot."""

    ylabel: str
    height: float
    lines: Mapping[str, _Line]


_PLOTS = (
    _Plot(
        "Loss (nats)",
        2.6,
        {
            "train_loss": _Line("training", "C0", "o"),
            "val_loss": _Line("validation", "C1", "s", "--"),
            "masked_loss": _Line("masked words", "C2", "^"),
            "next_sentence_loss": _Line("next sentence", "C3", "v"),
        },
    ),
    _Plot(
        "Accuracy",
        1.7,
        {
            "val_score": _Line("validation", "C1", "s", "--"),
            "next_sentence_accuracy": _Line("next sentence", "C3", "v"),
        },
    ),
    _Plot("Perplexity", 1.7, {"perplexity": _Line("masked words", "C2", "^")}),
    _Plot("Learning rate", 1.7, {"learning_rate": _Line("training", "C0", "o")}),
)


class TrainingHistoryDisplay:
    """Training history: loss, scores and learning rate per epoch.

    Use `from_estimator` to create a display of a fitted estimator. All parameters are stored as
    attributes.

    Parameters
    ----------
    history : list of dict
        One record per epoch, as in ``history_`` of the estimators, and in
        ``pretraining_history_`` of `BertSentimentClassifier` and `BertSentimentRegressor`.
    best_epoch : int or None, default=None
        The epoch to mark, from 1. None marks none.
    loss_name : str, default="Loss (nats)"
        What the losses are.
    score_name : str, default="Accuracy"
        What the scores are.

    Attributes
    ----------
    axes_ : ndarray of shape (n_plots,), of matplotlib Axes
        The plots, from the top: the losses, the scores, the perplexity of the masked
        words, and the learning rate of the last step of each epoch. A plot that the records have
        no values for is left out. So there are three for a classifier with validation texts, two
        without, and for a `BertPretrainer` four with next sentence prediction, or three without.
    bounding_ax_ : matplotlib Axes or None
        The Axes that was divided into `axes_`, if `plot` got one.
    figure_ : matplotlib Figure
        The figure that contains the plots.
    lines_ : dict of str to matplotlib Line2D
        The line of each key of the records, for example ``lines_["val_loss"]``.
    best_epoch_lines_ : list of matplotlib Line2D
        The vertical lines at `best_epoch`, one for each plot. Empty if `best_epoch` is None.

    See Also
    --------
    TokenLengthDisplay : Choose `max_length` before you fit.
    sklearn.model_selection.LearningCurveDisplay : Scores for several numbers of training texts.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier
    >>> from skbert.inspection import TrainingHistoryDisplay
    >>> texts = ["what a joy", "i loved it", "so dull", "a waste of time"] * 8
    >>> labels = ["good", "good", "bad", "bad"] * 8
    >>> clf = BertSentimentClassifier(max_epochs=3, early_stopping=True, random_state=0)
    >>> clf = clf.fit(texts, labels, X_val=["loved it", "dull"], y_val=["good", "bad"])
    >>> display = TrainingHistoryDisplay.from_estimator(clf)
    >>> [ax.get_ylabel() for ax in display.axes_]
    ['Loss (nats)', 'Accuracy', 'Learning rate']
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, Any]],
        *,
        best_epoch: int | None = None,
        loss_name: str = "Loss (nats)",
        score_name: str = "Accuracy",
    ) -> None:
        self.history = history
        self.best_epoch = best_epoch
        self.loss_name = loss_name
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Any = None,
        line_kw: Mapping[str, Any] | None = None,
        best_epoch_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the training history of a fitted estimator.

        Parameters
        ----------
        estimator : BertSentimentClassifier, BertSentimentRegressor or BertPretrainer
            Fitted by `fit`, or by any number of calls of `partial_fit`. The plots show its
            ``history_``. To plot the epochs of ``pretraining_epochs``, pass the other history:
            ``TrainingHistoryDisplay(clf.pretraining_history_).plot()``.
        ax : matplotlib Axes or array-like of Axes, default=None
            As in `plot`.
        line_kw : dict, default=None
            As in `plot`.
        best_epoch_kw : dict, default=None
            As in `plot`.

        Returns
        -------
        TrainingHistoryDisplay
            Its `best_epoch` is ``best_epoch_`` of the estimator if ``early_stopping`` chose that
            epoch, and otherwise the epoch with the lowest validation loss. The estimator then
            still has the weights of its last epoch. Without validation texts, `best_epoch` is
            None.

        Raises
        ------
        TypeError
            If `estimator` is anything else, for example a pipeline or a `BertEmbeddingTransformer`,
            which is not trained.
        NotFittedError
            If `estimator` is not fitted.
        ValueError
            If ``history_`` is empty, because `from_pretrained` has loaded a published model that
            skbert has not trained.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_estimator(estimator, cls, _ALLOWED)
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise refused(estimator, cls, _ALLOWED)
        display = cls(estimator.history_, best_epoch=_best_epoch(estimator), **_names(estimator))
        return display.plot(ax=ax, line_kw=line_kw, best_epoch_kw=best_epoch_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        line_kw: Mapping[str, Any] | None = None,
        best_epoch_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the plots below each other.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            One Axes is a bounding box: it is divided into the plots, as in
            `sklearn.inspection.PartialDependenceDisplay`. To draw over an earlier display, pass
            its `axes_`. None creates a figure.
        line_kw : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.plot` of all lines, such as ``linewidth``.
        best_epoch_kw : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.axvline` of the lines at `best_epoch`.

        Returns
        -------
        self : TrainingHistoryDisplay
            The display, with `axes_` and the other attributes set.

        Raises
        ------
        ValueError
            If `history` is empty or its records have no known key, if `ax` contains another number
            of Axes than there are plots, or if it is already divided.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib.axes import Axes
        from matplotlib.lines import Line2D

        plots = self._plots()
        axes = split_axes(ax, [plot.height for plot in plots])
        mark = merge_style(mark_style(), best_epoch_kw, Line2D)
        self.axes_, self.figure_ = axes, axes[0].figure
        self.bounding_ax_ = ax if isinstance(ax, Axes) else None
        self.lines_: dict[str, Any] = {}
        self.best_epoch_lines_: list[Any] = []
        for plot, of_plot in zip(plots, axes, strict=True):
            for key, line in plot.lines.items():
                style = merge_style({"markersize": 5, **vars(line)}, line_kw, Line2D)
                (self.lines_[key],) = of_plot.plot(self._epochs(), self._values(key), **style)
            if self.best_epoch is not None:
                label = f"best epoch: {self.best_epoch}"
                style = {"label": label if of_plot is axes[0] else None} | mark
                self.best_epoch_lines_.append(of_plot.axvline(self.best_epoch, **style))
            self._label(of_plot, plot, axes)
        # One legend for all plots: a line keeps its colour and its marker.
        axes[0].legend(fontsize="small" if self.bounding_ax_ else None)
        self.figure_.align_ylabels([*axes])
        return self

    def _label(self, ax: Any, plot: _Plot, axes: np.ndarray) -> None:
        """Write what the axes of a plot are, with integer epochs."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        names = {"Loss (nats)": self.loss_name, "Accuracy": self.score_name}
        ax.set_ylabel(names.get(plot.ylabel, plot.ylabel))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if ax is axes[-1] or not ax.get_shared_x_axes().joined(ax, axes[-1]):
            ax.set_xlabel("Epoch")
        if ax.get_xlim()[0] < 0.5:  # no tick for an epoch 0
            ax.set_xlim(left=0.5, auto=None)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
        if "learning_rate" in plot.lines:
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            ax.set_ylim(bottom=0)

    def _plots(self) -> list[_Plot]:
        """Choose the plots, and in them the lines, that the records have values for."""
        if not self.history:
            raise ValueError(
                "history contains 0 epochs; at least 1 is required. Call fit or partial_fit first: "
                "an estimator has an empty history_ if from_pretrained has loaded a published "
                "model, or after a fit with max_epochs=0."
            )
        known = {key for record in self.history for key in record}
        totals = "next_sentence_loss" in known
        if "masked_loss" in known and not totals:
            known.discard("train_loss")  # the same number
        chosen = []
        for plot in _PLOTS:
            lines = {key: line for key, line in plot.lines.items() if key in known}
            if totals and "train_loss" in lines:
                lines["train_loss"] = _Line("sum of both", "C0", "o")
            if lines:
                chosen.append(_Plot(plot.ylabel, plot.height, lines))
        if not chosen:
            raise ValueError(
                f"The records of history have the keys {sorted(known)}; at least one of "
                f"{[key for plot in _PLOTS for key in plot.lines]} is required. Pass history_ of a "
                "fitted estimator."
            )
        return chosen

    def _epochs(self) -> list[int]:
        return [record.get("epoch", n) for n, record in enumerate(self.history, start=1)]

    def _values(self, key: str) -> list[float]:
        """Values of a key for each epoch; NaN, which leaves a gap, where a record lacks it."""
        return [record.get(key, np.nan) for record in self.history]


def _names(estimator: Any) -> dict[str, str]:
    """Name the loss and the score of a regressor; those of other estimators are the defaults."""
    if not is_regressor(estimator):
        return {}
    squared = {"loss_name": "Squared error"} if estimator.levels_ is None else {}
    return {"score_name": "R2", **squared}


def _best_epoch(estimator: Any) -> int | None:
    """Find the epoch that early stopping or else the validation loss chose, if any."""
    losses = np.array([record.get("val_loss", np.nan) for record in estimator.history_])
    chosen = getattr(estimator, "best_epoch_", 0)
    is_validated = 0 < chosen <= len(losses) and not np.isnan(losses[chosen - 1])
    if getattr(estimator, "early_stopping", False) and is_validated:
        return int(chosen)
    return None if np.isnan(losses).all() else int(np.nanargmin(losses)) + 1
