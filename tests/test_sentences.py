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
    ],
)
def test_splitting(text, sentences):
    assert split_into_sentences(text) == sentences


def sentences_of(*documents):
    """Documents as lists of sentences as lists of ids."""
    flat = [sentence for document in documents for sentence in document]
    return Sentences(
        np.array([i for sentence in flat for i in sentence], dtype=np.int32),
        np.cumsum([0, *map(len, flat)]),
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


def test_long_sentences_are_cut_into_equal_pieces_that_follow_each_other():
    sentences = sentences_of([[*range(10)], [50]], [[]], [[60, 61, 62]]).in_pieces(4)
    assert sentences.lengths.tolist() == [3, 3, 4, 1, 0, 3]
    assert sentences.documents.tolist() == [0, 0, 0, 0, 1, 2]
    assert sentences.ids.tolist() == [*range(10), 50, 60, 61, 62]
    assert sentences.has_successor.tolist() == [True, True, True, False, False, False]


def test_half_of_the_pairs_are_true_and_the_others_of_another_document():
    rng = np.random.default_rng(0)
    documents = [[[d] for _ in range(rng.integers(1, 9))] for d in range(200)]
    sentences = sentences_of(*documents)
    n_pairs = sum(len(document) - 1 for document in documents)
    n_single = sum(len(document) == 1 for document in documents)
    pairs = draw_pairs(sentences, rng)
    n_true = -(-n_pairs // 2)
    assert np.bincount(pairs.labels + 1).tolist() == [n_single, n_true, n_pairs - n_true]
    true, false = pairs.labels == IS_NEXT, pairs.labels == NOT_NEXT
    assert (pairs.second[true] == pairs.first[true] + 1).all()
    document = sentences.documents
    assert (document[pairs.first[true]] == document[pairs.second[true]]).all()
    assert (document[pairs.first[false]] != document[pairs.second[false]]).all()
    assert (pairs.second[pairs.labels == NO_PAIR] == -1).all()
    # each sentence that has a successor is the first of one pair
    begun = np.sort(pairs.first[pairs.labels != NO_PAIR])
    assert begun.tolist() == np.flatnonzero(sentences.has_successor).tolist()


def test_strangers_are_all_other_sentences_equally_often():
    sentences = sentences_of([[1], [1]], [[2], [2], [2]], [[3]])
    rng = np.random.default_rng(0)
    counts = np.zeros((6, 6))
    for _ in range(4000):
        pairs = draw_pairs(sentences, rng)
        false = pairs.labels == NOT_NEXT
        np.add.at(counts, (pairs.first[false], pairs.second[false]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    assert shares[0] == pytest.approx([0, 0, 0.25, 0.25, 0.25, 0.25], abs=0.04)
    assert shares[2] == pytest.approx([1 / 3, 1 / 3, 0, 0, 0, 1 / 3], abs=0.05)
    assert not counts[[1, 4, 5]].any()  # the last of a document begins no pair


def test_each_draw_is_another_and_the_generator_decides():
    sentences = sentences_of(*([[d]] * 5 for d in range(20)))
    rng = np.random.default_rng(3)
    first, second = draw_pairs(sentences, rng), draw_pairs(sentences, rng)
    again = draw_pairs(sentences, np.random.default_rng(3))
    assert first.second.tolist() == again.second.tolist()
    assert first.labels.tolist() != second.labels.tolist()


def test_documents_of_one_sentence_stand_alone():
    pairs = draw_pairs(sentences_of([[1]], [[2, 3]]), np.random.default_rng(0))
    assert pairs.first.tolist() == [0, 1] and pairs.labels.tolist() == [NO_PAIR, NO_PAIR]
