"""The training loop: epochs of shuffled batches, one optimizer step a batch.

What the loss is, an `Objective` knows. Weights are changed in place, one record an epoch comes out.
No text, no scikit-learn, no decision when to stop: the caller stops by not asking for the next
epoch.
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
from skbert.engine.training.compact_embeddings import CompactVocabulary
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

# A batch with more tokens is taken in parts whose gradients are summed: the same step in less
# memory, 0.64 of Trainer's for BERT-base and texts of 128 tokens (bench_memory.py). Larger products
# are not faster on a CPU.
_MICRO_BATCH_TOKENS = 2048

#: Wraps the batches of an epoch, given its number from 1, to show its progress.
EpochProgress = Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; see `BertSentimentClassifier` for each meaning."""

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
    """What an epoch did.

    Attributes
    ----------
    epoch : int
        From 1.
    train_loss : float
        Mean loss over the epoch, in training mode; of classification the weighted mean
        cross-entropy, nats a text.
    learning_rate : float
        At the epoch's last step.
    seconds : float
        Wall-clock time.
    n_tokens : int
        Tokens seen, special ones included; there are no padding tokens.
    measures : dict of str to float
        What else the objective says of the epoch.
    """

    epoch: int
    train_loss: float
    learning_rate: float
    seconds: float
    n_tokens: int
    measures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give all values one after the other, those of `measures` after the loss."""
        values = asdict(self)
        measures = values.pop("measures")
        before = {name: values.pop(name) for name in ("epoch", "train_loss")}
        return before | measures | values


@dataclass(frozen=True)
class Loss:
    """What some texts of a batch add to the batch's loss.

    Attributes
    ----------
    part : Tensor of shape ()
        To be differentiated; the parts of a batch add up to its mean loss.
    sums : ndarray of shape (n_sums,), float64
        What adds up over parts and batches; `Objective.measures` says what it amounts to.
    """

    part: Tensor
    sums: np.ndarray


class Network(Protocol):
    """What the loop must know of that which it trains."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def parameters(self, n_frozen_layers: int = 0) -> list[nn.Parameter]:
        """Weights to train, each once."""


class Objective(Protocol):
    """A loss and the texts it is computed on."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each text of this epoch; shape (n_texts,). n_texts is always the same."""

    def begin_epoch(self) -> None:
        """Draw what is different in each epoch."""

    def loss(self, rows: np.ndarray, batch: np.ndarray, dropout: Dropout) -> Loss:
        """Compute what the texts `rows` add to the loss of the texts `batch`."""

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Say what sums amount to: "train_loss", the mean loss, and whatever else."""


class DivergenceError(ArithmeticError):
    """A loss or gradient was not finite; the weights are those before the step."""

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
    vocabulary: CompactVocabulary | None = None,
) -> Trainer:
    """Make a trainer for ``options.max_epochs`` epochs of `n_texts` texts each."""
    n_steps = options.max_epochs * -(-n_texts // options.batch_size)
    schedule = partial(
        learning_rate_factor, n_steps=n_steps, warmup_fraction=options.warmup_fraction
    )
    return Trainer(network, options, schedule, seed, vocabulary)


def open_ended_trainer(
    network: Network, n_texts: int, options: TrainingOptions, seed: np.random.SeedSequence
) -> Trainer:
    """Make a trainer for more epochs than are known, the first of them of `n_texts` texts."""
    n_steps = -(-n_texts // options.batch_size)
    n_warmup = n_warmup_steps(n_steps, options.warmup_fraction)
    return Trainer(network, options, partial(constant_after_warmup, n_warmup=n_warmup), seed)


class Trainer:
    """An optimizer with its schedule and random state, which takes one epoch after the other.

    Parameters
    ----------
    network : Network
    options : TrainingOptions
    schedule : callable
        Number of the step, from 0 -> factor of the learning rate.
    seed : numpy.random.SeedSequence
    vocabulary : CompactVocabulary or None
        Made of all texts that will come, or None to train the whole embedding table.
    """

    def __init__(
        self,
        network: Network,
        options: TrainingOptions,
        schedule: Callable[[int], float],
        seed: np.random.SeedSequence,
        vocabulary: CompactVocabulary | None = None,
    ) -> None:
        order_seed, dropout_seed = seed.spawn(2)
        self._order = np.random.default_rng(order_seed)
        self._device = network.device
        self._dropout = seeded_dropout(options.dropout, dropout_seed, self._device)
        self.options = options
        self._schedule = schedule
        self._vocabulary = vocabulary
        with self._steps_possible():
            self._parameters = network.parameters(options.n_frozen_layers)
        self._optimizer = new_adamw(self._parameters, options.weight_decay)
        self._token_budget = _MICRO_BATCH_TOKENS
        self.n_steps = self._n_epochs = 0
        self.was_interrupted = False
        self._learning_rate = 0.0

    def epoch(self, objective: Objective, progress: EpochProgress | None = None) -> EpochRecord:
        """Train on every text once, in a new order; without `progress` nothing is shown."""
        start = time.perf_counter()
        self.was_interrupted = True  # until it has ended
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
        """Moments of the optimizer, by number of the parameter; with `position`, its state."""
        moments = self._optimizer.state_dict()["state"]
        return {
            f"{number}.{name}": value
            for number, values in moments.items()
            for name, value in values.items()
        }

    def position(self) -> dict[str, Any]:
        """How far the training is, and where its random numbers are; of JSON types."""
        return {
            "n_steps": self.n_steps,
            "n_epochs": self._n_epochs,
            "token_budget": self._token_budget,
            "order": self._order.bit_generator.state,
            "dropout": getattr(self._dropout, "state", None),
        }

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Go on from `tensors` and `position` of another trainer, and the weights it had."""
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
        """Inside, the model has the compact vocabulary; outside, it is whole."""
        return self._vocabulary.in_place() if self._vocabulary else nullcontext()

    def step(self, objective: Objective, rows: np.ndarray) -> np.ndarray:
        """Take one optimizer step and return the sums of the loss before it, over `rows`."""
        options = self.options
        self._learning_rate = options.learning_rate * self._schedule(self.n_steps)
        set_learning_rate(self._optimizer, self._learning_rate)
        sums = self._accumulate_gradients(objective, rows)
        norm = gradient_norm(self._parameters)
        if not (np.isfinite(sums).all() and torch.isfinite(norm)):
            loss = objective.measures(sums)["train_loss"]
            raise DivergenceError(self.n_steps + 1, self._learning_rate, loss)
        clip_and_step(self._optimizer, norm, options.max_gradient_norm)
        if self._vocabulary:
            self._vocabulary.decay_absent(1 - self._learning_rate * options.weight_decay)
        self.n_steps += 1
        return sums

    def _accumulate_gradients(self, objective: Objective, rows: np.ndarray) -> np.ndarray:
        """Gradients of the mean loss of the batch, whatever the number of micro-batches."""
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
            f"Out of memory on {self._device}: the step is repeated in micro-batches of "
            f"{self._token_budget} tokens, which gives the same gradients more slowly. Lower "
            "max_length or choose a smaller model to avoid this."
        )

    def _backward(self, objective: Objective, rows: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Add the gradients of some texts of a batch; return the sums of their loss."""
        loss = objective.loss(rows, batch, self._dropout)
        loss.part.backward()
        return loss.sums
