"""What y is: a class, several labels or a number for each text; and what that means for a fit.

A target reads y, chooses the criterion and the head of the network, and knows the fitted attributes
that describe y. Everything else in a fit is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from skbert.contract.containers import shorten
from skbert.contract.label_values import read_labels
from skbert.contract.labels import MAX_CLASSES, check_classes, check_labels, class_numbers
from skbert.contract.numbers import read_numbers
from skbert.contract.several_labels import (
    arrange,
    has_several_labels,
    may_have_several_labels,
    read_label_table,
)
from skbert.contract.weights import check_weights, positive_weights
from skbert.engine.files.scratch import random_head
from skbert.engine.model.heads import Head, OrdinalHead
from skbert.engine.training.criteria import (
    CROSS_ENTROPY,
    BinaryCrossEntropies,
    Criterion,
    CrossEntropy,
    CumulativeLogits,
    SquaredError,
    expected_level,
)

#: The most levels of an ordinal target: each needs a threshold.
MOST_LEVELS = 100


@dataclass(frozen=True)
class Target:
    """What y is.

    Attributes
    ----------
    criterion : Criterion
        What the head is trained for.
    attributes : dict of str to object
        The fitted attributes that describe y.
    identity : list
        What a checkpoint must have in common with a fit, of JSON types.
    read : callable
        (y, n_texts, name=, texts=) -> values of more of y, for example of `y_val`.
    new_head : callable
        (d_model, standard deviation, random generator) -> Head with random weights.
    strata : ndarray or None
        What the numbers in the values of y mean, if validation texts need some of each.
    """

    criterion: Criterion
    attributes: dict[str, Any]
    identity: list[Any]
    read: Callable[..., np.ndarray]
    new_head: Callable[[int, float, np.random.Generator], Head]
    strata: np.ndarray | None = None

    @property
    def n_classes(self) -> int | None:
        """Number of classes of which each text has one; None for several labels and for numbers."""
        is_class = isinstance(self.criterion, CrossEntropy)
        return len(self.attributes["classes_"]) if is_class else None


@dataclass(frozen=True)
class CheckedTargets:
    """A checked y.

    Attributes
    ----------
    target : Target
    values : ndarray of shape (n_texts,) or (n_texts, n_labels)
        As in `LabelledTexts.labels`.
    weights : ndarray of shape (n_texts,), float64
        How much each text counts, at most 1.
    """

    target: Target
    values: np.ndarray
    weights: np.ndarray


def one_class(classes: np.ndarray) -> Target:
    """Describe a y of one class for each text; values are class numbers."""

    def read(y: Any, n_texts: int, *, name: str, texts: str) -> np.ndarray:
        return class_numbers(y, n_texts, classes, name=name, texts=texts)

    return Target(
        criterion=CROSS_ENTROPY,
        attributes={"classes_": classes, "multilabel_": False},
        identity=classes.tolist(),
        read=read,
        new_head=partial(_linear_head, len(classes)),
        strata=classes,
    )


def several_labels(labels: np.ndarray, weights: np.ndarray) -> Target:
    """Describe a y of any of several labels for each text.

    Values are 0 and 1: (n_texts, n_labels), float32. `weights` are those of `positive_weights`.
    """

    def read(y: Any, n_texts: int, *, name: str, texts: str) -> np.ndarray:
        return arrange(read_label_table(y, name, n_texts, texts, len(labels)), labels, name)

    return Target(
        criterion=BinaryCrossEntropies(tuple(weights.tolist())),
        attributes={"classes_": labels, "multilabel_": True},
        identity=["several", *labels.tolist()],
        read=read,
        new_head=partial(_linear_head, len(labels)),
    )


@dataclass(frozen=True)
class Numbers:
    """What a regressor has learned of y for loss="squared_error".

    Attributes
    ----------
    center, scale : float
        The head computes ``(number - center) / scale``.
    smallest, largest : float
        The range of the numbers that fits have seen.
    """

    center: float
    scale: float
    smallest: float
    largest: float

    loss: ClassVar[str] = "squared_error"

    def target(self) -> Target:
        """Describe such a y; values are standardised: (n_texts,), float32."""

        def read(y: Any, n_texts: int, *, name: str, texts: str) -> np.ndarray:
            return self.values(read_numbers(y, name, n_texts, texts), name)

        return Target(
            criterion=SquaredError(
                (self.smallest - self.center) / self.scale,
                (self.largest - self.center) / self.scale,
            ),
            attributes={
                "y_min_": self.smallest,
                "y_max_": self.largest,
                "levels_": None,
                "_center": self.center,
                "_scale": self.scale,
            },
            identity=["numbers", self.center, self.scale],
            read=read,
            new_head=partial(_linear_head, 1),
        )

    def values(self, numbers: np.ndarray, name: str) -> np.ndarray:
        """Subtract the center and divide by the scale; shape (n_texts,), float32."""
        return ((numbers - self.center) / self.scale).astype(np.float32)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Convert outputs to numbers in the range that was seen: (n_texts,), float64."""
        numbers = outputs[:, 0].astype(np.float64) * self.scale + self.center
        return np.clip(numbers, self.smallest, self.largest)


