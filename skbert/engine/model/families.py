"""Families of encoders: the names of their parts, and the classes of transformers that build them.

skbert computes on the modules of transformers, trains their parts, and reads and writes their
weights by name. Only this file knows those names, and `padded` those of the families that run
through the forward of transformers. A new family is a new entry in `FAMILIES`.

Functions import transformers when they build something, because the import takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skbert.engine.model.padded import (
    PADDED,
    PaddedEncoder,
    ParametersOnMeta,
    has_segments,
    settings_text,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Embeddings:
    """Modules that make the states before the first block.

    `segments` is None without segments. `projection`, if there is one, follows the norm and leads
    from the width of the embeddings to that of the blocks.
    """

    words: nn.Embedding
    positions: nn.Embedding
    norm: nn.LayerNorm
    segments: nn.Embedding | None = None
    projection: nn.Linear | None = None


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

    `words`, one after the other, are (n, d_model) -> (n, n_words). They begin with the layer
    `dense` and end with `decoder`, whose bias is `bias`. `next_sentence` is (n, d_model) -> (n, 2),
    or None if the family has no such head.
    """

    words: list[nn.Module]
    dense: nn.Linear
    decoder: nn.Linear
    bias: nn.Parameter
    next_sentence: nn.Linear | None = None


_HEAD_OF_ROBERTA = {"dense": "lm_head.dense", "decoder": "lm_head.decoder", "bias": "lm_head.bias"}


@dataclass(frozen=True)
class Family:
    """Where the encoders of a family keep their parts.

    Paths are dotted attributes of a module, and parts of the names of its weights. Fields with a
    default are what most families lack or share.

    Attributes
    ----------
    model_type : str
        The family's name in ``config.model_type``.
    class_prefix : str
        How the names of its classes in transformers begin, such as "Bert" in ``BertModel``.
    encoder : str
        Path of the encoder in a module with heads, and in the names of its weights.
    embedding_parts : mapping of str to str
        For the fields of `Embeddings`, the paths in the encoder. An optional part that a model
        lacks is None there.
    blocks : str
        Path in the encoder of the list of blocks.
    block_parts : mapping of str to str
        For the fields of `Block`, the paths in a block.
    first_position : int or None
        The position number of the first token of a text. None: the one after that of padding,
        which is ``config.pad_token_id``.
    position_bias : str or None
        Path in the encoder of a table, (n_distances, n_heads), that adds a number to the scores of
        attention for each distance of two tokens.
    are_blocks_shared : bool
        Whether several layers use the same block.
    settings : mapping of str to str
        The family's own names of BERT's settings.
    own_settings : mapping of str to tuple of int
        Settings that BERT lacks and that define the encoder, with the smallest and the largest
        number allowed.
    pooler : str or None
        Path in the encoder of the pooler's linear layer.
    classifier, classifier_dense : str
        Paths in a module of `classifier_class` of the layer that computes the logits, and of the
        dense layer before it.
    classifier_activation : {"tanh", "relu", "gelu"}
        Between these two layers.
    heads : tuple of str
        Attributes of a module of `pretraining_class` that are pre-training heads.
    word_head : tuple of str
        Paths in such a module of the modules that compute the logits of words, in their order.
    head_parts : mapping of str to str
        For the other fields of `Heads`, the paths in such a module.
    padded : PaddedEncoder or None
        What the family needs if its module computes the states; None if skbert does, and only then
        are the parts of blocks and of heads known.
    """

    model_type: str
    class_prefix: str
    encoder: str
    embedding_parts: Mapping[str, str]
    blocks: str
    block_parts: Mapping[str, str]
    first_position: int | None = 0
    position_bias: str | None = None
    are_blocks_shared: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    own_settings: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    pooler: str | None = None
    classifier: str = "classifier"
    classifier_dense: str = "classifier.dense"
    classifier_activation: str = "tanh"
    heads: tuple[str, ...] = ("lm_head",)
    word_head: tuple[str, ...] = ("lm_head",)
    head_parts: Mapping[str, str] = field(default_factory=lambda: _HEAD_OF_ROBERTA)
    padded: PaddedEncoder | None = None

    @property
    def package(self) -> str:
        """The package in ``transformers.models`` with the classes."""
        return self.model_type.replace("-", "_")

    @property
    def config_class(self) -> str:
        """Name of the class of configurations."""
        return f"{self.class_prefix}Config"

    @property
    def encoder_class(self) -> str:
        """Name of the class of encoders."""
        return f"{self.class_prefix}Model"

    @property
    def classifier_class(self) -> str:
        """Name of the class with encoder and classifier; skbert writes its weights.

        Of a padded family, skbert writes the encoder, and the head by a name of its own.
        """
        if self.padded:
            return self.encoder_class
        return f"{self.class_prefix}ForSequenceClassification"

    @property
    def pretraining_class(self) -> str:
        """Name of the class with encoder and pre-training heads, and a pooler if one needs it."""
        return f"{self.class_prefix}For{'PreTraining' if self.has_next_sentence else 'MaskedLM'}"

    @property
    def has_next_sentence(self) -> bool:
        """Whether the family was pre-trained with next sentence prediction."""
        return "next_sentence" in self.head_parts

    @property
    def word_table(self) -> str:
        """Name of the word embeddings' weights in the encoder."""
        return f"{self.embedding_parts['words']}.weight"

    @property
    def first_names(self) -> set[str]:
        """First parts of the names of all weights in the encoder without the pooler."""
        paths = [*self.embedding_parts.values(), self.blocks, self.position_bias or self.blocks]
        return {path.split(".")[0] for path in paths}

    @property
    def classifier_drops_input(self) -> bool:
        """Whether the classifier in training applies dropout before its dense layer."""
        return self.classifier_dense == "classifier.dense"

    @property
    def pooler_module(self) -> str:
        """Path of the pooler in the encoder; empty without pooler."""
        return (self.pooler or "").split(".")[0]

    def pooler_weight(self, name: str) -> str:
        """Name of the pooler's "weight" or "bias" in the encoder."""
        return f"{self.pooler}.{name}"

    def setting(self, name: str) -> str:
        """Translate BERT's name of a setting."""
        return self.settings.get(name, name)


