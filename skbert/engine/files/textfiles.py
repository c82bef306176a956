"""Text and JSON files of models, which anyone may have written: read with a limit, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: The largest text file that is read: 64 MiB, some twenty tokenizers of a multilingual BERT.
MOST_BYTES = 2**26


def read_text(path: Path) -> str:
    """Read a file of UTF-8.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is longer than `MOST_BYTES`, or not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    return text_of(content, path)


def text_of(content: bytes, path: Path) -> str:
    """Decode what a file holds; see `read_text`."""
    if len(content) > MOST_BYTES:
        raise ValueError(
            f"{str(path)!r} is larger than {MOST_BYTES} bytes, the most that is read of a text "
            "file. Save or download the model again."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not UTF-8 ({error}). Save or download the model again."
        ) from error


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """Parse the JSON object that a file holds.

    Raises
    ------
    ValueError
        If it holds anything else, or is nested too deeply.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is not readable JSON ({error}). Save or download the model again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{str(path)!r} holds a JSON {type(found).__name__}; an object, {{...}}, is expected. "
            "Save or download the model again."
        )
    return found
