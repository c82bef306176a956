"""Weights by name <-> modules: reading, names, shapes, and building modules of given weights.

Weights are read from safetensors alone: nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
)
from transformers.models.bert.modeling_bert import BertPooler, BertPreTrainingHeads

# transformers puts tanh(dense([CLS])) before the linear layer, skbert nothing. With
# dense = identity * 2^-12 the hyperbolic tangent is the identity to a relative error of
# (|x| / 4096)^2 / 3, 2e-6 for |x| = 10; the linear layer is multiplied by 2^12 in return. Both
# factors are powers of two, so that skbert gets back the very weights it wrote.
PASS_THROUGH_SCALE = 2.0**-12

#: In the header of a weights file: modules whose weights were only drawn, for want of better ones,
#: by the names of today's `BertModel`, with spaces between. transformers expects them in the file.
DRAWN = "skbert.drawn"


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, by the names of today's `BertModel`; memory-mapped.

    Those that were only drawn, as the header of the file says, are left out.
    """
    try:
        stored = load_file(path)
        with safe_open(path, framework="pt") as file:
            drawn = (file.metadata() or {}).get(DRAWN, "")
    except (SafetensorError, KeyError) as error:
        raise _unreadable_weights(path, error) from error
    prefixes = tuple(f"{part}." for part in drawn.split())
    weights = {_modern_name(name): weight for name, weight in stored.items()}
    return {n: weight for n, weight in weights.items() if not n.startswith(prefixes)}


def parse_safetensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Read what `read_safetensors` does from memory; `path` is where it was, for errors."""
    try:
        stored = load(content)
    except (SafetensorError, KeyError) as error:
        raise _unreadable_weights(path, error) from error
    return {_modern_name(name): weight for name, weight in stored.items()}


def _unreadable_weights(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{str(path)!r} is not a readable safetensors file ({error}). Save or download the model "
        "again."
    )


def encoder_weights(
    by_name: Mapping[str, torch.Tensor], path: Path, config: BertConfig
) -> dict[str, torch.Tensor]:
    """Select the encoder's weights, whatever heads the checkpoint has besides."""
    shapes = {name: weight.shape for name, weight in _empty_encoder(config).state_dict().items()}
    missing = [name for name in shapes if name not in by_name]
    if missing:
        raise ValueError(
            f"{str(path)!r} lacks {len(missing)} of the {len(shapes)} weights of a BERT encoder "
            f"with this configuration, {missing[0]!r} first. Use the config.json that belongs to "
            "the weights."
        )
    for name, shape in shapes.items():
        if by_name[name].shape != shape:
            raise ValueError(
                f"{name!r} in {str(path)!r} has shape {tuple(by_name[name].shape)}, but the "
                f"configuration says {tuple(shape)}. Use the config.json that belongs to the "
                "weights."
            )
        if not by_name[name].is_floating_point():
            raise ValueError(
                f"{name!r} in {str(path)!r} is of type {by_name[name].dtype}; weights are floats. "
                "Save or download the model again."
            )
    # A copy: safetensors maps the file, and who overwrites it in place changes what is read.
    return {name: by_name[name].to(torch.float32, copy=True) for name in shapes}


def pass_through_pooler(d_model: int) -> dict[str, torch.Tensor]:
    """Make a pooler that changes nothing but the scale; see `PASS_THROUGH_SCALE`."""
    return {"weight": torch.eye(d_model) * PASS_THROUGH_SCALE, "bias": torch.zeros(d_model)}


