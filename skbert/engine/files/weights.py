"""Weights by name <-> modules: read weights, select and check them, and build modules from them.

skbert reads weights only from safetensors files, never from pickles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file
from torch import nn

from skbert.engine.files.config import CONFIG_FILE
from skbert.engine.files.contents import INDEX_FILE, in_words, shards_of
from skbert.engine.files.textfiles import check_no_pointer
from skbert.engine.model.families import (
    Family,
    empty_encoder,
    empty_heads,
    empty_pooler,
    empty_pretraining_model,
    family_of,
    heads_of,
    hollow_encoder,
    other_families,
    word_embeddings,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# transformers computes tanh(dense([CLS])) before the linear layer; skbert does not. With
# dense = identity * 2^-12, the hyperbolic tangent is the identity up to a relative error of
# (|x| / 4096)^2 / 3, which is 2e-6 for |x| = 10. In return, the linear layer is multiplied by 2^12.
# Both factors are powers of two, so skbert loads exactly the weights that it saved.
PASS_THROUGH_SCALE = 2.0**-12

#: A key in the header of the weights of a saved classifier. Its value names the file without which
#: skbert does not know how to use them. A file that transformers writes lacks this key.
NEEDS = "skbert.needs"

#: A key in the header of a weights file. Its value lists the modules with random weights, by
#: `modern_name`, separated by spaces. transformers expects these modules in the file.
DRAWN = "skbert.drawn"


def read_safetensors(path: Path, family: Family) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, memory-mapped, by the names that `modern_name` gives.

    Random weights, which the header of the file lists, are ignored.

    Parameters
    ----------
    path : Path
        The one file with all weights, or the index of several files.
    family : Family
    """
    weights: dict[str, torch.Tensor] = {}
    for file in shards_of(path) if path.name == INDEX_FILE else [path]:
        weights |= _read_file(file, family)
    return modern_weights(weights, path, family)


def _read_file(path: Path, family: Family) -> dict[str, torch.Tensor]:
    try:
        # safetensors 0.5 reads to the default device of torch, which the caller may have set.
        with torch.device("cpu"):
            stored = load_file(path)
        drawn = read_notes(path).get(DRAWN, "")
    except (SafetensorError, KeyError) as error:
        with path.open("rb") as pointer:
            check_no_pointer(pointer.read(64), path)
        raise _unreadable_weights(path, error) from error
    prefixes = tuple(f"{part}." for part in drawn.split())
    return {
        name: weight
        for name, weight in stored.items()
        if not modern_name(name, family).startswith(prefixes)
    }


