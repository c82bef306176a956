"""Train only the word embeddings that occur: a compact table for the time of an epoch.

A training set uses 5 to 14 thousand of BERT's 30 thousand rows. The others have no gradient,
yet each step would clear, measure, and update all of them: a fit of 512 sentences takes 1.11 times
as long with the whole table (bench_profile.py, AMD EPYC, two threads). Nothing is approximated: see
`CompactVocabulary.decay_absent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from skbert.engine.text.tokens import Tokens


class CompactVocabulary:
    """The rows of a word-embedding table that some tokens use.

    Parameters
    ----------
    embedding : torch.nn.Embedding
        The table of the whole vocabulary, (vocabulary size, d_model).
    tokens : Tokens
        Everything that will be trained on.

    Attributes
    ----------
    tokens : Tokens
        The same texts, their ids counted within the compact table.
    weight : torch.nn.Parameter
        (n_used, d_model); what the optimizer is to be given in place of the table's weight.
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
        """Account for one optimizer step on the rows that are not here.

        AdamW multiplies every weight by ``factor = 1 - learning_rate * weight_decay`` and then
        moves it by its moments, which stay zero where there never is a gradient. So an absent
        row after n steps is its old value times the product of the n factors; gradient
        clipping sees the same norm, as zeros add nothing to it.
        """
        self._absent_factor *= factor

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model read the compact table; on leaving, bring the whole one up to date."""
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
    """Find a token's row in the compact table; None if it has none."""
    if token_id is None or token_id not in used:
        return None
    return int(np.searchsorted(used, token_id))
