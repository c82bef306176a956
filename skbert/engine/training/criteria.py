"""Outputs of a head and the targets of texts -> the loss of each text, and a score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Criterion(Protocol):
    """What a head is trained for."""

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Compute the loss of each text: (n_texts,).

        Parameters
        ----------
        outputs : Tensor of shape (n_texts, n_outputs), float32
        targets : Tensor of shape (n_texts,) or (n_texts, n_outputs), int32 or float32
        label_smoothing : float
        """

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute the score that scikit-learn gives the predictions; the best is 1.

        Parameters
        ----------
        outputs : ndarray of shape (n_texts, n_outputs), float32
        targets : ndarray of shape (n_texts,) or (n_texts, n_outputs)
        weights : ndarray of shape (n_texts,), float64
        """


@dataclass(frozen=True)
class CrossEntropy:
    """One of several classes; targets are class numbers, and outputs are logits.

    The score is the accuracy.
    """

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Compute the cross-entropies, in nats: (n_texts, n_classes), (n_texts,)."""
        return F.cross_entropy(
            outputs, targets.long(), reduction="none", label_smoothing=label_smoothing
        )

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute the weighted share of the texts with the largest logit at their class."""
        return float(weights[outputs.argmax(axis=1) == targets].sum() / weights.sum())


#: The criterion of classes.
CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True)
class BinaryCrossEntropies:
    """Any of several labels, each by itself; targets are 0 and 1, and outputs are logits.

    The score is the share of the texts with all labels right.

    Attributes
    ----------
    positive_weights : tuple of float
        How much more a 1 of each label counts than a 0; of length n_labels.
    """

    positive_weights: tuple[float, ...]

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Compute the mean of the binary cross-entropies: both (n_texts, n_labels)."""
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        weights = _on_device(self.positive_weights, outputs.device)
        losses = F.binary_cross_entropy_with_logits(
            outputs, smooth, pos_weight=weights, reduction="none"
        )
        return losses.mean(dim=1)

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute the weighted share of the texts for which each logit has the right sign."""
        right = ((outputs > 0) == (targets > 0.5)).all(axis=1)
        return float(weights[right].sum() / weights.sum())


@dataclass(frozen=True)
class SquaredError:
    """A number; targets are standardised numbers, and so is the only output.

    The score is the coefficient of determination.

    Attributes
    ----------
    smallest, largest : float
        Range to which predictions are limited, standardised.
    """

    smallest: float = -np.inf
    largest: float = np.inf

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Compute the squared differences: (n_texts, 1), (n_texts,)."""
        return (outputs[:, 0] - targets).square()

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute R2; it is 0 if all targets are equal and a prediction is wrong."""
        predicted = np.clip(outputs[:, 0].astype(np.float64), self.smallest, self.largest)
        return _r2(predicted, targets.astype(np.float64), weights)


@dataclass(frozen=True)
class CumulativeLogits:
    """An ordered level; targets are level numbers, and outputs the logits of being above a level.

    Output k is the logit of a target above k. McCullagh (1980), "Regression models for ordinal
    data", as the sum of the binary cross-entropies of Cao et al. (2020), arXiv:1901.07884.
    The score is the coefficient of determination of the expected level.

    Attributes
    ----------
    levels : tuple of float
        The value of each level, ascending; one more than outputs.
    """

    levels: tuple[float, ...]

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Compute the sums of the binary cross-entropies: (n_texts, n_levels - 1), (n_texts,)."""
        numbers = torch.arange(outputs.shape[1], device=outputs.device, dtype=torch.int32)
        is_above = (targets[:, None] > numbers).float()
        losses = F.binary_cross_entropy_with_logits(outputs, is_above, reduction="none")
        return losses.sum(dim=1)

    def score(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute R2 of the expected level."""
        values = np.array(self.levels)
        return _r2(expected_level(outputs, values), values[targets], weights)


def expected_level(outputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Compute the mean of the levels under their probabilities: (n_texts,), float64.

    Parameters
    ----------
    outputs : ndarray of shape (n_texts, n_levels - 1)
        Logits of being above each level but the last.
    levels : ndarray of shape (n_levels,)
    """
    is_above = 1 / (1 + np.exp(-np.clip(outputs.astype(np.float64), -500, 500)))
    return levels[0] + is_above @ np.diff(levels)


@lru_cache(maxsize=8)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Copy numbers to a device once, because the steps of a CUDA graph must not copy."""
    return torch.tensor(numbers, device=device, dtype=torch.float32)


def _r2(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    error = weights @ (targets - predicted) ** 2
    spread = weights @ (targets - np.average(targets, weights=weights)) ** 2
    if spread == 0:
        return 1.0 if error == 0 else 0.0
    return float(1 - error / spread)
