"""Attention on packed texts by torch's `varlen_attn`, on CUDA devices in lower precision.

The kernel of FlashAttention [1]_ reads where each text begins and ends, so no token is padded and
nothing is copied. It has no float32 and needs a compute capability of 8.0; without it, `attention`
computes padded groups.

References
----------
.. [1] T. Dao. FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning.
   ICLR 2024, arXiv:2307.08691.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from skbert.engine.model.batch import DeviceBatch

# What the kernel accepts as the size of a head.
_LARGEST_HEAD = 256
_HEAD_MULTIPLE = 8


@dataclass(frozen=True)
class VarlenTexts:
    """Where the texts of a batch begin and end, for the kernel.

    Attributes
    ----------
    cu_seqlens : Tensor of shape (n_texts + 1,), int32
        Cumulative lengths.
    cu_firsts : Tensor of shape (n_texts + 1,), int32
        The same if each text had only its first token.
    longest : int
        No text has more tokens.
    """

    cu_seqlens: Tensor
    cu_firsts: Tensor
    longest: int

    @classmethod
    def of(cls, batch: DeviceBatch) -> VarlenTexts:
        """Describe a batch."""
        ends = batch.cu_seqlens
        firsts = torch.arange(len(ends), device=ends.device, dtype=torch.int32)
        return cls(ends, firsts, batch.host.longest)


def is_usable(device: torch.device, d_head: int) -> bool:
    """Whether the kernel can compute attention now: on this device, and in this precision."""
    if device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return False
    is_size = d_head <= _LARGEST_HEAD and d_head % _HEAD_MULTIPLE == 0
    return is_size and _kernel() is not None and _is_recent(device)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    texts: VarlenTexts,
    n_heads: int,
    first_only: bool = False,
) -> Tensor:
    """Compute scaled dot-product attention of tokens to their own text.

    Parameters
    ----------
    query : Tensor of shape (n_tokens, d_model), or (n_texts, d_model) if `first_only`
    key, value : Tensor of shape (n_tokens, d_model)
    texts : VarlenTexts
    n_heads : int
    first_only : bool
        Whether only the first token of each text asks.

    Returns
    -------
    Tensor of the shape of `query`
    """
    heads = [states.unflatten(1, (n_heads, -1)) for states in (query, key, value)]
    cu_queries, longest = texts.cu_seqlens, texts.longest
    if first_only:
        cu_queries, longest = texts.cu_firsts, 1
    context: Tensor = _kernel()(*heads, cu_queries, texts.cu_seqlens, longest, texts.longest)
    return context.flatten(1)


@cache
def _kernel() -> Any:
    """Find torch's function; None if this torch has none. It is public since torch 2.10."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@cache
def _is_recent(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)
