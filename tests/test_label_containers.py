"""Labels in every container: read with the values that came, or refused with the row of the fault.

`tests/test_labels.py` tests what follows from labels: classes and class numbers.
"""

import datetime
import enum
import re
import uuid
import warnings
from contextlib import nullcontext
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import DataConversionWarning

from skbert import BertSentimentClassifier
from skbert.contract.label_values import read_labels


def exactly(message):
    return f"^{re.escape(message)}$"


class Column:
    """A column of the datasets package: a length, elements in order, and nothing of an array."""

    def __init__(self, values):
        self.values = list(values)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)


class Dataset:
    """A data set of the datasets package: the names and the shape of a table, but no `column`."""

    def __init__(self, **columns):
        self.columns_by_name = columns
        self.column_names = list(columns)

    @property
    def shape(self):
        return len(self), len(self.column_names)

    def __len__(self):
        return len(next(iter(self.columns_by_name.values())))

    def __getitem__(self, name):
        return Column(self.columns_by_name[name])


class OnlyArray:
    """What numpy can convert, and nothing else."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return objects(self.values)


class OnlyToNumpy:
    """A series that gives its values to numpy only."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def to_numpy(self):
        return objects(self.values)


def objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def masked(values):
    """A masked array that hides a label where one is missing."""
    mask = [value is None for value in values]
    return np.ma.array(["hidden" if value is None else value for value in values], mask=mask)


#: Containers of one dimension that hold anything.
FLAT = {
    "list": list,
    "tuple": tuple,
    "values of a dict": lambda y: dict(enumerate(y)).values(),
    "object array": objects,
    "Series": lambda y: pd.Series(y, dtype=object, index=range(7, 7 + len(y))),
    "Index": lambda y: pd.Index(y, dtype=object),
    "datasets.Column": Column,
    "__array__": OnlyArray,
    "to_numpy": OnlyToNumpy,
}

#: Containers of two dimensions that hold anything.
TABLES = {
    "(n, 1) object array": lambda y: objects(y)[:, None],
    "DataFrame": lambda y: pd.DataFrame({"y": pd.Series(y, dtype=object)}),
    "datasets.Dataset": lambda y: Dataset(y=y),
}

#: Containers that hold labels of one type. Lists of lists are one column, too.
FLAT_OF_ONE_TYPE = {
    "polars Series": pl.Series,
    "polars Categorical": lambda y: pl.Series(y).cast(pl.String).cast(pl.Categorical),
    "pyarrow array": pa.array,
    "pyarrow chunked array": lambda y: pa.chunked_array([pa.array(y[:2]), pa.array(y[2:])]),
    "masked array": masked,
}
COLUMN_OF_ONE_TYPE = {
    "list of lists": lambda y: [[label] for label in y],
    "tuple of tuples": lambda y: tuple((label,) for label in y),
    "list of arrays": lambda y: [objects([label]) for label in y],
    "polars DataFrame": lambda y: pl.DataFrame({"y": y}),
    "pyarrow table": lambda y: pa.table({"y": y}),
    "(n, 1) masked array": lambda y: masked(y)[:, None],
}
CATEGORIES = {
    "category": lambda y: pd.Series(y, dtype="category"),
    "Categorical": pd.Categorical,
}
SINGLE = FLAT | FLAT_OF_ONE_TYPE | CATEGORIES
COLUMNS = TABLES | COLUMN_OF_ONE_TYPE
ALL = SINGLE | COLUMNS
ANYTHING = FLAT | TABLES

WORDS = ["pos", "neg", "neg", "pos"]


def read(container, labels, n_texts=4):
    """Read labels, and expect scikit-learn's warning of a second dimension, and no other."""
    message = (
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y "
        "to (n_texts,), for example using ravel()."
    )
    expected = nullcontext()
    if container in COLUMNS:
        expected = pytest.warns(DataConversionWarning, match=exactly(message))
    with expected:
        return read_labels(ALL[container](labels), "y", n_texts)


def refused(container, labels, n_texts=4):
    """The error that a container with these labels gives."""
    with pytest.raises((TypeError, ValueError)) as caught:
        read_labels(ALL[container](labels), "y", n_texts)
    return caught.value


