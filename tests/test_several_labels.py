"""Several labels a text: how y is read, the loss, and the classifier that gives them."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils import get_tags

from skbert import BertSentimentClassifier
from skbert.contract.several_labels import has_several_labels, read_label_table
from skbert.contract.weights import positive_weights
from skbert.engine.training.criteria import BinaryCrossEntropies


def exactly(message):
    return f"^{re.escape(message)}$"


TABLE = [[1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 1, 1]]
LISTS = [["a", "c"], ["c"], ["b"], ["a", "b", "c"]]

# How y is read.


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (TABLE, [0, 1, 2]),
        (np.array(TABLE), [0, 1, 2]),
        (np.array(TABLE, dtype=bool), [0, 1, 2]),
        (torch.tensor(TABLE), [0, 1, 2]),
        (scipy.sparse.csr_matrix(TABLE), [0, 1, 2]),
        (scipy.sparse.csr_array(TABLE), [0, 1, 2]),
        (pd.DataFrame(TABLE, columns=["z", "y", "x"]), ["z", "y", "x"]),
        (pd.DataFrame(TABLE, columns=["z", "z", "x"]), [0, 1, 2]),
        (LISTS, ["a", "b", "c"]),
        ([tuple(row) for row in LISTS], ["a", "b", "c"]),
        ([set(row) for row in LISTS], ["a", "b", "c"]),
        (pd.Series(LISTS), ["a", "b", "c"]),
        ([[7, 9], [9], [8], [7, 8, 9]], [7, 8, 9]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_table_or_lists(y, names):
    assert has_several_labels(y, 4)
    table = read_label_table(y, "y", 4)
    assert table.names.tolist() == names
    assert table.values.tolist() == TABLE and table.values.dtype == np.float32


@pytest.mark.parametrize(
    "y",
    [["a", "b"], [["a"], ["b"]], np.array([[1], [0]]), np.array([[1, 0]]), pd.Series([1, 0]), "ab"],
    ids=repr,
)
def test_one_label_a_text(y):
    assert not has_several_labels(y, 2)


def test_labels_of_other_packages_are_those_of_python():
    rows = [torch.tensor([7, 9]), torch.tensor([8]), torch.tensor([7])]
    table = read_label_table(rows, "y", 3)
    assert table.names.tolist() == [7, 8, 9]
    assert table.values.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_lists_of_0_and_1_are_refused_if_they_are_no_table():
    message = (
        "y has lists of the labels 0 and 1, and [0, 1] could also mean that a text has the second "
        "of two labels. Use other labels, such as strings, or pass a table of 0 and 1 with a "
        "column for each label."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        read_label_table([[0], [1], [0, 1], []], "y", 4)


def test_known_labels_decide_how_lists_are_read():
    assert read_label_table([[0, 1], [1, 1]], "y", 2, n_labels=2).is_matrix
    with pytest.raises(ValueError, match="lists of the labels 0 and 1"):
        read_label_table([[0, 1], [1, 1]], "y", 2, n_labels=3)


def test_a_text_without_labels():
    table = read_label_table([["a"], [], ["b", "a"]], "y", 3)
    assert table.values.tolist() == [[1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.array([[1, 2], [0, 1], [1, 1]]),
            "y has 2 columns, and y[0, 1] is 2 (int); only 0, 1, False and True are allowed. "
            "Several columns are read as labels that a text has or does not have. For several "
            "columns of classes, use "
            "sklearn.multioutput.MultiOutputClassifier(BertSentimentClassifier()).",
        ),
        (
            np.eye(4)[:, :2],
            "X has 3 texts and y has 4 rows of labels; they must have the same length. Check that "
            "both come from the same rows.",
        ),
        (
            [[], [], []],
            "y has no label in any of its 3 lists; at least two different labels must occur. Check "
            "that it is the column of labels.",
        ),
        (
            [["a", "b"], "a", ["b"]],
            "y[1] is 'a' (str) beside lists of labels; y must hold one label for each text, or a "
            "list of labels for each. Write it as ['a'], or choose one label for each text.",
        ),
        (
            [["a"], [], ["a"]],
            "y has 1 different label; 2 to 1000 are allowed where a text can have several. Check "
            "that y holds all labels, or pass one label for each text.",
        ),
        (
            [["a", None], ["b"], []],
            "chain(*y)[1] is None (NoneType); a label is a str, an int or a bool. Remove it.",
        ),
    ],
    ids=["two", "length", "nothing", "mixed", "one label", "None"],
)
def test_what_is_refused(tiny_bert, y, message):
    clf = BertSentimentClassifier(tiny_bert, max_epochs=1, max_length=32)
    with pytest.raises(ValueError, match=exactly(message)):
        clf.fit(["a", "b", "c"], y)


# The loss.


def test_the_loss_is_that_of_torch():
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(size=(5, 3)).astype(np.float32))
    targets = torch.from_numpy(rng.integers(2, size=(5, 3)).astype(np.float32))
    found = BinaryCrossEntropies((1.0, 2.0, 0.5)).losses(outputs, targets, 0.0)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5]))
    torch.testing.assert_close(found.mean(), loss(outputs, targets))
    smooth = BinaryCrossEntropies((1.0, 1.0, 1.0)).losses(outputs, targets, 0.2)
    expected = F.binary_cross_entropy_with_logits(outputs, 0.8 * targets + 0.1)
    torch.testing.assert_close(smooth.mean(), expected)


def test_positive_weights():
    values = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]])
    assert positive_weights("balanced", np.arange(3), values).tolist() == [3, 3, 1]
    assert positive_weights({1: 4.0}, np.arange(3), values).tolist() == [1, 4, 1]
    assert positive_weights(None, np.arange(3), values).tolist() == [1, 1, 1]


def test_the_loss_of_a_fit_is_that_of_transformers(tiny_bert):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts, y = ["so dull", "what a joy", "love love love"], np.array([[1, 0], [0, 1], [1, 1]])
    clf = BertSentimentClassifier(
        tiny_bert,
        max_length=32,
        max_epochs=1,
        batch_size=3,
        learning_rate=1e-12,
        dropout=0.0,
        device="cpu",
        random_state=0,
    )
    clf.fit(texts, y)
    tokens = AutoTokenizer.from_pretrained(tiny_bert)(texts, padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=2, problem_type="multi_label_classification"
    ).eval()
    model.bert.load_state_dict(clf.model_.state_dict(), strict=False)
    with torch.no_grad():
        states = model.bert(**tokens).last_hidden_state[:, 0]
        logits = states @ clf.head_.weight.T + clf.head_.bias
    expected = torch.nn.BCEWithLogitsLoss()(logits, torch.from_numpy(y).float()).item()
    assert clf.history_[0]["train_loss"] == pytest.approx(expected, abs=1e-5)


# The classifier.


@pytest.fixture(scope="module")
def tagged(toy_reviews):
    """Reviews with two labels: whether they are good, and whether they are long."""
    X, y = toy_reviews
    n_words = np.array([len(text.split()) for text in X])
    return X, np.column_stack([y == "good", n_words > np.median(n_words), y == "bad"]).astype(int)


SETTINGS = {
    "max_length": 32,
    "max_epochs": 12,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "device": "cpu",
    "random_state": 0,
}


@pytest.fixture(scope="module")
def clf(tiny_bert, tagged):
    return BertSentimentClassifier(tiny_bert, **SETTINGS).fit(*tagged)


def test_it_learns_and_predicts_an_indicator(clf, tagged):
    X, Y = tagged
    found = clf.predict(X)
    assert found.shape == Y.shape and found.dtype == np.int64 and clf.multilabel_
    assert f1_score(Y, found, average="micro") > 0.9
    assert clf.score(X, Y) == np.mean((found == Y).all(axis=1))
    probabilities = clf.predict_proba(X)
    logits = clf.decision_function(X).astype(np.float64)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(np.log(probabilities), clf.predict_log_proba(X))
    assert ((probabilities > 0.5) == found).all()


def test_lists_of_labels_give_the_same_weights(clf, tiny_bert, tagged):
    X, Y = tagged
    lists = [[column for column in range(3) if row[column]] for row in Y]
    other = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, lists)
    np.testing.assert_array_equal(other.decision_function(X), clf.decision_function(X))
    assert other.score(X, lists) == clf.score(X, Y)
    binarizer = MultiLabelBinarizer().fit(lists)
    assert binarizer.inverse_transform(other.predict(X))[0] == tuple(lists[0])


def test_names_of_a_frame_are_the_classes(tiny_bert, tagged):
    X, Y = tagged
    frame = pd.DataFrame(Y, columns=["good", "long", "bad"])
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"max_epochs": 4}).fit(X, frame)
    assert clf.classes_.tolist() == ["good", "long", "bad"]
    assert clf.score(X, frame) == np.mean((clf.predict(X) == Y).all(axis=1))
    assert clf.explain(X[:1])[0].target in ("good", "long", "bad")


def test_pickles_folders_and_transformers(tiny_bert, tagged, tmp_path):
    X, Y = tagged
    clf = BertSentimentClassifier(tiny_bert, pooling="cls", **SETTINGS | {"max_epochs": 4})
    expected = clf.fit(X, Y).predict_proba(X)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    assert again.multilabel_
    clf.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(X), expected, atol=1e-6)
    assert loaded.multilabel_ and loaded.classes_.tolist() == [0, 1, 2]
    from transformers import pipeline

    classify = pipeline("text-classification", str(tmp_path / "model"), top_k=None)
    scores = {entry["label"]: entry["score"] for entry in classify([X[0]])[0]}
    np.testing.assert_allclose([scores[str(c)] for c in range(3)], expected[0], atol=1e-5)


def test_positive_weights_change_the_predictions(tiny_bert, tagged):
    X, Y = tagged
    shares = []
    for weight in (0.05, 20.0):
        settings = SETTINGS | {"max_epochs": 2, "class_weight": {1: weight}}
        clf = BertSentimentClassifier(tiny_bert, **settings).fit(X, Y)
        shares.append(clf.predict_proba(X)[:, 1].mean())
    assert shares[0] < 0.35 < 0.65 < shares[1]


@pytest.mark.parametrize("many", [False, True], ids=["few texts", "many texts"])
def test_positive_weights_count_with_the_default_learning_rate(
    tiny_bert, tagged, many, monkeypatch
):
    from skbert.contract import first_head

    if many:
        monkeypatch.setattr(
            first_head, "few_texts_limit", lambda contains_classifier, n_classes: 10
        )
    X, Y = tagged
    Y = Y.copy()
    Y[::2, 1] = 0
    means = []
    for class_weight in (None, {1: 20.0}):
        clf = BertSentimentClassifier(
            tiny_bert, max_length=32, class_weight=class_weight, device="cpu", random_state=0
        )
        means.append(clf.fit(X, Y).predict_proba(X)[:, 1].mean())
    assert means[1] > means[0] + (0.002 if many else 0.2)


def test_validation_and_early_stopping(tiny_bert, tagged):
    X, Y = tagged
    clf = BertSentimentClassifier(tiny_bert, early_stopping=True, **SETTINGS).fit(X, Y)
    assert {"val_loss", "val_score"} <= set(clf.history_[0])
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"max_epochs": 2})
    clf.fit(X, Y, X_val=X, y_val=Y)
    assert clf.history_[-1]["val_score"] == clf.score(X, Y)


def test_partial_fit_and_warm_start(tiny_bert, tagged):
    X, Y = tagged
    clf = BertSentimentClassifier(tiny_bert, warm_start=True, **SETTINGS | {"max_epochs": 2})
    clf.partial_fit(X, Y, classes=[0, 1, 2])
    first = clf.history_[-1]["train_loss"]
    for _ in range(3):
        clf.partial_fit(X, Y)
    clf.fit(X, Y)
    assert clf.history_[-1]["train_loss"] < first and len(clf.history_) == 6
    message = (
        "y gives one label to each text, but the last fit had several. Pass y in the form of the "
        "last fit, or create a new estimator."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        clf.partial_fit(X, Y[:, 0])
    message = (
        "y has 2 columns, but there are 3 labels, [0, 1, 2]; a column for each is expected. Add "
        "the missing columns."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        clf.partial_fit(X, Y[:, :2])
    message = (
        "y has the label 5, which is not one of the labels [0, 1, 2]. Remove it, or fit with all "
        "labels."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        clf.partial_fit(X[:2], [[0, 5], [1]])


def test_warm_start_does_not_change_what_labels_are(tiny_bert, tagged):
    X, Y = tagged
    clf = BertSentimentClassifier(tiny_bert, warm_start=True, **SETTINGS | {"max_epochs": 1})
    message = (
        "y gives several labels to each text, but the last fit had one. Pass y in the form of the "
        "last fit, or create a new estimator."
    )
    clf.fit(X, Y[:, 0])
    with pytest.raises(ValueError, match=exactly(message)):
        clf.fit(X, Y[:, :2])


def test_lists_of_one_label_each_in_a_later_call(tiny_bert, tagged):
    X, _ = tagged
    settings = SETTINGS | {"max_epochs": 1}
    clf = BertSentimentClassifier(tiny_bert, **settings).fit(X[:4], [["b", "a"], [], ["c"], ["a"]])
    clf.partial_fit(X[:2], [["a"], ["b"]])
    assert clf.multilabel_ and clf.class_count_.tolist() == [3, 2, 1]
    predicted = [list(clf.classes_[row == 1]) for row in clf.predict(X[:3])]
    assert clf.score(X[:3], predicted) == 1
    assert clf.score(X[:3], clf.predict(X[:3])) == 1  # a table, as of a MultiLabelBinarizer
    assert clf.score(X[:1], predicted[:1]) == 1
    assert clf.score(X[:2], [["unknown"], predicted[1]]) == 0.5


def test_the_order_of_classes_is_that_of_the_columns(tiny_bert, tagged):
    X, Y = tagged
    frame = pd.DataFrame(Y[:, :2], columns=["price", "food"])
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS)
    clf.partial_fit(X, frame, classes=["price", "food"])
    clf.partial_fit(X, frame[["food", "price"]], classes=["food", "price"])
    assert clf.classes_.tolist() == ["price", "food"]
    assert clf.class_count_.tolist() == (2 * Y[:, :2].sum(axis=0)).tolist()
    numbered = pd.DataFrame(Y[:, :2], columns=[20, 10])
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"max_epochs": 1}).fit(X, numbered)
    assert clf.classes_.tolist() == [20, 10]


def test_a_missing_list_of_labels(tiny_bert):
    message = (
        "y[1] is None (NoneType); every text needs a list of labels, which may be empty. Replace "
        "it by [], or remove the row."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        BertSentimentClassifier(tiny_bert).fit(["a", "b"], [["x", "y"], None])


def test_scorers_and_searches(tiny_bert, tagged):
    X, Y = tagged
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"max_epochs": 4})
    for scoring in ("accuracy", "f1_micro", "roc_auc", "average_precision"):
        assert np.isfinite(cross_val_score(clf, X, Y, cv=2, scoring=scoring)).all(), scoring
    search = GridSearchCV(clf, {"class_weight": [None, "balanced"]}, cv=2, scoring="f1_macro")
    assert search.fit(X, Y).best_score_ > 0.5


def test_tags_say_so():
    assert get_tags(BertSentimentClassifier()).classifier_tags.multi_label
