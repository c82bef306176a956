"""The training loop: epochs of shuffled batches, one optimizer step a batch.

Tokens and integer labels in; weights changed in place, one record an epoch out. No text, no
scikit-learn, no decision when to stop: the caller stops by not asking for the next epoch.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skbert.engine.dropout import seeded_dropout
from skbert.engine.frozen import FrozenLayers
from skbert.engine.heads import TextClassifier
from skbert.engine.optimizer import (
    adamw,
    constant_after_warmup,
    learning_rate_factor,
    n_warmup_steps,
    set_learning_rate,
)
from skbert.engine.packing import pack, shuffled_batches, split_by_tokens
from skbert.engine.tokens import Tokens
from skbert.engine.vocabulary import CompactVocabulary

# A batch with more tokens is taken in parts whose gradients are summed: the same step in less
# memory. Larger products are not faster on a CPU.
_MICRO_BATCH_TOKENS = 2048

#: Wraps the batches of an epoch, given its number from 1, to show how far it is.
Progress = Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]


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
class LabelledTexts:
    """What to learn from, or to be measured on.

    Attributes
    ----------
    tokens : Tokens
        n_texts tokenised texts.
    labels : ndarray of shape (n_texts,), int64
        Class numbers, from 0.
    weights : ndarray of shape (n_texts,), float32
        How much each text counts; 1 on average.
    """

    tokens: Tokens
    labels: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did.

    Attributes
    ----------
    epoch : int
        From 1.
    train_loss : float
        Weighted mean cross-entropy (nats a text) over the epoch, in training mode.
    learning_rate : float
        At the epoch's last step.
    seconds : float
        Wall-clock time.
    n_tokens : int
        Tokens seen, special ones included; there are no padding tokens.
    """

    epoch: int
    train_loss: float
    learning_rate: float
    seconds: float
    n_tokens: int


class DivergenceError(ArithmeticError):
    """A loss or gradient was not finite; the weights are those before the step."""

    def __init__(self, step: int, learning_rate: float, loss: float) -> None:
        super().__init__(
            f"The loss or a gradient was not finite in step {step} (loss {loss}, learning rate "
            f"{learning_rate:.3g}). Lower the learning rate, or check the weights of the model."
        )


def train(
    classifier: TextClassifier,
    data: LabelledTexts,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
    progress: Progress,
) -> Iterator[EpochRecord]:
    """Fine-tune the weights of `classifier`, yielding after each epoch.

    Parameters
    ----------
    classifier : TextClassifier
        Changed in place; between two epochs it is whole and can predict.
    data : LabelledTexts
    options : TrainingOptions
    seed : numpy.random.SeedSequence
        Decides the order of the texts and the dropout.
    progress : callable
    """
    run = TrainingRun(classifier, data, options, seed)
    for _ in range(options.max_epochs):
        yield run.epoch(progress)


