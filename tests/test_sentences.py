"""Sentences and their pairs: by hand, then half true and half of another document."""

import numpy as np
import pytest

from skbert.engine.sentences import (
    IS_NEXT,
    NO_PAIR,
    NOT_NEXT,
    Sentences,
    documents_of,
    draw_pairs,
    lay_out,
    lay_out_singly,
    split_into_sentences,
)
from skbert.engine.tokens import Tokens


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("no stop at all", ["no stop at all"]),
        ("", [""]),
        ("  \n ", [""]),
        ("A line\nanother line\r\n\nand a third", ["A line", "another line", "and a third"]),
        (
            'He said "no." She left (at 5.30!) Then',
            ['He said "no."', "She left (at 5.30!)", "Then"],
        ),
        ("wait . . . what ?! yes .", ["wait . . .", "what ?!", "yes ."]),
        ("Mr. Ed", ["Mr.", "Ed"]),  # the rule is a simple one
        ("...", ["..."]),
        ("wait...what? yes", ["wait...what?", "yes"]),
    ],
)
def test_splitting(text, sentences):
    assert split_into_sentences(text) == sentences


def test_splitting_takes_no_time_of_the_length_squared():
    text = "." * 300_000 + "x"  # hours, if each stop were tried as the first
    assert split_into_sentences(text) == [text]


def sentences_of(*documents):
    """Documents as lists of sentences as lists of ids."""
    flat = [sentence for document in documents for sentence in document]
    return Sentences(
        np.array([i for sentence in flat for i in sentence], dtype=np.int32),
        np.cumsum([0, *map(len, flat)]),
        np.arange(len(flat)),
        documents_of(documents),
        cls_id=101,
        sep_id=102,
    )


def test_special_tokens_are_taken_off():
    ids = np.array([101, 7, 8, 102, 101, 102, 101, 9, 102], dtype=np.int32)
    tokens = Tokens(ids, np.zeros_like(ids), np.array([0, 4, 6, 9]), np.zeros(3, dtype=np.int64))
    sentences = Sentences.of(tokens, np.array([0, 0, 1]))
    assert sentences.ids.tolist() == [7, 8, 9]
    assert sentences.offsets.tolist() == [0, 2, 2, 3]
    assert (sentences.cls_id, sentences.sep_id) == (101, 102)
    assert sentences.has_successor.tolist() == [True, False, False]


def test_laying_out_pairs_and_single_sentences():
    sentences = sentences_of([[1, 2], [3]], [[4, 5, 6]], [[]])
    tokens = lay_out(sentences, np.array([0, 2, 3]), np.array([1, -1, 2]))
    assert tokens.offsets.tolist() == [0, 6, 11, 17]
    assert tokens.ids.tolist() == (
        [101, 1, 2, 102, 3, 102, 101, 4, 5, 6, 102, 101, 102, 4, 5, 6, 102]
    )
    assert tokens.segment_ids.tolist() == [0, 0, 0, 0, 1, 1] + [0] * 5 + [0, 0, 1, 1, 1, 1]
    assert lay_out_singly(sentences).lengths.tolist() == [4, 3, 5, 2]


def test_long_sentences_are_cut_into_equal_pieces_and_empty_ones_left_out():
    sentences = sentences_of([[*range(10)], [], [50]], [[]], [[60, 61, 62]]).in_pieces(4)
    assert sentences.lengths.tolist() == [3, 3, 4, 1, 3]
    assert sentences.numbers.tolist() == [0, 0, 0, 2, 4]
    assert sentences.documents.tolist() == [0, 0, 0, 0, 2]
    assert sentences.ids.tolist() == [*range(10), 50, 60, 61, 62]
    # the pieces of a sentence are no successors of each other
    assert sentences.has_successor.tolist() == [False, False, True, False, False]


@pytest.fixture
def mixed():
    """Documents of 1 to 8 sentences of 1 to 9 tokens, in pieces of at most 4."""
    rng = np.random.default_rng(0)
    documents = [[[d] * rng.integers(1, 10) for _ in range(rng.integers(1, 9))] for d in range(200)]
    return sentences_of(*documents).in_pieces(4)


