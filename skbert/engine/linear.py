"""Linear layers, (n, d_in) -> (n, d_out): where nearly all of the time goes.

The same product as `torch.nn.functional.linear`, by the library that is fastest at it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``x @ weight.T + bias``.

    On CPUs, float32 products go to oneDNN where torch has it. torch itself sends them to MKL,
    which on an AMD EPYC with AVX-512 and the shapes of MiniLM (384 to 1536 wide, 600 to 1100
    tokens) is 8 to 11 % slower. Under autocast torch's own is used, which knows of it.

    Parameters
    ----------
    x : Tensor of shape (n, d_in)
    weight : Tensor of shape (d_out, d_in)
    bias : Tensor of shape (d_out,)

    Returns
    -------
    Tensor of shape (n, d_out)
    """
    is_float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if _HAS_ONEDNN and x.device.type == "cpu" and is_float32:
        return _OneDnnLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_HAS_ONEDNN = _has_onednn()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``; the operator behind torch.compile's linear layers on CPUs."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """The product and its two derivatives; that for the weight is faster in MKL."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t(), None) if for_x else None,
            gradient.t() @ x if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )
