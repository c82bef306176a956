"""Pieces of a text -> the characters that they come from, and the words that they form.

numpy only; `subword_tokenizer` finds the pieces.
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
    is_blank : ndarray of shape (n_pieces,), bool
        Whether a piece stands for nothing but white space.
    """

    ids: np.ndarray
    names: list[str]
    spans: np.ndarray
    words: np.ndarray
    is_blank: np.ndarray

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

        A word is what the tokenizer calls one, with three exceptions: it contains no white space,
        pieces that share characters, such as those of the name of an emoji, are one word, and a
        piece of white space belongs to the next word, or to the last one.
        """
        trimmed = [_trim(text, *span) for span in spans]
        is_blank = [not text[start:stop].strip() for start, stop in trimmed]
        words = [-1] * len(trimmed)
        n_words, before = 0, -1
        for i, (start, stop) in enumerate(trimmed):
            if is_blank[i]:
                continue
            if before < 0 or not (
                start < trimmed[before][1]
                or (
                    tokenizer_words[i] == tokenizer_words[before]
                    and not _has_space(text[trimmed[before][0] : stop])
                )
            ):
                n_words += 1
            words[i], before = n_words, i
        return cls(
            np.array(ids, dtype=np.int64),
            list(names),
            np.array(trimmed, dtype=np.int64).reshape(-1, 2),
            _number_words(np.array(words, dtype=np.int64)),
            np.array(is_blank, dtype=bool),
        )

    def take(self, kept: Sequence[int]) -> TextPieces:
        """Select some pieces, in the order of `kept`, and number their words from 0."""
        rows = np.array(kept, dtype=np.int64)
        is_blank = self.is_blank[rows]
        return TextPieces(
            self.ids[rows],
            [self.names[i] for i in rows.tolist()],
            self.spans[rows],
            _number_words(np.where(is_blank, -1, self.words[rows])),
            is_blank,
        )

    @property
    def word_spans(self) -> np.ndarray:
        """Start and stop of the characters of each word; shape (n_words, 2), int64.

        They leave out white space, unless there is nothing else.
        """
        n_words = int(self.words.max(initial=-1)) + 1
        spans = np.empty((n_words, 2), dtype=np.int64)
        for rows in (np.ones_like(self.is_blank), ~self.is_blank):
            words, starts, stops = self.words[rows], self.spans[rows, 0], self.spans[rows, 1]
            spans[words] = np.iinfo(np.int64).max, -1
            np.minimum.at(spans[:, 0], words, starts)
            np.maximum.at(spans[:, 1], words, stops)
        return spans


def _number_words(words: np.ndarray) -> np.ndarray:
    """Renumber words from 0 without gaps; pieces with -1 join the next word, or the last one."""
    pieces = np.arange(len(words))
    is_word = words >= 0
    if not is_word.any():
        return np.zeros(len(words), dtype=np.int64)
    following = np.where(is_word, pieces, len(words))[::-1]
    following = np.minimum.accumulate(following)[::-1]
    joined = words[np.minimum(following, pieces[is_word][-1])]
    return np.unique(joined, return_inverse=True)[1].astype(np.int64)


def _trim(text: str, start: int, stop: int) -> tuple[int, int]:
    """Leave out spaces at both ends, which the pieces of some vocabularies contain."""
    inner = text[start:stop]
    if not inner.strip():
        return start, stop
    return start + len(inner) - len(inner.lstrip()), stop - len(inner) + len(inner.rstrip())


def _has_space(text: str) -> bool:
    return any(char.isspace() for char in text)
