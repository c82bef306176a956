"""Attention on packed texts: each text attends to itself only.

The linear layers around it never see padding. On a CPU neither does attention: texts are taken
one by one, or, without gradients, all of the same length at once, as views of the packed
states. On an accelerator, where starting a kernel costs more than padding, texts of similar
length share a padded block. Which text may see what is decided by the groups alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# On an accelerator: texts in a batch come sorted by length; 16 neighbours differ little.
_GROUP_SIZE = 16

# Up to this many tokens a CPU trains faster with the attention matrix written out than with
# torch's fused kernel, which is built for long texts: forward and backward of 32 sentences,
# 32 texts of 40 to 90 tokens, and 16 of 128, 12 heads of 32, one thread of an Intel Xeon with
# AVX-512: 3.1, 10.8 and 15.9 ms against 4.8, 16.0 and 17.3. Above it the matrix,
# (n_heads, L, L) for each text, would take more memory than all the rest.
_LONGEST_WRITTEN_OUT = 128


@dataclass(frozen=True)
class LengthGroup:
    """Neighbouring texts that are computed together.

    Attributes
    ----------
    n_texts, n_tokens, max_length : int
        The group's texts, their tokens, and the longest: the block is (n_texts, max_length).
    places : Tensor of shape (n_tokens,) or None
        Where in the flattened block each token goes; None if all texts are equally long.
    visible : Tensor of shape (n_texts, 1, 1, max_length), bool, or None
        False at padding.
    """

    n_texts: int
    n_tokens: int
    max_length: int
    places: Tensor | None
    visible: Tensor | None


def length_groups(cu_seqlens: np.ndarray, device: torch.device) -> list[LengthGroup]:
    """Cut a batch, sorted by length, into groups for attention. Once a batch, for all layers."""
    lengths = np.diff(cu_seqlens)
    if device.type == "cpu":
        runs = np.flatnonzero(np.diff(lengths)) + 1
        return [_length_group(run, device) for run in np.split(lengths, runs)]
    return [
        _length_group(lengths[start : start + _GROUP_SIZE], device)
        for start in range(0, len(lengths), _GROUP_SIZE)
    ]


def _length_group(lengths: np.ndarray, device: torch.device) -> LengthGroup:
    n_texts, n_tokens, max_length = len(lengths), int(lengths.sum()), int(lengths.max())
    if n_tokens == n_texts * max_length:
        return LengthGroup(n_texts, n_tokens, max_length, None, None)
    is_token = np.arange(max_length) < lengths[:, None]
    return LengthGroup(
        n_texts,
        n_tokens,
        max_length,
        places=torch.from_numpy(np.flatnonzero(is_token)).to(device),
        visible=torch.from_numpy(is_token[:, None, None, :]).to(device),
    )


def self_attention(query_key_value: Tensor, groups: list[LengthGroup], n_heads: int) -> Tensor:
    """Scaled dot-product attention of every token to its own text.

    Parameters
    ----------
    query_key_value : Tensor of shape (n_tokens, 3 * d_model)
        The three projections side by side.
    groups : list of LengthGroup
        From `length_groups`.
    n_heads : int

    Returns
    -------
    Tensor of shape (n_tokens, d_model)
    """
    if _is_written_out(query_key_value, groups):
        return _WrittenOutAttention.apply(query_key_value, None, groups, n_heads)
    pieces = query_key_value.split([group.n_tokens for group in groups])
    contexts = []
    for piece, group in zip(pieces, groups, strict=True):
        query, key, value = _to_heads(_Pad.apply(piece, group), group, 3, n_heads)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=group.visible)
        contexts.append(_Unpad.apply(_from_heads(context), group))
    return torch.cat(contexts)


def first_token_attention(
    query: Tensor, key_value: Tensor, groups: list[LengthGroup], n_heads: int
) -> Tensor:
    """Attention of each text's first token, [CLS], to its whole text.

    Parameters
    ----------
    query : Tensor of shape (n_texts, d_model)
    key_value : Tensor of shape (n_tokens, 2 * d_model)
    groups : list of LengthGroup
    n_heads : int

    Returns
    -------
    Tensor of shape (n_texts, d_model)
    """
    if _is_written_out(key_value, groups):
        return _WrittenOutAttention.apply(key_value, query, groups, n_heads)
    d_model = query.shape[1]
    firsts = query.split([group.n_texts for group in groups])
    pieces = key_value.split([group.n_tokens for group in groups])
    contexts = []
    for first, piece, group in zip(firsts, pieces, groups, strict=True):
        key, value = _to_heads(_Pad.apply(piece, group), group, 2, n_heads)
        one_query = first.view(group.n_texts, n_heads, 1, d_model // n_heads)
        context = F.scaled_dot_product_attention(one_query, key, value, attn_mask=group.visible)
        contexts.append(context.reshape(group.n_texts, d_model))
    return torch.cat(contexts)


def _is_written_out(states: Tensor, groups: list[LengthGroup]) -> bool:
    return (
        states.device.type == "cpu"
        and states.requires_grad
        and all(g.places is None and g.max_length <= _LONGEST_WRITTEN_OUT for g in groups)
    )


# Equal lengths, or padded -----------------------------------------------------------------------


def _to_heads(block: Tensor, group: LengthGroup, n_projections: int, n_heads: int) -> Tensor:
    """(n_texts * L, n_projections * d_model) -> (n_projections, n_texts, n_heads, L, d_head)."""
    shape = (group.n_texts, group.max_length, n_projections, n_heads, -1)
    return block.view(shape).permute(2, 0, 3, 1, 4)


def _from_heads(context: Tensor) -> Tensor:
    """(n_texts, n_heads, L, d_head) -> (n_texts * L, d_model)."""
    n_texts, n_heads, length, d_head = context.shape
    return context.transpose(1, 2).reshape(n_texts * length, n_heads * d_head)


def _pad(piece: Tensor, group: LengthGroup) -> Tensor:
    """(n_tokens, d) -> (n_texts * L, d), with zeros at padding."""
    if group.places is None:
        return piece
    block = piece.new_zeros(group.n_texts * group.max_length, piece.shape[1])
    return block.index_copy_(0, group.places, piece)


def _unpad(block: Tensor, group: LengthGroup) -> Tensor:
    """(n_texts * L, d) -> (n_tokens, d)."""
    return block if group.places is None else block.index_select(0, group.places)


class _Pad(torch.autograd.Function):
    """`_pad`, whose gradient is `_unpad`: a gather, where autograd would scatter and add."""

    @staticmethod
    def forward(ctx: Any, piece: Tensor, group: LengthGroup) -> Tensor:
        ctx.group = group
        return _pad(piece, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _unpad(gradient, ctx.group), None


class _Unpad(torch.autograd.Function):
    """`_unpad`, whose gradient is `_pad`."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, group: LengthGroup) -> Tensor:
        ctx.group = group
        return _unpad(block, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _pad(gradient, ctx.group), None


# Text by text -----------------------------------------------------------------------------------


class _WrittenOutAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_head)) V of each text, and its derivative, as matrix products.

    With O = P V and P = softmax(S):  dV = P^T dO,  dP = dO V^T,  and dS is the derivative of
    the softmax, row by row. Every operand is a view of the packed states, (n_heads, L, d_head)
    with the strides of (L, n_heads * d_head): nothing is padded, and no projection is copied.
    Against padding groups of 16, forward and backward take, on two threads of an Intel Xeon with
    AVX-512, 0.8 of the time for 32 sentences, 0.5 for 32 texts of 40 to 90 tokens and 0.8 for 16
    of 128, but 2.4 times as long for 64 texts of 8: texts follow each other. Under autocast all is
    float32: the derivative of the fused kernel is six times slower in bfloat16.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any, packed: Tensor, query: Tensor | None, groups: list[LengthGroup], n_heads: int
    ) -> Tensor:
        queries, keys, values = _operands(packed, query, n_heads)
        result = packed.new_empty(queries.shape[1], n_heads * queries.shape[2])
        (contexts,) = _heads_of(result, 1, n_heads)
        weights = []  # (n_heads, L or 1, L) of each text
        for asking, asked in _places(groups, one_query=query is not None):
            scores = torch.bmm(queries[:, asking], keys[:, asked].mT)
            weights.append(torch.softmax(scores.mul_(queries.shape[2] ** -0.5), -1))
            contexts[:, asking] = torch.bmm(weights[-1], values[:, asked])
        ctx.save_for_backward(packed, query, *weights)
        ctx.groups, ctx.n_heads = groups, n_heads
        return result

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        packed, query, *weights = ctx.saved_tensors
        queries, keys, values = _operands(packed, query, ctx.n_heads)
        d_packed, d_query = torch.empty_like(packed), None
        d_projections = _heads_of(d_packed, 3 if query is None else 2, ctx.n_heads)
        if query is not None:
            d_query = torch.empty_like(query)
            (d_queries,) = _heads_of(d_query, 1, ctx.n_heads)
        (d_contexts,) = _heads_of(gradient, 1, ctx.n_heads)
        places = _places(ctx.groups, one_query=query is not None)
        for (asking, asked), weight in zip(places, weights, strict=True):
            d_context = d_contexts[:, asking]
            d_weights = torch.bmm(d_context, values[:, asked].mT)
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weight, -1, weight.dtype)
            d_scores *= queries.shape[2] ** -0.5
            of_text = weight.new_empty(d_projections[:, :, asked].shape)
            if query is None:
                torch.bmm(d_scores, keys[:, asked], out=of_text[0])
            else:
                d_queries[:, asking] = torch.bmm(d_scores, keys[:, asked])
            torch.bmm(d_scores.mT, queries[:, asking], out=of_text[-2])
            torch.bmm(weight.mT, d_context, out=of_text[-1])
            d_projections[:, :, asked] = of_text
        return d_packed, d_query, None, None


def _operands(packed: Tensor, query: Tensor | None, n_heads: int) -> list[Tensor]:
    """Get queries, keys and values as views (n_heads, n, d_head)."""
    if query is None:
        return list(_heads_of(packed, 3, n_heads))
    return [*_heads_of(query, 1, n_heads), *_heads_of(packed, 2, n_heads)]


def _heads_of(states: Tensor, n_projections: int, n_heads: int) -> Tensor:
    """(n, n_projections * d_model) -> (n_projections, n_heads, n, d_head), a view."""
    return states.unflatten(1, (n_projections, n_heads, -1)).permute(1, 2, 0, 3)


def _places(groups: list[LengthGroup], *, one_query: bool) -> Iterator[tuple[slice, slice]]:
    """Rows of the queries, and rows of the keys, of each text; one query a text, or as many."""
    start = 0
    lengths = (group.max_length for group in groups for _ in range(group.n_texts))
    for text, length in enumerate(lengths):
        asked = slice(start, start + length)
        yield (slice(text, text + 1) if one_query else asked), asked
        start += length
