"""All that determines the weights of a fit -> one hash, by which checkpoints and ranks compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from skbert.contract.parameters import Seeds
from skbert.contract.persistence import plain_parameters, versions
from skbert.engine.model.device import precision_name
from skbert.engine.model.networks import PretrainingNetwork, TextClassifier
from skbert.engine.text.sentences import Sentences
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.classification import LabelledTexts
from skbert.engine.training.resume import RunSettings, fingerprint_of

#: Parameters that have no influence on the weights, or that `RunSettings` holds otherwise. The
#: number of epochs is compared apart from the fingerprint.
_LEFT_OUT = (
    "checkpoint_dir",
    "device",
    "max_epochs",
    "n_threads",
    "precision",
    "random_state",
    "verbose",
)


def fingerprint_of_fit(
    estimator: Any,
    network: TextClassifier | PretrainingNetwork,
    data: Iterable[LabelledTexts | Tokens | Sentences | None],
    seeds: Seeds,
    *,
    heads: Sequence[nn.Module] = (),
    classes: Sequence[Any] = (),
    n_epochs_before: int = 0,
) -> str:
    """Hash all that determines the weights of a fit, besides its number of epochs.

    Parameters
    ----------
    estimator : estimator
    network : TextClassifier or PretrainingNetwork
        Before the first step.
    data : iterable of LabelledTexts, Tokens, Sentences or None
    seeds : Seeds
    heads : sequence of torch.nn.Module
        Without new ones: they are random, and follow from the seeds.
    classes, n_epochs_before
        As in `RunSettings`.
    """
    parameters = plain_parameters(estimator)
    settings = RunSettings(
        parameters={name: parameters[name] for name in parameters if name not in _LEFT_OUT},
        precision=precision_name(network.precision),
        device=network.device.type,
        classes=[*classes],
        entropy=None if estimator.random_state is None else seeds.root.entropy,
        versions=versions(),
        n_epochs_before=n_epochs_before,
    )
    return fingerprint_of(settings, [network.encoder, *heads], data)
