"""CUDA graphs: what a call starts on the device, captured to be started again at once.

References
----------
.. [1] V. Q. Nguyen et al. Accelerating PyTorch with CUDA Graphs. PyTorch blog, 2021.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch

# One capture at a time: all captures share a stream.
_capturing = threading.Lock()


class GraphMemory:
    """Memory of some graphs, of which none reads what another one has written.

    Torch frees such memory only with its last graph, so each fit would need more. Later fits use
    the memory of earlier ones again; see `borrow_memory`.
    """

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self.last_graph: Any = None  # keeps the memory


# What nobody has borrowed.
_idle: defaultdict[torch.device, list[GraphMemory]] = defaultdict(list)


def borrow_memory(device: torch.device) -> GraphMemory:
    """Take memory for graphs, until `return_memory`."""
    try:
        return _idle[device].pop()
    except IndexError:
        return GraphMemory()


def return_memory(device: torch.device, memory: GraphMemory) -> None:
    """Let others borrow this memory. Its graphs must not run any more."""
    _idle[device].append(memory)


def free_idle_memory() -> None:
    """Give the memory that nobody has borrowed back to torch."""
    _idle.clear()


def capture(
    call: Callable[[], None],
    device: torch.device,
    generator: torch.Generator | None,
    memory: GraphMemory,
) -> Callable[[], None]:
    """Capture what `call` starts on the device, which does not run it, and return its replay.

    Parameters
    ----------
    call : callable
    device : torch.device
    generator : torch.Generator or None
        Draws the random numbers of `call`.
    memory : GraphMemory

    Raises
    ------
    torch.OutOfMemoryError
        If the memory does not suffice. Nothing remains captured.
    """
    stream, current = _capture_stream(device), torch.cuda.current_stream(device)
    with _capturing, torch.cuda.stream(stream):  # this also switches the device
        graph = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        stream.wait_stream(current)
        try:
            # "thread_local": other threads may use the device meanwhile.
            graph.capture_begin(pool=memory.handle, capture_error_mode="thread_local")
            try:
                call()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            raise torch.OutOfMemoryError(str(error)) from error
    current.wait_stream(stream)
    memory.last_graph = graph
    return graph.replay


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
