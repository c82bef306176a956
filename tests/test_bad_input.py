"""What cannot be learned from is refused, in three parts: what came, what may come, what to do.

Strange texts are no bad input: they are predicted, each in its row.
"""

import copy
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from skbert import BertPretrainer, BertSentimentClassifier, TruncationWarning

STRANGE = {
    "empty": "",
    "spaces": " \t\n\u3000",
    "control characters": "\x00\x1b\x7f",
    "NUL": "good\x00film",
    "emoji": "👍👎",
    "lone surrogates": "\ud800 good \udfff",
    "unknown script": "好电影",
    "special tokens": "[SEP] [CLS] [MASK] [PAD]",
}


@pytest.fixture(scope="module")
def fitted(tiny_bert, toy_reviews):
    return classifier(tiny_bert).fit(*toy_reviews)


def classifier(model, **parameters):
    return BertSentimentClassifier(
        model, **({"max_length": 32, "max_epochs": 1, "random_state": 0} | parameters)
    )


def exactly(message):
    return f"^{re.escape(message)}$"


MISSING = [None, float("nan"), np.float64("nan"), pd.NA, pd.NaT, np.datetime64("NaT")]
NO_TEXTS = [7, 1.5, True, b"bytes", ("a",), ["a", "b"], {"a": 1}, 10**100]


