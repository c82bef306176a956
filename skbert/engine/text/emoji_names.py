"""An emoji that the vocabulary lacks -> its English name, as Unicode defines it.

BERT was trained on books and Wikipedia, so its vocabulary lacks nearly every emoji. The tokenizer
reads each of them, with the word that it touches, as the same unknown token. Their names are made
of words that BERT knows: "😡" is "enraged face". The names come from the package emoji, which is
only imported if a text contains a character of an emoji.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Each emoji has a character of these. Digits are emoji only before U+20E3, which is one of them.
_MAY_BE_EMOJI = re.compile("[\u00a9\u00ae\u203c-\u3299\U0001f000-\U000e007f]")

# Skin colours say nothing about the sentiment.
_SKIN_TONES = re.compile("(?:_(?:light|medium-light|medium|medium-dark|dark)_skin_tone)+")


@dataclass(frozen=True)
class Replacement:
    """The characters ``start:stop`` of a text, and what stands there instead."""

    start: int
    stop: int
    name: str


def emoji_replacements(text: str, is_known: Callable[[str], bool]) -> list[Replacement]:
    """Find each emoji that is not known, and its English name between spaces.

    Parameters
    ----------
    text : str
    is_known : callable
        Tells whether the tokenizer knows all of a short text. An emoji stays as it is if it is
        known, or if its name is not, as with the vocabulary of another language.

    Returns
    -------
    list of Replacement
        From left to right.
    """
    if text.isascii() or not _MAY_BE_EMOJI.search(text):
        return []
    import emoji

    found: list[Replacement] = []

    def note(char: str, data: dict[str, Any]) -> str:
        name = _SKIN_TONES.sub("", data["en"]).strip(":").replace("_", " ")
        if not is_known(char) and is_known(name):
            found.append(Replacement(data["match_start"], data["match_end"], f" {name} "))
        return char

    emoji.replace_emoji(text, note)
    return found


def replace_all(text: str, replacements: list[Replacement]) -> str:
    """Insert all names into a text, which stays the same object if there are none."""
    parts, stop = [], 0
    for replacement in replacements:
        parts += [text[stop : replacement.start], replacement.name]
        stop = replacement.stop
    return "".join([*parts, text[stop:]]) if parts else text


def map_to_original(text: str, replacements: list[Replacement]) -> np.ndarray:
    """Find the characters of a text that each character after `replace_all` stands for.

    Returns
    -------
    ndarray of shape (n_characters + 1, 2), int64
        Start and stop in `text`. All characters of a name stand for all that it replaces. The last
        row is the end of the text.
    """
    runs, stop = [], 0
    for replacement in [*replacements, Replacement(len(text), len(text), " ")]:
        between = np.arange(stop, replacement.start, dtype=np.int64)
        name = np.array([[replacement.start, replacement.stop]], dtype=np.int64)
        runs += [np.stack([between, between + 1], axis=1), name.repeat(len(replacement.name), 0)]
        stop = replacement.stop
    return np.concatenate(runs)
