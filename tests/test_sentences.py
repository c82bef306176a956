"""Sentences and their pairs: worked examples, and the share of true pairs."""

import numpy as np
import pytest

from skbert.engine.text.layout import Layout
from skbert.engine.text.sentences import (
    _SENTENCE_END,
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
from skbert.engine.text.tokens import BareTokens


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


def test_a_row_of_stops_is_tried_from_its_first_alone():
    """The time is not quadratic in the number of marks."""
    assert _SENTENCE_END.match("... ", 0).end() == 3
    assert not any(_SENTENCE_END.match("... ", start) for start in (1, 2))
    text = "." * 300_000 + "x"
    assert split_into_sentences(text) == [text]


def sentences_of(*documents):
    """Build Sentences from documents, which are lists of sentences, which are lists of ids."""
    flat = [sentence for document in documents for sentence in document]
    bare = BareTokens.of([i for sentence in flat for i in sentence], [len(s) for s in flat])
    return Sentences.of(bare, documents_of(documents), Layout.of_bert(cls_id=101, sep_id=102))


def test_whole_sentences_by_hand():
    sentences = sentences_of([[7, 8], []], [[9]])
    assert sentences.lengths.tolist() == [2, 0, 1]
    assert sentences.numbers.tolist() == [0, 1, 2]
    assert sentences.documents.tolist() == [0, 0, 1]
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
    assert sentences.bare.ids.tolist() == [*range(10), 50, 60, 61, 62]
    # pieces of one sentence are not successors of each other
    assert sentences.has_successor.tolist() == [False, False, True, False, False]


@pytest.fixture
def mixed():
    """Create documents of 1 to 8 sentences with 1 to 9 tokens, in pieces of at most 4 tokens."""
    rng = np.random.default_rng(0)
    documents = [[[d] * rng.integers(1, 10) for _ in range(rng.integers(1, 9))] for d in range(200)]
    return sentences_of(*documents).in_pieces(4)


def test_half_of_the_pairs_are_true_and_the_others_of_another_document(mixed):
    pairs = draw_pairs(mixed, np.random.default_rng(0))
    n_pairs = mixed.has_successor.sum()
    n_true, n_false = np.bincount(pairs.labels + 1)[1:]
    assert n_true + n_false == n_pairs and abs(n_true - n_false) <= 1
    true, false = pairs.labels == IS_NEXT, pairs.labels == NOT_NEXT
    assert (pairs.second[true] == pairs.first[true] + 1).all()
    assert (mixed.numbers[pairs.second[true]] == mixed.numbers[pairs.first[true]] + 1).all()
    document = mixed.documents
    assert (document[pairs.first[true]] == document[pairs.second[true]]).all()
    assert (document[pairs.first[false]] != document[pairs.second[false]]).all()
    assert (pairs.second[pairs.labels == NO_PAIR] == -1).all()


def test_each_sentence_is_once_a_first_and_once_a_second_text(mixed):
    rng = np.random.default_rng(0)
    followed = np.flatnonzero(mixed.has_successor)
    for _ in range(20):
        pairs = draw_pairs(mixed, rng)
        is_pair = pairs.labels != NO_PAIR
        assert np.sort(pairs.first[is_pair]).tolist() == followed.tolist()
        assert np.sort(pairs.second[is_pair]).tolist() == (followed + 1).tolist()
        rest = np.setdiff1d(np.arange(len(mixed)), [*followed, *(followed + 1)])
        assert pairs.first[~is_pair].tolist() == rest.tolist()


@pytest.mark.parametrize(
    "n_sentences",
    [[2, 2], [2] * 7, [6, 6], [5, 4, 7, 3], [40, *[3] * 30], [100, *[4] * 50], [300, 299]],
)
def test_nothing_but_the_words_tells_true_from_false(n_sentences):
    """Each sentence is in true and false pairs equally often, for any documents."""
    sentences = sentences_of(*([[d]] * n for d, n in enumerate(n_sentences)))
    rng, n_draws = np.random.default_rng(0), 1000
    n_true = np.zeros((2, len(sentences)))
    for _ in range(n_draws):
        pairs = draw_pairs(sentences, rng)
        true = pairs.labels == IS_NEXT
        n_true[0, pairs.first[true]] += 1
        n_true[1, pairs.second[true]] += 1
    begins = sentences.has_successor
    shares = np.stack([n_true[0, begins], n_true[1, np.roll(begins, 1)]]) / n_draws
    # standard deviation 0.016, and there are up to a thousand shares
    assert shares == pytest.approx(0.5, abs=5 * 0.016)


def test_any_documents():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n_documents = rng.integers(1, 8)
        documents = [
            [[d] * rng.integers(0, 9) for _ in range(rng.integers(1, rng.choice([3, 30])))]
            for d in range(n_documents)
        ]
        sentences = sentences_of(*documents).in_pieces(4)
        draws = [draw_pairs(sentences, rng) for _ in range(5)]
        for pairs in draws:
            true, false = pairs.labels == IS_NEXT, pairs.labels == NOT_NEXT
            assert (pairs.second[true] == pairs.first[true] + 1).all()
            document = sentences.documents
            assert (document[pairs.first[false]] != document[pairs.second[false]]).all()
            read = np.append(pairs.first, pairs.second[pairs.second >= 0])
            assert np.unique(read).tolist() == [*range(len(sentences))]
        assert len({len(pairs.labels) for pairs in draws}) == 1


def test_a_document_that_has_most_of_the_pairs_has_fewer_false_ones():
    sentences = sentences_of([[1]] * 9, [[2]] * 3)  # 8 and 2 pairs
    pairs = draw_pairs(sentences, np.random.default_rng(0))
    assert np.bincount(pairs.labels).tolist() == [6, 4]  # 2 of each with each other
    one = draw_pairs(sentences_of([[1]] * 9, [[2]]), np.random.default_rng(0))
    assert one.labels.tolist() == [IS_NEXT] * 8 + [NO_PAIR]


def test_strangers_are_all_that_follow_elsewhere_equally_often():
    sentences = sentences_of(*([[d]] * 4 for d in range(6)))
    rng = np.random.default_rng(0)
    counts = np.zeros((24, 24))
    for _ in range(3000):
        pairs = draw_pairs(sentences, rng)
        false = pairs.labels == NOT_NEXT
        np.add.at(counts, (pairs.first[false], pairs.second[false]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    expected = np.zeros(24)
    expected[[4 * d + i for d in range(1, 6) for i in (1, 2, 3)]] = 1 / 15
    assert shares[0] == pytest.approx(expected, abs=0.04)  # standard deviation 0.006


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
