"""Read text and JSON files of models, which may come from anyone, with a limit on their size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Maximum size of a text file: 64 MiB, about twenty times the tokenizer of a multilingual BERT.
MOST_BYTES = 2**26


def read_text(path: Path) -> str:
    """Read a UTF-8 file; a byte order mark, which some editors write, is left out.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is larger than `MOST_BYTES`, not UTF-8, or a pointer of Git LFS.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    return text_of(content, path)


def text_of(content: bytes, path: Path) -> str:
    """Decode the content of a file; see `read_text`."""
    if len(content) > MOST_BYTES:
        raise ValueError(
            f"{str(path)!r} is larger than {MOST_BYTES} bytes, the maximum size of a text file. "
            "Save or download the model again."
        )
    check_no_pointer(content, path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not UTF-8 ({error}). Save or download the model again."
        ) from error


def check_no_pointer(start: bytes, path: Path) -> None:
    """Raise an error if a file is a pointer of Git LFS, which a clone without LFS contains."""
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ValueError(
            f"{str(path)!r} is a pointer of Git LFS, not the file itself. Run `git lfs pull` in "
            "its folder."
        )


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """Parse the content of a file as a JSON object.

    Raises
    ------
    ValueError
        If the content is anything else, or is nested too deeply.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is not readable JSON ({error}). Save or download the model again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{str(path)!r} contains a JSON {type(found).__name__}, but must contain an object, "
            "{...}. Save or download the model again."
        )
    return found
