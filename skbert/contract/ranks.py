"""What the ranks of a shared fit agree on before it begins; see `engine.training.distributed`."""

from __future__ import annotations

from typing import Any

import numpy as np

from skbert.contract.parameters import Seeds
from skbert.engine.training.distributed import Ranks


def shared_seeds(random_state: Any, ranks: Ranks | None) -> Seeds:
    """Make the random streams of a `random_state`; all ranks get those of rank 0."""
    seeds = Seeds.of(random_state)
    if ranks is None:
        return seeds
    return Seeds(np.random.SeedSequence(ranks.from_first(seeds.root.entropy)))


def check_same_fit(ranks: Ranks, fingerprint: str, device: str, *, keeps_runs: bool) -> None:
    """Raise an error on all ranks if they do not fit the same.

    Parameters
    ----------
    ranks : Ranks
    fingerprint : str
        Of all that determines the fit; see `resume.fingerprint_of`.
    device : str
        Kind of device.
    keeps_runs : bool
        Whether the estimator has a `checkpoint_dir`.

    Raises
    ------
    ValueError
        If the ranks differ, or if they compute on a device whose numbers torch cannot sum over
        processes.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device!r}, but {ranks.n_ranks} ranks share this fit, and torch sums "
            "gradients over processes only on 'cpu' and 'cuda'. Set device='cpu', or start the "
            "script as one process, without torchrun."
        )
    found = ranks.all_values((fingerprint, keeps_runs))
    others = [rank for rank, value in enumerate(found) if value != found[0]]
    if others:
        raise ValueError(
            f"Rank {others[0]} fits other texts, labels, weights or parameters than rank 0, or "
            "with other versions of packages. All ranks must call fit with the same arguments: "
            "fit itself shares each batch among them."
        )


def verbose_of(verbose: int, ranks: Ranks | None) -> int:
    """Let rank 0 alone show the progress."""
    return verbose if ranks is None or ranks.is_first else 0
