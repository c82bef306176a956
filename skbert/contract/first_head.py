"""A first linear layer that already separates the training texts: a regression on their vectors.

A random layer sends random gradients through the encoder until it has learned, and a few texts
cannot repair what they change. So with few texts, `fit` starts with the logistic regression on the
vectors of the pretrained encoder, and fine-tunes both from there [1]_. Each of several labels and
each threshold between levels gets a logistic regression of its own, and numbers a ridge regression.

A model that contains a classifier, as skbert/minilm-sentiment does, knows more than its vectors:
along which direction of them a text becomes positive, and where the threshold lies. Both become
features of the regression that are larger than the others, so that the penalty hardly restrains
their coefficients. A handful of texts then finds the classifier again, whatever the names of the
classes are, and more texts can add to it.

.. [1] A. Kumar et al. Fine-Tuning can Distort Pretrained Features and Underperform
   Out-of-Distribution. ICLR 2022, arXiv:2202.10054.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from skbert.contract.steps import few_texts_limit
from skbert.engine.files.low_rank import ClassifierHead
from skbert.engine.model.heads import Head
from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.predict import predict_vectors
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.classification import LabelledTexts
from skbert.engine.training.criteria import (
    CROSS_ENTROPY,
    BinaryCrossEntropies,
    Criterion,
    CrossEntropy,
    CumulativeLogits,
    SquaredError,
)
from skbert.engine.training.distributed import Ranks

# Inverse of the L2 penalty, for vectors of norm 1 on average. Of 0.3, 1, 3 and 10, 1 is best for
# sentences of films, and 3 for tweets with three classes.
_C = 2.0

# L2 penalty of the linear regression, on the same vectors, for numbers of variance 1.
_ALPHA = 1.0

# The constant feature that stands for the threshold of two classes. With 0.1, the threshold of the
# classifier can hardly move; with 1, eight texts move it too far.
_THRESHOLD = 0.3


def start_head(
    network: TextClassifier,
    data: LabelledTexts,
    classifier: ClassifierHead | None,
    criterion: Criterion = CROSS_ENTROPY,
    ranks: Ranks | None = None,
) -> None:
    """Set the head to a regression on the vectors of the encoder, in place.

    The head stays as it is if the texts exceed `few_texts_limit`, if a class has no text, or if a
    vector is not finite, of which training itself will warn. A fit of three epochs would spend
    about a tenth of its time on the vectors of many texts. The thresholds of an ordinal head always
    start where the levels have their shares of the texts.

    Parameters
    ----------
    network : TextClassifier
    data : LabelledTexts
        The training texts.
    classifier : ClassifierHead or None
        The classifier that the model contains. It is not used if its pooling is another.
    criterion : Criterion
        Decides whether the regression is logistic or linear.
    ranks : Ranks or None
        Share the computation of the vectors.
    """
    if isinstance(criterion, CumulativeLogits):
        is_above = data.labels[:, None] > np.arange(network.head.out_features)
        _set(network.head, thresholds=-_log_odds(is_above, data.weights))
        data = replace(data, labels=is_above)
    is_class = isinstance(criterion, CrossEntropy)
    n_classes = network.head.out_features
    most_texts = few_texts_limit(classifier is not None, n_classes if is_class else None)
    if len(data.labels) > most_texts or (is_class and len(np.unique(data.labels)) < n_classes):
        return
    vectors = _vectors(network, data.tokens, ranks)
    norm = float(np.linalg.norm(vectors, axis=1).mean())
    if not np.isfinite(norm) or norm == 0:
        return
    features = _Features.of_vectors(vectors.shape[1], norm)
    if classifier is not None and classifier.pooling == network.pooling:
        features = features.with_logits(classifier)
        if is_class and n_classes == 2:
            features = features.with_threshold()
    if is_class:
        weight, bias = _regression(features, vectors, data)
        _set(network.head, weight=weight, bias=bias)
    elif isinstance(criterion, SquaredError):
        weight, bias = _linear_regression(features, vectors, data)
        _set(network.head, weight=weight, bias=bias)
    elif isinstance(criterion, BinaryCrossEntropies):
        positive = np.array(criterion.positive_weights)
        weight, bias = _regression_per_column(features, vectors, data, positive)
        _set(network.head, weight=weight, bias=bias)
    else:
        weight, bias = _regression_per_column(features, vectors, data, np.ones(n_classes))
        _set(network.head, weight=weight.mean(axis=0, keepdims=True), thresholds=-bias)


def _vectors(network: TextClassifier, tokens: Tokens, ranks: Ranks | None) -> np.ndarray:
    if ranks is None:
        return predict_vectors(network, tokens)
    return ranks.compute_rows(
        tokens.lengths, lambda rows: predict_vectors(network, tokens.take(rows))
    )


def _set(head: Head, **weights: np.ndarray) -> None:
    """Overwrite parameters of a head."""
    with torch.no_grad():
        for name, values in weights.items():
            head.get_parameter(name).copy_(torch.from_numpy(values))


def _log_odds(is_true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the log-odds of each column: (n_texts, n_columns) -> (n_columns,).

    Half a text is added on each side, so that a column of one value has finite log-odds.
    """
    n_true = weights @ is_true + 0.5
    n_false = weights @ ~is_true + 0.5
    return np.log(n_true / n_false)


