"""BertSentimentRegressor: numbers and levels, their losses, and what it owes scikit-learn."""

import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score

from skbert import BertSentimentClassifier, BertSentimentRegressor
from skbert.contract.numbers import read_numbers
from skbert.contract.targets import check_numbers_of
from skbert.engine.model.heads import OrdinalHead
from skbert.engine.training.criteria import CumulativeLogits, SquaredError, expected_level


def exactly(message):
    return f"^{re.escape(message)}$"


SETTINGS = {
    "max_length": 32,
    "max_epochs": 12,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "device": "cpu",
    "random_state": 0,
}
LOSSES = ["squared_error", "ordinal"]


@pytest.fixture(scope="module")
def rated(toy_reviews):
    """Reviews and their stars: 1 or 2 for bad ones, 4 or 5 for good ones."""
    X, y = toy_reviews
    n_words = np.array([len(text.split()) for text in X])
    is_long = (n_words > np.median(n_words)).astype(int)
    return X, np.where(y == "good", 4 + is_long, 2 - is_long)


@pytest.fixture(scope="module", params=LOSSES)
def reg(request, tiny_bert, rated):
    return BertSentimentRegressor(tiny_bert, loss=request.param, **SETTINGS).fit(*rated)


# How y is read, and the losses.


@pytest.mark.parametrize(
    "y",
    [
        [1, 2.5, 4],
        (1, 2.5, 4),
        np.array([1, 2.5, 4], dtype=np.float32),
        pd.Series([1, 2.5, 4]),
        torch.tensor([1, 2.5, 4]),
        [np.float64(1), 2.5, True + 3],
    ],
    ids=lambda y: type(y).__name__,
)
def test_numbers_in_any_container(y):
    assert read_numbers(y, "y", 3).tolist() == [1, 2.5, 4]


def test_a_column_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        assert read_numbers(np.array([[1.0], [2.0]]), "y", 2).tolist() == [1, 2]


NO_NUMBER = (
    "every text needs a finite number. Input y contains NaN, infinity or no number. Remove the "
    "row, or convert the value, for example with pandas.to_numeric."
)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1, "3", 2], f"y[1] is '3' (str); {NO_NUMBER}"),
        ([1, None, 2], f"y[1] is None (NoneType); {NO_NUMBER}"),
        ([1, float("nan"), 2], f"y[1] is nan (float); {NO_NUMBER}"),
        ([1, 2, float("inf")], f"y[2] is inf (float); {NO_NUMBER}"),
        (
            [1, 2],
            "X has 3 texts and y has 2 numbers; they must have the same length. Check that both "
            "come from the same rows.",
        ),
        (
            np.ones((3, 2)),
            "y has shape (3, 2); one number per text is expected. For several numbers, use "
            "sklearn.multioutput.MultiOutputRegressor(BertSentimentRegressor()).",
        ),
        (
            "345",
            "y is '345' (str); a sequence of numbers is expected, such as a list or a pandas "
            "Series. Pass a list.",
        ),
        (
            None,
            "y is None, but this estimator requires y to be passed, but the target y is None: one "
            "number for each text. Call fit(X, y).",
        ),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_number_is_refused(y, message):
    with pytest.raises(ValueError, match=exactly(message)):
        read_numbers(y, "y", 3)


def test_the_scale_is_that_of_the_weighted_texts():
    checked = check_numbers_of("squared_error", [1, 3, 100], 3, [1, 1, 0])
    assert checked.target.attributes["_center"] == 2
    assert checked.target.attributes["_scale"] == 1
    assert checked.target.attributes["y_max_"] == 3
    assert checked.values[:2].tolist() == [-1, 1]


def test_squared_errors():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 5.0])
    assert SquaredError().losses(outputs, targets, 0.0).tolist() == [1, 4]
    weights = np.array([1.0, 3.0])
    found = SquaredError().score(outputs.numpy(), targets.numpy(), weights)
    assert found == pytest.approx(r2_score([0, 5], [1, 3], sample_weight=weights))
    assert SquaredError().score(np.ones((2, 1)), np.ones(2), weights) == 1
    assert SquaredError().score(np.zeros((2, 1)), np.ones(2), weights) == 0


