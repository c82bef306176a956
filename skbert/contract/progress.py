"""Progress bars, shown if `verbose` is not 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from tqdm.auto import tqdm


def show_epochs(
    phase: str, n_epochs: int, verbose: int
) -> Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]:
    """Make the progress bars of a training, one per epoch.

    Parameters
    ----------
    phase : str
        What is shown before the number of the epoch.
    n_epochs : int
    verbose : int

    Returns
    -------
    callable
        Batches of an epoch and its number, from 1 -> the same batches.
    """

    def show(batches: Iterable[np.ndarray], epoch: int) -> Iterable[np.ndarray]:
        shown = f"{phase} {epoch}/{n_epochs}"
        return tqdm(batches, desc=shown, unit="batch", disable=not verbose)

    return show


def show_batches(
    phase: str, verbose: int
) -> Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]:
    """Make the progress bar of one pass over batches, without gradients."""

    def show(batches: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
        return tqdm(batches, desc=phase, unit="batch", disable=not verbose)

    return show
