"""A folder or a name -> a fitted classifier or regressor, without a fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from skbert.contract.data_sizes import sizes_without_training
from skbert.contract.parameters import check_names
from skbert.contract.persistence import (
    head_of_numbers,
    resolve_saved_device,
    restore_estimator,
)
from skbert.contract.prepare_finetuning import ClassifierState
from skbert.contract.targets import one_class
from skbert.engine.files.classifier_heads import read_published_head
from skbert.engine.files.find import ModelName, find_model, find_saved, is_shipped
from skbert.engine.files.finetuned import check_finite, load_classifier
from skbert.engine.files.pretrained import Pretrained, load_pretrained
from skbert.engine.model.device import loaded_precision, resolve_device, resolve_precision
from skbert.engine.model.families import longest_text
from skbert.engine.model.heads import Head
from skbert.engine.model.networks import TextClassifier


class LoadClassifierMixin:
    """`from_pretrained` of the classifier."""

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **parameters: Any) -> Self:
        """Load a fitted classifier: saved by skbert, contained in it, or published.

        Nothing in the folder is executed, and nothing is trained.

        Parameters
        ----------
        folder : str or path
            One of:

            - a folder that `save_pretrained` wrote, or the name of one on the Hugging Face Hub;
            - "skbert/minilm-sentiment": a classifier of English texts into "negative" and
              "positive", which skbert contains. See :doc:`/sentiment_start` for what it learned
              from and what it gets wrong;
            - a folder or a name, as for `model`, of a classifier of transformers, such as a
              BertForSequenceClassification. Its probabilities are those of
              ``transformers.pipeline("text-classification")``.
        **parameters : dict
            Parameters of the classifier that replace the saved ones, such as ``device="cpu"``.

        Returns
        -------
        BertSentimentClassifier
            The fitted classifier, with its saved parameters, on the device that `device` resolves
            to on this machine. It no longer needs the folder. The last two kinds have no saved
            parameters, so they have the defaults, and `history_` is empty. For a published
            classifier, `classes_` are its sorted labels, `pooling` is "cls", `emoji_names` False,
            `truncation` "head" and `max_length` the largest number of tokens that it can read. To
            continue its training from its head, set `warm_start` and call `fit` with the same
            labels, or call `partial_fit`; otherwise, `fit` starts with a new head.

        Raises
        ------
        OSError
            If the folder or one of its files is missing.
        ValueError
            If a file was changed or damaged, leads out of the folder, or was written by a newer
            skbert; if a published model is no classifier that gives one label to each text; or
            if a parameter is not allowed, such as another `pooling` than that of the head.
        TypeError
            If a parameter does not exist.

        Warns
        -----
        UserWarning
            If this machine does not have the saved `device`. The classifier then uses the device
            of "auto".
        """
        check_names(cls, parameters)
        if saved := find_saved(folder):
            return _load_saved(cls, saved, parameters)
        load = _load_shipped if is_shipped(folder) else _load_published
        return load(cls, folder, parameters)


def _load_shipped(cls: type, name: ModelName, parameters: dict[str, Any]) -> Any:
    clf = cls(**({"model": name} | parameters))
    clf._validate_params()
    pretrained = load_pretrained(name)
    assert pretrained.classifier is not None
    head = pretrained.classifier
    _check_pooling(parameters, head.pooling)
    clf._n_columns = 1  # it has learned from single texts; published ones may be for pairs
    return _untrained(clf, pretrained, head.new_module(), head.pooling, head.labels)


def _load_saved(cls: type, folder: Path, parameters: dict[str, Any]) -> Any:
    saved = load_classifier(folder)
    estimator, about_y = restore_estimator(
        cls, saved.settings, saved.network.head.out_features, parameters
    )
    network = saved.network
    _check_pooling(parameters, network.pooling)
    if "levels_" in about_y:
        network = replace(network, head=head_of_numbers(network.head, saved.settings))
    is_changed = "device" in parameters
    device = (resolve_device if is_changed else resolve_saved_device)(estimator.device)
    is_changed = "precision" in parameters
    precision = (resolve_precision if is_changed else loaded_precision)(estimator.precision, device)
    network = replace(network.to(device), precision=precision)
    state = ClassifierState(
        network, saved.tokenizer, saved.subword_tokenizer, saved.settings["history"]
    )
    vars(estimator).update(state.fitted_attributes(state.history) | about_y)
    return estimator


def _check_pooling(parameters: dict[str, Any], pooling: str) -> None:
    """Raise an error if the user asks for another pooling than that of the head."""
    asked = parameters.get("pooling", "auto")
    if asked not in ("auto", pooling):
        raise ValueError(
            f"pooling={asked!r}, but the head was trained with pooling={pooling!r}. Leave pooling "
            f"out; to train with another, call set_params(pooling={asked!r}, warm_start=True) "
            "afterwards, and then fit."
        )


class LoadRegressorMixin:
    """`from_pretrained` of the regressor."""

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **parameters: Any) -> Self:
        """Load a fitted regressor that `save_pretrained` wrote.

        Nothing in the folder is executed, and nothing is trained.

        Parameters
        ----------
        folder : str or path
            A folder that `save_pretrained` wrote, or the name of one on the Hugging Face Hub.
        **parameters : dict
            Parameters of the regressor that replace the saved ones, such as ``device="cpu"``.

        Returns
        -------
        BertSentimentRegressor
            The fitted regressor, with its saved parameters, on the device that `device` resolves
            to on this machine. It no longer needs the folder.

        Raises
        ------
        OSError
            If the folder or one of its files is missing.
        ValueError
            If a file was changed or damaged, leads out of the folder, or was written by a newer
            skbert; if the folder contains no regressor of skbert; or if a parameter is not
            allowed, such as another `pooling` than that of the head.
        TypeError
            If a parameter does not exist.

        Warns
        -----
        UserWarning
            If this machine does not have the saved `device`. The regressor then uses the device
            of "auto".
        """
        check_names(cls, parameters)
        saved = find_saved(folder)
        if saved is None:
            name = os.fspath(folder)
            raise ValueError(
                f"The model {name!r} is no regressor that skbert saved, and from_pretrained of "
                f"BertSentimentRegressor reads no other. Pass model={name!r} to "
                "BertSentimentRegressor and call fit, which trains a new head."
            )
        return _load_saved(cls, saved, parameters)


#: Parameters of a published classifier, so that it computes as the pipeline of transformers.
_AS_PUBLISHED = {"pooling": "cls", "emoji_names": False, "truncation": "head"}


def _load_published(cls: type, name: ModelName, parameters: dict[str, Any]) -> Any:
    found = find_model(name)
    pretrained = load_pretrained(name)
    published = read_published_head(found, pretrained.config, os.fspath(name))
    most = int(min(longest_text(pretrained.config), pretrained.tokenizer.model_max_length))
    clf = cls(**({"model": name, "max_length": most} | _AS_PUBLISHED | parameters))
    clf._validate_params()
    _check_pooling(parameters, "cls")
    clf = _untrained(clf, pretrained, published.head, "cls", published.labels)
    check_finite(TextClassifier(clf.model_, clf.head_, "cls"), found.weights)
    return clf


def _untrained(
    clf: Any, pretrained: Pretrained, head: Head, pooling: str, labels: list[str]
) -> Any:
    """Fill an estimator with the weights of a model and of a head that skbert has not trained."""
    device = resolve_device(clf.device)
    precision = resolve_precision(clf.precision, device)
    network = TextClassifier(pretrained.new_encoder(device), head, pooling, precision)
    subword_tokenizer = pretrained.naming_emoji(clf.emoji_names).subword_tokenizer
    state = ClassifierState(network.to(device), pretrained.new_tokenizer(), subword_tokenizer, [])
    target = one_class(np.array(labels))
    sizes = sizes_without_training(len(labels))
    vars(clf).update(state.fitted_attributes([]) | target.attributes | _UNTRAINED | sizes)
    return clf


#: What a classifier knows of its training in skbert if it had none.
_UNTRAINED = {
    "pretraining_history_": [],
    "best_epoch_": 0,
    "n_truncated_": 0,
    "n_unknown_tokens_": 0,
}
