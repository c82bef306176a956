"""The training loop: epochs of shuffled batches, one optimizer step a batch.

Tokens and integer labels in; weights changed in place, one record an epoch out. No text, no
scikit-learn, no decision when to stop: the caller stops by not asking for the next epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skbert.engine.dropout import Dropout, seeded_dropout
from skbert.engine.heads import TextClassifier
from skbert.engine.optimizer import adamw, learning_rate_factor, set_learning_rate
from skbert.engine.packing import PackedBatch, pack, shuffled_batches
from skbert.engine.tokens import Tokens

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
    max_gradient_norm: float = 1.0


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did.

    Attributes
    ----------
    epoch : int
        From 1.
    train_loss : float
        Mean cross-entropy (nats a text) over the epoch, in training mode.
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


def train(
    classifier: TextClassifier,
    tokens: Tokens,
    labels: np.ndarray,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
    progress: Progress,
) -> Iterator[EpochRecord]:
    """Fine-tune all weights of `classifier`, yielding after each epoch.

    Parameters
    ----------
    classifier : TextClassifier
        Changed in place.
    tokens : Tokens
        n_texts tokenised texts.
    labels : ndarray of shape (n_texts,), int64
        Class numbers, from 0.
    options : TrainingOptions
    seed : numpy.random.SeedSequence
        Decides the order of the texts and the dropout.
    progress : callable
    """
    order_seed, dropout_seed = seed.spawn(2)
    order = np.random.default_rng(order_seed)
    dropout = seeded_dropout(options.dropout, dropout_seed, classifier.head.weight.device)
    step = _Stepper(classifier, dropout, options, n_texts=len(tokens))
    for epoch in range(1, options.max_epochs + 1):
        start = time.perf_counter()
        loss_sum = 0.0
        for rows in progress(shuffled_batches(len(tokens), options.batch_size, order), epoch):
            batch = pack(tokens, rows)
            loss_sum += step(batch, labels[batch.rows]) * len(rows)
        yield EpochRecord(
            epoch=epoch,
            train_loss=loss_sum / len(tokens),
            learning_rate=step.learning_rate,
            seconds=time.perf_counter() - start,
            n_tokens=len(tokens.ids),
        )


class _Stepper:
    """One optimizer step after the other, each with the learning rate of its turn."""

    def __init__(
        self, classifier: TextClassifier, dropout: Dropout, options: TrainingOptions, n_texts: int
    ) -> None:
        self._classifier = classifier
        self._dropout = dropout
        self._options = options
        self._optimizer = adamw(classifier.named_parameters(), options.weight_decay)
        self._parameters = [parameter for _, parameter in classifier.named_parameters()]
        self._n_steps = options.max_epochs * -(-n_texts // options.batch_size)
        self._n_done = 0
        self.learning_rate = 0.0

    def __call__(self, batch: PackedBatch, labels: np.ndarray) -> float:
        """Take one step and return the mean loss of the batch before it."""
        options = self._options
        factor = learning_rate_factor(self._n_done, self._n_steps, options.warmup_fraction)
        self.learning_rate = options.learning_rate * factor
        set_learning_rate(self._optimizer, self.learning_rate)

        logits = self._classifier.logits(batch, self._dropout)
        loss = F.cross_entropy(logits, torch.from_numpy(labels).to(logits.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, options.max_gradient_norm)
        self._optimizer.step()
        self._n_done += 1
        return loss.item()
