"""Tokens of texts, laid end to end: ids, segments and offsets.

numpy only; `subword_tokenizer` converts texts to ids, and `layout` adds special tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BareTokens:
    """Texts as ids laid end to end, without special tokens.

    Attributes
    ----------
    ids : ndarray of shape (n_tokens,), int32
    offsets : ndarray of shape (n_texts + 1,), int64
        Text i is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[int], lengths: Sequence[int]) -> BareTokens:
        """Create from the ids of all texts, and the number of tokens of each text."""
        ends = np.cumsum(np.array(lengths, dtype=np.int64))
        return cls(np.array(ids, dtype=np.int32), np.concatenate([[0], ends]))

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text; shape (n_texts,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Windows:
    """How the tokens of texts are divided into windows, which the encoder reads one by one.

    All windows of a text have the same length, and they follow each other.

    Attributes
    ----------
    offsets : ndarray of shape (n_texts + 1,), int64
        Text i has the windows ``offsets[i]:offsets[i + 1]``; at least one.
    lengths : ndarray of shape (n_windows,), int64
        Number of tokens of each window, special tokens included.
    is_repeated : ndarray of shape (n_tokens,), bool
        Whether an earlier window of the text contains the token, too. True for the special tokens
        of all windows but the first.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    is_repeated: np.ndarray

    @property
    def n_of_each(self) -> np.ndarray:
        """Number of windows of each text; shape (n_texts,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Tokens:
    """Texts as ids laid end to end.

    Attributes
    ----------
    ids : ndarray of shape (n_tokens,), int32
        Ids of pieces, special tokens included.
    segment_ids : ndarray of shape (n_tokens,), int32
        What the tokenizer of the model says. With BERT's, 0 for the first text of a pair and for
        single texts, 1 for the second.
    is_special : ndarray of shape (n_tokens,), bool
        Whether `Layout.surround` added the token. A text may contain "[SEP]", too; that is a token
        of the text, so it is False.
    offsets : ndarray of shape (n_texts + 1,), int64
        Text i is ``ids[offsets[i]:offsets[i + 1]]``.
    n_lost : ndarray of shape (n_texts,), int64
        Number of tokens of each text that were cut because the text was too long.
    windows : Windows or None
        None if each text is one window.
    """

    ids: np.ndarray
    segment_ids: np.ndarray
    is_special: np.ndarray
    offsets: np.ndarray
    n_lost: np.ndarray
    windows: Windows | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, in all of its windows; shape (n_texts,).

        Special tokens count, too.
        """
        return np.diff(self.offsets)

    @property
    def n_windows(self) -> np.ndarray:
        """Number of windows of each text; shape (n_texts,)."""
        return np.ones_like(self.lengths) if self.windows is None else self.windows.n_of_each

    @property
    def n_truncated(self) -> int:
        """Number of texts that were cut."""
        return int(np.count_nonzero(self.n_lost))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Find the positions of the tokens of some texts, in the order of `rows`: int64."""
        return ranges(self.offsets[rows], self.lengths[rows])

    def take(self, rows: np.ndarray) -> Tokens:
        """Select some texts, in the order of `rows`."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        source = self.places(rows)
        return Tokens(
            self.ids[source],
            self.segment_ids[source],
            self.is_special[source],
            offsets,
            self.n_lost[rows],
            self._windows_of(rows, source),
        )

    def _windows_of(self, rows: np.ndarray, source: np.ndarray) -> Windows | None:
        """Select the windows of some texts, whose tokens are at `source`."""
        n_of_each = self.n_windows[rows]
        if self.windows is None or np.all(n_of_each == 1):
            return None
        chosen = ranges(self.windows.offsets[rows], n_of_each)
        return Windows(
            np.concatenate([[0], np.cumsum(n_of_each)]),
            self.windows.lengths[chosen],
            self.windows.is_repeated[source],
        )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges ``start, ..., start + length - 1``."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Concatenate the texts of all parts, each of which is one window."""
    assert all(part.windows is None for part in parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.segment_ids for part in parts]),
        np.concatenate([part.is_special for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.n_lost for part in parts]),
    )
