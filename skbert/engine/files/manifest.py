"""skbert.json: the files of a saved folder with their hashes, and what else was saved.

The hashes find damage, not malice: whoever can change a file can change its hash too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skbert.engine.files.textfiles import parse_object, read_text

FORMAT = 1

MANIFEST = "skbert.json"


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """List the files that a folder holds now, and add `content`, of JSON types."""
    manifest = {
        **content,
        "format": FORMAT,
        "files": {path.name: _sha256_of(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / MANIFEST, manifest | {"sha256": sha256_of_json(manifest)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what `write_manifest` wrote.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not what was written, or written by a newer skbert.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no {MANIFEST}; from_pretrained reads folders that "
            "save_pretrained wrote. For the weights of another model, give the folder as "
            f"model={str(folder)!r} and call fit."
        )
    try:
        manifest = parse_object(read_text(path), path)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    form, sha256 = manifest.get("format"), manifest.pop("sha256", None)
    if isinstance(form, int) and form > FORMAT:
        raise ValueError(
            f"{str(folder)!r} was written in format {form} by a newer skbert; this one reads up to "
            f"format {FORMAT}. Update skbert."
        )
    if sha256 != sha256_of_json(manifest):
        raise damaged(path, "its SHA-256 is not the one it states")
    files = manifest.get("files")
    if form != FORMAT or not isinstance(files, dict):
        raise damaged(path, "it lacks its format or its list of files")
    return manifest


def read_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read all files that a manifest lists, each with the hash that it states.

    What is returned is what was hashed: no later change of the files has a part in it.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    ValueError
        If one is elsewhere, or not what was written.
    """
    contents = {}
    for name, sha256 in manifest["files"].items():
        path = _path_of(folder, name)
        contents[name] = path.read_bytes()
        _compare(path, hashlib.sha256(contents[name]).hexdigest(), sha256)
    return contents


def check_folder(folder: Path) -> None:
    """Compare the files of a folder with its manifest, if it has one; errors as `read_files`."""
    if (folder / MANIFEST).is_file():
        for name, sha256 in read_manifest(folder)["files"].items():
            path = _path_of(folder, name)
            _compare(path, _sha256_of(path), sha256)


def damaged(path: Path, why: str) -> ValueError:
    """Make the error that says a file is not what was written."""
    return ValueError(
        f"{str(path)!r} is not the file that was written: {why}. Copy the folder again, or save "
        "the model again."
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object of JSON types; in ASCII, as a label may have no UTF-8 (a lone surrogate)."""
    path.write_text(json.dumps(content, indent=2), encoding="ascii")


def sha256_of_json(content: Mapping[str, Any]) -> str:
    """Hash an object of JSON types, however its text is laid out."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _path_of(folder: Path, name: str) -> Path:
    """Find a listed file; refuse one that is elsewhere or missing."""
    path = folder / name
    if Path(name).name != name or path.resolve().parent != folder.resolve():
        raise ValueError(
            f"{name!r} leads out of {str(folder)!r}; only files in the folder itself are read. "
            "Copy them there, or save the model again."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {name}. Copy the whole folder, or save the model again."
        )
    return path


def _compare(path: Path, found: str, stated: str) -> None:
    if found != stated:
        raise damaged(path, f"its SHA-256 is not {stated}")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
