"""`PackedBatch` -> hidden states (n_tokens, d_model), by the padded forward of transformers.

Families that `encoder` does not compute run through the `forward` of their own module: texts of
similar length form a padded group, and the states of padding are dropped. This file lists these
families and what they need. All of them are bidirectional encoders of text whose classes are part
of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skbert.engine.model.attention import (
    LengthGroup,
    groups_of_equal_length,
    padded_groups,
    without_cudnn,
)
from skbert.engine.model.device import to_device
from skbert.engine.model.dropout import Dropout, no_dropout
from skbert.engine.text.packing import PackedBatch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class PaddedEncoder:
    """What a family needs that runs through the forward of its own module.

    Attributes
    ----------
    model_type, class_prefix, encoder, words, blocks
        As in `families.Family`; `words` is the path of the word embeddings in the encoder.
    has_segments : bool
        Whether the module has embeddings of segments.
    has_pooler : bool
        Whether the module can be built with and without BERT's pooler.
    starts_after_padding : bool
        Whether the first position is the one after that of padding, as in RoBERTa.
    needs_equal_lengths : bool
        Whether padding would change the states of the tokens beside it, so that only texts of
        equal length share a group.
    needs_float32 : bool
        Whether the module fails in lower precision, so that it computes in float32 in any case.
    settings : tuple of str
        Settings that the module or an older configuration reads, and that a new one lacks.
    sizes : mapping of str to tuple of int
        Settings with the smallest and the largest number allowed.
    """

    model_type: str
    class_prefix: str
    encoder: str
    words: str = "embeddings.word_embeddings"
    blocks: str = "encoder.layer"
    has_segments: bool = True
    has_pooler: bool = False
    starts_after_padding: bool = False
    needs_equal_lengths: bool = False
    needs_float32: bool = False
    settings: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


# ConvBERT and MobileBERT combine neighbouring tokens by convolutions, which read padding. DeBERTa
# usually has no segments.
_MAY_LACK_SEGMENTS = {"type_vocab_size": (0, 10**4)}
_ENCODERS = (
    PaddedEncoder(
        "modernbert",
        "ModernBert",
        "model",
        words="embeddings.tok_embeddings",
        blocks="layers",
        has_segments=False,
        settings=(
            *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
            *("rope_scaling", "head_dim"),
        ),
    ),
    PaddedEncoder(
        "deberta",
        "Deberta",
        "deberta",
        needs_float32=True,
        settings=("talking_head", "embedding_size"),
        sizes=_MAY_LACK_SEGMENTS,
    ),
    PaddedEncoder(
        "deberta-v2",
        "DebertaV2",
        "deberta",
        settings=(
            *("attention_head_size", "embedding_size", "share_att_key", "position_buckets"),
            *("norm_rel_ebd", "conv_kernel_size", "conv_groups", "conv_act"),
        ),
        sizes=_MAY_LACK_SEGMENTS,
    ),
    PaddedEncoder("convbert", "ConvBert", "convbert", needs_equal_lengths=True),
    PaddedEncoder("ernie", "Ernie", "ernie", has_pooler=True),
    PaddedEncoder(
        "mobilebert",
        "MobileBert",
        "mobilebert",
        has_pooler=True,
        needs_equal_lengths=True,
        sizes={"num_feedforward_networks": (1, 100)},
    ),
    PaddedEncoder("rembert", "RemBert", "rembert", has_pooler=True),
    PaddedEncoder("roformer", "RoFormer", "roformer"),
    PaddedEncoder("megatron-bert", "MegatronBert", "bert", has_pooler=True),
    PaddedEncoder("squeezebert", "SqueezeBert", "transformer", blocks="encoder.layers"),
    PaddedEncoder(
        "xlm-roberta-xl", "XLMRobertaXL", "roberta", has_pooler=True, starts_after_padding=True
    ),
    PaddedEncoder(
        "roberta-prelayernorm",
        "RobertaPreLayerNorm",
        "roberta_prelayernorm",
        has_pooler=True,
        starts_after_padding=True,
    ),
    PaddedEncoder(
        "data2vec-text", "Data2VecText", "data2vec_text", has_pooler=True, starts_after_padding=True
    ),
    PaddedEncoder(
        "eurobert",
        "EuroBert",
        "model",
        words="embed_tokens",
        blocks="layers",
        has_segments=False,
        settings=("rope_theta", "rope_scaling"),
    ),
)

#: All these families, by model_type.
PADDED = {encoder.model_type: encoder for encoder in _ENCODERS}

# Where the modules drop attention probabilities, which skbert never does.
_ATTENTION_DROPOUTS = (".self.dropout", ".attention.dropout")

# Settings of decoders, which skbert leaves at their defaults.
_OF_DECODERS = ("is_causal", "is_decoder", "add_cross_attention", "use_cache")


def padded_states(
    model: PreTrainedModel,
    batch: PackedBatch,
    dropout: Dropout = no_dropout,
    n_layers: int | None = None,
    word_vectors: Tensor | None = None,
) -> Tensor:
    """Compute the hidden states of every token; the parameters are as in `encoder.encode`.

    `dropout` takes the place of the module's own dropout of hidden states, and `word_vectors`, of
    shape (n_tokens, d), that of the word embeddings.

    Returns
    -------
    Tensor of shape (n_tokens, d_model)
        Texts in the order of the batch. Those of the text of `onednn.fill_batch` are zeros.
    """
    n_fillers = int(np.count_nonzero(batch.rows < 0))
    lengths = np.diff(batch.cu_seqlens[: len(batch.cu_seqlens) - n_fillers])
    stop, states, start = 0, [], 0
    with _dropping(model, dropout), _possible_precision(model), without_cudnn(_device(model)):
        for group in _groups(model, lengths):
            start, stop = stop, stop + group.n_tokens
            tokens = slice(start, stop)
            inputs = _inputs(model, batch, tokens, group)
            if word_vectors is not None:
                del inputs["input_ids"]
                inputs["inputs_embeds"] = _block(word_vectors[tokens], group, 0)
            states.append(_group_states(model, inputs, group, n_layers))
    return F.pad(torch.cat(states), (0, 0, 0, len(batch.ids) - stop))


def _groups(model: PreTrainedModel, lengths: np.ndarray) -> list[LengthGroup]:
    """Cut a batch into groups; without gradients, a CPU sees no padding."""
    device = _device(model)
    only_equal = device.type == "cpu" and not torch.is_grad_enabled()
    if only_equal or PADDED[model.config.model_type].needs_equal_lengths:
        return groups_of_equal_length(lengths, device)
    return padded_groups(lengths, device)


def _inputs(
    model: PreTrainedModel, batch: PackedBatch, tokens: slice, group: LengthGroup
) -> dict[str, Tensor]:
    """Lay out the inputs of one group, each (n_texts, max_length)."""
    device = _device(model)
    mask = torch.ones(group.n_texts, group.max_length, device=device, dtype=torch.int64)
    if group.visible is not None:
        mask *= group.visible[:, 0, 0]
    ids = to_device(batch.ids[tokens].astype(np.int64), device)
    inputs = {
        "input_ids": _block(ids, group, model.config.pad_token_id or 0),
        "attention_mask": mask,
    }
    if has_segments(model.config):
        segments = to_device(batch.segment_ids[tokens].astype(np.int64), device)
        inputs["token_type_ids"] = _block(segments, group, 0)
    return inputs


def _group_states(
    model: PreTrainedModel, inputs: dict[str, Tensor], group: LengthGroup, n_layers: int | None
) -> Tensor:
    """Compute the states of one group: (n_tokens of the group, d_model)."""
    is_lower = n_layers is not None and n_layers < model.config.num_hidden_layers
    found = model(**inputs, output_hidden_states=is_lower)
    states = (found.hidden_states[n_layers] if is_lower else found.last_hidden_state).flatten(0, 1)
    return states if group.places is None else states.index_select(0, group.places)


def _block(packed: Tensor, group: LengthGroup, padding: int) -> Tensor:
    """Lay out what a group's tokens have: (n_tokens, ...) -> (n_texts, max_length, ...)."""
    if group.places is not None:
        flat = packed.new_full((group.n_texts * group.max_length, *packed.shape[1:]), padding)
        packed = flat.index_copy(0, group.places, packed)
    return packed.view(group.n_texts, group.max_length, *packed.shape[1:])


