"""oneDNN's matrix products for prediction on x86 CPUs, equal to torch's up to rounding.

oneDNN adds bias and residual and applies GELU inside the product, and multiplies by weights that
it has reordered. Only this file and its callers in `model` know oneDNN. Other code only marks where
weights are constant, with `constant_weights`.

The gain depends on the processor. With oneDNN, predicting sentences went from 2.2 to 2.4 times the
speed of transformers' pipeline on an AMD EPYC with AVX-512 (bench_predict.py before and after). On
an Intel Xeon with AMX it makes no difference. Without AVX-512 it is slower, so skbert does not use
it there: on an AMD EPYC with AVX2, `predict_proba` of 160 sentences takes 1.27 times as long with
oneDNN for the shape of DistilBERT, and 1.16 times for that of RoBERTa (bench_predict.py --family,
medians of 7 rounds), because its GELU is slower.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skbert.engine.model.batch import DeviceBatch
from skbert.engine.text.packing import PackedBatch, fill

#: The only number of rows that oneDNN multiplies here, because it compiles kernels for each number
#: of rows and keeps them. Prediction uses batches of this size for that reason.
FULL_ROWS = 2048

# Maximum number of tokens that `fill_batch` adds: at most 3 % more work.
_MOST_ADDED = 64

_Reordered = dict[tuple[int, ...], tuple[tuple[Tensor, ...], Tensor]]

# Maps the ids of some weights to these weights and to the matrix for oneDNN. It keeps the weights
# so that Python gives their ids to no other tensor. None if oneDNN must not be used. A context
# variable, because each thread that predicts has its own weights.
_reordered: ContextVar[_Reordered | None] = ContextVar("reordered", default=None)


@contextmanager
def constant_weights(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Promise that no weight changes in the block, so that prediction may use oneDNN.

    oneDNN reorders each weight once. These copies need as much memory as the weights of the linear
    layers, until the block ends. Weights that do not own their memory, such as those of a loaded
    pickle, are not copied, because several processes may share that memory.

    Parameters
    ----------
    device : torch.device
        Device of the weights; skbert uses oneDNN only on CPUs.
    precision : torch.dtype
        Precision of the products; skbert uses oneDNN only for float32.
    """
    usable = device.type == "cpu" and precision == torch.float32 and _is_enabled()
    token = _reordered.set({} if usable else None)
    try:
        yield
    finally:
        _reordered.reset(token)


def is_used() -> bool:
    """Whether oneDNN multiplies now: in a block of `constant_weights`, and without gradients."""
    return _reordered.get() is not None and not torch.is_grad_enabled()


def fill_batch(batch: PackedBatch | DeviceBatch) -> PackedBatch | DeviceBatch:
    """Append a meaningless text to a batch that is a few tokens short of `FULL_ROWS`.

    Returns
    -------
    PackedBatch or DeviceBatch
        The batch itself if oneDNN is not used, or if the batch is full or much too short. Remove
        the results of the appended text with `drop_filling`.
    """
    n_missing = FULL_ROWS - len(batch.ids)
    is_short = 0 < n_missing <= _MOST_ADDED
    if not (isinstance(batch, PackedBatch) and is_used() and is_short):
        return batch
    return fill(batch, FULL_ROWS)


def drop_filling(results: Tensor, n_rows: int) -> Tensor:
    """Keep the first `n_rows` rows, which belong to the batch before `fill_batch`."""
    # Do not slice if all rows stay: the derivative of a slice would copy the gradient.
    return results if len(results) == n_rows else results[:n_rows]


def try_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
) -> Tensor | None:
    """Compute all ``x W_i^T + b_i`` side by side with oneDNN, if it is used for them.

    Parameters
    ----------
    x : Tensor of shape (n, d_in)
    weights : sequence of Tensor of shape (d_out of each, d_in)
    biases : sequence of Tensor of shape (d_out of each,) or None
    gelu : bool
        Apply the exact GELU to the sum.
    residual : Tensor of shape (n, sum of d_out) or None
        Added to the sum; not together with `gelu`.

    Returns
    -------
    Tensor of shape (n, sum of d_out) or None
        None if oneDNN is not used.
    """
    weight = _reorder(x, *weights)
    if weight is None:
        return None
    bias = biases[0] if len(biases) == 1 else _concatenate(x, weights, biases)
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    if gelu:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _concatenate(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    pairs = zip(weights, biases, strict=True)
    return torch.cat([x.new_zeros(len(w)) if b is None else b for w, b in pairs])


def _reorder(x: Tensor, *weights: Tensor) -> Tensor | None:
    """Make the matrix for oneDNN, (d_out, d_in) each -> (sum of d_out, d_in), or return None.

    None if oneDNN is not used. Weights must be parameters, because a parametrization computes
    another tensor at each access.
    """
    known = _reordered.get()
    if known is None or not is_used() or len(x) != FULL_ROWS:
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


def _is_enabled() -> bool:
    enabled = bool(getattr(torch.backends.mkldnn, "enabled", True))
    return enabled and is_faster() and is_available()


@cache
def is_faster() -> bool:
    """Whether oneDNN multiplies faster than torch here: on processors with AVX-512."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def is_available() -> bool:
    """Whether this torch has the operators, and they give correct results.

    The operators are private to torch: `torch.compile` uses them for linear layers on CPUs.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    x, vector = (torch.ones(s, device="cpu", dtype=torch.float32) for s in ((2, 2), 2))
    try:
        with torch.no_grad():
            weight = torch.ops.mkldnn._reorder_linear_weight(x, 2)
            gelu = torch.ops.mkldnn._linear_pointwise(x, weight, vector, "gelu", [], "none")
            added = torch.ops.mkldnn._linear_pointwise.binary(x, x, weight, vector, "add")
    except (AttributeError, RuntimeError, TypeError):
        return False
    three = torch.full((2, 2), 3.0, device="cpu", dtype=torch.float32)
    return torch.allclose(gelu, F.gelu(three)) and torch.allclose(added, three + 1)
