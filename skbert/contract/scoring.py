"""The accuracy of a classifier, with labels that are read as `fit` reads them."""

from __future__ import annotations

from typing import Any

from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score

from skbert.contract.containers import shorten
from skbert.contract.label_values import read_labels


class AccuracyMixin(ClassifierMixin):
    """scikit-learn's mixin of classifiers, with a `score` for labels in every container.

    scikit-learn's own refuses integers in an object array, and compares the names of an enum.
    """

    classes_: Any

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the predictions.

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
            Share of the texts whose label is predicted, in [0, 1].

        Raises
        ------
        ValueError
            If a label is missing or not allowed, or is a string where `classes_` are numbers.
        """
        predicted = self.predict(X)  # type: ignore[attr-defined]
        labels = read_labels(y, "y", len(predicted))
        label, known = labels.tolist()[0], self.classes_.tolist()
        if isinstance(label, str) != isinstance(known[0], str):
            raise ValueError(
                f"y[0] is {label!r} ({type(label).__name__}), but the classes are "
                f"{shorten(known)}; labels must have the type of the classes. Convert y, or fit "
                "with labels of that type."
            )
        return float(accuracy_score(labels, predicted, sample_weight=sample_weight))
