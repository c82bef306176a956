"""The training options of a classifier, and the formulas behind "auto".

Fine-tuning needs a number of optimizer steps, not of epochs [1]_. With few texts, small batches and
more epochs give them. But more than ten epochs learn a few texts by heart, and so does a large
learning rate if the model knows its classes before it has seen a text.

.. [1] T. Zhang et al. Revisiting Few-sample BERT Fine-tuning. ICLR 2021, arXiv:2006.05987.
"""

from __future__ import annotations

from typing import Any

from sklearn.exceptions import ConvergenceWarning

from skbert.engine.files.find import is_shipped
from skbert.engine.training.loop import TrainingOptions, steps_per_epoch
from skbert.engine.warn import warn_user

#: The most training texts that are few.
FEW_TEXTS = 512

#: The same for two classes and a model that contains a classifier of two, as skbert's do. Up to
#: this number, accuracy gains more from what the model knows than from a larger learning rate. This
#: does not hold for three classes.
_FEW_TEXTS_OF_TWO_CLASSES = 2048

#: Texts per optimizer step, by the most training texts for which "auto" takes it.
_BATCH_SIZES = {FEW_TEXTS: 8, 2048: 16}

#: Texts per optimizer step for more training texts than that.
_LARGEST_BATCH_SIZE = 32

#: The learning rate of "auto", and that for few texts and a model which contains a classifier.
_LEARNING_RATE, _LOW_LEARNING_RATE = 5e-5, 2e-5

#: The number of optimizer steps below which "auto" adds epochs.
ENOUGH_STEPS = 200

#: The smallest number of epochs that "auto" takes, which BERT's authors recommend, and the largest.
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 10

#: The number of optimizer steps below which BERT learns too little, unless the texts are few.
TOO_FEW_STEPS = 50


def training_options(estimator: Any, n_texts: int, n_classes: int | None) -> TrainingOptions:
    """Collect the parameters of a classifier that the training loop reads.

    Parameters
    ----------
    estimator : BertSentimentClassifier or BertSentimentRegressor
    n_texts : int
        Number of training texts, from which "auto" is resolved.
    n_classes : int or None
        Number of classes of which each text has one; None for several labels and for numbers.
    """
    batch_size = resolve_batch_size(estimator.batch_size, n_texts)
    return TrainingOptions(
        max_epochs=resolve_max_epochs(estimator.max_epochs, n_texts, batch_size),
        batch_size=batch_size,
        learning_rate=resolve_learning_rate(
            estimator.learning_rate,
            n_texts,
            contains_classifier=is_shipped(estimator.model),
            n_classes=n_classes,
        ),
        weight_decay=estimator.weight_decay,
        warmup_fraction=estimator.warmup_fraction,
        dropout=estimator.dropout,
        n_frozen_layers=estimator.n_frozen_layers,
        label_smoothing=getattr(estimator, "label_smoothing", 0.0),
    )


def resolve_batch_size(batch_size: int | str, n_texts: int) -> int:
    """Compute the number of texts per optimizer step.

    Parameters
    ----------
    batch_size : int or "auto"
        "auto" is 8 for up to 512 texts, 16 for up to 2,048, and 32 for more.
    n_texts : int
        Number of training texts.

    Examples
    --------
    >>> [resolve_batch_size("auto", n_texts) for n_texts in (100, 1000, 10000)]
    [8, 16, 32]
    """
    if batch_size != "auto":
        return int(batch_size)
    return next(
        (size for most, size in _BATCH_SIZES.items() if n_texts <= most), _LARGEST_BATCH_SIZE
    )


def resolve_max_epochs(max_epochs: int | str, n_texts: int, batch_size: int) -> int:
    """Compute the maximum number of epochs.

    Parameters
    ----------
    max_epochs : int or "auto"
        "auto" is the smallest number from 3 to 10 that gives at least 200 optimizer steps, or 10.
    n_texts : int
        Number of training texts.
    batch_size : int
        Number of texts per optimizer step.

    Examples
    --------
    >>> [resolve_max_epochs("auto", n_texts, 8) for n_texts in (16, 200, 1000)]
    [10, 8, 3]
    """
    if max_epochs != "auto":
        return int(max_epochs)
    enough = -(-ENOUGH_STEPS // _n_steps(n_texts, batch_size, 1))
    return min(max(_FEWEST_EPOCHS, enough), _MOST_EPOCHS)


def resolve_learning_rate(
    learning_rate: float | str,
    n_texts: int,
    *,
    contains_classifier: bool,
    n_classes: int | None = None,
) -> float:
    """Compute the highest learning rate.

    Parameters
    ----------
    learning_rate : float or "auto"
        "auto" is 5e-5, but 2e-5 for up to 512 texts, or 2,048 of two classes, if the model
        contains a classifier.
    n_texts : int
        Number of training texts.
    contains_classifier : bool
        Whether the model is one of those that skbert contains.
    n_classes : int or None
        Number of classes of which each text has one; None for several labels and for numbers.

    Examples
    --------
    >>> [resolve_learning_rate("auto", n, contains_classifier=True) for n in (100, 1000)]
    [2e-05, 5e-05]
    >>> resolve_learning_rate("auto", 1000, contains_classifier=True, n_classes=2)
    2e-05
    """
    if learning_rate != "auto":
        return float(learning_rate)
    is_low = contains_classifier and n_texts <= few_texts_limit(True, n_classes)
    return _LOW_LEARNING_RATE if is_low else _LEARNING_RATE


def few_texts_limit(contains_classifier: bool, n_classes: int | None) -> int:
    """Look up the most training texts for which `fit` starts the head with a regression.

    Up to this number, a model that contains a classifier also gets the low learning rate.

    Parameters
    ----------
    contains_classifier : bool
        Whether the model is one of those that skbert contains.
    n_classes : int or None
        Number of classes of which each text has one; None for several labels and for numbers.
    """
    return _FEW_TEXTS_OF_TWO_CLASSES if contains_classifier and n_classes == 2 else FEW_TEXTS


def warn_few_steps(estimator: Any, n_texts: int, options: TrainingOptions) -> None:
    """Warn if the user's numbers of epochs and texts per step allow too few optimizer steps."""
    batch_size = resolve_batch_size("auto", n_texts)
    of_auto = _n_steps(n_texts, batch_size, resolve_max_epochs("auto", n_texts, batch_size))
    n_steps = _n_steps(n_texts, options.batch_size, options.max_epochs)
    if n_steps >= min(TOO_FEW_STEPS, of_auto):
        return
    warn_user(
        f"max_epochs={estimator.max_epochs!r} and batch_size={estimator.batch_size!r} give "
        f"{n_steps} optimizer step{'s' * (n_steps > 1)} for {n_texts} texts, with which BERT "
        f"usually learns too little. Increase max_epochs, decrease batch_size, or set both to "
        f"'auto', which gives {of_auto} steps.",
        ConvergenceWarning,
    )


def _n_steps(n_texts: int, batch_size: int, n_epochs: int) -> int:
    return n_epochs * steps_per_epoch(n_texts, batch_size)