def read_notes(path: Path) -> dict[str, str]:
    """Read the notes in the header of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        notes: dict[str, str] = file.metadata() or {}
    return notes


def modern_weights(
    by_name: Mapping[str, torch.Tensor], path: Path, family: Family
) -> dict[str, torch.Tensor]:
    """Rename weights as `modern_name` does, without the names of modules around the encoder.

    torch adds "module." (DataParallel) and "_orig_mod." (compile); the encoder may also be an
    attribute of a module of the user, under any name.

    Parameters
    ----------
    by_name : dict of str to Tensor
        As they are stored.
    path : Path
        Where they were read, for errors.
    family : Family

    Raises
    ------
    ValueError
        If the names are those of no encoder of the family, or of several.
    """
    table = family.word_table
    starts = sorted(n.removesuffix(table) for n in by_name if f".{n}".endswith(f".{table}"))
    if not starts:
        shown = in_words([repr(name) for name in by_name])
        raise ValueError(
            f"{str(path)!r} has no weights of a {family.model_type} encoder: no name ends with "
            f"{table!r}. It "
            f"contains {shown or 'nothing'}. Use the weights that belong to the config.json, with "
            "the names of transformers."
        )
    if len(starts) > 1:
        shown = in_words([repr(f"{start}{table}") for start in starts])
        raise ValueError(
            f"{str(path)!r} has the weights of {len(starts)} encoders: {shown}. Save the one to "
            "use with `save_pretrained`."
        )
    wrapper = starts[0]
    if f".{wrapper}".endswith(f".{family.encoder}."):
        wrapper = wrapper.removesuffix(f"{family.encoder}.")
    if other_families(wrapper.split(".")[-2:-1], family):
        raise ValueError(
            f"{str(path)!r} has {starts[0] + table!r}, which is no weight of the model_type "
            f"{family.model_type!r}. Correct the model_type in {CONFIG_FILE}, or choose another "
            "model."
        )
    return {
        modern_name(name.removeprefix(wrapper), family): weight
        for name, weight in by_name.items()
        if name.startswith(wrapper)
    }


def parse_safetensors(content: bytes, path: Path, family: Family) -> dict[str, torch.Tensor]:
    """Parse the content of a safetensors file; `path` is where it was read, for errors."""
    try:
        with torch.device("cpu"):
            stored = load(content)
    except (SafetensorError, KeyError) as error:
        raise _unreadable_weights(path, error) from error
    return {modern_name(name, family): weight for name, weight in stored.items()}


def drawn_modules(content: bytes) -> list[str]:
    """List the modules with random weights, by the header of a readable safetensors file."""
    n_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_bytes])
    drawn: str = header.get("__metadata__", {}).get(DRAWN, "")
    return drawn.split()


def sort_notes(path: Path) -> None:
    """Sort the notes in the header of a safetensors file, so that equal models are equal bytes.

    safetensors writes several notes in a random order.
    """
    with path.open("r+b") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_bytes))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(content) <= n_bytes:  # shorter by the spaces that end the header
            file.seek(8)
            file.write(content.ljust(n_bytes))


def _unreadable_weights(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{str(path)!r} is not a readable safetensors file ({error}). Save or download the model "
        "again."
    )


def encoder_weights(
    by_name: Mapping[str, torch.Tensor], path: Path, config: PretrainedConfig
) -> dict[str, torch.Tensor]:
    """Select the weights of the encoder, and ignore any heads of the checkpoint."""
    shapes = shapes_of(empty_encoder(config))
    missing = [name for name in shapes if name not in by_name]
    if missing:
        others = [repr(n) for n in by_name if n not in shapes and _is_of_encoder(n, config)]
        raise ValueError(
            f"{str(path)!r} lacks {len(missing)} of the {len(shapes)} weights of a "
            f"{config.model_type} encoder with this configuration; the first is {missing[0]!r}. "
            + (f"It contains {in_words(others)} instead. " if others else "")
            + "Use the config.json that belongs to the weights."
        )
    for name, shape in shapes.items():
        if by_name[name].shape != shape:
            raise ValueError(
                f"{name!r} in {str(path)!r} has shape {tuple(by_name[name].shape)}, but the "
                f"configuration requires {tuple(shape)}. Use the config.json that belongs to the "
                "weights."
            )
        if not by_name[name].is_floating_point():
            raise ValueError(
                f"{name!r} in {str(path)!r} has dtype {by_name[name].dtype}, but weights must be "
                "floats. Save or download the model again."
            )
    # Copy, because safetensors maps the file: overwriting it in place would change the weights.
    return {name: by_name[name].to(torch.float32, copy=True) for name in shapes}


def _is_of_encoder(name: str, config: PretrainedConfig) -> bool:
    """Whether a weight belongs to the embeddings or blocks, and not to a head."""
    is_known = name.split(".")[0] in family_of(config).first_names
    return is_known and not name.endswith("position_ids")


def pass_through_pooler(d_model: int) -> dict[str, torch.Tensor]:
    """Create a pooler that only scales its input; see `PASS_THROUGH_SCALE`."""
    eye = torch.eye(d_model, device="cpu", dtype=torch.float32)
    bias = torch.zeros(d_model, device="cpu", dtype=torch.float32)
    return {"weight": eye * PASS_THROUGH_SCALE, "bias": bias}


def stored_pooler(by_name: Mapping[str, torch.Tensor], family: Family) -> dict[str, torch.Tensor]:
    """Select the weights of the pooler; none if it is missing, or only passes its input through."""
    names = {name: family.pooler_weight(name) for name in ("weight", "bias")}
    if family.pooler is None or not all(full_name in by_name for full_name in names.values()):
        return {}
    found = {
        name: by_name[full_name].to(torch.float32, copy=True) for name, full_name in names.items()
    }
    filler = pass_through_pooler(len(found["bias"]))
    return {} if all(torch.equal(filler[name], found[name]) for name in found) else found


def is_tied(by_name: Mapping[str, torch.Tensor], family: Family) -> bool:
    """Whether the decoder equals the word embeddings, or is missing because it is tied to them."""
    decoder = by_name.get(f"{family.head_parts['decoder']}.weight")
    table = by_name[family.word_table]
    return decoder is None or torch.equal(decoder.to(torch.float32), table.to(torch.float32))


def stored_heads(by_name: Mapping[str, torch.Tensor], family: Family) -> dict[str, torch.Tensor]:
    """Select the weights of the pre-training heads, without the decoder."""
    heads = {
        name: weight.to(torch.float32)
        for name, weight in by_name.items()
        if name.split(".")[0] in family.heads
    }
    decoder = family.head_parts["decoder"]
    heads.pop(f"{decoder}.weight", None)
    bias = heads.pop(f"{decoder}.bias", None)  # the same tensor as the bias of the head
    if bias is not None:
        heads.setdefault(family.head_parts["bias"], bias)
    return heads


def modern_name(name: str, family: Family) -> str:
    """Convert the name of a weight, in the file of any model, to its name in a current encoder.

    Examples
    --------
    >>> from skbert.engine.model.families import BERT
    >>> modern_name("bert.embeddings.LayerNorm.gamma", BERT)
    'embeddings.LayerNorm.weight'
    """
    name = name.removeprefix(f"{family.encoder}.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """Collect the shapes of all weights of a module, by name."""
    return {name: weight.shape for name, weight in module.state_dict().items()}


def build_encoder(config: PretrainedConfig, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """Build an encoder in evaluation mode. The weights are not copied."""
    if family_of(config).padded:
        model = hollow_encoder(config)
        model.load_state_dict(weights, assign=True)
        return model.eval()
    model = empty_encoder(config)
    model.load_state_dict(weights, assign=True)
    # The state dict does not contain these. The module's own `forward` reads them; skbert does not.
    places = torch.arange(config.max_position_embeddings, device="cpu", dtype=torch.int64)
    buffers = {"position_ids": places.expand(1, -1)}
    buffers["token_type_ids"] = torch.zeros_like(buffers["position_ids"])
    for name, _ in [*model.named_buffers()]:
        parent, _, own_name = name.rpartition(".")
        model.get_submodule(parent).register_buffer(own_name, buffers[own_name], persistent=False)
    return model.requires_grad_(True).eval()


def build_heads(encoder: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> nn.ModuleDict:
    """Build pre-training heads whose decoder is tied to the embeddings of the encoder.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
    weights : dict of str to Tensor
        As in `Pretrained.heads`, but of all heads. The weights are not copied.
    """
    heads = empty_heads(encoder.config)
    names = family_of(encoder).head_parts
    table = word_embeddings(encoder).weight
    bias, decoder = weights[names["bias"]], names["decoder"]
    tied = {f"{decoder}.weight": table.detach(), f"{decoder}.bias": bias}
    heads.load_state_dict({**weights, **tied}, assign=True)
    heads.requires_grad_(True).eval()
    modules = heads_of(encoder, heads)
    modules.decoder.weight = table
    modules.decoder.bias = modules.bias
    return heads


def build_pooler(config: PretrainedConfig, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build a pooler from "weight" and "bias". The weights are not copied."""
    pooler = empty_pooler(config)
    _linear_of_pooler(pooler, config).load_state_dict(weights, assign=True)
    return pooler.requires_grad_(True).eval()


