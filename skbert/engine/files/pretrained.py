"""A pretrained checkpoint in memory, and the process-wide cache of those."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from skbert.engine.files.config import read_config
from skbert.engine.files.find import (
    _CONFIG,
    _HUB_FILES,
    _WEIGHTS,
    _check_hash,
    _find,
    _Stamp,
    _stamp,
    file_sha256,
)
from skbert.engine.files.manifest import check_folder
from skbert.engine.files.tokenizer_files import (
    read_tokenizer,
    wordpiece_of,
)
from skbert.engine.files.weights import (
    HeadWeights,
    build_encoder,
    build_pretraining_model,
    encoder_weights,
    is_tied,
    read_safetensors,
    stored_heads,
    stored_pooler,
)
from skbert.engine.model.families import family_of
from skbert.engine.text.wordpiece import WordPieceTokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint in memory. Shared by all who ask for it; see `new_encoder` for a copy.

    Attributes
    ----------
    config : transformers.PretrainedConfig
    weights : dict of str to Tensor
        By their names in the encoder, float32; without its pooler.
    pooler : dict of str to Tensor
        "weight" and "bias" of the pooler's linear layer; empty if the checkpoint has none.
    tokenizer : transformers.PreTrainedTokenizerBase
    wordpiece : WordPieceTokenizer
        The same tokenizer as the engine uses it.
    heads : dict of str to Tensor
        Weights of the pre-training heads, by their names in the heads, as many as the checkpoint
        has.
    is_tied : bool
        Whether the head for words, if there is one, reads the word embeddings, as BERT's does.
    """

    config: PretrainedConfig
    weights: Mapping[str, torch.Tensor]
    pooler: Mapping[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerBase
    wordpiece: WordPieceTokenizer
    heads: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_tied: bool = True
    _frozen: dict[torch.device, PreTrainedModel] = field(
        default_factory=dict, repr=False, compare=False
    )

    def frozen_encoder(self, device: torch.device) -> PreTrainedModel:
        """Give the one module of each device that all share who only read the weights."""
        if device not in self._frozen:
            weights = {name: weight.to(device) for name, weight in self.weights.items()}
            encoder = build_encoder(copy.deepcopy(self.config), weights)
            self._frozen[device] = encoder.requires_grad_(False).to(device)
        return self._frozen[device]

    def new_encoder(self) -> PreTrainedModel:
        """Build a module with weights of its own, free to be trained."""
        weights = {name: weight.clone() for name, weight in self.weights.items()}
        return build_encoder(copy.deepcopy(self.config), weights)

    def new_tokenizer(self) -> PreTrainedTokenizerBase:
        """Copy the tokenizer: whoever calls it sets padding and truncation on it."""
        return copy.deepcopy(self.tokenizer)


def load_pretrained(model: str) -> Pretrained:
    """Load a BERT checkpoint; the second time in a process, from memory.

    Parameters
    ----------
    model : str
        A local folder; or a name, whose files are taken from an installed package that
        carries them, from the local hub cache, or from the hub.

    Raises
    ------
    OSError
        If the files cannot be had; says what was tried and what to do.
    ValueError
        If they are not a BERT encoder, or not the files they should be.
    """
    folder, sha256 = _find(model)
    present = [folder / name for name in _HUB_FILES if (folder / name).is_file()]
    stamp = tuple(_stamp(file) for file in present)
    return _read(folder, sha256, stamp)


def load_config(model: str) -> PretrainedConfig:
    """Read the configuration of a checkpoint, but no weights; see `load_pretrained`."""
    folder, _ = _find(model)
    return read_config(folder / _CONFIG)


def weights_sha256(model: str) -> str:
    """SHA-256 of a checkpoint's weights file; a second time in a process, from memory."""
    folder, _ = _find(model)
    return file_sha256(folder / _WEIGHTS)


@functools.lru_cache(maxsize=2)
def _read(folder: Path, sha256: str | None, stamp: tuple[_Stamp, ...]) -> Pretrained:
    """Read the files; `stamp`, that of each, makes changed files be read again."""
    if sha256 is not None:
        _check_hash(folder / _WEIGHTS, sha256)
    check_folder(folder)
    config = read_config(folder / _CONFIG)
    tokenizer = read_tokenizer(folder)
    family = family_of(config)
    stored = read_safetensors(folder / _WEIGHTS, family)
    return Pretrained(
        config=config,
        weights=encoder_weights(stored, folder / _WEIGHTS, config),
        pooler=stored_pooler(stored, family),
        tokenizer=tokenizer,
        wordpiece=wordpiece_of(tokenizer, config.vocab_size),
        heads=stored_heads(stored, family),
        is_tied=is_tied(stored, family),
    )


def new_pretraining_model(pretrained: Pretrained, heads: HeadWeights) -> PreTrainedModel:
    """Build a module with weights of its own, free to be trained."""
    weights = {name: weight.clone() for name, weight in pretrained.weights.items()}
    return build_pretraining_model(copy.deepcopy(pretrained.config), weights, heads)