def _pooler_weights(by_name: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select the pooler's weights: none if it was not trained, or not made to be one."""
    names = {name: f"pooler.dense.{name}" for name in ("weight", "bias")}
    if not all(full_name in by_name for full_name in names.values()):
        return {}
    found = {
        name: by_name[full_name].to(torch.float32, copy=True) for name, full_name in names.items()
    }
    filler = pass_through_pooler(len(found["bias"]))
    return {} if all(torch.equal(filler[name], found[name]) for name in found) else found


def _is_tied(by_name: Mapping[str, torch.Tensor]) -> bool:
    """Whether the decoder is the word embeddings, or left out because it is."""
    decoder = by_name.get("cls.predictions.decoder.weight")
    table = by_name["embeddings.word_embeddings.weight"]
    return decoder is None or torch.equal(decoder.to(torch.float32), table.to(torch.float32))


def _head_weights(by_name: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select what belongs to BERT's own two tasks, but the decoder, which is the embeddings."""
    heads = {
        name.removeprefix("cls."): weight.to(torch.float32)
        for name, weight in by_name.items()
        if name.startswith("cls.")
    }
    heads.pop("predictions.decoder.weight", None)
    bias = heads.pop("predictions.decoder.bias", None)  # the same tensor as predictions.bias
    if bias is not None:
        heads.setdefault("predictions.bias", bias)
    return heads


def _modern_name(name: str) -> str:
    """Name of a weight as `BertModel` has it today: no ``bert.``; weight, not ``gamma``."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in module.state_dict().items()}


def _empty_encoder(config: BertConfig) -> BertModel:
    """Build the module without memory and without touching any random state."""
    with torch.device("meta"):
        return BertModel(config, add_pooling_layer=False)


def build_encoder(config: BertConfig, weights: Mapping[str, torch.Tensor]) -> BertModel:
    """Make a module of the given weights (not copied), in evaluation mode."""
    model = _empty_encoder(config)
    model.load_state_dict(weights, assign=True)
    # These two are not part of the state dict; our encoder does not read them, the module's
    # own `forward` does.
    places = torch.arange(config.max_position_embeddings).expand(1, -1)
    model.embeddings.register_buffer("position_ids", places, persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)
    return model.requires_grad_(True).eval()


def build_heads(encoder: BertModel, weights: Mapping[str, torch.Tensor]) -> BertPreTrainingHeads:
    """Make the heads of BERT's own two tasks, the decoder tied to the encoder's embeddings.

    Parameters
    ----------
    encoder : transformers.BertModel
    weights : dict of str to Tensor
        As in `Pretrained.heads`, but all of them; not copied.
    """
    with torch.device("meta"):
        heads = BertPreTrainingHeads(encoder.config)
    table = encoder.embeddings.word_embeddings.weight
    bias = weights["predictions.bias"]
    tied = {"predictions.decoder.weight": table.detach(), "predictions.decoder.bias": bias}
    heads.load_state_dict({**weights, **tied}, assign=True)
    heads.requires_grad_(True).eval()
    heads.predictions.decoder.weight = table
    heads.predictions.decoder.bias = heads.predictions.bias
    return heads


def build_pooler(config: BertConfig, weights: Mapping[str, torch.Tensor]) -> BertPooler:
    """Make BERT's pooler of "weight" and "bias" (not copied)."""
    with torch.device("meta"):
        pooler = BertPooler(config)
    pooler.dense.load_state_dict(weights, assign=True)
    return pooler.requires_grad_(True).eval()


@dataclass(frozen=True)
class HeadWeights:
    """Weights of the heads for BERT's own two tasks, all of them.

    Attributes
    ----------
    heads : dict of str to Tensor
        By the names of `BertPreTrainingHeads`, without the decoder.
    pooler : dict of str to Tensor
        "weight" and "bias".
    knows_words, knows_next_sentence, knows_pooler : bool
        Whether the head of each task, and the pooler, is of the checkpoint; if not, it is drawn.
    """

    heads: Mapping[str, torch.Tensor]
    pooler: Mapping[str, torch.Tensor]
    knows_words: bool
    knows_next_sentence: bool
    knows_pooler: bool


def build_pretraining_model(
    config: BertConfig, weights: Mapping[str, torch.Tensor], heads: HeadWeights
) -> BertForPreTraining:
    """Make the module of encoder, pooler and heads, of weights that are not copied."""
    with torch.device("meta"):
        model = BertForPreTraining(config)
    model.bert = build_encoder(config, weights)
    model.bert.pooler = build_pooler(config, heads.pooler)
    model.cls = build_heads(model.bert, heads.heads)
    return model.eval()


def linear_of(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Make a linear layer of the given weights (not copied)."""
    n_out, n_in = weight.shape
    layer = nn.Linear(n_in, n_out, device="meta")
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer


def pretraining_weights(model: BertForPreTraining) -> dict[str, torch.Tensor]:
    """Name all weights of the module once: the decoder's are the word embeddings."""
    return {n: w for n, w in model.state_dict().items() if ".decoder." not in n}