# Good labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ALL)
def test_strings(container):
    found = read(container, WORDS)
    assert found.tolist() == WORDS
    assert {type(label) for label in found.tolist()} == {str}


@pytest.mark.parametrize("container", [name for name in ALL if "masked" not in name])
@pytest.mark.parametrize("labels", [[3, -1, 0, 3], [True, False, False, True], [1.0, 2.0, 5.0, 1]])
def test_numbers(container, labels):
    if container == "polars Categorical":
        labels = [str(label) for label in labels]
    elif "pyarrow" in container or "polars" in container:
        labels = [type(labels[0])(label) for label in labels]
    found = read(container, labels)
    assert found.tolist() == labels
    assert {type(label) for label in found.tolist()} == {type(labels[0])}


@pytest.mark.parametrize("container", TABLES)
def test_a_column_beside_texts_is_read_as_the_list_is(tiny_bert, container):
    y = [1, 0, 1, 0]
    texts = ["good", "bad", "fun", "dull"]
    settings = {"max_length": 16, "max_epochs": 2, "random_state": 0}
    clf = BertSentimentClassifier(tiny_bert, **settings).fit(texts, y)
    with pytest.warns(DataConversionWarning, match="^A column-vector y was passed"):
        other = BertSentimentClassifier(tiny_bert, **settings).fit(texts, ALL[container](y))
    assert other.classes_.dtype == clf.classes_.dtype
    np.testing.assert_array_equal(other.predict_proba(texts), clf.predict_proba(texts))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "longdouble", "bool"])
@pytest.mark.parametrize("container", [np.array, pd.Series])
def test_the_dtype_of_numbers_is_kept(container, dtype):
    found = read_labels(container(np.array([1, 0, 0, 1], dtype=dtype)), "y", 4)
    assert found.dtype == dtype
    assert found.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1, 0, 0, 1]),
        torch.tensor([1.0, 0, 0, 1], requires_grad=True),
        torch.tensor([1, 0, 0, 1], dtype=torch.bfloat16),
        [torch.tensor(label) for label in (1, 0, 0, 1)],
        list(np.array([1, 0, 0, 1])),
        list(np.array([1, 0, 0, 1], dtype="float32")),
        list(pa.array([1, 0, 0, 1])),
    ],
    ids=["int64", "gradient", "bfloat16", "scalars", "numpy", "float32", "pyarrow"],
)
def test_tensors_and_scalars(tensor):
    assert read_labels(tensor, "y", 4).tolist() == [1, 0, 0, 1]


#: An enum whose members are strings, and print themselves as names.
Word = enum.Enum("Word", {"GOOD": "pos", "BAD": "neg"}, type=str)


class Star(enum.IntEnum):
    ONE = 1
    TWO = 2


@pytest.mark.parametrize("container", FLAT | TABLES)
@pytest.mark.parametrize("labels", [[Word.GOOD, Word.BAD] * 2, [Star.ONE, Star.TWO] * 2], ids=repr)
def test_enums_that_are_labels_keep_their_values(container, labels):
    found = read(container, labels)
    assert found.tolist() == labels
    assert found.tolist() == [label.value for label in labels]


def test_strings_that_differ_in_a_last_nul_stay_apart():
    assert read_labels(["a", "a\0", "a"], "y", 3).tolist() == ["a", "a\0", "a"]


# A missing label ----------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ALL)
def test_a_missing_label_is_found_with_its_row(container):
    shown = "nan (float)" if container in CATEGORIES else "None (NoneType)"
    message = (
        f"y[1] is {shown}; every text needs a label: a str, an int or a bool. Remove the rows "
        "without one."
    )
    error = refused(container, ["pos", None, "neg", "pos"])
    assert (type(error), str(error)) == (ValueError, message)


@pytest.mark.parametrize("container", ANYTHING)
@pytest.mark.parametrize("missing", [float("nan"), np.float64("nan"), pd.NA, pd.NaT], ids=repr)
@pytest.mark.parametrize("others", ["pos", 1, datetime.date(2024, 5, 1)], ids=repr)
def test_each_kind_of_missing_label(container, missing, others):
    message = (
        f"y[2] is {missing!r} ({type(missing).__name__}); every text needs a label: a str, an int "
        "or a bool. Remove the rows without one."
    )
    error = refused(container, [others, others, missing, others])
    assert (type(error), str(error)) == (ValueError, message)


