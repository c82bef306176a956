"""Labels of every allowed type and number, and the classes they become."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.exceptions import DataConversionWarning

from skbert import BertSentimentClassifier
from skbert.contract.labels import check_classes, check_labels, class_numbers

TEXTS = ["good", "bad", "dull", "fun"]
SENTIMENTS = ["pos", "neg", "neg", "pos"]


def exactly(message):
    return f"^{re.escape(message)}$"


def kind(value):
    """A name for a test; None leaves it to pytest."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return None
    return f"{type(value).__module__}.{type(value).__name__}-{getattr(value, 'dtype', '')}"


def test_classes_and_numbers_by_hand():
    classes, numbers = check_labels(["b", "a", "c", "a"], 4)
    assert classes.tolist() == ["a", "b", "c"]
    assert (numbers.tolist(), numbers.dtype) == ([1, 0, 2, 0], np.int64)
    assert class_numbers(["c", "b"], 2, classes).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("y", "classes", "dtype"),
    [
        (SENTIMENTS, ["neg", "pos"], "<U3"),
        (tuple(SENTIMENTS), ["neg", "pos"], "<U3"),
        (np.array(SENTIMENTS), ["neg", "pos"], "<U3"),
        ([np.str_(s) for s in SENTIMENTS], ["neg", "pos"], "<U3"),
        (np.array(SENTIMENTS, dtype=object), ["neg", "pos"], "O"),
        (pd.Series(SENTIMENTS, index=[7, 7, 3, 1], dtype=object), ["neg", "pos"], "O"),
        (pd.Series(SENTIMENTS, dtype="category"), ["neg", "pos"], "O"),
        (pd.Series(SENTIMENTS, dtype="string"), ["neg", "pos"], "O"),
        (pl.Series(SENTIMENTS), ["neg", "pos"], "<U3"),
        (pa.array(SENTIMENTS), ["neg", "pos"], "O"),
        ([1, 0, 0, 1], [0, 1], "int64"),
        ([3, -1, 0, -1], [-1, 0, 3], "int64"),
        (np.array([1, 0, 0, 1], dtype=np.uint8), [0, 1], "uint8"),
        ([True, False, False, True], [False, True], "bool"),
        ([0.0, 1.0, 1.0, 0.0], [0.0, 1.0], "float64"),
        (["", "a", "a", ""], ["", "a"], "<U1"),
        (pd.Series([1, 0, 0, 1], dtype="Int64"), [0, 1], "int64"),
        (pd.Series([True, False, False, True], dtype="boolean"), [False, True], "bool"),
    ],
    ids=kind,
)
def test_classes_are_sorted_and_of_the_type_that_came(y, classes, dtype):
    found, numbers = check_labels(y, 4)
    assert found.tolist() == classes
    assert found.dtype == dtype
    assert [classes[i] for i in numbers] == (y.to_pylist() if hasattr(y, "to_pylist") else list(y))


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="came with numpy 2")
def test_numpy_strings_of_variable_width():
    labels = np.array(SENTIMENTS, dtype=np.dtypes.StringDType())
    classes, numbers = check_labels(labels, 4)
    assert (classes.tolist(), numbers.tolist()) == (["neg", "pos"], [1, 0, 0, 1])


