"""Check X and convert it to lists of str: single texts, pairs or documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import _check_feature_names


@dataclass(frozen=True)
class Texts:
    """Texts, or pairs of texts.

    Attributes
    ----------
    first : list of str
        The texts, or the first text of each pair.
    second : list of str or None
        The second text of each pair.
    """

    first: list[str]
    second: list[str] | None

    def __len__(self) -> int:
        return len(self.first)

    def parts(self, n_texts: int) -> Iterator[Texts]:
        """Yield parts of at most `n_texts` rows."""
        for start in range(0, len(self), n_texts):
            rows = slice(start, start + n_texts)
            yield Texts(self.first[rows], self.second[rows] if self.second else None)


@dataclass(frozen=True)
class Documents:
    """Documents, each a text or a list of sentences.

    Attributes
    ----------
    texts : list of str
        The sentences of a document joined by spaces.
    sentences : list of list of str or None
        None if X contains texts.
    """

    texts: list[str]
    sentences: list[list[str]] | None


def check_texts(estimator: Any, X: Any, *, reset: bool) -> Texts:
    """Convert the supported containers to lists of str.

    Parameters
    ----------
    estimator : estimator
        If `reset`, `n_features_in_` and `feature_names_in_` are set for two-dimensional X, as in
        scikit-learn. Otherwise X is compared with them.
    X : list, tuple, array, Series or frame
        n_texts texts, each a str, or n_texts pairs of texts, as two columns or as a list of
        tuples. Empty texts are allowed, missing texts are not.
    reset : bool
        Whether the caller is `fit`.

    Returns
    -------
    Texts

    Raises
    ------
    TypeError
        If X is a single string, is not a sequence, or contains anything but str.
    ValueError
        If X is empty, has more than two columns, or has a missing text. Also if X contains
        single texts and the estimator was fitted to pairs, or vice versa.
    """
    columns = _read_columns(X)
    _check_columns(estimator, X, len(columns), reset=reset)
    first, *second = ([str.__str__(text) for text in column] for column in columns)
    return Texts(first, second[0] if second else None)


def check_pairs(X: Any) -> Texts:
    """Convert two columns, or a list of pairs, to two lists of str, without an estimator."""
    columns = _read_columns(X)
    if len(columns) != 2:
        raise ValueError(
            "X contains single texts, but pairs of texts are expected. Pass two columns, or a list "
            "of (first, second)."
        )
    first, second = ([str.__str__(text) for text in column] for column in columns)
    return Texts(first, second)


def check_documents(estimator: Any, X: Any, *, reset: bool) -> Documents:
    """Convert texts, or documents as lists of sentences, to lists of str.

    Parameters
    ----------
    estimator, reset
        As in `check_texts`.
    X : list, tuple, array, Series or frame
        As in `check_texts`, but only one column; or a sequence whose elements are lists or
        tuples of str, of any length from 1.
    """
    if not _holds_lists(X):
        texts = check_texts(estimator, X, reset=reset)
        if texts.second is not None:
            raise ValueError(
                f"X has two columns ({len(X)} rows); {type(estimator).__name__} expects "
                "one column of texts, or documents as a list of lists of sentences. Choose a "
                "column, or convert the rows to lists."
            )
        return Documents(texts.first, None)
    documents = list(X)
    for row, document in enumerate(documents):
        if not isinstance(document, (list, tuple)):
            raise ValueError(
                f"X[{row}] is {shorten(document)} ({type(document).__name__}), but X[0] is a list; "
                "all elements must be str, or all must be lists of sentences. Convert a single "
                "text to a list: [text]."
            )
        if not document:
            raise ValueError(
                f"X[{row}] is an empty {type(document).__name__}; a document is a list of at least "
                "one sentence. Remove it, or use [''] for a document without words."
            )
        for number, sentence in enumerate(document):
            if not isinstance(sentence, str):
                raise _not_a_text(f"X[{row}][{number}]", sentence)
    _check_columns(estimator, documents, 1, reset=reset)
    sentences = [[str.__str__(sentence) for sentence in document] for document in documents]
    return Documents([" ".join(document) for document in sentences], sentences)


def _read_columns(X: Any) -> list[list[Any]]:
    """Read one or two columns of str from X."""
    if isinstance(X, (str, bytes)):
        raise TypeError(
            f"X is a single {type(X).__name__}, {shorten(X)}; a sequence of texts is expected, "
            "such as a list or a pandas Series of str. Convert a single text to a list: [text]."
        )
    if not hasattr(X, "__len__") or isinstance(X, (dict, set, frozenset)):
        raise TypeError(
            f"X is a {type(X).__name__}; a sequence of texts is expected, such as a list or a "
            "pandas Series of str. Convert it to a list of texts."
        )
    columns = _columns(X)
    if len(columns[0]) == 0:
        raise ValueError(
            f"X has 0 texts ({type(X).__name__}); a minimum of 1 is required. Check the filter or "
            "the file that X comes from."
        )
    for number, column in enumerate(columns):
        for row, text in enumerate(column):
            if not isinstance(text, str):
                place = f"X[{row}]" if len(columns) == 1 else f"X[{row}][{number}]"
                raise _not_a_text(place, text)
    return columns


def _holds_lists(X: Any) -> bool:
    """Whether the first element of a flat container is a list or tuple."""
    if isinstance(X, (str, bytes, dict, set, frozenset)) or not hasattr(X, "__len__"):
        return False
    if len(getattr(X, "shape", (0,))) != 1 or not len(X):
        return False
    return isinstance(next(iter(X)), (list, tuple))


#: Attributes that describe the columns of X in `fit`.
_NOTED = ("_n_columns", "n_features_in_", "feature_names_in_")


def _check_columns(estimator: Any, X: Any, n_columns: int, *, reset: bool) -> None:
    """Store the number of columns and their names, or compare X with those of `fit`."""
    kinds = {1: "single texts", 2: "pairs of texts"}
    if reset:
        estimator._n_columns = n_columns
    elif not hasattr(estimator, "_n_columns"):
        return  # a stateless estimator, used without fit
    elif n_columns != estimator._n_columns:
        raise ValueError(
            f"X contains {kinds[n_columns]}, but {type(estimator).__name__} was fitted to "
            f"{kinds[estimator._n_columns]}. Pass the same columns as to fit."
        )
    if len(getattr(X, "shape", ())) == 2:
        _check_feature_names(estimator, X, reset=reset)
        if reset:
            estimator.n_features_in_ = n_columns
    elif reset:
        for name in _NOTED[1:]:
            estimator.__dict__.pop(name, None)


def _columns(X: Any) -> list[list[Any]]:
    """Convert X to one or two flat lists."""
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 2:
        return _columns_of_table(X)
    for to_list in ("tolist", "to_list", "to_pylist"):  # pandas and numpy, polars, pyarrow
        if hasattr(X, to_list):
            texts = getattr(X, to_list)()
            break
    else:
        texts = list(X)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"X has shape {tuple(shape)}; one or two columns of texts are expected. Reshape it, "
            "for example with X.ravel()."
        )
    if len(texts) and isinstance(texts[0], (list, tuple)):
        return _columns_of_pairs(texts)
    return [texts]


def _columns_of_table(X: Any) -> list[list[Any]]:
    n_columns = X.shape[1]
    names = list(getattr(X, "column_names", getattr(X, "columns", [])))
    if n_columns not in (1, 2):
        shown = f", columns {names}" if names else ""
        raise ValueError(
            f"X has shape {tuple(X.shape)}{shown}; one column of texts, or two columns of pairs, "
            "are expected. Choose them, for example X['text'] of a frame or X[:, 0] of an array."
        )
    if hasattr(X, "iloc"):
        return [X.iloc[:, i].tolist() for i in range(n_columns)]
    if hasattr(X, "column_names"):  # pyarrow
        return [X.column(i).to_pylist() for i in range(n_columns)]
    if names:  # polars
        return [X[name].to_list() for name in names]
    return [np.asarray(X)[:, i].tolist() for i in range(n_columns)]


def _columns_of_pairs(rows: Sequence[Any]) -> list[list[Any]]:
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) not in (1, 2) or len(row) != len(rows[0]):
            raise ValueError(
                f"X[{i}] is {shorten(row)} ({type(row).__name__}), but X[0] has "
                f"{len(rows[0])} text(s); all rows must be a str, or all must be pairs of str. "
                "Pass pairs as [(first, second), ...]."
            )
    return [list(column) for column in zip(*rows, strict=True)]


def _not_a_text(place: str, text: Any) -> Exception:
    if is_missing(text):
        return ValueError(
            f"{place} is {text!r} ({type(text).__name__}); every text must be a str. Replace "
            'missing texts, for example with "".'
        )
    return TypeError(
        f"{place} is {shorten(text)} ({type(text).__name__}); every text must be a str. Convert "
        "X to strings, or choose the column that holds the texts."
    )


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas.NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return np.isscalar(value) and value != value


def shorten(value: Any) -> str:
    """Shorten the repr of a value for an error message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