def test_cumulative_logits_by_hand():
    """Three levels: the loss is -log P(above 1 or not) - log P(above 2 or not)."""
    outputs = torch.tensor([[2.0, -1.0]] * 3)
    above = 1 / (1 + np.exp([-2.0, 1.0]))
    expected = [
        -np.log(1 - above[0]) - np.log(1 - above[1]),
        -np.log(above[0]) - np.log(1 - above[1]),
        -np.log(above[0]) - np.log(above[1]),
    ]
    found = CumulativeLogits((1.0, 2.0, 5.0)).losses(outputs, torch.tensor([0, 1, 2]), 0.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    level = expected_level(outputs.numpy(), np.array([1.0, 2.0, 5.0]))
    np.testing.assert_allclose(level, [1 + above[0] + 3 * above[1]] * 3, rtol=1e-6)


def test_an_ordinal_head_compares_one_score_with_thresholds():
    head = OrdinalHead(torch.tensor([[1.0, 2.0]]), torch.tensor([-1.0, 4.0]))
    assert head(torch.tensor([[1.0, 1.0]])).tolist() == [[4.0, -1.0]]
    assert (head.in_features, head.out_features) == (2, 2)


def test_the_loss_of_a_fit_is_that_of_transformers(tiny_bert):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts, y = ["so dull", "what a joy", "love love love"], [1.0, 4.0, 5.0]
    settings = SETTINGS | {"max_epochs": 1, "batch_size": 3, "learning_rate": 1e-12, "dropout": 0.0}
    reg = BertSentimentRegressor(tiny_bert, **settings).fit(texts, y)
    tokens = AutoTokenizer.from_pretrained(tiny_bert)(texts, padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=1, problem_type="regression"
    ).eval()
    model.bert.load_state_dict(reg.model_.state_dict(), strict=False)
    with torch.no_grad():
        states = model.bert(**tokens).last_hidden_state[:, 0]
        outputs = (states @ reg.head_.weight.T + reg.head_.bias)[:, 0]
    standardised = (np.array(y) - np.mean(y)) / np.std(y)
    expected = torch.nn.MSELoss()(outputs, torch.from_numpy(standardised).float()).item()
    assert reg.history_[0]["train_loss"] == pytest.approx(expected, abs=1e-5)


# The estimator.


def test_it_learns_and_stays_in_the_range(reg, rated):
    X, y = rated
    found = reg.predict(X)
    assert found.dtype == np.float64 and found.min() >= 1 and found.max() <= 5
    assert reg.score(X, y) == r2_score(y, found) > 0.7
    assert (reg.y_min_, reg.y_max_) == (1, 5)
    expected = [1, 2, 4, 5] if reg.loss == "ordinal" else None
    assert (None if reg.levels_ is None else reg.levels_.tolist()) == expected


def test_pickles_and_folders(reg, rated, tmp_path):
    X, y = rated
    expected = reg.predict(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reg)).predict(X), expected)
    reg.save_pretrained(tmp_path / "model")
    loaded = BertSentimentRegressor.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(X), expected, atol=1e-5)
    assert loaded.get_params() == reg.get_params() and loaded.history_ == reg.history_
    loaded.set_params(warm_start=True, max_epochs=1, learning_rate=1e-12).fit(X, y)
    np.testing.assert_allclose(loaded.predict(X), expected, atol=1e-3)
    message = (
        "The folder contains a regressor, but BertSentimentClassifier is a classifier. Load it "
        "with BertSentimentRegressor.from_pretrained."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        BertSentimentClassifier.from_pretrained(tmp_path / "model")


def test_transformers_predicts_the_same_numbers(tiny_bert, rated, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, pooling="cls", **SETTINGS | {"max_epochs": 3})
    reg.fit(X, 1000.0 * y).save_pretrained(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")([X[0]], return_tensors="pt")
    with torch.no_grad():
        number = model(**tokens).logits.item()
    assert model.config.problem_type == "regression"
    assert reg.predict(X[:1])[0] == pytest.approx(np.clip(number, 1000, 5000), rel=1e-5)


def test_a_folder_of_a_classifier_and_another_model(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"max_epochs": 1}).fit(X, y)
    clf.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="The folder contains a classifier"):
        BertSentimentRegressor.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="is no regressor that skbert saved"):
        BertSentimentRegressor.from_pretrained(tiny_bert)


