"""Characters of a text that are replaced before it is tokenised, and the way back.

numpy only; `emoji_names` and `subword_tokenizer` find what to replace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Replacement:
    """The characters ``start:stop`` of a text, and what stands there instead."""

    start: int
    stop: int
    new: str


def replace_all(text: str, replacements: list[Replacement]) -> str:
    """Replace characters of a text, which stays the same object if there is nothing to do."""
    parts, stop = [], 0
    for replacement in replacements:
        parts += [text[stop : replacement.start], replacement.new]
        stop = replacement.stop
    return "".join([*parts, text[stop:]]) if parts else text


def map_to_original(text: str, replacements: list[Replacement]) -> np.ndarray:
    """Find the characters of a text that each character after `replace_all` stands for.

    Returns
    -------
    ndarray of shape (n_characters + 1, 2), int64
        Start and stop in `text`. All new characters stand for all that they replace. The last
        row is the end of the text.
    """
    runs, stop = [], 0
    for replacement in [*replacements, Replacement(len(text), len(text), " ")]:
        between = np.arange(stop, replacement.start, dtype=np.int64)
        new = np.array([[replacement.start, replacement.stop]], dtype=np.int64)
        runs += [np.stack([between, between + 1], axis=1), new.repeat(len(replacement.new), 0)]
        stop = replacement.stop
    return np.concatenate(runs)
