"""Special tokens around texts and the room that they leave: worked examples, and consistency."""

import numpy as np
import pytest

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.text.layout import (
    Layout,
    n_special_tokens,
    share_room,
    smallest_max_length,
    truncate,
)
from skbert.engine.text.tokens import BareTokens

LAYOUT = Layout.of_bert(cls_id=101, sep_id=102)


def test_rooms_by_hand():
    assert [n_special_tokens(n) for n in (1, 2)] == [2, 3]
    assert [smallest_max_length(n) for n in (1, 2)] == [3, 5]
    assert [LAYOUT.room(12, n_segments) for n_segments in (1, 2)] == [10, 9]
    assert [LAYOUT.room_for_each(12, n_segments) for n_segments in (1, 2)] == [10, 4]


def test_single_texts_and_pairs_by_hand():
    texts = BareTokens.of([1, 2, 3, 4, 5, 6], [2, 1, 3, 0])
    tokens = LAYOUT.surround(texts, np.array([0, 2, 3, 1]), np.array([1, -1, 2, 3]))
    assert tokens.offsets.tolist() == [0, 6, 11, 17, 21]
    assert tokens.ids.tolist() == [
        *(101, 1, 2, 102, 3, 102),
        *(101, 4, 5, 6, 102),
        *(101, 102, 4, 5, 6, 102),
        *(101, 3, 102, 102),
    ]
    assert tokens.segment_ids.tolist() == [
        *(0, 0, 0, 0, 1, 1),
        *(0, 0, 0, 0, 0),
        *(0, 0, 1, 1, 1, 1),
        *(0, 0, 0, 1),
    ]
    assert tokens.n_lost.tolist() == [0, 0, 0, 0]


def test_no_texts():
    none = np.empty(0, dtype=np.int64)
    tokens = LAYOUT.surround(BareTokens.of([], []), none, none)
    assert (len(tokens), tokens.offsets.tolist(), tokens.ids.tolist()) == (0, [0], [])
    assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    assert tokens.is_special.tolist() == []


def test_special_tokens_that_a_text_spells_out_are_its_own():
    texts = BareTokens.of([101, 102, 7, 102], [2, 2])
    tokens = LAYOUT.surround(texts, np.array([0, 0]), np.array([1, -1]))
    assert tokens.is_special.astype(int).tolist() == [1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("n_segments", [1, 2])
def test_what_is_laid_out_is_what_was_counted(n_segments):
    rng = np.random.default_rng(n_segments)
    lengths = rng.integers(0, 6, 40)
    texts = BareTokens.of(rng.integers(0, 99, lengths.sum()).tolist(), lengths.tolist())
    first = rng.permutation(40)
    second = rng.permutation(40) if n_segments == 2 else np.full(40, -1)
    tokens = LAYOUT.surround(texts, first, second)
    is_special = tokens.is_special
    n_of_row = np.add.reduceat(is_special.astype(int), tokens.offsets[:-1])
    assert set(n_of_row.tolist()) == {n_special_tokens(n_segments)}
    assert set(tokens.ids[is_special].tolist()) == {101, 102}
    used = [row for pair in zip(first, second, strict=True) for row in pair if row >= 0]
    parts = [texts.ids[texts.offsets[i] : texts.offsets[i + 1]] for i in used]
    assert tokens.ids[~is_special].tolist() == np.concatenate(parts).tolist()


@pytest.mark.parametrize("pairs", [None, ["a good good film", "so very bad"]])
def test_rows_that_are_cut_fill_their_length(tiny_bert, pairs):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    texts = ["a very very good film", "it was the best film ever"]
    for max_length in range(smallest_max_length(1 if pairs is None else 2), 8):
        tokens = subword_tokenizer(texts, pairs, max_length=max_length, truncation="head")
        assert tokens.lengths.tolist() == [max_length, max_length]


def test_bare_texts_are_those_between_the_special_tokens(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    texts = ["a film", "", "very good film [SEP]"]
    bare = subword_tokenizer.tokenize_bare(texts)
    tokens = subword_tokenizer(texts, max_length=64, truncation="head")
    assert bare.ids.tolist() == tokens.ids[~tokens.is_special].tolist()
    assert bare.offsets.tolist() == [0, 2, 2, 6]
    assert subword_tokenizer.tokenize_bare([]).offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("limit", "head", "tail", "both"),
    [
        (1, [1], [9], [9]),
        (3, [1, 2, 3], [7, 8, 9], [7, 8, 9]),
        (4, [1, 2, 3, 4], [6, 7, 8, 9], [1, 7, 8, 9]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 4, 5, 6, 7, 8, 9]),
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9], list(range(1, 10))),
        (0, [], [], []),
    ],
)
def test_truncate_by_hand(limit, head, tail, both):
    ids = list(range(1, 10))
    assert [truncate(ids, limit, mode) for mode in ("head", "tail", "head+tail")] == [
        head,
        tail,
        both,
    ]


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ([3, 4], 7, [3, 4]),
        ([3, 9], 8, [3, 5]),
        ([9, 3], 8, [5, 3]),
        ([9, 9], 8, [4, 4]),
        ([9, 9], 7, [3, 4]),
        ([0, 9], 4, [0, 4]),
        ([5, 5], 0, [0, 0]),
        ([9], 4, [4]),
    ],
)
def test_share_room_by_hand(lengths, room, kept):
    assert share_room(lengths, room) == kept
