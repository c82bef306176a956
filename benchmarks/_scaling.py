"""How long an epoch takes on several ranks: a simulation of its steps from measured numbers.

A step takes as long as the rank with the most tokens computes, and then as the sum of all gradients
takes that the backward pass does not hide, and the update of the weights, which every rank does.
Nothing here was measured on several GPUs or machines: `bench_distributed.py` compares the
simulation with two processes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skbert.engine.text.packing import shuffled_batches
from skbert.engine.training.distributed import balanced_owners


@dataclass(frozen=True)
class Speeds:
    """What one rank can do.

    Attributes
    ----------
    tokens_per_second : float
        Forward and backward pass.
    update_seconds : float
        Norm of the gradients, clipping and optimizer, once per step.
    gradient_bytes : float
        Size of all gradients.
    bytes_per_second : float
        What a rank sends to another one, while it receives as much.
    latency : float
        Seconds of one message.
    hidden_share : float
        Share of the sum of the gradients that runs beside the backward pass, at most.
    host_seconds : float
        What the host needs to start the kernels of a micro-batch: it takes at least as long.
    graph_seconds : float
        The same for a step of one rank and one micro-batch, which a CUDA graph replays.
    part_tokens : float
        Number of tokens of a micro-batch, of each rank.
    """

    tokens_per_second: float
    update_seconds: float
    gradient_bytes: float
    bytes_per_second: float
    latency: float = 0.0
    hidden_share: float = 0.0
    host_seconds: float = 0.0
    graph_seconds: float = 0.0
    part_tokens: float = np.inf

    def all_reduce_seconds(self, n_ranks: int) -> float:
        """Time of a ring: each rank sends 2 (n - 1) / n of the gradients in 2 (n - 1) messages."""
        n_messages = 2 * (n_ranks - 1)
        share = n_messages / n_ranks
        return share * self.gradient_bytes / self.bytes_per_second + n_messages * self.latency


def simulate_epoch(
    lengths: np.ndarray, batch_size: int, n_ranks: int, speeds: Speeds, seed: int = 0
) -> float:
    """Compute the seconds of one epoch.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,)
        Number of tokens in each text.
    batch_size : int
        Texts of a step, of all ranks together.
    n_ranks : int
    speeds : Speeds
    seed : int, default=0
        For the order of the texts.
    """
    all_reduce = speeds.all_reduce_seconds(n_ranks)
    seconds = 0.0
    for rows in shuffled_batches(len(lengths), batch_size, np.random.default_rng(seed)):
        n_tokens = np.zeros(n_ranks, dtype=np.int64)
        balanced_owners(lengths[rows], n_tokens)
        compute = n_tokens.max() / speeds.tokens_per_second
        backward = compute * 2 / 3
        visible = max(all_reduce * (1 - speeds.hidden_share), all_reduce - backward)
        n_parts = int(np.ceil(n_tokens.sum() / (speeds.part_tokens * n_ranks))) or 1
        host = speeds.host_seconds * n_parts
        if n_ranks == n_parts == 1:
            host = speeds.graph_seconds
        seconds += max(compute + visible + speeds.update_seconds, host)
    return seconds
