"""The training loop: epochs of shuffled batches, with one optimizer step per batch.

An `Objective` computes the loss. The loop changes the weights in place and returns one record per
epoch. It knows neither texts nor scikit-learn, and does not decide when to stop: the caller calls
`Trainer.epoch` for each epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from skbert.engine.model.dropout import Dropout, seeded_dropout
from skbert.engine.text.packing import shuffled_batches, split_by_tokens
from skbert.engine.training.compact_embeddings import CompactEmbeddings
from skbert.engine.training.optimizer import (
    clip_and_step,
    constant_after_warmup,
    gradient_norm,
    learning_rate_factor,
    n_warmup_steps,
    new_adamw,
    set_learning_rate,
)
from skbert.engine.warn import warn_user

# The loop splits a batch with more tokens into parts and sums their gradients: the same step in
# less memory, 0.64 of Trainer's for BERT-base and texts of 128 tokens (bench_memory.py). Larger
# products are not faster on a CPU.
_MICRO_BATCH_TOKENS = 2048

#: Wraps the batches of an epoch, given its number from 1, to show its progress.
EpochProgress = Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]


@dataclass(frozen=True)
class TrainingOptions:
    """Parameters of the training loop; see `BertSentimentClassifier`."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    dropout: float
    n_frozen_layers: int = 0
    label_smoothing: float = 0.0
    max_gradient_norm: float = 1.0


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 1.
    train_loss : float
        Mean loss over the epoch, in training mode; for classification, the weighted mean
        cross-entropy in nats per text.
    learning_rate : float
        Learning rate of the last step.
    seconds : float
        Wall-clock time.
    n_tokens : int
        Number of tokens, including special tokens; there are no padding tokens.
    measures : dict of str to float
        Other measures of the objective.
    """

    epoch: int
    train_loss: float
    learning_rate: float
    seconds: float
    n_tokens: int
    measures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Convert to a flat dict, with the values of `measures` after the loss."""
        values = asdict(self)
        measures = values.pop("measures")
        before = {name: values.pop(name) for name in ("epoch", "train_loss")}
        return before | measures | values


@dataclass(frozen=True)
class Loss:
    """The contribution of some texts to the loss of their batch.

    Attributes
    ----------
    part : Tensor of shape ()
        Differentiable. The parts of a batch sum to its mean loss.
    sums : ndarray of shape (n_sums,), float64
        Values to sum over parts and batches; `Objective.measures` interprets the sums.
    """

    part: Tensor
    sums: np.ndarray


