"""Tokens -> one row of logits a text, in the caller's order; and what they are worth."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from skbert.engine.heads import TextClassifier
from skbert.engine.packing import budgeted_batches, pack
from skbert.engine.tokens import Tokens
from skbert.engine.training import LabelledTexts, weighted_loss

# Large enough for the matrix products to run at full speed, small enough that a layer's
# activations (4096 x 4 d_model floats) stay near the processor.
_TOKEN_BUDGET = 4096


def predict_logits(
    classifier: TextClassifier, tokens: Tokens, token_budget: int = _TOKEN_BUDGET
) -> np.ndarray:
    """Logits of each text, without dropout and without gradients; equal texts only once.

    Parameters
    ----------
    classifier : TextClassifier
    tokens : Tokens
    token_budget : int
        The most tokens in a batch, unless one text alone has more.

    Returns
    -------
    ndarray of shape (n_texts, n_classes), float32
    """
    distinct, inverse = _distinct(tokens)
    logits = np.empty((len(tokens), classifier.head.out_features), dtype=np.float32)
    with torch.inference_mode():
        for part in budgeted_batches(tokens.lengths[distinct], token_budget):
            batch = pack(tokens, distinct[part])
            logits[batch.rows] = classifier.logits(batch).float().cpu().numpy()
    return logits[inverse]


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


def _distinct(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the distinct texts, and for each text the row that stands for it."""
    first_row: dict[bytes, int] = {}
    content = np.stack([tokens.ids, tokens.segment_ids], axis=1)
    stands_for = [
        first_row.setdefault(content[start:stop].tobytes(), row)
        for row, (start, stop) in enumerate(itertools.pairwise(tokens.offsets.tolist()))
    ]
    return np.array([*first_row.values()], dtype=np.int64), np.array(stands_for, dtype=np.int64)
