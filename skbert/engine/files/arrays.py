"""Modules <-> numpy arrays, which pickles contain instead of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from skbert.engine.files.classifier_heads import head_of_arrays
from skbert.engine.files.config import config_of
from skbert.engine.files.pretrained import Pretrained
from skbert.engine.files.tokenizer_files import (
    pack_tokenizer,
    subword_tokenizer_of,
    unpack_tokenizer,
)
from skbert.engine.files.weights import (
    HeadWeights,
    build_encoder,
    build_pretraining_model,
    modern_name,
    pretraining_weights,
    shapes_of,
    stored_heads,
    stored_pooler,
)
from skbert.engine.model.families import empty_encoder, family_of, n_segments
from skbert.engine.model.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def to_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Convert the weights of a module to numpy arrays, which load on any device."""
    return {name: weight.cpu().numpy() for name, weight in module.state_dict().items()}


def pack_encoder(model: PreTrainedModel) -> dict[str, Any]:
    """Convert an encoder to its configuration and arrays; see `unpack_encoder`."""
    return {"config": model.config.to_dict(), "weights": to_arrays(model)}


def unpack_encoder(packed: Mapping[str, Any]) -> PreTrainedModel:
    """Rebuild an encoder from the result of `pack_encoder`. The weights are not copied."""
    config = config_of(packed["config"], Path("the pickle"))
    return build_encoder(config, _to_tensors(packed["weights"]))


def pack_pretraining_model(model: PreTrainedModel) -> dict[str, Any]:
    """Convert the module to its configuration and arrays; see `unpack_pretraining_model`."""
    weights = {name: weight.cpu().numpy() for name, weight in pretraining_weights(model).items()}
    return {"config": model.config.to_dict(), "weights": weights}


def unpack_pretraining_model(packed: Mapping[str, Any]) -> PreTrainedModel:
    """Rebuild the module from the result of `pack_pretraining_model`, without copying weights."""
    config = config_of(packed["config"], Path("the pickle"))
    family = family_of(config)
    weights = {modern_name(name, family): w for name, w in _to_tensors(packed["weights"]).items()}
    encoder = {name: weights[name] for name in shapes_of(empty_encoder(config))}
    heads, pooler = stored_heads(weights, family), stored_pooler(weights, family)
    return build_pretraining_model(config, encoder, HeadWeights(heads, pooler, True, True, True))


def pack_pretrained(pretrained: Pretrained) -> dict[str, Any]:
    """Convert a whole checkpoint to arrays and settings; see `unpack_pretrained`."""
    return {
        "config": pretrained.config.to_dict(),
        "weights": {name: weight.numpy() for name, weight in pretrained.weights.items()},
        "pooler": {name: weight.numpy() for name, weight in pretrained.pooler.items()},
        "tokenizer": pack_tokenizer(pretrained.tokenizer),
        "pooling": pretrained.pooling,
    }


def unpack_pretrained(packed: Mapping[str, Any]) -> Pretrained:
    """Rebuild a checkpoint from the result of `pack_pretrained`. The weights are not copied."""
    config = config_of(packed["config"], Path("the pickle"))
    tokenizer = packed["tokenizer"]
    if isinstance(tokenizer, dict):  # format 0 stores a tokenizer object instead
        tokenizer = unpack_tokenizer(tokenizer, model_type=config.model_type)
    return Pretrained(
        config=config,
        weights=_to_tensors(packed["weights"]),
        pooler=_to_tensors(packed["pooler"]),
        tokenizer=tokenizer,
        subword_tokenizer=subword_tokenizer_of(tokenizer, type_vocab_size=n_segments(config)),
        pooling=packed.get("pooling", "cls"),  # older pickles lack it
    )


def unpack_head(arrays: Mapping[str, np.ndarray], encoder: PreTrainedModel) -> Head:
    """Rebuild a head from the result of `to_arrays`. The weights are not copied."""
    return head_of_arrays(_to_tensors(arrays), family_of(encoder))


def _to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        # Memory-mapped arrays are read-only. skbert does not write to these tensors either.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