class Network(Protocol):
    """A network that the loop can train."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    def parameters(self, n_frozen_layers: int = 0) -> list[nn.Parameter]:
        """List the weights to train, each once."""


class Objective(Protocol):
    """A loss and its texts."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each text of this epoch; shape (n_texts,). n_texts never changes."""

    def begin_epoch(self) -> None:
        """Prepare the next epoch, for example draw new masks."""

    def loss(self, rows: np.ndarray, batch: np.ndarray, dropout: Dropout) -> Loss:
        """Compute the contribution of the texts `rows` to the loss of the texts `batch`."""

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Convert sums to measures: "train_loss", which is the mean loss, and others."""


class DivergenceError(ArithmeticError):
    """A loss or gradient was not finite; the weights did not change in this step."""

    def __init__(self, step: int, learning_rate: float, loss: float) -> None:
        super().__init__(
            f"The loss or a gradient was not finite in step {step} (loss {loss}, learning rate "
            f"{learning_rate:.3g}). Lower the learning rate, or check the weights of the model."
        )


def planned_trainer(
    network: Network,
    n_texts: int,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
    embeddings: CompactEmbeddings | None = None,
) -> Trainer:
    """Make a trainer for ``options.max_epochs`` epochs of `n_texts` texts each."""
    n_steps = options.max_epochs * -(-n_texts // options.batch_size)
    schedule = partial(
        learning_rate_factor, n_steps=n_steps, warmup_fraction=options.warmup_fraction
    )
    return Trainer(network, options, schedule, seed, embeddings)


def open_ended_trainer(
    network: Network, n_texts: int, options: TrainingOptions, seed: np.random.SeedSequence
) -> Trainer:
    """Make a trainer for an unknown number of epochs; the first one has `n_texts` texts."""
    n_steps = -(-n_texts // options.batch_size)
    n_warmup = n_warmup_steps(n_steps, options.warmup_fraction)
    return Trainer(network, options, partial(constant_after_warmup, n_warmup=n_warmup), seed)


class Trainer:
    """An optimizer with its schedule and random state, which trains epoch by epoch.

    Parameters
    ----------
    network : Network
    options : TrainingOptions
    schedule : callable
        Number of the step, from 0 -> factor of the learning rate.
    seed : numpy.random.SeedSequence
    embeddings : CompactEmbeddings or None
        Contains the words of all training texts. None trains the whole embedding table.
    """

    def __init__(
        self,
        network: Network,
        options: TrainingOptions,
        schedule: Callable[[int], float],
        seed: np.random.SeedSequence,
        embeddings: CompactEmbeddings | None = None,
    ) -> None:
        order_seed, dropout_seed = seed.spawn(2)
        self._order = np.random.default_rng(order_seed)
        self._device = network.device
        self._dropout = seeded_dropout(options.dropout, dropout_seed, self._device)
        self.options = options
        self._schedule = schedule
        self._embeddings = embeddings
        with self._steps_possible():
            self._parameters = network.parameters(options.n_frozen_layers)
        self._optimizer = new_adamw(self._parameters, options.weight_decay)
        self._token_budget = _MICRO_BATCH_TOKENS
        self.n_steps = self._n_epochs = 0
        self.was_interrupted = False
        self._learning_rate = 0.0

    def epoch(self, objective: Objective, progress: EpochProgress | None = None) -> EpochRecord:
        """Train on every text once, in a new order; show nothing if `progress` is None."""
        start = time.perf_counter()
        self.was_interrupted = True  # until the epoch has ended
        self._n_epochs += 1
        objective.begin_epoch()
        batches: Iterable[np.ndarray] = shuffled_batches(
            len(objective.lengths), self.options.batch_size, self._order
        )
        if progress:
            batches = progress(batches, self._n_epochs)
        with self._steps_possible():
            sums = sum(self.step(objective, rows) for rows in batches)
        self.was_interrupted = False
        measures = objective.measures(np.asarray(sums))
        return EpochRecord(
            epoch=self._n_epochs,
            train_loss=measures.pop("train_loss"),
            learning_rate=self._learning_rate,
            seconds=time.perf_counter() - start,
            n_tokens=int(objective.lengths.sum()),
            measures=measures,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's moments by number of the parameter; `position` has the rest."""
        moments = self._optimizer.state_dict()["state"]
        return {
            f"{number}.{name}": value
            for number, values in moments.items()
            for name, value in values.items()
        }

    def position(self) -> dict[str, Any]:
        """Return the numbers of steps and epochs and the random states, as JSON types."""
        return {
            "n_steps": self.n_steps,
            "n_epochs": self._n_epochs,
            "token_budget": self._token_budget,
            "order": self._order.bit_generator.state,
            "dropout": getattr(self._dropout, "state", None),
        }

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Resume from `tensors` and `position` of another trainer; its weights must be loaded."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, name = key.split(".")
            moments.setdefault(int(number), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.n_steps, self._n_epochs = position["n_steps"], position["n_epochs"]
        self._token_budget = position["token_budget"]
        self._order.bit_generator.state = position["order"]
        if position["dropout"] is not None:
            self._dropout.state = position["dropout"]  # type: ignore[attr-defined]

    def _steps_possible(self) -> AbstractContextManager[None]:
        """Let the model use the compact embeddings inside the block, if there is one."""
        return self._embeddings.in_place() if self._embeddings else nullcontext()

    def step(self, objective: Objective, rows: np.ndarray) -> np.ndarray:
        """Take one optimizer step, and return the sums of the loss over `rows` before it."""
        options = self.options
        self._learning_rate = options.learning_rate * self._schedule(self.n_steps)
        set_learning_rate(self._optimizer, self._learning_rate)
        sums = self._accumulate_gradients(objective, rows)
        norm = gradient_norm(self._parameters)
        if not (np.isfinite(sums).all() and torch.isfinite(norm)):
            loss = objective.measures(sums)["train_loss"]
            raise DivergenceError(self.n_steps + 1, self._learning_rate, loss)
        clip_and_step(self._optimizer, norm, options.max_gradient_norm)
        if self._embeddings:
            self._embeddings.decay_absent(1 - self._learning_rate * options.weight_decay)
        self.n_steps += 1
        return sums

    def _accumulate_gradients(self, objective: Objective, rows: np.ndarray) -> np.ndarray:
        """Compute the gradients of the batch's mean loss, with any number of micro-batches."""
        lengths = objective.lengths
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                parts = split_by_tokens(lengths, rows, self._token_budget)
                return np.sum([self._backward(objective, part, rows) for part in parts], axis=0)
            except torch.OutOfMemoryError:
                longest_text = int(lengths[rows].max())
                if self._token_budget <= longest_text:
                    raise
                self._halve_micro_batches(longest_text)

    def _halve_micro_batches(self, longest_text: int) -> None:
        self._token_budget = max(self._token_budget // 2, longest_text)
        warn_user(
            f"Out of memory on {self._device}. skbert repeats the step in micro-batches of "
            f"{self._token_budget} tokens, which gives the same gradients more slowly. Lower "
            "max_length or choose a smaller model to avoid this."
        )

    def _backward(self, objective: Objective, rows: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Add the gradients of some texts of a batch, and return the sums of their loss."""
        loss = objective.loss(rows, batch, self._dropout)
        loss.part.backward()
        return loss.sums
