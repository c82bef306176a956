"""Long texts -> `Tokens` with overlapping windows, each with its own special tokens.

The encoder reads each window by itself, and `model/pooling.py` averages the vectors of the windows
of a text. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import BareTokens, Tokens, Windows, ranges

#: The value of `truncation` that reads a longer text in windows.
WINDOWS = "windows"


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of texts are, without special tokens.

    Attributes
    ----------
    n_of_each : ndarray of shape (n_texts,), int64
        Number of windows of each text; at least 1.
    starts, lengths : ndarray of shape (n_windows,), int64
        The first token of each window in its text, and the number of its tokens.
    n_repeated : ndarray of shape (n_windows,), int64
        The number of tokens that the window shares with the one before it.
    n_lost : ndarray of shape (n_texts,), int64
        Number of tokens of each text that no window reads.
    """

    n_of_each: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    n_repeated: np.ndarray
    n_lost: np.ndarray


def plan_windows(n_tokens: np.ndarray, room: int, max_windows: int | None = None) -> WindowPlan:
    """Divide texts into windows of at most `room` tokens.

    A text of n tokens, more than `room`, has ``k = ceil((n - o) / (room - o))`` windows, which
    overlap by at least ``o = room // 4`` tokens, or `max_windows` if those are fewer. They have the
    same length, ``min(room, ceil((n + (k - 1) * o) / k))``, so none is short, and are evenly
    spread: the first starts with the text, and the last one ends with it. With fewer windows than
    needed, they overlap less, and then leave gaps of equal size.

    Parameters
    ----------
    n_tokens : ndarray of shape (n_texts,), int64
        Without special tokens.
    room : int
        At least 1.
    max_windows : int or None
        At least 2. None sets no limit.
    """
    overlap = room // 4
    n_needed = -(-(n_tokens - overlap) // (room - overlap))
    n_of_each = np.where(n_tokens > room, n_needed, 1)
    if max_windows is not None:
        n_of_each = np.minimum(n_of_each, max_windows)
    length = np.minimum(room, -(-(n_tokens + (n_of_each - 1) * overlap) // n_of_each))
    text = np.repeat(np.arange(len(n_tokens)), n_of_each)
    first = np.cumsum(n_of_each) - n_of_each
    number = np.arange(len(text)) - first[text]
    free = n_tokens - length  # between the start of the first window and that of the last
    starts = number * free[text] // np.maximum(n_of_each - 1, 1)[text]
    steps = np.diff(starts, prepend=0)
    steps[first] = length
    shared = length[text] - steps
    return WindowPlan(
        n_of_each=n_of_each,
        starts=starts,
        lengths=length[text],
        n_repeated=np.maximum(shared, 0),
        n_lost=np.bincount(text, np.maximum(-shared, 0), minlength=len(n_tokens)).astype(np.int64),
    )


def tokenize_in_windows(
    subword_tokenizer: SubwordTokenizer,
    texts: Sequence[str],
    *,
    max_length: int,
    max_windows: int | None = None,
) -> Tokens:
    """Tokenise single texts; those that are longer than `max_length` get windows.

    Parameters
    ----------
    subword_tokenizer : SubwordTokenizer
    texts : sequence of str
    max_length : int
        Maximum number of tokens of a window, special tokens included.
    max_windows : int or None
        As in `plan_windows`.

    Returns
    -------
    Tokens
        Equal to those of `subword_tokenizer` if no text is longer than `max_length`.
    """
    layout = subword_tokenizer.layout
    layout.check(n_segments=1)
    bare = subword_tokenizer.tokenize_bare(texts)
    plan = plan_windows(bare.lengths, layout.room(max_length, n_segments=1), max_windows)
    text = np.repeat(np.arange(len(bare)), plan.n_of_each)
    source = ranges(bare.offsets[text] + plan.starts, plan.lengths)
    windows = layout.surround(
        BareTokens(bare.ids[source], np.concatenate([[0], np.cumsum(plan.lengths)])),
        np.arange(len(text)),
        np.full(len(text), -1),
    )
    ends = np.concatenate([[0], np.cumsum(plan.n_of_each)])
    tokens = replace(windows, offsets=windows.offsets[ends], n_lost=plan.n_lost)
    if len(text) == len(bare):
        return tokens
    return replace(tokens, windows=Windows(ends, windows.lengths, _repeated(windows, plan, ends)))


def _repeated(windows: Tokens, plan: WindowPlan, ends: np.ndarray) -> np.ndarray:
    """Find the tokens that a window before has, too: (n_tokens,), bool."""
    place = np.arange(len(plan.starts))
    window = np.repeat(place, windows.lengths)
    is_later = np.ones(len(place), dtype=bool)
    is_later[ends[:-1]] = False
    is_repeated = windows.is_special & is_later[window]
    number = ranges(np.zeros_like(plan.lengths), plan.lengths)  # of a token in its window
    is_repeated[~windows.is_special] = number < np.repeat(plan.n_repeated, plan.lengths)
    return is_repeated
