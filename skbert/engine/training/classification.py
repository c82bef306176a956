"""Labelled texts -> loss and trained weights: the `Objective` of fine-tuning, and evaluation.

What the labels are, and what the loss is, `criteria` says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from skbert.engine.model.batch import DeviceBatch, HostBatch, host_batch
from skbert.engine.model.dropout import Dropout
from skbert.engine.model.families import family_of, word_embeddings
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import drop_filling
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.packing import Filling, pack
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.compact_embeddings import CompactEmbeddings
from skbert.engine.training.criteria import CROSS_ENTROPY, Criterion
from skbert.engine.training.distributed import Ranks
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
    labels : ndarray of shape (n_texts,) or (n_texts, n_labels)
        int64: class or level numbers, from 0. float32: standardised numbers, or 0 and 1 for each
        of several labels.
    weights : ndarray of shape (n_texts,), float32
        How much each text counts; 1 on average over the training texts. Before the training texts
        are selected, float64 and at most 1.
    """

    tokens: Tokens
    labels: np.ndarray
    weights: np.ndarray


class Classification:
    """Weighted loss of labelled texts: the `Objective` of fine-tuning.

    Parameters
    ----------
    classifier : TextClassifier
    data : LabelledTexts
    options : TrainingOptions
        If layers are frozen, the constructor computes their output once.
    criterion : Criterion
    """

    def __init__(
        self,
        classifier: TextClassifier,
        data: LabelledTexts,
        options: TrainingOptions,
        criterion: Criterion = CROSS_ENTROPY,
    ) -> None:
        self._classifier = classifier
        self._data = data
        self._criterion = criterion
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
            labels=_flat(self._data.labels[packed.rows]),
            weights=self._data.weights[packed.rows],
            n_in_batch=np.array([len(batch)], dtype=np.float32),
            **others,
        )

    def loss(self, batch: DeviceBatch, dropout: Dropout) -> Loss:
        """Sum the weighted losses of the texts, and divide by the number of texts in the batch."""
        tensors, n_texts = batch.tensors, batch.host.n_texts
        start = self._frozen.states(batch) if self._frozen else None
        logits = drop_filling(self._classifier.logits(batch, dropout, start), n_texts)
        labels = tensors["labels"].view(n_texts, *self._data.labels.shape[1:])
        losses = self._criterion.losses(logits, labels, self._label_smoothing)
        loss_sum = losses @ tensors["weights"]
        return Loss(loss_sum / tensors["n_in_batch"][0], loss_sums(loss_sum, n_texts))

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Compute the mean loss per text."""
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
    criterion : Criterion
    """

    def __init__(
        self,
        classifier: TextClassifier,
        data: LabelledTexts,
        options: TrainingOptions,
        seed: np.random.SeedSequence,
        criterion: Criterion = CROSS_ENTROPY,
    ) -> None:
        embeddings = None
        # The forward of a padded family may derive positions from the ids.
        if not options.n_frozen_layers and not family_of(classifier.encoder).padded:
            embeddings = CompactEmbeddings(word_embeddings(classifier.encoder), data.tokens)
            data = replace(data, tokens=embeddings.tokens)
        self.trainer = planned_trainer(classifier, len(data.tokens), options, seed, embeddings)
        self._objective = Classification(classifier, data, options, criterion)

    def epoch(self, progress: StepProgress | None = None) -> EpochRecord:
        """Train on every text once, in a new order."""
        return self.trainer.epoch(self._objective, progress)


def _flat(labels: np.ndarray) -> np.ndarray:
    """Convert labels to the form in which they travel to the device: flat, with 32 bits."""
    return labels.ravel().astype(np.float32 if labels.dtype.kind == "f" else np.int32)


@dataclass(frozen=True)
class Evaluation:
    """Loss and score on some texts.

    Attributes
    ----------
    loss : float
        Weighted mean loss per text, in evaluation mode.
    score : float
        See `Criterion.score`.
    """

    loss: float
    score: float


def evaluate(
    classifier: TextClassifier,
    data: LabelledTexts,
    criterion: Criterion = CROSS_ENTROPY,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate `classifier` on labelled texts, without changing it; all `ranks` share the work."""

    def logits_of(rows: np.ndarray) -> np.ndarray:
        return predict_logits(classifier, data.tokens.take(rows))

    if ranks is None:
        logits = predict_logits(classifier, data.tokens)
    else:
        logits = ranks.compute_rows(data.tokens.lengths, logits_of)
    losses = criterion.losses(torch.from_numpy(logits), torch.from_numpy(data.labels), 0.0)
    weights = data.weights.astype(np.float64)
    found = Evaluation(
        loss=(losses @ torch.from_numpy(data.weights)).item() / float(weights.sum()),
        score=criterion.score(logits, data.labels, weights),
    )
    return found if ranks is None else ranks.from_first(found)  # machines round differently