@dataclass(frozen=True)
class Levels:
    """What a regressor has learned of y for loss="ordinal".

    Attributes
    ----------
    levels : ndarray of shape (n_levels,), float64
        Ascending.
    """

    levels: np.ndarray

    loss: ClassVar[str] = "ordinal"

    def target(self) -> Target:
        """Describe such a y; values are level numbers: (n_texts,), int64."""

        def read(y: Any, n_texts: int, *, name: str, texts: str) -> np.ndarray:
            return self.values(read_numbers(y, name, n_texts, texts), name)

        smallest, largest = self.levels[[0, -1]].tolist()
        return Target(
            criterion=CumulativeLogits(tuple(self.levels.tolist())),
            attributes={"y_min_": smallest, "y_max_": largest, "levels_": self.levels},
            identity=["levels", *self.levels.tolist()],
            read=read,
            new_head=partial(_ordinal_head, len(self.levels)),
            strata=self.levels,
        )

    def values(self, numbers: np.ndarray, name: str) -> np.ndarray:
        """Find the number of the level of each value; shape (n_texts,), int64."""
        unknown = np.flatnonzero(~np.isin(numbers, self.levels))
        if len(unknown):
            raise ValueError(
                f"{name}[{unknown[0]}] is {numbers[unknown[0]]:.15g}, which is not one of the "
                f"levels {shorten(self.levels.tolist())} of loss='ordinal'. Remove such rows, fit "
                "with all levels, or use loss='squared_error'."
            )
        return np.searchsorted(self.levels, numbers)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Compute the expected level of each text; shape (n_texts,), float64."""
        return expected_level(outputs, self.levels)


def learned_numbers(regressor: Any) -> Numbers | Levels:
    """Collect what a fitted regressor has learned of y."""
    if regressor.levels_ is not None:
        return Levels(regressor.levels_)
    return Numbers(regressor._center, regressor._scale, regressor.y_min_, regressor.y_max_)


def _linear_head(n_outputs: int, d_model: int, std: float, rng: np.random.Generator) -> Head:
    return random_head(d_model, n_outputs, std, rng)


def _ordinal_head(n_levels: int, d_model: int, std: float, rng: np.random.Generator) -> Head:
    """Create a head with a random score, and thresholds at which all levels are as likely."""
    share_above = 1 - np.arange(1, n_levels) / n_levels
    thresholds = np.log((1 - share_above) / share_above)
    score = random_head(d_model, 1, std, rng)
    return OrdinalHead(score.weight, torch.from_numpy(thresholds.astype(np.float32)))


def check_labels_of(
    estimator: Any,
    y: Any,
    n_texts: int,
    sample_weight: Any,
    *,
    classes: Any = None,
    continues: bool = False,
) -> CheckedTargets:
    """Check the y of a classifier: one class for each text, or several labels.

    Parameters
    ----------
    estimator : BertSentimentClassifier
    y : array-like
    n_texts : int
    sample_weight : array-like or None
    classes : array-like or None
        All labels that any y may contain, as passed to `partial_fit`.
    continues : bool
        Whether a fit is continued, so that y has the form and the labels of the fitted classifier.
    """
    if continues:
        is_several = _check_form(estimator, y, n_texts)
    else:
        is_several = has_several_labels(y, n_texts)
    if is_several:
        return _check_several(estimator, y, n_texts, sample_weight, classes, continues)
    if not continues and classes is None:
        known, values = check_labels(y, n_texts)
    else:
        known = check_classes(classes, estimator.classes_ if continues else None)
        values = class_numbers(y, n_texts, known)
    weights = check_weights(sample_weight, estimator.class_weight, known, values)
    return CheckedTargets(one_class(known), values, weights)


def _check_form(estimator: Any, y: Any, n_texts: int) -> bool:
    """Tell whether each text has several labels in a fit that is continued."""
    if estimator.multilabel_:
        fits = may_have_several_labels(y)
    else:
        fits = not has_several_labels(y, n_texts)
    if not fits:
        before, now = ("several", "one") if estimator.multilabel_ else ("one", "several")
        raise ValueError(
            f"y gives {now} label{'s' * (now == 'several')} to each text, but the last fit had "
            f"{before}. Pass y in the form of the last fit, or create a new estimator."
        )
    return bool(estimator.multilabel_)


def _check_several(
    estimator: Any, y: Any, n_texts: int, sample_weight: Any, classes: Any, continues: bool
) -> CheckedTargets:
    given = None if classes is None else _order_of_labels(classes)
    known = estimator.classes_ if continues else given
    if continues and given is not None and sorted(given.tolist()) != sorted(known.tolist()):
        check_classes(classes, known)  # raises an error
    n_labels = None if known is None else len(known)
    table = read_label_table(y, "y", n_texts, n_labels=n_labels)
    labels = table.names if known is None else known
    if not 2 <= len(labels) <= MAX_CLASSES:
        raise ValueError(
            f"y has {len(labels)} different label{'s' * (len(labels) != 1)}; 2 to {MAX_CLASSES} "
            "are allowed where a text can have several. Check that y holds all labels, or pass one "
            "label for each text."
        )
    values = arrange(table, labels, "y")
    weights = check_weights(sample_weight, None, labels, np.zeros(n_texts, dtype=np.int64))
    positive = positive_weights(estimator.class_weight, labels, values[weights > 0])
    return CheckedTargets(several_labels(labels, positive), values, weights)


def _order_of_labels(classes: Any) -> np.ndarray:
    """Read `classes` in the order that came, which is that of the columns of a table."""
    check_classes(classes, None)
    return read_labels(classes, "classes", None)


def check_numbers_of(
    loss: str, y: Any, n_texts: int, sample_weight: Any, known: Numbers | Levels | None = None
) -> CheckedTargets:
    """Check the y of a regressor.

    Parameters
    ----------
    loss : {"squared_error", "ordinal"}
    y : array-like of shape (n_texts,)
    n_texts : int
    sample_weight : array-like or None
    known : Numbers, Levels or None
        What earlier fits have learned of y, which this fit continues.
    """
    numbers = read_numbers(y, "y", n_texts)
    weights = check_weights(sample_weight, None, np.empty(0), np.zeros(n_texts, dtype=np.int64))
    if known is not None and known.loss != loss:
        raise ValueError(
            f"loss={loss!r}, but the last fit had loss={known.loss!r}; it cannot change while a "
            "fit continues. Set it back, set warm_start=False, or create a new estimator."
        )
    learned = _learn(loss, numbers, weights, known)
    return CheckedTargets(learned.target(), learned.values(numbers, "y"), weights)


def _learn(
    loss: str, numbers: np.ndarray, weights: np.ndarray, known: Numbers | Levels | None
) -> Numbers | Levels:
    """Learn levels, or center, scale and range; earlier fits have decided all but the range."""
    if isinstance(known, Levels):
        return known
    if loss == "ordinal":
        return Levels(_check_levels(numbers))
    counted = numbers[weights > 0]
    smallest, largest = float(counted.min()), float(counted.max())
    if known is not None:
        smallest, largest = min(known.smallest, smallest), max(known.largest, largest)
        return Numbers(known.center, known.scale, smallest, largest)
    center = float(np.average(numbers, weights=weights))
    with np.errstate(over="ignore"):
        spread = float(np.sqrt(np.average((numbers - center) ** 2, weights=weights)))
    scale = spread if smallest < largest else 1.0
    if not 0 < scale < np.inf:
        raise ValueError(
            f"y has numbers from {smallest:g} to {largest:g}, whose standard deviation is no "
            "positive finite number in float64. Divide y by a constant, or subtract one."
        )
    return Numbers(center, scale, smallest, largest)


def _check_levels(numbers: np.ndarray) -> np.ndarray:
    levels = np.unique(numbers)
    if not 2 <= len(levels) <= MOST_LEVELS:
        raise ValueError(
            f"y has {len(levels)} different number{'s' * (len(levels) != 1)}; 2 to {MOST_LEVELS} "
            "levels are allowed with loss='ordinal'. Round y to fewer levels, or use "
            "loss='squared_error'."
        )
    return levels