def test_settings_that_do_not_belong_to_the_weights(reg, tmp_path):
    from skbert.contract.persistence import restore_estimator, settings_of

    settings = settings_of(reg)
    n_outputs = reg.head_.out_features
    message = (
        f"The saved BertSentimentRegressor has {n_outputs + 1} outputs, but its settings describe "
        f"{n_outputs}. Save the model again."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        restore_estimator(BertSentimentRegressor, settings, n_outputs + 1, {})


def test_large_numbers_and_equal_numbers(tiny_bert, rated):
    X, y = rated
    settings = SETTINGS | {"max_epochs": 6}
    small = BertSentimentRegressor(tiny_bert, **settings).fit(X, y).predict(X)
    large = BertSentimentRegressor(tiny_bert, **settings).fit(X, 1e6 * y + 5e6).predict(X)
    np.testing.assert_allclose((large - 5e6) / 1e6, small, atol=0.05)
    constant = BertSentimentRegressor(tiny_bert, **settings | {"max_epochs": 1})
    assert constant.fit(X, np.full(len(X), 7.0)).predict(X).tolist() == [7.0] * len(X)


def test_equal_numbers_are_no_scale_and_huge_ones_are_refused():
    checked = check_numbers_of("squared_error", [4.1] * 7, 7, None)
    assert checked.target.attributes["_scale"] == 1
    with pytest.raises(ValueError, match="whose standard deviation is no positive finite number"):
        check_numbers_of("squared_error", [1e200, 5e200], 2, None)


def test_the_score_of_validation_is_that_of_limited_predictions():
    criterion = SquaredError(-1.0, 1.0)
    found = criterion.score(np.array([[5.0], [-5.0]]), np.array([1.0, -1.0]), np.ones(2))
    assert found == 1


def test_folders_keep_numbers_far_from_zero(tiny_bert, rated, tmp_path):
    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, **SETTINGS | {"max_epochs": 2}).fit(X, y + 1.7e9)
    reg.save_pretrained(tmp_path / "model")
    loaded = BertSentimentRegressor.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(X), reg.predict(X), rtol=0, atol=1e-5)


def test_weights_count(tiny_bert, rated):
    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, **SETTINGS | {"max_epochs": 4})
    without = clone(reg).fit(X[20:], y[20:]).predict(X)
    weights = np.r_[np.zeros(20), np.ones(len(X) - 20)]
    found = reg.fit(X, y, sample_weight=weights).predict(X)
    np.testing.assert_allclose(found, without, rtol=1e-12)  # the mean of y is a sum of more terms


@pytest.mark.parametrize("loss", LOSSES)
def test_validation_early_stopping_and_pretraining(tiny_bert, rated, loss, tmp_path):
    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, loss=loss, **SETTINGS | {"max_epochs": 3})
    reg.fit(X, y, X_val=X, y_val=y)
    assert reg.history_[-1]["val_score"] == pytest.approx(reg.score(X, y), abs=1e-6)
    stopped = clone(reg).set_params(early_stopping=True, checkpoint_dir=tmp_path).fit(X, y)
    assert "val_loss" in stopped.history_[0]
    pretrained = clone(reg).set_params(pretraining_epochs=1).fit(X, y)
    assert len(pretrained.pretraining_history_) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_partial_fit_and_warm_start(tiny_bert, rated, loss):
    X, y = rated
    settings = SETTINGS | {"max_epochs": 2}
    reg = BertSentimentRegressor(tiny_bert, loss=loss, warm_start=True, **settings)
    for _ in range(4):
        reg.partial_fit(X, y)
    assert reg.history_[-1]["train_loss"] < reg.history_[0]["train_loss"]
    assert len(reg.fit(X, y).history_) == 6
    other = "ordinal" if loss == "squared_error" else "squared_error"
    message = (
        f"loss={other!r}, but the last fit had loss={loss!r}; it cannot change while a fit "
        "continues. Set it back, set warm_start=False, or create a new estimator."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        clone(reg).set_params(loss=loss).partial_fit(X, y).set_params(loss=other).fit(X, y)
    if loss == "ordinal":
        message = (
            "y[1] is 3, which is not one of the levels [1.0, 2.0, 4.0, 5.0] of loss='ordinal'. "
            "Remove such rows, fit with all levels, or use loss='squared_error'."
        )
        with pytest.raises(ValueError, match=exactly(message)):
            reg.partial_fit(X[:2], [1, 3])
    else:
        reg.partial_fit(X[:2], [0, 9])
        assert (reg.y_min_, reg.y_max_) == (0, 9)


def test_levels_keep_all_digits_in_a_saved_folder(tiny_bert, rated, tmp_path):
    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, loss="ordinal", **SETTINGS | {"max_epochs": 2})
    reg.fit(X, 1_000_000 + y).save_pretrained(tmp_path)
    labels = json.loads((tmp_path / "config.json").read_text())["id2label"].values()
    assert [*labels] == [f"above {1_000_000 + level}" for level in (1, 2, 4)]
    with pytest.raises(ValueError, match=r"^y\[0\] is 1000003, which is not one of the levels"):
        reg.partial_fit(X[:2], [1_000_003, 1_000_001])


