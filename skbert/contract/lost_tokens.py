"""Count what a model does not see of texts, truncated and unknown tokens, and warn of it once.

A cross-validation fits, predicts and scores on similar texts, and one warning for each is noise. So
an estimator warns once after `fit`, and again only when a prediction loses far more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from skbert.engine.model.families import longest_text
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import Tokens
from skbert.engine.text.windows import WINDOWS
from skbert.engine.warn import warn_user

#: The share of unknown tokens above which skbert warns.
MOST_UNKNOWN = 0.03

#: A prediction repeats a warning if it loses more than so many times the share of the last one.
_FAR_MORE = 2

#: The share of tokens of which each estimator has warned, by its category and parameters.
_told: WeakKeyDictionary[Any, dict[tuple[Any, ...], float]] = WeakKeyDictionary()


class TruncationWarning(UserWarning):
    """Some texts are longer than `max_length` tokens and were truncated.

    Examples
    --------
    >>> import warnings
    >>> from skbert import BertSentimentClassifier, TruncationWarning
    >>> clf = BertSentimentClassifier(max_length=4, max_epochs=1)
    >>> with warnings.catch_warnings(action="ignore", category=TruncationWarning):
    ...     clf = clf.fit(["what a great joy", "so dull"], ["good", "bad"])
    >>> clf.n_truncated_
    1
    """


class UnknownTokenWarning(UserWarning):
    """More than 3% of the tokens are unknown to the vocabulary of the model.

    Examples
    --------
    >>> import warnings
    >>> from skbert import BertSentimentClassifier, UnknownTokenWarning
    >>> clf = BertSentimentClassifier(max_epochs=1)
    >>> with warnings.catch_warnings(action="ignore", category=UnknownTokenWarning):
    ...     clf = clf.fit(["หนังดีมาก", "so dull"], ["good", "bad"])
    >>> clf.n_unknown_tokens_ > 0
    True
    """


@dataclass(frozen=True)
class LostTokens:
    """Numbers of texts and tokens.

    Attributes
    ----------
    n_texts : int
    n_truncated : int
        Number of truncated texts.
    n_kept, n_cut : int
        Number of tokens that are kept, with the special tokens around texts, and that are cut off.
        A token that several windows of a text contain counts once.
    n_special : int
        Number of special tokens around texts.
    n_unknown : int
        Number of tokens that the vocabulary does not contain.
    """

    n_texts: int = 0
    n_truncated: int = 0
    n_kept: int = 0
    n_cut: int = 0
    n_special: int = 0
    n_unknown: int = 0

    @classmethod
    def of(cls, tokens: Tokens, subword_tokenizer: SubwordTokenizer) -> LostTokens:
        """Count the tokens of texts."""
        count = np.count_nonzero
        ids, is_special = tokens.ids, tokens.is_special
        if tokens.windows is not None:
            is_first = ~tokens.windows.is_repeated
            ids, is_special = ids[is_first], is_special[is_first]
        is_unknown = (ids == subword_tokenizer.unknown_id) & ~is_special
        return cls(
            n_texts=len(tokens.n_lost),
            n_truncated=int(count(tokens.n_lost)),
            n_kept=len(ids),
            n_cut=int(tokens.n_lost.sum()),
            n_special=int(count(is_special)),
            n_unknown=int(count(is_unknown)),
        )

    @classmethod
    def total(cls, counts: Iterable[LostTokens]) -> LostTokens:
        """Add the counts of several sets of texts."""
        return cls(*map(sum, zip(*map(astuple, [cls(), *counts]), strict=True)))

    def warn(self, estimator: Any, config: Any, *, selects: bool = True) -> None:
        """Warn once of truncated texts, and once of more than `MOST_UNKNOWN` unknown tokens.

        Parameters
        ----------
        estimator : estimator
            Its `max_length` is named.
        config : transformers.PreTrainedConfig
            The configuration of the model, which limits what the warning advises.
        selects : bool, default=True
            Whether the estimator has the parameter `truncation`.
        """
        n_tokens = self.n_kept - self.n_special
        if self.n_truncated and _is_news(
            estimator, TruncationWarning, self.n_cut / (self.n_cut + self.n_kept)
        ):
            self._warn_of_truncation(estimator, config, selects)
        if self.n_unknown > MOST_UNKNOWN * n_tokens and _is_news(
            estimator, UnknownTokenWarning, self.n_unknown / n_tokens
        ):
            warn_user(
                f"{self.n_unknown} of {n_tokens} tokens ({self.n_unknown / n_tokens:.1%}) are not "
                "in the vocabulary of the model, which reads all of them as the same unknown "
                "token. Choose with `model` a model for the language of the texts.",
                UnknownTokenWarning,
            )

    def _warn_of_truncation(self, estimator: Any, config: Any, selects: bool) -> None:
        if getattr(estimator, "truncation", None) == WINDOWS:
            warn_user(
                f"{self.n_truncated} of {self.n_texts} texts do not fit into "
                f"max_windows={estimator.max_windows} windows of max_length="
                f"{estimator.max_length} tokens; {self.n_cut} tokens between the windows are not "
                f"read, {self.n_cut / (self.n_cut + self.n_kept):.1%} of all. Increase "
                "max_windows, or set it to None for no limit.",
                TruncationWarning,
            )
            return
        most = longest_text(config)
        other = "choose with `truncation` which part to keep" if selects else "pass shorter texts"
        advice = (
            f"Increase max_length, or {other}."
            if estimator.max_length < most
            else f"The model reads at most {most} tokens: {other}."
        )
        warn_user(
            f"{self.n_truncated} of {self.n_texts} texts are longer than "
            f"max_length={estimator.max_length} tokens and were truncated; {self.n_cut} tokens "
            f"were cut off, {self.n_cut / (self.n_cut + self.n_kept):.1%} of all. {advice}",
            TruncationWarning,
        )


def forget_warnings(estimator: Any) -> None:
    """Let an estimator warn again, because it is fitted anew."""
    _told.pop(estimator, None)


def _is_news(estimator: Any, category: type[Warning], share: float) -> bool:
    """Whether an estimator has not yet warned of about as large a share of lost tokens."""
    told = _told.setdefault(estimator, {})
    names = ("max_length", "truncation", "max_windows")
    key = (category, *(getattr(estimator, name, None) for name in names))
    if share <= _FAR_MORE * told.get(key, 0.0):
        return False
    told[key] = share
    return True
