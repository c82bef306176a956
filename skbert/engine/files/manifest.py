"""skbert.json: the files of a saved folder with their hashes, and the settings of the estimator.

The hashes detect damage, not attacks: an attacker who can change a file can also change its hash.
The manifest does not list the model card; see `card_file`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skbert.engine.files.card_file import CARD
from skbert.engine.files.textfiles import parse_object, read_text

FORMAT = 1

MANIFEST = "skbert.json"


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest: all files of the folder, except the card, and `content`, of JSON types."""
    paths = sorted(path for path in folder.iterdir() if path.name != CARD)
    manifest = {
        **content,
        "format": FORMAT,
        "files": {path.name: _sha256_of(path) for path in paths},
    }
    write_json(folder / MANIFEST, manifest | {"sha256": sha256_of_json(manifest)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest that `write_manifest` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder has no manifest.
    ValueError
        If the manifest was changed or damaged, or if a newer skbert wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no {MANIFEST}. Pass a folder that save_pretrained wrote."
        )
    try:
        manifest = parse_object(read_text(path), path)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    form, sha256 = manifest.get("format"), manifest.pop("sha256", None)
    if isinstance(form, int) and form > FORMAT:
        raise ValueError(
            f"{str(folder)!r} was saved in format {form} by a newer skbert; the installed skbert "
            f"reads formats up to {FORMAT}. Update skbert."
        )
    if sha256 != sha256_of_json(manifest):
        raise damaged(path, "its content does not match its SHA-256")
    files = manifest.get("files")
    if form != FORMAT or not isinstance(files, dict):
        raise damaged(path, "it has no format or no list of files")
    return manifest


def read_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read all files that a manifest lists, and compare their hashes with the manifest.

    The function returns the bytes that it hashed, so later changes of the files have no effect.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is outside the folder, or was changed or damaged.
    """
    contents = {}
    for name, sha256 in manifest["files"].items():
        path = _path_of(folder, name)
        contents[name] = path.read_bytes()
        _compare(path, hashlib.sha256(contents[name]).hexdigest(), sha256)
    return contents


def check_folder(folder: Path) -> None:
    """Compare the files of a folder with its manifest, if it has one; raises as `read_files`."""
    if (folder / MANIFEST).is_file():
        for name, sha256 in read_manifest(folder)["files"].items():
            path = _path_of(folder, name)
            _compare(path, _sha256_of(path), sha256)


def damaged(path: Path, why: str) -> ValueError:
    """Create the error for a file that was changed or damaged after it was saved."""
    return ValueError(
        f"{str(path)!r} is not the file that was saved: {why}. Copy the folder again, or save the "
        "model again."
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in ASCII, because a label may have no UTF-8 (a lone surrogate)."""
    path.write_text(json.dumps(content, indent=2), encoding="ascii")


def sha256_of_json(content: Mapping[str, Any]) -> str:
    """Hash a JSON object, independently of its layout in a file."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _path_of(folder: Path, name: str) -> Path:
    """Find a listed file, or raise an error if it is missing or outside the folder."""
    path = folder / name
    is_inside = path.resolve().parent in (folder.resolve(), _blobs_of(folder))
    if Path(name).name != name or not is_inside:
        raise ValueError(
            f"{name!r} leads out of {str(folder)!r}; skbert reads only files in the folder itself. "
            "Copy the file there, or save the model again."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {name}. Copy the whole folder, or save the model again."
        )
    return path


def _blobs_of(folder: Path) -> Path | None:
    """Find the files to which the links in a snapshot of the Hugging Face cache lead."""
    snapshots = folder.resolve().parent
    blobs = snapshots.parent / "blobs"
    return blobs if snapshots.name == "snapshots" and blobs.resolve() == blobs else None


def _compare(path: Path, found: str, stated: str) -> None:
    if found != stated:
        raise damaged(path, f"its SHA-256 is {found}, not {stated}")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
