"""Tokens -> `PackedBatch`: texts laid end to end without padding, and the order of the batches.

Packing saves time. On sentences, a loop that pads to 64 tokens takes 3 times as long as `fit`, and
Trainer with length groups 1.6 times (bench_fit.py, AMD EPYC, two threads). Each text is in exactly
one batch, whatever its length, and the last batch may have fewer texts. numpy only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from skbert.engine.text.tokens import Tokens


@dataclass(frozen=True)
class PackedBatch:
    """Some texts, longest first, laid end to end.

    A sequence is what attention reads by itself: a text, or a window of a text.

    Attributes
    ----------
    ids, positions, segment_ids : ndarray of shape (n_tokens,), int32
        Token id, position in its sequence (from 0), and segment of each token.
    cu_seqlens : ndarray of shape (n_sequences + 1,), int32
        Cumulative lengths: sequence i has the tokens ``cu_seqlens[i]:cu_seqlens[i + 1]``.
    rows : ndarray of shape (n_texts,), int64
        The row of each text in the caller's order.
    cu_windows : ndarray of shape (n_texts + 1,), int32, or None
        Cumulative numbers of windows: text i has the sequences ``cu_windows[i]:cu_windows[i + 1]``.
        None if each text is one sequence.
    """

    ids: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    cu_seqlens: np.ndarray
    rows: np.ndarray
    cu_windows: np.ndarray | None = None

    @property
    def cu_texts(self) -> np.ndarray:
        """Cumulative lengths of texts, with all of their windows: (n_texts + 1,), int32."""
        return self.cu_seqlens if self.cu_windows is None else self.cu_seqlens[self.cu_windows]


def pack(tokens: Tokens, rows: np.ndarray) -> PackedBatch:
    """Lay the texts of `rows` end to end, sorted by the length of their windows.

    Attention processes neighbours together, which is fastest if they have similar lengths. The sum
    over the batch does not depend on the order.
    """
    rows = np.asarray(rows, dtype=np.int64)
    n_windows = tokens.n_windows[rows]
    of_window = tokens.lengths[rows] // n_windows
    order = np.argsort(-of_window, kind="stable")
    rows, n_windows = rows[order], n_windows[order]
    lengths = np.repeat(of_window[order], n_windows)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
    source = tokens.places(rows)
    cu_windows = np.concatenate([[0], np.cumsum(n_windows)]).astype(np.int32)
    return PackedBatch(
        ids=tokens.ids[source],
        positions=positions.astype(np.int32),
        segment_ids=tokens.segment_ids[source],
        cu_seqlens=cu_seqlens.astype(np.int32),
        rows=rows,
        cu_windows=None if len(lengths) == len(rows) else cu_windows,
    )


@dataclass(frozen=True)
class Filling:
    """Up to which size a batch is filled, so that different batches have one shape.

    Attributes
    ----------
    n_tokens : int
        Number of tokens, a filler included.
    longest : int
        No text has more tokens.
    """

    n_tokens: int
    longest: int

    @classmethod
    def of(cls, n_tokens: int, longest: int, step: int | None = None) -> Filling:
        """Round the number of tokens of a batch up to the next multiple of `step`.

        None rounds up by at most 256 tokens or a quarter, whichever is more: batches of 32 texts
        then have two or three different sizes.

        Parameters
        ----------
        n_tokens : int
            Without a filler.
        longest : int
            Number of tokens of the longest text of all batches.
        step : int or None
        """
        step = max(256, 1 << max(n_tokens.bit_length() - 3, 0)) if step is None else step
        return cls(next_multiple(n_tokens, step), max(next_multiple(longest, 256), step))


def next_multiple(n: int, step: int) -> int:
    """Compute the next multiple of `step` that is larger than `n`."""
    return (n // step + 1) * step


def fill(batch: PackedBatch, n_tokens: int) -> PackedBatch:
    """Append one meaningless text, the filler, so that the batch has `n_tokens` tokens.

    Its row is -1. No other text attends to it. If the loss ignores it, too, all gradients stay.
    """
    zeros = np.zeros(n_tokens - len(batch.ids), dtype=np.int32)
    return PackedBatch(
        ids=np.concatenate([batch.ids, zeros]),
        positions=np.concatenate([batch.positions, zeros]),
        segment_ids=np.concatenate([batch.segment_ids, zeros]),
        cu_seqlens=np.append(batch.cu_seqlens, np.int32(n_tokens)),
        rows=np.append(batch.rows, -1),
        cu_windows=(
            None
            if batch.cu_windows is None
            else np.append(batch.cu_windows, np.int32(len(batch.cu_seqlens)))
        ),
    )


def shuffled_batches(n_texts: int, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Permute the rows at random, and cut them into training batches of `batch_size` texts."""
    rows = rng.permutation(n_texts)
    return [rows[i : i + batch_size] for i in range(0, n_texts, batch_size)]


def split_by_tokens(lengths: np.ndarray, rows: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Sort `rows` by length, longest first, and cut them into parts of `token_budget` tokens.

    Parts may have fewer tokens. A text that is longer than the budget is a part by itself.
    """
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    return [rows[part] for part in cut_by_tokens(lengths[rows], token_budget)]


def cut_by_tokens(lengths: np.ndarray, token_budget: int) -> list[slice]:
    """Cut a sequence of texts, in their order, into parts of at most `token_budget` tokens each.

    A text that is longer than the budget is a part by itself.
    """
    if not len(lengths):
        return []
    starts = [0]
    n_tokens = 0
    for i, length in enumerate(lengths.tolist()):
        if n_tokens + length > token_budget and i > starts[-1]:
            starts.append(i)
            n_tokens = 0
        n_tokens += length
    return [slice(*ends) for ends in itertools.pairwise([*starts, len(lengths)])]


def budgeted_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Choose the rows of each inference batch, as `split_by_tokens` does."""
    return split_by_tokens(lengths, np.arange(len(lengths)), token_budget)


def distinct_texts(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of the distinct texts, and for each text the first row with the same tokens.

    Equal texts also have the same number of windows.
    """
    first_row: dict[tuple[bytes, int], int] = {}
    content = np.stack([tokens.ids, tokens.segment_ids], axis=1)
    n_windows = tokens.n_windows.tolist()
    stands_for = [
        first_row.setdefault((content[start:stop].tobytes(), n_windows[row]), row)
        for row, (start, stop) in enumerate(itertools.pairwise(tokens.offsets.tolist()))
    ]
    return np.array([*first_row.values()], dtype=np.int64), np.array(stands_for, dtype=np.int64)
