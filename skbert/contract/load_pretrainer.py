"""A folder or a name -> a fitted pretrainer, without a fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from skbert.contract.padded import check_has_heads
from skbert.contract.parameters import Seeds, check_names
from skbert.contract.persistence import resolve_saved_device, restore_pretrainer
from skbert.contract.prepare_pretraining import PretrainerState, check_next_sentence
from skbert.engine.files.find import find_saved
from skbert.engine.files.pretrained import load_config, load_pretrained, new_pretraining_model
from skbert.engine.files.saved_pretraining import (
    check_finite,
    load_pretraining_model,
)
from skbert.engine.files.scratch import head_weights
from skbert.engine.files.tokenizer_files import vocabulary_of
from skbert.engine.model.device import loaded_precision, resolve_device, resolve_precision
from skbert.engine.model.families import Family, family_of, longest_text


class FromPretrainedMixin:
    """`from_pretrained` of the pretrainer."""

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **parameters: Any) -> Self:
        """Load a fitted pretrainer: one that `save_pretrained` wrote, or a model with its heads.

        Nothing in the folder is executed, and nothing is trained. To continue the pre-training,
        pass the folder as `model` and call `fit`: like every `fit`, that of the loaded pretrainer
        starts again from its `model`.

        Parameters
        ----------
        folder : str or path
            A folder that `save_pretrained` wrote; or a folder or name of a BertForPreTraining,
            BertForMaskedLM, RobertaForMaskedLM or the like of transformers, as for `model`.
        **parameters : dict
            Parameters of the pretrainer that replace the saved ones, such as ``device="cpu"``.

        Returns
        -------
        BertPretrainer
            The fitted pretrainer, with its saved parameters, on the device that `device` resolves
            to on this machine. It no longer needs the folder. A model of transformers has no saved
            parameters: `model` is then the folder, `max_length` is the default or, if that is
            less, the number of positions of the model, `next_sentence` is False if the family has
            no head for it, the others are the defaults, and `history_` is empty. Without a head for
            the next sentence, as in BertForMaskedLM, its weights are random, and
            `predict_next_sentence` raises an error.

        Raises
        ------
        OSError
            If the folder or one of its files is missing.
        ValueError
            If the model has no head for words, is a classifier of skbert, or has no head for
            `next_sentence`, but that is passed as True. Also if a file was changed or damaged,
            leads out of the folder, or was written by a newer skbert.
        TypeError
            If a parameter does not exist.

        Warns
        -----
        UserWarning
            If this machine does not have the saved `device`. The pretrainer then uses the device
            of "auto".
        """
        check_names(cls, parameters)
        if saved := find_saved(folder):
            return _load_saved(cls, str(saved), parameters)
        return _load_checkpoint(cls, os.fspath(folder), parameters)


def _load_saved(cls: type, folder: str, parameters: dict[str, Any]) -> Any:
    saved = load_pretraining_model(Path(folder))
    vocabulary_of(saved.tokenizer)  # raises an error if there is no mask token
    pretrainer, history = restore_pretrainer(cls, saved.settings, folder, parameters)
    is_changed = "device" in parameters
    device = (resolve_device if is_changed else resolve_saved_device)(pretrainer.device)
    is_changed = "precision" in parameters
    precision = (resolve_precision if is_changed else loaded_precision)(
        pretrainer.precision, device
    )
    state = PretrainerState(
        saved.model.to(device),
        saved.tokenizer,
        saved.subword_tokenizer,
        saved.heads.knows_words,
        saved.heads.knows_next_sentence,
        saved.heads.knows_pooler,
        precision,
        saved.made_with,
    )
    vars(pretrainer).update(state.fitted_attributes(history))
    return pretrainer


def _load_checkpoint(cls: type, name: str, parameters: dict[str, Any]) -> Any:
    pretrainer = cls(**({"model": name} | parameters))
    pretrainer._validate_params()
    device = resolve_device(pretrainer.device)
    precision = resolve_precision(pretrainer.precision, device)
    config = load_config(name)
    check_has_heads(config)
    if "max_length" not in parameters:
        pretrainer.set_params(max_length=min(pretrainer.max_length, longest_text(config)))
    if "next_sentence" not in parameters:
        pretrainer.set_params(next_sentence=family_of(config).has_next_sentence)
    check_next_sentence(pretrainer, config)
    pretrained = load_pretrained(name)
    vocabulary_of(pretrained.tokenizer)
    heads = head_weights(
        pretrained, np.random.default_rng(Seeds.of(pretrainer.random_state).new_weights)
    )
    if not heads.knows_words:
        family = family_of(pretrained.config)
        raise ValueError(
            f"The model {name!r} has no head for words ('{family.word_head[0]}.'), but "
            f"from_pretrained needs one, as in {_classes_with_head(family)}. To train a new head, "
            f"pass model={name!r} to {cls.__name__} and call fit."
        )
    model = new_pretraining_model(pretrained, heads)
    check_finite(model, Path(name))
    state = PretrainerState.of(pretrained, heads, model.to(device), precision)
    pretrainer._n_columns = 1
    vars(pretrainer).update(state.fitted_attributes([]))
    return pretrainer


def _classes_with_head(family: Family) -> str:
    classes = [family.pretraining_class, f"{family.class_prefix}ForMaskedLM"]
    return " and ".join(dict.fromkeys(classes))
