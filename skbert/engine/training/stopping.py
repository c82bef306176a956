"""Early stopping, and copies of weights to restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from skbert.engine.model.networks import TextClassifier


def way_back(classifier: TextClassifier) -> Callable[[], None]:
    """Copy the weights, and return a function that restores them."""
    modules = (classifier.encoder, classifier.head)
    return partial(_load, modules, _copied(modules))


def _copied(modules: Iterable[nn.Module]) -> list[dict[str, Tensor]]:
    return [
        {name: weight.clone() for name, weight in module.state_dict().items()} for module in modules
    ]


def _load(modules: Iterable[nn.Module], weights: list[dict[str, Tensor]]) -> None:
    for module, of_module in zip(modules, weights, strict=True):
        module.load_state_dict(of_module)


class EarlyStopping:
    """Watches the validation loss and keeps the weights of its lowest value in memory.

    Parameters
    ----------
    classifier : TextClassifier
    n_iter_no_change : int
        Stop after this number of consecutive epochs without a new lowest loss.

    Attributes
    ----------
    best_epoch : int
        The epoch with the lowest loss, from 1; 0 before the first epoch.
    """

    def __init__(self, classifier: TextClassifier, n_iter_no_change: int) -> None:
        self._modules = (classifier.encoder, classifier.head)
        self._n_iter_no_change = n_iter_no_change
        self._best_loss = math.inf
        self._best_weights: list[dict[str, Tensor]] = []
        self._n_epochs = 0
        self.best_epoch = 0

    def should_stop(self, validation_loss: float) -> bool:
        """Record the loss of an epoch, and return whether to stop."""
        self._n_epochs += 1
        if validation_loss < self._best_loss or not self._best_weights:
            self._best_loss = validation_loss
            self.best_epoch = self._n_epochs
            self._best_weights = _copied(self._modules)
        return self._n_epochs - self.best_epoch >= self._n_iter_no_change

    def restore(self) -> None:
        """Restore the weights of the best epoch, if there is one."""
        if self._best_weights:
            _load(self._modules, self._best_weights)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of the best epoch so far; `position` has the rest of the state."""
        return {
            f"{part}.{name}": weight
            for part, weights in enumerate(self._best_weights)
            for name, weight in weights.items()
        }

    def position(self) -> dict[str, float]:
        """Return the number of epochs so far, the best epoch and its loss."""
        return {
            "n_epochs": self._n_epochs,
            "best_epoch": self.best_epoch,
            "best_loss": self._best_loss,
        }

    def resume(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Resume from `tensors` and `position` of another instance."""
        self._best_weights = [{} for _ in self._modules]
        for key, weight in tensors.items():
            part, _, name = key.partition(".")
            self._best_weights[int(part)][name] = weight
        self._n_epochs, self.best_epoch = position["n_epochs"], position["best_epoch"]
        self._best_loss = position["best_loss"]
