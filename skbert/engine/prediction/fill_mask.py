"""Predict with the pre-training heads: words at each [MASK], and the next sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skbert.engine.model.device import computing_in, to_device
from skbert.engine.model.encoder import encode_first_token
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.prediction.parts import BatchProgress, compute_parts, token_budget, with_progress
from skbert.engine.text.packing import budgeted_batches, pack
from skbert.engine.text.sentences import IS_NEXT
from skbert.engine.text.tokens import Tokens


@dataclass(frozen=True)
class Guesses:
    """The most probable word pieces at each masked place.

    Attributes
    ----------
    rows : ndarray of shape (n_masked,), int64
        The text of each place, in the caller's order; from left to right within a text.
    ids : ndarray of shape (n_masked, top_k), int64
        The most probable word piece first.
    probabilities : ndarray of shape (n_masked, top_k), float32
        Softmax over all word pieces.
    """

    rows: np.ndarray
    ids: np.ndarray
    probabilities: np.ndarray


def guess_words(
    network: PretrainingNetwork,
    tokens: Tokens,
    mask_id: int,
    top_k: int,
    no_pieces: np.ndarray,
    progress: BatchProgress | None = None,
) -> Guesses:
    """Find the most probable word pieces at each [MASK] separately.

    Parameters
    ----------
    network : PretrainingNetwork
    tokens : Tokens
    mask_id : int
    top_k : int
    no_pieces : ndarray of int64
        Ids that the model has, but the vocabulary does not. They are never predicted.
    progress : callable or None
        Shows progress; None shows nothing.
    """
    is_masked = (tokens.ids == mask_id) & ~tokens.is_special
    places = np.flatnonzero(is_masked)
    ids = np.empty((len(places), top_k), dtype=np.int64)
    probabilities = np.empty((len(places), top_k), dtype=np.float32)

    def compute_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = pack(tokens, rows)
        source = tokens.places(batch.rows)
        masked = np.flatnonzero(is_masked[source])
        hidden = network.hidden(batch)
        logits = network.word_logits(hidden.index_select(0, to_indices(masked, hidden)))
        logits[:, to_indices(no_pieces, hidden)] = -math.inf
        best = torch.softmax(logits, dim=1).topk(top_k, dim=1)
        where = np.searchsorted(places, source[masked])
        return where, best.indices.cpu().numpy(), best.values.float().cpu().numpy()

    parts = budgeted_batches(tokens.lengths, token_budget(network.device))
    with torch.inference_mode():
        for _, (where, best_ids, best) in compute_parts(
            with_progress(parts, progress), compute_rows
        ):
            ids[where], probabilities[where] = best_ids, best
    return Guesses(np.searchsorted(tokens.offsets, places, side="right") - 1, ids, probabilities)


def next_sentence_probabilities(
    network: PretrainingNetwork, tokens: Tokens, progress: BatchProgress | None = None
) -> np.ndarray:
    """Compute the probability that the second text follows the first: (n_pairs,), float32."""
    out = np.empty(len(tokens), dtype=np.float32)

    def compute_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = pack(tokens, rows)
        with computing_in(network.precision, network.device):
            first = encode_first_token(network.encoder, batch).float()
        logits = network.next_sentence_logits(first)
        return batch.rows, torch.softmax(logits, dim=1)[:, IS_NEXT].float().cpu().numpy()

    parts = budgeted_batches(tokens.lengths, token_budget(network.device))
    with torch.inference_mode():
        for _, (rows, probabilities) in compute_parts(with_progress(parts, progress), compute_rows):
            out[rows] = probabilities
    return out


def to_indices(array: np.ndarray, like: Tensor) -> Tensor:
    """Copy integers to an int64 tensor on the device of `like`."""
    return to_device(array.astype(np.int64), like.device)
