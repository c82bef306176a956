"""The last complete epoch of a training run <-> one file, from which a killed run resumes.

The file is safetensors, with the position of the run as JSON in its header. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skbert.engine.files.folders import remove_left, sync, temporary_name, usual_mode
from skbert.engine.model.networks import TextClassifier
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.classification import LabelledTexts
from skbert.engine.training.loop import Trainer
from skbert.engine.training.stopping import EarlyStopping
from skbert.engine.warn import warn_user

_SUFFIX = ".skbert-run"


@dataclass(frozen=True)
class RunPosition:
    """How far a run has come. All fields are of JSON types.

    Attributes
    ----------
    entropy : int or list of int
        The root of the run's random streams.
    history, pretraining_history : list of dict
        One record per completed epoch.
    stopped : bool
        Whether the run has ended: early stopping or a callback stopped it after this epoch.
    trainer : dict
        From `Trainer.position`.
    stopping : dict or None
        From `EarlyStopping.position`.
    """

    entropy: Any
    history: list[dict[str, Any]]
    pretraining_history: list[dict[str, Any]]
    stopped: bool
    trainer: dict[str, Any]
    stopping: dict[str, Any] | None


@dataclass(frozen=True)
class SavedRun:
    """A run after its last complete epoch.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Weights, moments of the optimizer, weights of the best epoch.
    position : RunPosition
    """

    tensors: dict[str, Tensor]
    position: RunPosition

    def part(self, name: str) -> dict[str, Tensor]:
        """Tensors whose names begin with `name` and a slash, without that prefix."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


@dataclass(frozen=True)
class RunSettings:
    """What determines a run, besides its weights and data. All fields are of JSON types.

    Attributes
    ----------
    parameters : dict
        Parameters of the estimator that influence the weights.
    precision, device : str
        Kind of device: the random bits of a checkpoint are those of its kind.
    classes : list
    entropy : int, list of int or None
        The root of the random streams; None if each run draws a new one.
    versions : dict of str to str
        Versions of the packages that compute.
    n_epochs_before : int
        Number of epochs of the fits that this run continues; 0 if it starts from the pretrained
        model.
    """

    parameters: Mapping[str, Any]
    precision: str
    device: str
    classes: list[Any]
    entropy: Any
    versions: Mapping[str, str]
    n_epochs_before: int


class RunFile:
    """The file that holds the run with one fingerprint.

    Parameters
    ----------
    folder : Path
        Created if it does not exist. It may also hold runs with other data or parameters.
    fingerprint : str
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{fingerprint}{_SUFFIX}"
        remove_left(self._path)

    def others(self) -> list[str]:
        """Names of the files of other runs in the same folder."""
        return sorted({p.name for p in self._path.parent.glob(f"*{_SUFFIX}")} - {self._path.name})

    def read(self) -> SavedRun | None:
        """Read the last complete epoch; None if there is no file."""
        if not self._path.is_file():
            return None
        try:
            with torch.device("cpu"), safe_open(self._path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                position = RunPosition(**json.loads(file.metadata()["skbert"]))
                return SavedRun(tensors, position)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Could not read the checkpoint {str(self._path)!r} ({error}). Delete it to train "
                "from the beginning."
            ) from error

    def write(self, run: SavedRun) -> None:
        """Replace the last epoch by this one in one step: a crash leaves either of the two.

        Warns
        -----
        UserWarning
            If the file cannot be written. Training continues, because its weights are intact, and
            the file keeps the previous epoch.
        """
        new = temporary_name(self._path)
        try:
            mode = usual_mode(new)
            save_file(run.tensors, new, metadata={"skbert": json.dumps(asdict(run.position))})
            new.chmod(mode)
            sync(new)
            new.replace(self._path)
        except (OSError, SafetensorError) as error:
            warn_user(
                f"Could not write the last epoch to {str(self._path.parent)!r} ({error}). Training "
                "continues, but after a crash it would resume from an earlier epoch or restart. "
                "Free some disk space there."
            )
        finally:
            new.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the file, because the run has ended."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class KeptRun:
    """A run that is kept on disk after each epoch.

    Attributes
    ----------
    file : RunFile
    classifier : TextClassifier
        The network in training.
    saved : SavedRun or None
        What an interrupted run left in the file.
    """

    file: RunFile
    classifier: TextClassifier
    saved: SavedRun | None

    def write(
        self,
        trainer: Trainer,
        stopping: EarlyStopping | None,
        *,
        entropy: Any,
        history: list[dict[str, Any]],
        pretraining_history: list[dict[str, Any]],
        stopped: bool,
    ) -> None:
        """Write the epoch that has just ended."""
        parts = {
            "encoder": self.classifier.encoder.state_dict(),
            "head": self.classifier.head.state_dict(),
            "optimizer": trainer.tensors(),
            "best": stopping.tensors() if stopping else {},
        }
        tensors = {
            f"{part}/{name}": value.detach().cpu().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        position = RunPosition(
            entropy=entropy,
            history=history,
            pretraining_history=pretraining_history,
            stopped=stopped,
            trainer=trainer.position(),
            stopping=stopping.position() if stopping else None,
        )
        self.file.write(SavedRun(tensors, position))


def find_run(
    folder: Path,
    settings: RunSettings,
    classifier: TextClassifier,
    data: Iterable[LabelledTexts | Tokens | None],
    *,
    with_head: bool,
) -> KeptRun:
    """Look for a run by all that determines it, and load its weights into `classifier`.

    Parameters
    ----------
    folder : Path
    settings : RunSettings
    classifier : TextClassifier
        As it is before the first step.
    data : iterable of LabelledTexts, Tokens or None
    with_head : bool
        Whether the head is part of the fingerprint. A new head is not: it is random, and follows
        from the entropy.

    Returns
    -------
    KeptRun
        Its `saved` is None if the folder does not hold this run.

    Warns
    -----
    UserWarning
        If the folder holds other runs, but not this one.
    """
    arrays = _arrays_of(classifier, data, with_head)
    file = RunFile(folder, _fingerprint(arrays, settings))
    saved = file.read()
    if saved is not None:
        classifier.encoder.load_state_dict(saved.part("encoder"))
        classifier.head.load_state_dict(saved.part("head"))
    elif others := file.others():
        warn_user(
            f"checkpoint_dir={str(folder)!r} holds {len(others)} run(s) with other data, "
            f"parameters or versions ({others[0]!r} is the first), but not this run, so training "
            "starts from the beginning. Delete the files of runs that you do not want to resume."
        )
    return KeptRun(file, classifier, saved)


def restore_position(run: SavedRun, trainer: Trainer, stopping: EarlyStopping | None) -> None:
    """Set a trainer and early stopping, whose weights are loaded, to the position of a run."""
    trainer.restore(run.part("optimizer"), run.position.trainer)
    if stopping and run.position.stopping:
        stopping.resume(run.part("best"), run.position.stopping)


def _fingerprint(arrays: Iterable[np.ndarray], settings: RunSettings) -> str:
    """Hash all that determines a run to 32 hexadecimal digits."""
    text = json.dumps(asdict(settings), sort_keys=True, default=repr)
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


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
