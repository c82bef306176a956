"""The training loop: epochs of shuffled batches, with one optimizer step per batch.

An `Objective` computes the loss. The loop changes the weights in place and returns one record per
epoch. It knows neither texts nor scikit-learn, and does not decide when to stop: the caller calls
`Trainer.epoch` for each epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbert.engine.model.batch import DeviceBatch
from skbert.engine.model.device import is_asynchronous
from skbert.engine.model.dropout import seeded_dropout, set_state, state_of
from skbert.engine.text.packing import Filling, shuffled_batches
from skbert.engine.training.ahead import ahead
from skbert.engine.training.compact_embeddings import CompactEmbeddings
from skbert.engine.training.data_parallel import SharedMicroBatches
from skbert.engine.training.distributed import Ranks
from skbert.engine.training.graphs import StepGraphs, choose_filling, pays
from skbert.engine.training.micro_batches import MicroBatches, Part
from skbert.engine.training.objective import Network, Objective
from skbert.engine.training.optimizer import (
    clip_and_step,
    constant_after_warmup,
    gradient_norm,
    learning_rate_factor,
    n_warmup_steps,
    new_adamw,
    set_learning_rate,
)
from skbert.engine.training.step_log import StepLog

#: Called after each optimizer step, to show the progress of an epoch, with the number of its steps
#: that have ended, and a function that computes their mean loss.
StepProgress = Callable[[int, Callable[[], float]], None]


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


class DivergenceError(ArithmeticError):
    """A loss or gradient was not finite; the weights did not change in this step."""

    def __init__(self, step: int, learning_rate: float, loss: float) -> None:
        super().__init__(
            f"The loss or a gradient was not finite in step {step} (loss {loss}, learning rate "
            f"{learning_rate:.3g}). Lower the learning rate, or check the weights of the model."
        )


def steps_per_epoch(n_texts: int, batch_size: int) -> int:
    """Count the optimizer steps of an epoch; the last batch may be smaller than the others."""
    return -(-n_texts // batch_size)


def planned_trainer(
    network: Network,
    n_texts: int,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
    embeddings: CompactEmbeddings | None = None,
) -> Trainer:
    """Make a trainer for ``options.max_epochs`` epochs of `n_texts` texts each."""
    n_steps = options.max_epochs * steps_per_epoch(n_texts, options.batch_size)
    schedule = partial(
        learning_rate_factor, n_steps=n_steps, warmup_fraction=options.warmup_fraction
    )
    return Trainer(network, options, schedule, seed, embeddings)


def open_ended_trainer(
    network: Network, n_texts: int, options: TrainingOptions, seed: np.random.SeedSequence
) -> Trainer:
    """Make a trainer for an unknown number of epochs; the first one has `n_texts` texts."""
    n_steps = steps_per_epoch(n_texts, options.batch_size)
    n_warmup = n_warmup_steps(n_steps, options.warmup_fraction)
    return Trainer(network, options, partial(constant_after_warmup, n_warmup=n_warmup), seed)


@dataclass(frozen=True)
class _PreparedStep:
    """The batch of one optimizer step, ready to be copied.

    Attributes
    ----------
    rows : ndarray of int64
        Its texts.
    parts : list of Part
        Its micro-batches.
    may_replay : bool
        Whether a CUDA graph may take the step.
    """

    rows: np.ndarray
    parts: list[Part]
    may_replay: bool


class Trainer:
    """An optimizer with its schedule and random state, which trains epoch by epoch.

    On a CUDA device, the host only starts work: it prepares batches in another thread, and learns
    at the end of an epoch what the losses were; see `StepLog` and `StepGraphs`.

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
        order_seed, self._dropout_seed = seed.spawn(2)
        self._order = np.random.default_rng(order_seed)
        self._network, self._device = network, network.device
        self._dropout = seeded_dropout(options.dropout, self._dropout_seed, self._device)
        self.options = options
        self._schedule = schedule
        self._embeddings = embeddings
        with self._steps_possible():
            self._parameters = network.parameters(options.n_frozen_layers)
        self._optimizer = new_adamw(self._parameters, options.weight_decay)
        self._log = StepLog(self._device)
        self._micro_batches = MicroBatches(network, self._parameters, self._dropout)
        # `_may_replay` ends if memory does not suffice for graphs.
        self._fills = self._may_replay = is_asynchronous(self._device) and network.is_replayable
        self._graphs: StepGraphs | None = None
        self._fillings: set[Filling] = set()
        self.n_steps = self._n_epochs = self._first_step = 0
        self.was_interrupted = self._is_shared = False

    def epoch(self, objective: Objective, progress: StepProgress | None = None) -> EpochRecord:
        """Train on every text once, in a new order; tell `progress` about each step."""
        start = time.perf_counter()
        self.was_interrupted = True  # until the epoch has ended
        self._n_epochs += 1
        objective.begin_epoch()
        batches = shuffled_batches(len(objective.lengths), self.options.batch_size, self._order)
        with self._steps_possible():
            sums = self._take_steps(objective, batches, progress)
        self.was_interrupted = False
        measures = objective.measures(sums)
        return EpochRecord(
            epoch=self._n_epochs,
            train_loss=measures.pop("train_loss"),
            learning_rate=self._learning_rate(self.n_steps - 1),
            seconds=time.perf_counter() - start,
            n_tokens=int(objective.lengths.sum()),
            measures=measures,
        )

    @contextmanager
    def shared_by(self, ranks: Ranks | None) -> Iterator[None]:
        """Share the steps in this block with other ranks; None shares with nobody.

        All ranks start with the weights of rank 0, and have the same weights after each step.
        """
        if ranks is None:
            yield
            return
        dropout = self._dropout
        if not self._network.is_packed and not ranks.is_first:
            seed = self._dropout_seed
            key = (*seed.spawn_key, ranks.rank, self.n_steps)
            seed = np.random.SeedSequence(seed.entropy, spawn_key=key)
            dropout = seeded_dropout(self.options.dropout, seed, self._device)
        alone, graphs = self._micro_batches, (self._fills, self._may_replay)
        shared = SharedMicroBatches(ranks, self._network, self._parameters, dropout)
        self._micro_batches, self._is_shared = shared, True
        self._fills = self._may_replay = False
        try:
            yield
        finally:
            self._micro_batches, self._is_shared = alone, False
            self._fills, self._may_replay = graphs
            shared.leave()

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
            "token_budget": self._micro_batches.token_budget,
            "order": self._order.bit_generator.state,
            "dropout": state_of(self._dropout),
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
        self._micro_batches.token_budget = position["token_budget"]
        self._order.bit_generator.state = position["order"]
        set_state(self._dropout, position["dropout"])

    def _steps_possible(self) -> AbstractContextManager[None]:
        """Let the model use the compact embeddings inside the block, if there is one."""
        return self._embeddings.in_place() if self._embeddings else nullcontext()

    def _learning_rate(self, step: int) -> float:
        return self.options.learning_rate * self._schedule(step)

    def _take_steps(
        self,
        objective: Objective,
        batches: Iterable[np.ndarray],
        progress: StepProgress | None,
    ) -> np.ndarray:
        """Take one optimizer step for each batch, and return the sums of the loss."""
        prepare = partial(self._prepare, objective)
        self._first_step = self.n_steps
        self._log.begin_epoch()
        try:
            in_order = ahead if is_asynchronous(self._device) else map
            for prepared in in_order(prepare, batches):
                self.step(objective, prepared)
                self.n_steps += 1
                if self._is_shared and is_asynchronous(self._device):
                    self._log.failure()  # ranks learn of it at different steps: end the epoch first
                else:
                    self._raise_if_failed(objective)
                if progress and (finished := self._log.finished):
                    progress(finished.n, partial(_mean_loss, objective, finished.sums))
            self._raise_if_failed(objective, wait=True)
            return self._log.totals()
        finally:
            self._decay_absent_words()

    def _prepare(self, objective: Objective, rows: np.ndarray) -> _PreparedStep:
        """Collect the batch of a step. On a CUDA device, another thread calls this."""
        lengths = objective.lengths
        n_tokens, longest = int(lengths[rows].sum()), int(lengths.max())
        parts = self._micro_batches.plan(lengths, rows)
        filling, may_replay = None, False
        if self._fills and len(parts) == 1:
            may_replay = pays(n_tokens, self._parameters)
            if may_replay:
                filling = choose_filling(n_tokens, longest, self._parameters, self._fillings)
            else:  # bfloat16 products of aligned sizes are more exact
                filling = Filling.of(n_tokens, longest, step=64)
        prepared = self._micro_batches.prepare(objective, parts, rows, filling)
        return _PreparedStep(rows, prepared, may_replay)

    def step(self, objective: Objective, prepared: _PreparedStep) -> None:
        """Take one optimizer step."""
        set_learning_rate(self._optimizer, self._learning_rate(self.n_steps))
        if prepared.may_replay and self._may_replay:
            before = state_of(self._dropout)
            try:
                self._graphs_of(objective).take(
                    partial(self._whole_step, objective), prepared.parts[0].staged
                )
                return
            except torch.OutOfMemoryError:
                self._graphs_of(objective).free()
                self._graphs, self._may_replay = None, False
                set_state(self._dropout, before)
        self._update(objective, self._accumulate_gradients(objective, prepared))

    def _graphs_of(self, objective: Objective) -> StepGraphs:
        if self._graphs is None or not self._graphs.belongs_to(objective):
            self._graphs = StepGraphs(objective, self._dropout, self._device)
        return self._graphs

    def _whole_step(self, objective: Objective, batch: DeviceBatch) -> None:
        """Take a step of one micro-batch, without reading results on the host."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = objective.loss(batch, self._dropout)
        loss.part.backward()
        self._update(objective, loss.sums)
        self._optimizer.zero_grad(set_to_none=True)

    def _accumulate_gradients(self, objective: Objective, prepared: _PreparedStep) -> Tensor:
        """Compute the gradients of the batch's mean loss, and return the sums of the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        return self._micro_batches.accumulate(objective, prepared.parts, prepared.rows)

    def _update(self, objective: Objective, sums: Tensor) -> None:
        """Change the weights, unless the loss or a gradient is not finite."""
        norm = gradient_norm(self._parameters)
        self._log.record(sums, norm)
        if is_asynchronous(self._device):
            clip_and_step(self._optimizer, norm, self.options.max_gradient_norm, self._log.failed)
        else:
            self._raise_if_failed(objective)
            clip_and_step(self._optimizer, norm, self.options.max_gradient_norm)

    def _raise_if_failed(self, objective: Objective, wait: bool = False) -> None:
        """Raise an error for the epoch's first step whose loss or gradients were not finite."""
        failed = self._log.failure(wait)
        if failed is None:
            return
        self.n_steps = self._first_step + failed.n_before
        loss = objective.measures(failed.sums)["train_loss"]
        raise DivergenceError(self.n_steps + 1, self._learning_rate(self.n_steps), loss)

    def _decay_absent_words(self) -> None:
        """Decay the words that are not in the compact embeddings, once per step of the epoch."""
        if not self._embeddings:
            return
        failed = self._log.failure(wait=True)
        if failed is not None:
            self.n_steps = self._first_step + failed.n_before
        for step in range(self._first_step, self.n_steps):
            factor = 1 - self._learning_rate(step) * self.options.weight_decay
            self._embeddings.decay_absent(factor)


def _mean_loss(objective: Objective, sums: np.ndarray) -> float:
    return objective.measures(sums)["train_loss"]
