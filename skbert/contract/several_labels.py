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
    is_sparse,
    read_column,
    read_table,
    shape_of,
    shorten,
)
from skbert.contract.label_values import read_labels

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
    is_complete : bool
        Whether there is a column for each label, also for those that no text has.
    """

    names: np.ndarray
    values: np.ndarray
    is_complete: bool


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


def read_label_table(y: Any, name: str, n_texts: int, texts: str = "X") -> LabelTable:
    """Convert an indicator matrix, or lists of labels, to a table.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_texts, n_labels), or sequence of sequences of labels
        A matrix, array or frame of 0 and 1, or of bool; or a list, tuple or set of labels for each
        text, as `MultiLabelBinarizer` reads them.
    name, n_texts, texts
        As in `read_labels`.

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
        if _are_indicators(rows):
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

    Lists of labels may lack some; a matrix must have a column for each.

    Raises
    ------
    ValueError
        If the table has a label that is not known, or another number of columns.
    """
    known = {label: column for column, label in enumerate(names.tolist())}
    found = table.names.tolist()
    unknown = [label for label in found if label not in known]
    if unknown:
        raise ValueError(
            f"{name} has the label {unknown[0]!r}, which is not one of the labels "
            f"{shorten(names.tolist())}. Remove it, or fit with all labels."
        )
    if table.is_complete and len(found) != len(known):
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
        if not _is_list(row):
            raise ValueError(
                f"{name}[{number}] is {shorten(row)} ({type(row).__name__}) beside lists of "
                f"labels; {name} must hold one label for each text, or a list of labels for each. "
                f"Write it as [{shorten(row)}], or choose one label for each text."
            )


def _are_indicators(rows: Sequence[Any]) -> bool:
    """Whether lists of equal length hold numbers 0 and 1 only, as scikit-learn reads them."""
    lengths = {len(row) for row in rows}
    if any(isinstance(row, (set, frozenset)) for row in rows) or len(lengths) != 1 or 0 in lengths:
        return False
    kinds = (int, float, bool, np.bool_, np.number)
    return all(isinstance(value, kinds) and value in (0, 1) for value in chain(*rows))


def _of_lists(rows: Sequence[Any], name: str) -> LabelTable:
    lists = [[*row] for row in rows]
    flat = [*chain(*lists)]
    if not flat:
        raise ValueError(
            f"{name} has no label in any of its {len(lists)} lists; at least two different labels "
            "must occur. Check that it is the column of labels."
        )
    names = np.unique(read_labels(flat, f"chain(*{name})", None))
    binarizer = MultiLabelBinarizer(classes=names.tolist())
    return LabelTable(names, binarizer.fit_transform(lists).astype(np.float32), False)


def _of_matrix(y: Any, name: str) -> LabelTable:
    columns = read_table(y)
    for number, column in enumerate(columns):
        for row, value in enumerate(column):
            if not (_is_number(value) and value in (0, 1)):
                raise ValueError(
                    f"{name} has {len(columns)} columns, and {name}[{row}, {number}] is "
                    f"{shorten(value)} ({type(value).__name__}); only 0, 1, False and True are "
                    f"allowed. {_HELP}"
                )
    names = column_names(y)
    given = np.arange(len(columns))
    if len(set(names)) == len(columns) and all(type(label) is str for label in names):
        given = np.array(names)
    return LabelTable(given, np.array(columns, dtype=np.float32).T, True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.bool_, np.number))
