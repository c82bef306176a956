"""What a saved estimator says of itself: format, versions, parameters, classes, history.

Settings are of JSON types. The files are written by `engine/saved.py`, pickles by whoever pickles.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from typing import Any

import numpy as np

#: Format of pickled states. 0: before there was a stamp; 1: the same attributes and a stamp.
PICKLE_FORMAT = 1
_PACKAGES = ("skbert", "torch", "transformers", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what an estimator computes."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def stamped(state: dict[str, Any]) -> dict[str, Any]:
    """Add format and versions to the state of an estimator that is pickled."""
    return state | {"_skbert": {"format": PICKLE_FORMAT, "versions": versions()}}


def checked(state: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the stamp off a pickled state.

    Parameters
    ----------
    state : dict
    name : str
        The estimator's class.

    Raises
    ------
    ValueError
        If a newer skbert wrote it.
    """
    state = dict(state)
    stamp = state.pop("_skbert", {"format": 0})
    if stamp["format"] > PICKLE_FORMAT:
        raise ValueError(
            f"This {name} was saved in format {stamp['format']} by skbert "
            f"{stamp['versions']['skbert']}; the skbert installed here, "
            f"{importlib.metadata.version('skbert')}, reads up to format {PICKLE_FORMAT}. Update "
            "skbert."
        )
    return state


def settings_of(clf: Any) -> dict[str, Any]:
    """All of a fitted classifier except its weights and tokenizer, as JSON types."""
    parameters = clf.get_params(deep=False)
    if isinstance(parameters["random_state"], np.random.RandomState):
        warnings.warn(
            "random_state is a RandomState instance, which is saved as None. Use an int to have it "
            "saved.",
            stacklevel=3,
        )
        parameters["random_state"] = None
    class_weight = parameters["class_weight"]
    if isinstance(class_weight, dict):
        pairs = [[_plain(label), _plain(weight)] for label, weight in class_weight.items()]
        parameters["class_weight"] = {"items": pairs}
    names = getattr(clf, "feature_names_in_", None)
    return {
        "versions": versions(),
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "classes": {"dtype": clf.classes_.dtype.str, "values": clf.classes_.tolist()},
        "history": [{k: _plain(v) for k, v in record.items()} for record in clf.history_],
        "pretraining_history": getattr(clf, "pretraining_history_", []),
        "n_truncated": int(clf.n_truncated_),
        "n_columns": int(clf._n_columns),
        "n_features_in": getattr(clf, "n_features_in_", None),
        "feature_names_in": None if names is None else names.tolist(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def parameters_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the constructor."""
    parameters = dict(settings["parameters"])
    if isinstance(parameters["class_weight"], dict):
        parameters["class_weight"] = dict(parameters["class_weight"]["items"])
    return parameters


def classes_of(settings: dict[str, Any]) -> np.ndarray:
    """Class labels, in the type they were fitted with."""
    return np.array(settings["classes"]["values"], dtype=settings["classes"]["dtype"])


def restore(clf: Any, settings: dict[str, Any]) -> None:
    """Give a classifier back what `fit` had learned of the shape of X."""
    clf.n_truncated_ = settings["n_truncated"]
    clf._n_columns = settings["n_columns"]
    clf.pretraining_history_ = settings.get("pretraining_history", [])
    if settings["n_features_in"] is not None:
        clf.n_features_in_ = settings["n_features_in"]
    if settings["feature_names_in"] is not None:
        clf.feature_names_in_ = np.array(settings["feature_names_in"], dtype=object)
