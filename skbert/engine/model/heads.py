"""Pooled vectors -> logits: the linear layer of skbert, or the head of a published classifier."""

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


Head = nn.Linear | DenseHead


def head_logits(head: Head, pooled: Tensor, dropout: Dropout) -> Tensor:
    """Compute logits: (n_texts, d_model) -> (n_texts, n_classes)."""
    if isinstance(head, DenseHead):
        hidden = head.hidden(dropout(pooled) if head.drops_input else pooled)
        return head.output(dropout(hidden))
    return head(dropout(pooled))
