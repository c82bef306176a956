"""Check and wrap results: finite logits, frames and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.utils._set_output import _get_output_config

from skbert.contract.containers import shorten


def check_logits(logits: np.ndarray, n_before: int = 0) -> np.ndarray:
    """Raise an error if a text has logits that are not finite; `n_before` texts of X precede."""
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"The logits of X[{n_before + row}] are {shorten(logits[row].tolist())}, so there is "
            "no predicted class: the weights of the model are too large or damaged. Fit it again "
            "with a lower learning rate, or load an intact copy."
        )
    return logits


def wants_tensors(estimator: Any) -> bool:
    """Whether a transformer should return a tensor on its device.

    It should if scikit-learn's array API dispatch is on and the user requests no frame.
    """
    container = _get_output_config("transform", estimator)["dense"]
    return get_config()["array_api_dispatch"] and container == "default"


def with_index_of(X: Any, vectors: np.ndarray, estimator: Any) -> Any:
    """Convert vectors to a frame with the index of a Series, if the user requests frames.

    scikit-learn names the columns. It keeps the index of a frame, but not that of a Series.
    """
    container = _get_output_config("transform", estimator)["dense"]
    if container == "pandas" and isinstance(X, pd.Series):
        return pd.DataFrame(vectors, index=X.index)
    return vectors
