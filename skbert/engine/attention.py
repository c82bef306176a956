"""Self-attention on packed texts: each text attends to itself only.

The linear layers around it never see padding. Here, and only here, texts are padded: in
groups of similar length, because one call for a block of equal rectangles is faster than one
call a text. Which text may see what is decided by the groups alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Texts in a batch come sorted by length; 16 neighbours differ little. Measured forward and
# backward on 64 sentences, 12 heads: 31 ms, against 49 padded as a whole and 80-96 in a
# Python loop over the texts.
_GROUP_SIZE = 16

# Up to this many tokens a CPU is faster with the attention matrix written out than with
# torch's fused kernel, which is built for long texts: forward and backward of 16 texts of
# 20, 40 and 128 tokens, 12 heads of 32: 0.36, 0.58 and 0.86 of the fused kernel's time.
# Above it the matrix, (n_texts, n_heads, L, L), would take more memory than all the rest.
_LONGEST_WRITTEN_OUT = 128


@dataclass(frozen=True)
class LengthGroup:
    """Neighbouring texts that share one padded block.

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
    pieces = query_key_value.split([group.n_tokens for group in groups])
    contexts = []
    for piece, group in zip(pieces, groups, strict=True):
        if _is_written_out(piece, group):
            contexts.append(_WrittenOutAttention.apply(piece, group, n_heads))
        else:
            query, key, value = _to_heads(_Pad.apply(piece, group), group, 3, n_heads)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=group.visible)
            contexts.append(_Unpad.apply(_from_heads(context), group))
    return torch.cat(contexts)


def _is_written_out(piece: Tensor, group: LengthGroup) -> bool:
    """In bfloat16, whose fused kernel is the faster one, only where it has to be derived.

    The kernel's derivative is not: forward and backward of 16 texts of 20, 40 and 128 tokens, 12
    heads of 32, on a CPU with AMX: 14, 29 and 66 ms, against 2, 7 and 33 written out in float32.
    """
    is_slower = piece.dtype == torch.bfloat16 and not piece.requires_grad
    return piece.device.type == "cpu" and group.max_length <= _LONGEST_WRITTEN_OUT and not is_slower


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


class _WrittenOutAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_head)) V and its derivative, as batched matrix products.

    With O = P V and P = softmax(S):  dV = P^T dO,  dP = dO V^T,  and dS is the derivative of
    the softmax, row by row. The scale is multiplied into Q once: S = (Q scale) K^T. Padding
    adds nothing to any gradient: as a query its dO is zero, as a key its P is zero. Under
    autocast all of it is float32.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, piece: Tensor, group: LengthGroup, n_heads: int) -> Tensor:
        heads = _to_heads(_pad(piece, group), group, 3, n_heads)
        projections = heads.clone(memory_format=torch.contiguous_format)
        query, key, value = projections
        query *= query.shape[-1] ** -0.5
        scores = query @ key.mT
        if group.visible is not None:
            scores.masked_fill_(~group.visible, -math.inf)
        weights = torch.softmax(scores, -1)  # (n_texts, n_heads, L, L)
        ctx.save_for_backward(projections, weights)
        ctx.group = group
        return _unpad(_from_heads(weights @ value), group)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        group: LengthGroup = ctx.group
        projections, weights = ctx.saved_tensors
        query, key, value = projections
        n_heads = query.shape[1]
        (d_context,) = _to_heads(_pad(gradient, group), group, 1, n_heads)
        d_scores = torch.ops.aten._softmax_backward_data(
            d_context @ value.mT, weights, -1, weights.dtype
        )
        d_projections = torch.empty_like(projections)
        torch.matmul(d_scores, key, out=d_projections[0]).mul_(query.shape[-1] ** -0.5)
        torch.matmul(d_scores.mT, query, out=d_projections[1])
        torch.matmul(weights.mT, d_context, out=d_projections[2])
        block = d_projections.permute(1, 3, 0, 2, 4).reshape(-1, 3 * gradient.shape[1])
        return _unpad(block, group), None, None
