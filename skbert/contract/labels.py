"""The classes of labels, and the class number of each text."""

from __future__ import annotations

from typing import Any

import numpy as np

from skbert.contract.containers import shorten
from skbert.contract.label_values import read_labels
from skbert.engine.warn import warn_user

MAX_CLASSES = 1000

#: Number of labels from which on mostly different labels are suspicious; that of scikit-learn.
_MANY_LABELS = 20


def check_labels(y: Any, n_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the classes, and convert labels to class numbers.

    Parameters
    ----------
    y : array-like of shape (n_texts,)
        Strings, integers or booleans.
    n_texts : int

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted, in the type of `y`.
    numbers : ndarray of shape (n_texts,), int64
        ``classes[numbers] == y``.

    Warns
    -----
    UserWarning
        If most labels differ, or one is the str of a missing label.
    """
    _check_given(y)
    labels = read_labels(y, "y", n_texts)
    classes, numbers = _sort_classes(labels, "y")
    _warn_of_strange_classes(classes, numbers)
    return classes, numbers


def class_numbers(
    y: Any, n_texts: int, classes: np.ndarray, *, name: str = "y", texts: str = "X"
) -> np.ndarray:
    """Convert labels to the numbers of given classes; see `check_labels`."""
    if name == "y":
        _check_given(y)
    labels = read_labels(y, name, n_texts, texts).tolist()
    number_of = {label: number for number, label in enumerate(classes.tolist())}
    for row, label in enumerate(labels):
        if label not in number_of:
            raise ValueError(
                f"{name}[{row}] is {label!r}, which is not one of the classes "
                f"{shorten(classes.tolist())}. Remove such rows, or fit with all classes."
            )
    return np.array([number_of[label] for label in labels], dtype=np.int64)


def check_classes(classes: Any, known: np.ndarray | None) -> np.ndarray:
    """Find the classes of `partial_fit`: those passed now, or known from earlier calls."""
    if classes is None and known is None:
        raise ValueError(
            "classes is None in the first call of partial_fit; it must list all labels that "
            "later calls may contain. Call partial_fit(X, y, classes=[...])."
        )
    if classes is None:
        return known
    found, _ = _sort_classes(read_labels(classes, "classes", None), "classes")
    if known is not None and found.tolist() != known.tolist():
        raise ValueError(
            f"classes={found.tolist()} differs from the classes of earlier calls, "
            f"{known.tolist()}; they cannot change. Omit classes, or create a new estimator."
        )
    return found if known is None else known


def _check_given(y: Any) -> None:
    if y is None:  # scikit-learn's checks require some of these words
        raise ValueError(
            "y is None, but this estimator requires y to be passed, but the target y is None: "
            "one label for each text. Call fit(X, y)."
        )


def _sort_classes(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    classes, numbers = np.unique(labels, return_inverse=True)
    if not 2 <= len(classes) <= MAX_CLASSES:
        advice = (
            "List all labels that any call may contain."
            if name == "classes"
            else "Check that y is the column of labels, and that no filter removed a class."
        )
        raise ValueError(
            f"{name} has {len(classes)} class{'es' if len(classes) != 1 else ''}"
            f"{f': {classes.tolist()[0]!r}' if len(classes) == 1 else ''}; 2 to {MAX_CLASSES} "
            f"classes are allowed. {advice}"
        )
    return classes, numbers.astype(np.int64)


def _warn_of_strange_classes(classes: np.ndarray, numbers: np.ndarray) -> None:
    """Warn of a column that looks like numbers or identifiers, and of missing labels as text."""
    problems = []
    if len(numbers) > _MANY_LABELS and len(classes) > round(0.5 * len(numbers)):
        problems.append(
            f"y has {len(classes)} classes for {len(numbers)} texts, so most classes have a "
            "single text, from which little is learned. Check that y is the column of labels, "
            "and not of numbers or identifiers."
        )
    for number, label in enumerate(classes.tolist()):
        if label in ("nan", "<NA>", "NaT"):
            rows = np.flatnonzero(numbers == number)
            problems.append(
                f"y[{rows[0]}] is {label!r}, which is how a missing label reads after a "
                f"conversion to str; y has {len(rows)} of them. Remove these rows if their labels "
                "are missing. Otherwise, rename the class."
            )
    for problem in problems:
        warn_user(problem)
