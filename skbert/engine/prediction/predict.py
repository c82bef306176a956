"""Tokens -> one row of logits or one vector per text, in the caller's order.

The longest texts come first, so that attention computes texts of equal length together;
transformers' own pipeline is 1.5 times as fast with sorted texts (bench_predict.py). Equal texts
are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import FULL_ROWS, constant_weights
from skbert.engine.text.packing import PackedBatch, distinct_texts, pack, split_by_tokens
from skbert.engine.text.tokens import Tokens

#: Maximum number of tokens in a batch, unless one text alone has more. skbert uses oneDNN for this
#: number. It is large enough for matrix products at full speed, and small enough that a layer's
#: activations stay near the processor and the allocator reuses their memory. Predicting 1,024
#: sentences with MiniLM on two threads of an Intel Xeon takes 2.09 s with 512, 1.91 with 1024, 1.84
#: with 2048, and 2.00 with 4096.
TOKEN_BUDGET = FULL_ROWS


def predict_logits(classifier: TextClassifier, tokens: Tokens) -> np.ndarray:
    """Compute the logits of each text, without dropout and without gradients.

    Equal texts are computed once.

    Parameters
    ----------
    classifier : TextClassifier
    tokens : Tokens

    Returns
    -------
    ndarray of shape (n_texts, n_classes), float32
    """
    return _predict(classifier, tokens, classifier.logits, classifier.head.out_features)


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
) -> np.ndarray:
    distinct, stands_for = distinct_texts(tokens)
    rows = torch.empty(len(tokens), width, device="cpu", dtype=torch.float32)
    parts = split_by_tokens(tokens.lengths, distinct, TOKEN_BUDGET)
    with constant_weights(classifier.device, classifier.precision):
        fill_rows(rows, tokens, parts, compute)
    return rows.numpy()[stands_for]


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
    with torch.inference_mode():
        for rows in parts:
            batch = pack(tokens, rows)
            out[torch.from_numpy(batch.rows)] = compute(batch).to(out.device, out.dtype)
