"""TokenLengthDisplay: how long texts are in tokens, and what `max_length` cuts off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from skbert.contract.load_pretrainer import FromPretrainedMixin
from skbert.contract.parameters import check_max_length, check_start
from skbert.contract.texts import Texts, check_documents, check_texts
from skbert.engine.files.pretrained import load_config, load_subword_tokenizer
from skbert.engine.model.families import longest_text
from skbert.engine.text.layout import smallest_max_length
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.inspection.drawing import check_estimator, mark_style, merge_style

_ALLOWED = "an estimator of skbert"

#: About this number of bars shows all but the longest 1% of the texts; the most bars for all.
_N_BARS, _MOST_BARS = 40, 400

#: Texts longer than this multiple of `max_length`, and of the length that 99% of the texts do not
#: exceed, share the last bar.
_FAR = 2


class TokenLengthDisplay:
    """Distribution of the lengths of texts in tokens, with `max_length`.

    Use it to choose `max_length`: a longer text is truncated, and a larger `max_length` makes long
    texts slower. Use `from_estimator` to create a display. All parameters are stored as attributes.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,)
        Number of tokens of each text before truncation, special tokens included.
    max_length : int
        Maximum number of tokens of a text, special tokens included.

    Attributes
    ----------
    truncated_fraction : float
        Share of the texts that are longer than `max_length`, in [0, 1]. It and `lost_fraction`
        raise a ValueError if `lengths` is empty.
    lost_fraction : float
        Share of all tokens that truncation removes, in [0, 1]. Special tokens count in the total,
        as in the `TruncationWarning`.
    ax_ : matplotlib Axes
        The plot.
    figure_ : matplotlib Figure
        The figure that contains the plot.
    bars_ : matplotlib BarContainer
        The histogram.
    line_ : matplotlib Line2D
        The vertical line between `max_length` and the next longer texts.

    See Also
    --------
    TrainingHistoryDisplay : Loss, scores and learning rate per epoch.

    Notes
    -----
    `BertPretrainer.fit` splits a longer text and loses nothing; only its other methods truncate.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier
    >>> from skbert.inspection import TokenLengthDisplay
    >>> texts = ["what a joy", "so dull", "a waste of time and money"]
    >>> clf = BertSentimentClassifier()
    >>> display = TokenLengthDisplay.from_estimator(clf, texts, max_length=6)
    >>> display.lengths
    array([5, 4, 8])
    >>> round(display.truncated_fraction, 2), round(display.lost_fraction, 2)
    (0.33, 0.12)

    Another `max_length` needs no new tokenisation:

    >>> TokenLengthDisplay(display.lengths, max_length=7).plot().truncated_fraction
    0.3333333333333333
    """

    def __init__(self, lengths: np.ndarray, *, max_length: int) -> None:
        self.lengths = lengths
        self.max_length = max_length

    @property
    def truncated_fraction(self) -> float:
        """Share of the texts that are longer than `max_length`."""
        return float(np.mean(self._lengths() > self.max_length))

    @property
    def lost_fraction(self) -> float:
        """Share of all tokens that truncation removes."""
        lengths = self._lengths()
        return float(np.maximum(lengths - self.max_length, 0).sum() / lengths.sum())

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        max_length: int | None = None,
        ax: Any = None,
        hist_kw: Mapping[str, Any] | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Tokenise texts as an estimator does, and plot their lengths.

        Parameters
        ----------
        estimator : BertSentimentClassifier, BertEmbeddingTransformer or BertPretrainer
            Fitted or not. If it is not fitted, skbert reads the configuration and the tokenizer of
            `model`, but not its weights, and does not change the estimator. It issues no
            `TruncationWarning`.
        X : sequence of str, of length n_texts
            Texts or pairs of texts, as in `fit`. The length of a pair is that of its two texts and
            their special tokens. For `BertPretrainer`, also documents as lists of sentences, whose
            length is that of the whole document.
        max_length : int, default=None
            The number of tokens to compare the lengths with. None takes ``max_length`` of the
            estimator.
        ax : matplotlib Axes, default=None
            As in `plot`.
        hist_kw : dict, default=None
            As in `plot`.
        line_kw : dict, default=None
            As in `plot`.

        Returns
        -------
        TokenLengthDisplay
            The display, with its plot.

        Raises
        ------
        TypeError
            If `estimator` is anything else, for example a pipeline, or X contains something that is
            not a string.
        ValueError
            If X is empty or contains a missing text, if `max_length` exceeds the number of
            positions of the model, or if a `BertPretrainer` that starts from scratch has not
            learned its vocabulary yet.
        OSError
            If the files of the model are not available.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_estimator(estimator, cls, _ALLOWED)
        check_start(estimator.model)
        estimator._validate_params()
        validate_parameter_constraints(
            {"max_length": [Interval(Integral, smallest_max_length(1), None, closed="left"), None]},
            {"max_length": max_length},
            caller_name=f"{cls.__name__}.from_estimator",
        )
        texts = _texts_of(estimator, X)
        max_length = estimator.max_length if max_length is None else int(max_length)
        model = _model_of(estimator, cls)
        check_max_length(max_length, longest_text(model.config))
        subword_tokenizer = model.subword_tokenizer.naming_emoji(estimator.emoji_names)
        subword_tokenizer.layout.room(max_length, 1 if texts.second is None else 2)
        lengths = subword_tokenizer.count_tokens(texts.first, texts.second)
        display = cls(lengths, max_length=max_length)
        return display.plot(ax=ax, hist_kw=hist_kw, line_kw=line_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        hist_kw: Mapping[str, Any] | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the histogram, and a line at `max_length`.

        Very long texts share the last bar, as the label of the axis then says, so that the other
        texts stay visible.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            The Axes to draw on. None creates a figure.
        hist_kw : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.hist`, such as ``bins`` or ``color``. By
            default, the bars of truncated texts have another colour.
        line_kw : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.axvline` of the line at `max_length`.

        Returns
        -------
        self : TokenLengthDisplay
            The display, with `ax_` and the other attributes set.

        Raises
        ------
        ValueError
            If `lengths` is empty.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt
        from matplotlib.container import BarContainer
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch
        from matplotlib.ticker import MaxNLocator

        lengths = self._lengths()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        limit = self._limit()
        shown = np.minimum(lengths, limit)
        style = {"bins": self._edges(shown), "color": "C0"}
        style = merge_style(style, hist_kw, Patch)
        _, edges, self.bars_ = ax.hist(shown, **style)
        has_color = {"color", "facecolor"} & {*merge_style({}, hist_kw, Patch)}
        if isinstance(self.bars_, BarContainer) and not has_color:
            for bar, left in zip(self.bars_, edges, strict=False):
                bar.set_facecolor("C1" if left > self.max_length else "C0")
        # Between the bars of max_length, which is kept, and of max_length + 1.
        place = self.max_length + 0.5
        default = {**mark_style(), "label": f"max_length={self.max_length}"}
        self.line_ = ax.axvline(place, **merge_style(default, line_kw, Line2D))
        ax.set_xlim(0, 1.04 * max(edges[-1], place))
        more = f"; last bar: {limit} or more" if limit < lengths.max() else ""
        ax.set_xlabel(f"Tokens per text (special tokens included{more})")
        ax.set_ylabel("Density" if style.get("density") else "Number of texts")
        ax.margins(y=0.25)  # room for the legend
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        summary = Patch(color="C1", label=self._summary())
        ax.legend(handles=[self.line_, summary])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _lengths(self) -> np.ndarray:
        """Return `lengths` as an array of at least one text."""
        lengths = np.asarray(self.lengths)
        if not lengths.size:
            raise ValueError(
                "lengths contains 0 texts; a minimum of 1 is required. Pass the number of tokens "
                "of each text."
            )
        return lengths

    def _summary(self) -> str:
        texts, tokens = _percent(self.truncated_fraction), _percent(self.lost_fraction)
        return f"{texts} of texts truncated,\n{tokens} of tokens lost"

    def _limit(self) -> int:
        """Compute the length from which on texts share the last bar."""
        most = max(self.max_length, int(np.percentile(self.lengths, 99)))
        return min(_FAR * most, int(np.max(self.lengths)))

    def _edges(self, lengths: np.ndarray) -> np.ndarray:
        """Compute edges of bars, all of one width, so that one bar ends at `max_length`."""
        usual = np.percentile(lengths, 99) - lengths.min()
        width = max(1, round(usual / _N_BARS), round(np.ptp(lengths) / _MOST_BARS))
        anchor = self.max_length + 0.5
        first = np.floor((lengths.min() - 0.5 - anchor) / width)
        last = np.ceil((lengths.max() + 0.5 - anchor) / width)
        return anchor + width * np.arange(first, last + 1)


def _percent(share: float) -> str:
    """Write a share in percent; one that is nearly nothing or nearly all is not rounded to it."""
    if 0 < share < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.999 < share < 1 else f"{share:.1%}"


def _texts_of(estimator: Any, X: Any) -> Texts:
    """Check X as the estimator does, without a change of the estimator."""
    if isinstance(estimator, FromPretrainedMixin):
        return Texts(check_documents(estimator, X, reset=False).texts, None)
    return check_texts(estimator, X, reset=False)


@dataclass(frozen=True)
class _Model:
    """What the lengths depend on."""

    config: Any
    subword_tokenizer: SubwordTokenizer


def _model_of(estimator: Any, display: type) -> _Model:
    """Take the tokenizer of a fitted estimator, or read that of `model` without its weights."""
    if hasattr(estimator, "model_"):
        return _Model(estimator.model_.config, estimator._subword_tokenizer)
    stored = estimator._stored_weights() if hasattr(estimator, "_stored_weights") else None
    if stored:
        return _Model(stored.config, stored.subword_tokenizer)
    if not isinstance(estimator.model, str) and hasattr(estimator.model, "to_dict"):
        raise ValueError(
            f"{display.__name__} got a {type(estimator).__name__} whose model is a configuration "
            "and which is not fitted, but its vocabulary is learned by fit. Call fit first."
        )
    return _Model(load_config(estimator.model), load_subword_tokenizer(estimator.model))
