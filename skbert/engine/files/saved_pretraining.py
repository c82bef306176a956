"""A folder of `save_pretraining_model` -> encoder, pooler, both heads and tokenizer.

`finetuned` writes the folder. `pretrained` reads it, too, as the start of a fit; it leaves out the
heads and the pooler with random weights, which this file reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skbert.engine.files.config import CONFIG_FILE, config_of
from skbert.engine.files.contents import WEIGHTS_FILE
from skbert.engine.files.manifest import MANIFEST, damaged, read_files, read_manifest
from skbert.engine.files.textfiles import parse_object, text_of
from skbert.engine.files.tokenizer_files import (
    TOKENIZER_FILES,
    subword_tokenizer_of,
    unpack_tokenizer,
)
from skbert.engine.files.weights import (
    HeadWeights,
    build_pretraining_model,
    drawn_modules,
    encoder_weights,
    head_shapes,
    parse_safetensors,
    pooler_shapes,
    pretraining_weights,
)
from skbert.engine.model.families import family_of, n_segments
from skbert.engine.text.subword_tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SavedPretraining:
    """The content of a folder.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        Encoder, pooler and both heads, on the CPU.
    heads : HeadWeights
        The weights of the heads and the pooler, and which of them are trained.
    tokenizer : transformers.PreTrainedTokenizerBase
    subword_tokenizer : SubwordTokenizer
        The same tokenizer as the engine uses it.
    made_with : str
        The pooling with which the encoder was made before.
    settings : dict
        The settings that the estimator saved, of JSON types.
    """

    model: PreTrainedModel
    heads: HeadWeights
    tokenizer: PreTrainedTokenizerBase
    subword_tokenizer: SubwordTokenizer
    made_with: str
    settings: dict[str, Any]


def load_pretraining_model(folder: Path) -> SavedPretraining:
    """Load a folder that `save_pretraining_model` wrote; the weights are on the CPU.

    Raises
    ------
    OSError
        If the folder lacks a file.
    ValueError
        If the folder contains another kind of model, if a file was changed or damaged, or is
        outside the folder, or if a newer skbert wrote the folder.
    """
    manifest = read_manifest(folder)
    if manifest.get("kind") != "pretraining":
        raise ValueError(
            f"{str(folder)!r} contains a classifier, not a pretraining model. Load it with "
            f"BertSentimentClassifier.from_pretrained, or pass model={str(folder)!r} to "
            "BertPretrainer and call fit."
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in manifest["files"]:
            raise damaged(folder / MANIFEST, f"it does not list {name}")
    if not isinstance(manifest.get("settings"), dict):
        raise damaged(folder / MANIFEST, "it has no settings")
    contents = read_files(folder, manifest)
    texts = {
        name: text_of(contents[name], folder / name)
        for name in (CONFIG_FILE, *TOKENIZER_FILES)
        if name in contents
    }
    config = config_of(parse_object(texts[CONFIG_FILE], folder / CONFIG_FILE), folder / CONFIG_FILE)
    path, family = folder / WEIGHTS_FILE, family_of(config)
    stored = parse_safetensors(contents[WEIGHTS_FILE], path, family)
    heads = _heads(stored, config, drawn_modules(contents[WEIGHTS_FILE]), path)
    model = build_pretraining_model(config, encoder_weights(stored, path, config), heads)
    check_finite(model, path)
    tokenizer = unpack_tokenizer(texts, folder, config.model_type)
    subword_tokenizer = subword_tokenizer_of(tokenizer, config.vocab_size, n_segments(config))
    made_with = str(manifest.get("made_with", "cls"))
    return SavedPretraining(
        model, heads, tokenizer, subword_tokenizer, made_with, manifest["settings"]
    )


def check_finite(model: PreTrainedModel, path: Path) -> None:
    """Raise an error if a weight is not finite; `path` is where it was read."""
    for name, weight in pretraining_weights(model).items():
        if not torch.isfinite(weight).all():
            raise ValueError(
                f"{name!r} in {str(path)!r} contains numbers that are not finite. Save or download "
                "the model again."
            )


def _heads(
    stored: Mapping[str, torch.Tensor], config: PretrainedConfig, drawn: list[str], path: Path
) -> HeadWeights:
    """Select the weights of both heads and of the pooler, random ones included."""
    family = family_of(config)
    return HeadWeights(
        heads=_checked(stored, head_shapes(config), "", path),
        pooler=_checked(stored, pooler_shapes(config), family.pooler_weight(""), path),
        knows_words=family.word_head[0] not in drawn,
        knows_next_sentence=(
            family.has_next_sentence and family.head_parts["next_sentence"] not in drawn
        ),
        knows_pooler=family.has_next_sentence and family.pooler_module not in drawn,
    )


def _checked(
    stored: Mapping[str, torch.Tensor],
    shapes: Mapping[str, torch.Size],
    prefix: str,
    path: Path,
) -> dict[str, torch.Tensor]:
    """Copy the weights of a module as float32, if all are there and have the right shape."""
    copied = {}
    for name, shape in shapes.items():
        weight = stored.get(prefix + name)
        if weight is None:
            raise damaged(path, f"it has no {prefix + name!r}")
        if weight.shape != shape or not weight.is_floating_point():
            found = f"{weight.dtype} of shape {tuple(weight.shape)}"
            raise damaged(
                path, f"{prefix + name!r} is {found}, not a float of shape {tuple(shape)}"
            )
        copied[name] = weight.to(torch.float32, copy=True)
    return copied
