"""Packed texts: worked examples, and batches that contain every text once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skbert.engine.text.packing import budgeted_batches, pack, shuffled_batches
from skbert.engine.text.tokens import Tokens


def tokens_of(*texts):
    ids = np.array([i for text in texts for i in text], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    is_special = np.zeros(len(ids), dtype=bool)
    return Tokens(ids, np.zeros_like(ids), is_special, offsets, n_lost=np.zeros(len(texts)))


def test_pack_by_hand():
    tokens = tokens_of([2, 3], [2, 7, 8, 3], [2, 9, 3])
    batch = pack(tokens, np.array([0, 1, 2]))
    assert batch.rows.tolist() == [1, 2, 0]
    assert batch.ids.tolist() == [2, 7, 8, 3, 2, 9, 3, 2, 3]
    assert batch.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 4, 7, 9]
    assert batch.segment_ids.tolist() == [0] * 9


def test_pack_takes_rows_in_any_order_and_repeated():
    tokens = tokens_of([2, 3], [2, 7, 3])
    batch = pack(tokens, np.array([1, 0, 1]))
    assert batch.rows.tolist() == [1, 1, 0]
    assert batch.ids.tolist() == [2, 7, 3, 2, 7, 3, 2, 3]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(1, 70))
def test_every_row_is_in_exactly_one_batch(lengths, size):
    lengths = np.array(lengths)
    shuffled = shuffled_batches(len(lengths), size, np.random.default_rng(0))
    assert sorted(np.concatenate(shuffled)) == list(range(len(lengths)))
    assert [len(rows) for rows in shuffled[:-1]] == [size] * (len(shuffled) - 1)
    budgeted = budgeted_batches(lengths, size)
    assert sorted(np.concatenate(budgeted)) == list(range(len(lengths)))


def test_budgeted_batches_by_hand():
    batches = budgeted_batches(np.array([3, 9, 2, 4, 4]), token_budget=8)
    assert [rows.tolist() for rows in batches] == [[1], [3, 4], [0, 2]]


def test_budgeted_batches_of_nothing():
    assert budgeted_batches(np.array([], dtype=np.int64), token_budget=8) == []


@pytest.mark.parametrize("n_texts", [1, 31, 32, 33])
def test_the_last_batch_is_kept_whatever_its_size(n_texts):
    batches = shuffled_batches(n_texts, 32, np.random.default_rng(0))
    assert sum(len(rows) for rows in batches) == n_texts
