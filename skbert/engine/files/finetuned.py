"""A fine-tuned classifier <-> a folder of safetensors and JSON, without pickle.

`transformers` loads the same folder as its class for sequence classification, unless the family is
a padded one. skbert executes nothing in a folder. It reads only the files that `skbert.json` lists,
and compares their hashes. The estimator interprets the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from skbert.engine.files.card_file import CARD, is_unedited, write_card
from skbert.engine.files.classifier_heads import head_weights_for_transformers, read_head
from skbert.engine.files.config import CONFIG_FILE, config_of
from skbert.engine.files.contents import WEIGHTS_FILE
from skbert.engine.files.folders import (
    LOST_AND_FOUND,
    is_temporary,
    replace_folder,
    unwritable,
    usual_mode,
)
from skbert.engine.files.manifest import (
    MANIFEST,
    damaged,
    read_files,
    read_manifest,
    write_json,
    write_manifest,
)
from skbert.engine.files.textfiles import parse_object, text_of
from skbert.engine.files.tokenizer_files import (
    TOKENIZER_FILES,
    pack_tokenizer,
    subword_tokenizer_of,
    unpack_tokenizer,
)
from skbert.engine.files.weights import (
    DRAWN,
    NEEDS,
    build_encoder,
    encoder_weights,
    parse_safetensors,
    pretraining_weights,
    sort_notes,
)
from skbert.engine.model.families import family_of, n_segments
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.pooling import POOLINGS
from skbert.engine.text.subword_tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SavedClassifier:
    """The content of a folder.

    Attributes
    ----------
    network : TextClassifier
    tokenizer : transformers.PreTrainedTokenizerBase
    subword_tokenizer : SubwordTokenizer
        The same tokenizer as the engine uses it.
    settings : dict
        The settings that the estimator saved, of JSON types.
    """

    network: TextClassifier
    tokenizer: PreTrainedTokenizerBase
    subword_tokenizer: SubwordTokenizer
    settings: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What the outputs of a head are, for the configuration of transformers.

    Attributes
    ----------
    problem_type : {"single_label_classification", "multi_label_classification", "regression"}
    labels : list of str
        The name of each output.
    """

    problem_type: str
    labels: list[str]


def save_classifier(
    folder: Path,
    network: TextClassifier,
    tokenizer: PreTrainedTokenizerBase,
    settings: Mapping[str, Any],
    task: Task,
    card: str,
) -> None:
    """Write a folder, or replace one that an earlier call wrote, in one step if possible.

    `replace_folder` says when it takes more than one step.

    Parameters
    ----------
    folder : Path
        Replaced if it is empty or contains only files that an earlier call wrote.
    network : TextClassifier
    tokenizer : transformers.PreTrainedTokenizerBase
    settings : dict
        Of JSON types.
    task : Task
    card : str
        The text of the model card, README.md.

    Raises
    ------
    FileExistsError
        If `folder` is a file, or contains any other file or an edited card.
    OSError
        If the files cannot be written; the old folder then stays unchanged.
    """
    _check_replaceable(folder)

    head, note = head_weights_for_transformers(network)
    encoder = f"{family_of(network.encoder).encoder}."
    weights = {encoder + name: w for name, w in network.encoder.state_dict().items()} | head

    def write(new: Path) -> None:
        _write_weights(weights, new / WEIGHTS_FILE, {NEEDS: MANIFEST})
        write_json(new / CONFIG_FILE, _transformers_config(network, task))
        _write_tokenizer(tokenizer, new)
        write_card(new, card)
        about = {"pooling": network.pooling, "settings": settings}
        write_manifest(new, about | ({} if note is None else {"head": note}))

    replace_folder(folder, write, index=MANIFEST)


def save_pretraining_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Mapping[str, Any],
    *,
    made_with: str,
    knows_words: bool,
    knows_next_sentence: bool,
    knows_pooler: bool,
    card: str,
) -> None:
    """Write a folder that transformers loads as a model with heads; see `save_classifier`.

    `made_with` is the pooling with which the encoder was made before; see `read_pooling`.
    Modules that no training has reached have random weights. The folder contains them because
    transformers expects them, and marks them so that `read_safetensors` ignores them.
    """
    _check_replaceable(folder)
    family = family_of(model)
    is_trained = dict.fromkeys(family.word_head, knows_words)
    if family.has_next_sentence:
        is_trained |= {
            family.head_parts["next_sentence"]: knows_next_sentence,
            family.pooler_module: knows_pooler,
        }
    drawn = [module for module, trained in is_trained.items() if not trained]

    def write(new: Path) -> None:
        _write_weights(pretraining_weights(model), new / WEIGHTS_FILE, {DRAWN: " ".join(drawn)})
        # Without this setting, transformers 5.3 gives a CamemBERT a decoder of its own.
        about_heads = {"architectures": [family.pretraining_class], "tie_word_embeddings": True}
        write_json(new / CONFIG_FILE, model.config.to_dict() | about_heads)
        _write_tokenizer(tokenizer, new)
        write_card(new, card)
        about = {"kind": "pretraining", "made_with": made_with, "settings": settings}
        write_manifest(new, about)

    replace_folder(folder, write, index=MANIFEST)


