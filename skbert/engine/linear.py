"""Linear layers side by side, (n, d_in) -> (n, sum of d_out), or added to what is there.

What only predicts may use oneDNN on x86 CPUs: it takes bias, GELU and residual into the product,
and multiplies by weights that lie in its own order. The results agree with torch's own to rounding.
On an AMD EPYC predicting sentences went from 2.2 to 2.4 times the speed of transformers' pipeline
by it (bench_predict.py before and after); on an Intel Xeon with AMX it makes no difference.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN compiles kernels for each number of rows and keeps them: so it gets only this one.
FULL_ROWS = 2048

_Layouts = dict[tuple[int, ...], tuple[tuple[Tensor, ...], Tensor]]

# Under the ids of some weights: these, which keeps the ids from being used again, and what oneDNN
# multiplies by. None where oneDNN is not to be used.
_laid_out: ContextVar[_Layouts | None] = ContextVar("laid_out", default=None)


@contextmanager
def constant_weights(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Promise that no weight changes in the block, so that oneDNN may lay each out once.

    The copies are as large as the weights of the linear layers and go at the end of the block.
    Weights that do not own their memory, such as those of a loaded pickle, are not copied: it may
    be a file that several processes have mapped, to hold it only once.

    Parameters
    ----------
    device : torch.device
        Where the weights are; oneDNN is used on CPUs only.
    precision : torch.dtype
        Of the products; oneDNN is used for float32 only.
    """
    is_used = device.type == "cpu" and precision == torch.float32 and _has_onednn()
    token = _laid_out.set({} if is_used else None)
    try:
        yield
    finally:
        _laid_out.reset(token)


def full_rows() -> int | None:
    """How many rows oneDNN gets; None where it is not used."""
    return None if _laid_out.get() is None else FULL_ROWS


def _has_onednn() -> bool:
    return bool(getattr(torch.backends.mkldnn, "enabled", True)) and _knows_operators()


@cache
def _knows_operators() -> bool:
    """Try the operators behind torch.compile's linear layers on CPUs, which may change."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    x, vector = torch.ones(2, 2), torch.ones(2)
    try:
        with torch.no_grad():
            weight = torch.ops.mkldnn._reorder_linear_weight(x, 2)
            gelu = torch.ops.mkldnn._linear_pointwise(x, weight, vector, "gelu", [], "none")
            added = torch.ops.mkldnn._linear_pointwise.binary(x, x, weight, vector, "add")
    except (AttributeError, RuntimeError, TypeError):
        return False
    three = torch.full((2, 2), 3.0)
    return torch.allclose(gelu, F.gelu(three)) and torch.allclose(added, three + 1)


def _onednn_weight(x: Tensor, *weights: Tensor) -> Tensor | None:
    """Give what oneDNN is to multiply by, (d_out, d_in) each -> (sum of d_out, d_in), or None.

    None where it is not to be used. Only for parameters: what a parametrization computes is
    another tensor each time.
    """
    known = _laid_out.get()
    if known is None or len(x) != FULL_ROWS or torch.is_grad_enabled():
        return None
    if any(type(weight) is not nn.Parameter for weight in weights):
        return None
    key = tuple(id(weight) for weight in weights)
    if key not in known:
        if all(weight.untyped_storage().resizable() for weight in weights):  # own their memory
            joint = torch.cat(weights) if len(weights) > 1 else weights[0].detach()
            known[key] = weights, torch.ops.mkldnn._reorder_linear_weight(joint, FULL_ROWS)
        elif len(weights) == 1:
            known[key] = weights, weights[0].detach()
        else:
            return None
    return known[key][1]


def linear_gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """Compute ``gelu(layer(x))``, the exact GELU: (n, d_in) -> (n, d_out)."""
    if type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
        weight = _onednn_weight(x, layer.weight)
        if weight is not None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "gelu", [], "none")
    product = layer(x)
    # In place where no derivative needs the product: the largest of all hidden states.
    return F.gelu(product) if product.requires_grad else torch.ops.aten.gelu_(product)


def residual_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``residual + x W^T + b``: (n, d_out), (n, d_in) -> (n, d_out), without derivative."""
    laid_out = _onednn_weight(x, weight)
    if laid_out is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, laid_out, bias, "add")
    return (residual + bias).addmm_(x, weight.t())


def joint_linear(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Compute all ``layer(x)`` side by side: (n, d_in) -> (n, sum of d_out).

    Their weights are not laid side by side for it, which would copy them in every step. Results
    of their own, concatenated, make a fit 2 % slower (bench_profile.py, AMD EPYC).
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.cat([F.linear(x, layer.weight, layer.bias) for layer in layers], dim=1)
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    return _JointLinear.apply(x, *parameters)


def side_by_side(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """Compute all x W_i^T, and + b_i where it is not None, each into columns of one result.

    No derivative is kept; `joint_linear` has one.
    """
    weight = _onednn_weight(x, *weights)
    if weight is None:
        return _into_columns(x, weights, biases)
    pairs = zip(weights, biases, strict=True)
    bias = torch.cat([x.new_zeros(len(w)) if b is None else b for w, b in pairs])
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


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

    With G_i the columns of the gradient: dW_i = G_i^T x, db_i = 1^T G_i, dx = sum_i G_i W_i, the
    sum being accumulated by the products themselves.
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
