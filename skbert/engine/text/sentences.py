"""Documents -> sentences -> the pairs of BERT's next sentence prediction; long texts -> pieces.

Sentences are tokenised once; which of them stand side by side is drawn anew in each epoch. Nothing
but what the sentences say of each other may tell true pairs from false ones: each sentence is as
often in the one as in the other, and pieces of one sentence are never a pair.
numpy only; no masking, no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skbert.engine.text.layout import Layout
from skbert.engine.text.tokens import BareTokens, Tokens
from skbert.engine.text.wordpiece import WordPieceTokenizer

#: Labels of a pair, numbered as in the published BERTs; and of a text that is no pair.
IS_NEXT, NOT_NEXT, NO_PAIR = 0, 1, -1

# Full stops, exclamation and question marks, also several with spaces between, then closing
# quotes or brackets, then a space. A row of them is tried from its first alone: from each it would
# take time of its length squared.
_SENTENCE_END = re.compile(r"""(?<![.!?])[.!?](?:\s*[.!?])*["'\u2019\u201d)\]]*(?=\s)""")


def split_into_sentences(text: str) -> list[str]:
    """Cut a text into sentences, by a simple rule.

    A sentence ends at a line break, and after ``.``, ``!`` or ``?``, with the quotes and
    brackets that close there, where a space follows. So "Mr. Ed" is cut too; who has better
    sentences gives them as a list.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
        Without the spaces around them, and at least one, which is empty if `text` is.

    Examples
    --------
    >>> split_into_sentences('He said "no." Then . . . he left! At 5.30?')
    ['He said "no."', 'Then . . .', 'he left!', 'At 5.30?']
    """
    lines = _SENTENCE_END.sub(r"\g<0>\n", text).splitlines()
    return [line.strip() for line in lines if line.strip()] or [""]