@pytest.mark.parametrize(
    ("y", "shown"),
    [
        (torch.tensor([1.0, float("nan"), 0.0]), "nan (float)"),
        (torch.tensor([[1.0], [float("nan")], [0.0]]), "nan (float)"),
        ([torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(0.0)], "nan (float)"),
        (np.array([1.0, float("nan"), 0.0]), "nan (float)"),
        (np.array([[1.0], [float("nan")], [0.0]]), "nan (float)"),
        (np.array(["2024", "NaT", "2024"], dtype="datetime64[D]"), None),
        (pd.Series([1, None, 0], dtype="Int64"), "<NA> (NAType)"),
        (pd.Series([True, None, False], dtype="boolean"), "<NA> (NAType)"),
        (pd.Series(["a", None, "b"], dtype="string"), "<NA> (NAType)"),
        (pd.Series([True, None, False], dtype="category"), "nan (float)"),
        (pd.to_datetime(pd.Series(["2024-05-01", None, "2024-05-02"])), "NaT (NaTType)"),
        (pl.Series([1, None, 0]), "None (NoneType)"),
        (pl.Series([True, None, False]), "None (NoneType)"),
        (pl.Series(["a", None, "b"], dtype=pl.Enum(["a", "b"])), "None (NoneType)"),
        ([["a"], None, ["b"]], "None (NoneType)"),
    ],
    ids=lambda y: f"{type(y).__module__}.{type(y).__name__}-{getattr(y, 'dtype', '')}",
)
def test_a_missing_label_of_a_typed_container(y, shown):
    shown = shown or f"{y[1]!r} (datetime64)"
    message = (
        f"y[1] is {shown}; every text needs a label: a str, an int or a bool. Remove the rows "
        "without one."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        read_labels(y, "y", 3)


# Other faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ALL)
def test_a_wrong_length(container):
    message = (
        "X has 5 texts and y has 4 labels; they must have the same length. Check that both come "
        "from the same rows."
    )
    error = refused(container, WORDS, n_texts=5)
    assert (type(error), str(error)) == (ValueError, message)


@pytest.mark.parametrize("container", ANYTHING)
@pytest.mark.parametrize(
    ("labels", "types", "why"),
    [
        (["pos", 1, "neg", "pos"], ["int", "str"], "which have no common order"),
        (["pos", True, "neg", "pos"], ["bool", "str"], "which have no common order"),
        ([1.0, "1", "2", "1"], ["float", "str"], "which have no common order"),
        ([1, True, 0, 2], ["bool", "int"], None),
        ([1.0, True, 0.0, False], ["bool", "float"], None),
    ],
)
def test_labels_of_several_types(container, labels, types, why):
    message = (
        f"y mixes labels of types {types}, "
        f"{why or 'of which some are equal: True is 1, and False is 0'}; all must be of one type: "
        "str, int or bool. Convert them, for example with y.astype(str)."
    )
    error = refused(container, labels)
    assert (type(error), str(error)) == (TypeError, message)


ONE_LABEL = "one label per text is expected. Choose one, or pass a flat list of labels."


@pytest.mark.parametrize("container", FLAT)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], ["a", "b"], ["b"]], "y[1] is ['a', 'b'] (list), which holds 2 labels; "),
        ([["a"], [], ["b"]], "y[1] is [] (list), which holds 0 labels; "),
        (["a", ["a", "b"], "b"], "y[0] is 'a' (str) beside lists of labels; "),
        ([["a"], "a", ["b"]], "y[1] is 'a' (str) beside lists of labels; "),
    ],
)
def test_several_labels_of_some_texts(container, labels, message):
    error = refused(container, labels, n_texts=3)
    assert (type(error), str(error)) == (ValueError, message + ONE_LABEL)


