"""Streams of texts: iterators, and data sets, readers and Parquet files of pyarrow -> rows.

A stream has no number of rows and is read once. pyarrow is an optional package: an object can only
come from it if somebody has imported it. `text_parts` checks the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from skbert.contract.containers import has_rows

#: Number of texts that are checked, tokenised and predicted at once, so that the memory is bounded.
TEXTS_AT_ONCE = 2**14

# Number of rows of a batch of pyarrow that are str at once, besides those of a part.
_ROWS_AT_ONCE = 2**10

#: Modules of pyarrow, and the streams that each of them has.
_ARROW_STREAMS = {
    "pyarrow": ["RecordBatchReader"],
    "pyarrow.dataset": ["Dataset", "Scanner"],
    "pyarrow.parquet": ["ParquetFile"],
}

#: How to read all rows of a stream of pyarrow at once.
_READ_ALL = {
    "RecordBatchReader": "read_all()",
    "Dataset": "to_table()",
    "Scanner": "to_table()",
    "ParquetFile": "read()",
}


@dataclass(frozen=True)
class Stream:
    """Rows that can be read once.

    Attributes
    ----------
    rows : iterator
        Texts, or tuples of two texts.
    n_rows : int or None
        None if it is unknown.
    columns : pyarrow.Table or None
        A table without rows, whose columns are those of the stream; None without names.
    """

    rows: Iterator[Any]
    n_rows: int | None = None
    columns: Any = None


def is_stream(X: Any) -> bool:
    """Whether X is an iterator, or a stream of pyarrow."""
    return _arrow_kind(X) is not None or (isinstance(X, Iterator) and not has_rows(X))


def open_stream(X: Any) -> Stream:
    """Open a stream; nothing is read yet.

    Raises
    ------
    ValueError
        If a stream of pyarrow has not one or two columns.
    """
    kind = _arrow_kind(X)
    if kind is None:
        return Stream(X)
    schema = _schema_of(X, kind)
    if len(schema.names) not in (1, 2):
        raise ValueError(
            f"X is a {type(X).__name__} with the columns {schema.names}; one column of texts, or "
            f"two columns of pairs, are expected. Choose them, for example "
            f"{_choice_of_columns(kind)}."
        )
    n_rows = X.metadata.num_rows if kind == "ParquetFile" else None
    return Stream(_rows_of(_batches_of(X, kind)), n_rows, schema.empty_table())


def how_to_read_all(X: Any, name: str) -> str:
    """Say which expression reads all rows of a stream into memory."""
    kind = _arrow_kind(X)
    return f"list({name})" if kind is None else f"{name}.{_READ_ALL[kind]}"


def _arrow_kind(X: Any) -> str | None:
    """Name the class of a stream of pyarrow; None for anything else."""
    for module, kinds in _ARROW_STREAMS.items():
        for kind in kinds if module in sys.modules else ():
            if isinstance(X, getattr(sys.modules[module], kind, ())):
                return kind
    return None


def _schema_of(X: Any, kind: str) -> Any:
    names = {"Scanner": "projected_schema", "ParquetFile": "schema_arrow"}
    return getattr(X, names.get(kind, "schema"))


def _choice_of_columns(kind: str) -> str:
    if kind == "RecordBatchReader":
        return "(text for batch in X for text in batch['text'].to_pylist())"
    opened = {"Dataset": "X", "Scanner": "dataset", "ParquetFile": "pyarrow.dataset.dataset(path)"}
    return f"{opened[kind]}.scanner(columns=['text'])"


def _batches_of(X: Any, kind: str) -> Iterable[Any]:
    if kind == "ParquetFile":
        return _batches_of_file(X)
    if kind == "Dataset":
        return _batches_of_dataset(X)
    return X.to_batches() if kind == "Scanner" else X


def _batches_of_file(file: Any) -> Iterator[Any]:
    """Read one row group at a time, because pyarrow buffers all that it is asked for."""
    for number in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=TEXTS_AT_ONCE, row_groups=[number])


def _batches_of_dataset(dataset: Any) -> Iterator[Any]:
    """Read one row group of Parquet, or one file of another format, at a time.

    A scan of all files reads far ahead if texts are read faster than they are predicted, also with
    the smallest settings.
    """
    settings = {"batch_size": TEXTS_AT_ONCE, "batch_readahead": 1, "fragment_readahead": 1}
    try:
        fragments = [*dataset.get_fragments()]
    except ValueError:  # pyarrow does not give those of a data set with a filter
        yield from dataset.to_batches(**settings)
        return
    for fragment in fragments:
        can_split = hasattr(fragment, "split_by_row_group")
        for part in fragment.split_by_row_group() if can_split else [fragment]:
            yield from part.to_batches(schema=dataset.schema, **settings)


def _rows_of(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            piece = batch.slice(start, _ROWS_AT_ONCE)
            first, *second = (column.to_pylist() for column in piece.columns)
            yield from zip(first, *second, strict=True) if second else first
