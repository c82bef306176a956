"""`PackedBatch` -> hidden states (n_tokens, d_model), with the modules of transformers.

`encode` is a function of the submodules of an encoder, not a second model, so loading, saving and
other tools for the module still work. `families` knows where an encoder keeps its submodules. There
is one exception: skbert reads the weights of some linear layers without calling the layers, so
their hooks are not called. No pooling, no loss, no padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skbert.engine.model.attention import Groups, first_token_attention, self_attention, text_groups
from skbert.engine.model.batch import DeviceBatch, on_device, packed_of
from skbert.engine.model.device import computing_in
from skbert.engine.model.dropout import Dropout, no_dropout
from skbert.engine.model.families import (
    Block,
    blocks_of,
    embeddings_of,
    family_of,
    position_bias_of,
)
from skbert.engine.model.linear import joint_linear, linear_gelu, residual_linear, side_by_side
from skbert.engine.model.onednn import drop_filling, fill_batch
from skbert.engine.model.padded import padded_states
from skbert.engine.model.recompute import run_block
from skbert.engine.model.varlen import VarlenTexts, is_usable, varlen_attention
from skbert.engine.text.packing import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HiddenStates:
    """Where to start if the first layers are already computed.

    Attributes
    ----------
    states : Tensor of shape (n_tokens, d_model)
        Input of layer `layer`, for the tokens of one batch.
    layer : int
        Number of layers that are already computed.
    """

    states: Tensor
    layer: int


@dataclass(frozen=True)
class WordVectors:
    """What to take instead of the rows of the word embeddings; positions and segments are added.

    Attributes
    ----------
    vectors : Tensor of shape (n_tokens, d)
        As wide as the word embeddings, for the tokens of one batch.
    """

    vectors: Tensor


#: Where `encode` starts; None starts from the ids of the batch.
Start = HiddenStates | WordVectors | None


def encode(
    model: PreTrainedModel,
    batch: PackedBatch | DeviceBatch,
    dropout: Dropout = no_dropout,
    start: Start = None,
    n_layers: int | None = None,
) -> Tensor:
    """Compute the hidden states of the last layer for every token.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    batch : PackedBatch or DeviceBatch
    dropout : Dropout
        Applied where BERT applies its hidden dropout: after the embeddings and before each
        residual sum. skbert never drops attention probabilities.
    start : HiddenStates, WordVectors or None
        None starts from the ids of the batch. Padded families cannot start from `HiddenStates`.
    n_layers : int or None
        Stop after this number of layers; None computes all.

    Returns
    -------
    Tensor of shape (n_tokens, d_model)
        Texts in the order of the batch.
    """
    if family_of(model).padded:
        return padded_states(model, packed_of(batch), dropout, n_layers, _vectors_of(start))
    n_tokens = len(batch.ids)
    batch = on_device(model, fill_batch(batch) if start is None else batch)
    start = _embedded(model, batch, dropout, start)
    groups = _groups(model, batch)
    hidden = start.states
    for block in blocks_of(model)[start.layer : n_layers]:
        hidden = run_block(_full_layer, block, hidden, groups, dropout)
    return drop_filling(hidden, n_tokens)


def encode_first_token(
    model: PreTrainedModel,
    batch: PackedBatch | DeviceBatch,
    dropout: Dropout = no_dropout,
    start: Start = None,
    n_layers: int | None = None,
) -> Tensor:
    """Compute the hidden state of the last layer for the [CLS] of each sequence only.

    The last layer needs the other tokens only as keys and values. Skipping the rest of their work
    saves 14 % of a model of 6 layers and 7 % of one of 12. The parameters are as in `encode`.

    Returns
    -------
    Tensor of shape (n_sequences, d_model)
        A sequence is a text, or a window of a text.
    """
    if family_of(model).padded:
        batch = on_device(model, batch)
        hidden = padded_states(model, batch.packed, dropout, n_layers, _vectors_of(start))
        return hidden.index_select(0, batch.first_tokens)
    n_sequences = len(batch.cu_seqlens) - 1
    batch = on_device(model, fill_batch(batch) if start is None else batch)
    start = _embedded(model, batch, dropout, start)
    groups = _groups(model, batch)
    first = batch.first_tokens
    hidden = start.states
    blocks = blocks_of(model)[start.layer : n_layers]
    if not blocks:
        return drop_filling(hidden.index_select(0, first), n_sequences)
    *lower, last = blocks
    for block in lower:
        hidden = run_block(_full_layer, block, hidden, groups, dropout)
    states = _first_token_layer(last, hidden, first, groups, dropout)
    return drop_filling(states, n_sequences)


def is_replayable(model: PreTrainedModel, device: torch.device, precision: torch.dtype) -> bool:
    """Whether all shapes in the network follow from those of a `DeviceBatch`.

    Only then can a CUDA graph replay a step with other texts.
    """
    with computing_in(precision, device):
        return family_of(model).padded is None and _has_kernel(model, device)


def _has_kernel(model: PreTrainedModel, device: torch.device) -> bool:
    d_head = model.config.hidden_size // model.config.num_attention_heads
    return position_bias_of(model) is None and is_usable(device, d_head)


def _groups(model: PreTrainedModel, batch: DeviceBatch) -> Groups | VarlenTexts:
    """Decide, once per batch, how attention finds the texts."""
    if _has_kernel(model, batch.ids.device):
        return VarlenTexts.of(batch)
    return text_groups(batch.packed.cu_seqlens, batch.ids.device, position_bias_of(model))


def _vectors_of(start: Start) -> Tensor | None:
    return start.vectors if isinstance(start, WordVectors) else None


def _embedded(
    model: PreTrainedModel, batch: DeviceBatch, dropout: Dropout, start: Start
) -> HiddenStates:
    """Compute word + position + segment embeddings, normalised and projected."""
    if isinstance(start, HiddenStates):
        return start
    embeddings, tensors = embeddings_of(model), batch.tensors
    words = embeddings.words(batch.ids) if start is None else start.vectors
    hidden = words + embeddings.positions(tensors["positions"])
    if embeddings.segments is not None:
        hidden = hidden + embeddings.segments(tensors["segment_ids"])
    states = dropout(embeddings.norm(hidden))
    if embeddings.projection is not None:
        states = embeddings.projection(states)
    return HiddenStates(states, layer=0)


def _full_layer(
    block: Block, hidden: Tensor, groups: Groups | VarlenTexts, dropout: Dropout
) -> Tensor:
    """Compute one block for all tokens: (n_tokens, d_model) -> (n_tokens, d_model)."""
    projections = [block.query, block.key, block.value]
    if isinstance(groups, VarlenTexts):
        query, key, value = (projection(hidden) for projection in projections)
        context = varlen_attention(query, key, value, groups, block.n_heads)
        return _after_attention(block, hidden, context, dropout)
    if _only_predicting(hidden, dropout):
        biases = [block.query.bias, None, None]  # see `_after_attention_predicting`
        query_key_value = side_by_side(hidden, [p.weight for p in projections], biases)
        context = self_attention(query_key_value, groups, block.n_heads)
        return _after_attention_predicting(block, hidden, context)
    query_key_value = joint_linear(hidden, projections)
    context = self_attention(query_key_value, groups, block.n_heads)
    return _after_attention(block, hidden, context, dropout)


def _first_token_layer(
    block: Block, hidden: Tensor, first: Tensor, groups: Groups | VarlenTexts, dropout: Dropout
) -> Tensor:
    """Compute one block for the tokens at `first`: (n_tokens, d_model) -> (n_texts, d_model)."""
    projections = [block.key, block.value]
    if isinstance(groups, VarlenTexts):
        key, value = (projection(hidden) for projection in projections)
        hidden = hidden.index_select(0, first)
        query = block.query(hidden)
        context = varlen_attention(query, key, value, groups, block.n_heads, first_only=True)
        return _after_attention(block, hidden, context, dropout)
    only_predicting = _only_predicting(hidden, dropout)
    if only_predicting:
        key_value = side_by_side(hidden, [p.weight for p in projections], [None, None])
    else:
        key_value = joint_linear(hidden, projections)
    hidden = hidden.index_select(0, first)
    query = block.query(hidden)
    context = first_token_attention(query, key_value, groups, block.n_heads)
    if only_predicting:
        return _after_attention_predicting(block, hidden, context)
    return _after_attention(block, hidden, context, dropout)


def _after_attention(block: Block, hidden: Tensor, context: Tensor, dropout: Dropout) -> Tensor:
    """Compute attention's output projection and the feed-forward network, with residuals."""
    hidden = block.attention_norm(_with_residual(block.attention_output, context, hidden, dropout))
    return block.output_norm(_with_residual(block.output, _inner(block, hidden), hidden, dropout))


