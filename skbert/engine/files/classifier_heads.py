"""Heads of classifiers <-> their weights in the files of transformers.

In transformers, each family has a dense layer and an activation before the output layer, where a
classifier of skbert has a linear layer alone. To save a linear layer, skbert writes a dense layer
that passes its input through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skbert.engine.files.config import CONFIG_FILE
from skbert.engine.files.contents import weight_files
from skbert.engine.files.find import FoundModel
from skbert.engine.files.manifest import MANIFEST, damaged
from skbert.engine.files.textfiles import parse_object, read_text
from skbert.engine.files.weights import (
    NEEDS,
    PASS_THROUGH_SCALE,
    linear_of,
    modern_name,
    pass_through_pooler,
    read_notes,
    read_safetensors,
)
from skbert.engine.model.families import FAMILIES, Family, blocks_of, family_of
from skbert.engine.model.heads import DenseHead, Head, OrdinalHead
from skbert.engine.model.networks import TextClassifier

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# GELU is the identity from here on, up to a relative error of 1e-9.
_GELU_IS_LINEAR = 6.0


def dense_head(family: Family, dense: nn.Linear, output: nn.Linear) -> DenseHead:
    """Build the head of a family's classifiers."""
    return DenseHead(
        dense,
        family.classifier_activation,
        output,
        drops_input=family.classifier_drops_input,
    )


def head_of_arrays(tensors: Mapping[str, Tensor], family: Family) -> Head:
    """Rebuild a head from its state dict. The weights are not copied."""
    if "thresholds" in tensors:
        return OrdinalHead(tensors["weight"], tensors["thresholds"])
    if "dense.weight" not in tensors:
        return linear_of(tensors["weight"], tensors["bias"])
    dense, output = (
        linear_of(tensors[f"{part}.weight"], tensors[f"{part}.bias"])
        for part in ("dense", "output")
    )
    return dense_head(family, dense, output)


def head_weights_for_transformers(network: TextClassifier) -> tuple[dict[str, Tensor], Any]:
    """Collect the weights of the head by their names in `Family.classifier_class`.

    Returns
    -------
    weights : dict of str to Tensor
    note : str, dict or None
        What `read_head` needs besides, of JSON types.
    """
    family, head = family_of(network.encoder), network.head
    if family.padded:
        layer = head.state_dict()
        return {f"{family.classifier}.{name}": weight for name, weight in layer.items()}, None
    if isinstance(head, DenseHead):
        return _named(family, head.dense.state_dict(), head.output.state_dict()), "dense"
    assert isinstance(head, nn.Linear)  # `head_in_numbers` converts an ordinal head
    if family.classifier_activation == "tanh":
        dense = pass_through_pooler(head.in_features)
        output = {"weight": head.weight.detach() / PASS_THROUGH_SCALE, "bias": head.bias}
        return _named(family, dense, output), None
    shift = _least_shift(network)
    eye = torch.eye(head.in_features, device=shift.device, dtype=torch.float32)
    bias = head.bias.detach() - head.weight.detach() @ shift
    output = {"weight": head.weight, "bias": bias}
    # The sum is rounded, so the note holds the bias itself.
    return _named(family, {"weight": eye, "bias": shift}, output), {"bias": head.bias.tolist()}


def _least_shift(network: TextClassifier) -> Tensor:
    """Compute what to add to hidden states so that the activation is the identity: (d_model,).

    A LayerNorm of d numbers returns at most sqrt(d) times its weight, plus its bias.
    """
    norm = blocks_of(network.encoder)[-1].output_norm
    margin = _GELU_IS_LINEAR if family_of(network.encoder).classifier_activation == "gelu" else 0.0
    return norm.weight.detach().abs() * len(norm.weight) ** 0.5 + norm.bias.detach().abs() + margin


