"""X -> checked texts in parts. Of a stream, only one part is in memory; see `streams`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from skbert.contract.containers import no_rows
from skbert.contract.streams import TEXTS_AT_ONCE, Stream, is_stream, open_stream
from skbert.contract.texts import Texts, check_columns, check_rows, check_texts


@dataclass(frozen=True)
class TextParts:
    """Texts in parts.

    Attributes
    ----------
    n_texts : int or None
        None if it is unknown.
    parts : iterator of Texts
        Each at most `TEXTS_AT_ONCE` texts, unless all are one part. To keep one part in
        memory only, forget a part before the next one is read.
    """

    n_texts: int | None
    parts: Iterator[Texts]


def texts_in_parts(estimator: Any, X: Any, *, whole: bool = False) -> TextParts:
    """Check the X of a prediction, which may be a stream, in parts.

    Parameters
    ----------
    estimator : estimator
    X : as in `check_texts`, or a stream
        A stream is checked while it is read.
    whole : bool
        Whether texts that are no stream are one part.

    Returns
    -------
    TextParts

    Raises
    ------
    TypeError, ValueError
        As in `check_texts`. The rows in messages are those of X. Also if a stream of pyarrow has
        not one or two columns.
    """
    if is_stream(X):
        stream = open_stream(X)
        return TextParts(stream.n_rows, iter(_Reader(estimator, X, stream).read_part, None))
    texts = check_texts(estimator, X, reset=False)
    return TextParts(len(texts), texts.parts(len(texts) if whole else TEXTS_AT_ONCE))


class _Reader:
    """Reads and checks the next part of a stream, and keeps no reference to it."""

    def __init__(self, estimator: Any, X: Any, stream: Stream) -> None:
        self._estimator, self._X, self._stream = estimator, X, stream
        self._n_read = 0
        self._width: int | None = None  # of the first row, unless it is a str

    def read_part(self) -> Texts | None:
        """Read the next part; None at the end."""
        rows = list(islice(self._stream.rows, TEXTS_AT_ONCE))
        if self._n_read:
            texts = check_rows(rows, self._n_read, self._width) if rows else None
        elif not rows:
            raise no_rows(self._X, "X")
        else:
            self._width = len(rows[0]) if isinstance(rows[0], (list, tuple)) else None
            texts = check_rows(rows, 0, self._width)
            has_names = hasattr(self._estimator, "feature_names_in_")
            named = self._stream.columns if has_names else None  # compare names with names only
            n_columns = 1 if texts.second is None else 2
            check_columns(self._estimator, named, n_columns, reset=False, name="X")
        self._n_read += len(rows)
        return texts
