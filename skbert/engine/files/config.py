"""config.json -> the checked configuration of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skbert.engine.files.textfiles import parse_object, read_text
from skbert.engine.model.families import (
    BERT,
    FAMILIES,
    PADDED_FAMILIES,
    Family,
    empty_encoder,
    family_named,
    longest_text,
    new_config,
)
from skbert.engine.model.padded import setting_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Sizes in a configuration, and the largest that is allowed. The limits prevent a forged
#: configuration from building a huge model before its shapes are compared with the weights.
_SIZES = {
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "num_hidden_layers": 1000,
    "num_attention_heads": 10**6,
    "intermediate_size": 10**7,
    "max_position_embeddings": 10**7,
    "type_vocab_size": 10**4,
}

_NUMBERS = {
    "hidden_dropout_prob": 1.0,
    "attention_probs_dropout_prob": 1.0,
    "initializer_range": 1e3,
    "layer_norm_eps": 1.0,
}

_KEPT = (*_SIZES, *_NUMBERS, "hidden_act", "pad_token_id")


CONFIG_FILE = "config.json"


def read_config(path: Path) -> PretrainedConfig:
    """Read a configuration; see `config_of`."""
    return config_of(parse_object(read_text(path), path), path)


def check_family(folder: Path) -> None:
    """Raise an error if the configuration of a folder, if readable, is that of no BERT encoder."""
    path = folder / CONFIG_FILE
    try:
        settings = parse_object(read_text(path), path)
    except (OSError, ValueError):
        return  # whoever needs the file explains what is wrong with it
    check_config(settings, repr(str(path)))


def config_of(settings: Mapping[str, Any], path: Path) -> PretrainedConfig:
    """Build a configuration from the content of its file.

    The configuration gets only the settings that define the encoder. It does not get `auto_map`,
    which names code, or settings that would hide a method of the configuration.

    Raises
    ------
    ValueError
        If the settings do not describe a BERT encoder.
    """
    check_config(settings, repr(str(path)))
    settings = {"model_type": BERT.model_type} | _stated(settings)
    family = family_named(settings["model_type"])
    sizes = {name: (1, largest) for name, largest in _SIZES.items()} | dict(family.own_settings)
    for name, (smallest, largest) in sizes.items():
        size = settings.get(family.setting(name), smallest)
        if type(size) is not int or not smallest <= size <= largest:
            words = f"an integer from {smallest} to {largest}"
            raise _bad_setting(path, family.setting(name), size, words)
    for name, limit in _NUMBERS.items():
        number = settings.get(family.setting(name), 0.0)
        if type(number) not in (int, float) or not 0 <= number <= limit:
            raise _bad_setting(path, family.setting(name), number, f"a number from 0 to {limit:g}")
    if family.padded:
        return _padded_config(settings, family, path)
    names = {name: family.setting(name) for name in (*_KEPT, *family.own_settings)}
    stated = {name: settings[own] for name, own in names.items() if own in settings}
    return _consistent(stated, family, path)


def _consistent(stated: Mapping[str, Any], family: Family, path: Path) -> PretrainedConfig:
    """Build a configuration from well-formed settings by BERT's names, if they are consistent."""
    from transformers.activations import ACT2FN

    default = new_config(family)
    known = {
        name: getattr(default, family.setting(name))
        for name in (*_KEPT, *family.own_settings)
        if hasattr(default, family.setting(name))  # a DistilBERT has no segments
    }
    settings = known | {name: value for name, value in stated.items() if name in known}
    n_layers = settings["num_hidden_layers"]
    allowed = {
        "hidden_act": (
            isinstance(settings["hidden_act"], str) and settings["hidden_act"] in ACT2FN,
            "the name of an activation in transformers, such as 'gelu'",
        ),
        "num_attention_heads": (
            settings["hidden_size"] % settings["num_attention_heads"] == 0,
            f"a divisor of {family.setting('hidden_size')}={settings['hidden_size']}",
        ),
        "num_hidden_groups": (
            n_layers % settings.get("num_hidden_groups", 1) == 0,
            f"a divisor of num_hidden_layers={n_layers}",
        ),
        "pad_token_id": _padding_rule(settings, family),
    }
    for name, (is_allowed, words) in allowed.items():
        if not is_allowed:
            raise _bad_setting(path, family.setting(name), settings[name], words)
    floats = {name: float(settings[name]) for name in _NUMBERS if name in settings}
    config = new_config(family, **settings | floats)
    _check_positions(config, path)
    return config


