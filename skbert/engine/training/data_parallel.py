"""The gradients of a batch whose texts several ranks share.

Each rank computes some texts of each micro-batch. torch's DistributedDataParallel [1]_ sums the
gradients in buckets, while the backward pass still computes others. Every rank knows all texts, and
draws the dropout masks of all, so the steps are those of one process, apart from rounding. The
masks are others for padded families, and on GPUs for steps of several micro-batches, which are
larger than those of one process.

.. [1] S. Li et al. PyTorch Distributed: Experiences on Accelerating Data Parallel Training.
   VLDB 2020, arXiv:2006.15704.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skbert.engine.model.batch import DeviceBatch, stage
from skbert.engine.model.dropout import Dropout, no_dropout
from skbert.engine.text.packing import Filling
from skbert.engine.training.distributed import Ranks
from skbert.engine.training.micro_batches import MicroBatches, Part
from skbert.engine.training.objective import Network, Objective


class SharedMicroBatches(MicroBatches):
    """As `MicroBatches`, but computes the texts of one rank, and gives all ranks the sums.

    If memory runs out on a rank, there is no second try, because the other ranks already wait for
    its gradients.

    Parameters
    ----------
    ranks : Ranks
    network : Network
    parameters : sequence of torch.nn.Parameter
        All ranks get the values of rank 0.
    dropout : Dropout
        In the same state on all ranks, but another one if the network runs through the padded
        forward of transformers: its masks depend on the other texts of the rank.
    """

    def __init__(
        self,
        ranks: Ranks,
        network: Network,
        parameters: Sequence[nn.Parameter],
        dropout: Dropout,
    ) -> None:
        super().__init__(network, parameters, dropout)
        if self._device.type != "cpu":  # as large for each rank as for one process
            self._planned_budget *= ranks.n_ranks
        self._ranks = ranks
        self._parallel: DistributedDataParallel | None = None

    def leave(self) -> None:
        """Forget the connections to the other ranks, and the gradients, which buckets hold."""
        if self._parallel is not None:  # the frames of a traceback may still hold it
            for name in ("process_group", "reducer", "logger"):  # which hold the connections
                setattr(self._parallel, name, None)
        self._parallel = None
        for weight in self._parameters:
            weight.grad = None

    def prepare(
        self,
        objective: Objective,
        parts: Sequence[np.ndarray],
        batch: np.ndarray,
        filling: Filling | None = None,
    ) -> list[Part]:
        """Collect the texts of this rank, at least one of each part.

        Of a part with fewer texts than ranks, some ranks compute a text that does not count, so
        that the masks and the sums of all ranks stay together.
        """
        n_before = np.zeros(self._ranks.n_ranks, dtype=np.int64)
        prepared = []
        for rows in parts:
            whole = objective.prepare(rows, batch).packed
            texts = self._ranks.share(np.diff(whole.cu_texts), n_before)
            counts = len(texts) > 0
            if not counts:
                texts = np.array([len(whole.rows) - 1])  # a short one
            own = objective.prepare(whole.rows[texts], batch)
            prepared.append(Part(stage(own, self._device), whole, texts, counts))
        return prepared

    def accumulate(self, objective: Objective, parts: Sequence[Part], batch: np.ndarray) -> Tensor:
        """Add the gradients of the parts, and return the sums of the loss, of all ranks."""
        if self._parallel is None:
            self._parallel = self._connect(objective, batch)
        sums = [self._backward_own(objective, part, part is parts[-1]) for part in parts]
        return self._ranks.total(torch.stack(sums).sum(0))

    def _connect(self, objective: Objective, batch: np.ndarray) -> DistributedDataParallel:
        """Find the weights that the loss depends on, the same in all batches, and share them."""
        shortest = batch[objective.lengths[batch].argmin()][None]
        one_text = stage(objective.prepare(shortest, batch), self._device).copy(self._device)
        used = _weights_of(objective.loss(one_text, no_dropout).part)
        return DistributedDataParallel(
            _LossOfBatch([weight for weight in self._parameters if weight in used]),
            process_group=self._ranks.group,
            gradient_as_bucket_view=True,
        )

    def _backward_own(self, objective: Objective, part: Part, is_last: bool) -> Tensor:
        """Add the gradients of a part; after the last one they are those of all ranks."""
        assert part.texts is not None and self._parallel is not None
        own_masks = self._sliced_dropout(part.whole) if self._is_packed else None
        dropout = own_masks(part.texts) if own_masks else self._dropout
        batch = part.staged.copy(self._device)
        with nullcontext() if is_last else self._parallel.no_sync():
            loss, sums = self._parallel(objective, batch, dropout)
            # DistributedDataParallel divides by the number of ranks.
            (loss * (self._ranks.n_ranks * part.counts)).backward()
        return sums * part.counts


def _weights_of(loss: Tensor) -> set[Tensor]:
    """Find the leaves of the graph of a loss."""
    leaves, seen, left = set(), {loss.grad_fn}, [loss.grad_fn]
    while left:
        node: Any = left.pop()
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        following = {function for function, _ in node.next_functions if function is not None}
        left += following - seen
        seen |= following
    return leaves


class _LossOfBatch(nn.Module):
    """The loss as a module, which DistributedDataParallel requires."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameters)

    def forward(
        self, objective: Objective, batch: DeviceBatch, dropout: Dropout
    ) -> tuple[Tensor, Tensor]:
        loss = objective.loss(batch, dropout)
        return loss.part, loss.sums
