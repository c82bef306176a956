"""Ids of bare texts in, `Tokens` with special tokens out; and how much room these leave.

A single text becomes ``[CLS] text [SEP]``, and a pair ``[CLS] first [SEP] second [SEP]``. Only this
file knows where the special tokens are and how many there are. The texts of a row, one or two, are
its segments. numpy only; how texts become ids is in `wordpiece`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skbert.engine.text.tokens import BareTokens, Tokens

#: Which part of a text that is too long is kept; see `truncate`.
TRUNCATIONS = ("head", "tail", "head+tail")


def n_special_tokens(n_segments: int) -> int:
    """Count the special tokens of a row: [CLS], and [SEP] after each segment."""
    return 1 + n_segments


def smallest_max_length(n_segments: int) -> int:
    """Length of a row with one token of each segment: 3 for single texts, 5 for pairs."""
    return n_special_tokens(n_segments) + n_segments


def truncate(ids: Sequence[int], limit: int, truncation: str) -> Sequence[int]:
    """Keep at most `limit` ids: the first, the last, or a quarter first and the rest last.

    "head+tail" keeps the proportion that Sun et al. (2019, section 5.3.1) found best on
    IMDB: 128 tokens from the beginning and 382 from the end.
    """
    if len(ids) <= limit:
        return ids
    n_head = {"head": limit, "tail": 0, "head+tail": limit // 4}[truncation]
    return [*ids[:n_head], *ids[len(ids) - (limit - n_head) :]]


def share_room(lengths: list[int], room: int) -> list[int]:
    """How many tokens of each segment to keep so that together they are at most `room`.

    Of a pair, the longer text is shortened first; if both are longer than half of the room,
    each gets half, and of two equally long ones the second gets the odd token.
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
    """The special tokens of a tokenizer, and where they go.

    Attributes
    ----------
    cls_id, sep_id : int
        The ids of [CLS] and [SEP].
    """

    cls_id: int
    sep_id: int

    def room(self, max_length: int, n_segments: int) -> int:
        """How many tokens the segments of a row may have together; `max_length` is the row's."""
        return max_length - n_special_tokens(n_segments)

    def room_for_each(self, max_length: int, n_segments: int) -> int:
        """How many tokens a segment may have if all segments of a row are equally long."""
        return self.room(max_length, n_segments) // n_segments

    def surround(self, texts: BareTokens, first: np.ndarray, second: np.ndarray) -> Tokens:
        """Lay rows end to end, each with its special tokens.

        Parameters
        ----------
        texts : BareTokens
        first, second : ndarray of shape (n_rows,), int64
            Numbers of the texts of each row; `second` is -1 where a text is single.

        Returns
        -------
        Tokens
            Of n_rows rows. `n_lost` is 0, because nothing is cut here.
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
    """Whether `Layout.surround` put each token there; shape (n_tokens,), bool.

    A text may spell out "[SEP]" too. That one is a token of the text.
    """
    found = np.zeros(len(tokens.ids), dtype=bool)
    found[:-1] = np.diff(tokens.segment_ids) != 0  # [SEP] of the first segment
    found[tokens.offsets[:-1]] = True  # [CLS]
    found[tokens.offsets[1:] - 1] = True  # [SEP] of the last segment
    return found
