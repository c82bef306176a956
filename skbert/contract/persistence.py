"""What a saved estimator stores beside its weights: format, versions, parameters, history.

All values are of JSON types. `engine/files/finetuned.py` writes the folders.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from torch import nn

from skbert.contract.data_sizes import restore_class_count, saved_class_count
from skbert.contract.targets import Levels, Numbers, one_class, several_labels
from skbert.engine.files.config import config_of
from skbert.engine.files.manifest import MANIFEST
from skbert.engine.files.tokenizer_files import pack_tokenizer
from skbert.engine.files.weights import linear_of
from skbert.engine.model.device import DeviceName, resolve_device
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES
from skbert.engine.model.heads import Head, OrdinalHead
from skbert.engine.warn import warn_user

#: Format of pickled states. Format 0 has no stamp and stores tokenizers as transformers objects.
#: Format 1 has a stamp and stores tokenizers as the texts of their files.
PICKLE_FORMAT = 1

#: Numbers that a fitted classifier holds in attributes ``name_``, and their types.
NUMBERS = {
    "batch_size": int,
    "max_epochs": int,
    "learning_rate": float,
    "best_epoch": int,
    "n_unknown_tokens": int,
    "n_training_texts": int,
    "n_validation_texts": int,
}

#: What skbert did before a parameter existed, for estimators that were saved then.
_BEFORE = {"emoji_names": False}

_PACKAGES = ("skbert", "torch", "transformers", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that an estimator computes with."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def stamp_state(state: dict[str, Any]) -> dict[str, Any]:
    """Add format and versions to the state of an estimator, for its pickle.

    A path and a `torch.device` become text, which any system, and any version of torch, can load.
    """
    texts = {
        name: {kind: str(state[name])}
        for name, kind, cls in _PACKED
        if isinstance(state.get(name), cls)
    }
    return state | texts | {"_skbert": {"format": PICKLE_FORMAT, "versions": versions()}}


#: Parameters, the key under which a pickle stores one of a class as text, and the class.
_PACKED: tuple[tuple[str, str, type], ...] = (
    ("model", "_path", Path),
    ("device", "_device", torch.device),
)


def _unpack(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: cls(state[name][kind])
        for name, kind, cls in _PACKED
        if isinstance(state.get(name), dict) and kind in state[name]
    }


def migrate_state(state: dict[str, Any], cls: type) -> dict[str, Any]:
    """Remove the stamp from a pickled state, and convert the state to the current format.

    The state consists of arrays, numbers and texts, so it loads with any version of torch,
    transformers and numpy. Parameters that did not exist when it was saved get their defaults.

    Parameters
    ----------
    state : dict
    cls : type
        The estimator's class.

    Raises
    ------
    ValueError
        If a newer skbert wrote the state.
    """
    state = dict(state)
    stamp = state.pop("_skbert", {"format": 0})
    if stamp["format"] > PICKLE_FORMAT:
        raise ValueError(
            f"This {cls.__name__} was saved in format {stamp['format']} by skbert "
            f"{stamp['versions']['skbert']}; the installed skbert "
            f"{importlib.metadata.version('skbert')} reads formats up to {PICKLE_FORMAT}. Update "
            "skbert."
        )
    if stamp["format"] == 0 and "tokenizer_" in state:
        state["tokenizer_"] = pack_tokenizer(state["tokenizer_"])
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    defaults = {n: p.default for n, p in signature.parameters.items() if n != "self"}
    return defaults | _BEFORE | state | _unpack(state)


def resolve_saved_device(name: DeviceName) -> torch.device:
    """Find the device of a loaded model, which may come from a machine with other devices.

    Warns
    -----
    UserWarning
        If this machine does not have the device. The device is then that of "auto".
    """
    try:
        return resolve_device(name)
    except ValueError as error:
        device = resolve_device("auto")
        warn_user(f"{error} Until then, the loaded model uses {str(device)!r}.")
        return device


def warn_of_own_form(clf: Any) -> None:
    """Warn if transformers cannot use the classifier that skbert will save."""
    model_type = clf.model_.config.model_type
    if model_type in PADDED_FAMILIES:
        warn_user(
            f"skbert saves the head of a {model_type!r} in a form of its own, so only "
            f"{type(clf).__name__}.from_pretrained can use this folder as a whole; "
            f"transformers loads the encoder. Choose a model with model_type in {[*FAMILIES]} for "
            "a folder that transformers can use."
        )
    elif clf.pooling_ != "cls":
        warn_user(
            f"transformers does not support pooling={clf.pooling_!r} in a classifier, so only "
            f"{type(clf).__name__}.from_pretrained can use this folder. Use pooling='cls' "
            "for a folder that transformers can use."
        )


def settings_of(clf: Any) -> dict[str, Any]:
    """Collect all of a fitted classifier except its weights and tokenizer, as JSON types."""
    return {
        "versions": versions(),
        "parameters": _saved_parameters(clf) | {"checkpoint_dir": None},
        **_settings_of_y(clf),
        "history": [{k: _plain(v) for k, v in record.items()} for record in clf.history_],
        "pretraining_history": getattr(clf, "pretraining_history_", []),
        "n_truncated": int(clf.n_truncated_),
        "class_count": saved_class_count(clf),
        "numbers": {name: getattr(clf, f"{name}_", None) for name in NUMBERS},
        "n_columns": getattr(clf, "_n_columns", None),
        **_settings_of_columns(clf),
    }


def _settings_of_y(estimator: Any) -> dict[str, Any]:
    if hasattr(estimator, "classes_"):
        classes = estimator.classes_
        return {
            "classes": {"dtype": classes.dtype.str, "values": classes.tolist()},
            "multilabel": estimator.multilabel_,
        }
    levels = estimator.levels_
    return {
        "numbers_of_y": {
            "smallest": estimator.y_min_,
            "largest": estimator.y_max_,
            "levels": None if levels is None else levels.tolist(),
            "center": getattr(estimator, "_center", None),
            "scale": getattr(estimator, "_scale", None),
            # The sum of the mean and the bias is rounded.
            "bias": estimator.head_.bias.tolist() if levels is None else None,
        }
    }


def pretrainer_settings(pretrainer: Any) -> dict[str, Any]:
    """Collect all of a fitted pretrainer except its weights and tokenizer, as JSON types."""
    parameters = _saved_parameters(pretrainer)
    if not isinstance(parameters["model"], str):
        parameters["model"] = parameters["model"].to_dict()
    return {
        "versions": versions(),
        "parameters": parameters,
        "history": pretrainer.history_,
        **_settings_of_columns(pretrainer),
    }


def _settings_of_columns(estimator: Any) -> dict[str, Any]:
    names = getattr(estimator, "feature_names_in_", None)
    return {
        "n_features_in": getattr(estimator, "n_features_in_", None),
        "feature_names_in": None if names is None else names.tolist(),
    }


def _saved_parameters(estimator: Any) -> dict[str, Any]:
    parameters = plain_parameters(estimator)
    if isinstance(parameters["random_state"], np.random.RandomState):
        warn_user(
            "random_state is a RandomState instance, which cannot be saved; the folder stores "
            "None. Set random_state to an int to save it."
        )
        parameters["random_state"] = None
    return parameters


def plain_parameters(clf: Any) -> dict[str, Any]:
    """Convert the parameters to JSON types, except for a `random_state` that is an instance."""
    parameters = {name: _plain(value) for name, value in clf.get_params(deep=False).items()}
    if isinstance(parameters.get("class_weight"), dict):  # keys in JSON are strings
        items = parameters["class_weight"].items()
        parameters["class_weight"] = {"items": [[_plain(k), _plain(v)] for k, v in items]}
    return parameters


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.device):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def restore_estimator(
    cls: type, settings: dict[str, Any], n_outputs: int, changed: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Create an estimator from its settings: parameters, and what `fit` learned of X and y.

    Parameters
    ----------
    cls : type
        The estimator's class.
    settings : dict
        From `settings_of`. A folder that anyone wrote may contain any other value.
    n_outputs : int
        Number of outputs that the weights have.
    changed : dict
        Parameters that replace the saved ones.

    Returns
    -------
    estimator : estimator
        Without its weights.
    attributes : dict of str to object
        The fitted attributes that describe y, as in `Target`.

    Raises
    ------
    ValueError
        If `settings_of` cannot have written the settings.
    """
    _check_kind(cls, settings)
    try:
        parameters = dict(settings["parameters"])
        if issubclass(cls, ClassifierMixin) and isinstance(parameters["class_weight"], dict):
            parameters["class_weight"] = dict(parameters["class_weight"]["items"])
        estimator = cls(**_BEFORE | parameters)
        attributes = _attributes_of_y(settings)
        _restore_columns(estimator, settings)
        settings["history"] = [dict(record) for record in settings["history"]]
    except _INVALID as error:
        raise _invalid_settings(cls, error) from error
    estimator.set_params(**changed)
    estimator._validate_params()
    _check_outputs(cls, attributes, n_outputs)
    if "classes_" in attributes:
        try:
            restore_class_count(estimator, settings.get("class_count"), n_outputs)
        except _INVALID as error:
            raise _invalid_settings(cls, error) from error
    return estimator, attributes


