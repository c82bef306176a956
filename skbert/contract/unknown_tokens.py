"""Count the tokens that a vocabulary does not contain, and warn if they are many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from skbert.engine.text.tokens import Tokens
from skbert.engine.text.wordpiece import WordPieceTokenizer
from skbert.engine.warn import warn_user

#: The share of unknown tokens above which skbert warns.
MOST_UNKNOWN = 0.03


class UnknownTokenWarning(UserWarning):
    """More than 3% of the tokens are unknown to the vocabulary of the model."""


@dataclass(frozen=True)
class UnknownTokens:
    """Numbers of tokens without the special tokens around texts.

    Attributes
    ----------
    n_unknown : int
        Number of tokens that the vocabulary does not contain.
    n_tokens : int
        Number of all tokens.
    """

    n_unknown: int
    n_tokens: int

    @classmethod
    def of(cls, tokens: Tokens, wordpiece: WordPieceTokenizer) -> UnknownTokens:
        """Count the tokens of texts."""
        is_word = ~tokens.is_special
        n_unknown = np.count_nonzero((tokens.ids == wordpiece.unknown_id) & is_word)
        return cls(int(n_unknown), int(np.count_nonzero(is_word)))

    @classmethod
    def total(cls, counts: Iterable[UnknownTokens]) -> UnknownTokens:
        """Add the counts of several parts."""
        counts = list(counts)
        return cls(sum(c.n_unknown for c in counts), sum(c.n_tokens for c in counts))

    def warn(self) -> None:
        """Warn if more than `MOST_UNKNOWN` of the tokens are unknown."""
        if self.n_unknown <= MOST_UNKNOWN * self.n_tokens:
            return
        warn_user(
            f"{self.n_unknown} of {self.n_tokens} tokens ({self.n_unknown / self.n_tokens:.1%}) "
            "are not in the vocabulary of the model, which reads all of them as the same unknown "
            "token. Choose with `model` a model for the language of the texts.",
            UnknownTokenWarning,
        )
