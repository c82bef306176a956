"""The processes, or ranks, that share a fit, as ``torchrun`` starts them.

skbert starts no process. It uses the process group of the caller; only if there is none, and
``torchrun`` has started the process, it makes one. `data_parallel` has what the ranks compute.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from skbert.engine.clusters import is_started_by_torchrun
from skbert.engine.forks import after_fork
from skbert.engine.warn import left_to_another

_Value = TypeVar("_Value")

#: Sums tensors of a CPU and of CUDA devices.
_BACKENDS = "cpu:gloo,cuda:nccl"


class Ranks:
    """The processes that share a fit, as one of them sees them.

    All of them must call the same methods in the same order.

    Attributes
    ----------
    group : torch.distributed.ProcessGroup or None
        None after `leave`.
    rank : int
        Number of this process, from 0.
    n_ranks : int
        Number of processes, at least 2.
    """

    def __init__(self) -> None:
        backend = _BACKENDS if torch.cuda.is_available() else "gloo"
        self.group: Any = dist.new_group(backend=backend)
        self.rank = dist.get_rank(self.group)
        self.n_ranks = dist.get_world_size(self.group)

    def leave(self) -> None:
        """Close the connections to the other ranks, which do not wait for this one any more.

        gloo closes them when nothing refers to the group.
        """
        dist.destroy_process_group(self.group)
        self.group = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, shows progress and gives warnings."""
        return self.rank == 0

    def share(self, lengths: np.ndarray, n_before: np.ndarray) -> np.ndarray:
        """Choose the texts of this rank; see `balanced_owners`.

        Returns
        -------
        ndarray of int64
            Numbers of texts, ascending; empty if there are fewer texts than ranks.
        """
        return np.flatnonzero(balanced_owners(lengths, n_before) == self.rank)

    def total(self, numbers: Tensor) -> Tensor:
        """Sum tensors of equal shape over the ranks, in place."""
        dist.all_reduce(numbers, group=self.group)
        return numbers

    def from_first(self, value: _Value) -> _Value:
        """Return the value of rank 0 on all ranks."""
        values = [value]
        dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    def all_values(self, value: _Value) -> list[_Value]:
        """Return the values of all ranks, in their order."""
        values: list[Any] = [None] * self.n_ranks
        dist.all_gather_object(values, value, group=self.group)
        return values

    def compute_rows(
        self, lengths: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Compute a row for each text, each on one rank, and return all of them on all ranks.

        Parameters
        ----------
        lengths : ndarray of shape (n_texts,)
            Number of tokens in each text.
        compute : callable
            Numbers of texts, (n,) -> their rows, (n, ...).
        """
        rows = self.share(lengths, np.zeros(self.n_ranks, dtype=np.int64))
        found = self.all_values((rows, compute(rows)))
        all_rows = np.concatenate([rows for rows, _ in found])
        return np.concatenate([values for _, values in found])[np.argsort(all_rows)]


def balanced_owners(lengths: np.ndarray, n_before: np.ndarray) -> np.ndarray:
    """Give each text to a rank, so that all ranks get about the same number of tokens.

    The longest text comes first, and each goes to the rank that has the fewest tokens so far
    (Graham, 1969): the ranks then differ by at most the longest text.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,)
        Number of tokens in each text.
    n_before : ndarray of shape (n_ranks,), int64
        Number of tokens that each rank already has. Changed in place.

    Returns
    -------
    ndarray of shape (n_texts,), int64
        The rank of each text.
    """
    owners = np.empty(len(lengths), dtype=np.int64)
    for text in np.argsort(-lengths, kind="stable"):
        owners[text] = rank = n_before.argmin()
        n_before[rank] += lengths[text]
    return owners


@contextmanager
def ranks_of_fit() -> Iterator[Ranks | None]:
    """Connect the processes that share a fit; None if this process trains alone.

    Each fit has its own group. If it fails on one rank, its group ends. With gloo, the other ranks
    then get an error instead of waiting for it. This has not been run with NCCL.

    Raises
    ------
    ConnectionError
        If another rank has ended, cannot be reached, or does not take part.
    """
    if not _is_one_of_several():
        yield None
        return
    ranks = None
    try:
        ranks = Ranks()
        with left_to_another(not ranks.is_first):
            yield ranks
        dist.barrier(group=ranks.group)  # nobody leaves while another reads its last message
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise ConnectionError(
            f"Rank {dist.get_rank()} of {dist.get_world_size()} has lost the connection to another "
            "rank, which failed, was killed, or does not call fit; its own message, if there is "
            "one, says why. The fit ends on all ranks. Start it again; with checkpoint_dir, it "
            f"resumes from its last epoch, on any number of ranks. torch says: {error}"
        ) from error
    finally:
        if ranks is not None:
            ranks.leave()


def _is_one_of_several() -> bool:
    """Whether this process shares its fits; make the default group if ``torchrun`` started it."""
    if _is_forked or not dist.is_available():
        return False
    if not dist.is_initialized():
        if not is_started_by_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
            return False
        dist.init_process_group("gloo")
        atexit.register(_leave)
    return dist.get_world_size() > 1


#: Whether the group belongs to the parent of this process, which is a fork of it.
_is_forked = False


def _note_fork() -> None:
    global _is_forked
    _is_forked = dist.is_available() and dist.is_initialized()


after_fork(_note_fork)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
