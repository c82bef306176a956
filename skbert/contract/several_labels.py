"""Read the labels of texts that can have several each: a table of 0 and 1, or lists of labels.

One label per text is read in `label_values`. `has_several_labels` decides by the shape alone, so a
wrong value gets an error of the reading that was meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from sklearn.preprocessing import MultiLabelBinarizer

from skbert.contract.containers import (
    column_names,
    has_rows,
    is_missing,
    is_sparse,
    read_column,
    read_table,
    shape_of,
    shorten,
)
from skbert.contract.label_values import plain_label, read_labels

_HELP = (
    "Several columns are read as labels that a text has or does not have. For several columns of "
    "classes, use sklearn.multioutput.MultiOutputClassifier(BertSentimentClassifier())."
)


@dataclass(frozen=True)
class LabelTable:
    """Which labels each text has.

    Attributes
    ----------
    names : ndarray of shape (n_labels,)
        The labels: those of the lists, sorted; the names of the columns of a frame; or the numbers
        of the columns.
    values : ndarray of shape (n_texts, n_labels), float32
        1 if the text has the label, otherwise 0.
    is_matrix : bool
        Whether it was a table, with a column for each label, also for those that no text has.
    has_names : bool
        Whether the labels have names. Columns of an array are known by their places.
    """

    names: np.ndarray
    values: np.ndarray
    is_matrix: bool
    has_names: bool


def has_several_labels(y: Any, n_texts: int) -> bool:
    """Whether `y` is a table with several columns, or a list of lists of labels.

    A table of one column, and lists of one label each, are one label per text.
    """
    if is_sparse(y):
        return True
    if not has_rows(y):
        return False
    shape = shape_of(y)
    if shape is not None and len(shape) != 1:
        return len(shape) == 2 and shape[1] > 1 and (shape[0] > 1 or n_texts == 1)
    rows = [row for row in read_column(y) if _is_list(row)]
    return any(isinstance(row, (set, frozenset)) or len(row) != 1 for row in rows)


def may_have_several_labels(y: Any) -> bool:
    """Whether `y` can be read as several labels of each text, if it is known that it is."""
    if is_sparse(y):
        return True
    if not has_rows(y):
        return False
    shape = shape_of(y)
    if shape is not None and len(shape) != 1:
        return len(shape) == 2
    return any(_is_list(row) for row in read_column(y))


def read_label_table(
    y: Any, name: str, n_texts: int, texts: str = "X", n_labels: int | None = None
) -> LabelTable:
    """Convert an indicator matrix, or lists of labels, to a table.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_texts, n_labels), or sequence of sequences of labels
        A matrix, array or frame of 0 and 1, or of bool; or a list, tuple or set of labels for each
        text, as `MultiLabelBinarizer` reads them.
    name, n_texts, texts
        As in `read_labels`.
    n_labels : int or None
        Number of labels, if it is known. Lists of other lengths are lists of labels.

    Raises
    ------
    TypeError, ValueError
        If a value is neither 0 nor 1, if a label is not allowed, or if the lengths differ.
    """
    if is_sparse(y):
        y = y.to_dense() if hasattr(y, "to_dense") else y.toarray()
    shape = shape_of(y)
    rows = None
    if shape is None or len(shape) == 1:
        rows = read_column(y)
        _check_lists(rows, name)
        if _are_indicators(rows, n_labels):
            y, rows = np.array([[*row] for row in rows]), None
    table = _of_lists(rows, name) if rows is not None else _of_matrix(y, name)
    if len(table.values) != n_texts:
        raise ValueError(
            f"{texts} has {n_texts} texts and {name} has {len(table.values)} rows of labels; they "
            "must have the same length. Check that both come from the same rows."
        )
    return table


def arrange(table: LabelTable, names: np.ndarray, name: str) -> np.ndarray:
    """Bring the columns of a table into the order of known labels: (n_texts, n_labels).

    Lists of labels may lack some; a matrix must have a column for each, in the same order if the
    columns have no names.

    Raises
    ------
    ValueError
        If the table has a label that is not known, or another number of columns.
    """
    known = {label: column for column, label in enumerate(names.tolist())}
    found = table.names.tolist()
    if table.is_matrix and not table.has_names and len(found) == len(known):
        return table.values
    if table.has_names and (unknown := [label for label in found if label not in known]):
        raise ValueError(
            f"{name} has the label {unknown[0]!r}, which is not one of the labels "
            f"{shorten(names.tolist())}. Remove it, or fit with all labels."
        )
    if table.is_matrix and len(found) != len(known):
        raise ValueError(
            f"{name} has {len(found)} columns, but there are {len(known)} labels, "
            f"{shorten(names.tolist())}; a column for each is expected. Add the missing columns."
        )
    values = np.zeros((len(table.values), len(names)), dtype=np.float32)
    values[:, [known[label] for label in found]] = table.values
    return values


def _is_list(row: Any) -> bool:
    shape = shape_of(row)
    return isinstance(row, (list, tuple, set, frozenset)) or (shape is not None and len(shape) > 0)


def _check_lists(rows: Sequence[Any], name: str) -> None:
    for number, row in enumerate(rows):
        if is_missing(row):
            raise ValueError(
                f"{name}[{number}] is {row!r} ({type(row).__name__}); every text needs a list of "
                "labels, which may be empty. Replace it by [], or remove the row."
            )
        if not _is_list(row):
            raise ValueError(
                f"{name}[{number}] is {shorten(row)} ({type(row).__name__}) beside lists of "
                f"labels; {name} must hold one label for each text, or a list of labels for each. "
                f"Write it as [{shorten(row)}], or choose one label for each text."
            )


def _are_indicators(rows: Sequence[Any], n_labels: int | None) -> bool:
    """Whether lists of equal length hold numbers 0 and 1 only, as scikit-learn reads them."""
    lengths = {len(row) for row in rows}
    if any(isinstance(row, (set, frozenset)) for row in rows) or len(lengths) != 1 or 0 in lengths:
        return False
    if n_labels is not None and lengths != {n_labels}:
        return False
    return all(_is_number(value) and value in (0, 1) for value in map(plain_label, chain(*rows)))


def _of_lists(rows: Sequence[Any], name: str) -> LabelTable:
    lists = [[plain_label(label) for label in row] for row in rows]
    flat = [*chain(*lists)]
    if not flat:
        raise ValueError(
            f"{name} has no label in any of its {len(lists)} lists; at least two different labels "
            "must occur. Check that it is the column of labels."
        )
    names = np.unique(read_labels(flat, f"chain(*{name})", None))
    if set(names.tolist()) <= {0, 1} and not isinstance(names.tolist()[0], str):
        raise ValueError(
            f"{name} has lists of the labels 0 and 1, and [0, 1] could also mean that a text has "
            "the second of two labels. Use other labels, such as strings, or pass a table of 0 and "
            "1 with a column for each label."
        )
    binarizer = MultiLabelBinarizer(classes=names.tolist())
    return LabelTable(names, binarizer.fit_transform(lists).astype(np.float32), False, True)


def _of_matrix(y: Any, name: str) -> LabelTable:
    columns = read_table(y)
    for number, column in enumerate(columns):
        for row, value in enumerate(column):
            plain = plain_label(value)
            if not (_is_number(plain) and plain in (0, 1)):
                raise ValueError(
                    f"{name} has {len(columns)} columns, and {name}[{row}, {number}] is "
                    f"{shorten(value)} ({type(value).__name__}); only 0, 1, False and True are "
                    f"allowed. {_HELP}"
                )
    names = [plain_label(label) for label in column_names(y)]
    has_names = len(set(names)) == len(columns) and len({*map(type, names)} & {str, int}) == 1
    given = np.array(names) if has_names else np.arange(len(columns))
    return LabelTable(given, np.array(columns, dtype=np.float32).T, True, has_names)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.bool_, np.number))
