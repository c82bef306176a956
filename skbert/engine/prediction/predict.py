"""Tokens -> one row of logits or one vector per text, in the caller's order.

The longest texts come first, so that attention computes texts of equal length together;
transformers' own pipeline is 1.5 times as fast with sorted texts (bench_predict.py). Equal texts
are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from skbert.engine.model.device import to_device
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import constant_weights
from skbert.engine.prediction.parts import BatchProgress, compute_parts, token_budget, with_progress
from skbert.engine.text.packing import PackedBatch, distinct_texts, pack, split_by_tokens
from skbert.engine.text.tokens import Tokens


def predict_logits(
    classifier: TextClassifier, tokens: Tokens, progress: BatchProgress | None = None
) -> np.ndarray:
    """Compute the logits of each text, without dropout and without gradients.

    Equal texts are computed once.

    Parameters
    ----------
    classifier : TextClassifier
    tokens : Tokens
    progress : callable or None
        Shows progress; None shows nothing.

    Returns
    -------
    ndarray of shape (n_texts, n_classes), float32
    """
    return _predict(classifier, tokens, classifier.logits, classifier.head.out_features, progress)


def predict_vectors(classifier: TextClassifier, tokens: Tokens) -> np.ndarray:
    """Compute what the head of a classifier reads: one vector per text; see `predict_logits`.

    Returns
    -------
    ndarray of shape (n_texts, d_model), float32
    """
    return _predict(classifier, tokens, classifier.pooled, classifier.head.in_features)


def _predict(
    classifier: TextClassifier,
    tokens: Tokens,
    compute: Callable[[PackedBatch], torch.Tensor],
    width: int,
    progress: BatchProgress | None = None,
) -> np.ndarray:
    distinct, stands_for = distinct_texts(tokens)
    rows = torch.empty(len(tokens), width, device=classifier.device, dtype=torch.float32)
    parts = split_by_tokens(tokens.lengths, distinct, token_budget(classifier.device))
    with constant_weights(classifier.device, classifier.precision):
        fill_rows(rows, tokens, with_progress(parts, progress), compute)
    return rows.cpu().numpy()[stands_for]


def fill_rows(
    out: torch.Tensor,
    tokens: Tokens,
    parts: Iterable[np.ndarray],
    compute: Callable[[PackedBatch], torch.Tensor],
) -> None:
    """Compute each part as one batch, and write its results into the rows of its texts.

    Parameters
    ----------
    out : Tensor of shape (n_texts, d)
        Changed in place. It is no inference tensor, so the caller can use it without restrictions.
    tokens : Tokens
    parts : iterable of ndarray of int64
        The rows of each batch.
    compute : callable
        PackedBatch -> Tensor of shape (n_texts of the batch, d).
    """

    def compute_rows(rows: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        batch = pack(tokens, rows)
        return batch.rows, compute(batch).to(out.device, out.dtype)

    with torch.inference_mode():
        for _, (rows, results) in compute_parts(parts, compute_rows):
            out.index_copy_(0, to_device(rows, out.device), results)
