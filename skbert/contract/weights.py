"""How much each text counts: check sample and class weights."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from skbert.contract.containers import shorten
from skbert.contract.label_values import plain_label


def check_weights(
    sample_weight: Any, class_weight: Any, classes: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Compute how much each text counts in the loss.

    Parameters
    ----------
    sample_weight : array-like of shape (n_texts,) or None
    class_weight : dict, "balanced" or None
        "balanced" gives each class the same total weight, counting each text with its sample
        weight.
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
        weights = _over_largest(_check_sample_weight(sample_weight, numbers.shape))
    if class_weight is not None:
        weights = weights * _weight_of_classes(class_weight, classes, numbers, weights)[numbers]
    if not weights.any():
        raise ValueError(
            "All weights are zero, so no text counts; at least one must be larger than 0. Check "
            "sample_weight and class_weight."
        )
    return _over_largest(weights)


def _check_sample_weight(sample_weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        weights = np.array(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"sample_weight is {shorten(sample_weight)} ({type(sample_weight).__name__}), which "
            "does not convert to numbers; one finite number per text, 0 or larger, is expected. "
            "Replace what is missing or no number."
        ) from error
    if weights.ndim == 0:
        weights = np.full(shape, float(weights))
    if weights.shape != shape:
        raise ValueError(
            f"sample_weight has shape {weights.shape}; {shape} is expected, "
            "one number per text. Pass as many weights as there are texts."
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ValueError(
            f"sample_weight[{wrong[0]}] is {weights[wrong[0]]}; every weight must be a finite "
            "number, 0 or larger. Correct it, or use 0 to ignore the text."
        )
    return weights


def positive_weights(class_weight: Any, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Compute how much more a 1 of each of several labels counts than a 0; shape (n_labels,).

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        "balanced" gives the texts with a label the same total weight as those without it.
    labels : ndarray of shape (n_labels,)
    values : ndarray of shape (n_texts, n_labels)
        1 if the text has the label, otherwise 0.
    """
    if class_weight is None:
        return np.ones(len(labels))
    if isinstance(class_weight, str):  # the only one is "balanced"
        n_with = values.sum(axis=0, dtype=np.float64)
        ratio = (len(values) - n_with) / np.maximum(n_with, 1)
        return np.where((n_with > 0) & (ratio > 0), ratio, 1.0)
    return _weights_by_label(class_weight, labels)


def _weight_of_classes(
    class_weight: Any, classes: np.ndarray, numbers: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Compute the weight of each class; shape (n_classes,)."""
    if isinstance(class_weight, str):  # the only one is "balanced"
        of_class = np.ones(len(classes))
        numbers, weights = numbers[weights > 0], weights[weights > 0]
        present = np.unique(numbers)
        if len(present):
            of_class[present] = compute_class_weight(
                class_weight, classes=present, y=numbers, sample_weight=weights
            )
        return of_class
    return _weights_by_label(class_weight, classes)


def _weights_by_label(class_weight: Any, classes: np.ndarray) -> np.ndarray:
    """Read the weight of each class in a dict; shape (n_classes,)."""
    of_class = np.ones(len(classes))
    labels = classes.tolist()
    given = {plain_label(label): weight for label, weight in class_weight.items()}
    without = [label for label in labels if label not in given]
    unknown = [label for label in given if label not in labels]
    if without and unknown:  # as in scikit-learn, a weight of a class that is absent does no harm
        raise ValueError(
            f"class_weight has the keys {shorten(unknown)}, which are not among the classes "
            f"{shorten(labels)}. Write each key as the label is written in y, in the same type; a "
            "class without a key has weight 1."
        )
    for number, label in enumerate(labels):
        weight = given.get(label, 1)
        if not _is_weight(weight):
            raise ValueError(
                f"class_weight[{label!r}] is {weight}; every weight must be a finite number, 0 or "
                "larger. Correct it, or use 0 to ignore the class."
            )
        of_class[number] = weight
    return of_class


def _is_weight(value: Any) -> bool:
    """Whether a value is a finite number, 0 or larger."""
    try:
        return isinstance(value, Real) and math.isfinite(value) and value >= 0
    except OverflowError:  # an integer that is no float
        return False


def _over_largest(weights: np.ndarray) -> np.ndarray:
    """Divide by the largest weight, so that all are in the range of float32."""
    largest = weights.max()
    return weights / largest if largest > 0 else weights