def _device(model: PreTrainedModel) -> torch.device:
    return next(model.parameters()).device


def _possible_precision(model: PreTrainedModel) -> AbstractContextManager[Any]:
    if not PADDED[model.config.model_type].needs_float32:
        return nullcontext()
    return torch.autocast(_device(model).type, enabled=False)


@contextmanager
def _dropping(model: PreTrainedModel, dropout: Dropout) -> Iterator[None]:
    """Let `dropout` act wherever a module drops hidden states.

    The modules stay in evaluation mode, so that their own dropout, which draws from torch's global
    random state, does nothing.
    """
    hooks = []
    if dropout is not no_dropout:
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output: dropout(output))
            for name, module in model.named_modules()
            if isinstance(module, nn.Dropout) and not name.endswith(_ATTENTION_DROPOUTS)
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def has_segments(config: PretrainedConfig) -> bool:
    """Whether a model of one of these families has embeddings of segments."""
    return PADDED[config.model_type].has_segments and config.type_vocab_size > 0


def setting_names(default: PretrainedConfig) -> set[str]:
    """Name the settings that define an encoder, from the default configuration of its class.

    Settings that all classes share, such as `architectures` and `_name_or_path`, are not among
    them.
    """
    from transformers import PretrainedConfig

    own = {*default.to_dict()} - {*PretrainedConfig().to_dict()} - {*_OF_DECODERS}
    return own | {*PADDED[default.model_type].settings}


def settings_text(config: PretrainedConfig) -> str:
    """Write what the hidden states depend on besides the weights and the input."""
    names = setting_names(type(config)())
    found = {name: value for name, value in config.to_dict().items() if name in names}
    return json.dumps(found, sort_keys=True)


class ParametersOnMeta(TorchFunctionMode):
    """In this context, modules get parameters without memory, but real buffers.

    Parameters begin as ``torch.empty``; initializing them then needs no time and no random numbers.
    Buffers that no state dict contains, such as the frequencies of rotary positions, are computed.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Put empty tensors on the device "meta"."""
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)