@pytest.mark.parametrize(
    "y",
    [
        [["a", "b"]] * 4,
        objects([("a", "b")] * 4),
        np.full((4, 2), "a"),
        pd.DataFrame({"a": WORDS, "b": WORDS}),
        pl.DataFrame({"a": WORDS, "b": WORDS}),
        pa.table({"a": WORDS, "b": WORDS}),
        Dataset(a=WORDS, b=WORDS),
        torch.eye(4)[:, :2],
        pd.MultiIndex.from_product([["a", "b"], ["c", "d"]]),
    ],
    ids=lambda y: f"{type(y).__module__}.{type(y).__name__}",
)
def test_several_columns(y):
    message = (
        "y has 2 columns; one label per text is expected. Pass one column. To give a text several "
        "labels, pass a table of 0 and 1 as the y of fit."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        read_labels(y, "y", 4)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.array([WORDS]),
            "y has shape (1, 4), one row; one label per text is expected, as a column. Transpose "
            "it, for example with y.T.",
        ),
        (
            np.zeros((4, 1, 1)),
            "y has shape (4, 1, 1); one label per text is expected. Reshape it, for example with "
            "y.ravel().",
        ),
    ],
)
def test_other_shapes(y, message):
    with pytest.raises(ValueError, match=exactly(message)):
        read_labels(y, "y", 4)


class Feeling(enum.Enum):
    GOOD = 1


ID = uuid.UUID(int=0)
DAY = datetime.date(2024, 5, 1)
AS_STR = "Convert the labels, for example with [str(label) for label in y]."
A_DATE = (
    "Check that it is the column of labels; to use dates as classes, convert them, for example "
    "with [str(label) for label in y]."
)


@pytest.mark.parametrize("container", ANYTHING)
@pytest.mark.parametrize(
    ("label", "shown", "advice"),
    [
        (
            Feeling.GOOD,
            "<Feeling.GOOD: 1> (Feeling)",
            "Use their names, for example [label.name for label in y].",
        ),
        (DAY, "datetime.date(2024, 5, 1) (date)", A_DATE),
        (b"pos", "b'pos' (bytes)", "Decode the labels, for example with label.decode()."),
        ({"label": 1}, "{'label': 1} (dict)", "Choose the label that each dict holds."),
        (
            frozenset("a"),
            "frozenset({'a'}) (frozenset)",
            "Pass a flat list of labels, one for each text.",
        ),
        (Decimal(1), "Decimal('1') (Decimal)", AS_STR),
        (1j, "1j (complex)", AS_STR),
        (ID, f"{ID!r} (UUID)", AS_STR),
    ],
    ids=repr,
)
def test_what_cannot_be_a_label(container, label, shown, advice):
    error = refused(container, [label] * 4)
    message = f"y[0] is {shown}; a label is a str, an int or a bool. {advice}"
    assert (type(error), str(error)) == (TypeError, message)


@pytest.mark.parametrize("container", ANYTHING)
@pytest.mark.parametrize("label", [0.5, 4.5, float("inf"), 1e300, 2.0**53])
def test_numbers_that_are_not_whole(container, label):
    message = (
        f"y[1] is {label} (float); a label is a str, an int, a bool or a whole number. Unknown "
        "label type: continuous. Make classes of them, for example with y.astype(str), or predict "
        "numbers with BertSentimentRegressor."
    )
    error = refused(container, [1.0, label, 2.0, 1.0])
    assert (type(error), str(error)) == (ValueError, message)


@pytest.mark.parametrize("container", ANYTHING)
@pytest.mark.parametrize(
    "labels", [[1, 2**64] * 2, [2**63, -1] * 2, [2.0, 2**53 + 1] * 2], ids=repr
)
def test_integers_that_numpy_would_change(container, labels):
    row = next(row for row, label in enumerate(labels) if label > 2**53)
    message = (
        f"y[{row}] is {labels[row]} (int), which no type of numpy holds beside the others; the "
        "integers from -2**63 to 2**63 - 1 are allowed. Convert the labels, for example with "
        "[str(label) for label in y]."
    )
    error = refused(container, labels)
    assert (type(error), str(error)) == (ValueError, message)


