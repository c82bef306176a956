"""Read the columns of any container: lists, arrays, tensors, series, frames, tables, data sets.

A container is known by its methods, not by its type, so none of these packages is imported here.
What a column may hold is checked in `texts` and `labels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def shape_of(values: Any) -> tuple[int, ...] | None:
    """Find the shape of an array, a series or a frame; None for other containers."""
    shape = getattr(values, "shape", None)
    return tuple(shape) if isinstance(shape, Iterable) else None


def is_sparse(values: Any) -> bool:
    """Whether a value is a sparse matrix of scipy, or a sparse tensor of torch."""
    layout = str(getattr(values, "layout", ""))
    return hasattr(values, "tocsr") or layout.startswith("torch.sparse")


def has_rows(values: Any) -> bool:
    """Whether a container has a number of rows and an order."""
    if isinstance(values, (str, bytes, Mapping, set, frozenset)) or is_sparse(values):
        return False
    return hasattr(values, "__len__") or hasattr(values, "__array__")


def no_rows(values: Any, name: str) -> ValueError:
    """Make the error for a container without rows."""
    return ValueError(
        f"{name} has 0 texts ({type(values).__name__}); a minimum of 1 is required. Check the "
        f"filter or the file that {name} comes from."
    )


def column_names(table: Any) -> list[Any]:
    """Find the names of the columns of a frame, a table or a data set; [] for an array."""
    return list(getattr(table, "column_names", getattr(table, "columns", [])))


def read_column(values: Any) -> list[Any]:
    """Convert a container of one dimension to a list."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "mM" and values.ndim:
        return list(values)  # tolist() would turn nanoseconds into integers
    for to_list in ("tolist", "to_list", "to_pylist"):  # pandas and numpy, polars, pyarrow
        if hasattr(values, to_list):
            return getattr(values, to_list)()
    if hasattr(values, "to_numpy"):
        return read_column(values.to_numpy())
    if hasattr(values, "__array__"):
        return read_column(np.asarray(values))
    return list(values)


def read_table(table: Any) -> list[list[Any]]:
    """Convert a container of two dimensions to one list per column."""
    numbers, names = range(table.shape[1]), column_names(table)
    if hasattr(table, "iloc"):  # pandas, which allows two columns of the same name
        return [read_column(table.iloc[:, i]) for i in numbers]
    if hasattr(table, "column_names") and hasattr(table, "column"):  # pyarrow, the same
        return [read_column(table.column(i)) for i in numbers]
    if names:  # polars, datasets
        return [read_column(table[name]) for name in names]
    if not hasattr(table, "tolist") or isinstance(table, np.matrix):
        table = np.asarray(table)
    return [read_column(table[:, i]) for i in numbers]  # keeps the mask of a masked array


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas.NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return bool(np.isscalar(value) and value != value)


def shorten(value: Any) -> str:
    """Shorten the repr of a value for an error message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
