"""TokenAttributionDisplay: words coloured by how much they contribute to a class."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skbert.contract.containers import shorten
from skbert.contract.explanation import ExplainMixin, TextAttribution
from skbert.inspection.drawing import refused

# Blue and orange are distinct to the colour-blind; in between, the ground shows through.
_FOR, _AGAINST = (42, 111, 219), (222, 116, 9)

# Opacity of the strongest word. Text keeps a contrast of at least 4.5 to 1 on light and on dark
# ground.
_STRONGEST = 0.55

# How many words of a part that truncation cut a figure shows at most at each end.
_MOST_CUT_WORDS = 10

_ALLOWED = "a fitted BertSentimentClassifier"


@dataclass(frozen=True)
class _Part:
    """Characters of a text that belong to one word, or stand between words.

    `score` is None between words.
    """

    text: str
    score: float | None = None

    @property
    def is_unread(self) -> bool:
        """Whether the model did not read these characters, and they are no white space."""
        return self.score is None and not self.text.isspace()


class TokenAttributionDisplay:
    """Words coloured by their contribution to the logit of a class.

    Use `from_estimator` to explain texts and show the result. All parameters are stored as
    attributes. In a notebook, the display is shown as HTML, without matplotlib.

    Blue words speak for the class, orange words against it. The strongest word of each text has
    the strongest colour, so compare the colours within one text only. Words that truncation cut
    are grey.

    Parameters
    ----------
    attributions : list of TextAttribution
        What `skbert.BertSentimentClassifier.explain` returns.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The Axes with the texts.
    figure_ : matplotlib Figure
        The figure that contains them.
    words_ : list of list of matplotlib Text
        The words of each text.

    See Also
    --------
    skbert.BertSentimentClassifier.explain : Compute the contributions.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier
    >>> from skbert.inspection import TokenAttributionDisplay
    >>> clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
    >>> display = TokenAttributionDisplay.from_estimator(clf, ["The cast is wonderful."])
    >>> display.attributions[0].target
    'positive'
    """

    def __init__(self, attributions: Sequence[TextAttribution]) -> None:
        self.attributions = attributions

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        target: Any = None,
        method: Literal["integrated_gradients", "occlusion"] = "integrated_gradients",
        n_steps: int | Literal["auto"] = "auto",
        ax: Any = None,
    ) -> Self:
        """Explain texts and draw them.

        Parameters
        ----------
        estimator : BertSentimentClassifier
            A fitted classifier.
        X : sequence of str, of length n_texts
            The texts, or pairs of texts.
        target : label, default=None
            The class to explain. None explains the predicted class of each text.
        method : {"integrated_gradients", "occlusion"}, default="integrated_gradients"
            As in `skbert.BertSentimentClassifier.explain`.
        n_steps : int or "auto", default="auto"
            As in `skbert.BertSentimentClassifier.explain`.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        TokenAttributionDisplay

        Raises
        ------
        TypeError
            If `estimator` is anything else, for example a pipeline.
        NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed. ``TokenAttributionDisplay(clf.explain(X))`` needs none
            in a notebook.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        if not isinstance(estimator, ExplainMixin):
            raise refused(estimator, cls, _ALLOWED)
        check_is_fitted(estimator)
        return cls(estimator.explain(X, target, method, n_steps)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the texts below each other, broken into lines.

        A figure is for a few texts: it shows only the first and the last words of a longer part
        that truncation cut. matplotlib warns if its font lacks a character, such as an emoji; the
        HTML of a notebook shows them.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. Its ticks and frame become invisible. Lines end where it ends now, so
            set the size of the figure before. None creates a figure that is high enough.

        Returns
        -------
        self : TokenAttributionDisplay
            The display, with `ax_`, `figure_` and `words_` set.

        Raises
        ------
        TypeError
            If `attributions` is not a list of `TextAttribution`.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        _check_attributions(self.attributions)
        is_own = ax is None
        if is_own:
            _, ax = plt.subplots(layout="constrained")
        ax.set_axis_off()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        self.ax_, self.figure_ = ax, ax.figure
        with warnings.catch_warnings():  # matplotlib repeats them when it draws the figure
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            pen = _Pen(ax)
            self.words_ = [self._draw(pen, found) for found in self.attributions]
        if is_own:
            # The same words on the same lines: only the height changes.
            height = self.figure_.get_figheight() * max(pen.used, 0.1)
            self.figure_.set_figheight(height)
            ax.set_ylim(1 - pen.used, 1)
        return self

    def _draw(self, pen: _Pen, found: TextAttribution) -> list[Any]:
        pen.write(_readable(_title(found)), weight="bold", size="small")
        pen.end_line()
        words = []
        for number, text in enumerate(_texts(found)):
            for part in _parts(found, text, number):
                if part.score is None:
                    pen.write_between(part.text)
                else:
                    words.append(pen.write(part.text, ground=_colour(found, part.score)))
            pen.end_line()
        pen.end_line(0.7)
        return words

    def _repr_html_(self) -> str:
        """Write the texts as HTML, readable on light and on dark ground.

        All characters of the texts and of the labels are escaped.
        """
        _check_attributions(self.attributions)
        shown = "".join(_html(found) for found in self.attributions)
        return f'<div class="skbert-attribution" style="line-height: 1.9">{shown}</div>'


def _check_attributions(attributions: Any) -> None:
    is_list = isinstance(attributions, (list, tuple))
    if not is_list or not all(isinstance(found, TextAttribution) for found in attributions):
        raise TypeError(
            f"attributions is {shorten(attributions)} ({type(attributions).__name__}); a list of "
            "TextAttribution is required. Pass clf.explain(X), or [attribution] for a single one."
        )


def _readable(text: str) -> str:
    """Replace surrogates, which neither a font nor UTF-8 has, one by one."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _texts(found: TextAttribution) -> list[str]:
    """Return the one or two texts."""
    texts = (found.text,) if isinstance(found.text, str) else found.text
    return [_readable(text) for text in texts]


def _parts(found: TextAttribution, text: str, number: int) -> Iterator[_Part]:
    """Cut a text into its words and what stands between them."""
    is_here = found.word_texts == number
    spans = found.word_spans[is_here].tolist()
    stop_before = 0
    for (start, stop), score in zip(spans, found.word_scores[is_here].tolist(), strict=True):
        if start > stop_before:
            yield _Part(text[stop_before:start])
        if stop > stop_before:  # two words never show the same characters
            yield _Part(text[max(start, stop_before) : stop], score)
        stop_before = max(stop, stop_before)
    if text[stop_before:]:
        yield _Part(text[stop_before:])


def _share(found: TextAttribution, score: float) -> float:
    """Divide a score by the largest of the text: -1 to 1."""
    largest = np.abs(found.word_scores).max(initial=0.0)
    return score / largest if largest else 0.0


def _colour(found: TextAttribution, score: float) -> tuple[float, float, float, float]:
    """Choose red, green, blue and opacity, each 0 to 1."""
    share = _share(found, score)
    red, green, blue = _FOR if share > 0 else _AGAINST
    return red / 255, green / 255, blue / 255, _STRONGEST * abs(share)


def _title(found: TextAttribution) -> str:
    return f"{found.target}: logit {found.logit:.2f}, all words hidden {found.baseline_logit:.2f}"


def _html(found: TextAttribution) -> str:
    texts = []
    for number, text in enumerate(_texts(found)):
        spans = "".join(_html_of_part(found, part) for part in _parts(found, text, number))
        texts.append(f'<div dir="auto" style="white-space: pre-wrap">{spans}</div>')
    title = html.escape(_readable(_title(found)))
    return f'<div style="margin: 0 0 1em"><small><b>{title}</b></small>{"".join(texts)}</div>'


def _html_of_part(found: TextAttribution, part: _Part) -> str:
    text = html.escape(part.text)
    if part.is_unread:
        return f'<span style="opacity: 0.5" title="not read">{text}</span>'
    if part.score is None:
        return text
    *rgb, opacity = _colour(found, part.score)
    red, green, blue = (round(255 * value) for value in rgb)
    style = (
        f"background: rgba({red}, {green}, {blue}, {opacity:.2f}); color: inherit; "
        "border-radius: 0.2em; padding: 0.1em 0"
    )
    return f'<span style="{style}" title="{part.score:+.3f}">{text}</span>'


class _Pen:
    """Writes words from left to right into an Axes, and begins a new line where one is full.

    Attributes
    ----------
    used : float
        Height of all lines so far, as a share of the Axes.
    """

    def __init__(self, ax: Any) -> None:
        self._ax = ax
        if ax.figure.get_layout_engine() is not None:  # the Axes then has its final width
            ax.figure.draw_without_rendering()
        box = ax.get_window_extent()
        self._width, self._height = box.width, box.height
        sample = ax.text(0, 0, "bdpq", alpha=0)
        extent = sample.get_window_extent()
        sample.remove()
        self._line = 1.7 * extent.height / self._height
        self._gap = 0.3 * extent.height / self._width
        self._x, self.used = 0.0, 0.0

    def write(self, text: str, ground: Any = None, **style: Any) -> Any:
        """Write one word, on the next line if this one has no room for it."""
        from matplotlib.text import Text

        padding = {"boxstyle": "square,pad=0.15", "linewidth": 0, "facecolor": ground}
        word: Text = self._ax.text(
            0,
            0,
            text.strip("\n") or " ",
            verticalalignment="top",
            parse_math=False,
            clip_on=False,
            bbox=None if ground is None else padding,
            **style,
        )
        width = word.get_window_extent().width / self._width
        if self._x > 0 and self._x + width > 1:
            self.end_line()
        word.set_position((self._x, 1 - self.used))
        self._x += width
        return word

    def write_between(self, text: str) -> None:
        """Write what stands between two words: white space, or what was not read, in grey."""
        if text.isspace():
            self._x += self._gap
            if "\n" in text:
                self.end_line()
            return
        words = text.split()
        if len(words) > 2 * _MOST_CUT_WORDS:
            n_left_out = len(words) - 2 * _MOST_CUT_WORDS
            first, last = words[:_MOST_CUT_WORDS], words[-_MOST_CUT_WORDS:]
            words = [*first, f"[{n_left_out:,} more words not read]", *last]
        for word in words:
            self._x += self._gap
            self.write(word, alpha=0.4)
        self._x += self._gap

    def end_line(self, height: float = 1.0) -> None:
        """Begin a new line; twice in a row leaves some space, as much as `height` lines."""
        self.used += self._line * height
        self._x = 0.0
