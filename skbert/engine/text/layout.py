"""Ids of bare texts -> `Tokens` with special tokens; and the room that the special tokens leave.

A tokenizer of BERT turns a single text into ``[CLS] text [SEP]``, and a pair into ``[CLS] first
[SEP] second [SEP]``; `post_processor` finds out what other tokenizers do. Only this file knows the
positions and the number of special tokens. A row has one or two texts, which are its segments.
numpy only; `subword_tokenizer` converts texts to ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skbert.engine.text.tokens import BareTokens, Tokens, ranges

#: The part of a longer text that is kept; see `truncate`.
TRUNCATIONS = ("head", "tail", "head+tail")


#: What a row with so many texts is, in the words of errors; and what to do if it has no room.
_KINDS = {1: "single texts", 2: "pairs of texts"}
_ADVICE = {
    1: "Choose a model with segments, or the tokenizer files that belong to the model.",
    2: "Choose a model with segments, or join the two texts of each pair.",
}


def n_special_tokens(n_segments: int) -> int:
    """Compute the number of special tokens of BERT: [CLS], and [SEP] after each segment."""
    return 1 + n_segments


def smallest_max_length(n_segments: int) -> int:
    """Compute the length of a row with one token per segment: 3 for single texts, 5 for pairs.

    Another layout than BERT's may need more; `Layout.room` then raises an error.
    """
    return n_special_tokens(n_segments) + n_segments


def truncate(ids: Sequence[int], limit: int, truncation: str) -> Sequence[int]:
    """Keep at most `limit` ids.

    "head" keeps the first ids, "tail" the last ones, and "head+tail" a quarter from the start and
    the rest from the end. Sun et al. (2019, section 5.3.1) found this proportion best on IMDB: 128
    tokens from the start and 382 from the end.
    """
    if len(ids) <= limit:
        return ids
    n_head = n_of_head(limit, truncation)
    return [*ids[:n_head], *ids[len(ids) - (limit - n_head) :]]


def n_of_head(limit: int, truncation: str) -> int:
    """Compute how many of `limit` kept ids are the first ones; see `truncate`."""
    return {"head": limit, "tail": 0, "head+tail": limit // 4}[truncation]


def share_room(lengths: list[int], room: int) -> list[int]:
    """Compute the number of tokens to keep of each segment, so that they have at most `room`.

    In a pair, the longer text is shortened first. If both texts are longer than half of the room,
    each gets half. If `room` is odd, the longer text gets one token more, or the second one if both
    are equally long.
    """
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    shorter, longer = (0, 1) if lengths[0] <= lengths[1] else (1, 0)
    kept = [0, 0]
    kept[shorter] = min(lengths[shorter], room // 2)
    kept[longer] = room - kept[shorter]
    return kept


@dataclass(frozen=True)
class Piece:
    """A part of a row: one of its texts, or one special token.

    Attributes
    ----------
    segment_id : int
        The segment (token type) id of its tokens.
    text : int or None
        0 for the first text of the row, 1 for the second; None for a special token.
    token_id : int or None
        The id of a special token; None for a text.
    """

    segment_id: int
    text: int | None = None
    token_id: int | None = None


@dataclass(frozen=True)
class Layout:
    """What a tokenizer puts around single texts and around pairs.

    Attributes
    ----------
    single, pair : tuple of Piece
        The parts of a row with one text, and of a row with two texts, from left to right.
    type_vocab_size : int or None
        The number of segment ids that the model has; None if it has none, or if it is not
        known. Then any id fits.
    """

    single: tuple[Piece, ...]
    pair: tuple[Piece, ...]
    type_vocab_size: int | None = None

    @classmethod
    def of_bert(cls, cls_id: int, sep_id: int) -> Layout:
        """Create the layout of BERT from the ids of [CLS] and [SEP]."""
        start, end_first, end_second = (
            Piece(0, None, cls_id),
            Piece(0, None, sep_id),
            Piece(1, None, sep_id),
        )
        single = (start, Piece(0, text=0), end_first)
        return cls(single, (*single, Piece(1, text=1), end_second))

    def pieces(self, n_segments: int) -> tuple[Piece, ...]:
        """Return the parts of a row with one or two texts."""
        return self.single if n_segments == 1 else self.pair

    def order(self, n_segments: int) -> list[int]:
        """Return the texts of a row, 0 and 1, in the order in which the model reads them."""
        return [piece.text for piece in self.pieces(n_segments) if piece.text is not None]

    def with_one_segment(self) -> Layout:
        """Return the layout with the segment id 0 everywhere."""
        single = tuple(replace(piece, segment_id=0) for piece in self.single)
        return replace(self, single=single, pair=tuple(replace(p, segment_id=0) for p in self.pair))

    def n_special(self, n_segments: int) -> int:
        """Compute the number of special tokens of a row."""
        return sum(piece.text is None for piece in self.pieces(n_segments))

    @property
    def largest_id(self) -> int:
        """The largest id of a special token."""
        return max(
            (p.token_id for p in (*self.single, *self.pair) if p.token_id is not None), default=0
        )

    def check(self, n_segments: int) -> None:
        """Raise an error if rows with so many texts cannot be packed for the model.

        Raises
        ------
        ValueError
            If a text is missing or occurs twice, if there is no special token, or if the model has
            too few segments.
        """
        pieces = self.pieces(n_segments)
        if sorted(p.text for p in pieces if p.text is not None) != [*range(n_segments)]:
            shown = " ".join("special" if p.text is None else "AB"[p.text] for p in pieces)
            raise ValueError(
                f"The post-processor of the tokenizer lays out {_KINDS[n_segments]} as {shown!r}, "
                f"but each text ({' and '.join('AB'[:n_segments])}) must occur exactly once. "
                "Correct the post_processor in tokenizer.json, or use another model."
            )
        if not self.n_special(n_segments):
            raise ValueError(
                f"The tokenizer adds no special tokens to {_KINDS[n_segments]}, but skbert needs "
                "at least one, because an empty text would have no token. Set a post-processor "
                "that adds some, such as tokenizers.processors.BertProcessing, and save the "
                "tokenizer again."
            )
        needed = 1 + max(piece.segment_id for piece in pieces)
        if self.type_vocab_size is not None and needed > self.type_vocab_size:
            raise ValueError(
                f"The model has type_vocab_size={self.type_vocab_size}, but {_KINDS[n_segments]} "
                f"need {needed} segments. {_ADVICE[n_segments]}"
            )

    def room(self, max_length: int, n_segments: int) -> int:
        """Compute the maximum number of tokens of all segments of a row of `max_length` tokens.

        Raises
        ------
        ValueError
            If the special tokens leave no room.
        """
        return self._room(max_length, n_segments, 1)

    def room_for_each(self, max_length: int, n_segments: int) -> int:
        """Compute the maximum number of tokens of a segment, if all segments are equally long.

        Raises
        ------
        ValueError
            If the special tokens leave less than one token for each segment.
        """
        return self._room(max_length, n_segments, n_segments) // n_segments

    def _room(self, max_length: int, n_segments: int, least: int) -> int:
        n_special = self.n_special(n_segments)
        if max_length < n_special + least:
            raise ValueError(
                f"max_length={max_length}, but the tokenizer of the model adds {n_special} special "
                f"tokens to {_KINDS[n_segments]}; max_length must be at least {n_special + least}, "
                "so that tokens of the texts are left. Raise max_length."
            )
        return max_length - n_special

    def surround(self, texts: BareTokens, first: np.ndarray, second: np.ndarray) -> Tokens:
        """Lay rows end to end, each with special tokens around its texts.

        Parameters
        ----------
        texts : BareTokens
        first, second : ndarray of shape (n_rows,), int64
            Numbers of the texts of each row. `second` is -1 for a single text.

        Returns
        -------
        Tokens
            n_rows rows. `n_lost` is 0, because this method cuts nothing.
        """
        is_pair = second >= 0
        n_second = np.where(is_pair, texts.lengths[second], 0)
        n_special = np.where(is_pair, self.n_special(2), self.n_special(1))
        lengths = n_special + texts.lengths[first] + n_second
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        n_tokens = offsets[-1]
        ids, segment_ids = np.zeros(n_tokens, dtype=np.int32), np.zeros(n_tokens, dtype=np.int32)
        is_special = np.zeros(n_tokens, dtype=bool)
        for n_segments, rows in ((1, np.flatnonzero(~is_pair)), (2, np.flatnonzero(is_pair))):
            if not len(rows):
                continue
            self.check(n_segments)
            places = offsets[rows]
            for piece in self.pieces(n_segments):
                if piece.text is None:
                    ids[places], segment_ids[places] = piece.token_id, piece.segment_id
                    is_special[places] = True
                    places = places + 1
                else:
                    numbers = (first, second)[piece.text][rows]
                    n_of_each = texts.lengths[numbers]
                    target = ranges(places, n_of_each)
                    ids[target] = texts.ids[ranges(texts.offsets[numbers], n_of_each)]
                    segment_ids[target] = piece.segment_id
                    places = places + n_of_each
        n_lost = np.zeros(len(first), dtype=np.int64)
        return Tokens(ids, segment_ids, is_special, offsets, n_lost)