def test_a_column_of_labels_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        classes, numbers = check_labels(np.array([[1], [0], [1]]), 3)
    assert (classes.tolist(), numbers.tolist()) == ([0, 1], [1, 0, 1])


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT], ids=repr)
@pytest.mark.parametrize(
    "container",
    [list, lambda y: np.array(y, dtype=object), lambda y: pd.Series(y, dtype=object)],
    ids=["list", "array", "Series"],
)
def test_a_missing_label_is_refused(missing, container):
    message = (
        f"y[2] is {missing!r} ({type(missing).__name__}); every text needs a label: a str, an int "
        "or a bool. Remove the rows without one."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_labels(container(["pos", "neg", missing]), 3)


def test_a_missing_number_is_refused():
    message = (
        "y[1] is nan (float); every text needs a label: a str, an int or a bool. Remove the rows "
        "without one."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_labels([1, float("nan"), 0], 3)


@pytest.mark.parametrize(
    "container", [list, lambda y: np.array(y, dtype=object)], ids=["list", "array"]
)
def test_labels_of_two_types_are_refused(container):
    message = (
        "y mixes labels of types ['int', 'str'], which have no common order; all must be of one "
        "type: str, int or bool. Convert them, for example with y.astype(str)."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        check_labels(container(["pos", 1, "neg"]), 3)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (
            None,
            ValueError,
            "y is None, but this estimator requires y to be passed, but the target y is None: one "
            "label for each text. Call fit(X, y).",
        ),
        (
            ["pos"],
            ValueError,
            "X has 3 texts and y has 1 labels; they must have the same length. Check that both "
            "come from "
            "the same rows.",
        ),
        (
            ["pos"] * 3,
            ValueError,
            "y has 1 class: 'pos'; 2 to 1000 classes are allowed. Check that y is the column of "
            "labels, and that no filter removed a class.",
        ),
        (
            [7] * 3,
            ValueError,
            "y has 1 class: 7; 2 to 1000 classes are allowed. Check that y is the column of "
            "labels, and that no filter removed a class.",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(y, error, message):
    with pytest.raises(error, match=exactly(message)):
        check_labels(y, 3)


@pytest.mark.parametrize("container", [list, np.array])
def test_bytes_are_refused(container):
    message = (
        "y[0] is b'pos' (bytes); a label is a str, an int or a bool. Decode the labels, for "
        "example with label.decode()."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        check_labels(container([b"pos", b"neg", b"pos"]), 3)


@pytest.mark.parametrize(
    ("y", "error"),
    [
        ([0.5, 1.5, 2.5], ValueError),
        ("pos", ValueError),
        (7, ValueError),
    ],
    ids=repr,
)
def test_what_is_no_label_is_refused(y, error):
    with pytest.raises(error):
        check_labels(y, 3)


@pytest.mark.parametrize(
    "y", [np.eye(3, dtype=int)[:, :2], [[1, 0], [0, 1], [1, 1]], pd.DataFrame({"a": [1] * 3, 0: 2})]
)
def test_several_labels_a_text_are_refused(y):
    message = (
        "y has 2 columns; one label per text is expected. Pass one column. To give a text several "
        "labels, pass a table of 0 and 1 as the y of fit."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_labels(y, 3)


def test_too_many_classes_are_refused():
    message = (
        "y has 1001 classes; 2 to 1000 classes are allowed. Check that y is the column of labels, "
        "and that no filter removed a class."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_labels(np.repeat(np.arange(1001), 2), 2002)


@pytest.mark.parametrize("n_classes", [5, 1000])
def test_many_classes(tiny_bert, n_classes):
    labels = np.repeat(np.arange(n_classes), 2)
    texts = [f"film {label}" for label in labels]
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    clf.fit(texts, labels)
    assert clf.classes_.tolist() == list(range(n_classes))
    assert clf.predict_proba(texts[:3]).shape == (3, n_classes)
    assert clf.decision_function(texts[:3]).shape == (3, n_classes)


@pytest.mark.parametrize(
    "y",
    [
        SENTIMENTS,
        [1, 0, 0, 1],
        [True, False, False, True],
        pd.Series(SENTIMENTS, index=[5, 5, 0, 9]),
        pd.Series(SENTIMENTS, dtype="category"),
    ],
    ids=kind,
)
def test_the_estimator_gives_back_what_it_was_given(tiny_bert, y):
    clf = BertSentimentClassifier(
        tiny_bert, max_length=16, max_epochs=30, learning_rate=5e-3, dropout=0, random_state=0
    )
    found = clf.fit(TEXTS, y).predict(TEXTS)
    assert found.tolist() == list(y)
    assert found.dtype == clf.classes_.dtype
    assert clf.score(TEXTS, y) == 1


# partial_fit


def test_classes_of_partial_fit():
    known = np.array(["neg", "pos"])
    assert check_classes(["pos", "neg"], None).tolist() == ["neg", "pos"]
    assert check_classes(None, known) is known
    assert check_classes(["pos", "neg"], known).tolist() == ["neg", "pos"]
    message = (
        "classes is None in the first call of partial_fit; it must list all labels that later "
        "calls may contain. Call partial_fit(X, y, classes=[...])."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_classes(None, None)
    message = (
        "classes=['a', 'b'] differs from the classes of earlier calls, ['neg', 'pos']; they "
        "cannot change. Omit classes, or create a new estimator."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_classes(["a", "b"], known)


def test_a_label_that_is_not_one_of_the_classes():
    message = (
        "y[1] is 'mixed', which is not one of the classes ['neg', 'pos']. Remove such rows, or "
        "fit with all classes."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        class_numbers(["pos", "mixed"], 2, np.array(["neg", "pos"]))
