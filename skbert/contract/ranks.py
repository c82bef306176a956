"""What the ranks of a shared fit agree on before it begins; see `engine.training.distributed`."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

from skbert.contract.parameters import Seeds
from skbert.engine.training.distributed import Ranks


def shared_seeds(random_state: Any, ranks: Ranks | None) -> Seeds:
    """Make the random streams of a `random_state`; with None, all ranks get those of rank 0.

    Raises
    ------
    ValueError
        If the ranks have different seeds.
    """
    seeds = Seeds.of(random_state)
    if ranks is None:
        return seeds
    given = ranks.all_values(None if random_state is None else seeds.root.entropy)
    _check_equal(given, "has another random_state than rank 0")
    return Seeds(np.random.SeedSequence(ranks.from_first(seeds.root.entropy)))


def check_same_fit(ranks: Ranks, same: Any, device: torch.device) -> None:
    """Raise an error on all ranks if they do not fit the same.

    Parameters
    ----------
    ranks : Ranks
    same : object
        What must be equal on all ranks, such as a fingerprint; see `fingerprint_of_fit`.
    device : torch.device

    Raises
    ------
    ValueError
        If the ranks differ, if they compute on a device whose numbers torch cannot sum over
        processes, or if two of them compute on one GPU.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device.type!r}, but {ranks.n_ranks} ranks share this fit, and torch sums "
            "gradients over processes only on 'cpu' and 'cuda'. Set device='cpu', or start the "
            "script as one process, without torchrun."
        )
    _check_equal(
        ranks.all_values(same),
        "fits other texts, labels, weights or parameters than rank 0, or with other versions of "
        "packages",
    )
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        _check_distinct(ranks.all_values((platform.node(), visible, str(device))))


def _check_equal(found: list[Any], fault: str) -> None:
    others = [rank for rank, value in enumerate(found) if value != found[0]]
    if others:
        raise ValueError(
            f"Rank {others[0]} {fault}. All ranks must call fit with the same arguments: fit "
            "itself shares each batch among them."
        )


def _check_distinct(devices: list[tuple[str, str | None, str]]) -> None:
    for rank, (node, visible, device) in enumerate(devices):
        first = devices.index((node, visible, device))
        if first < rank:
            raise ValueError(
                f"Ranks {first} and {rank} both compute on {device!r} of the machine {node!r}, but "
                "each rank needs a GPU of its own. Start at most one process per GPU, with "
                "device='auto'."
            )


def verbose_of(verbose: int, ranks: Ranks | None) -> int:
    """Let rank 0 alone show the progress."""
    return verbose if ranks is None or ranks.is_first else 0