@dataclass(frozen=True)
class Sentences:
    """Tokenised sentences or pieces of them, without special tokens.

    Attributes
    ----------
    bare : BareTokens
        The tokens of n_pieces sentences or pieces.
    numbers : ndarray of shape (n_pieces,), int64
        The number of each piece's sentence; never falling.
    documents : ndarray of shape (n_pieces,), int64
        The number of each piece's document; never falling.
    layout : Layout
        What `lay_out` puts around them.
    """

    bare: BareTokens
    numbers: np.ndarray
    documents: np.ndarray
    layout: Layout

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece; shape (n_pieces,)."""
        return self.bare.lengths

    @property
    def has_successor(self) -> np.ndarray:
        """Whether the next sentence of the document begins behind it; (n_pieces,), bool."""
        found = np.zeros(len(self), dtype=bool)
        found[:-1] = (self.numbers[1:] != self.numbers[:-1]) & (
            self.documents[1:] == self.documents[:-1]
        )
        return found

    @classmethod
    def of(cls, bare: BareTokens, documents: np.ndarray, layout: Layout) -> Sentences:
        """Take whole sentences; `documents` has the number of each one's document."""
        return cls(bare, np.arange(len(bare)), documents, layout)

    def in_pieces(self, room: int) -> Sentences:
        """Cut longer sentences into equal pieces of at most `room` tokens; leave out empty ones."""
        lengths = self.lengths
        n_pieces = -(-lengths // room)
        of = np.repeat(np.arange(len(self)), n_pieces)
        number = np.arange(len(of)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
        starts = self.bare.offsets[of] + number * lengths[of] // n_pieces[of]
        return replace(
            self,
            bare=replace(self.bare, offsets=np.append(starts, self.bare.offsets[-1])),
            numbers=self.numbers[of],
            documents=self.documents[of],
        )


@dataclass(frozen=True)
class Pairs:
    """Which sentences, or pieces of them, stand side by side.

    Attributes
    ----------
    first : ndarray of shape (n_texts,), int64
    second : ndarray of shape (n_texts,), int64
        -1 where a sentence stands alone.
    labels : ndarray of shape (n_texts,), int64
        `IS_NEXT`, `NOT_NEXT` or `NO_PAIR`.
    """

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray


def draw_pairs(sentences: Sentences, rng: np.random.Generator) -> Pairs:
    """Pair each sentence that has a successor with it, or with one of another document.

    Half of the pairs, as near as can be, are true. The others exchange their second texts among
    themselves, so that each sentence with a predecessor is the second of one pair, which is true
    or false by the toss of a coin, or nearly so among a handful. Only where a document has more
    than half of all pairs, fewer of its own are false.

    Of a sentence in pieces, the last one is followed, and the first one follows. What neither
    follows nor is followed stands alone: there is nothing to predict, but its words can be
    masked. So each token is in some text of each draw, and all draws have equally many texts.

    Parameters
    ----------
    sentences : Sentences
    rng : numpy.random.Generator
    """
    begins = sentences.has_successor
    first = np.flatnonzero(begins)
    second = first + 1
    is_paired = begins.copy()
    is_paired[second] = True
    alone = np.flatnonzero(~is_paired)
    labels = np.full_like(first, IS_NEXT)
    false, others = _exchange(sentences.documents[first], rng)
    labels[false] = NOT_NEXT
    second[false] = second[others]
    return Pairs(
        np.append(first, alone),
        np.append(second, np.full_like(alone, -1)),
        np.append(labels, np.full_like(alone, NO_PAIR)),
    )


def _exchange(documents: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose about half of the rows; and for each of them another, of another document.

    Both are the same rows in another order: one after the other by document, and turned by more
    rows than any document has.
    """
    _, of, sizes = np.unique(documents, return_inverse=True, return_counts=True)
    n_chosen = _n_exchanged(sizes, rng)
    order = rng.permutation(len(of))
    by_document = order[np.argsort(of[order], kind="stable")]
    rank = np.empty_like(order)  # among the rows of the same document
    rank[by_document] = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = order[rank[order] < n_chosen // 2][:n_chosen]
    place = rng.permutation(len(sizes))[of[chosen]]
    chosen = chosen[np.argsort(place, kind="stable")]
    largest = np.bincount(place, minlength=1).max()
    turn = rng.integers(largest, n_chosen - largest, endpoint=True)
    return chosen, np.roll(chosen, turn)


def _n_exchanged(sizes: np.ndarray, rng: np.random.Generator) -> int:
    """As near to half as can be, if no document may have more than half of what is chosen."""
    n_rows = int(sizes.sum())
    half = (n_rows + int(rng.integers(2))) // 2
    near = [half, *rng.permutation([half - 1, half + 1]).tolist()]
    largest = int(sizes.max(initial=0))
    for n_chosen in (*near, 2 * (n_rows - largest)):
        if 0 <= n_chosen <= n_rows and np.minimum(sizes, n_chosen // 2).sum() >= n_chosen:
            return n_chosen
    return 0


def lay_out(sentences: Sentences, first: np.ndarray, second: np.ndarray) -> Tokens:
    """Put the special tokens around pairs and single sentences.

    Parameters
    ----------
    sentences : Sentences
    first, second : ndarray of shape (n_texts,), int64
        As in `Pairs`.

    Returns
    -------
    Tokens
        Of n_texts texts, none of them cut.
    """
    return sentences.layout.surround(sentences.bare, first, second)


def lay_out_singly(sentences: Sentences) -> Tokens:
    """Put the special tokens around each sentence."""
    rows = np.arange(len(sentences))
    return lay_out(sentences, rows, np.full_like(rows, -1))


def documents_of(texts_of_documents: Sequence[Sequence[str]]) -> np.ndarray:
    """Count, for all sentences one after the other, the documents: shape (n_sentences,)."""
    n_sentences = [len(sentences) for sentences in texts_of_documents]
    return np.repeat(np.arange(len(n_sentences)), n_sentences)


def tokenize_in_pieces(
    wordpiece: WordPieceTokenizer, texts: Sequence[str], documents: np.ndarray, room: int
) -> Sentences:
    """Tokenise texts whole, then cut those that are longer than `room` into equal pieces."""
    bare = wordpiece.tokenize_bare(texts)
    return Sentences.of(bare, documents, wordpiece.layout).in_pieces(room)


@dataclass(frozen=True)
class WholeTexts:
    """Texts of which nothing is left out, in pieces of limited length.

    Attributes
    ----------
    pieces : Tokens
        n_pieces tokenised texts.
    rows : ndarray of shape (n_pieces,), int64
        The text that each is of.
    """

    pieces: Tokens
    rows: np.ndarray

    @classmethod
    def of(cls, wordpiece: WordPieceTokenizer, texts: Sequence[str], max_length: int) -> WholeTexts:
        """Tokenise single texts; `max_length` counts the special tokens of a piece."""
        room = wordpiece.layout.room(max_length, n_segments=1)
        sentences = tokenize_in_pieces(wordpiece, texts, np.arange(len(texts)), room)
        return cls(lay_out_singly(sentences), sentences.documents)

    def of_texts(self, rows: np.ndarray) -> Tokens:
        """Choose the pieces of some texts."""
        return self.pieces.take(np.flatnonzero(np.isin(self.rows, rows)))
