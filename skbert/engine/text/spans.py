"""Pieces of a text -> the characters that they come from, and the words that they form.

numpy only; `wordpiece` finds the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TextPieces:
    """The pieces of one text, in its order.

    Attributes
    ----------
    ids : ndarray of shape (n_pieces,), int64
    names : list of str
        As the vocabulary writes them, such as "##ing".
    spans : ndarray of shape (n_pieces, 2), int64
        Start and stop of the characters of each piece in the text.
    words : ndarray of shape (n_pieces,), int64
        The word of each piece, numbered from 0 without gaps.
    """

    ids: np.ndarray
    names: list[str]
    spans: np.ndarray
    words: np.ndarray

    @classmethod
    def of(
        cls,
        text: str,
        ids: Sequence[int],
        names: Sequence[str],
        spans: Sequence[tuple[int, int]],
        tokenizer_words: Sequence[int | None],
    ) -> TextPieces:
        """Create from what a tokenizer says.

        A word is what the tokenizer calls one, but it never contains a space, and all pieces that
        stand for the same characters, such as those of the name of an emoji, are one word.
        """
        trimmed = [_trim(text, *span) for span in spans]
        words: list[int] = []
        for i, span in enumerate(trimmed):
            is_same = (
                i > 0
                and (tokenizer_words[i] == tokenizer_words[i - 1] or span == trimmed[i - 1])
                and not _has_space(text[trimmed[i - 1][0] : span[1]])
            )
            words.append(words[-1] + (not is_same) if words else 0)
        places = np.array(trimmed, dtype=np.int64).reshape(-1, 2)
        return cls(np.array(ids, dtype=np.int64), list(names), places, np.array(words, np.int64))

    def take(self, kept: Sequence[int]) -> TextPieces:
        """Select some pieces, in the order of `kept`, and number their words from 0."""
        rows = np.array(kept, dtype=np.int64)
        _, words = np.unique(self.words[rows], return_inverse=True)
        names = [self.names[i] for i in rows.tolist()]
        return TextPieces(self.ids[rows], names, self.spans[rows], words.astype(np.int64))

    @property
    def word_spans(self) -> np.ndarray:
        """Start and stop of the characters of each word; shape (n_words, 2), int64."""
        firsts = np.flatnonzero(np.diff(self.words, prepend=-1))
        lasts = np.append(firsts[1:], len(self.words)) - 1 if len(firsts) else firsts
        return np.stack([self.spans[firsts, 0], self.spans[lasts, 1]], axis=1)


def _trim(text: str, start: int, stop: int) -> tuple[int, int]:
    """Leave out spaces at both ends, which the pieces of some vocabularies contain."""
    inner = text[start:stop]
    if not inner.strip():
        return start, stop
    return start + len(inner) - len(inner.lstrip()), stop - len(inner) + len(inner.rstrip())


def _has_space(text: str) -> bool:
    return any(char.isspace() for char in text)