def _only_predicting(hidden: Tensor, dropout: Dropout) -> bool:
    """Whether the block computes in float32, without derivatives and without dropout."""
    return (
        dropout is no_dropout
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(hidden.device.type)
    )


def _after_attention_predicting(block: Block, hidden: Tensor, context: Tensor) -> Tensor:
    """As `_after_attention`, but add the bias of the values here; `context` lacks it.

    Each bias costs a pass over all states, so skbert adds only the necessary ones. The bias of the
    keys shifts all scores of a query by the same amount, which does not change the softmax. The
    weights of attention sum to 1, so the bias of the values passes through attention unchanged and
    becomes W_o b_v after the output projection. The products are accumulated on their residual.
    With this, predicting 1,024 sentences with MiniLM on two threads of an Intel Xeon takes 0.97 of
    the time. A bias costs nothing if oneDNN multiplies.
    """
    attended, output = block.attention_output, block.output
    bias = torch.addmv(attended.bias, attended.weight, block.value.bias)
    hidden = block.attention_norm(residual_linear(hidden, context, attended.weight, bias))
    inner = _inner(block, hidden)
    return block.output_norm(residual_linear(hidden, inner, output.weight, output.bias))


def _with_residual(dense: nn.Linear, x: Tensor, residual: Tensor, dropout: Dropout) -> Tensor:
    branch = dropout(dense(x))
    # In place if the types are equal, because no derivative reads `branch`.
    return branch.add_(residual) if branch.dtype == residual.dtype else branch + residual


def _inner(block: Block, hidden: Tensor) -> Tensor:
    """(n, d_model) -> (n, d_inner)."""
    if getattr(block.activation, "act", None) is F.gelu:
        return linear_gelu(hidden, block.inner)
    return block.activation(block.inner(hidden))
