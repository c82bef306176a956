"""Labelled texts -> loss and trained weights: the `Objective` of fine-tuning, and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skbert.engine.model.batch import DeviceBatch, HostBatch, host_batch
from skbert.engine.model.dropout import Dropout
from skbert.engine.model.families import family_of, word_embeddings
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import drop_filling
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.packing import Filling, pack
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.compact_embeddings import CompactEmbeddings
from skbert.engine.training.frozen import FrozenLayers
from skbert.engine.training.loop import (
    EpochRecord,
    StepProgress,
    TrainingOptions,
    planned_trainer,
)
from skbert.engine.training.objective import Loss, loss_sums


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and labels for training or evaluation.

    Attributes
    ----------
    tokens : Tokens
        n_texts tokenised texts.
    labels : ndarray of shape (n_texts,), int64
        Class numbers, from 0.
    weights : ndarray of shape (n_texts,), float32
        How much each text counts; 1 on average over the training texts. Before the training texts
        are selected, float64 and at most 1.
    """

    tokens: Tokens
    labels: np.ndarray
    weights: np.ndarray


class Classification:
    """Weighted cross-entropy of labelled texts: the `Objective` of fine-tuning.

    Parameters
    ----------
    classifier : TextClassifier
    data : LabelledTexts
    options : TrainingOptions
        If layers are frozen, the constructor computes their output once.
    """

    def __init__(
        self, classifier: TextClassifier, data: LabelledTexts, options: TrainingOptions
    ) -> None:
        self._classifier = classifier
        self._data = data
        self._label_smoothing = options.label_smoothing
        n_frozen = options.n_frozen_layers
        self._frozen = (
            FrozenLayers(classifier.encoder, n_frozen, data.tokens, classifier.precision)
            if n_frozen
            else None
        )

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each text; shape (n_texts,)."""
        return self._data.tokens.lengths

    def begin_epoch(self) -> None:
        """Do nothing: epochs differ only in the order of the texts."""

    def prepare(
        self, rows: np.ndarray, batch: np.ndarray, filling: Filling | None = None
    ) -> HostBatch:
        """Collect the tokens, labels and weights of `rows`, and the number of texts in `batch`."""
        tokens = self._data.tokens
        packed = pack(tokens, rows)
        others = {} if self._frozen is None else self._frozen.index(packed, filling)
        return host_batch(
            self._classifier.encoder,
            packed,
            filling,
            labels=self._data.labels[packed.rows].astype(np.int32),
            weights=self._data.weights[packed.rows],
            n_in_batch=np.array([len(batch)], dtype=np.float32),
            **others,
        )

    def loss(self, batch: DeviceBatch, dropout: Dropout) -> Loss:
        """Sum the weighted losses of the texts, and divide by the number of texts in the batch."""
        tensors, n_texts = batch.tensors, batch.host.n_texts
        start = self._frozen.states(batch) if self._frozen else None
        logits = drop_filling(self._classifier.logits(batch, dropout, start), n_texts)
        loss_sum = weighted_loss(
            logits, tensors["labels"], tensors["weights"], self._label_smoothing
        )
        return Loss(loss_sum / tensors["n_in_batch"][0], loss_sums(loss_sum, n_texts))

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Compute the mean loss in nats per text."""
        loss_sum, n_texts = sums.tolist()
        return {"train_loss": loss_sum / n_texts}


class TrainingRun:
    """Fine-tuning with a known number of steps, epoch by epoch.

    Parameters
    ----------
    classifier : TextClassifier
        Changed in place. Between two epochs it is complete and can predict.
    data : LabelledTexts
    options : TrainingOptions
    seed : numpy.random.SeedSequence
        Determines the order of the texts and the dropout.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        data: LabelledTexts,
        options: TrainingOptions,
        seed: np.random.SeedSequence,
    ) -> None:
        embeddings = None
        # The forward of a padded family may derive positions from the ids.
        if not options.n_frozen_layers and not family_of(classifier.encoder).padded:
            embeddings = CompactEmbeddings(word_embeddings(classifier.encoder), data.tokens)
            data = replace(data, tokens=embeddings.tokens)
        self.trainer = planned_trainer(classifier, len(data.tokens), options, seed, embeddings)
        self._objective = Classification(classifier, data, options)

    def epoch(self, progress: StepProgress | None = None) -> EpochRecord:
        """Train on every text once, in a new order."""
        return self.trainer.epoch(self._objective, progress)


def weighted_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Sum the weighted cross-entropies of texts: (n_texts, n_classes), (n_texts,), (n_texts,)."""
    losses = F.cross_entropy(
        logits, labels.long(), reduction="none", label_smoothing=label_smoothing
    )
    return losses @ weights


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy on some texts.

    Attributes
    ----------
    loss : float
        Weighted mean cross-entropy in nats per text, in evaluation mode.
    accuracy : float
        Weighted share of the texts with the highest logit at their label.
    """

    loss: float
    accuracy: float


def evaluate(classifier: TextClassifier, data: LabelledTexts) -> Evaluation:
    """Evaluate `classifier` on labelled texts, without changing it."""
    logits = predict_logits(classifier, data.tokens)
    weights = data.weights.astype(np.float64)
    loss_sum = weighted_loss(
        torch.from_numpy(logits), torch.from_numpy(data.labels), torch.from_numpy(data.weights)
    )
    return Evaluation(
        loss=loss_sum.item() / float(weights.sum()),
        accuracy=float(weights[logits.argmax(axis=1) == data.labels].sum() / weights.sum()),
    )