def test_half_of_the_pairs_are_true_and_the_others_of_another_document(mixed):
    pairs = draw_pairs(mixed, np.random.default_rng(0))
    n_pairs = mixed.has_successor.sum()
    n_true = -(-n_pairs // 2)
    assert np.bincount(pairs.labels + 1)[1:].tolist() == [n_true, n_pairs - n_true]
    true, false = pairs.labels == IS_NEXT, pairs.labels == NOT_NEXT
    assert (pairs.second[true] == pairs.first[true] + 1).all()
    assert (mixed.numbers[pairs.second[true]] == mixed.numbers[pairs.first[true]] + 1).all()
    document = mixed.documents
    assert (document[pairs.first[true]] == document[pairs.second[true]]).all()
    assert (document[pairs.first[false]] != document[pairs.second[false]]).all()
    assert (pairs.second[pairs.labels == NO_PAIR] == -1).all()
    # each sentence that has a successor is the first of one pair
    begun = np.sort(pairs.first[pairs.labels != NO_PAIR])
    assert begun.tolist() == np.flatnonzero(mixed.has_successor).tolist()


def test_nothing_but_the_words_tells_true_from_false(mixed):
    """First and second texts of both kinds are of the same sentences, equally long."""
    rng = np.random.default_rng(0)
    counts = np.zeros((2, 2, len(mixed)))  # of each label and place
    for _ in range(500):
        pairs = draw_pairs(mixed, rng)
        for label in (IS_NEXT, NOT_NEXT):
            chosen = pairs.labels == label
            np.add.at(counts[label, 0], pairs.first[chosen], 1)
            np.add.at(counts[label, 1], pairs.second[chosen], 1)
    for place, allowed in enumerate((mixed.has_successor, np.roll(mixed.has_successor, 1))):
        assert not counts[:, place, ~allowed].any()
        expected = np.full(allowed.sum(), 250)  # standard deviation 11 and 16
        assert np.abs(counts[IS_NEXT, place, allowed] - expected).max() < 6 * 16
        assert np.abs(counts[NOT_NEXT, place, allowed] - expected).max() < 6 * 16
        lengths = mixed.lengths[allowed]
        means = [np.average(lengths, weights=counts[label, place, allowed]) for label in (0, 1)]
        assert means[0] == pytest.approx(means[1], rel=0.01)


def test_each_piece_is_in_some_text_of_each_draw(mixed):
    rng = np.random.default_rng(0)
    n_texts = set()
    for _ in range(20):
        pairs = draw_pairs(mixed, rng)
        alone = pairs.first[pairs.labels == NO_PAIR]
        paired = [pairs.first[pairs.labels != NO_PAIR], pairs.second[pairs.labels != NO_PAIR]]
        assert np.unique([*alone, *paired[0], *paired[1]]).tolist() == [*range(len(mixed))]
        assert len(np.unique(alone)) == len(alone)
        n_texts.add(len(pairs.labels))
    assert len(n_texts) == 1


def test_strangers_are_all_sentences_that_follow_elsewhere_equally_often():
    sentences = sentences_of([[1], [1]], [[2], [2], [2]], [[3]], [[4], [4]])
    rng = np.random.default_rng(0)
    counts = np.zeros((8, 8))
    for _ in range(4000):
        pairs = draw_pairs(sentences, rng)
        false = pairs.labels == NOT_NEXT
        np.add.at(counts, (pairs.first[false], pairs.second[false]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    assert shares[0] == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 0, 0, 1 / 3], abs=0.05)
    assert shares[2] == pytest.approx([0, 0.5, 0, 0, 0, 0, 0, 0.5], abs=0.05)
    assert not counts[[1, 4, 5, 7]].any()  # the last of a document begins no pair


def test_each_draw_is_another_and_the_generator_decides():
    sentences = sentences_of(*([[d]] * 5 for d in range(20)))
    rng = np.random.default_rng(3)
    first, second = draw_pairs(sentences, rng), draw_pairs(sentences, rng)
    again = draw_pairs(sentences, np.random.default_rng(3))
    assert first.second.tolist() == again.second.tolist()
    assert first.labels.tolist() != second.labels.tolist()


def test_documents_of_one_sentence_stand_alone():
    sentences = sentences_of([[1]], [[2, 3]], [[4, 5, 6, 7, 8]]).in_pieces(3)
    pairs = draw_pairs(sentences, np.random.default_rng(0))
    assert pairs.first.tolist() == [0, 1, 2, 3]
    assert pairs.labels.tolist() == [NO_PAIR] * 4