def _linear_of_pooler(pooler: nn.Module, config: PretrainedConfig) -> nn.Module:
    family = family_of(config)
    path = family.pooler_weight("").removeprefix(family.pooler_module).strip(".")
    return pooler.get_submodule(path)


def head_shapes(config: PretrainedConfig) -> dict[str, torch.Size]:
    """Collect the shapes of the weights of all pre-training heads, without the decoder."""
    shapes, family = shapes_of(empty_heads(config)), family_of(config)
    return {name: shape for name, shape in shapes.items() if not _is_tied_weight(name, family)}


def _is_tied_weight(name: str, family: Family) -> bool:
    """Whether a weight of the heads is the same tensor as another one."""
    parts = family.head_parts
    return name.startswith(f"{parts['decoder']}.") and name != parts["bias"]


def pooler_shapes(config: PretrainedConfig) -> dict[str, torch.Size]:
    """Collect the shapes of the pooler's "weight" and "bias", if a pre-training head needs it."""
    if not family_of(config).has_next_sentence:
        return {}
    return shapes_of(_linear_of_pooler(empty_pooler(config), config))


@dataclass(frozen=True)
class HeadWeights:
    """Weights of all pre-training heads, and of the pooler.

    Attributes
    ----------
    heads : dict of str to Tensor
        By their names in `Family.pretraining_class`, without the decoder.
    pooler : dict of str to Tensor
        "weight" and "bias"; empty if no head needs the pooler.
    knows_words, knows_next_sentence, knows_pooler : bool
        Whether the checkpoint contains the head of each task, and the pooler. If not, its weights
        are random.
    """

    heads: Mapping[str, torch.Tensor]
    pooler: Mapping[str, torch.Tensor]
    knows_words: bool
    knows_next_sentence: bool
    knows_pooler: bool


def build_pretraining_model(
    config: PretrainedConfig, weights: Mapping[str, torch.Tensor], heads: HeadWeights
) -> PreTrainedModel:
    """Build the module of an encoder and its heads. The weights are not copied."""
    model, family = empty_pretraining_model(config), family_of(config)
    encoder = build_encoder(config, weights)
    if family.has_next_sentence:
        setattr(encoder, family.pooler_module, build_pooler(config, heads.pooler))
    setattr(model, family.encoder, encoder)
    for name, head in build_heads(encoder, heads.heads).items():
        setattr(model, name, head)
    return model.eval()


def linear_of(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Build a linear layer. The weights are not copied."""
    n_out, n_in = weight.shape
    layer = nn.Linear(n_in, n_out, device="meta", dtype=torch.float32)
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer


def pretraining_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Collect all weights of the module but the decoder, which is tied to the word embeddings."""
    family = family_of(model)
    return {n: w for n, w in model.state_dict().items() if not _is_tied_weight(n, family)}
