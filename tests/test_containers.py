"""Everything that may hold texts, and what is no container of texts."""

import enum
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skbert import BertSentimentClassifier
from skbert.contract.texts import check_texts

TEXTS = ["a good film", "", "so dull"]


def found_in(X):
    """The texts, or the lists of first and second texts."""
    texts = check_texts(SimpleNamespace(), X, reset=True)
    assert all(type(text) is str for text in texts.first)
    return texts.first if texts.second is None else (texts.first, texts.second)


@pytest.mark.parametrize(
    "X",
    [
        TEXTS,
        tuple(TEXTS),
        dict.fromkeys(TEXTS).keys(),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS)[:, None],
        np.array(TEXTS, dtype=object)[:, None],
        [np.str_(text) for text in TEXTS],
        [[text] for text in TEXTS],
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype=object),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pd.Series(TEXTS, index=[7, -1, 7]),
        pd.Series(TEXTS, index=["z", "b", "a"]),
        pd.Index(TEXTS),
        pd.DataFrame({"text": TEXTS}, index=[2, 1, 0]),
        pd.DataFrame({0: TEXTS}),
        pl.Series(TEXTS),
        pl.DataFrame({"text": TEXTS}),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.table({"text": TEXTS}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_one_column(X):
    assert found_in(X) == TEXTS


@pytest.mark.parametrize(
    "X",
    [
        [("a", "c"), ("b", "d")],
        (["a", "c"], ["b", "d"]),
        np.array([["a", "c"], ["b", "d"]]),
        np.array([["a", "c"], ["b", "d"]], dtype=object),
        pd.DataFrame({"first": ["a", "b"], "second": ["c", "d"]}, index=[9, 9]),
        pl.DataFrame({"first": ["a", "b"], "second": ["c", "d"]}),
        pa.table({"first": ["a", "b"], "second": ["c", "d"]}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_pairs(X):
    assert found_in(X) == (["a", "b"], ["c", "d"])


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="came with numpy 2")
def test_numpy_strings_of_variable_width():
    string = np.dtypes.StringDType()
    assert found_in(np.array(TEXTS, dtype=string)) == TEXTS
    assert found_in(np.array(TEXTS, dtype=string)[:, None]) == TEXTS
    pairs = np.array([["a", "c"], ["b", "d"]], dtype=string)
    assert found_in(pairs) == (["a", "b"], ["c", "d"])


class Shouting(str):
    """A str that prints itself otherwise."""

    __slots__ = ()

    def __str__(self):
        return self.upper()


def test_a_subclass_of_str_keeps_its_characters():
    Answer = enum.Enum("Answer", {"GOOD": "a good film"}, type=str)
    assert found_in([Shouting("a good film"), Answer.GOOD]) == ["a good film"] * 2


def test_the_caller_s_list_is_not_changed(tiny_bert):
    X, y = list(TEXTS), [1, 0, 1]
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1).fit(X, y)
    clf.predict(X)
    assert (X, y) == (TEXTS, [1, 0, 1])


SEQUENCE = "a sequence of texts is expected, such as a list or a pandas Series of str."
STREAM = (
    "Only methods that predict, and transform of BertEmbeddingTransformer, read a stream. If the "
    "texts fit into memory, pass"
)
LONG = "many words " * 20


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (
            "one string",
            TypeError,
            f"X is a single str, 'one string'; {SEQUENCE} Convert a single text to a list: [text].",
        ),
        (
            LONG,
            TypeError,
            f"X is a single str, '{LONG[:56]}...; {SEQUENCE} Convert a single text to a list: "
            f"[text].",
        ),
        (
            b"bytes",
            TypeError,
            f"X is a single bytes, b'bytes'; {SEQUENCE} Convert a single text to a list: [text].",
        ),
        (None, TypeError, f"X is a NoneType; {SEQUENCE} Convert it to a list of texts."),
        (7, TypeError, f"X is a int; {SEQUENCE} Convert it to a list of texts."),
        ({"a": 1}, TypeError, f"X is a dict; {SEQUENCE} Convert it to a list of texts."),
        ({"a"}, TypeError, f"X is a set; {SEQUENCE} Convert it to a list of texts."),
        (
            (text for text in "ab"),
            TypeError,
            f"X is a generator; {SEQUENCE} {STREAM} list(X).",
        ),
        (
            [],
            ValueError,
            "X has 0 texts (list); a minimum of 1 is required. Check the filter or the file that "
            "X comes from.",
        ),
        (
            pd.Series([], dtype=object),
            ValueError,
            "X has 0 texts (Series); a minimum of 1 is required. Check the filter or the file "
            "that X comes from.",
        ),
        (
            pd.DataFrame({"text": []}, dtype=object),
            ValueError,
            "X has 0 texts (DataFrame); a minimum of 1 is required. Check the filter or the file "
            "that X comes from.",
        ),
        (
            np.array("a"),
            ValueError,
            "X has shape (); one or two columns of texts are expected. Reshape it, for example "
            "with X.ravel().",
        ),
        (
            np.full((2, 2, 2), "a"),
            ValueError,
            "X has shape (2, 2, 2); one or two columns of texts are expected. Reshape it, for "
            "example with X.ravel().",
        ),
        (
            np.full((2, 3), "a"),
            ValueError,
            "X has shape (2, 3); one column of texts, or two columns of pairs, are expected. "
            "Choose them, for example X['text'] of a frame or X[:, 0] of an array.",
        ),
        (
            pd.DataFrame({"text": ["a"], "stars": [1], "user": ["b"]}),
            ValueError,
            "X has shape (1, 3), columns ['text', 'stars', 'user']; one column of texts, or two "
            "columns of pairs, are expected. Choose them, for example X['text'] of a frame or "
            "X[:, 0] of an array.",
        ),
        (
            [("a", "b"), ("c", "d", "e")],
            ValueError,
            "X[1] is ('c', 'd', 'e') (tuple), but X[0] has 2 text(s); all rows must be a str, or "
            "all must be pairs of str. Pass pairs as [(first, second), ...].",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_is_no_container_of_texts_is_refused(X, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        found_in(X)