def _check_kind(cls: type, settings: dict[str, Any]) -> None:
    kind = "classifier" if issubclass(cls, ClassifierMixin) else "regressor"
    saved = "regressor" if "numbers_of_y" in settings else "classifier"
    if kind != saved:
        name = f"BertSentiment{saved.capitalize()}"
        raise ValueError(
            f"The folder contains a {saved}, but {cls.__name__} is a {kind}. Load it with "
            f"{name}.from_pretrained."
        )


def _attributes_of_y(settings: dict[str, Any]) -> dict[str, Any]:
    if "numbers_of_y" not in settings:
        classes = np.array(settings["classes"]["values"], dtype=settings["classes"]["dtype"])
        if settings.get("multilabel", False):
            return several_labels(classes, np.ones(len(classes))).attributes
        return one_class(classes).attributes
    about = settings["numbers_of_y"]
    if about["levels"] is not None:
        return Levels(np.array(about["levels"], dtype=np.float64)).target().attributes
    if not (float(about["scale"]) > 0 and np.isfinite([float(b) for b in about["bias"]]).all()):
        raise ValueError(about)
    names = ("center", "scale", "smallest", "largest")
    return Numbers(*(float(about[name]) for name in names)).target().attributes


def _check_outputs(cls: type, attributes: dict[str, Any], n_outputs: int) -> None:
    """Compare what the settings say of y with the number of outputs of the weights."""
    if "classes_" in attributes:
        classes = attributes["classes_"]
        if classes.shape != (n_outputs,) or len(set(classes.tolist())) != n_outputs:
            raise ValueError(
                f"The saved {cls.__name__} has weights for {n_outputs} classes, but labels "
                f"{classes.tolist()}. Save the model again."
            )
        return
    levels = attributes["levels_"]
    expected = 1 if levels is None else len(levels) - 1
    if n_outputs != expected:
        raise ValueError(
            f"The saved {cls.__name__} has {n_outputs} outputs, but its settings describe "
            f"{expected}. Save the model again."
        )


