"""Class weights and validation splits, where scikit-learn's helpers would speak of their own.

The split falls back to what is possible and warns. What is impossible is refused, and the error
names our parameters.
"""

import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split

from skbert import BertSentimentClassifier
from skbert.contract.holdout import hold_out
from skbert.contract.weights import check_weights

TEXTS = ["good film", "bad film", "great film", "dull film"] * 6
REMEDY = "pass X_val and y_val, or set early_stopping=False."


def exactly(message):
    return f"^{re.escape(message)}$"


def classifier(model, **parameters):
    settings = {"max_length": 16, "max_epochs": 1, "batch_size": 8, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


# Class weights ------------------------------------------------------------------------------------

CLASSES = [
    ["a", "b"],
    ["1", "2"],
    ["1.0", "2.0"],
    ["True", "False"],
    [1, 2],
    [-1, 1],
    [1.0, 2.0],
    [False, True],
    ["", "a b"],
]


@pytest.mark.parametrize("dtype", [None, object], ids=["typed", "object"])
@pytest.mark.parametrize("labels", CLASSES, ids=repr)
def test_weights_of_all_kinds_of_labels(labels, dtype):
    weights = dict(zip(labels, (5, 1), strict=True))
    found = check_weights(None, weights, np.array(labels, dtype=dtype), np.array([0, 1, 1]))
    np.testing.assert_array_equal(found, [1, 0.2, 0.2])


@pytest.mark.parametrize("weight", [2, 2.0, np.float32(2), np.int8(2), Fraction(2), True + 1])
def test_numbers_of_all_types_are_weights(weight):
    found = check_weights(None, {"b": weight}, np.array(["a", "b"]), np.array([0, 1]))
    np.testing.assert_array_equal(found, [0.5, 1])


def test_a_class_without_a_key_has_weight_1():
    found = check_weights(None, {"b": 4}, np.array(["a", "b", "c"]), np.array([0, 1, 2]))
    np.testing.assert_array_equal(found, [0.25, 1, 0.25])


def test_a_weight_of_an_absent_class_does_no_harm():
    # in a fold of a cross-validation, which lacks a rare class
    found = check_weights(None, {"a": 2, "b": 1, "rare": 9}, np.array(["a", "b"]), np.array([0, 1]))
    np.testing.assert_array_equal(found, [1, 0.5])


@pytest.mark.parametrize("labels", CLASSES, ids=repr)
def test_balanced_weights(labels):
    found = check_weights(None, "balanced", np.array(labels), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(found, [1, 1 / 3, 1 / 3, 1 / 3], rtol=1e-15)


@pytest.mark.parametrize(
    ("class_weight", "classes", "unknown"),
    [
        ({1: 5, 2: 1}, ["1", "2"], [1, 2]),
        ({"1": 5, "2": 1}, [1, 2], ["1", "2"]),
        ({"a": 5, "B": 1}, ["a", "b"], ["B"]),
        ({"True": 5}, [False, True], ["True"]),
        ({"neutral": 5}, ["neg", "pos"], ["neutral"]),
        ({None: 5}, ["neg", "pos"], [None]),
    ],
)
def test_weights_of_other_labels(tiny_bert, class_weight, classes, unknown):
    message = (
        f"class_weight has the keys {unknown}, which are not among the classes {classes}. Write "
        "each key as the label is written in y, in the same type; a class without a key has weight "
        "1."
    )
    clf = classifier(tiny_bert, class_weight=class_weight)
    with pytest.raises(ValueError, match=exactly(message)):
        clf.fit(TEXTS[:4], classes * 2)
    with pytest.raises(ValueError, match=exactly(message)):
        clf.partial_fit(TEXTS[:4], classes * 2, classes=classes)


@pytest.mark.parametrize("classes", [["a", "b"], ["1", "2"], [1, 2], [False, True]], ids=repr)
@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 10**400, None, "heavy", [1]])
def test_weights_that_are_no_weights(classes, weight):
    message = (
        f"class_weight[{classes[1]!r}] is {weight}; every weight must be a finite number, 0 or "
        "larger. Correct it, or use 0 to ignore the class."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_weights(None, {classes[1]: weight}, np.array(classes), np.array([0, 1]))


@pytest.mark.parametrize(
    ("sample_weight", "error"),
    [(["heavy", 1.0], ValueError), ([[1.0], [1.0, 2.0]], ValueError), ({"a": 1}, TypeError)],
)
def test_sample_weights_that_are_no_numbers(sample_weight, error):
    message = (
        f"sample_weight is {sample_weight!r} ({type(sample_weight).__name__}), which does not "
        "convert to numbers; one finite number per text, 0 or larger, is expected. Replace what is "
        "missing or no number."
    )
    with pytest.raises(error, match=exactly(message)):
        check_weights(sample_weight, None, np.array(["a", "b"]), np.array([0, 1]))


# The validation split -----------------------------------------------------------------------------


def check_split(parts, numbers, n_validation):
    """Check that each row is on one side, and each class is trained on."""
    rows = np.concatenate([parts.training, parts.validation])
    assert sorted(rows.tolist()) == list(range(len(numbers)))
    assert len(parts.validation) == n_validation
    assert set(numbers[parts.training].tolist()) == set(numbers.tolist())


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_stratified_split_is_that_of_scikit_learn(fraction, seed):
    numbers = np.array([0, 1, 1, 1] * 10)
    found = hold_out(numbers, np.array(["a", "b"]), fraction, seed)
    training, validation = train_test_split(
        np.arange(40), test_size=fraction, stratify=numbers, random_state=seed
    )
    np.testing.assert_array_equal(found.training, training)
    np.testing.assert_array_equal(found.validation, validation)
    check_split(found, numbers, round(40 * fraction))


@pytest.mark.parametrize(
    ("numbers", "single", "n_classes"),
    [
        ([0, 1] * 12 + [2], ["c2"], 3),
        ([0, 1] * 12 + [2, 3], ["c2", "c3"], 4),
        ([0] * 24 + [1], ["c1"], 2),
        ([4] + [0, 1] * 12, ["c4"], 3),
        ([0, 0, 1], ["c1"], 2),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_with_one_text(numbers, single, n_classes, seed):
    numbers = np.array(numbers)
    classes = np.array([f"c{number}" for number in range(5)])
    message = (
        f"{len(single)} of {n_classes} classes {'has' if len(single) == 1 else 'have'} a single "
        f"text: {single}. fit trains on it, so early_stopping validates on the other classes only. "
        f"Add texts, {REMEDY}"
    )
    with pytest.warns(UserWarning, match=exactly(message)):
        found = hold_out(numbers, classes, 0.2, seed)
    check_split(found, numbers, -(-len(numbers) // 5))
    held_out = set(numbers[found.validation].tolist())
    assert held_out == {number for number in numbers.tolist() if f"c{number}" not in single}


@pytest.mark.parametrize(
    ("numbers", "fraction", "wanted", "taken"),
    [
        ([0, 1] * 3, 0.1, 1, 1),  # too few texts to validate on each class
        (list(range(12)) * 2, 0.1, 3, 3),
        ([0, 1, 2, 0], 0.5, 2, 1),  # only one text has another of its class
        ([0, 1] * 5, 0.95, 10, 8),  # no text to train on
        ([0, 1] * 5, 0.9, 9, 8),  # one text to train on, and two classes
        ([0] * 5, 0.99, 5, 4),
        ([0] * 98 + [1] * 2, 0.9, 90, 90),  # scikit-learn would not train on class 1
        ([0] * 20 + list(range(1, 10)), 0.99, 29, 19),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_too_few_texts_to_stratify(numbers, fraction, wanted, taken, seed):
    numbers = np.array(numbers)
    n_classes = len(set(numbers.tolist()))
    message = (
        f"validation_fraction={fraction} of {len(numbers)} texts is {wanted}, which cannot hold "
        f"texts of each of the {n_classes} classes and leave some of each to train on. "
        f"early_stopping validates on {taken} text{'s' * (taken > 1)}, chosen at random. Change "
        f"validation_fraction, {REMEDY}"
    )
    with pytest.warns(UserWarning, match=exactly(message)):
        found = hold_out(numbers, np.arange(12), fraction, seed)
    check_split(found, numbers, taken)
    with warnings.catch_warnings(action="ignore"):
        again = hold_out(numbers, np.arange(12), fraction, seed)
    np.testing.assert_array_equal(again.validation, found.validation)


@pytest.mark.parametrize(("numbers", "fraction"), [([0, 1], 0.1), ([0, 1, 2], 0.5), ([0], 0.99)])
def test_no_text_can_be_spared(numbers, fraction):
    message = (
        f"early_stopping=True sets validation_fraction={fraction} of the texts aside, but none of "
        f"the {len(numbers)} texts that fit trains on can be spared: each is the only one of its "
        f"class. Add texts, {REMEDY}"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        hold_out(np.array(numbers), np.arange(3), fraction, 0)


# In fit -------------------------------------------------------------------------------------------

SINGLE = (
    "1 of 3 classes has a single text: ['rare']. fit trains on it, so early_stopping validates on "
    f"the other classes only. Add texts, {REMEDY}"
)
FEW = (
    "validation_fraction=0.1 of {n} texts is {wanted}, which cannot hold texts of each of the {k} "
    "classes and leave some of each to train on. early_stopping validates on {taken}, chosen at "
    f"random. Change validation_fraction, {REMEDY}"
)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["pos", "neg"] * 11 + ["pos", "rare"], SINGLE),
        (["pos", "neg"] * 3, FEW.format(n=6, wanted=1, k=2, taken="1 text")),
        ([f"c{i // 2}" for i in range(24)], FEW.format(n=24, wanted=3, k=12, taken="3 texts")),
    ],
    ids=["one text of a class", "6 texts", "12 classes of 2 texts"],
)
def test_fit_falls_back_and_warns(tiny_bert, y, message):
    clf = classifier(tiny_bert, early_stopping=True)
    with pytest.warns(UserWarning, match=exactly(message)):
        clf.fit(TEXTS[: len(y)], y)
    assert clf.classes_.tolist() == sorted(set(y))
    assert np.isfinite(clf.history_[0]["val_loss"])


def test_fit_refuses_a_single_text_of_each_class(tiny_bert):
    message = (
        "early_stopping=True sets validation_fraction=0.1 of the texts aside, but none of the 2 "
        "texts that fit trains on can be spared: each is the only one of its class. Add texts, "
        f"{REMEDY}"
    )
    clf = classifier(tiny_bert, early_stopping=True)
    with pytest.raises(ValueError, match=exactly(message)):
        clf.fit(["good", "bad"], ["pos", "neg"])
    with pytest.raises(ValueError, match=exactly(message)):  # texts of weight 0 are ignored
        clf.fit(["good", "bad", "dull"], ["pos", "neg", "neg"], sample_weight=[1, 1, 0])


def test_a_cross_validation_with_a_rare_class_has_a_score_in_each_fold(tiny_bert):
    y = ["pos", "neg"] * 11 + ["rare", "rare"]
    clf = classifier(tiny_bert, early_stopping=True, class_weight={"pos": 1, "neg": 1, "rare": 2})
    with pytest.warns(UserWarning, match=exactly(SINGLE)):
        scores = cross_val_score(clf, TEXTS, y, cv=StratifiedKFold(2), error_score="raise")
    assert np.isfinite(scores).all()


def test_many_classes_of_few_texts_are_named_as_a_mistake(tiny_bert):
    message = (
        "y has 24 classes for 24 texts, so most classes have a single text, from which little is "
        "learned. Check that y is the column of labels, and not of numbers or identifiers."
    )
    with pytest.warns(UserWarning, match=exactly(message)):
        classifier(tiny_bert).fit(TEXTS, list(range(24)))


def test_a_missing_label_as_a_string_is_named(tiny_bert):
    message = (
        "y[2] is 'nan', which is how a missing label reads after a conversion to str; y has 2 of "
        "them. Remove these rows if their labels are missing. Otherwise, rename the class."
    )
    y = np.array(["pos", "neg", float("nan"), float("nan")])
    with pytest.warns(UserWarning, match=exactly(message)):
        classifier(tiny_bert).fit(TEXTS[:4], y)


def test_no_strange_class_hides_another(tiny_bert):
    y = ["nan", *(f"user {i}" for i in range(23))]
    with pytest.warns(UserWarning) as caught:
        classifier(tiny_bert).fit(TEXTS, y)
    messages = [str(warning.message) for warning in caught]
    assert any(message.startswith("y has 24 classes for 24 texts") for message in messages)
    assert any(message.startswith("y[0] is 'nan', which is how") for message in messages)
