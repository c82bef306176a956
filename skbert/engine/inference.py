"""Tokens -> one row of logits a text, in the caller's order; and what they are worth.

Longest texts come first, so that attention sees equal lengths; transformers' own pipeline gains 1.5
times from sorted texts (bench_predict.py). Equal texts are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.training import LabelledTexts, weighted_loss


@dataclass(frozen=True)
class Evaluation:
    """How well some texts are classified.

    Attributes
    ----------
    loss : float
        Weighted mean cross-entropy, nats a text, in evaluation mode.
    accuracy : float
        Weighted share of the texts whose highest logit is that of their label.
    """

    loss: float
    accuracy: float


def evaluate(classifier: TextClassifier, data: LabelledTexts) -> Evaluation:
    """Measure `classifier` on labelled texts, without changing it."""
    logits = predict_logits(classifier, data.tokens)
    rows = np.arange(len(logits))
    weights = data.weights.astype(np.float64)
    loss_sum = weighted_loss(torch.from_numpy(logits), data, rows)
    return Evaluation(
        loss=loss_sum.item() / float(weights.sum()),
        accuracy=float(weights[logits.argmax(axis=1) == data.labels].sum() / weights.sum()),
    )
