"""Linear layers side by side, (n, d_in) -> (n, sum of d_out), or added to a residual.

torch computes them. In prediction on x86 CPUs, oneDNN does so if possible; see `onednn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skbert.engine.model.onednn import try_linear


def linear_gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """Compute ``gelu(layer(x))``, the exact GELU: (n, d_in) -> (n, d_out)."""
    if type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
        activated = try_linear(x, [layer.weight], [layer.bias], gelu=True)
        if activated is not None:
            return activated
    product = layer(x)
    # In place if no derivative needs the product, which is the largest of all hidden states.
    return F.gelu(product) if product.requires_grad else torch.ops.aten.gelu_(product)


def residual_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``residual + x W^T + b`` without derivative: (n, d_out), (n, d_in) -> (n, d_out)."""
    total = try_linear(x, [weight], [bias], residual=residual)
    return (residual + bias).addmm_(x, weight.t()) if total is None else total


def joint_linear(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Compute all ``layer(x)`` side by side: (n, d_in) -> (n, sum of d_out).

    skbert does not concatenate the weights, which would copy them in every step. Concatenating the
    results of separate layers makes a fit 2 % slower (bench_profile.py, AMD EPYC).
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.cat([F.linear(x, layer.weight, layer.bias) for layer in layers], dim=1)
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    return _JointLinear.apply(x, *parameters)


def side_by_side(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """Compute all x W_i^T, plus b_i if it is not None, each into columns of one result.

    This function has no derivative, unlike `joint_linear`.
    """
    product = try_linear(x, weights, biases)
    return _into_columns(x, weights, biases) if product is None else product


def _into_columns(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    widths = [len(weight) for weight in weights]
    result = x.new_empty(len(x), sum(widths))
    for columns, weight, bias in zip(result.split(widths, 1), weights, biases, strict=True):
        if bias is None:
            torch.mm(x, weight.t(), out=columns)
        else:
            torch.addmm(bias, x, weight.t(), out=columns)
    return result


class _JointLinear(torch.autograd.Function):
    """Y_i = x W_i^T + b_i, each written into its columns of one result.

    With G_i the columns of the gradient: dW_i = G_i^T x, db_i = 1^T G_i, dx = sum_i G_i W_i. The
    products accumulate this sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        ctx.save_for_backward(x, *weights)
        return _into_columns(x, weights, biases)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        d_x: Tensor | None = None
        ones = x.new_ones(1, len(x))
        d_parameters: list[Tensor] = []
        for columns, weight in zip(
            gradient.split([len(w) for w in weights], 1), weights, strict=True
        ):
            if ctx.needs_input_grad[0]:
                d_x = columns @ weight if d_x is None else d_x.addmm_(columns, weight)
            d_parameters += [columns.t() @ x, (ones @ columns).view(-1)]
        return d_x, *d_parameters