def _padding_rule(settings: Mapping[str, Any], family: Family) -> tuple[bool, str]:
    """Whether the padding token is allowed, and what is; positions may start after it."""
    padding, n_ids = settings["pad_token_id"], settings["vocab_size"]
    may_be_null = family.first_position is not None
    is_id = type(padding) is int and 0 <= padding < n_ids
    words = f"{'null or ' if may_be_null else ''}an integer from 0 to {n_ids - 1}"
    return is_id or (may_be_null and padding is None), words


def _check_positions(config: PretrainedConfig, path: Path) -> None:
    if longest_text(config) < 1:
        words = f"more than {config.max_position_embeddings - longest_text(config)}"
        raise _bad_setting(path, "max_position_embeddings", config.max_position_embeddings, words)


#: The largest number in a setting of a padded family that `_SIZES` does not have.
_LARGEST = 10**8

#: transformers computes the table of RoFormer's positions to build even an empty module.
_LARGEST_TABLE = 10**8


def _padded_config(settings: Mapping[str, Any], family: Family, path: Path) -> PretrainedConfig:
    """Build the configuration of a padded family, whose class checks most of the settings."""
    default = new_config(family)
    stated = {name: settings[name] for name in setting_names(default) if name in settings}
    for name, value in stated.items():
        if isinstance(value, int | float) and not abs(value) <= _LARGEST:
            words = f"a number from {-_LARGEST} to {_LARGEST}"
            raise _bad_setting(path, name, value, words)
    known = default.to_dict() | stated
    is_allowed, words = _padding_rule(known, family)
    if not is_allowed:
        raise _bad_setting(path, "pad_token_id", known["pad_token_id"], words)
    if known["max_position_embeddings"] > _LARGEST_TABLE // known["hidden_size"]:
        words = f"at most {_LARGEST_TABLE} / hidden_size"
        raise _bad_setting(path, "max_position_embeddings", known["max_position_embeddings"], words)
    try:
        config = new_config(family, **stated)
        empty_encoder(config)
    except Exception as error:  # whatever the classes of transformers raise
        raise ValueError(
            f"{str(path)!r} does not describe a {family.model_type} encoder of transformers "
            f"({error}). Correct it, or use the config.json that belongs to the weights."
        ) from error
    _check_positions(config, path)
    return config


def _bad_setting(path: Path, name: str, value: Any, allowed: str) -> ValueError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return ValueError(
        f"{str(path)!r} has {name}={shown}, but it must be {allowed}. Correct it, or use the "
        "config.json that belongs to the weights."
    )


def check_config(settings: Mapping[str, Any], name: str) -> None:
    """Raise an error if the settings do not describe a BERT encoder; `name` is for the error.

    Old checkpoints name no `model_type`. They are BERTs if nothing in the settings contradicts it.
    """
    stated = _stated(settings)
    refused = {
        "model_type": stated.get("model_type", BERT.model_type)
        not in (*FAMILIES, *PADDED_FAMILIES),
        "position_embedding_type": settings.get("position_embedding_type", "absolute")
        != "absolute",
        "is_decoder": settings.get("is_decoder", False),
    }
    for setting, is_refused in refused.items():
        if is_refused:
            raise ValueError(
                f"{name} has {setting}={settings.get(setting)!r}. skbert trains encoders with "
                f"model_type in {[*FAMILIES]}, or, through the padded forward of transformers, in "
                f"{[*PADDED_FAMILIES]}; and with position_embedding_type='absolute' and "
                "is_decoder=False. Choose another model."
            )
    if "model_type" not in stated:
        _check_without_type(stated, name)


def _stated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out an empty `model_type`."""
    return {k: v for k, v in settings.items() if k != "model_type" or v not in (None, "")}


def _check_without_type(settings: Mapping[str, Any], name: str) -> None:
    """Raise an error if the settings are those of a relative of BERT with the same weights."""
    classes = settings.get("architectures") or []
    contradictions = {
        "architectures": not all(str(a).startswith(_CLASSES) for a in classes),
        "pad_token_id": settings.get("pad_token_id") not in (None, 0),  # RoBERTa has 1
        "embedding_size": "embedding_size" in settings,  # ELECTRA, ALBERT
    }
    for setting, contradicts in contradictions.items():
        if contradicts:
            raise ValueError(
                f"{name} has no model_type, but {setting}={settings[setting]!r}, which a BERT does "
                'not have. If the model is a BERT, add "model_type": "bert" to it; otherwise '
                "choose another model."
            )


#: Names of transformers' classes for BERT start like this.
_CLASSES = "Bert"
