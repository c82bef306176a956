"""An error names the argument that has the fault: X_val is not X, y_val is not y."""

import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from transformers import BatchEncoding

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from tests.test_label_containers import Column, Dataset

TEXTS, LABELS = ["good film", "bad film", "fun", "dull"], ["pos", "neg", "pos", "neg"]
PAIRS = [("good", "film"), ("bad", "film"), ("fun", "it"), ("dull", "it")]


def exactly(message):
    return f"^{re.escape(message)}$"


def classifier(model):
    return BertSentimentClassifier(
        model, max_length=16, max_epochs=1, pretraining_epochs=1, random_state=0
    )


@pytest.fixture(scope="module")
def pretrainer(tiny_bert):
    with warnings.catch_warnings(action="ignore"):
        return BertPretrainer(tiny_bert, max_length=16, max_epochs=0).fit(TEXTS)


@pytest.fixture
def give(tiny_bert, pretrainer):
    """A function that passes a value as the argument of a name."""
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=16)
    calls = {
        "X": lambda X: classifier(tiny_bert).fit(X, LABELS),
        "X_val": lambda X: classifier(tiny_bert).fit(TEXTS, LABELS, X_val=X, y_val=LABELS),
        "X_unlabelled": lambda X: classifier(tiny_bert).fit(TEXTS, LABELS, X_unlabelled=X),
        "X of partial_fit": lambda X: classifier(tiny_bert).partial_fit(X, LABELS, ["neg", "pos"]),
        "X of transform": embedder.transform,
        "X of score": pretrainer.score,
        "texts": pretrainer.fill_mask,
        "pairs": pretrainer.predict_next_sentence,
        "y": lambda y: classifier(tiny_bert).fit(TEXTS, y),
        "y_val": lambda y: classifier(tiny_bert).fit(TEXTS, LABELS, X_val=TEXTS, y_val=y),
        "classes": lambda y: classifier(tiny_bert).partial_fit(TEXTS, LABELS, y),
        "y of partial_fit": lambda y: classifier(tiny_bert).partial_fit(TEXTS, y, LABELS[:2]),
    }
    return lambda name, value: calls[name](value)


# Texts --------------------------------------------------------------------------------------------

TEXT_ARGUMENTS = [
    *("X", "X_val", "X_unlabelled", "X of partial_fit", "X of transform", "X of score", "texts"),
    "pairs",
]
SEQUENCE = "a sequence of texts is expected, such as a list or a pandas Series of str."

#: For each fault: the value, the type of the error, and the message, in which {} is the argument.
TEXT_FAULTS = {
    "missing": (
        ["a", None, "b", "c"],
        ValueError,
        "{}[1] is None (NoneType); every text must be a str. Replace missing texts, for example "
        'with "".',
    ),
    "NaN": (
        pd.Series(["a", "b", float("nan")], dtype=object),
        ValueError,
        "{}[2] is nan (float); every text must be a str. Replace missing texts, for example with "
        '"".',
    ),
    "a number": (
        ["a", 7],
        TypeError,
        "{}[1] is 7 (int); every text must be a str. Convert {} to strings, or choose the column "
        "that holds the texts.",
    ),
    "a tensor": (
        torch.zeros(3, requires_grad=True),
        TypeError,
        "{}[0] is 0.0 (float); every text must be a str. Convert {} to strings, or choose the "
        "column that holds the texts.",
    ),
    "bytes": (
        b"a",
        TypeError,
        f"{{}} is a single bytes, b'a'; {SEQUENCE} Convert a single text to a list: [text].",
    ),
    "none": (
        [],
        ValueError,
        "{} has 0 texts (list); a minimum of 1 is required. Check the filter or the file that {} "
        "comes from.",
    ),
    "three columns": (
        pd.DataFrame({"text": ["a"], "stars": ["5"], "user": ["b"]}),
        ValueError,
        "{} has shape (1, 3), columns ['text', 'stars', 'user']; one column of texts, or two "
        "columns of pairs, are expected. Choose them, for example {}['text'] of a frame or {}[:, "
        "0] of an array.",
    ),
    "three columns of a data set": (
        Dataset(text=["a"], label=[1], user=["b"]),
        ValueError,
        "{} has shape (1, 3), columns ['text', 'label', 'user']; one column of texts, or two "
        "columns of pairs, are expected. Choose them, for example {}['text'] of a frame or {}[:, "
        "0] of an array.",
    ),
    "labels of a data set": (
        Dataset(text=["a", "b"], label=[1, 0]),
        TypeError,
        "{}[0][1] is 1 (int); every text must be a str. Convert {} to strings, or choose the "
        "column that holds the texts.",
    ),
    "three dimensions": (
        np.full((2, 2, 2), "a"),
        ValueError,
        "{} has shape (2, 2, 2); one or two columns of texts are expected. Reshape it, for example "
        "with {}.ravel().",
    ),
    "numbers": (
        np.zeros((3, 2)),
        TypeError,
        "{}[0][0] is 0.0 (float); every text must be a str. Convert {} to strings, or choose the "
        "column that holds the texts.",
    ),
    "a masked array": (
        np.ma.array([["a"], ["hidden"]], mask=[[False], [True]]),
        ValueError,
        "{}[1] is None (NoneType); every text must be a str. Replace missing texts, for example "
        'with "".',
    ),
    "a sparse matrix": (
        scipy.sparse.csr_matrix((3, 2)),
        TypeError,
        f"{{}} is a sparse csr_matrix of shape (3, 2); {SEQUENCE} Pass the texts themselves, "
        "without a vectorizer before skbert.",
    ),
    "a sparse array": (
        scipy.sparse.coo_array((3, 300)),
        TypeError,
        f"{{}} is a sparse coo_array of shape (3, 300); {SEQUENCE} Pass the texts themselves, "
        "without a vectorizer before skbert.",
    ),
    "a sparse tensor": (
        torch.eye(2).to_sparse(),
        TypeError,
        f"{{}} is a sparse Tensor of shape (2, 2); {SEQUENCE} Pass the texts themselves, without a "
        "vectorizer before skbert.",
    ),
    "tokens": (
        BatchEncoding({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}),
        TypeError,
        f"{{}} is a BatchEncoding; {SEQUENCE} Its keys are ['input_ids', 'attention_mask']: choose "
        "the one that holds the texts.",
    ),
    "a lazy frame": (
        pl.LazyFrame({"text": ["a"]}),
        TypeError,
        f"{{}} is a LazyFrame; {SEQUENCE} Convert it to a list of texts.",
    ),
    "a dict": (
        {"text": ["a"]},
        TypeError,
        f"{{}} is a dict; {SEQUENCE} Convert it to a list of texts.",
    ),
    "an empty dimension": (
        np.array("a"),
        ValueError,
        "{} has shape (); one or two columns of texts are expected. Reshape it, for example with "
        "{}.ravel().",
    ),
}


