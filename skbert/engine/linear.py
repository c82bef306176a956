"""Linear layers, (n, d_in) -> (n, d_out), that do more than one thing at a time.

Side by side on one input; and, without gradients on a CPU, with what follows the product - bias,
GELU, residual - in the same pass, by oneDNN. The results agree with torch's own to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN keeps a kernel, 0.6 MiB, for each number of rows that it meets; so it meets but one.
FUSED_ROWS = 512

#: Layers, and their weights as oneDNN lays them out; None outside `constant_weights`.
_laid_out: ContextVar[dict[nn.Linear, Tensor] | None] = ContextVar("laid_out", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Promise that no weight changes in the block, so that oneDNN lays each out only once."""
    token = _laid_out.set({})
    try:
        yield
    finally:
        _laid_out.reset(token)


def row_blocks(n_rows: int) -> list[slice]:
    """Cut rows into blocks of `FUSED_ROWS`, and a rest.

    A rest of more than half a block becomes a block too, by reaching back into the one before:
    rows are independent of each other, and computing some of them twice is harmless.
    """
    blocks = [slice(i, i + FUSED_ROWS) for i in range(0, n_rows - FUSED_ROWS + 1, FUSED_ROWS)]
    n_rest = n_rows % FUSED_ROWS
    if n_rest:
        n_last = FUSED_ROWS if blocks and n_rest > FUSED_ROWS // 2 else n_rest
        blocks.append(slice(n_rows - n_last, n_rows))
    return blocks


def can_fuse(x: Tensor, layer: nn.Linear) -> bool:
    """Whether `linear_gelu` and `linear_add` gain from blocks of `FUSED_ROWS` rows."""
    return (
        _HAS_ONEDNN
        and _laid_out.get() is not None
        and x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
    )


def linear_gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """Compute ``gelu(layer(x))``, the exact GELU: (n, d_in) -> (n, d_out).

    GELU as a pass of its own takes 7 % of predicting sentences with MiniLM, in the product's
    half of that.
    """
    if len(x) == FUSED_ROWS and can_fuse(x, layer):
        return torch.ops.mkldnn._linear_pointwise(x, _weight(layer), layer.bias, "gelu", [], "none")
    product = layer(x)
    # In place where no derivative needs the product: the largest of all hidden states.
    return F.gelu(product) if product.requires_grad else torch.ops.aten.gelu_(product)


def linear_add(x: Tensor, layer: nn.Linear, residual: Tensor) -> Tensor:
    """Compute ``layer(x) + residual``: (n, d_in) -> (n, d_out)."""
    if len(x) == FUSED_ROWS and can_fuse(x, layer):
        return torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, _weight(layer), layer.bias, "add"
        )
    product = layer(x)
    return product.add_(residual) if product.dtype == residual.dtype else product + residual


def _has_onednn() -> bool:
    # The operators behind torch.compile's linear layers on CPUs.
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in operators
    )


_HAS_ONEDNN = _has_onednn()


def _weight(layer: nn.Linear) -> Tensor:
    """Get the weight of a layer in oneDNN's order."""
    known = _laid_out.get()
    assert known is not None
    if layer not in known:
        known[layer] = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), FUSED_ROWS)
    return known[layer]


def joint_linear(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Compute all ``layer(x)`` side by side: (n, d_in) -> (n, sum of d_out).

    Their weights are not laid side by side for it, which would copy them in every step.
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.cat([F.linear(x, layer.weight, layer.bias) for layer in layers], dim=1)
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    return _JointLinear.apply(x, *parameters)


class _JointLinear(torch.autograd.Function):
    """Y_i = x W_i^T + b_i, each written into its columns of one result.

    With G_i the columns of the gradient: dW_i = G_i^T x, db_i = 1^T G_i, dx = sum_i G_i W_i, the
    sum being accumulated by the products themselves.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        ctx.save_for_backward(x, *weights)
        widths = [len(weight) for weight in weights]
        result = x.new_empty(len(x), sum(widths))
        for columns, weight, bias in zip(result.split(widths, 1), weights, biases, strict=True):
            torch.addmm(bias, x, weight.t(), out=columns)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        ones = x.new_ones(1, len(x))
        d_parameters: list[Tensor] = []
        for columns, weight in zip(
            gradient.split([len(w) for w in weights], 1), weights, strict=True
        ):
            if d_x is not None:
                d_x.addmm_(columns, weight)
            d_parameters += [columns.t() @ x, (ones @ columns).view(-1)]
        return d_x, *d_parameters
