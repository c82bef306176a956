"""What estimators say of a model that runs through the padded forward of transformers."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES, family_of


class NotedRepr:
    """The `__repr__` of an estimator, with a comment if its model is of a padded family.

    scikit-learn's printer of nested estimators recognises an estimator by the `__repr__` of its
    class, so the class keeps that of `BaseEstimator`.
    """

    def __get__(self, estimator: Any, cls: type) -> Any:
        """Return the method of an instance, or that of scikit-learn for the class."""
        if estimator is None:
            return BaseEstimator.__repr__
        return lambda: BaseEstimator.__repr__(estimator) + _note(estimator)


def _note(estimator: Any) -> str:
    model = getattr(estimator, "model_", None)  # of a fitted BertSentimentClassifier
    model_type = (
        getattr(estimator, "_model_type", None) if model is None else model.config.model_type
    )
    if model_type not in PADDED_FAMILIES:
        return ""
    return f"  # {model_type}: padded forward of transformers"


def check_has_heads(config: Any) -> None:
    """Raise an error if skbert does not pre-train the family of a model, as all padded ones."""
    if not family_of(config).heads:
        raise ValueError(
            f"The model has model_type={config.model_type!r}, but skbert pre-trains encoders with "
            f"model_type in {[*FAMILIES]}. Choose another model, or set pretraining_epochs=0 in "
            "BertSentimentClassifier."
        )
