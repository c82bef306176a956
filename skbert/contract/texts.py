"""Check X and convert it to lists of str: single texts, pairs or documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.utils.validation import _check_feature_names

from skbert.contract.containers import (
    column_names,
    has_rows,
    is_missing,
    is_sparse,
    no_rows,
    read_column,
    read_table,
    shape_of,
    shorten,
)
from skbert.contract.streams import how_to_read_all, is_stream


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


def check_texts(estimator: Any, X: Any, *, reset: bool, name: str = "X") -> Texts:
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
    name : str
        The argument of the user, for error messages.

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
    columns = _read_columns(X, name)
    check_columns(estimator, X, len(columns), reset=reset, name=name)
    return _texts_of(columns)


def check_rows(rows: list[Any], n_before: int, width: int | None) -> Texts:
    """Convert some rows of a stream to lists of str.

    Parameters
    ----------
    rows : list
        Texts, or pairs of texts; at least one.
    n_before : int
        Number of rows before them.
    width : int or None
        Number of texts in the first row of the stream, if that is a list or tuple.

    Raises
    ------
    TypeError, ValueError
        As in `check_texts`.
    """
    columns = [rows] if width is None else _columns_of_pairs(rows, "X", n_before, width)
    _check_strings(columns, "X", n_before)
    return _texts_of(columns)


def _texts_of(columns: list[list[Any]]) -> Texts:
    first, *second = ([str.__str__(text) for text in column] for column in columns)
    return Texts(first, second[0] if second else None)


def check_pairs(X: Any, name: str = "X") -> Texts:
    """Convert two columns, or a list of pairs, to two lists of str, without an estimator."""
    columns = _read_columns(X, name)
    if len(columns) != 2:
        raise ValueError(
            f"{name} contains single texts, but pairs of texts are expected. Pass two columns, or "
            "a list of (first, second)."
        )
    return _texts_of(columns)


def check_documents(estimator: Any, X: Any, *, reset: bool, name: str = "X") -> Documents:
    """Convert texts, or documents as lists of sentences, to lists of str.

    Parameters
    ----------
    estimator, reset, name
        As in `check_texts`.
    X : list, tuple, array, Series or frame
        As in `check_texts`, but only one column; or a sequence whose elements are lists or
        tuples of str, of any length from 1.
    """
    if not _holds_lists(X):
        columns = _read_columns(X, name)
        if len(columns) == 2:
            raise ValueError(
                f"{name} has two columns ({len(X)} rows); {type(estimator).__name__} expects "
                "one column of texts, or documents as a list of lists of sentences. Choose a "
                "column, or convert the rows to lists."
            )
        check_columns(estimator, X, 1, reset=reset, name=name)
        return Documents([str.__str__(text) for text in columns[0]], None)
    documents = read_column(X)
    for row, document in enumerate(documents):
        if not isinstance(document, (list, tuple)):
            raise ValueError(
                f"{name}[{row}] is {shorten(document)} ({type(document).__name__}), but {name}[0] "
                "is a list; all elements must be str, or all must be lists of sentences. Convert "
                "a single text to a list: [text]."
            )
        if not document:
            raise ValueError(
                f"{name}[{row}] is an empty {type(document).__name__}; a document is a list of at "
                "least one sentence. Remove it, or use [''] for a document without words."
            )
        for number, sentence in enumerate(document):
            if not isinstance(sentence, str):
                raise _not_a_text(f"{name}[{row}][{number}]", sentence, name)
    check_columns(estimator, documents, 1, reset=reset, name=name)
    sentences = [[str.__str__(sentence) for sentence in document] for document in documents]
    return Documents([" ".join(document) for document in sentences], sentences)


def _read_columns(X: Any, name: str) -> list[list[Any]]:
    """Read one or two columns of str from X."""
    if not has_rows(X):
        raise _no_sequence(X, name)
    columns = _columns(X, name)
    if len(columns[0]) == 0:
        raise no_rows(X, name)
    _check_strings(columns, name)
    return columns


def _check_strings(columns: list[list[Any]], name: str, n_before: int = 0) -> None:
    """Raise an error if a value is no str; `n_before` rows are not in the columns."""
    for number, column in enumerate(columns):
        for row, text in enumerate(column, start=n_before):
            if not isinstance(text, str):
                place = f"{name}[{row}]" if len(columns) == 1 else f"{name}[{row}][{number}]"
                raise _not_a_text(place, text, name)


def _no_sequence(X: Any, name: str) -> TypeError:
    expected = "a sequence of texts is expected, such as a list or a pandas Series of str."
    if isinstance(X, (str, bytes)):
        return TypeError(
            f"{name} is a single {type(X).__name__}, {shorten(X)}; {expected} Convert a single "
            "text to a list: [text]."
        )
    if is_sparse(X):
        return TypeError(
            f"{name} is a sparse {type(X).__name__} of shape {shape_of(X)}; {expected} Pass the "
            "texts themselves, without a vectorizer before skbert."
        )
    if is_stream(X):
        return TypeError(
            f"{name} is a {type(X).__name__}; {expected} Only methods that predict, and transform "
            "of BertEmbeddingTransformer, read a stream. If the texts fit into memory, pass "
            f"{how_to_read_all(X, name)}."
        )
    advice = "Convert it to a list of texts."
    if isinstance(X, Mapping) and type(X) is not dict:  # a DatasetDict, a BatchEncoding
        advice = f"Its keys are {shorten(list(X))}: choose the one that holds the texts."
    return TypeError(f"{name} is a {type(X).__name__}; {expected} {advice}")


def _holds_lists(X: Any) -> bool:
    """Whether the first element of a flat container is a list or tuple."""
    shape = shape_of(X)
    is_flat = shape is None or len(shape) == 1
    if not has_rows(X) or not is_flat or not hasattr(X, "__len__") or not len(X):
        return False
    return isinstance(next(iter(X)), (list, tuple))


#: Attributes that describe the columns of X in `fit`.
_NOTED = ("_n_columns", "n_features_in_", "feature_names_in_")


def check_columns(estimator: Any, X: Any, n_columns: int, *, reset: bool, name: str) -> None:
    """Store the number of columns and their names, or compare X with those of `fit`."""
    kinds = {1: "single texts", 2: "pairs of texts"}
    if reset:
        estimator._n_columns = n_columns
    elif not hasattr(estimator, "_n_columns"):
        return  # a stateless estimator, used without fit
    elif n_columns != estimator._n_columns and name != "X":
        raise ValueError(
            f"{name} contains {kinds[n_columns]}, but X contains {kinds[estimator._n_columns]}. "
            f"Pass {name} with the same columns as X."
        )
    elif n_columns != estimator._n_columns:
        raise ValueError(
            f"X contains {kinds[n_columns]}, but {type(estimator).__name__} was fitted to "
            f"{kinds[estimator._n_columns]}. Pass the same columns as to fit."
        )
    if len(shape_of(X) or ()) == 2 and name != "X":
        _check_names_of_columns(estimator, X, name)
    elif len(shape_of(X) or ()) == 2:
        _check_feature_names(estimator, X, reset=reset)
        if reset:
            estimator.n_features_in_ = n_columns
    elif reset:
        for attribute in _NOTED[1:]:
            estimator.__dict__.pop(attribute, None)


def _check_names_of_columns(estimator: Any, X: Any, name: str) -> None:
    """Raise an error if both X and another argument have names of columns, and they differ.

    scikit-learn's own check would call the other argument X.
    """
    names, known = column_names(X), list(getattr(estimator, "feature_names_in_", []))
    if names and known and names != known:
        raise ValueError(
            f"{name} has the columns {names}, but X has {known}; they must have the same names in "
            f"the same order. Pass {name}[{known}], or rename the columns."
        )


def _columns(X: Any, name: str) -> list[list[Any]]:
    """Convert X to one or two flat lists."""
    shape = shape_of(X)
    if shape is not None and len(shape) == 2:
        return _columns_of_table(X, name)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"{name} has shape {shape}; one or two columns of texts are expected. Reshape it, "
            f"for example with {name}.ravel()."
        )
    texts = read_column(X)
    if len(texts) and isinstance(texts[0], (list, tuple)):
        return _columns_of_pairs(texts, name, 0, len(texts[0]))
    return [texts]


def _columns_of_table(X: Any, name: str) -> list[list[Any]]:
    names = column_names(X)
    if X.shape[1] not in (1, 2):
        shown = f", columns {names}" if names else ""
        raise ValueError(
            f"{name} has shape {shape_of(X)}{shown}; one column of texts, or two columns of pairs, "
            f"are expected. Choose them, for example {name}['text'] of a frame or {name}[:, 0] of "
            "an array."
        )
    return read_table(X)


def _columns_of_pairs(rows: Sequence[Any], name: str, n_before: int, width: int) -> list[list[Any]]:
    """Convert rows to columns; `width` is that of the first row, `n_before` rows before these."""
    if width not in (1, 2):
        raise ValueError(
            f"{name}[0] is {shorten(rows[0])} ({type(rows[0]).__name__} of {width}); every "
            "row must be a str, or a pair of str. Join the words or sentences of each text, for "
            f"example [' '.join(words) for words in {name}]."
        )
    for i, row in enumerate(rows, start=n_before):
        if not isinstance(row, (list, tuple)) or len(row) != width:
            raise ValueError(
                f"{name}[{i}] is {shorten(row)} ({type(row).__name__}), but {name}[0] has "
                f"{width} text(s); all rows must be a str, or all must be pairs of str. "
                "Pass pairs as [(first, second), ...]."
            )
    return [list(column) for column in zip(*rows, strict=True)]


def _not_a_text(place: str, text: Any, name: str) -> Exception:
    if is_missing(text):
        return ValueError(
            f"{place} is {text!r} ({type(text).__name__}); every text must be a str. Replace "
            'missing texts, for example with "".'
        )
    return TypeError(
        f"{place} is {shorten(text)} ({type(text).__name__}); every text must be a str. Convert "
        f"{name} to strings, or choose the column that holds the texts."
    )
