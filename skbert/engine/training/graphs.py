"""Replay the training step of a small model as a CUDA graph.

A step of MiniLM starts over a thousand kernels, most of which run for microseconds: the host needs
longer to start them than the device to run them. A CUDA graph starts them all at once. It repeats
the same kernels on the same memory, so it fits batches of one shape. For that, skbert rounds the
number of tokens up with a filler text, which changes no gradient; see `packing.fill`.

References
----------
.. [1] V. Q. Nguyen et al. Accelerating PyTorch with CUDA Graphs. PyTorch blog, 2021.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from skbert.engine.model.batch import DeviceBatch, StagedBatch
from skbert.engine.model.dropout import Dropout

#: A whole training step, with the update of the weights. It must not read results on the host, and
#: apart from the batch, it must read and write the same memory in each call.
Step = Callable[[DeviceBatch], None]

# Number of shapes with a graph. 32 sentences have two or three, other texts a few more.
_MOST_GRAPHS = 32

# Largest product of the number of tokens and the mean size of a weight for which graphs are faster.
_MOST_WORK = 4e9

# One capture at a time: all captures share a stream, so that their memory can be shared, too.
_capturing = threading.Lock()


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
    """

    def __init__(self, owner: object, dropout: Dropout) -> None:
        self.owner = owner
        self._generator = getattr(dropout, "generator", None)
        self._graphs: dict[Any, _Graph] = {}
        self._n_seen: Counter[Any] = Counter()
        self._pool: Any = None

    def take(self, step: Step, batch: StagedBatch, device: torch.device) -> None:
        """Take one step."""
        shape = batch.host.shape
        if shape not in self._graphs:
            self._n_seen[shape] += 1
            if self._n_seen[shape] == 1 or len(self._graphs) == _MOST_GRAPHS:
                step(batch.copy(device))
                return
            self._graphs[shape] = self._captured(step, batch, device)
        graph = self._graphs[shape]
        assert batch.flat is not None
        graph.inputs.copy_(batch.flat, non_blocking=True)
        graph.replay()

    def _captured(self, step: Step, batch: StagedBatch, device: torch.device) -> _Graph:
        assert batch.flat is not None
        inputs = batch.flat.to(device, non_blocking=True)
        replay, self._pool = capture(
            lambda: step(batch.view(inputs)), device, self._generator, self._pool
        )
        return _Graph(inputs, replay)


def pays(n_tokens: int, weights: Sequence[Tensor]) -> bool:
    """Whether the host would need longer to start a step's kernels than the device to run them.

    The number of kernels grows with the number of weights, their time with the size of weights and
    with the number of tokens.
    """
    mean_size = sum(weight.numel() for weight in weights) / len(weights)
    return n_tokens * mean_size <= _MOST_WORK


def capture(
    call: Callable[[], None], device: torch.device, generator: torch.Generator | None, pool: Any
) -> tuple[Callable[[], None], Any]:
    """Capture what `call` starts on the device; the device does not run it.

    Parameters
    ----------
    call : callable
    device : torch.device
    generator : torch.Generator or None
        Draws the random numbers of `call`.
    pool : object or None
        Memory of earlier graphs, of which none runs at the same time.

    Returns
    -------
    replay : callable
    pool : object
    """
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    pool = torch.cuda.graph_pool_handle() if pool is None else pool
    stream, current = _capture_stream(device), torch.cuda.current_stream(device)
    with _capturing, torch.cuda.stream(stream):
        stream.wait_stream(current)
        # "thread_local": other threads may use the device meanwhile.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            call()
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph.replay, pool


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
