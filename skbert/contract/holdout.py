"""Set some training texts aside to validate on, of each class if that is possible.

scikit-learn stratifies the split, and refuses if a class has too few texts. A cross-validation
would then score NaN in the folds where that happens. So the split falls back to what is possible,
and warns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from skbert.contract.containers import shorten
from skbert.engine.warn import warn_user

_REMEDY = "pass X_val and y_val, or set early_stopping=False."


@dataclass(frozen=True)
class Holdout:
    """Rows to train on, and rows to validate on; int64."""

    training: np.ndarray
    validation: np.ndarray


def hold_out(numbers: np.ndarray, classes: np.ndarray, fraction: float, seed: int) -> Holdout:
    """Split rows at random, so that each class is trained on, and validated on if possible.

    Parameters
    ----------
    numbers : ndarray of shape (n_texts,)
        The class number of each text.
    classes : ndarray of shape (n_classes,)
    fraction : float
        The parameter `validation_fraction`.
    seed : int

    Raises
    ------
    ValueError
        If each class has one text only, so that none can be set aside.

    Warns
    -----
    UserWarning
        If a class has one text only, or if there are too few texts to validate on each class.
    """
    rows = np.arange(len(numbers))
    n_validation = math.ceil(fraction * len(rows))
    n_of_class = np.bincount(numbers, minlength=len(classes))
    n_spare = len(rows) - np.count_nonzero(n_of_class)
    if n_spare == 0:
        raise ValueError(
            f"early_stopping=True sets validation_fraction={fraction:g} of the texts aside, but "
            f"none of the {len(rows)} texts that fit trains on can be spared: each is the only one "
            f"of its class. Add texts, {_REMEDY}"
        )
    parts = _stratify(rows, numbers, n_validation, seed)
    if parts is not None:
        return parts
    present = classes[n_of_class > 0].tolist()
    alone = n_of_class[numbers] == 1
    single = classes[n_of_class == 1].tolist()
    parts = _stratify(rows[~alone], numbers[~alone], n_validation, seed)
    if parts is not None:
        warn_user(
            f"{len(single)} of {len(present)} classes {'has' if len(single) == 1 else 'have'} a "
            f"single text: {shorten(single)}. fit trains on it, so early_stopping validates on the "
            f"other classes only. Add texts, {_REMEDY}"
        )
        return Holdout(np.concatenate([parts.training, rows[alone]]), parts.validation)
    n_taken = int(min(n_validation, n_spare))
    warn_user(
        f"validation_fraction={fraction:g} of {len(rows)} texts is {n_validation}, which cannot "
        f"hold texts of each of the {len(present)} classes and leave some of each to train on. "
        f"early_stopping validates on {n_taken} text{'s' * (n_taken > 1)}, chosen at random. "
        f"Change validation_fraction, {_REMEDY}"
    )
    return _spare_at_random(numbers, n_taken, seed)


def hold_out_any(n_texts: int, fraction: float, seed: int) -> Holdout:
    """Split rows at random, for a y without classes; see `hold_out`."""
    if n_texts < 2:
        raise ValueError(
            f"early_stopping=True sets validation_fraction={fraction:g} of the texts aside, but "
            f"fit trains on {n_texts} text only. Add texts, {_REMEDY}"
        )
    n_validation = min(math.ceil(fraction * n_texts), n_texts - 1)
    rows = np.random.default_rng(seed).permutation(n_texts)
    return Holdout(np.sort(rows[n_validation:]), np.sort(rows[:n_validation]))


def _stratify(
    rows: np.ndarray, numbers: np.ndarray, n_validation: int, seed: int
) -> Holdout | None:
    """Split rows with the shares of the classes kept; None if a class would not be trained on."""
    n_of_class = np.unique(numbers, return_counts=True)[1]
    n_training = len(rows) - n_validation
    if min(n_of_class) == 1 or min(n_validation, n_training) < len(n_of_class):
        return None  # which scikit-learn refuses
    training, validation = train_test_split(
        np.arange(len(rows)), test_size=n_validation, stratify=numbers, random_state=seed
    )
    if len(np.unique(numbers[training])) < len(n_of_class):
        return None
    return Holdout(rows[training], rows[validation])


def _spare_at_random(numbers: np.ndarray, n_validation: int, seed: int) -> Holdout:
    """Choose texts to validate on, of which each has another of its class to train on."""
    shuffled = np.random.default_rng(seed).permutation(len(numbers))
    first_of_class = np.unique(numbers[shuffled], return_index=True)[1]
    spare = np.delete(shuffled, first_of_class)[:n_validation]
    return Holdout(np.setdiff1d(shuffled, spare), np.sort(spare))