def load_classifier(folder: Path) -> SavedClassifier:
    """Load a classifier from a folder that `save_classifier` wrote; the weights are on the CPU.

    Raises
    ------
    OSError
        If the folder does not exist, or lacks a file.
    ValueError
        If a file was changed or damaged, or is outside the folder, or if a newer skbert wrote the
        folder.
    """
    manifest = read_manifest(folder)
    if "pooling" not in manifest:
        raise ValueError(
            f"{str(folder)!r} contains a {manifest.get('kind')} model, not a classifier. Load it "
            f"with BertPretrainer.from_pretrained, or pass model={str(folder)!r} to "
            "BertSentimentClassifier and call fit."
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in manifest["files"]:
            raise damaged(folder / MANIFEST, f"it does not list {name}")
    if manifest.get("pooling") not in POOLINGS or not isinstance(manifest.get("settings"), dict):
        raise damaged(folder / MANIFEST, "it has no pooling or no settings")
    contents = read_files(folder, manifest)
    texts = {
        name: text_of(contents[name], folder / name)
        for name in (CONFIG_FILE, *TOKENIZER_FILES)
        if name in contents
    }
    config = config_of(parse_object(texts[CONFIG_FILE], folder / CONFIG_FILE), folder / CONFIG_FILE)
    stored = parse_safetensors(contents[WEIGHTS_FILE], folder / WEIGHTS_FILE, family_of(config))
    encoder = build_encoder(config, encoder_weights(stored, folder / WEIGHTS_FILE, config))
    head = read_head(stored, folder / WEIGHTS_FILE, config, manifest.get("head"))
    network = TextClassifier(encoder, head, manifest["pooling"])
    check_finite(network, folder / WEIGHTS_FILE)
    tokenizer = unpack_tokenizer(texts, folder, config.model_type)
    subword_tokenizer = subword_tokenizer_of(tokenizer, config.vocab_size, n_segments(config))
    return SavedClassifier(network, tokenizer, subword_tokenizer, manifest["settings"])


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(
            f"{str(folder)!r} is a file, but save_pretrained writes a folder. Choose another name."
        )
    try:
        present = {p.name for p in folder.iterdir() if not is_temporary(p.name, MANIFEST)}
    except OSError as error:
        raise unwritable(folder, error) from error
    if folder.is_mount():
        present.discard(LOST_AND_FOUND)
    if not present:
        return
    ours: set[str] = set()
    if MANIFEST in present:
        try:
            ours = {MANIFEST, CARD, *read_manifest(folder)["files"]}
        except ValueError as error:
            raise FileExistsError(
                f"{str(folder)!r} contains a {MANIFEST} that is not readable, so skbert does not "
                f"know which files it may replace ({error}) Choose a new folder, or delete this "
                "one."
            ) from error
        if CARD in present and not is_unedited(folder):
            raise FileExistsError(
                f"{str(folder)!r} contains a {CARD} that somebody wrote or edited, and "
                "save_pretrained would replace it. Move or delete it, or choose a new folder."
            )
    if others := sorted(present - ours):
        raise FileExistsError(
            f"{str(folder)!r} contains {others[0]!r}, which save_pretrained did not write. It "
            "replaces only empty folders and folders that it wrote. Choose a new folder."
        )


def _write_weights(
    weights: Mapping[str, Tensor], path: Path, notes: Mapping[str, str] | None = None
) -> None:
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    mode = usual_mode(path)
    try:
        save_file(tensors, path, metadata={"format": "pt", **(notes or {})})
        if notes:
            sort_notes(path)
        path.chmod(mode)
    except SafetensorError as error:  # safetensors raises it if the disk is full
        raise OSError(
            f"Could not write {str(path)!r} ({error}). Free disk space, or choose another disk."
        ) from error


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for name, text in pack_tokenizer(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")


def _transformers_config(network: TextClassifier, task: Task) -> dict[str, Any]:
    return network.encoder.config.to_dict() | {
        "architectures": [family_of(network.encoder).classifier_class],
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: number for number, label in enumerate(task.labels)},
        "num_labels": len(task.labels),
        "problem_type": task.problem_type,
    }


def check_finite(network: TextClassifier, path: Path) -> None:
    """Raise an error if a weight is not finite; `path` is where it was read."""
    for name, weight in [*network.encoder.named_parameters(), *network.head.named_parameters()]:
        if not torch.isfinite(weight).all():
            raise damaged(path, f"{name!r} contains numbers that are not finite")
