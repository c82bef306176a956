"""Tokens in, `PackedBatch` out: texts laid end to end without padding, and the batches' order.

To fit sentences, a tutorial's loop that pads to 64 tokens takes 3 times as long, and Trainer with
length groups 1.6 times (bench_fit.py, AMD EPYC, two threads). numpy only. Every row given comes out
in exactly one batch; no text is dropped, whatever its length and however many are left for the last
batch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from skbert.engine.text.tokens import Tokens


@dataclass(frozen=True)
class PackedBatch:
    """Some texts, longest first, laid end to end.

    Attributes
    ----------
    ids, positions, segment_ids : ndarray of shape (n_tokens,), int32
        Of each token: its WordPiece id, its place in its own text (from 0), its segment.
    cu_seqlens : ndarray of shape (n_texts + 1,), int32
        Cumulative lengths: text i has the tokens ``cu_seqlens[i]:cu_seqlens[i + 1]``.
    rows : ndarray of shape (n_texts,), int64
        The row of each text in the caller's order.
    """

    ids: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    cu_seqlens: np.ndarray
    rows: np.ndarray


def pack(tokens: Tokens, rows: np.ndarray) -> PackedBatch:
    """Lay the texts of `rows` end to end.

    They are sorted by length so that neighbours, which are computed together in attention, are
    of equal or similar length; the sum over the batch does not depend on their order.
    """
    rows = np.asarray(rows, dtype=np.int64)
    rows = rows[np.argsort(-tokens.lengths[rows], kind="stable")]
    lengths = tokens.lengths[rows]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
    source = np.repeat(tokens.offsets[rows], lengths) + positions
    return PackedBatch(
        ids=tokens.ids[source],
        positions=positions.astype(np.int32),
        segment_ids=tokens.segment_ids[source],
        cu_seqlens=cu_seqlens.astype(np.int32),
        rows=rows,
    )


def token_index(tokens: Tokens, batch: PackedBatch) -> np.ndarray:
    """Where the tokens of `batch` stand in `tokens`; shape (n_tokens,)."""
    return np.repeat(tokens.offsets[batch.rows], np.diff(batch.cu_seqlens)) + batch.positions


def shuffled_batches(n_texts: int, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of each training batch: a fresh permutation, cut every `batch_size` texts."""
    rows = rng.permutation(n_texts)
    return [rows[i : i + batch_size] for i in range(0, n_texts, batch_size)]


def split_by_tokens(lengths: np.ndarray, rows: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Cut `rows`, longest text first, into parts of at most `token_budget` tokens each.

    A text longer than the budget makes a part of its own.
    """
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    return [rows[part] for part in cut_by_tokens(lengths[rows], token_budget)]


def cut_by_tokens(lengths: np.ndarray, token_budget: int) -> list[slice]:
    """Cut texts where they stand into neighbours of at most `token_budget` tokens together.

    A text longer than the budget makes a part of its own.
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
    """Rows of each inference batch: longest texts first, at most `token_budget` tokens each."""
    return split_by_tokens(lengths, np.arange(len(lengths)), token_budget)


def distinct_texts(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the distinct texts, and for each text the row that stands for it."""
    first_row: dict[bytes, int] = {}
    content = np.stack([tokens.ids, tokens.segment_ids], axis=1)
    stands_for = [
        first_row.setdefault(content[start:stop].tobytes(), row)
        for row, (start, stop) in enumerate(itertools.pairwise(tokens.offsets.tolist()))
    ]
    return np.array([*first_row.values()], dtype=np.int64), np.array(stands_for, dtype=np.int64)