@pytest.mark.parametrize("argument", TEXT_ARGUMENTS)
@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_a_fault_of_texts(give, argument, fault):
    value, error, message = TEXT_FAULTS[fault]
    with pytest.raises(error, match=exactly(message.replace("{}", argument.split()[0]))):
        give(argument, value)


@pytest.mark.parametrize("argument", [n for n in TEXT_ARGUMENTS if n != "X of transform"])
def test_a_stream(give, argument):
    name = argument.split()[0]
    message = (
        f"{name} is a generator; {SEQUENCE} Only methods that predict, and transform of "
        "BertEmbeddingTransformer, read a stream. If the texts fit into memory, pass "
        f"list({name})."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        give(argument, (text for text in "ab"))


@pytest.mark.parametrize("argument", [name for name in TEXT_ARGUMENTS if name != "texts"])
def test_a_single_text(give, argument):
    name = argument.split()[0]
    message = f"{name} is a single str, 'a'; {SEQUENCE} Convert a single text to a list: [text]."
    with pytest.raises(TypeError, match=exactly(message)):
        give(argument, "a")


@pytest.mark.parametrize("argument", ["X", "X_val", "X_unlabelled", "X of transform", "pairs"])
def test_words_instead_of_texts(give, argument):
    name = argument.split()[0]
    message = (
        f"{name}[0] is ['a', 'b', 'c'] (list of 3); every row must be a str, or a pair of str. "
        f"Join the words or sentences of each text, for example [' '.join(words) for words in "
        f"{name}]."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        give(argument, [["a", "b", "c"], ["d"]])
    message = (
        f"{name}[1] is ['d'] (list), but {name}[0] has 2 text(s); all rows must be a str, or all "
        "must be pairs of str. Pass pairs as [(first, second), ...]."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        give(argument, [["a", "b"], ["d"]])


@pytest.mark.parametrize("argument", ["X of score", "texts"])
def test_faults_of_documents(give, argument):
    name = argument.split()[0]
    faults = {
        f"{name}[1] is 'd' (str), but {name}[0] is a list; all elements must be str, or all must "
        "be lists of sentences. Convert a single text to a list: [text].": [["a"], "d"],
        f"{name}[1] is an empty list; a document is a list of at least one sentence. Remove it, or "
        "use [''] for a document without words.": [["a"], []],
        f"{name}[0][1] is None (NoneType); every text must be a str. Replace missing texts, for "
        'example with "".': [["a", None]],
        f"{name} has two columns (1 rows); BertPretrainer expects one column of texts, or "
        "documents as a list of lists of sentences. Choose a column, or convert the rows to "
        "lists.": np.array([["a", "b"]]),
    }
    for message, value in faults.items():
        with pytest.raises(ValueError, match=exactly(message)):
            give(argument, value)


def test_single_texts_instead_of_pairs(give):
    message = (
        "pairs contains single texts, but pairs of texts are expected. Pass two columns, or a list "
        "of (first, second)."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        give("pairs", TEXTS)


@pytest.mark.parametrize("argument", ["X_val", "X_unlabelled"])
@pytest.mark.parametrize(
    ("X", "other", "kinds"),
    [
        (TEXTS, PAIRS, ("pairs of texts", "single texts")),
        (PAIRS, TEXTS, ("single texts", "pairs of texts")),
    ],
    ids=["single", "pairs"],
)
def test_pairs_beside_single_texts(tiny_bert, argument, X, other, kinds):
    more = {argument: other} | ({"y_val": LABELS} if argument == "X_val" else {})
    message = (
        f"{argument} contains {kinds[0]}, but X contains {kinds[1]}. Pass {argument} with the same "
        "columns as X."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(X, LABELS, **more)


@pytest.mark.parametrize("argument", ["X_val", "X_unlabelled"])
def test_columns_in_another_order(tiny_bert, argument):
    X = pd.DataFrame(PAIRS, columns=["title", "body"])
    more = {argument: X[["body", "title"]]} | ({"y_val": LABELS} if argument == "X_val" else {})
    message = (
        f"{argument} has the columns ['body', 'title'], but X has ['title', 'body']; they must "
        f"have the same names in the same order. Pass {argument}[['title', 'body']], or rename the "
        "columns."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(X, LABELS, **more)
    fitted = classifier(tiny_bert).fit(X, LABELS, **{**more, argument: X})
    assert fitted.feature_names_in_.tolist() == ["title", "body"]


@pytest.mark.parametrize(
    "X",
    [
        Column(TEXTS),
        Dataset(text=TEXTS),
        pa.table({"text": TEXTS}),
        np.ma.array(TEXTS),
        np.array(TEXTS)[:, None].view(np.ma.MaskedArray),
    ],
    ids=["Column", "Dataset", "pyarrow", "masked", "(n, 1) masked"],
)
def test_near_misses_that_are_read(tiny_bert, X):
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=16)
    np.testing.assert_array_equal(embedder.transform(X), embedder.transform(TEXTS))


# Labels -------------------------------------------------------------------------------------------

LABEL_ARGUMENTS = ["y", "y_val", "classes", "y of partial_fit"]
AS_STR = "for example with [str(label) for label in {}]."

#: As `TEXT_FAULTS`; {labels} is "labels" or "classes".
LABEL_FAULTS = {
    "two types": (
        ["pos", 1, "neg", "pos"],
        TypeError,
        "{} mixes labels of types ['int', 'str'], which have no common order; all must be of one "
        "type: str, int or bool. Convert them, for example with {}.astype(str).",
    ),
    "booleans and integers": (
        [True, 2, 3, 4],
        TypeError,
        "{} mixes labels of types ['bool', 'int'], of which some are equal: True is 1, and False "
        "is 0; all must be of one type: str, int or bool. Convert them, for example with "
        "{}.astype(str).",
    ),
    "half stars": (
        [0.5, 1.0, 4.5, 5.0],
        ValueError,
        "{}[0] is 0.5 (float); a label is a str, an int, a bool or a whole number. Unknown label "
        "type: continuous. Make classes of them, for example with {}.astype(str), or predict "
        "numbers with BertSentimentRegressor.",
    ),
    "bytes": (
        [b"pos"] * 4,
        TypeError,
        "{}[0] is b'pos' (bytes); a label is a str, an int or a bool. Decode the labels, for "
        "example with label.decode().",
    ),
    "dates": (
        np.array(["2024-05-01"] * 4, dtype="datetime64[D]"),
        TypeError,
        f"{{}}[0] is {np.datetime64('2024-05-01')!r} (datetime64); a label is a str, an int or a "
        "bool. Check that it is the column of labels; to use dates as classes, convert them, "
        + AS_STR,
    ),
    "complex numbers": (
        [1j] * 4,
        TypeError,
        "{}[0] is 1j (complex); a label is a str, an int or a bool. Convert the labels, " + AS_STR,
    ),
    "one string": (
        "pos",
        ValueError,
        "{} is a single str, 'pos'; a sequence of {labels} is expected, such as a list or a pandas "
        "Series. Pass a list.",
    ),
    "a generator": (
        (label for label in LABELS),
        ValueError,
        "{} is a generator; a sequence of {labels} is expected, such as a list or a pandas Series. "
        "Pass list({}).",
    ),
}


@pytest.mark.parametrize("argument", LABEL_ARGUMENTS)
@pytest.mark.parametrize("fault", LABEL_FAULTS)
def test_a_fault_of_labels(give, argument, fault):
    value, error, message = LABEL_FAULTS[fault]
    labels = "classes" if argument == "classes" else "labels"
    message = message.replace("{labels}", labels).replace("{}", argument.split()[0])
    with pytest.raises(error, match=exactly(message)):
        give(argument, value)


#: Where `fit` has learned one label per text, the other arguments cannot have several.
SEVERAL = {
    "lists": (
        [["pos"], ["pos", "neg"], ["neg"], ["pos"]],
        "{}[1] is ['pos', 'neg'] (list), which holds 2 labels; one label per text is expected. "
        "Choose one, or pass a flat list of labels.",
    ),
    "two columns": (
        np.full((4, 2), "pos"),
        "{} has 2 columns; one label per text is expected. Pass one column. To give a text several "
        "labels, pass a table of 0 and 1 as the y of fit.",
    ),
}


@pytest.mark.parametrize(
    "argument", [name for name in LABEL_ARGUMENTS if name not in ("y", "y of partial_fit")]
)
@pytest.mark.parametrize("fault", SEVERAL)
def test_several_labels_beside_a_fit_with_one(give, argument, fault):
    value, message = SEVERAL[fault]
    with pytest.raises(ValueError, match=exactly(message.replace("{}", argument.split()[0]))):
        give(argument, value)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT], ids=repr)
@pytest.mark.parametrize("argument", LABEL_ARGUMENTS)
def test_a_missing_label(give, argument, missing):
    name = argument.split()[0]
    advice = (
        "a label is a str, an int or a bool. Remove it."
        if name == "classes"
        else "every text needs a label: a str, an int or a bool. Remove the rows without one."
    )
    message = f"{name}[3] is {missing!r} ({type(missing).__name__}); {advice}"
    with pytest.raises(ValueError, match=exactly(message)):
        give(argument, ["pos", "neg", "neg", missing])


@pytest.mark.parametrize(
    ("argument", "texts"), [("y", "X"), ("y_val", "X_val"), ("y of partial_fit", "X")]
)
def test_a_wrong_number_of_labels(give, argument, texts):
    message = (
        f"{texts} has 4 texts and {argument.split()[0]} has 3 labels; they must have the same "
        "length. Check that both come from the same rows."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        give(argument, LABELS[:3])


@pytest.mark.parametrize("argument", ["y_val", "y of partial_fit"])
@pytest.mark.parametrize("label", ["neutral", "Pos", "pos "])
def test_a_label_that_is_no_class(give, argument, label):
    message = (
        f"{argument.split()[0]}[2] is {label!r}, which is not one of the classes ['neg', 'pos']. "
        "Remove such rows, or fit with all classes."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        give(argument, ["pos", "neg", label, "pos"])


@pytest.mark.parametrize(
    ("y", "y_val"), [([1, 0], ["1", "0"]), (["1", "0"], [1, 0]), (["True", "False"], [True, False])]
)
def test_labels_of_another_type_are_no_classes(tiny_bert, y, y_val):
    message = (
        f"y_val[0] is {y_val[0]!r}, which is not one of the classes {sorted(y)}. Remove such rows, "
        "or fit with all classes."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(TEXTS[:2], y, X_val=TEXTS[:2], y_val=y_val)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ["pos"],
            "classes has 1 class: 'pos'; 2 to 1000 classes are allowed. List all labels that any "
            "call may contain.",
        ),
        (
            [],
            "classes has 0 classes; 2 to 1000 classes are allowed. List all labels that any call "
            "may contain.",
        ),
        (
            7,
            "classes is a int; a sequence of classes is expected, such as a list or a pandas "
            "Series. Pass all labels that any call may contain, in a list.",
        ),
        (
            {"pos", "neg"},
            "classes is a set; a sequence of classes is expected, such as a list or a pandas "
            "Series. Pass list(classes).",
        ),
    ],
    ids=["one class", "no class", "a number", "a set"],
)
def test_faults_of_classes(give, classes, message):
    with pytest.raises(ValueError, match=exactly(message)):
        give("classes", classes)


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["pos", "neg"], dtype=object),
        pd.Series(["pos", "neg"], dtype="category"),
        pl.Series(["pos", "neg"]),
        Column(["pos", "neg"]),
    ],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
def test_classes_in_every_container(tiny_bert, classes):
    clf = classifier(tiny_bert).partial_fit(TEXTS, LABELS, classes)
    assert clf.classes_.tolist() == ["neg", "pos"]


def test_validation_labels_in_another_container(tiny_bert):
    clf = classifier(tiny_bert).fit(TEXTS, LABELS, X_val=Column(TEXTS), y_val=pl.Series(LABELS))
    same = classifier(tiny_bert).fit(TEXTS, LABELS, X_val=TEXTS, y_val=LABELS)
    assert clf.history_[0]["val_loss"] == same.history_[0]["val_loss"]