def _named(
    family: Family, dense: Mapping[str, Tensor], output: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {f"{family.classifier_dense}.{name}": weight for name, weight in dense.items()} | {
        f"{family.classifier}.{name}": weight for name, weight in output.items()
    }


def read_head(
    stored: Mapping[str, Tensor], path: Path, config: PretrainedConfig, note: Any
) -> Head:
    """Read the head that `head_weights_for_transformers` wrote.

    Parameters
    ----------
    stored : dict of str to Tensor
        The weights of the file, by `modern_name`.
    path : Path
        Where they were read, for errors.
    config : transformers.PretrainedConfig
    note : str, dict or None
        What that function returned, or anything else that a changed folder contains.
    """
    family = family_of(config)
    output = _layer(stored, family.classifier, config, None, path)
    if family.padded:
        return output
    if note == "dense":
        dense = _layer(stored, family.classifier_dense, config, config.hidden_size, path)
        return dense_head(family, dense, output)
    if family.classifier_activation == "tanh":
        return linear_of(output.weight.detach() * PASS_THROUGH_SCALE, output.bias.detach())
    try:
        bias = torch.tensor(note["bias"], device="cpu", dtype=torch.float32)
        return linear_of(output.weight.detach(), bias.reshape(output.bias.shape))
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise damaged(path, f"the bias of its classifier is not in skbert.json: {error}") from error


def _layer(
    stored: Mapping[str, Tensor],
    layer: str,
    config: PretrainedConfig,
    n_out: int | None,
    path: Path,
) -> nn.Linear:
    """Build a linear layer, (d_model) -> (n_out), from float32 copies of its weights."""
    family = family_of(config)
    names = [modern_name(f"{layer}.{name}", family) for name in ("weight", "bias")]
    weight, bias = (stored.get(name) for name in names)
    if weight is None or bias is None:
        raise damaged(path, "it has no {!r} and {!r}".format(*names))
    n_out = n_out if n_out is not None else bias.numel()
    if weight.shape != (n_out, config.hidden_size) or bias.shape != (n_out,):
        shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        raise damaged(path, f"the shapes of its {layer} are {shapes}")
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise damaged(path, f"the dtypes of its {layer} are {weight.dtype} and {bias.dtype}")
    return linear_of(*(w.to(torch.float32, copy=True) for w in (weight, bias)))


@dataclass(frozen=True)
class PublishedHead:
    """The head of a checkpoint of a `Family.classifier_class`.

    Attributes
    ----------
    head : DenseHead
        Its outputs have the order of `labels`.
    labels : list of str
        Names of the classes, sorted.
    """

    head: DenseHead
    labels: list[str]


def read_published_head(found: FoundModel, config: PretrainedConfig, name: str) -> PublishedHead:
    """Read the head and the labels of a classifier of transformers.

    Parameters
    ----------
    found : FoundModel
        Where the classifier is.
    config : transformers.PretrainedConfig
        Its configuration, as `read_config` returns it.
    name : str
        Its name, for errors.

    Raises
    ------
    FileNotFoundError
        If the classifier is one of skbert, and its file of settings is missing.
    ValueError
        If the checkpoint has no classifier, or one for another task: regression, or several labels
        for each text.
    """
    family = family_of(config)
    if family.padded:
        raise ValueError(
            f"The model {name!r} has model_type={family.model_type!r}, but from_pretrained reads "
            f"published classifiers with model_type in {[*FAMILIES]}. Choose another model, or "
            f"pass model={name!r} to BertSentimentClassifier and call fit, which trains a new head."
        )
    settings = parse_object(read_text(found.config), found.config)
    # Without skbert.json, the pooling and the parameters would be others.
    if any(NEEDS in read_notes(file) for file in weight_files(found.folder)):
        raise FileNotFoundError(
            f"{name!r} was saved by skbert, but lacks {MANIFEST}. Copy the whole folder, or save "
            "the model again."
        )
    stored = read_safetensors(found.weights, family)
    _check_classes(settings, family, name)
    _check_layers(stored, family, name)
    dense = _layer(stored, family.classifier_dense, config, config.hidden_size, found.weights)
    output = _layer(stored, family.classifier, config, None, found.weights)
    _check_task(settings, output.out_features, name)
    labels = _labels(settings, output.out_features, name)
    order = sorted(range(len(labels)), key=labels.__getitem__)
    output = linear_of(output.weight.detach()[order], output.bias.detach()[order])
    return PublishedHead(dense_head(family, dense, output), sorted(labels))


_TASKS = {
    "regression": "It predicts a number for each text",
    "multi_label_classification": "It gives several labels to a text",
}


#: Which estimator can be trained for a task.
_ESTIMATORS = {
    "regression": "BertSentimentRegressor",
    "multi_label_classification": "BertSentimentClassifier",
}


def _check_task(settings: Mapping[str, Any], n_outputs: int, name: str) -> None:
    task = settings.get("problem_type")
    stated = f"problem_type={task!r}"
    if task not in [*_TASKS]:
        if n_outputs > 1:
            return
        task, stated = "regression", "a single output"
    raise ValueError(
        f"The model {name!r} has {stated}. {_TASKS[task]}, but from_pretrained reads published "
        "classifiers that give one label to each. Choose another model, or pass "
        f"model={name!r} to {_ESTIMATORS[task]} and call fit, which trains a new head."
    )


def _check_classes(settings: Mapping[str, Any], family: Family, name: str) -> None:
    """Refuse heads of another class, whose weights can have the same names and shapes."""
    named = settings.get("architectures")
    classes = [str(c) for c in named] if isinstance(named, list) else []
    if classes and not any(c.endswith("ForSequenceClassification") for c in classes):
        raise _no_head(name, f"architectures={classes} in its {CONFIG_FILE}", family)


def _check_layers(stored: Mapping[str, Tensor], family: Family, name: str) -> None:
    layers = [family.classifier_dense, family.classifier]
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    missing = [n for n in names if modern_name(n, family) not in stored]
    if missing:
        raise _no_head(name, f"no {missing[0]!r}", family)


def _no_head(name: str, found: str, family: Family) -> ValueError:
    return ValueError(
        f"The model {name!r} has {found}, but from_pretrained needs the head of a classifier, as "
        f"in {family.classifier_class}. To train a new head, pass model={name!r} to "
        "BertSentimentClassifier and call fit."
    )


def _labels(settings: Mapping[str, Any], n_classes: int, name: str) -> list[str]:
    """List the labels in the order of the outputs; transformers calls unnamed ones LABEL_0, ..."""
    named = settings.get("id2label")
    if named is None:
        named = {str(number): f"LABEL_{number}" for number in range(n_classes)}
    found = named if isinstance(named, dict) else {}
    labels = [found[str(n)] for n in range(n_classes) if isinstance(found.get(str(n)), str)]
    if len(found) != n_classes or len({*labels}) != n_classes:
        raise ValueError(
            f"The model {name!r} has {n_classes} outputs and id2label={named!r} in its "
            f"{CONFIG_FILE}, but each output of a classifier needs a label of its own. Correct "
            "id2label, or choose another model."
        )
    return labels
