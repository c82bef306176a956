"""Train only the word embeddings that occur, in a compact table during each epoch.

A training set uses 5 to 14 thousand of BERT's 30 thousand rows. The other rows have no gradient,
but each step would clear, measure and update all of them: a fit of 512 sentences takes 1.11 times
as long with the whole table (bench_profile.py, AMD EPYC, two threads). The result is exact; see
`CompactEmbeddings.decay_absent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from skbert.engine.text.tokens import Tokens


class CompactEmbeddings:
    """The rows of a word-embedding table that some tokens use.

    Parameters
    ----------
    embedding : torch.nn.Embedding
        The table of the whole vocabulary, (vocabulary size, d_model).
    tokens : Tokens
        All tokens of the training.

    Attributes
    ----------
    tokens : Tokens
        The same texts with ids of the compact table.
    weight : torch.nn.Parameter
        (n_used, d_model). Pass it to the optimizer instead of the table's weight.
    """

    def __init__(self, embedding: nn.Embedding, tokens: Tokens) -> None:
        self._embedding = embedding
        used, compact_ids = np.unique(tokens.ids, return_inverse=True)
        self._used = torch.from_numpy(used.astype(np.int64)).to(embedding.weight.device)
        self._padding_idx = _position(used, embedding.padding_idx)
        self._absent_factor = 1.0
        self.tokens = replace(tokens, ids=compact_ids.astype(np.int32))
        self.weight = nn.Parameter(embedding.weight.detach()[self._used])

    def decay_absent(self, factor: float) -> None:
        """Account for one optimizer step on the rows that are not in the compact table.

        AdamW multiplies every weight by ``factor = 1 - learning_rate * weight_decay`` and then
        moves it by its moments, which stay zero if there is never a gradient. So after n steps, an
        absent row is its old value times the product of the n factors. Gradient clipping uses the
        same norm, because zeros add nothing to it.
        """
        self._absent_factor *= factor

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the compact table; on exit, update the whole table."""
        whole, padding_idx = self._embedding.weight, self._embedding.padding_idx
        self._embedding.weight, self._embedding.padding_idx = self.weight, self._padding_idx
        try:
            yield
        finally:
            self._embedding.weight, self._embedding.padding_idx = whole, padding_idx
            with torch.no_grad():
                whole.mul_(self._absent_factor).index_copy_(0, self._used, self.weight)
            self._absent_factor = 1.0


def _position(used: np.ndarray, token_id: int | None) -> int | None:
    """Find the row of a token in the compact table; None if it has no row."""
    if token_id is None or token_id not in used:
        return None
    return int(np.searchsorted(used, token_id))
