"""Tokens -> one row of logits a text, in the caller's order.

Longest texts come first, so that attention sees equal lengths; transformers' own pipeline gains 1.5
times from sorted texts (bench_predict.py). Equal texts are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import FULL_ROWS, constant_weights, full_rows
from skbert.engine.text.packing import PackedBatch, distinct_texts, filled_up, pack, split_by_tokens
from skbert.engine.text.tokens import Tokens

# Large enough for the matrix products to run at full speed, small enough that a layer's
# activations stay near the processor, and that the allocator keeps their memory instead of
# asking the system for new pages. Predicting 1,024 sentences with MiniLM on two threads of an Intel
# Xeon takes 2.09 s with 512, 1.91 with 1024, 1.84 with 2048, and 2.00 with 4096.
TOKEN_BUDGET = FULL_ROWS

# A batch that lacks so few tokens is filled up for oneDNN: 3 % of it at most.
_MOST_ADDED = 64


def predict_logits(
    classifier: TextClassifier, tokens: Tokens, token_budget: int = TOKEN_BUDGET
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
    distinct, stands_for = distinct_texts(tokens)
    logits = torch.empty(len(tokens), classifier.head.out_features, dtype=torch.float32)
    parts = split_by_tokens(tokens.lengths, distinct, token_budget)
    with constant_weights(classifier.device, classifier.precision):
        fill_rows(logits, tokens, parts, classifier.logits)
    return logits.numpy()[stands_for]


def fill_rows(
    out: torch.Tensor,
    tokens: Tokens,
    parts: Iterable[np.ndarray],
    compute: Callable[[PackedBatch], torch.Tensor],
) -> None:
    """Write what `compute` makes of each part's texts into their rows of `out`.

    Parameters
    ----------
    out : Tensor of shape (n_texts, d)
        Changed in place; not an inference tensor, so that its owner is free to use it.
    tokens : Tokens
    parts : iterable of ndarray of int64
        The rows of each batch.
    compute : callable
        PackedBatch -> Tensor of shape (n_texts of the batch, d). A batch may have one text
        more than its part, the last one; see `pack_full`.
    """
    with torch.inference_mode():
        for rows in parts:
            batch = pack_full(tokens, rows)
            computed = compute(batch)[: len(rows)]
            out[torch.from_numpy(batch.rows[: len(rows)])] = computed.to(out.device, out.dtype)


def pack_full(tokens: Tokens, rows: np.ndarray) -> PackedBatch:
    """Pack some texts, and where oneDNN is used one of no meaning, to have as many as it takes."""
    batch, n_tokens = pack(tokens, rows), full_rows()
    return batch if n_tokens is None else filled_up(batch, n_tokens, _MOST_ADDED)