def test_levels_are_few_and_more_than_one(tiny_bert):
    reg = BertSentimentRegressor(tiny_bert, loss="ordinal", **SETTINGS)
    message = (
        "y has 1 different number; 2 to 100 levels are allowed with loss='ordinal'. Round y to "
        "fewer levels, or use loss='squared_error'."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        reg.fit(["a", "b"], [3, 3])
    with pytest.raises(ValueError, match="y has 101 different numbers"):
        reg.fit(["a"] * 101, [*range(101)])


def test_one_text_cannot_be_split(tiny_bert):
    reg = BertSentimentRegressor(tiny_bert, early_stopping=True, **SETTINGS)
    message = (
        "early_stopping=True sets validation_fraction=0.1 of the texts aside, but fit trains on 1 "
        "text only. Add texts, pass X_val and y_val, or set early_stopping=False."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        reg.fit(["so dull"], [1.0])


def test_scorers_and_searches(tiny_bert, rated):
    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, **SETTINGS | {"max_epochs": 4})
    for scoring in ("r2", "neg_mean_absolute_error"):
        assert np.isfinite(cross_val_score(reg, X, y, cv=2, scoring=scoring)).all()
    search = GridSearchCV(reg, {"loss": LOSSES}, cv=2).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]


def test_many_texts_start_the_thresholds_where_the_levels_are(tiny_bert, rated, monkeypatch):
    from skbert.contract import first_head

    X, _ = rated
    y = np.repeat([1, 2, 5], [8, 48, 24])
    monkeypatch.setattr(first_head, "few_texts_limit", lambda contains_classifier, n_classes: 10)
    settings = SETTINGS | {"max_epochs": 1, "learning_rate": 1e-12}
    reg = BertSentimentRegressor(tiny_bert, loss="ordinal", **settings).fit(X, y)
    share_above = 1 / (1 + np.exp(reg.head_.thresholds.detach().numpy()))
    np.testing.assert_allclose(share_above, [72 / 80, 24 / 80], atol=0.01)


def test_few_texts_start_with_a_regression(tiny_bert, rated):
    X, y = rated
    settings = SETTINGS | {"max_epochs": 1, "learning_rate": 1e-12}
    for loss in LOSSES:
        reg = BertSentimentRegressor(tiny_bert, loss=loss, **settings).fit(X, y)
        assert reg.score(X, y) > 0.05  # a random head has none


@pytest.mark.parametrize(("loss", "name"), [("squared_error", "Squared error"), ("ordinal", None)])
def test_a_training_history_names_loss_and_score(tiny_bert, rated, loss, name):
    pytest.importorskip("matplotlib")
    from skbert.inspection import TrainingHistoryDisplay

    X, y = rated
    reg = BertSentimentRegressor(tiny_bert, loss=loss, **SETTINGS | {"max_epochs": 2})
    display = TrainingHistoryDisplay.from_estimator(reg.fit(X, y, X_val=X, y_val=y))
    labels = [ax.get_ylabel() for ax in display.axes_]
    assert labels == [name or "Loss (nats)", "R2", "Learning rate"]
