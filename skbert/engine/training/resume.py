"""The last complete epoch of a training run <-> one file, from which a killed run resumes.

The file is safetensors, with the position of the run as JSON in its header. Nothing is unpickled.
A run may leave its file when it has finished, so that a run with more epochs continues it.
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
from torch import Tensor, nn

from skbert.engine.files.folders import remove_left, sync, temporary_name, usual_mode
from skbert.engine.model.networks import TextClassifier
from skbert.engine.text.sentences import Sentences
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.classification import LabelledTexts
from skbert.engine.training.distributed import Ranks
from skbert.engine.training.loop import Trainer
from skbert.engine.training.stopping import EarlyStopping
from skbert.engine.warn import warn_user

_SUFFIX = ".skbert-run"
_FINISHED_SUFFIX = ".skbert-finished"


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
    """The file that holds one run.

    Finished runs that are kept have a file for each number of epochs. So a repeated search trains
    nothing twice, and no process replaces the file from which another one continues.

    Parameters
    ----------
    folder : Path
        Created if it does not exist. It may also hold runs with other data or parameters.
    fingerprint : str
        Of all that determines the run, besides its number of epochs.
    max_epochs : int
    keeps_finished : bool
        Whether this run continues finished ones with at most as many epochs, and stays for longer
        ones when it has finished.
    """

    def __init__(
        self, folder: Path, fingerprint: str, max_epochs: int, keeps_finished: bool
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"Could not create checkpoint_dir={str(folder)!r} ({error}); a folder in which fit "
                "can write is expected. Choose another."
            ) from error
        self._folder, self._fingerprint = folder, fingerprint
        self._max_epochs, self._keeps_finished = max_epochs, keeps_finished
        self._path = folder / f"{fingerprint}-{max_epochs}{_SUFFIX}"
        remove_left(self._path)

    def others(self) -> list[str]:
        """Names of the files of other runs, unless this one shares its folder with many."""
        if self._keeps_finished:
            return []
        return sorted({p.name for p in self._folder.glob(f"*{_SUFFIX}")} - {self._path.name})

    def read(self) -> SavedRun | None:
        """Read the last complete epoch of this run, or of the finished one that it continues.

        None if there is neither.
        """
        if self._path.is_file():
            return _read(self._path)
        return self._longest_finished() if self._keeps_finished else None

    def _longest_finished(self) -> SavedRun | None:
        names = [p.name for p in self._folder.glob(f"{self._fingerprint}-*{_FINISHED_SUFFIX}")]
        found = [int(name.removesuffix(_FINISHED_SUFFIX).rpartition("-")[2]) for name in names]
        fitting = [n_epochs for n_epochs in found if n_epochs <= self._max_epochs]
        return _read(self._finished(max(fitting))) if fitting else None

    def _finished(self, n_epochs: int) -> Path:
        return self._folder / f"{self._fingerprint}-{n_epochs}{_FINISHED_SUFFIX}"

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

    def forget_when_finished(self) -> None:
        """Delete the file in any case when the run has finished, because it is no whole run."""
        self._keeps_finished = False

    def end(self) -> None:
        """Delete the file, or keep it for longer runs, because the run has finished."""
        if self._keeps_finished and self._path.is_file():
            self._path.replace(self._finished(self._max_epochs))
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> SavedRun:
    try:
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            position = RunPosition(**json.loads(file.metadata()["skbert"]))
            return SavedRun(tensors, position)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Could not read the checkpoint {str(path)!r} ({error}). Delete it to train from the "
            "beginning."
        ) from error


@dataclass(frozen=True)
class KeptRun:
    """A run that is kept on disk after each epoch.

    Attributes
    ----------
    file : RunFile or None
        None on the ranks of a shared fit that write nothing.
    classifier : TextClassifier
        The network in training.
    saved : SavedRun or None
        What an interrupted run left in the file.
    """

    file: RunFile | None
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
        if self.file is None:
            return
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

    def forget_when_finished(self) -> None:
        """Do not keep the file for longer runs: a callback, which they may lack, stopped this."""
        if self.file is not None:
            self.file.forget_when_finished()

    def end(self) -> None:
        """Delete the file, or keep it for longer runs, because the run has finished."""
        if self.file is not None:
            self.file.end()


def find_run(
    folder: Path,
    fingerprint: str,
    classifier: TextClassifier,
    ranks: Ranks | None = None,
    *,
    max_epochs: int,
    keeps_finished: bool,
) -> KeptRun:
    """Look for a run by all that determines it, and load its weights into `classifier`.

    Parameters
    ----------
    folder : Path
    fingerprint : str
        From `fingerprint_of`, without the number of epochs.
    classifier : TextClassifier
        As it is before the first step.
    ranks : Ranks or None
        Rank 0 alone reads and writes the folder; the others get what it has found.
    max_epochs : int
    keeps_finished : bool
        As in `RunFile`.

    Returns
    -------
    KeptRun
        Its `saved` is None if the folder does not hold this run.

    Warns
    -----
    UserWarning
        If the folder holds other runs, but not this one. Not with `keeps_finished`: the runs of a
        search share a folder.
    """
    file = None
    if ranks is None or ranks.is_first:
        file = RunFile(folder, fingerprint, max_epochs, keeps_finished)
    saved = file.read() if file else None
    if ranks is not None:
        saved = ranks.from_first(saved)
    if saved is not None:
        classifier.encoder.load_state_dict(saved.part("encoder"))
        classifier.head.load_state_dict(saved.part("head"))
    elif file and (others := file.others()):
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


def fingerprint_of(
    settings: RunSettings,
    modules: Iterable[nn.Module],
    data: Iterable[LabelledTexts | Tokens | Sentences | None],
) -> str:
    """Hash all that determines a run to 32 hexadecimal digits.

    Parameters
    ----------
    settings : RunSettings
    modules : iterable of torch.nn.Module
        The network before the first step, without a new head: that is random, and follows from the
        entropy.
    data : iterable of LabelledTexts, Tokens, Sentences or None
    """
    text = json.dumps(asdict(settings), sort_keys=True, default=repr)
    digest = hashlib.sha256(text.encode())
    for array in _arrays_of(modules, data):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _arrays_of(
    modules: Iterable[nn.Module],
    data: Iterable[LabelledTexts | Tokens | Sentences | None],
) -> Iterator[np.ndarray]:
    """All weights and data that a run depends on."""
    for module in modules:
        for weight in module.state_dict().values():
            yield weight.cpu().numpy()
    for texts in data:
        if texts is None:
            yield np.empty(0)
            continue
        if isinstance(texts, Sentences):
            yield from (texts.bare.ids, texts.bare.offsets, texts.numbers, texts.documents)
            continue
        tokens = texts.tokens if isinstance(texts, LabelledTexts) else texts
        yield from (tokens.ids, tokens.offsets, tokens.segment_ids)
        if isinstance(texts, LabelledTexts):
            yield from (texts.labels, texts.weights)
