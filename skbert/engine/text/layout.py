"""Ids of bare texts -> `Tokens` with special tokens; and the room that the special tokens leave.

A single text becomes ``[CLS] text [SEP]``, and a pair ``[CLS] first [SEP] second [SEP]``. Only this
file knows the positions and the number of special tokens. A row has one or two texts, which are its
segments. numpy only; `wordpiece` converts texts to ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skbert.engine.text.tokens import BareTokens, Tokens

#: The part of a longer text that is kept; see `truncate`.
TRUNCATIONS = ("head", "tail", "head+tail")


def n_special_tokens(n_segments: int) -> int:
    """Compute the number of special tokens of a row: [CLS], and [SEP] after each segment."""
    return 1 + n_segments


def smallest_max_length(n_segments: int) -> int:
    """Compute the length of a row with one token per segment: 3 for single texts, 5 for pairs."""
    return n_special_tokens(n_segments) + n_segments


def truncate(ids: Sequence[int], limit: int, truncation: str) -> Sequence[int]:
    """Keep at most `limit` ids.

    "head" keeps the first ids, "tail" the last ones, and "head+tail" a quarter from the start and
    the rest from the end. Sun et al. (2019, section 5.3.1) found this proportion best on IMDB: 128
    tokens from the start and 382 from the end.
    """
    if len(ids) <= limit:
        return ids
    n_head = {"head": limit, "tail": 0, "head+tail": limit // 4}[truncation]
    return [*ids[:n_head], *ids[len(ids) - (limit - n_head) :]]


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
class Layout:
    """The special tokens of a tokenizer, and their positions in a row.

    Attributes
    ----------
    cls_id, sep_id : int
        The ids of [CLS] and [SEP].
    """

    cls_id: int
    sep_id: int

    def room(self, max_length: int, n_segments: int) -> int:
        """Compute the maximum number of tokens of all segments of a row of `max_length` tokens."""
        return max_length - n_special_tokens(n_segments)

    def room_for_each(self, max_length: int, n_segments: int) -> int:
        """Compute the maximum number of tokens of a segment, if all segments are equally long."""
        return self.room(max_length, n_segments) // n_segments

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
        n_first = texts.lengths[first]
        n_second = np.where(is_pair, texts.lengths[second], 0)
        n_special = np.where(is_pair, n_special_tokens(2), n_special_tokens(1))
        lengths = n_special + n_first + n_second
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.full(offsets[-1], self.sep_id, dtype=np.int32)
        ids[offsets[:-1]] = self.cls_id
        place_of_second = offsets[:-1] + n_special_tokens(1) + n_first
        for rows, n_tokens, place in (
            (first, n_first, offsets[:-1] + 1),
            (second, n_second, place_of_second),
        ):
            within = np.arange(n_tokens.sum()) - np.repeat(np.cumsum(n_tokens) - n_tokens, n_tokens)
            source = np.repeat(texts.offsets[rows], n_tokens) + within
            ids[np.repeat(place, n_tokens) + within] = texts.ids[source]
        segment_ids = np.arange(offsets[-1]) >= np.repeat(place_of_second, lengths)
        return Tokens(
            ids, segment_ids.astype(np.int32), offsets, np.zeros(len(first), dtype=np.int64)
        )


def special_places(tokens: Tokens) -> np.ndarray:
    """Whether each token was added by `Layout.surround`; shape (n_tokens,), bool.

    A text may contain "[SEP]", too. That is a token of the text, so it is False.
    """
    found = np.zeros(len(tokens.ids), dtype=bool)
    found[:-1] = np.diff(tokens.segment_ids) != 0  # [SEP] of the first segment
    found[tokens.offsets[:-1]] = True  # [CLS]
    found[tokens.offsets[1:] - 1] = True  # [SEP] of the last segment
    return found
