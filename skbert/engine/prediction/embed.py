"""Tokens -> one vector per text, or one per token, in the caller's order.

Equal texts are computed once. This file decides what is cached under which key; `cache` stores it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skbert.engine.model.device import computing_in, precision_name, to_device
from skbert.engine.model.encoder import encode
from skbert.engine.model.families import result_settings, word_embeddings
from skbert.engine.model.onednn import constant_weights
from skbert.engine.model.pooling import max_of_tokens, mean_of_tokens, pooled_states
from skbert.engine.prediction.cache import Cache, compute_once
from skbert.engine.prediction.parts import (
    BatchProgress,
    Pieces,
    compute_parts,
    token_budget,
    with_progress,
)
from skbert.engine.prediction.predict import fill_rows
from skbert.engine.text.packing import PackedBatch, distinct_texts, pack, split_by_tokens
from skbert.engine.text.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# One pass through the encoder computes all of these, and the cache stores all, so another pooling
# needs no second pass. "pooler" is a function of "cls".
_KEPT_POOLINGS = ("cls", "mean", "max")


@dataclass(frozen=True)
class TextEmbedder:
    """An encoder and a pooling to one vector per text.

    Attributes
    ----------
    encoder : transformers.PreTrainedModel
    pooler : dict of str to Tensor
        "weight", (d_model, d_model), and "bias", (d_model,), of BERT's pooler. Only the pooling
        "pooler" reads it.
    pooling : {"cls", "mean", "max", "pooler"}
    n_layers : int
        The layer whose states are pooled; 0 is the embeddings. Layers above it are not computed.
    normalize : bool
        Whether to divide each vector by its Euclidean norm.
    precision : torch.dtype
        Precision of the encoder's matrix products. Vectors and `finish` are float32.
    """

    encoder: PreTrainedModel
    pooler: Mapping[str, Tensor]
    pooling: str
    n_layers: int
    normalize: bool
    precision: torch.dtype = torch.float32

    @property
    def d_model(self) -> int:
        """Width of the vectors."""
        return int(self.encoder.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return word_embeddings(self.encoder).weight.device

    @property
    def token_pooling(self) -> str:
        """The pooling over tokens: `pooling`, or "cls" for BERT's pooler."""
        return "cls" if self.pooling == "pooler" else self.pooling

    def pool(self, batch: PackedBatch) -> Tensor:
        """Compute one vector for each text of the batch, for `finish`: (n_texts, d_model)."""
        with computing_in(self.precision, self.device):
            return pooled_states(
                self.encoder, batch, self.token_pooling, n_layers=self.n_layers
            ).float()

    def encode(self, batch: PackedBatch) -> Tensor:
        """Compute one vector for each token of the batch: (n_tokens, d_model)."""
        with computing_in(self.precision, self.device):
            return encode(self.encoder, batch, n_layers=self.n_layers).float()

    def pool_all(self, batch: PackedBatch) -> Tensor:
        """Compute everything that the cache stores: (n_texts, n_kept * d_model)."""
        hidden = self.encode(batch)
        first = to_device(batch.cu_seqlens[:-1], hidden.device)
        poolings = {
            "cls": hidden.index_select(0, first),
            "mean": mean_of_tokens(hidden, batch.cu_seqlens),
            "max": max_of_tokens(hidden, batch.cu_seqlens),
        }
        return torch.cat([poolings[name] for name in _KEPT_POOLINGS], dim=1)

    def select_pooling(self, vector: np.ndarray) -> np.ndarray:
        """Select this pooling from a row of `pool_all`: (d_model,)."""
        start = _KEPT_POOLINGS.index(self.token_pooling) * self.d_model
        return vector[start : start + self.d_model]

    def finish(self, pooled: Tensor) -> Tensor:
        """Apply the steps after the pooling over tokens: (n_texts, d_model) -> the same shape."""
        if self.pooling == "pooler":
            weight, bias = (self.pooler[name].to(pooled.device) for name in ("weight", "bias"))
            with computing_in(torch.float32, pooled.device):
                pooled = torch.tanh(F.linear(pooled, weight, bias))
        return F.normalize(pooled, dim=1) if self.normalize else pooled


def embed_texts(
    embedder: TextEmbedder,
    tokens: Tokens,
    progress: BatchProgress | None = None,
    n_before: int = 0,
) -> Tensor:
    """Compute one vector for each text.

    Parameters
    ----------
    embedder : TextEmbedder
    tokens : Tokens
    progress : callable or None
        Shows progress; None shows nothing.
    n_before : int
        Number of texts of X before these, for error messages.

    Returns
    -------
    Tensor of shape (n_texts, d_model), float32
        On the device of the encoder.
    """
    distinct, stands_for = distinct_texts(tokens)
    pooled = torch.empty(len(tokens), embedder.d_model, dtype=torch.float32, device=embedder.device)
    parts = split_by_tokens(tokens.lengths, distinct, token_budget(embedder.device))
    with constant_weights(embedder.device, embedder.precision):
        fill_rows(pooled, tokens, with_progress(parts, progress), embedder.pool)
    if len(distinct) < len(tokens):
        pooled = pooled[torch.from_numpy(stands_for)]
    _check_finite(pooled, n_before + np.arange(len(tokens)))
    return embedder.finish(pooled)


