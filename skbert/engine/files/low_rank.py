"""A fine-tuned model as a small file: the low-rank change of published weights, and a head.

The change of a weight matrix is a product of two thin matrices, as in LoRA [1]_, and that of a
vector is stored as it is. Both are float16, which is exact enough because the change is small. The
embeddings do not change.

Which part of the change of a matrix is kept depends on the inputs of the matrix, as in the
compression of whole weights [2]_: a direction in which the inputs hardly vary matters little.

.. [1] E. Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022, arXiv:2106.09685.
.. [2] X. Wang, Y. Zheng, Z. Wan, M. Zhang. SVD-LLM: Truncation-aware Singular Value Decomposition
   for Large Language Model Compression. ICLR 2025, arXiv:2403.07378.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skbert.engine.files.weights import linear_of

_HEAD, _ABOUT = "head.", "head"
_LEFT, _RIGHT = ".left", ".right"

# Inputs hardly vary in some directions. Less variance than this part of the largest counts as more,
# so that the inverse exists.
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class ClassifierHead:
    """The linear layer of a fine-tuned classifier.

    Attributes
    ----------
    weight : Tensor of shape (n_classes, d_model)
    bias : Tensor of shape (n_classes,)
    labels : list of str
        Names of the n_classes classes.
    pooling : {"cls", "mean"}
        The pooling with which it was trained.
    """

    weight: Tensor
    bias: Tensor
    labels: list[str]
    pooling: str

    def new_module(self) -> nn.Linear:
        """Build a linear layer to train; the weights are copied."""
        return linear_of(self.weight.clone(), self.bias.clone())


@dataclass(frozen=True)
class LowRankChange:
    """The change of an encoder's weights by fine-tuning, and the head that was trained with it.

    Attributes
    ----------
    factors : dict of str to tuple of Tensor
        For each changed matrix, two float16 matrices, (n_out, rank) and (rank, n_in), whose product
        is added to it.
    vectors : dict of str to Tensor
        For each changed vector, a float16 vector that is added to it.
    head : ClassifierHead
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    vectors: Mapping[str, Tensor]
    head: ClassifierHead

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the change to the published weights, float32; the arguments do not change.

        Parameters
        ----------
        weights : dict of str to Tensor
            All weights of the encoder, by name.
        """
        changes = {
            name: left.float() @ right.float() for name, (left, right) in self.factors.items()
        }
        changes |= {name: vector.float() for name, vector in self.vectors.items()}
        return {n: w + changes[n] if n in changes else w for n, w in weights.items()}


def low_rank_change(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    factors: Sequence[float],
    head: ClassifierHead,
    covariances: Mapping[str, Tensor],
) -> LowRankChange:
    """Approximate the change between two sets of weights by the largest singular values.

    These are the singular values of the change of a matrix times the square root of the covariance
    of its inputs.

    Parameters
    ----------
    before, after : dict of str to Tensor
        Matrices and vectors by name. Those that are equal are left out.
    factors : sequence of float
        Factors of the largest singular values of each matrix, of which the largest comes first. The
        others are left out.
    head : ClassifierHead
    covariances : dict of str to Tensor of shape (n_in, n_in)
        The covariance of the inputs of each matrix that changes.

    Returns
    -------
    LowRankChange
        If all factors are 1, no change of this rank has a smaller mean squared error of the outputs
        over inputs of this covariance and mean 0, apart from rounding. With another mean, this
        holds for the variance of the error: its mean is not corrected.
    """
    scales = torch.tensor(factors, device="cpu", dtype=torch.float64)
    changes = {name: after[name] - weight for name, weight in before.items()}
    changes = {name: change for name, change in changes.items() if change.any()}
    return LowRankChange(
        factors={
            name: _factors(c, scales, covariances[name])
            for name, c in changes.items()
            if c.ndim == 2
        },
        vectors={name: change.half() for name, change in changes.items() if change.ndim == 1},
        head=head,
    )


def _factors(change: Tensor, scales: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    variances, directions = torch.linalg.eigh(covariance.double())
    deviations = variances.clamp_min(_LEAST_VARIANCE * variances[-1]).sqrt()
    square_root = directions * deviations @ directions.T
    inverse = directions / deviations @ directions.T
    left, singular_values, right = torch.linalg.svd(
        change.double() @ square_root, full_matrices=False
    )
    rank = len(scales)
    # The square root to each side, so that neither underflows.
    root = (scales * singular_values[:rank]).sqrt()
    return (left[:, :rank] * root).half(), (root[:, None] * (right[:rank] @ inverse)).half()


def write_change(change: LowRankChange, path: Path) -> None:
    """Write a change to a safetensors file."""
    tensors = {f"{name}{_LEFT}": left for name, (left, _) in change.factors.items()}
    tensors |= {f"{name}{_RIGHT}": right for name, (_, right) in change.factors.items()}
    tensors |= dict(change.vectors)
    tensors |= {f"{_HEAD}weight": change.head.weight, f"{_HEAD}bias": change.head.bias}
    about = json.dumps({"labels": change.head.labels, "pooling": change.head.pooling})
    # One key, because safetensors writes several in random order.
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path, {_ABOUT: about})


def read_change(path: Path) -> LowRankChange:
    """Read a change that `write_change` wrote; the caller has compared the hash of the file."""
    with torch.device("cpu"):  # see `read_safetensors`
        tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[_ABOUT])
    head = ClassifierHead(
        weight=tensors.pop(f"{_HEAD}weight"),
        bias=tensors.pop(f"{_HEAD}bias"),
        labels=about["labels"],
        pooling=about["pooling"],
    )
    names = [name.removesuffix(_LEFT) for name in tensors if name.endswith(_LEFT)]
    factors = {n: (tensors.pop(f"{n}{_LEFT}"), tensors.pop(f"{n}{_RIGHT}")) for n in names}
    return LowRankChange(factors=factors, vectors=tensors, head=head)
