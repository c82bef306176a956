"""The files in which sentence-transformers says what it does with the hidden states of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skbert.engine.files.manifest import MANIFEST, read_manifest
from skbert.engine.files.textfiles import parse_object, read_text

#: Lists the modules of a model and their subfolders, such as ``0_Transformer`` in older versions.
MODULES_FILE = "modules.json"

#: How the model pools its hidden states.
POOLING_FILE = "1_Pooling/config.json"

#: sentence-transformers' names of poolings in that file -> skbert's.
_POOLING_MODES = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}

#: Modules whose work skbert does, or that do nothing in prediction.
_KNOWN = ("Transformer", "Pooling", "Normalize", "Dropout")

_PACKAGE = "sentence_transformers"


def read_pooling(folder: Path) -> str:
    """Find the pooling with which the model in a folder was made.

    A folder of skbert names it in ``skbert.json``, and one of sentence-transformers in
    ``1_Pooling/config.json``, or, if the folder is its ``0_Transformer``, in the folder above.
    Models without either were not trained with a pooling; they get "cls", as in the BERT paper.

    Returns
    -------
    str
        "cls", "mean" or "max", or sentence-transformers' name of another pooling.
    """
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        return str(manifest.get("pooling", manifest.get("made_with", "cls")))
    path = pooling_file(folder)
    if not path.is_file():
        return "cls"
    settings = parse_object(read_text(path), path)
    if "pooling_mode" in settings:  # sentence-transformers since 5.4
        mode = str(settings["pooling_mode"])
        return {"lasttoken": "last token"}.get(mode, mode)
    flags = [name for name, is_used in settings.items() if is_used is True]
    modes = [
        name.removeprefix("pooling_mode_") for name in flags if name.startswith("pooling_mode_")
    ]
    return " + ".join(_POOLING_MODES.get(mode, mode) for mode in modes) or "cls"


def pooling_file(folder: Path) -> Path:
    """Find the file in which sentence-transformers names the pooling; it need not exist."""
    own = folder / POOLING_FILE
    return own if own.is_file() or not _is_listed_above(folder) else folder.parent / POOLING_FILE


def modules_file(folder: Path) -> Path:
    """Find the list of the modules of a model; it need not exist."""
    own = folder / MODULES_FILE
    return own if own.is_file() or not _is_listed_above(folder) else folder.parent / MODULES_FILE


def check_modules(folder: Path) -> None:
    """Raise an error if a model has modules after the encoder that skbert does not compute."""
    path = modules_file(folder)
    for entry in _entries(path):
        kind = str(entry.get("type", ""))
        package, name = kind.split(".")[0], kind.rpartition(".")[2]
        if package != _PACKAGE:
            reason = "which is code that skbert does not run"
        elif name not in _KNOWN:
            reason = "which skbert does not compute, so the vectors would not be the model's"
        else:
            continue
        raise ValueError(
            f"{str(path)!r} names the module {kind!r}, {reason}. skbert computes the modules "
            f"{[*_KNOWN]} of {_PACKAGE}. Choose another model, or delete {MODULES_FILE} in a local "
            "copy to use the encoder alone."
        )


def _is_listed_above(folder: Path) -> bool:
    paths = [entry.get("path") for entry in _entries(folder.parent / MODULES_FILE)]
    return folder.name in paths


def _entries(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a list of modules; none if it is missing or damaged."""
    if not path.is_file():
        return []
    try:
        listed = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return []
    return (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )
