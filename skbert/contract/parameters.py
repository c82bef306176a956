"""Parameters: ranges that depend on the model, seeds, documentation links."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

#: Page of an estimator in the documentation, for the links of its HTML representation.
DOC_LINK_TEMPLATE = "https://skbert.readthedocs.io/en/latest/generated/skbert.{estimator_name}.html"


def check_max_length(
    max_length: int,
    n_positions: int,
    smallest: int = 3,
    advice: str = "truncation='head+tail' keeps both ends of a long text.",
) -> None:
    """Refuse texts longer than the model has positions for."""
    if max_length > n_positions:
        raise ValueError(
            f"max_length={max_length}, but the model has {n_positions} positions; allowed are "
            f"{smallest} to {n_positions} tokens, special ones included. Lower max_length; {advice}"
        )


def check_segments(config: Any) -> None:
    """Refuse pairs where the model tells no segments apart."""
    if config.type_vocab_size < 2:
        raise ValueError(
            f"The model has type_vocab_size={config.type_vocab_size}, but pairs of texts need 2 "
            "segments. Choose a model that has them, or join the two texts of each pair."
        )


def check_layer(layer: int, n_layers: int) -> int:
    """Count a layer from the first, 0 being the embeddings; refuse what is not there."""
    if not -n_layers - 1 <= layer <= n_layers:
        raise ValueError(
            f"layer={layer}, but the model has {n_layers} layers; allowed are {-n_layers - 1} to "
            f"{n_layers}. 1 is the first layer, {n_layers} or -1 the last, and 0 the embeddings "
            "below them."
        )
    return layer if layer >= 0 else n_layers + 1 + layer


def check_n_frozen_layers(n_frozen_layers: int, n_layers: int) -> None:
    """Refuse to freeze all layers."""
    if n_frozen_layers >= n_layers:
        raise ValueError(
            f"n_frozen_layers={n_frozen_layers}, but the model has {n_layers} layers; allowed "
            f"are 0 to {n_layers - 1}. At least one layer must be left to train."
        )


def seed_of(random_state: Any) -> np.random.SeedSequence:
    """Make a seed for the engine from a scikit-learn `random_state`.

    None gives fresh entropy of the operating system, not numpy's global random state: fitting
    leaves that as it was.
    """
    if random_state is None:
        return np.random.SeedSequence()
    if isinstance(random_state, Integral):
        return np.random.SeedSequence(int(random_state))
    drawn = check_random_state(random_state).randint(2**31, size=4)
    return np.random.SeedSequence(drawn.tolist())


def child_seed(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """Give the same child of a seed, however often it is asked for."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(number,))
