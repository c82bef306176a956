"""How many texts an estimator was trained and validated on, as fitted attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from skbert.contract.targets import Target
from skbert.engine.training.classification import LabelledTexts


def sizes_of_fit(
    training: LabelledTexts, validation: LabelledTexts | None, target: Target
) -> dict[str, Any]:
    """Count the texts of a fit: those that it trains on, by class, and those of the validation."""
    return _counts(training, target) | {
        "n_validation_texts_": 0 if validation is None else len(validation.tokens),
    }


def sizes_with_more(estimator: Any, more: LabelledTexts, target: Target) -> dict[str, Any]:
    """Add the texts of a `partial_fit` to those that the estimator was trained on before."""
    counts = _counts(more, target)
    if not hasattr(estimator, "head_"):
        return counts | {"n_validation_texts_": 0}
    # Saved by an older skbert, the estimator does not know its own numbers.
    return {
        name: getattr(estimator, name) + count
        for name, count in counts.items()
        if hasattr(estimator, name)
    }


def sizes_without_training(n_classes: int) -> dict[str, Any]:
    """Count the texts of a classifier that skbert has not trained: none."""
    return {
        "class_count_": np.zeros(n_classes, dtype=np.int64),
        "n_training_texts_": 0,
        "n_validation_texts_": 0,
    }


def _counts(texts: LabelledTexts, target: Target) -> dict[str, Any]:
    n_texts = {"n_training_texts_": len(texts.tokens)}
    if "classes_" not in target.attributes:
        return n_texts
    if texts.labels.ndim == 2:  # several labels: 0 and 1
        return n_texts | {"class_count_": texts.labels.sum(axis=0, dtype=np.int64)}
    n_classes = len(target.attributes["classes_"])
    return n_texts | {"class_count_": np.bincount(texts.labels, minlength=n_classes)}


def saved_class_count(estimator: Any) -> list[int] | None:
    """Convert `class_count_` to JSON types; None if the estimator does not have it."""
    count = getattr(estimator, "class_count_", None)
    return None if count is None else count.tolist()


def restore_class_count(estimator: Any, saved: Any, n_classes: int) -> None:
    """Set `class_count_` to what `saved_class_count` returned.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If that function cannot have returned it.
    """
    if saved is None:
        return
    count = np.array([int(number) for number in saved], dtype=np.int64)
    if len(count) != n_classes or (count < 0).any():
        raise ValueError(f"class_count={saved!r} for {n_classes} classes")
    estimator.class_count_ = count
