"""Pooled vectors -> logits: the linear layers of skbert, or the head of a published classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skbert.engine.model.dropout import Dropout

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
}


class DenseHead(nn.Module):
    """A dense layer, an activation and an output layer, as classifiers of transformers have them.

    Parameters
    ----------
    dense : torch.nn.Linear
        (d_model) -> (d_model).
    activation : {"tanh", "relu", "gelu"}
    output : torch.nn.Linear
        (d_model) -> (n_classes).
    drops_input : bool
        Whether training applies dropout before the dense layer, too, and not only after it.
    """

    def __init__(
        self, dense: nn.Linear, activation: str, output: nn.Linear, *, drops_input: bool
    ) -> None:
        super().__init__()
        self.dense = dense
        self.output = output
        self.activation = activation
        self.drops_input = drops_input

    @property
    def in_features(self) -> int:
        """Width of the pooled vectors."""
        return self.dense.in_features

    @property
    def out_features(self) -> int:
        """Number of classes."""
        return self.output.out_features

    def hidden(self, pooled: Tensor) -> Tensor:
        """Compute the input of the output layer: (n_texts, d_model) -> the same shape."""
        return _ACTIVATIONS[self.activation](self.dense(pooled))

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute logits without dropout: (n_texts, d_model) -> (n_texts, n_classes)."""
        return self.output(self.hidden(pooled))


class OrdinalHead(nn.Module):
    """One score of a text, compared with a threshold between each two neighbouring levels.

    Parameters
    ----------
    weight : Tensor of shape (1, d_model)
        The score of a vector is its product with `weight`.
    thresholds : Tensor of shape (n_levels - 1,)
    """

    def __init__(self, weight: Tensor, thresholds: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.thresholds = nn.Parameter(thresholds)

    @property
    def in_features(self) -> int:
        """Width of the pooled vectors."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of thresholds."""
        return len(self.thresholds)

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute the logit of being above each threshold: (n_texts, n_levels - 1)."""
        return pooled @ self.weight.T - self.thresholds


Head = nn.Linear | DenseHead | OrdinalHead


def head_logits(head: Head, pooled: Tensor, dropout: Dropout) -> Tensor:
    """Compute logits: (n_texts, d_model) -> (n_texts, n_classes)."""
    if isinstance(head, DenseHead):
        hidden = head.hidden(dropout(pooled) if head.drops_input else pooled)
        return head.output(dropout(hidden))
    return head(dropout(pooled))
