"""A fine-tuned classifier <-> a folder of safetensors and JSON, without pickle.

`transformers` reads the same folder as a `BertForSequenceClassification`. Nothing in a folder
is executed; each file must have the hash that `skbert.json` says. What the settings mean is
the estimator's business.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, BertForPreTraining, PreTrainedTokenizerBase

from skbert.engine.checkpoint import (
    build_encoder,
    encoder_weights,
    file_sha256,
    linear_of,
    pretraining_weights,
    read_config,
    read_safetensors,
)
from skbert.engine.heads import TextClassifier

FORMAT = 1
_MANIFEST, _CONFIG, _WEIGHTS = "skbert.json", "config.json", "model.safetensors"

# transformers puts tanh(dense([CLS])) before the linear layer, skbert nothing. With
# dense = identity * 2^-12 the hyperbolic tangent is the identity to a relative error of
# (|x| / 4096)^2 / 3, 2e-6 for |x| = 10; the linear layer is multiplied by 2^12 in return. Both
# factors are powers of two, so that skbert gets back the very weights it wrote.
_POOLER_SCALE = 2.0**-12


@dataclass(frozen=True)
class SavedClassifier:
    """What a folder holds.

    Attributes
    ----------
    network : TextClassifier
    tokenizer : transformers.PreTrainedTokenizerBase
    settings : dict
        What the estimator added, of JSON types.
    """

    network: TextClassifier
    tokenizer: PreTrainedTokenizerBase
    settings: dict[str, Any]


def save_classifier(folder: Path, saved: SavedClassifier, labels: list[str]) -> None:
    """Write a folder, or replace one that was written before, in one step.

    Parameters
    ----------
    folder : Path
        Replaced if it is empty or holds only what an earlier call wrote.
    saved : SavedClassifier
    labels : list of str
        Names of the classes, for transformers.

    Raises
    ------
    FileExistsError
        If `folder` is a file, or holds anything else.
    OSError
        If the files cannot be written; the old folder is then as it was.
    """
    _write_folder(folder, lambda new: _write_files(new, saved, labels))


def save_pretraining_model(
    folder: Path,
    model: BertForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    settings: Mapping[str, Any],
) -> None:
    """Write a folder that `BertForPreTraining.from_pretrained` reads; as `save_classifier`."""

    def write(new: Path) -> None:
        weights = pretraining_weights(model)
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(tensors, new / _WEIGHTS, metadata={"format": "pt"})
        config = model.config.to_dict() | {"architectures": ["BertForPreTraining"]}
        _write_json(new / _CONFIG, config)
        tokenizer.save_pretrained(new)
        _write_manifest(new, {"kind": "pretraining", "settings": settings})

    _write_folder(folder, write)


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    new.mkdir()
    try:
        write(new)
        _put_in_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def load_classifier(folder: Path) -> SavedClassifier:
    """Read a folder that `save_classifier` wrote; the weights are on the CPU.

    Raises
    ------
    OSError
        If there is no such folder, or a file of it is missing.
    ValueError
        If a file is not what was written, or leads out of the folder, or the folder was written
        by a newer skbert.
    """
    manifest = _read_manifest(folder)
    if "pooling" not in manifest:
        raise ValueError(
            f"{str(folder)!r} holds a {manifest.get('kind')} model, not a classifier. Give the "
            f"folder as model={str(folder)!r} and call fit."
        )
    for name, sha256 in manifest["files"].items():
        _check_file(folder, name, sha256)
    config = read_config(folder / _CONFIG)
    stored = read_safetensors(folder / _WEIGHTS)
    encoder = build_encoder(config, encoder_weights(stored, folder / _WEIGHTS, config))
    head = linear_of(stored["classifier.weight"] * _POOLER_SCALE, stored["classifier.bias"])
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    network = TextClassifier(encoder, head, manifest["pooling"])
    return SavedClassifier(network, tokenizer, manifest["settings"])


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(
            f"{str(folder)!r} is a file; a folder is written. Choose another name."
        )
    present = {path.name for path in folder.iterdir()}
    if not present:
        return
    ours = {_MANIFEST, *_read_manifest(folder)["files"]} if _MANIFEST in present else set()
    if others := sorted(present - ours):
        raise FileExistsError(
            f"{str(folder)!r} holds {others[0]!r}, which save_pretrained did not write; only an "
            "empty folder or one of its own is replaced. Choose a new folder."
        )


def _write_files(folder: Path, saved: SavedClassifier, labels: list[str]) -> None:
    network = saved.network
    save_file(_transformers_weights(network), folder / _WEIGHTS, metadata={"format": "pt"})
    config = network.encoder.config.to_dict() | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "num_labels": len(labels),
        "problem_type": "single_label_classification",
    }
    _write_json(folder / _CONFIG, config)
    saved.tokenizer.save_pretrained(folder)
    _write_manifest(folder, {"pooling": network.pooling, "settings": saved.settings})


def _write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write what the folder is, with the hashes of its files, and have all on the disk."""
    manifest = {
        "format": FORMAT,
        **content,
        "files": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    }
    _write_json(folder / _MANIFEST, manifest | {"sha256": _sha256_of_json(manifest)})
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _transformers_weights(network: TextClassifier) -> dict[str, Tensor]:
    """Name the weights as `BertForSequenceClassification` does; see `_POOLER_SCALE`."""
    weights = {
        f"bert.{name}": weight.detach().cpu().contiguous()
        for name, weight in network.encoder.state_dict().items()
    }
    head = {name: weight.detach().cpu() for name, weight in network.head.state_dict().items()}
    d_model = network.head.in_features
    return weights | {
        "bert.pooler.dense.weight": torch.eye(d_model) * _POOLER_SCALE,
        "bert.pooler.dense.bias": torch.zeros(d_model),
        "classifier.weight": head["weight"] / _POOLER_SCALE,
        "classifier.bias": head["bias"].contiguous(),
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no {_MANIFEST}; from_pretrained reads folders that "
            "save_pretrained wrote. For the weights of another model, give the folder as "
            f"model={str(folder)!r} and call fit."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sha256 = manifest.pop("sha256")
        form = manifest["format"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, repr(error)) from error
    if isinstance(form, int) and form > FORMAT:
        raise ValueError(
            f"{str(folder)!r} was written in format {form} by a newer skbert; this one reads up to "
            f"format {FORMAT}. Update skbert."
        )
    if sha256 != _sha256_of_json(manifest):
        raise _damaged(path, "its SHA-256 is not the one it states")
    return manifest


def _check_file(folder: Path, name: str, sha256: str) -> None:
    """Refuse a file that is elsewhere, missing, or not what was written."""
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
    if file_sha256(path) != sha256:
        raise _damaged(path, f"its SHA-256 is not {sha256}")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{str(path)!r} is not the file that was written: {why}. Copy the folder again, or save "
        "the model again."
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _sha256_of_json(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _put_in_place(new: Path, folder: Path) -> None:
    """Let `folder` be `new`; what was there before is then at `new`."""
    try:
        new.rename(folder)  # also over an empty folder, where the system allows it
    except OSError:
        if not folder.exists():
            raise
        _exchange(new, folder)


def _exchange(new: Path, folder: Path) -> None:
    """Exchange two folders.

    In one step where Linux and its file system can. Elsewhere in two, between which `folder` is
    absent for a moment, and complete under another name.
    """
    at_working_directory, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        paths = os.fsencode(new), os.fsencode(folder)
        if renameat2 is not None and not renameat2(
            at_working_directory, paths[0], at_working_directory, paths[1], exchange
        ):
            return
    aside = new.with_name(f"{new.name}-old")
    folder.rename(aside)
    new.rename(folder)
    aside.rename(new)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
