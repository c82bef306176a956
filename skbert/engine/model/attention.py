"""Attention on packed texts: each text attends to itself only.

The linear layers around attention never see padding. On a CPU, attention sees none either:
without gradients it computes all texts of the same length at once; with gradients it computes
blocks of whole texts, as views of the packed states. On an accelerator, starting a kernel costs
more than padding, so texts of similar length share a padded block; in lower precision, `varlen`
takes the place of this file there. The batch decides which tokens see each other, once for all
layers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skbert.engine.model.device import to_device
from skbert.engine.text.packing import cut_by_tokens

# On an accelerator. The texts of a batch are sorted by length, so 16 neighbours differ little.
_GROUP_SIZE = 16

# Up to this number of tokens, a CPU trains faster with an explicit attention matrix than with
# torch's fused kernel, which is made for long texts. Forward and backward of 32 sentences, of 32
# texts of 40 to 90 tokens, and of 16 texts of 128 tokens, each text by itself, 12 heads of 32, one
# thread of an Intel Xeon with AVX-512: 3.1, 10.8 and 15.9 ms against 4.8, 16.0 and 17.3. For longer
# texts, the matrix, (n_heads, L, L) for each text, would need more memory than everything else.
_LONGEST_WRITTEN_OUT = 128

# MPNet uses this number of rows of its table, whatever its size, and distances up to this one.
_N_DISTANCES = 32
_FARTHEST = 128

# Maximum number of rows of a matrix that short texts share, so that starting an operation does not
# cost more than its work. Forward and backward of 32 sentences, of 64 texts of 8 tokens, and of 32
# texts of 40 to 90 tokens, two threads of the same machine: 2.9, 1.9 and 9.3 ms; with each text by
# itself 4.0, 5.5 and 8.8 ms. In larger matrices, most of the work is between texts and is thrown
# away. A whole fit of sentences takes as long with padded groups of 16 on an AMD EPYC
# (bench_profile.py).
_BLOCK_TOKENS = 64

# For `without_cudnn`: the number of blocks that threads are in, and the switch before the first.
_switching = threading.Lock()
_n_without_cudnn = 0
_was_enabled = True


@dataclass(frozen=True)
class LengthGroup:
    """Neighbouring texts that attention computes together.

    Attributes
    ----------
    n_texts, n_tokens, max_length : int
        Number of texts, number of their tokens, and length of the longest text. The block is
        (n_texts, max_length).
    places : Tensor of shape (n_tokens,) or None
        Place of each token in the flattened block; None if all texts have the same length.
    visible : Tensor of shape (n_texts, 1, 1, max_length), bool, or None
        False at padding.
    bias : Tensor of shape (1, n_heads, max_length, max_length) or None
        A number for each head and pair of positions, which the scores get.
    """

    n_texts: int
    n_tokens: int
    max_length: int
    places: Tensor | None
    visible: Tensor | None
    bias: Tensor | None = None

    def score_mask(self, n_queries: int) -> Tensor | None:
        """Compute what the scores of the first `n_queries` positions get, or which they keep."""
        if self.bias is None:
            return self.visible
        bias = self.bias[:, :, :n_queries]
        return bias if self.visible is None else bias.masked_fill(~self.visible, -torch.inf)


@dataclass(frozen=True)
class TextBlock:
    """Neighbouring texts that share one attention matrix, in which each text sees only itself.

    Attributes
    ----------
    n_texts, n_tokens : int
        Number of texts and number of their tokens. The matrix is (n_tokens, n_tokens).
    mask : Tensor of shape (n_tokens, n_tokens) or None
        0 within a text, minus infinity between two texts; None if the block has only one text.
    first_mask : Tensor of shape (n_texts, n_tokens) or None
        The rows of `mask` for the first token of each text.
    """

    n_texts: int
    n_tokens: int
    mask: Tensor | None = None
    first_mask: Tensor | None = None


Groups = list[LengthGroup] | list[TextBlock]


def text_groups(
    cu_seqlens: np.ndarray, device: torch.device, position_bias: nn.Embedding | None = None
) -> Groups:
    """Cut a batch into groups for attention, once per batch for all layers.

    The texts keep their order. Texts that are sorted by length make larger groups. With
    `position_bias`, see `families.position_bias_of`, attention adds its numbers to the scores.
    """
    lengths = np.diff(cu_seqlens)
    if position_bias is not None:
        is_padded = device.type != "cpu" or torch.is_grad_enabled()
        groups = (padded_groups if is_padded else groups_of_equal_length)(lengths, device)
        bias = relative_bias(position_bias, int(lengths.max()))
        return [replace(g, bias=bias[:, :, : g.max_length, : g.max_length]) for g in groups]
    if device.type != "cpu":
        return padded_groups(lengths, device)
    if torch.is_grad_enabled() and lengths.max() <= _LONGEST_WRITTEN_OUT:
        return _text_blocks(lengths)
    return groups_of_equal_length(lengths, device)


def relative_bias(table: nn.Embedding, length: int) -> Tensor:
    """Look up a number for each head and pair of positions: (1, n_heads, length, length).

    Half of the table is for keys after the query, half for the others. Of each half, one half is
    for the distances 0, 1, 2, ..., and the rest for ranges that grow up to 128 tokens, as in T5
    [1]_, from which MPNet [2]_ has them.

    References
    ----------
    .. [1] C. Raffel et al. Exploring the Limits of Transfer Learning with a Unified Text-to-Text
       Transformer. JMLR 2020, arXiv:1910.10683.
    .. [2] K. Song et al. MPNet: Masked and Permuted Pre-training for Language Understanding.
       NeurIPS 2020, arXiv:2004.09297.
    """
    device = table.weight.device
    places = torch.arange(length, device=device, dtype=torch.int64)
    distances = places[None, :] - places[:, None]  # of the key from the query
    n_one_way = _N_DISTANCES // 2
    n_exact = n_one_way // 2
    near = distances.abs()
    growth = torch.log(near.float() / n_exact) / math.log(_FARTHEST / n_exact)
    far = (n_exact + (growth * (n_one_way - n_exact)).long()).clamp(max=n_one_way - 1)
    rows = torch.where(near < n_exact, near, far) + (distances > 0) * n_one_way
    return table(rows).permute(2, 0, 1)[None]


def padded_groups(lengths: np.ndarray, device: torch.device) -> list[LengthGroup]:
    """Cut texts of any lengths into groups of `_GROUP_SIZE` neighbours."""
    starts = range(0, len(lengths), _GROUP_SIZE)
    return [_length_group(lengths[start : start + _GROUP_SIZE], device) for start in starts]


def groups_of_equal_length(lengths: np.ndarray, device: torch.device) -> list[LengthGroup]:
    """Cut texts into groups of neighbours of the same length."""
    changes = np.flatnonzero(np.diff(lengths)) + 1
    return [_length_group(run, device) for run in np.split(lengths, changes)]


def _text_blocks(lengths: np.ndarray) -> list[TextBlock]:
    """Cut texts into blocks of at most `_BLOCK_TOKENS` tokens, but of at least one text."""
    return [_text_block(lengths[part]) for part in cut_by_tokens(lengths, _BLOCK_TOKENS)]


def _text_block(lengths: np.ndarray) -> TextBlock:
    n_texts, n_tokens = len(lengths), int(lengths.sum())
    if n_texts == 1:
        return TextBlock(n_texts, n_tokens)
    text = np.repeat(np.arange(n_texts), lengths)
    mask = torch.zeros(n_tokens, n_tokens, device="cpu", dtype=torch.float32)
    mask[torch.from_numpy(text[:, None] != text)] = -torch.inf
    firsts = torch.from_numpy(np.cumsum(lengths) - lengths)
    return TextBlock(n_texts, n_tokens, mask, mask[firsts])


def _length_group(lengths: np.ndarray, device: torch.device) -> LengthGroup:
    n_texts, n_tokens, max_length = len(lengths), int(lengths.sum()), int(lengths.max())
    if n_tokens == n_texts * max_length:
        return LengthGroup(n_texts, n_tokens, max_length, None, None)
    is_token = np.arange(max_length) < lengths[:, None]
    return LengthGroup(
        n_texts,
        n_tokens,
        max_length,
        places=to_device(np.flatnonzero(is_token), device),
        visible=to_device(is_token[:, None, None, :], device),
    )


def self_attention(query_key_value: Tensor, groups: Groups, n_heads: int) -> Tensor:
    """Compute scaled dot-product attention of every token to its own text.

    Parameters
    ----------
    query_key_value : Tensor of shape (n_tokens, 3 * d_model)
        The three projections side by side.
    groups : list of LengthGroup or of TextBlock
        From `text_groups`.
    n_heads : int

    Returns
    -------
    Tensor of shape (n_tokens, d_model)
    """
    if isinstance(groups[0], TextBlock):
        return _WrittenOutAttention.apply(query_key_value, None, groups, n_heads)
    pieces = query_key_value.split([group.n_tokens for group in groups])
    contexts = []
    with without_cudnn(query_key_value.device):
        for piece, group in zip(pieces, groups, strict=True):
            query, key, value = _to_heads(_Pad.apply(piece, group), group, 3, n_heads)
            mask = group.score_mask(group.max_length)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            contexts.append(_Unpad.apply(_from_heads(context), group))
    return torch.cat(contexts)


def first_token_attention(query: Tensor, key_value: Tensor, groups: Groups, n_heads: int) -> Tensor:
    """Compute attention of each text's first token, [CLS], to its whole text.

    Parameters
    ----------
    query : Tensor of shape (n_texts, d_model)
    key_value : Tensor of shape (n_tokens, 2 * d_model)
    groups : list of LengthGroup or of TextBlock
        From `text_groups`.
    n_heads : int

    Returns
    -------
    Tensor of shape (n_texts, d_model)
    """
    if isinstance(groups[0], TextBlock):
        return _WrittenOutAttention.apply(key_value, query, groups, n_heads)
    d_model = query.shape[1]
    firsts = query.split([group.n_texts for group in groups])
    pieces = key_value.split([group.n_tokens for group in groups])
    contexts = []
    with without_cudnn(query.device):
        for first, piece, group in zip(firsts, pieces, groups, strict=True):
            key, value = _to_heads(_Pad.apply(piece, group), group, 2, n_heads)
            one_query = first.view(group.n_texts, n_heads, 1, d_model // n_heads)
            mask = group.score_mask(1)
            context = F.scaled_dot_product_attention(one_query, key, value, attn_mask=mask)
            contexts.append(context.reshape(group.n_texts, d_model))
    return torch.cat(contexts)


@contextmanager
def without_cudnn(device: torch.device) -> Iterator[None]:
    """Forbid cuDNN's attention on CUDA devices: it prepares anew for each length of texts.

    On an NVIDIA H100, torch chose it in bfloat16, and predicting 4,096 sentences with MiniLM's
    shape took 13 s instead of 0.4 s in float32, for which cuDNN has no attention. Torch's switch is
    one for the whole process, so the last thread that leaves such a block restores it.
    """
    global _n_without_cudnn, _was_enabled
    if device.type != "cuda":
        yield
        return
    with _switching:
        if _n_without_cudnn == 0:
            _was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
            torch.backends.cuda.enable_cudnn_sdp(False)
        _n_without_cudnn += 1
    try:
        yield
    finally:
        with _switching:
            _n_without_cudnn -= 1
            if _n_without_cudnn == 0:
                torch.backends.cuda.enable_cudnn_sdp(_was_enabled)


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
    """`_pad` with `_unpad` as its gradient, which gathers; autograd would scatter and add."""

    @staticmethod
    def forward(ctx: Any, piece: Tensor, group: LengthGroup) -> Tensor:
        ctx.group = group
        return _pad(piece, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _unpad(gradient, ctx.group), None


class _Unpad(torch.autograd.Function):
    """`_unpad` with `_pad` as its gradient."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, group: LengthGroup) -> Tensor:
        ctx.group = group
        return _unpad(block, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _pad(gradient, ctx.group), None


class _WrittenOutAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_head) + mask) V of each block, and its derivative, as matrix products.

    With O = P V and P = softmax(S):  dV = P^T dO,  dP = dO V^T,  and dS is the derivative of
    the softmax, row by row. Between two texts P is 0, so dS is 0 and contributes nothing. Operands
    are views of the packed states, (n_heads, n_tokens, d_head) with the strides of
    (n_tokens, n_heads * d_head), so nothing is padded and no projection is copied. Under autocast,
    everything is float32, because the derivative of the fused kernel is six times slower in
    bfloat16.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any, packed: Tensor, query: Tensor | None, blocks: list[TextBlock], n_heads: int
    ) -> Tensor:
        scale = (packed.shape[1] // (3 if query is None else 2) // n_heads) ** -0.5
        contexts, weights = [], []  # (n_queries, n_heads, d_head), (n_heads, n_queries, n_tokens)
        operands = _operands(packed, query, blocks, n_heads)
        for block, asking, keys, values in zip(blocks, *operands, strict=True):
            mask = block.mask if query is None else block.first_mask
            if mask is None:
                scores = torch.bmm(asking, keys.mT).mul_(scale)
            else:
                scores = torch.baddbmm(mask.to(packed.dtype), asking, keys.mT, alpha=scale)
            weights.append(torch.softmax(scores, -1))
            contexts.append(torch.bmm(weights[-1], values).transpose(0, 1))
        ctx.save_for_backward(packed, query, *weights)
        ctx.blocks, ctx.n_heads, ctx.scale = blocks, n_heads, scale
        return torch.cat(contexts).flatten(1)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        packed, query, *weights = ctx.saved_tensors
        d_packed = torch.empty_like(packed)
        d_query = None if query is None else torch.empty_like(query)
        operands = _operands(packed, query, ctx.blocks, ctx.n_heads)
        d_operands = _operands(d_packed, d_query, ctx.blocks, ctx.n_heads)
        (d_contexts,) = _heads_of(gradient, 1, ctx.n_heads)
        d_contexts = d_contexts.split([asking.shape[1] for asking in operands[0]], 1)
        for weight, d_context, asking, keys, values, d_asking, d_keys, d_values in zip(
            weights, d_contexts, *operands, *d_operands, strict=True
        ):
            d_weight = torch.bmm(d_context, values.mT)
            d_scores = torch.ops.aten._softmax_backward_data(d_weight, weight, -1, weight.dtype)
            d_scores *= ctx.scale
            d_asking.copy_(torch.bmm(d_scores, keys))
            d_keys.copy_(torch.bmm(d_scores.mT, asking))
            d_values.copy_(torch.bmm(weight.mT, d_context))
        return d_packed, d_query, None, None


def _operands(
    packed: Tensor, query: Tensor | None, blocks: list[TextBlock], n_heads: int
) -> list[tuple[Tensor, ...]]:
    """Split queries, keys and values into blocks, as views (n_heads, n, d_head)."""
    n_tokens = [block.n_tokens for block in blocks]
    if query is None:
        return [states.split(n_tokens, 1) for states in _heads_of(packed, 3, n_heads)]
    (queries,) = _heads_of(query, 1, n_heads)
    keys_and_values = _heads_of(packed, 2, n_heads)
    n_queries = [block.n_texts for block in blocks]
    return [queries.split(n_queries, 1), *(s.split(n_tokens, 1) for s in keys_and_values)]


def _heads_of(states: Tensor, n_projections: int, n_heads: int) -> Tensor:
    """(n, n_projections * d_model) -> (n_projections, n_heads, n, d_head), a view."""
    return states.unflatten(1, (n_projections, n_heads, -1)).permute(1, 2, 0, 3)