@dataclass(frozen=True)
class _Features:
    """Linear functions of a vector: the features of the regression.

    Attributes
    ----------
    matrix : ndarray of shape (n_features, d_model)
    offset : ndarray of shape (n_features,)
    has_threshold : bool
        Whether the last feature is a constant, in place of a free intercept.
    """

    matrix: np.ndarray
    offset: np.ndarray
    has_threshold: bool = False

    @classmethod
    def of_vectors(cls, d_model: int, norm: float) -> _Features:
        """Take the vector itself, divided by a norm."""
        return cls(np.eye(d_model) / norm, np.zeros(d_model))

    def with_logits(self, classifier: ClassifierHead) -> _Features:
        """Add the logits of a classifier, relative to that of its first class."""
        weight, bias = classifier.weight.double().numpy(), classifier.bias.double().numpy()
        return _Features(
            np.concatenate([self.matrix, weight[1:] - weight[0]]),
            np.concatenate([self.offset, bias[1:] - bias[0]]),
        )

    def with_threshold(self) -> _Features:
        """Add a constant, for the threshold of two classes."""
        nothing = np.zeros((1, self.matrix.shape[1]))
        return _Features(
            np.concatenate([self.matrix, nothing]), np.append(self.offset, _THRESHOLD), True
        )


def _regression(
    features: _Features, vectors: np.ndarray, data: LabelledTexts
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a linear layer on the vectors; shapes (n_classes, d_model), (n_classes,).

    With a threshold, both classes weigh the same, because it is where they are equally probable,
    and the logarithms of their shares are added to the bias.
    """
    totals = np.bincount(data.labels, weights=data.weights)
    weights = data.weights / totals[data.labels] if features.has_threshold else data.weights
    regression = LogisticRegression(C=_C, max_iter=1000, fit_intercept=not features.has_threshold)
    with warnings.catch_warnings():
        # `labels` has warned of that in our words, and of all texts
        warnings.filterwarnings("ignore", "The number of unique classes is greater", UserWarning)
        regression.fit(
            vectors @ features.matrix.T + features.offset,
            data.labels,
            sample_weight=weights * (len(weights) / weights.sum()),
        )
    weight = regression.coef_ @ features.matrix
    bias = regression.coef_ @ features.offset + regression.intercept_
    if len(totals) == 2:  # scikit-learn has one logit, the difference of the two here
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias + np.log(totals / totals.sum()) if features.has_threshold else bias


def _regression_per_column(
    features: _Features, vectors: np.ndarray, data: LabelledTexts, positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression to each column of labels, which are 0 and 1.

    `positive` says how much more a 1 of each column counts than a 0; shape (n_columns,).

    Returns
    -------
    weight : ndarray of shape (n_columns, d_model)
    bias : ndarray of shape (n_columns,)
        The log-odds of the labels where a column has one value only.
    """
    is_true = data.labels > 0.5
    inputs = vectors @ features.matrix.T + features.offset
    weight = np.zeros((is_true.shape[1], vectors.shape[1]))
    bias = _log_odds(is_true, data.weights.astype(np.float64))
    for column, labels in enumerate(is_true.T):
        if labels.all() or not labels.any():
            continue
        regression = LogisticRegression(C=_C, max_iter=1000)
        weights = data.weights * np.where(labels, positive[column], 1.0)
        if not weights[labels].any():  # a label that does not count: its log-odds stay
            continue
        regression.fit(inputs, labels, sample_weight=weights * (len(weights) / weights.sum()))
        weight[column] = regression.coef_[0] @ features.matrix
        bias[column] = regression.coef_[0] @ features.offset + regression.intercept_[0]
    return weight, bias


def _linear_regression(
    features: _Features, vectors: np.ndarray, data: LabelledTexts
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a ridge regression to standardised numbers; shapes (1, d_model), (1,)."""
    regression = Ridge(alpha=_ALPHA)
    inputs = vectors @ features.matrix.T + features.offset
    regression.fit(inputs, data.labels, sample_weight=data.weights)
    weight = regression.coef_[None] @ features.matrix
    return weight, np.atleast_1d(regression.coef_ @ features.offset + regression.intercept_)
