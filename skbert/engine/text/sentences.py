"""Documents -> sentences -> the pairs of BERT's next sentence prediction; long texts -> pieces.

Sentences are tokenised once, and each epoch pairs them at random. A model must not be able to tell
true pairs from false ones except by their content. Therefore each sentence is in true and false
pairs equally often, and two pieces of one sentence are never a pair. numpy only; no masking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skbert.engine.text.layout import Layout
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import BareTokens, Tokens

#: Labels of a pair, numbered as in the published BERTs, and the label of a single text.
IS_NEXT, NOT_NEXT, NO_PAIR = 0, 1, -1

# One or more full stops, exclamation or question marks, with or without spaces between them, then
# closing quotes or brackets, then a space. The lookbehind starts a match only at the first mark of
# a series; otherwise a long series would take quadratic time.
_SENTENCE_END = re.compile(r"""(?<![.!?])[.!?](?:\s*[.!?])*["'\u2019\u201d)\]]*(?=\s)""")


def split_into_sentences(text: str) -> list[str]:
    """Cut a text into sentences, by a simple rule.

    A sentence ends at a line break. It also ends after ``.``, ``!`` or ``?`` and any closing quotes
    and brackets, if a space follows. So the rule also cuts "Mr. Ed". To use better sentences, pass
    them as a list.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
        Sentences without surrounding spaces. One empty sentence if `text` is empty.

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
        The number of each piece's sentence, in ascending order.
    documents : ndarray of shape (n_pieces,), int64
        The number of each piece's document, in ascending order.
    layout : Layout
        The special tokens that `lay_out` puts around texts.
    """

    bare: BareTokens
    numbers: np.ndarray
    documents: np.ndarray
    layout: Layout

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each piece; shape (n_pieces,)."""
        return self.bare.lengths

    @property
    def has_successor(self) -> np.ndarray:
        """Whether the next sentence of the document follows each piece; (n_pieces,), bool."""
        found = np.zeros(len(self), dtype=bool)
        found[:-1] = (self.numbers[1:] != self.numbers[:-1]) & (
            self.documents[1:] == self.documents[:-1]
        )
        return found

    @classmethod
    def of(cls, bare: BareTokens, documents: np.ndarray, layout: Layout) -> Sentences:
        """Create from whole sentences, and the number of the document of each one."""
        return cls(bare, np.arange(len(bare)), documents, layout)

    def in_pieces(self, room: int) -> Sentences:
        """Cut longer sentences into equal pieces of at most `room` tokens; drop empty sentences."""
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
    """Pairs of sentences, or of pieces of sentences, and single ones.

    Attributes
    ----------
    first : ndarray of shape (n_texts,), int64
    second : ndarray of shape (n_texts,), int64
        -1 for a sentence without a partner.
    labels : ndarray of shape (n_texts,), int64
        `IS_NEXT`, `NOT_NEXT` or `NO_PAIR`.
    """

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray


def draw_pairs(sentences: Sentences, rng: np.random.Generator) -> Pairs:
    """Pair each sentence with its successor, or with a sentence of another document.

    About half of the pairs are true. The false pairs exchange their second sentences, so each
    sentence with a predecessor is the second of exactly one pair. Whether that pair is true is
    random, with a probability of one half, or nearly so if there are few pairs. If one document has
    more than half of all pairs, fewer of its pairs are false.

    In a sentence that was cut, the last piece has the successor, and the first piece is the
    successor of the sentence before. A piece without predecessor and successor stays single. It is
    not used for next sentence prediction, but its words can be masked. So each token is in at least
    one text, and every call returns the same number of texts.

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
    """Choose about half of the rows, and assign to each of them a chosen row of another document.

    The second result has the rows of the first one in another order. The chosen rows are sorted by
    document, and then rotated by at least as many rows as any document has among them.
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
    """Compute the number of rows to choose, as near to half of all rows as possible.

    No document may have more than half of the chosen rows.
    """
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
        n_texts texts, none of them cut.
    """
    return sentences.layout.surround(sentences.bare, first, second)


def lay_out_singly(sentences: Sentences) -> Tokens:
    """Put the special tokens around each sentence."""
    rows = np.arange(len(sentences))
    return lay_out(sentences, rows, np.full_like(rows, -1))


def documents_of(texts_of_documents: Sequence[Sequence[str]]) -> np.ndarray:
    """Compute the number of each sentence's document; shape (n_sentences,)."""
    n_sentences = [len(sentences) for sentences in texts_of_documents]
    return np.repeat(np.arange(len(n_sentences)), n_sentences)


def tokenize_in_pieces(
    subword_tokenizer: SubwordTokenizer, texts: Sequence[str], documents: np.ndarray, room: int
) -> Sentences:
    """Tokenise texts, and cut those with more than `room` tokens into equal pieces."""
    bare = subword_tokenizer.tokenize_bare(texts)
    return Sentences.of(bare, documents, subword_tokenizer.layout).in_pieces(room)


@dataclass(frozen=True)
class WholeTexts:
    """Complete texts, in pieces of limited length instead of truncated.

    Attributes
    ----------
    pieces : Tokens
        n_pieces tokenised texts.
    rows : ndarray of shape (n_pieces,), int64
        The number of each piece's text.
    """

    pieces: Tokens
    rows: np.ndarray

    @classmethod
    def of(
        cls, subword_tokenizer: SubwordTokenizer, texts: Sequence[str], max_length: int
    ) -> WholeTexts:
        """Tokenise single texts; `max_length` includes the special tokens of a piece."""
        room = subword_tokenizer.layout.room(max_length, n_segments=1)
        sentences = tokenize_in_pieces(subword_tokenizer, texts, np.arange(len(texts)), room)
        return cls(lay_out_singly(sentences), sentences.documents)

    def of_texts(self, rows: np.ndarray) -> Tokens:
        """Choose the pieces of some texts."""
        return self.pieces.take(np.flatnonzero(np.isin(self.rows, rows)))
