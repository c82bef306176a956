"""The scores of a classifier and of a regressor, with a y that is read as `fit` reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score

from skbert.contract.containers import shorten
from skbert.contract.label_values import read_labels
from skbert.contract.numbers import read_numbers
from skbert.contract.several_labels import arrange, may_have_several_labels, read_label_table


class AccuracyMixin(ClassifierMixin):
    """scikit-learn's mixin of classifiers, with a `score` for labels in every container.

    scikit-learn's own refuses integers in an object array, and compares the names of an enum.
    """

    classes_: Any
    multilabel_: bool

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the predictions; with several labels, of all labels of a text together.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.
        y : array-like of shape (n_texts,)
            Labels, as in `fit`. A label that is not in `classes_` counts as wrong.
        sample_weight : array-like of shape (n_texts,), default=None
            Weights of the texts.

        Returns
        -------
        float
            Share of the texts whose label, or set of labels, is predicted, in [0, 1].

        Raises
        ------
        ValueError
            If a label is missing or not allowed, or is a string where `classes_` are numbers.
        """
        predicted = self.predict(X)  # type: ignore[attr-defined]
        if self.multilabel_ and may_have_several_labels(y):
            table = read_label_table(y, "y", len(predicted), n_labels=len(self.classes_))
            is_known = np.isin(table.names, self.classes_) | (not table.has_names)
            known = replace(table, names=table.names[is_known], values=table.values[:, is_known])
            values = arrange(known, self.classes_, "y")
            has_unknown = table.values[:, ~is_known].any(axis=1)
            right = (values == predicted).all(axis=1) & ~has_unknown
            return float(accuracy_score(np.ones(len(right)), right, sample_weight=sample_weight))
        labels = read_labels(y, "y", len(predicted))
        label, known = labels.tolist()[0], self.classes_.tolist()
        if isinstance(label, str) != isinstance(known[0], str):
            raise ValueError(
                f"y[0] is {label!r} ({type(label).__name__}), but the classes are "
                f"{shorten(known)}; labels must have the type of the classes. Convert y, or fit "
                "with labels of that type."
            )
        return float(accuracy_score(labels, predicted, sample_weight=sample_weight))


class R2Mixin(RegressorMixin):
    """scikit-learn's mixin of regressors, with a `score` for numbers in every container."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination of the predictions.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.
        y : array-like of shape (n_texts,)
            Numbers, as in `fit`.
        sample_weight : array-like of shape (n_texts,), default=None
            Weights of the texts.

        Returns
        -------
        float
            R2 of `predict`. The best is 1. Predicting the mean of y for all texts gives 0.

        Raises
        ------
        ValueError
            If a number is missing or not finite.
        """
        predicted = self.predict(X)  # type: ignore[attr-defined]
        numbers = read_numbers(y, "y", len(predicted))
        return float(r2_score(numbers, predicted, sample_weight=sample_weight))
