"""oneDNN's matrix products on x86 CPUs, for what only predicts."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

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
