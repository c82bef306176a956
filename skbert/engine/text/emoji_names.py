"""An emoji that the vocabulary lacks -> its English name, as Unicode defines it.

BERT was trained on books and Wikipedia, so its vocabulary lacks nearly every emoji. The tokenizer
reads each of them, with the word that it touches, as the same unknown token. Their names are made
of words that BERT knows: "😡" is "enraged face". The names come from the package emoji, which is
only imported if a text contains a character of an emoji.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from skbert.engine.text.replacements import Replacement

# Each emoji has a character of these. Digits are emoji only before U+20E3, which is one of them.
_MAY_BE_EMOJI = re.compile("[\u00a9\u00ae\u203c-\u3299\U0001f000-\U000e007f]")

# Skin colours say nothing about the sentiment.
_SKIN_TONES = re.compile("(?:_(?:light|medium-light|medium|medium-dark|dark)_skin_tone)+")


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
