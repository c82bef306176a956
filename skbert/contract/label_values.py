"""Read a column of labels from any container: one label per text, none missing, all of one kind.

What a label is: a str, an int, a bool, or a float that is a whole number. numpy would convert
anything: None to "None", True beside 2 to 1, an enum to its name. Here a value is kept or refused.
The classes that follow from labels are in `labels`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning

from skbert.contract.containers import (
    has_rows,
    is_missing,
    is_sparse,
    read_column,
    read_table,
    shape_of,
    shorten,
)
from skbert.engine.warn import warn_user

#: From here on, all floats are whole numbers, and not all integers are floats.
_ALL_WHOLE = 2**53

_ALLOWED = "a label is a str, an int or a bool"


def read_labels(y: Any, name: str, n_texts: int | None, texts: str = "X") -> np.ndarray:
    """Convert labels to an array.

    Parameters
    ----------
    y : array-like of shape (n_texts,) or (n_texts, 1)
    name : str
        The argument of the user, for error messages: "y", "y_val" or "classes".
    n_texts : int or None
        None if the labels belong to no texts.
    texts : str
        The argument that holds the texts.

    Returns
    -------
    ndarray of shape (n_texts,)
        Of str (as objects if they came as objects), integers, booleans or whole floats, with the
        values that came, in the dtype that came if it is one of numpy.

    Raises
    ------
    TypeError, ValueError
        If `y` is not one column of labels, has another length, or if a label is missing, is no
        label, or is of another kind than the others.

    Warns
    -----
    DataConversionWarning
        If `y` has a second dimension, as in scikit-learn.
    """
    given, is_flat = _one_column(y, name, n_texts)
    labels = _plain_labels(given, name, per_text=n_texts is not None)
    _check_one_kind(given, labels, name)
    if n_texts is not None and len(labels) != n_texts:
        raise ValueError(
            f"{texts} has {n_texts} texts and {name} has {len(labels)} labels; they must have the "
            "same length. Check that both come from the same rows."
        )
    array = _as_array(labels, y, name)
    shape = "(n_classes,)" if n_texts is None else "(n_texts,)"
    if not is_flat:  # scikit-learn's own warning would name this file; its checks need the words
        warn_user(
            f"A column-vector {name} was passed when a 1d array was expected. Please change the "
            f"shape of {name} to {shape}, for example using ravel().",
            DataConversionWarning,
        )
    return array


def _one_column(y: Any, name: str, n_texts: int | None) -> tuple[list[Any], bool]:
    """Convert y to a flat list, and tell whether y was flat."""
    shape = shape_of(y)
    if not has_rows(y) or shape == ():
        raise _no_sequence(y, name)
    if shape is None or len(shape) == 1:
        return _flatten(read_column(y), name)
    if len(shape) > 2:
        raise ValueError(
            f"{name} has shape {shape}; one label per text is expected. Reshape it, for example "
            f"with {name}.ravel()."
        )
    if shape[0] == 1 and shape[1] == n_texts and n_texts != 1:
        raise ValueError(
            f"{name} has shape {shape}, one row; one label per text is expected, as a column. "
            f"Transpose it, for example with {name}.T."
        )
    if shape[1] != 1:
        raise _several_labels(name, shape[1])
    return read_table(y)[0], False


def _no_sequence(y: Any, name: str) -> ValueError:
    expected = (
        f"a sequence of {'classes' if name == 'classes' else 'labels'} is expected, such as a "
        "list or a pandas Series"
    )
    if isinstance(y, (str, bytes)):
        return ValueError(
            f"{name} is a single {type(y).__name__}, {shorten(y)}; {expected}. Pass a list."
        )
    if is_sparse(y):
        advice = f"Convert it, for example with {name}.toarray()."
    elif isinstance(y, Mapping):
        advice = f"Its keys are {shorten(list(y))}: choose the one that holds the labels."
    elif isinstance(y, (set, frozenset)) and name != "classes":
        advice = "A set has no order: pass one label for each text, in a list."
    elif hasattr(y, "__iter__") and shape_of(y) != ():
        advice = f"Pass list({name})."
    elif name == "classes":
        advice = "Pass all labels that any call may contain, in a list."
    else:
        advice = "Pass one label for each text, in a list."
    return ValueError(f"{name} is a {type(y).__name__}; {expected}. {advice}")


def _several_labels(name: str, n_columns: int) -> ValueError:
    return ValueError(
        f"{name} has {n_columns} columns; one label per text is expected. Pass one column. To give "
        "a text several labels, pass a table of 0 and 1 as the y of fit."
    )


def _flatten(labels: list[Any], name: str) -> tuple[list[Any], bool]:
    """Take the label out of each row, if the rows are sequences of one."""
    nested = [_is_sequence(label) for label in labels]
    if not any(nested):
        return labels, True
    lengths = {len(label) for label, is_row in zip(labels, nested, strict=True) if is_row}
    if all(nested) and len(lengths) == 1 and lengths != {0} and lengths != {1}:
        raise _several_labels(name, lengths.pop())
    flat = []
    for row, (label, is_row) in enumerate(zip(labels, nested, strict=True)):
        if is_row and len(label) == 1:
            flat.append(next(iter(label)))
        elif is_missing(label):
            flat.append(label)
        else:
            held = f", which holds {len(label)} labels" if is_row else " beside lists of labels"
            raise ValueError(
                f"{name}[{row}] is {shorten(label)} ({type(label).__name__}){held}; one label per "
                "text is expected. Choose one, or pass a flat list of labels."
            )
    return flat, False


def _is_sequence(label: Any) -> bool:
    shape = shape_of(label)
    return isinstance(label, (list, tuple)) or (shape is not None and len(shape) > 0)


def _plain_labels(given: list[Any], name: str, *, per_text: bool) -> list[Any]:
    """Convert labels to str, int, bool or float of Python, with the same values."""
    labels = [plain_label(label) for label in given]
    for row, plain in enumerate(labels):
        if type(plain) is not str and is_missing(plain):
            shown = given[row] if is_missing(given[row]) else plain
            why = "every text needs a label: a str, an int or a bool" if per_text else _ALLOWED
            what = "the rows without one" if per_text else "it"
            raise ValueError(
                f"{name}[{row}] is {shown!r} ({type(shown).__name__}); {why}. Remove {what}."
            )
    for row, plain in enumerate(labels):
        if type(plain) not in (str, int, bool):
            _check_whole_number(plain, given[row], f"{name}[{row}]", name)
    return labels


def _check_whole_number(plain: Any, label: Any, place: str, name: str) -> None:
    if type(plain) is not float:
        raise TypeError(
            f"{place} is {shorten(label)} ({type(label).__name__}); {_ALLOWED}. "
            f"{_advice(label, name)}"
        )
    if not plain.is_integer() or abs(plain) >= _ALL_WHOLE:
        # scikit-learn's checks require the words "Unknown label type"
        raise ValueError(
            f"{place} is {plain} (float); a label is a str, an int, a bool or a whole number. "
            "Unknown label type: continuous. Make classes of them, for example with "
            f"{name}.astype(str), or predict numbers with BertSentimentRegressor."
        )


def plain_label(label: Any) -> Any:
    """Convert a label of numpy, torch, pyarrow or an enum to one of Python, if it is a label."""
    if type(label) in (str, int, bool):
        return label
    if isinstance(label, str):
        return str.__str__(label)  # numpy would call str(), which names the member of an enum
    if isinstance(label, (bytes, np.datetime64, np.timedelta64)):
        return label
    if isinstance(label, (float, np.floating)):
        return float(label)
    if hasattr(label, "as_py"):  # a scalar of pyarrow
        label = label.as_py()
    if shape_of(label) == () and hasattr(label, "item"):
        label = label.item()  # a scalar of numpy, a tensor
        return str.__str__(label) if isinstance(label, str) else label
    return int(label) if isinstance(label, Integral) and not isinstance(label, bool) else label


def _advice(label: Any, name: str) -> str:
    if isinstance(label, bytes):
        return "Decode the labels, for example with label.decode()."
    if isinstance(label, enum.Enum):
        return f"Use their names, for example [label.name for label in {name}]."
    if _is_sequence(label) or isinstance(label, (set, frozenset)):
        return "Pass a flat list of labels, one for each text."
    if isinstance(label, Mapping):
        return f"Choose the label that each {type(label).__name__} holds."
    if hasattr(label, "isoformat") or isinstance(label, (np.datetime64, np.timedelta64)):
        return (
            "Check that it is the column of labels; to use dates as classes, convert them, for "
            f"example with [str(label) for label in {name}]."
        )
    return f"Convert the labels, for example with [str(label) for label in {name}]."


def _check_one_kind(given: list[Any], labels: list[Any], name: str) -> None:
    """Raise an error for labels of several kinds, which numpy would convert to one of them."""
    kinds = {float if type(label) is int else type(label) for label in labels}
    if len(kinds) < 2:
        return
    types = sorted({type(label).__name__ for label in given})
    why = (
        "which have no common order"
        if str in kinds
        else "of which some are equal: True is 1, and False is 0"
    )
    raise TypeError(
        f"{name} mixes labels of types {types}, {why}; all must be of one type: str, int or bool. "
        f"Convert them, for example with {name}.astype(str)."
    )


def _as_array(labels: list[Any], y: Any, name: str) -> np.ndarray:
    """Convert labels of one kind to an array that holds the same values."""
    if not labels:
        return np.array(labels, dtype=object)
    dtype = getattr(y, "dtype", None)
    if isinstance(labels[0], str):
        # numpy's fixed-width strings lose NULs at the end
        if _came_as_objects(y) or any(label.endswith("\0") for label in labels):
            return np.array(labels, dtype=object)
        return np.array(labels)
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return np.array(labels, dtype=dtype)
    array = np.array(labels)
    kept = array.tolist() == labels and (array.dtype.kind != "f" or float in map(type, labels))
    if not kept or array.dtype.kind not in "biuf":
        row = next(i for i, label in enumerate(labels) if abs(label) > _ALL_WHOLE)
        raise ValueError(
            f"{name}[{row}] is {shorten(labels[row])} (int), which no type of numpy holds beside "
            "the others; the integers from -2**63 to 2**63 - 1 are allowed. Convert the labels, "
            f"for example with [str(label) for label in {name}]."
        )
    return array


def _came_as_objects(y: Any) -> bool:
    """Whether numpy reads a container as objects, as it does with the strings of pandas."""
    if not any(hasattr(y, name) for name in ("dtype", "dtypes", "to_pylist")):
        return False
    return np.asarray(y).dtype == object
