"""The gradients of a batch, computed in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from skbert.engine.model.batch import StagedBatch, stage
from skbert.engine.model.device import is_asynchronous
from skbert.engine.model.dropout import (
    Dropout,
    SlicedDropout,
    no_dropout,
    set_state,
    state_of,
)
from skbert.engine.model.recompute import recomputing_blocks
from skbert.engine.text.packing import Filling, PackedBatch, cut_by_tokens, split_by_tokens
from skbert.engine.training.objective import Network, Objective
from skbert.engine.warn import warn_user

# A batch with more tokens is split into parts whose gradients are summed: the same step in less
# memory, 0.64 of Trainer's for BERT-base and texts of 128 tokens (bench_memory.py). Larger products
# are faster only on an accelerator.
_MICRO_BATCH_TOKENS = 2048
_MICRO_BATCH_TOKENS_OF_ACCELERATORS = 16384


@dataclass(frozen=True)
class Part:
    """A micro-batch, or some of its texts, ready to be copied.

    Attributes
    ----------
    staged : StagedBatch
    whole : PackedBatch
        The micro-batch, whose dropout masks the texts have.
    texts : ndarray of int64, or None
        Numbers of the texts in `whole`; None if they are all.
    counts : bool
        Whether the gradients of the texts count.
    """

    staged: StagedBatch
    whole: PackedBatch
    texts: np.ndarray | None = None
    counts: bool = True


class MicroBatches:
    """Accumulates the gradients of batches; if memory runs out, in smaller parts.

    Parameters
    ----------
    network : Network
    parameters : sequence of torch.nn.Parameter
        Get the gradients.
    dropout : Dropout

    Attributes
    ----------
    token_budget : int
        Number of tokens in a part at most. It shrinks if memory runs out.
    """

    def __init__(
        self, network: Network, parameters: Sequence[nn.Parameter], dropout: Dropout
    ) -> None:
        self._parameters, self._dropout, self._device = parameters, dropout, network.device
        self._is_packed = network.is_packed
        is_cpu = self._device.type == "cpu"
        self._planned_budget = (
            _MICRO_BATCH_TOKENS if is_cpu else _MICRO_BATCH_TOKENS_OF_ACCELERATORS
        )
        self.token_budget = self._planned_budget
        self._recomputes = False

    def plan(self, lengths: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """Split the texts `rows` into parts, as long as memory suffices."""
        return split_by_tokens(lengths, rows, self._planned_budget)

    def prepare(
        self,
        objective: Objective,
        parts: Sequence[np.ndarray],
        batch: np.ndarray,
        filling: Filling | None = None,
    ) -> list[Part]:
        """Collect what the loss reads of parts that `plan` has split; perhaps in another thread."""
        hosts = [objective.prepare(part, batch, filling) for part in parts]
        return [Part(stage(host, self._device), host.packed) for host in hosts]

    def accumulate(self, objective: Objective, parts: Sequence[Part], batch: np.ndarray) -> Tensor:
        """Add the gradients of the parts of a batch, and return the sums of its loss.

        If memory runs out, this method repeats the parts in smaller ones, with the dropout masks
        that the planned parts have. Families that run through the forward of transformers get other
        masks then.

        Parameters
        ----------
        objective : Objective
        parts : sequence of Part
            From `prepare`.
        batch : ndarray of int64
            All texts of the batch.
        """
        before = state_of(self._dropout)
        while True:
            try:
                with recomputing_blocks(self._recomputes):
                    sums = [self._backward(objective, part, batch) for part in parts]
                return torch.stack(sums).sum(0)
            except torch.OutOfMemoryError:
                n_tokens = max(len(part.whole.ids) for part in parts)
                if not self._make_room(n_tokens, int(objective.lengths[batch].max())):
                    raise
            for parameter in self._parameters:
                parameter.grad = None
            set_state(self._dropout, before)

    def _backward(self, objective: Objective, part: Part, batch: np.ndarray) -> Tensor:
        """Add the gradients of a planned part, in smaller ones if it is too large by now."""
        whole, n_texts = part.whole, part.staged.host.n_texts
        pieces = cut_by_tokens(np.diff(whole.cu_texts)[:n_texts], self.token_budget)
        if len(pieces) == 1:
            return self._backward_piece(objective, part.staged, self._dropout)
        dropout_of = self._sliced_dropout(whole)
        sums = []
        for piece in pieces:
            texts = np.arange(piece.start, piece.stop)
            staged = stage(objective.prepare(whole.rows[texts], batch), self._device)
            sums.append(self._backward_piece(objective, staged, dropout_of(texts)))
        return torch.stack(sums).sum(0)

    def _sliced_dropout(self, whole: PackedBatch) -> Callable[[np.ndarray], Dropout]:
        """Give some texts of a micro-batch the masks that they have in the whole of it."""
        if self._dropout is no_dropout:
            return lambda texts: no_dropout
        n_sequences = len(whole.cu_seqlens) - 1
        sliced = SlicedDropout(self._dropout, len(whole.rows), n_sequences, len(whole.ids))
        return lambda texts: sliced.of(texts, *_contents(whole, texts))

    def _backward_piece(self, objective: Objective, part: StagedBatch, dropout: Dropout) -> Tensor:
        loss = objective.loss(part.copy(self._device), dropout)
        loss.part.backward()
        return loss.sums

    def _make_room(self, n_tokens: int, longest_text: int) -> bool:
        """Let the next try need less than parts of `n_tokens` did; False if there is no way."""
        if is_asynchronous(self._device):
            torch.cuda.empty_cache()
        largest = min(self.token_budget, n_tokens)
        if largest > longest_text:
            self.token_budget = max(largest // 2, longest_text)
            masks = "" if self._is_packed else ", apart from other dropout masks,"
            warn_user(
                f"Out of memory on {self._device}. skbert repeats the step in micro-batches of "
                f"{self.token_budget} tokens, which gives the same gradients{masks} more slowly. "
                "Lower max_length or choose a smaller model to avoid this."
            )
            return True
        if self._recomputes or not self._is_packed:
            return False
        self._recomputes = True
        warn_user(
            f"Out of memory on {self._device}, even for micro-batches of one text. skbert repeats "
            "the step with gradient checkpointing: it computes the activations of each block a "
            "second time, which gives the same gradients more slowly. Lower max_length or choose a "
            "smaller model to avoid this."
        )
        return True


def _contents(packed: PackedBatch, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the numbers of the sequences and of the tokens of some texts of a batch."""
    sequences = texts if packed.cu_windows is None else _ranges(packed.cu_windows, texts)
    return sequences, _ranges(packed.cu_texts, texts)


def _ranges(cumulative: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Concatenate the numbers that each text has."""
    return np.concatenate([np.arange(cumulative[i], cumulative[i + 1]) for i in texts])