BERT = Family(
    model_type="bert",
    class_prefix="Bert",
    encoder="bert",
    embedding_parts={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "segments": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
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
    pooler="pooler.dense",
    classifier_dense="bert.pooler.dense",
    heads=("cls",),
    word_head=("cls.predictions",),
    head_parts={
        "dense": "cls.predictions.transform.dense",
        "decoder": "cls.predictions.decoder",
        "bias": "cls.predictions.bias",
        "next_sentence": "cls.seq_relationship",
    },
)

ROBERTA = replace(
    BERT,
    model_type="roberta",
    class_prefix="Roberta",
    encoder="roberta",
    first_position=None,
    classifier="classifier.out_proj",
    classifier_dense="classifier.dense",
    heads=("lm_head",),
    word_head=("lm_head",),
    head_parts=_HEAD_OF_ROBERTA,
)

XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta", class_prefix="XLMRoberta")

CAMEMBERT = replace(ROBERTA, model_type="camembert", class_prefix="Camembert")

ELECTRA = replace(
    BERT,
    model_type="electra",
    class_prefix="Electra",
    encoder="electra",
    embedding_parts={**BERT.embedding_parts, "projection": "embeddings_project"},
    own_settings={"embedding_size": (1, 10**6)},
    pooler=None,
    classifier="classifier.out_proj",
    classifier_dense="classifier.dense",
    classifier_activation="gelu",
    heads=("generator_predictions", "generator_lm_head"),
    word_head=("generator_predictions", "generator_lm_head"),
    head_parts={
        "dense": "generator_predictions.dense",
        "decoder": "generator_lm_head",
        "bias": "generator_lm_head.bias",
    },
)

_WITHOUT_SEGMENTS = {part: BERT.embedding_parts[part] for part in ("words", "positions", "norm")}

DISTILBERT = Family(
    model_type="distilbert",
    class_prefix="DistilBert",
    encoder="distilbert",
    embedding_parts=_WITHOUT_SEGMENTS,
    blocks="transformer.layer",
    block_parts={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "n_heads": "attention.n_heads",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "inner": "ffn.lin1",
        "activation": "ffn.activation",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    settings={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    classifier_dense="pre_classifier",
    classifier_activation="relu",
    heads=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    word_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    head_parts={
        "dense": "vocab_transform",
        "decoder": "vocab_projector",
        "bias": "vocab_projector.bias",
    },
)

MPNET = Family(
    model_type="mpnet",
    class_prefix="MPNet",
    encoder="mpnet",
    embedding_parts=_WITHOUT_SEGMENTS,
    blocks="encoder.layer",
    block_parts={
        **BERT.block_parts,
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "n_heads": "attention.attn.num_attention_heads",
        "attention_output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
    },
    first_position=2,
    position_bias="encoder.relative_attention_bias",
    own_settings={"relative_attention_num_buckets": (32, 10**4)},
    pooler="pooler.dense",
    classifier="classifier.out_proj",
)

ALBERT = Family(
    model_type="albert",
    class_prefix="Albert",
    encoder="albert",
    embedding_parts={
        **BERT.embedding_parts,
        "projection": "encoder.embedding_hidden_mapping_in",
    },
    blocks="encoder.albert_layer_groups",
    block_parts={
        "query": "attention.query",
        "key": "attention.key",
        "value": "attention.value",
        "n_heads": "attention.num_attention_heads",
        "attention_output": "attention.dense",
        "attention_norm": "attention.LayerNorm",
        "inner": "ffn",
        "activation": "activation",
        "output": "ffn_output",
        "output_norm": "full_layer_layer_norm",
    },
    are_blocks_shared=True,
    own_settings={
        "embedding_size": (1, 10**6),
        "num_hidden_groups": (1, 1000),
        "inner_group_num": (1, 1),
    },
    pooler="pooler",
    classifier_dense="albert.pooler",
    heads=("predictions",),
    word_head=("predictions",),
    head_parts={
        "dense": "predictions.dense",
        "decoder": "predictions.decoder",
        "bias": "predictions.bias",
    },
)

_ALL = (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, MPNET, ALBERT)

#: All families that skbert computes itself, by `Family.model_type`.
FAMILIES = {family.model_type: family for family in _ALL}


def _padded_family(padded: PaddedEncoder) -> Family:
    return Family(
        model_type=padded.model_type,
        class_prefix=padded.class_prefix,
        encoder=padded.encoder,
        embedding_parts={"words": padded.words},
        blocks=padded.blocks,
        block_parts={},
        first_position=None if padded.starts_after_padding else 0,
        own_settings=padded.sizes,
        pooler="pooler.dense" if padded.has_pooler else None,
        classifier="skbert.head",
        heads=(),
        word_head=(),
        padded=padded,
    )


#: Families that run through the padded forward of transformers, by `Family.model_type`.
PADDED_FAMILIES = {name: _padded_family(padded) for name, padded in PADDED.items()}


def family_named(model_type: str) -> Family:
    """Find a family by its `Family.model_type`."""
    return FAMILIES.get(model_type) or PADDED_FAMILIES[model_type]


def other_families(names: Iterable[str], family: Family) -> list[str]:
    """Select the names of families of transformers other than `family`; imports transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    own = (family.model_type, family.encoder)
    return [name for name in names if name in CONFIG_MAPPING_NAMES and name not in own]


def family_of(model: PreTrainedModel | PretrainedConfig) -> Family:
    """Find the family of a module or of a configuration."""
    return family_named(getattr(model, "config", model).model_type)


def embeddings_of(encoder: PreTrainedModel) -> Embeddings:
    """Find the modules of the embeddings."""
    parts = family_of(encoder).embedding_parts
    optional = {f.name for f in fields(Embeddings) if f.default is None}
    found = {part: path for part, path in parts.items() if part not in optional}
    found |= {part: parts[part] for part in optional & {*parts} if _has(encoder, parts[part])}
    return Embeddings(**_parts(encoder, found))


def _has(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return hasattr(attrgetter(parent)(module) if parent else module, name)


def word_embeddings(encoder: PreTrainedModel) -> nn.Embedding:
    """Find the module whose weights are (vocabulary size, width of the embeddings)."""
    words: nn.Embedding = attrgetter(family_of(encoder).embedding_parts["words"])(encoder)
    return words


def block_modules(encoder: PreTrainedModel) -> list[nn.Module]:
    """Find the block of each layer as a whole module, from the first layer to the last."""
    family, n_layers = family_of(encoder), encoder.config.num_hidden_layers
    blocks = attrgetter(family.blocks)(encoder)
    if not family.are_blocks_shared:
        return [*blocks]
    return [blocks[layer * len(blocks) // n_layers].albert_layers[0] for layer in range(n_layers)]


def blocks_of(encoder: PreTrainedModel) -> list[Block]:
    """Find the modules of each block, from the first layer to the last."""
    paths = family_of(encoder).block_parts
    return [Block(**_parts(block, paths)) for block in block_modules(encoder)]


def position_bias_of(encoder: PreTrainedModel) -> nn.Embedding | None:
    """Find the table of numbers for the distances of two tokens; None if the family has none."""
    path = family_of(encoder).position_bias
    return attrgetter(path)(encoder) if path else None


def n_segments(config: PretrainedConfig) -> int | None:
    """Return the number of segment embeddings; None if there are none, so that any id fits."""
    family = family_of(config)
    has_any = has_segments(config) if family.padded else "segments" in family.embedding_parts
    return int(config.type_vocab_size) if has_any else None


def longest_text(config: PretrainedConfig) -> int:
    """Compute the largest number of tokens of a text, special tokens included."""
    first = family_of(config).first_position
    first = config.pad_token_id + 1 if first is None else first
    return int(config.max_position_embeddings - first)


def result_settings(config: PretrainedConfig) -> list[str | int | float]:
    """List what the hidden states depend on besides the weights and the input."""
    family = family_of(config)
    if family.padded:
        return [family.model_type, settings_text(config)]
    bert = ("num_attention_heads", "hidden_act", "layer_norm_eps")
    found = [getattr(config, family.setting(name), 1e-12) for name in bert]
    if family is not BERT:
        found += [family.model_type, config.pad_token_id]
    if family.are_blocks_shared:  # the number of layers decides which of them share a group
        found += [config.num_hidden_layers]
    return found


def pretraining_heads(model: PreTrainedModel) -> nn.ModuleDict:
    """Collect the pre-training heads of a module of `Family.pretraining_class`, by name."""
    return nn.ModuleDict({name: getattr(model, name) for name in family_of(model).heads})


def heads_of(encoder: PreTrainedModel, heads: nn.ModuleDict) -> Heads:
    """Find the modules of pre-training heads that belong to `encoder`."""
    family = family_of(encoder)
    named = {**heads}  # attrgetter does not find the items of a ModuleDict
    found = {part: _in(named, path) for part, path in family.head_parts.items()}
    return Heads(words=[_in(named, path) for path in family.word_head], **found)


def _in(named: Mapping[str, nn.Module], path: str) -> Any:
    name, _, rest = path.partition(".")
    return attrgetter(rest)(named[name]) if rest else named[name]


def _parts(module: nn.Module, paths: Mapping[str, str]) -> dict[str, Any]:
    return {part: attrgetter(path)(module) for part, path in paths.items()}


def new_config(family: Family, **settings: Any) -> PretrainedConfig:
    """Make a configuration from BERT's names of settings; others are transformers' defaults."""
    own = {family.setting(name): value for name, value in settings.items()}
    return _class(family, "configuration", family.config_class)(**own)


def empty_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder without pooler. Its weights use no memory and no random state."""
    family = family_of(config)
    return _empty(config, family.encoder_class, **_without_pooler(family))


def hollow_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder as `empty_encoder` does, but with the buffers that its forward reads."""
    family = family_of(config)
    build = _class(family, "modeling", family.encoder_class)
    with torch.device("cpu"), ParametersOnMeta():
        return build(config, **_without_pooler(family))


def _without_pooler(family: Family) -> dict[str, bool]:
    return {} if family.pooler is None else {"add_pooling_layer": False}


def empty_pooler(config: PretrainedConfig) -> nn.Module:
    """Build a pooler; see `empty_encoder`."""
    return _empty(config, f"{family_of(config).class_prefix}Pooler")


def empty_heads(config: PretrainedConfig) -> nn.ModuleDict:
    """Build pre-training heads; see `empty_encoder`."""
    shallow = copy.deepcopy(config)  # the heads need no layers, which take most of the time
    setattr(shallow, family_of(config).setting("num_hidden_layers"), 1)
    return pretraining_heads(empty_pretraining_model(shallow))


def empty_pretraining_model(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder and its pre-training heads in one module; see `empty_encoder`."""
    return _empty(config, family_of(config).pretraining_class)


def _empty(config: PretrainedConfig, name: str, **options: Any) -> Any:
    build = _class(family_of(config), "modeling", name)  # import before the device is "meta"
    with torch.device("meta"):
        return build(config, **options)


def _class(family: Family, kind: str, name: str) -> Any:
    """Import a class from the one file of transformers that defines it."""
    if family.padded:
        return getattr(import_module("transformers"), name)
    file = f"transformers.models.{family.package}.{kind}_{family.package}"
    return getattr(import_module(file), name)
