"""The last whole epoch of a training run <-> one file, so that a killed run goes on from there.

safetensors, with the position of the run as JSON in its header. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skbert.engine.files.folders import remove_left, sync, temporary_name
from skbert.engine.model.networks import TextClassifier
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.classification import LabelledTexts
from skbert.engine.training.loop import Trainer
from skbert.engine.training.stopping import EarlyStopping

_SUFFIX = ".skbert-run"


@dataclass(frozen=True)
class SavedRun:
    """A run as it was after its last whole epoch.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Weights, moments of the optimizer, weights of the best epoch.
    position : dict
        Of JSON types: history, counters, random numbers.
    """

    tensors: dict[str, Tensor]
    position: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Tensors whose names begin with `name` and a slash, without it."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


def _fingerprint(arrays: Iterable[np.ndarray], settings: Mapping[str, Any]) -> str:
    """Name a run by all that decides what it computes: 32 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


class RunFile:
    """Where the run with one fingerprint is kept.

    Parameters
    ----------
    folder : Path
        Made if it is not there. Runs of other data or parameters may be kept in it too.
    name : str
        The fingerprint.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}{_SUFFIX}"
        remove_left(self._path)

    def others(self) -> list[str]:
        """Name the runs of other data or parameters that are kept beside this one."""
        return sorted({p.name for p in self._path.parent.glob(f"*{_SUFFIX}")} - {self._path.name})

    def read(self) -> SavedRun | None:
        """Read the last whole epoch; None if there is none."""
        if not self._path.is_file():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return SavedRun(tensors, json.loads(file.metadata()["skbert"]))
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(
                f"The checkpoint {str(self._path)!r} cannot be read ({error}). Delete it to start "
                "from the beginning."
            ) from error

    def write(self, run: SavedRun) -> None:
        """Replace the last epoch by this one, in one step: a crash leaves one of the two.

        Warns
        -----
        UserWarning
            If it cannot be written. That is no reason to lose what is trained already: the run
            goes on, and the epoch that was kept before stays.
        """
        new = temporary_name(self._path)
        try:
            save_file(run.tensors, new, metadata={"skbert": json.dumps(run.position)})
            sync(new)
            new.replace(self._path)
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"The epoch cannot be kept in {str(self._path.parent)!r} ({error}). Training goes "
                "on, but after a crash it would begin with the last epoch that was kept, if any. "
                "Make room there.",
                stacklevel=5,
            )
        finally:
            new.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the run: it has ended."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class KeptRun:
    """A run that is kept on disk, or not.

    Attributes
    ----------
    file : RunFile or None
        None keeps nothing.
    saved : SavedRun or None
        What was found there.
    seed : numpy.random.SeedSequence
        That of what was found, else a new one.
    classifier : TextClassifier or None
        What is trained.
    notes : dict
        Of JSON types; kept with each epoch.
    """

    file: RunFile | None
    saved: SavedRun | None
    seed: np.random.SeedSequence
    classifier: TextClassifier | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_stopped(self) -> bool:
        """Whether early stopping had ended the run that was found."""
        return self.saved is not None and self.saved.position["stopped"]

    def write(
        self, trainer: Trainer, stopping: EarlyStopping | None, rest: Mapping[str, Any]
    ) -> None:
        """Keep an epoch; `rest` is of JSON types."""
        if self.file is not None and self.classifier is not None:
            entropy = {"entropy": self.seed.entropy}
            self.file.write(
                _capture(self.classifier, trainer, stopping, {**self.notes, **rest, **entropy})
            )

    def remove(self) -> None:
        """Forget the run: it has ended."""
        if self.file is not None:
            self.file.remove()


def find_run(
    folder: Path,
    settings: Mapping[str, Any],
    classifier: TextClassifier,
    data: Iterable[LabelledTexts | Tokens | None],
    seed: np.random.SeedSequence,
) -> KeptRun:
    """Find a run in a folder by all that it depends on, and give `classifier` its weights.

    Parameters
    ----------
    folder : Path
    settings : dict
        What decides the run, besides weights and data.
    classifier : TextClassifier
        As it is before the first step. Its head counts only where `settings["warm"][0]`: else it
        is drawn from the seed.
    data : iterable of LabelledTexts, Tokens or None
    seed : numpy.random.SeedSequence
        Used where no run is found.

    Warns
    -----
    UserWarning
        If there are runs of others, but not this one.
    """
    file = RunFile(
        folder, _fingerprint(_arrays_of(classifier, data, settings["warm"][0]), settings)
    )
    saved = file.read()
    if saved is None:
        if others := file.others():
            warnings.warn(
                f"checkpoint_dir={str(folder)!r} holds {len(others)} run(s) of other data, "
                f"parameters or versions, {others[0]!r} first, but none of these: training starts "
                "from the beginning. Delete those that no longer run.",
                stacklevel=4,
            )
        return KeptRun(file, None, seed, classifier)
    classifier.encoder.load_state_dict(saved.part("encoder"))
    classifier.head.load_state_dict(saved.part("head"))
    return KeptRun(file, saved, np.random.SeedSequence(saved.position["entropy"]), classifier)


def _arrays_of(
    classifier: TextClassifier, data: Iterable[LabelledTexts | Tokens | None], with_head: bool
) -> Iterator[np.ndarray]:
    """All weights and data that a run depends on."""
    modules = [classifier.encoder, *([classifier.head] if with_head else [])]
    for module in modules:
        for weight in module.state_dict().values():
            yield weight.cpu().numpy()
    for texts in data:
        tokens = texts.tokens if isinstance(texts, LabelledTexts) else texts
        if tokens is None:
            yield np.empty(0)
            continue
        yield from (tokens.ids, tokens.offsets, tokens.segment_ids)
        if isinstance(texts, LabelledTexts):
            yield from (texts.labels, texts.weights)


def _capture(
    classifier: TextClassifier,
    trainer: Trainer,
    stopping: EarlyStopping | None,
    rest: Mapping[str, Any],
) -> SavedRun:
    """Take all that the rest of a run depends on; `rest` is of JSON types."""
    parts = {
        "encoder": classifier.encoder.state_dict(),
        "head": classifier.head.state_dict(),
        "optimizer": trainer.tensors(),
        "best": stopping.tensors() if stopping else {},
    }
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous()
        for part, values in parts.items()
        for name, value in values.items()
    }
    positions = {
        "trainer": trainer.position(),
        "stopping": stopping.position() if stopping else None,
    }
    return SavedRun(tensors, {**rest, **positions})


def restore_position(run: SavedRun, trainer: Trainer, stopping: EarlyStopping | None) -> None:
    """Let a trainer of those weights go on from where the run was."""
    trainer.restore(run.part("optimizer"), run.position["trainer"])
    if stopping:
        stopping.resume(run.part("best"), run.position["stopping"])
