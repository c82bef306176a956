"""The gradients of a batch, computed in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

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
from skbert.engine.text.packing import PackedBatch, cut_by_tokens, split_by_tokens
from skbert.engine.training.objective import Network, Objective
from skbert.engine.warn import warn_user

# A batch with more tokens is split into parts whose gradients are summed: the same step in less
# memory, 0.64 of Trainer's for BERT-base and texts of 128 tokens (bench_memory.py). Larger products
# are faster only on an accelerator.
_MICRO_BATCH_TOKENS = 2048
_MICRO_BATCH_TOKENS_OF_ACCELERATORS = 16384


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

    def accumulate(
        self, objective: Objective, parts: Sequence[StagedBatch], batch: np.ndarray
    ) -> Tensor:
        """Add the gradients of the parts of a batch, and return the sums of its loss.

        If memory runs out, this method repeats the parts in smaller ones, with the dropout masks
        that the planned parts have. Families that run through the forward of transformers get other
        masks then.

        Parameters
        ----------
        objective : Objective
        parts : sequence of StagedBatch
            Of the texts that `plan` has split.
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
                n_tokens = max(len(part.host.packed.ids) for part in parts)
                if not self._make_room(n_tokens, int(objective.lengths[batch].max())):
                    raise
            for parameter in self._parameters:
                parameter.grad = None
            set_state(self._dropout, before)

    def _backward(self, objective: Objective, part: StagedBatch, batch: np.ndarray) -> Tensor:
        """Add the gradients of a planned part, in smaller ones if it is too large by now."""
        packed, n_texts = part.host.packed, part.host.n_texts
        pieces = cut_by_tokens(np.diff(packed.cu_texts)[:n_texts], self.token_budget)
        if len(pieces) == 1:
            return self._backward_piece(objective, part, self._dropout)
        whole = None
        if self._dropout is not no_dropout:
            n_sequences = len(packed.cu_seqlens) - 1
            whole = SlicedDropout(self._dropout, len(packed.rows), n_sequences, len(packed.ids))
        sums = []
        for piece in pieces:
            sequences, tokens = _contents(packed, piece)
            staged = stage(objective.prepare(packed.rows[piece], batch), self._device)
            dropout = whole.of(piece, sequences, tokens) if whole else no_dropout
            sums.append(self._backward_piece(objective, staged, dropout))
        return torch.stack(sums).sum(0)

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


def _contents(packed: PackedBatch, texts: slice) -> tuple[slice, slice]:
    """Find the sequences and the tokens of some texts of a batch."""
    ends = [texts.start, texts.stop]
    sequences = texts if packed.cu_windows is None else slice(*packed.cu_windows[ends].tolist())
    return sequences, slice(*packed.cu_texts[ends].tolist())