@pytest.mark.parametrize("missing", MISSING, ids=repr)
@pytest.mark.parametrize(
    "container", [list, lambda X: np.array(X, dtype=object)], ids=["list", "array"]
)
@pytest.mark.parametrize("method", ["fit", "predict", "predict_proba", "decision_function"])
def test_a_missing_text(fitted, tiny_bert, method, container, missing):
    message = (
        f"X[2] is {missing!r} ({type(missing).__name__}); every text must be a str. Replace "
        'missing texts, for example with "".'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        if method == "fit":
            classifier(tiny_bert).fit(container(["a", "b", missing]), [0, 1, 0])
        else:
            getattr(fitted, method)(container(["a", "b", missing]))


@pytest.mark.parametrize("dtype", [object, "string", "str"])
def test_a_missing_text_of_a_series(tiny_bert, dtype):
    X = pd.Series(["a", None], dtype=dtype, index=["x", "y"])
    shown = repr(X.tolist()[1])
    kind = type(X.tolist()[1]).__name__
    message = (
        f"X[1] is {shown} ({kind}); every text must be a str. Replace missing texts, for example "
        'with "".'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(X, [0, 1])


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
def test_what_is_no_text(tiny_bert, value):
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    message = (
        f"X[1] is {shown} ({type(value).__name__}); every text must be a str. Convert X to "
        "strings, or choose the column that holds the texts."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        classifier(tiny_bert).fit(["a", value], [0, 1])


def test_a_missing_half_of_a_pair(tiny_bert):
    message = (
        "X[1][1] is None (NoneType); every text must be a str. Replace missing texts, for example "
        'with "".'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit([("a", "b"), ("c", None)], [0, 1])


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_one_string(fitted, tiny_bert, method):
    message = (
        "X is a single str, 'one string'; a sequence of texts is expected, such as a list or a "
        "pandas "
        "Series of str. Convert a single text to a list: [text]."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        if method == "fit":
            classifier(tiny_bert).fit("one string", [1])
        else:
            fitted.predict("one string")


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_no_texts(fitted, tiny_bert, method):
    message = (
        "X has 0 texts (list); a minimum of 1 is required. Check the filter or the file that X "
        "comes from."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        if method == "fit":
            classifier(tiny_bert).fit([], [])
        else:
            fitted.predict([])


def test_lengths_that_differ(tiny_bert):
    message = (
        "X has 3 texts and y has 2 labels; they must have the same length. Check that both come "
        "from the "
        "same rows."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(["a", "b", "c"], [0, 1])


def test_one_class(tiny_bert):
    message = (
        "y has 1 class: 'good'; 2 to 1000 classes are allowed. Check that y is the column of "
        "labels, and that no filter removed a class."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(["a", "b"], ["good", "good"])


def test_more_tokens_than_the_model_has_positions(tiny_bert):
    message = (
        "max_length=65, but the model has 64 positions; allowed are 3 to 64 tokens, special "
        "tokens included. Lower max_length. With truncation='head+tail', both ends of a longer "
        "text are kept."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert, max_length=65).fit(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match=exactly(message)):
        clf = classifier(tiny_bert).fit(["a", "b"], [0, 1])
        clf.set_params(max_length=65).predict(["good " * 63])
    with pytest.raises(ValueError, match=exactly(message)):
        clf = classifier(tiny_bert, warm_start=True).fit(["a", "b"], [0, 1])
        clf.set_params(max_length=65).fit(["a", "b"], [0, 1])


def test_all_layers_frozen(tiny_bert):
    message = (
        "n_frozen_layers=3, but the model has 3 layers; allowed are 0 to 2. At least one layer "
        "must be left to train."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert, n_frozen_layers=3).fit(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match=exactly(message)):
        clf = classifier(tiny_bert, warm_start=True).fit(["a", "b"], [0, 1])
        clf.set_params(n_frozen_layers=3).fit(["a", "b"], [0, 1])


def test_an_unknown_device(tiny_bert):
    message = (
        "device='tpu' is not a known device; 'auto', 'cpu', 'cuda', 'cuda:<number>' and "
        "'mps' are allowed. Use device='auto' for the best available device."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert, device="tpu").fit(["a", "b"], [0, 1])


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_log_proba", "decision_function"]
)
def test_before_fit(method):
    message = (
        "This BertSentimentClassifier instance is not fitted yet. Call 'fit' with appropriate "
        "arguments before using this estimator."
    )
    with pytest.raises(NotFittedError, match=exactly(message)):
        getattr(BertSentimentClassifier(), method)(["a"])


@pytest.mark.parametrize(("fitted_to", "given"), [("single", "pairs"), ("pairs", "single")])
def test_pairs_and_single_texts_do_not_mix(tiny_bert, fitted_to, given):
    X = {"single": ["a", "b"], "pairs": [("a", "b"), ("c", "d")]}
    words = {"single": "single texts", "pairs": "pairs of texts"}
    message = (
        f"X contains {words[given]}, but BertSentimentClassifier was fitted to {words[fitted_to]}. "
        "Pass the same columns as to fit."
    )
    clf = classifier(tiny_bert).fit(X[fitted_to], [0, 1])
    with pytest.raises(ValueError, match=exactly(message)):
        clf.predict(X[given])


@pytest.mark.parametrize(
    ("sample_weight", "message"),
    [
        (
            [1.0],
            "sample_weight has shape (1,); (2,) is expected, one number per text. Pass as many "
            "weights as there are texts.",
        ),
        (
            [1.0, -0.5],
            "sample_weight[1] is -0.5; every weight must be a finite number, 0 or larger. Correct "
            "it, or use 0 to ignore the text.",
        ),
        (
            [float("nan"), 1.0],
            "sample_weight[0] is nan; every weight must be a finite number, 0 or larger. Correct "
            "it, or use 0 to ignore the text.",
        ),
        (
            [0.0, 0.0],
            "All weights are zero, so no text counts; at least one must be larger than 0. Check "
            "sample_weight and class_weight.",
        ),
    ],
)
def test_weights_that_are_none(tiny_bert, sample_weight, message):
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(["a", "b"], [0, 1], sample_weight=sample_weight)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_class_weights_that_are_none(tiny_bert, weight):
    message = (
        f"class_weight[1] is {weight}; every weight must be a finite number, 0 or larger. Correct "
        "it, or use 0 to ignore the class."
    )
    clf = classifier(tiny_bert).set_params(class_weight={0: 1.0, 1: weight})
    with pytest.raises(ValueError, match=exactly(message)):
        clf.fit(["a", "b"], [0, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [9.3e18, 1e300, 0.5])
def test_labels_that_are_no_integers(tiny_bert, number):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        classifier(tiny_bert).fit(["a", "b"], [0.0, number])


@pytest.mark.parametrize("given", ["X_val", "y_val"])
def test_half_of_the_validation_texts(tiny_bert, given):
    missing = {"X_val": "y_val", "y_val": "X_val"}[given]
    message = f"{missing} is None, but the other of X_val and y_val is given. Pass both or neither."
    value = {"X_val": ["a"], "y_val": [0]}[given]
    with pytest.raises(ValueError, match=exactly(message)):
        classifier(tiny_bert).fit(["a", "b"], [0, 1], **{given: value})


OUT_OF_RANGE = [
    ("model", None),
    ("model", torch.nn.Identity()),  # cross-validation would train one module in all folds
    ("pooling", "max"),
    ("max_length", 2),
    ("max_length", 16.0),
    ("truncation", "middle"),
    ("max_epochs", 0),
    ("max_epochs", "3"),
    ("batch_size", 0),
    ("learning_rate", 0),
    ("learning_rate", -1e-5),
    ("learning_rate", float("nan")),
    ("learning_rate", float("inf")),
    ("weight_decay", -0.1),
    ("warmup_fraction", 1.0),
    ("warmup_fraction", -0.1),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("n_frozen_layers", -1),
    ("class_weight", "even"),
    ("label_smoothing", 1.0),
    ("validation_fraction", 0.0),
    ("validation_fraction", 1.0),
    ("n_iter_no_change", 0),
    ("early_stopping", "yes"),
    ("warm_start", "yes"),
    ("device", 1.5),
    ("n_threads", 0),
    ("n_threads", "all"),
    ("random_state", -1),
    ("random_state", "0"),
    ("verbose", -1),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_parameters_out_of_range(name, value):
    # checked before anything is loaded: there is no such model
    clf = BertSentimentClassifier(**({"model": "no/such/model"} | {name: value}))
    start = f"The '{name}' parameter of BertSentimentClassifier must be "
    with pytest.raises(InvalidParameterError, match=f"^{start}.+ Got .+ instead\\.$") as caught:
        clf.fit(["a", "b"], [0, 1])
    assert isinstance(caught.value, ValueError)
    assert f"Got {value!r} instead." in str(caught.value)


def test_the_constructor_checks_nothing():
    parameters = dict(OUT_OF_RANGE)
    assert BertSentimentClassifier(**parameters).get_params() | parameters == (
        BertSentimentClassifier(**parameters).get_params()
    )


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_strange_texts_are_predicted_in_their_row(fitted, text):
    neighbours = ["good great fun", "dull boring waste"]
    expected = fitted.predict_proba(neighbours)
    found = fitted.predict_proba([neighbours[0], text, neighbours[1]])
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], fitted.predict_proba([text])[0], rtol=0, atol=1e-6)
    assert np.isfinite(found).all()


def test_all_strange_texts_together(fitted):
    texts = list(STRANGE.values()) * 3
    found = fitted.predict_proba(texts)
    alone = np.concatenate([fitted.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)


def test_strange_texts_are_learned_from(tiny_bert):
    texts = list(STRANGE.values()) * 2
    clf = classifier(tiny_bert).fit(texts, [0, 1] * (len(texts) // 2))
    assert np.isfinite(clf.history_[0]["train_loss"])
    assert clf.predict(texts).shape == (len(texts),)


@pytest.mark.parametrize("text", ["good " * 20_000, "x" * 100_000, "字" * 100_000])
def test_a_text_of_100_kilobytes(fitted, text):
    neighbours = ["good great fun", "dull boring waste"]
    fitted = copy.deepcopy(fitted)  # which has not warned yet
    expected = fitted.predict_proba(neighbours)
    if text.startswith("x"):  # one word, too long for a vocabulary: one [UNK]
        found = fitted.predict_proba([neighbours[0], text, neighbours[1]])
    else:
        with pytest.warns(TruncationWarning, match="^1 of 3 texts are longer than max_length=32"):
            found = fitted.predict_proba([neighbours[0], text, neighbours[1]])
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=0, atol=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("name", "value"), [("truncation", "head_tail"), ("max_windows", 1), ("emoji_names", "no")]
)
def test_parameters_that_changed_after_fit_are_checked(fitted, tmp_path, name, value):
    clf = copy.deepcopy(fitted).set_params(**{name: value})
    uses = [
        lambda: clf.predict(["good"]),
        lambda: clf.explain(["good"]),
        lambda: clf.to_onnx(tmp_path / "model.onnx"),
        lambda: clf.save_pretrained(tmp_path / "folder"),
    ]
    for use in uses:
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of Bert"):
            use()
    assert not any(tmp_path.iterdir())


def test_parameters_of_a_pretrainer_that_changed_after_fit_are_checked(tiny_bert, tmp_path):
    pretrainer = BertPretrainer(tiny_bert, next_sentence=False, max_epochs=1, max_length=32)
    pretrainer.fit(["good film", "bad film"]).set_params(max_length="32")
    uses = [
        lambda: pretrainer.fill_mask("[MASK]"),
        lambda: pretrainer.transform(["good"]),
        lambda: pretrainer.save_pretrained(tmp_path),
    ]
    for use in uses:
        with pytest.raises(InvalidParameterError, match="The 'max_length' parameter of Bert"):
            use()
    assert not any(tmp_path.iterdir())
