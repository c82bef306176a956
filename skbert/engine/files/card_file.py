"""README.md, the model card: whether a file is one that skbert wrote and nobody has edited.

Its last line holds the hash of the lines above, so the file alone says it, in a folder or on the
hub. `skbert.json` does not list the card, because people edit it and nothing is loaded from it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

CARD = "README.md"

_LAST_LINE = "<!-- Written by skbert, which does not replace an edited card. SHA-256: {} -->"


def write_card(folder: Path, text: str) -> None:
    """Write the card of a folder, with a last line that `is_unedited` recognises."""
    text = text.encode("utf-8", "backslashreplace").decode().rstrip("\n") + "\n\n"
    last = _LAST_LINE.format(_sha256(text))
    (folder / CARD).write_text(f"{text}{last}\n", encoding="utf-8", newline="\n")


def is_unedited(folder: Path) -> bool:
    """Whether the card of a folder is as `write_card` wrote it; its ends of line do not count."""
    try:
        content = (folder / CARD).read_bytes().replace(b"\r\n", b"\n").decode("utf-8")
    except (OSError, ValueError):
        return False
    text, _, last = content.rstrip("\n").rpartition("\n")
    return last == _LAST_LINE.format(_sha256(text + "\n"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
