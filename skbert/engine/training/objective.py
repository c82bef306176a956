"""What the training loop asks of a network and of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from skbert.engine.model.batch import DeviceBatch, HostBatch
from skbert.engine.model.dropout import Dropout
from skbert.engine.text.packing import Filling


@dataclass(frozen=True)
class Loss:
    """The contribution of some texts to the loss of their batch.

    Attributes
    ----------
    part : Tensor of shape ()
        Differentiable. The parts of a batch sum to its mean loss.
    sums : Tensor of shape (n_sums,), float64, or float32 on MPS
        Values to sum over parts and batches; `Objective.measures` interprets the sums.
    """

    part: Tensor
    sums: Tensor


def loss_sums(*numbers: Tensor | float) -> Tensor:
    """Put numbers and tensors of shape () side by side, for `Loss`, without reading any."""
    like = next(number for number in numbers if isinstance(number, Tensor)).detach()
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    return torch.stack(
        [
            number.detach().to(dtype)
            if isinstance(number, Tensor)
            else like.new_full((), number, dtype=dtype)
            for number in numbers
        ]
    )


class Network(Protocol):
    """A network that the loop can train."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def is_packed(self) -> bool:
        """Whether skbert computes the encoder, so that each text has its own dropout masks."""

    @property
    def is_replayable(self) -> bool:
        """Whether the shape of a batch decides all shapes in the network."""

    def parameters(self, n_frozen_layers: int = 0) -> list[nn.Parameter]:
        """List the weights to train, each once."""


class Objective(Protocol):
    """A loss and its texts."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each text of this epoch; shape (n_texts,). n_texts never changes."""

    def begin_epoch(self) -> None:
        """Prepare the next epoch, for example draw new masks."""

    def prepare(
        self, rows: np.ndarray, batch: np.ndarray, filling: Filling | None = None
    ) -> HostBatch:
        """Collect what `loss` reads of the texts `rows`, which are part of the texts `batch`.

        With `filling`, the sizes of all arrays are rounded up. This method computes with numpy
        only, perhaps in another thread.
        """

    def loss(self, batch: DeviceBatch, dropout: Dropout) -> Loss:
        """Compute the contribution of some texts to the loss of their batch.

        On a CUDA device, this method must not read results on the host.
        """

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Convert sums to measures: "train_loss", which is the mean loss, and others."""