class TrainingRun:
    """A training whose number of steps is known, one epoch after the other; see `train`.

    Parameters
    ----------
    classifier, data, options, seed
        As in `train`.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        data: LabelledTexts,
        options: TrainingOptions,
        seed: np.random.SeedSequence,
    ) -> None:
        vocabulary = None
        if not options.n_frozen_layers:
            word_embeddings = classifier.encoder.embeddings.word_embeddings
            vocabulary = CompactVocabulary(word_embeddings, data.tokens)
            data = replace(data, tokens=vocabulary.tokens)
        n_steps = options.max_epochs * -(-len(data.tokens) // options.batch_size)
        schedule = partial(
            learning_rate_factor, n_steps=n_steps, warmup_fraction=options.warmup_fraction
        )
        self.trainer = Trainer(classifier, options, schedule, seed, vocabulary)
        self._data = data
        self._frozen = self.trainer.frozen_layers(data)

    def epoch(self, progress: Progress) -> EpochRecord:
        """Take every text once, in a new order."""
        return self.trainer.epoch(self._data, self._frozen, progress)


def open_ended_trainer(
    classifier: TextClassifier,
    data: LabelledTexts,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
) -> Trainer:
    """Make a trainer for more epochs than are known, the first of them on `data`."""
    n_steps = -(-len(data.tokens) // options.batch_size)
    n_warmup = n_warmup_steps(n_steps, options.warmup_fraction)
    return Trainer(classifier, options, partial(constant_after_warmup, n_warmup=n_warmup), seed)


class Trainer:
    """An optimizer with its schedule and random state, which takes one epoch after the other.

    Parameters
    ----------
    classifier : TextClassifier
    options : TrainingOptions
    schedule : callable
        Number of the step, from 0 -> factor of the learning rate.
    seed : numpy.random.SeedSequence
    vocabulary : CompactVocabulary or None
        Made of all texts that will come, or None to train the whole embedding table.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        options: TrainingOptions,
        schedule: Callable[[int], float],
        seed: np.random.SeedSequence,
        vocabulary: CompactVocabulary | None = None,
    ) -> None:
        order_seed, dropout_seed = seed.spawn(2)
        self._order = np.random.default_rng(order_seed)
        self._dropout = seeded_dropout(options.dropout, dropout_seed, classifier.head.weight.device)
        self._classifier = classifier
        self.options = options
        self._schedule = schedule
        self._vocabulary = vocabulary
        with self._steps_possible():
            self._parameters = classifier.parameters(options.n_frozen_layers)
        self._optimizer = adamw(self._parameters, options.weight_decay)
        self._token_budget = _MICRO_BATCH_TOKENS
        self.n_steps = self._n_epochs = 0
        self.was_interrupted = False
        self._learning_rate = 0.0

    def frozen_layers(self, data: LabelledTexts) -> FrozenLayers | None:
        """Compute what leaves the frozen layers, if there are any."""
        n_frozen = self.options.n_frozen_layers
        return FrozenLayers(self._classifier.encoder, n_frozen, data.tokens) if n_frozen else None

    def epoch(
        self, data: LabelledTexts, frozen: FrozenLayers | None, progress: Progress
    ) -> EpochRecord:
        """Take every text once, in a new order."""
        start = time.perf_counter()
        self.was_interrupted = True  # until it has ended
        self._n_epochs += 1
        n_texts = len(data.tokens)
        batches = shuffled_batches(n_texts, self.options.batch_size, self._order)
        with self._steps_possible():
            loss_sum = sum(
                self.step(data, rows, frozen) for rows in progress(batches, self._n_epochs)
            )
        self.was_interrupted = False
        return EpochRecord(
            epoch=self._n_epochs,
            train_loss=loss_sum / n_texts,
            learning_rate=self._learning_rate,
            seconds=time.perf_counter() - start,
            n_tokens=len(data.tokens.ids),
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

    def step(
        self, data: LabelledTexts, rows: np.ndarray, frozen: FrozenLayers | None = None
    ) -> float:
        """Take one optimizer step and return the weighted loss before it, summed over `rows`."""
        options = self.options
        self._learning_rate = options.learning_rate * self._schedule(self.n_steps)
        set_learning_rate(self._optimizer, self._learning_rate)
        loss_sum = self._accumulate_gradients(data, rows, frozen)
        norm = nn.utils.clip_grad_norm_(self._parameters, options.max_gradient_norm)
        if not (math.isfinite(loss_sum) and torch.isfinite(norm)):
            raise DivergenceError(self.n_steps + 1, self._learning_rate, loss_sum / len(rows))
        self._optimizer.step()
        if self._vocabulary:
            self._vocabulary.decay_absent(1 - self._learning_rate * options.weight_decay)
        self.n_steps += 1
        return loss_sum

    def _accumulate_gradients(
        self, data: LabelledTexts, rows: np.ndarray, frozen: FrozenLayers | None
    ) -> float:
        """Gradients of the mean loss of the batch, whatever the number of micro-batches."""
        lengths = data.tokens.lengths
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return sum(
                    self._backward(data, micro_rows, frozen, batch_size=len(rows))
                    for micro_rows in split_by_tokens(lengths, rows, self._token_budget)
                )
            except torch.OutOfMemoryError:
                longest_text = int(lengths[rows].max())
                if self._token_budget <= longest_text:
                    raise
                self._halve_micro_batches(longest_text)

    def _halve_micro_batches(self, longest_text: int) -> None:
        self._token_budget = max(self._token_budget // 2, longest_text)
        warnings.warn(
            f"Out of memory on {self._classifier.head.weight.device}: the step is repeated in "
            f"micro-batches of {self._token_budget} tokens, which gives the same gradients more "
            "slowly. Lower max_length or choose a smaller model to avoid this.",
            stacklevel=2,
        )

    def _backward(
        self, data: LabelledTexts, rows: np.ndarray, frozen: FrozenLayers | None, batch_size: int
    ) -> float:
        """Add the gradients of some texts of a batch; return their summed loss."""
        batch = pack(data.tokens, rows)
        start = frozen.states(batch) if frozen else None
        logits = self._classifier.logits(batch, self._dropout, start)
        loss_sum = weighted_loss(logits, data, batch.rows, self.options.label_smoothing)
        (loss_sum / batch_size).backward()
        return loss_sum.item()


def weighted_loss(
    logits: Tensor, data: LabelledTexts, rows: np.ndarray, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of `rows`, each times its weight, summed; logits are in their order."""
    labels = torch.from_numpy(data.labels[rows]).to(logits.device)
    weights = torch.from_numpy(data.weights[rows]).to(logits.device)
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return losses @ weights