#: What settings that `settings_of` did not write may raise.
_INVALID = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _invalid_settings(cls: type, error: Exception) -> ValueError:
    return ValueError(
        f"The settings of the saved {cls.__name__} are invalid ({error!r}). Save the model "
        "again with the installed skbert."
    )


def head_in_numbers(regressor: Any) -> nn.Linear:
    """Convert the head of a regressor to a linear layer that needs no other numbers.

    Its outputs are predictions, or the logits of being above each level.
    """
    weight, scale = regressor.head_.weight.detach(), 1.0
    if regressor.levels_ is not None:
        bias = -regressor.head_.thresholds.detach()
        weight = weight.expand(len(bias), -1)
    else:
        scale = regressor._scale
        bias = regressor.head_.bias.detach() * scale + regressor._center
    return linear_of(weight * scale, bias)


def head_of_numbers(layer: nn.Linear, settings: dict[str, Any]) -> Head:
    """Convert the linear layer of `head_in_numbers` back.

    Parameters
    ----------
    layer : torch.nn.Linear
    settings : dict
        From `settings_of`; `restore_estimator` has read them.
    """
    weight, about = layer.weight.detach(), settings["numbers_of_y"]
    if about["levels"] is not None:
        return OrdinalHead(weight[:1].clone(), -layer.bias.detach())
    bias = torch.tensor(about["bias"], device="cpu", dtype=torch.float32)
    return linear_of(weight / about["scale"], bias.reshape(layer.bias.shape))


def restore_pretrainer(
    cls: type, settings: dict[str, Any], folder: str, changed: dict[str, Any]
) -> tuple[Any, list[dict[str, Any]]]:
    """Create a pretrainer from its settings, without its weights; and the history of its fit.

    Parameters
    ----------
    cls : type
        The estimator's class.
    settings : dict
        From `pretrainer_settings`. A folder that anyone wrote may contain any other value. Older
        folders contain no parameters; the pretrainer then has the defaults.
    folder : str
        The `model` of a pretrainer without saved parameters.
    changed : dict
        Parameters that replace the saved ones.

    Raises
    ------
    ValueError
        If `pretrainer_settings` cannot have written the settings.
    """
    try:
        parameters = dict(settings.get("parameters", {"model": folder}))
        if isinstance(parameters["model"], dict):
            parameters["model"] = config_of(parameters["model"], Path(folder) / MANIFEST)
        estimator = cls(**parameters)
        _restore_names(estimator, {"n_features_in": None, "feature_names_in": None} | settings)
        history = [dict(record) for record in settings["history"]]
    except _INVALID as error:
        raise _invalid_settings(cls, error) from error
    estimator._n_columns = 1
    estimator.set_params(**changed)
    estimator._validate_params()
    return estimator, history


def _restore_columns(clf: Any, settings: dict[str, Any]) -> None:
    clf.n_truncated_ = int(settings["n_truncated"])
    for name, value in settings.get("numbers", {}).items():
        if name in NUMBERS and value is not None:
            setattr(clf, f"{name}_", NUMBERS[name](value))
    n_columns = {1: 1, 2: 2, None: None}[settings["n_columns"]]
    if n_columns is not None:
        clf._n_columns = n_columns
    clf.pretraining_history_ = [dict(r) for r in settings.get("pretraining_history", [])]
    _restore_names(clf, settings)


def _restore_names(clf: Any, settings: dict[str, Any]) -> None:
    if settings["n_features_in"] is not None:
        clf.n_features_in_ = int(settings["n_features_in"])
    if settings["feature_names_in"] is not None:
        clf.feature_names_in_ = np.array(settings["feature_names_in"], dtype=object)
