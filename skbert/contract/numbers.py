"""Read a column of numbers to predict: one finite number per text."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning

from skbert.contract.containers import (
    has_rows,
    is_sparse,
    read_column,
    read_table,
    shape_of,
    shorten,
)
from skbert.engine.warn import warn_user


def read_numbers(y: Any, name: str, n_texts: int, texts: str = "X") -> np.ndarray:
    """Convert numbers to an array.

    Parameters
    ----------
    y : array-like of shape (n_texts,) or (n_texts, 1)
        Integers, floats or booleans.
    name : str
        The argument of the user, for error messages.
    n_texts : int
    texts : str
        The argument that holds the texts.

    Returns
    -------
    ndarray of shape (n_texts,), float64

    Raises
    ------
    TypeError, ValueError
        If `y` is not one column of finite numbers, or has another length.

    Warns
    -----
    DataConversionWarning
        If `y` has a second dimension, as in scikit-learn.
    """
    if y is None:  # scikit-learn's checks require some of these words
        raise ValueError(
            f"{name} is None, but this estimator requires y to be passed, but the target y is "
            "None: one number for each text. Call fit(X, y)."
        )
    shape = shape_of(y)
    if not has_rows(y) or shape == ():
        advice = (
            f"Convert it, for example with {name}.toarray()." if is_sparse(y) else "Pass a list."
        )
        raise ValueError(
            f"{name} is {shorten(y)} ({type(y).__name__}); a sequence of numbers is expected, such "
            f"as a list or a pandas Series. {advice}"
        )
    if shape is not None and len(shape) > 1 and (len(shape) > 2 or shape[1] != 1):
        raise ValueError(
            f"{name} has shape {shape}; one number per text is expected. For several numbers, use "
            "sklearn.multioutput.MultiOutputRegressor(BertSentimentRegressor())."
        )
    is_flat = shape is None or len(shape) == 1
    given = read_column(y) if is_flat else read_table(y)[0]
    numbers = np.array([_number(value, f"{name}[{row}]") for row, value in enumerate(given)])
    if len(numbers) != n_texts:
        raise ValueError(
            f"{texts} has {n_texts} texts and {name} has {len(numbers)} numbers; they must have "
            "the same length. Check that both come from the same rows."
        )
    if not is_flat:  # scikit-learn's checks need the words
        warn_user(
            f"A column-vector {name} was passed when a 1d array was expected. Please change the "
            f"shape of {name} to (n_texts,), for example using ravel().",
            DataConversionWarning,
        )
    return numbers


def _number(value: Any, place: str) -> float:
    kinds = (str, bytes, type(None), list, tuple, dict)
    try:
        number = float("nan") if isinstance(value, kinds) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        # scikit-learn's checks require the words "Input y contains" for missing numbers
        raise ValueError(
            f"{place} is {shorten(value)} ({type(value).__name__}); every text needs a finite "
            f"number. Input {place.split('[')[0]} contains NaN, infinity or no number. Remove the "
            "row, or convert the value, for example with pandas.to_numeric."
        )
    return number
