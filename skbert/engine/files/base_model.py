"""The `model` of an estimator -> its name on the hub, licence and language, for a model card.

Nothing is downloaded. The facts come from the front matter of the model's own card, if this machine
has it, and for the default model from here. A card may contain anything, so only short names count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skbert.engine.files.card_file import CARD
from skbert.engine.files.find import ModelName, published_name
from skbert.engine.files.hub import card_in_cache, is_hub_name

_MOST_BYTES = 2**22

_FIELDS = ("base_model", "language", "license", "license_link", "license_name")

#: What the cards of published models say, for models whose weights a package contains.
_KNOWN = {
    "sentence-transformers/all-MiniLM-L6-v2": {"language": "en", "license": "apache-2.0"},
}


@dataclass(frozen=True)
class BaseModel:
    """What a model card says of the model below it.

    Attributes
    ----------
    names : tuple of str
        Its names on the Hugging Face Hub; empty if none is known.
    language : str or None
        Its code, such as "en"; None if it is unknown, or one of several.
    license : dict of str to str
        The fields ``license``, ``license_name`` and ``license_link`` of its card, as far as known.
    """

    names: tuple[str, ...]
    language: str | None
    license: Mapping[str, str]


def describe_base(model: ModelName) -> BaseModel:
    """Collect what is known of a model, without the network."""
    name = os.fsdecode(model)
    folder = Path(os.path.expanduser(name))
    if folder.is_dir() or not isinstance(model, str) or not is_hub_name(name):
        fields = read_front_matter(folder / CARD)
        names = _listed(fields.get("base_model"))
    else:
        repository, _, revision = published_name(name).partition("@")
        fields = _KNOWN.get(repository) or read_front_matter(
            card_in_cache(repository, revision or None)
        )
        names = [repository]
    languages = _listed(fields.get("language"))
    language = languages[0] if len(languages) == 1 else None
    return BaseModel(
        names=tuple(n for n in names if isinstance(n, str) and is_hub_name(n)),
        language=language if _matches(language, r"[a-z]{2,3}") else None,
        license={
            field: fields[field]
            for field, pattern in _LICENSE.items()
            if _matches(fields.get(field), pattern)
        },
    )


_LICENSE = {
    "license": r"[a-z0-9][a-z0-9.+-]{0,63}",
    "license_name": r"[\w.+-]{1,64}",
    "license_link": r"(https://[\w./%~+-]{1,200}|[\w.-]{1,64})",
}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def read_front_matter(card: Path | None) -> dict[str, Any]:
    """Read some fields from the YAML at the top of a model card; empty if there is none."""
    if card is None or not card.is_file():
        return {}
    from huggingface_hub import ModelCard

    try:
        with card.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8-sig")
        # Cards of embedding models contain megabytes of results, which take seconds to parse.
        wanted = "\n".join(_lines_of_fields(text))
        return ModelCard(f"---\n{wanted}\n---\n").data.to_dict() if wanted else {}
    except Exception:  # unreadable files, and all errors of the YAML parser: no fact is known
        return {}


def _lines_of_fields(text: str) -> list[str]:
    """Select the lines of `_FIELDS` in the front matter of a card."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    selected, is_wanted = [], False
    for line in lines[1:]:
        if line.rstrip() == "---":
            break
        if line[:1] not in {"", " ", "\t", "-", "#"}:
            is_wanted = line.partition(":")[0] in _FIELDS
        if is_wanted:
            selected.append(line)
    return selected
