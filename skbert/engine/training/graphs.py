"""Replay the training step of a small model as a CUDA graph.

A step of MiniLM starts about 700 kernels, most of which run for microseconds: the host needs
longer to start them than the device to run them. A CUDA graph starts them all at once. It repeats
the same kernels on the same memory, so it fits batches of one shape. For that, skbert rounds the
number of tokens up with a filler text, which changes no gradient; see `packing.fill`.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skbert.engine.model.batch import DeviceBatch, StagedBatch
from skbert.engine.model.capture import GraphMemory, borrow_memory, capture, return_memory
from skbert.engine.model.dropout import Dropout
from skbert.engine.text.packing import Filling

#: A whole training step, with the update of the weights. It must not read results on the host, and
#: apart from the batch, it must read and write the same memory in each call.
Step = Callable[[DeviceBatch], None]

# Number of shapes with a graph. 32 sentences have two or three, other texts a few more.
_MOST_GRAPHS = 32

# Largest product of the number of tokens and the mean size of a weight with which steps are
# replayed. With 32 documents and BERT-base, it is 3.3e9, and a fit of one epoch takes 0.75 of the
# time (bench_gpu.py, NVIDIA H200). More was not measured.
_MOST_WORK = 4e9

# The same for which a few more tokens do not matter.
_LITTLE_WORK = 1e9


@dataclass(frozen=True)
class _Graph:
    """A captured step, and the place from which it reads its batch."""

    inputs: Tensor
    replay: Callable[[], None]


class StepGraphs:
    """Takes training steps, from the second step of a shape on as a graph.

    Parameters
    ----------
    owner : object
        The objective of the steps. Another one needs other graphs.
    dropout : Dropout
    device : torch.device
    """

    def __init__(self, owner: object, dropout: Dropout, device: torch.device) -> None:
        self._owner = weakref.ref(owner)
        self._device = device
        self._generator = getattr(dropout, "generator", None)
        self._graphs: dict[Any, _Graph] = {}
        self._n_seen: Counter[Any] = Counter()
        self._memory: GraphMemory | None = None
        self._returns_memory: weakref.finalize[..., Any] | None = None

    def belongs_to(self, owner: object) -> bool:
        """Whether the graphs are of the steps of this objective."""
        return self._owner() is owner

    def free(self) -> None:
        """Give the memory of the graphs back to torch; no graph can run any more."""
        self._graphs.clear()
        if self._returns_memory is not None:
            self._returns_memory.detach()
        self._memory = None
        torch.cuda.empty_cache()

    def take(self, step: Step, batch: StagedBatch) -> None:
        """Take one step."""
        shape = batch.host.shape
        if shape not in self._graphs:
            self._n_seen[shape] += 1
            if self._n_seen[shape] == 1 or len(self._graphs) == _MOST_GRAPHS:
                step(batch.copy(self._device))
                return
            self._graphs[shape] = self._captured(step, batch)
        graph = self._graphs[shape]
        assert batch.flat is not None
        graph.inputs.copy_(batch.flat, non_blocking=True)
        graph.replay()

    def _captured(self, step: Step, batch: StagedBatch) -> _Graph:
        assert batch.flat is not None
        if self._memory is None:
            self._memory = borrow_memory(self._device)
            self._returns_memory = weakref.finalize(self, return_memory, self._device, self._memory)
        inputs = batch.flat.to(self._device, non_blocking=True)
        call = partial(_step_on, step, batch, inputs)
        try:
            replay = capture(call, self._device, self._generator, self._memory)
        except torch.OutOfMemoryError:
            # A capture cannot use what torch keeps for later.
            torch.cuda.empty_cache()
            replay = capture(call, self._device, self._generator, self._memory)
        return _Graph(inputs, replay)


def _step_on(step: Step, batch: StagedBatch, inputs: Tensor) -> None:
    step(batch.view(inputs))


def pays(n_tokens: int, weights: Sequence[Tensor]) -> bool:
    """Whether the host would need longer to start a step's kernels than the device to run them.

    The number of kernels grows with the number of weights, their time with the size of weights and
    with the number of tokens.
    """
    return _work(n_tokens, weights) <= _MOST_WORK


def choose_filling(
    n_tokens: int, longest: int, weights: Sequence[Tensor], known: set[Filling]
) -> Filling:
    """Choose how a batch is filled for a graph, and remember it in `known`.

    If the step is cheap, a graph of half as many tokens again costs less than another capture.
    Then the filler, too, may have half as many tokens.
    """
    if _work(n_tokens, weights) <= _LITTLE_WORK:
        longest = max(longest, n_tokens // 2)
        for filling in sorted(known, key=lambda filling: filling.n_tokens):
            n_missing = filling.n_tokens - n_tokens
            if 0 < n_missing <= n_tokens / 2 and max(longest, n_missing) <= filling.longest:
                return filling
    filling = Filling.of(n_tokens, longest)
    known.add(filling)
    return filling


def _work(n_tokens: int, weights: Sequence[Tensor]) -> float:
    return n_tokens * sum(weight.numel() for weight in weights) / len(weights)