def embed_texts_cached(
    embedder: TextEmbedder,
    tokens: Tokens,
    cache: Cache,
    weights_sha256: str,
    progress: BatchProgress | None = None,
    n_before: int = 0,
) -> Tensor:
    """As `embed_texts`, but read vectors from `cache`, and add the missing ones.

    Parameters
    ----------
    embedder, tokens, progress, n_before
        As in `embed_texts`.
    cache : Cache
    weights_sha256 : str
        The hash of the encoder's weights.
    """
    distinct, stands_for = distinct_texts(tokens)
    keys = _content_keys(embedder, tokens, distinct, weights_sha256)
    pooled = np.empty((len(tokens), embedder.d_model), dtype=np.float32)

    rounds = iter([progress])  # only the first is shown; later ones wait for other processes

    budget, pieces = token_budget(embedder.device), Pieces()

    def batches(missing: np.ndarray) -> Iterable[np.ndarray]:
        parts = split_by_tokens(tokens.lengths[distinct], missing, budget)
        return with_progress(parts, next(rounds, None))

    def compute(missing: np.ndarray) -> np.ndarray:
        # The longest texts come first already, and `pack` sorts stably, so the order stays.
        def compute_rows(rows: np.ndarray) -> np.ndarray:
            batch = pack(tokens, rows)
            with torch.inference_mode():
                vectors = embedder.pool_all(batch)
            _check_finite(vectors, n_before + batch.rows)  # before the cache stores them
            return vectors.cpu().numpy()

        parts = compute_parts([distinct[missing]], compute_rows, pieces)
        return np.concatenate([vectors for _, vectors in parts])

    with constant_weights(embedder.device, embedder.precision):
        for i, vector in compute_once(cache, keys, batches, compute):
            pooled[distinct[i]] = embedder.select_pooling(vector)
    return embedder.finish(torch.from_numpy(pooled[stands_for]).to(embedder.device))


def _check_finite(vectors: Tensor, rows: np.ndarray) -> None:
    """Raise an error if vectors, (n, d), are not finite; `rows` are their texts."""
    finite = torch.isfinite(vectors)
    if not finite.all():
        row = rows[int(finite.all(dim=1).int().argmin())]
        raise ValueError(
            f"The vector of X[{row}] contains values that are not finite; the weights of this "
            "model are too large or damaged. Load an intact copy, or choose another model."
        )


def _content_keys(
    embedder: TextEmbedder, tokens: Tokens, rows: np.ndarray, weights_sha256: str
) -> list[bytes]:
    """Hash everything that the pooled states of each text depend on: the encoder and its input.

    The tokens represent the text, the tokenizer, `max_length` and `truncation`. If these differ but
    the tokens are equal, the vectors are equal, so they share an entry. The hash excludes the steps
    after the pooling over tokens, because the cache stores the vectors before these steps.
    """
    config = embedder.encoder.config
    facts = (
        *("skbert", 1, _KEPT_POOLINGS, precision_name(embedder.precision)),
        *(weights_sha256, embedder.n_layers),
        *result_settings(config),
    )
    encoder_hash = hashlib.sha256(json.dumps(facts).encode())
    content = np.stack([tokens.ids, tokens.segment_ids], axis=1).astype("<i4")
    keys = []
    for row in rows.tolist():
        key = encoder_hash.copy()
        key.update(content[tokens.offsets[row] : tokens.offsets[row + 1]].tobytes())
        keys.append(key.digest())
    return keys


def embed_tokens(
    embedder: TextEmbedder, tokens: Tokens, progress: BatchProgress | None = None
) -> list[np.ndarray]:
    """Compute one vector for each token of each text, without pooling.

    Parameters
    ----------
    embedder, tokens, progress
        As in `embed_texts`.

    Returns
    -------
    list of ndarray of shape (n_tokens of the text, d_model), float32
        One array per text. [CLS] and [SEP] are tokens, too.
    """
    distinct, stands_for = distinct_texts(tokens)
    vectors: dict[int, np.ndarray] = {}

    def compute_rows(rows: np.ndarray) -> tuple[PackedBatch, np.ndarray]:
        batch = pack(tokens, rows)
        hidden = embedder.encode(batch)
        _check_finite(hidden, np.repeat(batch.rows, np.diff(batch.cu_seqlens)))
        return batch, (F.normalize(hidden, dim=1) if embedder.normalize else hidden).cpu().numpy()

    parts = split_by_tokens(tokens.lengths, distinct, token_budget(embedder.device))
    with torch.inference_mode(), constant_weights(embedder.device, embedder.precision):
        for _, (batch, states) in compute_parts(with_progress(parts, progress), compute_rows):
            ends = pairwise(batch.cu_seqlens.tolist())
            for row, (start, stop) in zip(batch.rows.tolist(), ends, strict=True):
                vectors[row] = states[start:stop]
    return [vectors[row].copy() for row in stands_for.tolist()]


def join_parts(parts: Sequence[Any]) -> Any:
    """Join the vectors of parts of the texts, which are all Tensor or all ndarray."""
    if len(parts) == 1:
        return parts[0]  # without a copy
    return torch.cat([*parts]) if isinstance(parts[0], Tensor) else np.concatenate(parts)


def to_numpy(vectors: Tensor) -> np.ndarray:
    """Copy vectors to the memory of the host, unless they are already there."""
    return vectors.cpu().numpy()
