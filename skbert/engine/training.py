"""The training loop: epochs of shuffled batches, one optimizer step a batch.

Tokens and integer labels in; weights changed in place, one record an epoch out. No text, no
scikit-learn, no decision when to stop: the caller stops by not asking for the next epoch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skbert.engine.dropout import Dropout, seeded_dropout
from skbert.engine.frozen import FrozenLayers
from skbert.engine.heads import TextClassifier
from skbert.engine.optimizer import adamw, learning_rate_factor, set_learning_rate
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
    """Fine-tune the weights of `classifier`, yielding after each epoch.

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
    run = _Run(classifier, tokens, labels, dropout, options)
    for epoch in range(1, options.max_epochs + 1):
        start = time.perf_counter()
        loss_sum = 0.0
        with run.ready():
            for rows in progress(shuffled_batches(len(tokens), options.batch_size, order), epoch):
                loss_sum += run.step(rows)
        yield EpochRecord(
            epoch=epoch,
            train_loss=loss_sum / len(tokens),
            learning_rate=run.learning_rate,
            seconds=time.perf_counter() - start,
            n_tokens=len(tokens.ids),
        )


class _Run:
    """One training run: its optimizer, its schedule, and what makes its steps cheap."""

    def __init__(
        self,
        classifier: TextClassifier,
        tokens: Tokens,
        labels: np.ndarray,
        dropout: Dropout,
        options: TrainingOptions,
    ) -> None:
        self._classifier = classifier
        self._labels = labels
        self._dropout = dropout
        self._options = options
        self._tokens = tokens
        self._frozen: FrozenLayers | None = None
        self._vocabulary: CompactVocabulary | None = None
        if options.n_frozen_layers:
            self._frozen = FrozenLayers(classifier.encoder, options.n_frozen_layers, tokens)
        else:
            word_embeddings = classifier.encoder.embeddings.word_embeddings
            self._vocabulary = CompactVocabulary(word_embeddings, tokens)
            self._tokens = self._vocabulary.tokens
        with self.ready():
            self._parameters = classifier.parameters(options.n_frozen_layers)
        self._optimizer = adamw(self._parameters, options.weight_decay)
        self._token_budget = _MICRO_BATCH_TOKENS
        self._n_steps = options.max_epochs * -(-len(tokens) // options.batch_size)
        self._n_done = 0
        self.learning_rate = 0.0

    def ready(self) -> AbstractContextManager[None]:
        """Make steps possible inside; outside, the encoder is whole and can predict."""
        return self._vocabulary.in_place() if self._vocabulary else nullcontext()

    def step(self, rows: np.ndarray) -> float:
        """Take one optimizer step and return the summed loss of the texts before it."""
        options = self._options
        factor = learning_rate_factor(self._n_done, self._n_steps, options.warmup_fraction)
        self.learning_rate = options.learning_rate * factor
        set_learning_rate(self._optimizer, self.learning_rate)
        loss_sum = self._accumulate_gradients(rows)
        nn.utils.clip_grad_norm_(self._parameters, options.max_gradient_norm)
        self._optimizer.step()
        if self._vocabulary:
            self._vocabulary.decay_absent(1 - self.learning_rate * options.weight_decay)
        self._n_done += 1
        return loss_sum

    def _accumulate_gradients(self, rows: np.ndarray) -> float:
        """Gradients of the mean loss of the batch, whatever the number of micro-batches."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return sum(
                    self._backward(micro_rows, len(rows))
                    for micro_rows in split_by_tokens(
                        self._tokens.lengths, rows, self._token_budget
                    )
                )
            except torch.OutOfMemoryError:
                longest = int(self._tokens.lengths[rows].max())
                if self._token_budget <= longest:
                    raise
                self._token_budget = max(self._token_budget // 2, longest)
                warnings.warn(
                    f"Out of memory on {self._classifier.head.weight.device}: the step is "
                    f"repeated in micro-batches of {self._token_budget} tokens, which gives the "
                    "same gradients more slowly. Lower max_length or choose a smaller model to "
                    "avoid this.",
                    stacklevel=2,
                )

    def _backward(self, rows: np.ndarray, batch_size: int) -> float:
        """Add the gradients of some texts of a batch; return their summed loss."""
        batch = pack(self._tokens, rows)
        start = self._frozen.states(batch) if self._frozen else None
        logits = self._classifier.logits(batch, self._dropout, start)
        labels = torch.from_numpy(self._labels[batch.rows]).to(logits.device)
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        (loss_sum / batch_size).backward()
        return loss_sum.item()
