"""Check y, classes, sample and class weights, and convert them to class numbers and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from skbert.contract.texts import is_missing, shorten
from skbert.engine.warn import warn_user

MAX_CLASSES = 1000

# scikit-learn's estimator checks require these words.
_COLUMN_OF_LABELS = (
    "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
    "(n_texts,), for example using ravel()."
)


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
    """
    labels = _labels(y, n_texts)
    classes, numbers = np.unique(labels, return_inverse=True)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(
            f"y has {len(classes)} class{'es' if len(classes) > 1 else ''}"
            f"{f': {classes.tolist()[0]!r}' if len(classes) == 1 else ''}; 2 to {MAX_CLASSES} "
            "classes are allowed. Check that y is the column of labels, and that no filter removed "
            "a class."
        )
    return classes, numbers.astype(np.int64)


def class_numbers(y: Any, n_texts: int, classes: np.ndarray) -> np.ndarray:
    """Convert labels to the numbers of given classes; see `check_labels`."""
    labels = _labels(y, n_texts)
    known = np.isin(labels, classes)
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        raise ValueError(
            f"y[{row}] is {labels.tolist()[row]!r}, which is not one of the classes "
            f"{shorten(classes.tolist())}. Remove such rows, or fit with all classes."
        )
    return np.searchsorted(classes, labels).astype(np.int64)


def check_classes(classes: Any, known: np.ndarray | None) -> np.ndarray:
    """Find the classes of `partial_fit`: those passed now, or known from earlier calls."""
    if classes is None and known is None:
        raise ValueError(
            "classes is None in the first call of partial_fit; it must list all labels that "
            "later calls may contain. Call partial_fit(X, y, classes=[...])."
        )
    if classes is None:
        return known
    found, _ = check_labels(classes, len(classes))
    if known is not None and not np.array_equal(found, known):
        raise ValueError(
            f"classes={found.tolist()} differs from the classes of earlier calls, "
            f"{known.tolist()}; they cannot change. Omit classes, or create a new estimator."
        )
    return found


def _labels(y: Any, n_texts: int) -> np.ndarray:
    """Convert y to an array with one label per text, none missing and all of one kind."""
    if y is None:
        raise ValueError(
            "y is None, but this estimator requires y to be passed, but the target y is None: "
            "one label for each text. Call fit(X, y)."
        )
    given = y.tolist() if hasattr(y, "tolist") else y
    if isinstance(given, (list, tuple)):
        _check_label_values(given)
    _check_one_label_a_text(y, given)
    kind = getattr(getattr(y, "dtype", None), "kind", "")
    if (hasattr(y, "iloc") and kind in "biu") or kind == "T":
        y = np.asarray(given)  # pandas' nullable numbers, numpy's StringDType
    labels = column_or_1d(y)
    if np.ndim(y) == 2:  # scikit-learn's own warning would name this file
        warn_user(_COLUMN_OF_LABELS, DataConversionWarning)
    if len(labels) != n_texts:
        raise ValueError(
            f"X has {n_texts} texts and y has {len(labels)} labels; they must have the same "
            "length. Check that both come from the same rows."
        )
    with np.errstate(invalid="ignore"):  # scikit-learn casts 1e19 to an integer to test it
        check_classification_targets(labels)
    return labels


def _check_one_label_a_text(y: Any, given: Any) -> None:
    """Raise an error for several columns, such as multilabel indicators."""
    shape = getattr(y, "shape", ())
    n_columns = shape[1] if len(shape) == 2 else 1
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], (list, tuple)):
        n_columns = len(given[0])
    if n_columns > 1:
        raise ValueError(
            f"y has {n_columns} columns; one label per text is expected. For texts with "
            "several labels each, train one classifier per column: "
            "OneVsRestClassifier(BertSentimentClassifier())."
        )


def _check_label_values(labels: Sequence[Any]) -> None:
    """Raise an error for missing labels, bytes, and strings mixed with numbers.

    numpy would convert the numbers of a mixture to strings.
    """
    for row, label in enumerate(labels):
        if is_missing(label):
            raise ValueError(
                f"y[{row}] is {label!r} ({type(label).__name__}); every text needs a label: a "
                "str, an int or a bool. Remove the rows without one."
            )
        if isinstance(label, bytes):
            raise TypeError(
                f"y[{row}] is {shorten(label)} (bytes); a label is a str, an int or a bool. Decode "
                "the labels, for example with label.decode()."
            )
    if len({isinstance(label, str) for label in labels}) > 1:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"y mixes labels of types {kinds}, which have no common order; all must be of one "
            "type: str, int or bool. Convert them, for example with y.astype(str)."
        )


def check_weights(
    sample_weight: Any, class_weight: Any, classes: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Compute how much each text counts in the loss.

    Parameters
    ----------
    sample_weight : array-like of shape (n_texts,) or None
    class_weight : dict, "balanced" or None
        "balanced" gives each class the same total weight.
    classes : ndarray of shape (n_classes,)
    numbers : ndarray of shape (n_texts,)
        The class number of each text.

    Returns
    -------
    ndarray of shape (n_texts,), float64
        Products of sample and class weights, scaled so that the largest is 1. Training depends
        on their proportions only.
    """
    weights = np.ones(len(numbers))
    if sample_weight is not None:
        weights = np.array(sample_weight, dtype=np.float64)
        if weights.ndim == 0:
            weights = np.full(len(numbers), float(weights))
        if weights.shape != numbers.shape:
            raise ValueError(
                f"sample_weight has shape {weights.shape}; {numbers.shape} is expected, "
                "one number per text. Pass as many weights as there are texts."
            )
        row = _first_not_allowed(weights)
        if row is not None:
            raise ValueError(
                f"sample_weight[{row}] is {weights[row]}; every weight must be a finite number, "
                "0 or larger. Correct it, or use 0 to ignore the text."
            )
        weights = _over_largest(weights)  # so that the products below do not overflow
    if class_weight is not None:
        present = np.unique(numbers)
        of_class = np.ones(len(classes))
        of_class[present] = compute_class_weight(
            class_weight, classes=classes[present], y=classes[numbers]
        )
        wrong = _first_not_allowed(of_class)
        if wrong is not None:
            raise ValueError(
                f"class_weight[{classes.tolist()[wrong]!r}] is {of_class[wrong]}; every weight "
                "must be a finite number, 0 or larger. Correct it, or use 0 to ignore the class."
            )
        weights = weights * of_class[numbers]
    if not weights.any():
        raise ValueError(
            "All weights are zero, so no text counts; at least one must be larger than 0. Check "
            "sample_weight and class_weight."
        )
    return _over_largest(weights)


def _first_not_allowed(weights: np.ndarray) -> int | None:
    """Find the first weight that is negative, infinite or NaN."""
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    return int(wrong[0]) if len(wrong) else None


def _over_largest(weights: np.ndarray) -> np.ndarray:
    """Divide by the largest weight, so that all are in the range of float32."""
    largest = weights.max()
    return weights / largest if largest > 0 else weights
