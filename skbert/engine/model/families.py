"""Families of encoders: the names of their parts, and the classes of transformers that build them.

skbert computes on the modules of transformers, trains their parts, and reads and writes their
weights by name. Only this file knows those names. A new family is a new entry in `FAMILIES`.

Functions import transformers when they build something, because the import takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Embeddings:
    """Modules that make the states before the first block; `segments` is None without segments."""

    words: nn.Embedding
    positions: nn.Embedding
    norm: nn.LayerNorm
    segments: nn.Embedding | None = None


@dataclass(frozen=True)
class Block:
    """Modules of one block: attention, then ``inner``, ``activation`` and ``output``.

    `n_heads` is the number of attention heads. Each norm follows the residual sum of the layer
    with the same name.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    n_heads: int
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    inner: nn.Linear
    activation: Callable[[Tensor], Tensor]
    output: nn.Linear
    output_norm: nn.LayerNorm


@dataclass(frozen=True)
class Heads:
    """Modules of the pre-training heads.

    `words`, (n, d_model) -> (n, n_words), begins with the layer `dense` and ends with `decoder`,
    whose bias is `bias`. `next_sentence` is (n, d_model) -> (n, 2).
    """

    words: nn.Module
    dense: nn.Linear
    decoder: nn.Linear
    bias: nn.Parameter
    next_sentence: nn.Linear


@dataclass(frozen=True)
class Family:
    """Where the encoders of a family keep their parts.

    Paths are dotted attributes of a module, and parts of the names of its weights.

    Attributes
    ----------
    model_type : str
        The family's name in ``config.model_type``.
    package : str
        The package in ``transformers.models`` with the classes.
    config_class, encoder_class, pooler_class, heads_class : str
    pretraining_class : str
        Encoder, pooler and pre-training heads in one module.
    classifier_class : str
        Encoder, pooler and a linear layer in one module; skbert writes its weights.
    encoder, heads : str
        Paths in a module of `pretraining_class`. The encoder has the same path in one of
        `classifier_class`.
    classifier : str
        Path of the linear layer in a module of `classifier_class`.
    pooler, pooler_linear : str
        Paths of the pooler in the encoder, and of its linear layer in the pooler.
    embeddings, blocks : str
        Paths in the encoder of the embeddings and of the list of blocks.
    embedding_parts, block_parts, head_parts : mapping of str to str
        For the fields of `Embeddings`, `Block` and `Heads`, the paths in the embeddings, in a block
        and in the heads.
    first_position : int
        The position number of the first token of a text.
    """

    model_type: str
    package: str
    config_class: str
    encoder_class: str
    pooler_class: str
    heads_class: str
    pretraining_class: str
    classifier_class: str
    encoder: str
    heads: str
    classifier: str
    pooler: str
    pooler_linear: str
    embeddings: str
    embedding_parts: Mapping[str, str]
    blocks: str
    block_parts: Mapping[str, str]
    head_parts: Mapping[str, str]
    first_position: int

    @property
    def word_table(self) -> str:
        """Name of the word embeddings' weights in the encoder."""
        return f"{self.embeddings}.{self.embedding_parts['words']}.weight"

    def pooler_weight(self, name: str) -> str:
        """Name of the pooler's "weight" or "bias" in the encoder."""
        return f"{self.pooler}.{self.pooler_linear}.{name}"


BERT = Family(
    model_type="bert",
    package="bert",
    config_class="BertConfig",
    encoder_class="BertModel",
    pooler_class="BertPooler",
    heads_class="BertPreTrainingHeads",
    pretraining_class="BertForPreTraining",
    classifier_class="BertForSequenceClassification",
    encoder="bert",
    heads="cls",
    classifier="classifier",
    pooler="pooler",
    pooler_linear="dense",
    embeddings="embeddings",
    embedding_parts={
        "words": "word_embeddings",
        "positions": "position_embeddings",
        "segments": "token_type_embeddings",
        "norm": "LayerNorm",
    },
    blocks="encoder.layer",
    block_parts={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "n_heads": "attention.self.num_attention_heads",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "inner": "intermediate.dense",
        "activation": "intermediate.intermediate_act_fn",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    },
    head_parts={
        "words": "predictions",
        "dense": "predictions.transform.dense",
        "decoder": "predictions.decoder",
        "bias": "predictions.bias",
        "next_sentence": "seq_relationship",
    },
    first_position=0,
)

#: All families, by `Family.model_type`.
FAMILIES = {family.model_type: family for family in (BERT,)}


def other_families(names: Iterable[str]) -> list[str]:
    """Select the names of families that transformers knows and skbert does not; imports it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [name for name in names if name in CONFIG_MAPPING_NAMES and name not in FAMILIES]


def family_of(model: PreTrainedModel | PretrainedConfig) -> Family:
    """Find the family of a module or of a configuration."""
    return FAMILIES[getattr(model, "config", model).model_type]


def embeddings_of(encoder: PreTrainedModel) -> Embeddings:
    """Find the modules of the embeddings."""
    family = family_of(encoder)
    embeddings = attrgetter(family.embeddings)(encoder)
    return Embeddings(**_parts(embeddings, family.embedding_parts))


def word_embeddings(encoder: PreTrainedModel) -> nn.Embedding:
    """Find the module whose weights are (vocabulary size, d_model)."""
    return embeddings_of(encoder).words


def block_modules(encoder: PreTrainedModel) -> nn.ModuleList:
    """Find the blocks as whole modules, from the first to the last."""
    return attrgetter(family_of(encoder).blocks)(encoder)


def blocks_of(encoder: PreTrainedModel) -> list[Block]:
    """Find the modules of each block, from the first to the last."""
    paths = family_of(encoder).block_parts
    return [Block(**_parts(block, paths)) for block in block_modules(encoder)]


def heads_of(encoder: PreTrainedModel, heads: nn.Module) -> Heads:
    """Find the modules of pre-training heads that belong to `encoder`."""
    return Heads(**_parts(heads, family_of(encoder).head_parts))


def _parts(module: nn.Module, paths: Mapping[str, str]) -> dict[str, Any]:
    return {part: attrgetter(path)(module) for part, path in paths.items()}


def new_config(family: Family, **settings: Any) -> PretrainedConfig:
    """Make a configuration; all other settings have the defaults of transformers."""
    return _class(family, "configuration", family.config_class)(**settings)


def empty_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder without pooler. Its weights use no memory and no random state."""
    return _empty(config, family_of(config).encoder_class, add_pooling_layer=False)


def empty_pooler(config: PretrainedConfig) -> nn.Module:
    """Build a pooler; see `empty_encoder`."""
    return _empty(config, family_of(config).pooler_class)


def empty_heads(config: PretrainedConfig) -> nn.Module:
    """Build pre-training heads; see `empty_encoder`."""
    return _empty(config, family_of(config).heads_class)


def empty_pretraining_model(config: PretrainedConfig) -> PreTrainedModel:
    """Build encoder, pooler and pre-training heads in one module; see `empty_encoder`."""
    return _empty(config, family_of(config).pretraining_class)


def _empty(config: PretrainedConfig, name: str, **options: Any) -> Any:
    build = _class(family_of(config), "modeling", name)  # import before the device is "meta"
    with torch.device("meta"):
        return build(config, **options)


def _class(family: Family, kind: str, name: str) -> Any:
    """Import a class from the one file of transformers that defines it."""
    file = f"transformers.models.{family.package}.{kind}_{family.package}"
    return getattr(import_module(file), name)
