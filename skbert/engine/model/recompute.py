"""Gradient checkpointing: blocks that keep their input only, and compute the rest a second time.

The backward pass needs all activations of a block. Without checkpointing, the forward pass keeps
them for all blocks; with it, the backward pass computes them again, one block after the other, for
about a third more time (T. Chen et al. Training Deep Nets with Sublinear Memory Cost. 2016,
arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skbert.engine.model.dropout import Dropout, set_state, state_of

_is_on: ContextVar[bool] = ContextVar("recomputing", default=False)


@contextmanager
def recomputing_blocks(enabled: bool = True) -> Iterator[None]:
    """Compute the activations of each block again in the backward pass, if `enabled`."""
    token = _is_on.set(enabled)
    try:
        yield
    finally:
        _is_on.reset(token)


def run_block(
    layer: Callable[..., Tensor], block: Any, hidden: Tensor, groups: Any, dropout: Dropout
) -> Tensor:
    """Compute ``layer(block, hidden, groups, dropout)``, and again in the backward pass if asked.

    The second time, `dropout` draws the same masks.
    """
    if not (_is_on.get() and torch.is_grad_enabled()):
        return layer(block, hidden, groups, dropout)
    before = state_of(dropout)
    is_first = True

    def run(hidden: Tensor) -> Tensor:
        nonlocal is_first
        if is_first:
            is_first = False
            return layer(block, hidden, groups, dropout)
        now = state_of(dropout)
        set_state(dropout, before)
        try:
            return layer(block, hidden, groups, dropout)
        finally:
            set_state(dropout, now)

    result: Tensor = checkpoint(run, hidden, use_reentrant=False, preserve_rng_state=False)
    return result