@pytest.mark.parametrize(
    ("y", "what", "advice"),
    [
        ("pos", "a single str, 'pos'", "Pass a list."),
        (7, "a int", "Pass one label for each text, in a list."),
        (np.array(7), "a ndarray", "Pass one label for each text, in a list."),
        (iter("ab"), "a str_ascii_iterator", "Pass list(y)."),
        ({"a"}, "a set", "A set has no order: pass one label for each text, in a list."),
        (
            {"label": [1]},
            "a dict",
            "Its keys are ['label']: choose the one that holds the labels.",
        ),
        (
            scipy.sparse.csr_matrix(np.eye(4)),
            "a csr_matrix",
            "Convert it, for example with y.toarray().",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_is_no_container_of_labels(y, what, advice):
    what = f"a {type(y).__name__}" if "iterator" in what else what
    message = (
        f"y is {what}; a sequence of labels is expected, such as a list or a pandas Series. "
        f"{advice}"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        read_labels(y, "y", 4)


# In score -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tiny_bert, toy_reviews):
    X, y = toy_reviews
    y = np.where(y == "good", "pos", "neg")
    return BertSentimentClassifier(tiny_bert, max_length=32, max_epochs=1, random_state=0).fit(X, y)


@pytest.mark.parametrize("container", ALL)
def test_score_reads_every_container(fitted, container):
    texts = ["good", "bad", "dull", "fun"]
    expected = np.mean(fitted.predict(texts) == WORDS)
    shown = "nan (float)" if container in CATEGORIES else "None (NoneType)"
    message = (
        f"y[1] is {shown}; every text needs a label: a str, an int or a bool. Remove the rows "
        "without one."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        assert fitted.score(texts, ALL[container](WORDS)) == expected
        with pytest.raises(ValueError, match=exactly(message)):
            fitted.score(texts, ALL[container](["pos", None, "neg", "pos"]))


@pytest.mark.parametrize(
    ("labels", "y"),
    [
        (["pos", "neg"], [Word.GOOD, Word.BAD]),
        ([1, 0], objects([1, 0])),
        ([1, 0], objects([1.0, 0.0])),
        ([True, False], pd.Series([True, False], dtype="category")),
    ],
)
def test_score_compares_values(tiny_bert, labels, y):
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    texts = ["good", "bad"]
    clf.fit(texts, labels)
    expected = np.mean(clf.predict(texts) == np.array(labels))
    assert clf.score(texts, y) == expected
    assert clf.score(texts, y, sample_weight=[1, 0]) == (clf.predict(texts)[0] == labels[0])


def test_score_counts_an_unknown_label_as_wrong(fitted):
    assert fitted.score(["good", "bad"], ["neutral", "other"]) == 0


def test_score_refuses_labels_of_another_type(fitted):
    message = (
        "y[0] is 1 (int), but the classes are ['neg', 'pos']; labels must have the type of the "
        "classes. Convert y, or fit with labels of that type."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        fitted.score(["good", "bad"], [1, 0])


# The stand-ins ------------------------------------------------------------------------------------


def test_the_stand_ins_are_like_the_real_ones():
    datasets = pytest.importorskip("datasets", reason="the package datasets is no dependency")
    real = datasets.Dataset.from_dict({"y": WORDS})
    stand_in = Dataset(y=WORDS)
    assert real.shape == stand_in.shape
    assert real.column_names == stand_in.column_names
    for of_real, of_stand_in in [(real, stand_in), (real["y"], stand_in["y"])]:
        for method in ("column", "columns", "dtype", "iloc", "tolist", "to_numpy", "to_pylist"):
            assert hasattr(of_real, method) == hasattr(of_stand_in, method)
    assert read_labels(real["y"], "y", 4).tolist() == WORDS
    with pytest.warns(DataConversionWarning):
        assert read_labels(real, "y", 4).tolist() == WORDS


def test_a_categorical_of_booleans_stays_one(tiny_bert):
    y = pd.Series([True, False] * 2, dtype="category")
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1)
    assert clf.fit(["good", "bad", "fun", "dull"], y).classes_.tolist() == [False, True]
    assert clf.classes_.dtype == bool
    assert clf.predict(["good"]).dtype == bool
