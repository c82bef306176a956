"""Everything of scikit-learn that takes a classifier takes this one, on texts."""

import gc
import inspect

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import _indexing
from sklearn.utils.fixes import parse_version
from transformers import BertModel

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from tests.conftest import save_bert


@pytest.fixture(scope="module")
def clf(tiny_bert):
    """Learns the toy reviews in a second."""
    return BertSentimentClassifier(
        tiny_bert, max_length=32, max_epochs=8, learning_rate=5e-3, dropout=0.0, random_state=0
    )


@pytest.fixture(scope="module")
def fitted(clf, toy_reviews):
    return clone(clf).fit(*toy_reviews)


def test_cross_val_predict(clf, toy_reviews):
    X, y = toy_reviews
    proba = cross_val_predict(clf, X, y, cv=2, method="predict_proba")
    for train, test in StratifiedKFold(2).split(X, y):
        alone = clone(clf).fit([X[i] for i in train], y[train])
        assert alone.predict_proba([X[i] for i in test]).tolist() == proba[test].tolist()


def test_learning_curve(clf, toy_reviews):
    sizes, train, test = learning_curve(clf, *toy_reviews, train_sizes=[0.5, 1.0], cv=2)
    assert sizes.tolist() == [20, 40] and test.shape == (2, 2)
    assert train[1].min() > 0.9


CONTAINERS = {
    "tuple": tuple,
    "array": np.array,
    "array of objects": lambda X: np.array(X, dtype=object),
    "one column": lambda X: np.array(X)[:, None],
    "pandas Series": lambda X: pd.Series(X, index=np.arange(len(X))[::-1]),
    "pandas frame": lambda X: pd.DataFrame({"text": X}),
    "polars Series": pl.Series,
    "polars frame": lambda X: pl.DataFrame({"text": X}),
    "pyarrow array": pa.array,
    "pyarrow table": lambda X: pa.table({"text": X}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_folds_of_each_container(clf, toy_reviews, container):
    if container.startswith("pyarrow") and not hasattr(_indexing, "is_pyarrow_data"):
        pytest.skip("this scikit-learn cannot choose rows of pyarrow's arrays")
    X, y = toy_reviews
    short = clone(clf).set_params(max_epochs=1)
    expected = cross_val_predict(short, X, y, cv=2, method="decision_function")
    X = CONTAINERS[container](X)
    found = cross_val_predict(short, X, y, cv=2, method="decision_function")
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibration_without_fitting_again(fitted, toy_reviews, method):
    X, y = toy_reviews
    try:
        calibrated = CalibratedClassifierCV(FrozenEstimator(fitted), method=method, cv=2).fit(X, y)
    except ValueError as error:
        if method == "temperature" and "method" in str(error):
            pytest.skip("temperature scaling came with scikit-learn 1.8")
        raise
    assert calibrated.score(X, y) == 1.0


def test_calibration_with_folds(clf, toy_reviews):
    calibrated = CalibratedClassifierCV(clf, cv=2, ensemble=False).fit(*toy_reviews)
    assert calibrated.score(*toy_reviews) == 1.0


def test_tuned_threshold(clf, toy_reviews):
    X, y = toy_reviews
    tuned = TunedThresholdClassifierCV(clf, cv=2).fit(X, y)
    assert tuned.score(X, y) > 0.9


def test_fixed_threshold(fitted, toy_reviews):
    X, y = toy_reviews
    proba = fitted.predict_proba(X)[:, 1]  # of "good"
    middle = float(np.median(proba[y == "good"]))
    strict = FixedThresholdClassifier(FrozenEstimator(fitted), threshold=middle, pos_label="good")
    found = strict.fit(X, y).predict(X)
    assert found.tolist() == np.where(proba >= middle, "good", "bad").tolist()


def test_curves_and_permuted_labels(clf, toy_reviews):
    X, y = toy_reviews
    train, test = validation_curve(
        clf, X, y, param_name="max_epochs", param_range=[1, 8], cv=2, n_jobs=1
    )
    assert train.shape == test.shape == (2, 2)
    assert train[1].mean() > train[0].mean()
    score, permuted, _ = permutation_test_score(clf, X, y, cv=2, n_permutations=2, random_state=0)
    assert score > permuted.max()


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_voting_with_word_counts(clf, toy_reviews, voting):
    X, y = toy_reviews
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    ensemble = VotingClassifier([("bert", clf), ("words", words)], voting=voting).fit(X, y)
    assert ensemble.score(X, y) > 0.9


def test_stacking(clf, toy_reviews):
    X, y = toy_reviews
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    assert StackingClassifier([("bert", clf), ("words", words)], cv=2).fit(X, y).score(X, y) > 0.9


def test_one_vs_rest_of_several_classes(clf, toy_reviews):
    X, y = toy_reviews
    short = clone(clf).set_params(max_epochs=1)
    labels = np.where(np.arange(len(y)) % 4 == 0, "other", y)
    found = OneVsRestClassifier(short).fit(X, labels).decision_function(X)
    for column, label in zip(found.T, ["bad", "good", "other"], strict=True):
        alone = clone(short).fit(X, (labels == label).astype(int))
        assert column.tolist() == alone.decision_function(X).tolist()


def test_one_vs_rest_of_several_labels_a_text(clf, toy_reviews):
    X, y = toy_reviews
    indicators = np.stack([y == "good", ["film" in text for text in X]], axis=1).astype(int)
    found = OneVsRestClassifier(clf).fit(X, indicators).predict(X)
    alone = [clone(clf).fit(X, column).predict(X).tolist() for column in indicators.T]
    assert found.T.tolist() == alone
    assert alone[0] != alone[1]


def test_several_outputs(clf, fitted, toy_reviews):
    X, y = toy_reviews
    both = np.stack([y, np.where(y == "good", "yes", "no")], axis=1)
    found = MultiOutputClassifier(clf).fit(X, both).predict(X)
    assert found[:, 0].tolist() == fitted.predict(X).tolist()


def test_boosting_takes_one_column(clf, toy_reviews):
    X, y = toy_reviews
    column = np.array(X, dtype=object)[:, None]
    boosted = AdaBoostClassifier(clf, n_estimators=2, random_state=0).fit(column, y)
    assert boosted.score(column, y) > 0.9


@pytest.mark.parametrize(
    "wrap",
    [
        SelfTrainingClassifier,
        ClassifierChain,
        lambda clf: StackingClassifier([("bert", clf)], cv=2, passthrough=True),
    ],
    ids=["SelfTrainingClassifier", "ClassifierChain", "StackingClassifier(passthrough=True)"],
)
def test_what_reads_the_texts_itself_wants_numbers(clf, toy_reviews, wrap):
    """Told in docs/scikit_learn.md, with what to do instead."""
    X, y = toy_reviews
    indicators = np.stack([y == "good"] * 2, axis=1).astype(int)
    target = indicators if wrap is ClassifierChain else (y == "good").astype(int)
    with pytest.raises(ValueError, match="could not convert string to float"):
        wrap(clone(clf).set_params(max_epochs=1)).fit(np.array(X, dtype=object)[:, None], target)


def test_self_training_takes_the_vectors(tiny_bert, toy_reviews):
    X, y = toy_reviews
    some = np.where(np.arange(len(y)) < 60, y == "good", -1)
    pipeline = make_pipeline(
        BertEmbeddingTransformer(tiny_bert, layer=0, pooling="mean", max_length=32),
        SelfTrainingClassifier(LogisticRegression(max_iter=1000)),
    )
    pipeline.fit(X, some)
    labelled = pipeline[-1].labeled_iter_ > 0  # texts that it has labelled itself
    assert labelled.any()
    assert (pipeline[-1].transduction_[labelled] == (y == "good")[labelled]).all()


def test_bagging_and_permutation_importance_take_one_column(clf, fitted, toy_reviews):
    X, y = toy_reviews
    column = np.array(X, dtype=object)[:, None]
    bagging = BaggingClassifier(clf, n_estimators=2, random_state=0).fit(column, y)
    assert bagging.score(column, y) > 0.8
    importance = permutation_importance(fitted, column, y, n_repeats=2, random_state=0)
    assert importance.importances_mean[0] > 0.2


def test_displays(fitted, toy_reviews):
    matplotlib = pytest.importorskip("matplotlib", reason="an extra of the examples")
    matplotlib.use("Agg")
    X, y = toy_reviews
    ConfusionMatrixDisplay.from_estimator(fitted, X, y)
    assert RocCurveDisplay.from_estimator(fitted, X, y).roc_auc == 1.0
    CalibrationDisplay.from_estimator(fitted, X, y)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("column", ["text", ["text"]])
def test_column_transformer_by_name_and_by_list(tiny_bert, toy_reviews, column):
    X, y = toy_reviews
    frame = pd.DataFrame({"text": X, "stars": np.arange(len(X))}, index=np.arange(len(X)) + 7)
    embed = BertEmbeddingTransformer(tiny_bert, max_length=32)
    expected = embed.fit_transform(X)
    columns = ColumnTransformer(
        [("embed", embed, column)],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    out = columns.fit_transform(frame, y)
    assert out.shape == (len(X), 33) and out.index.equals(frame.index)
    assert out.iloc[:, :32].to_numpy().tolist() == expected.tolist()
    assert out["stars"].equals(frame["stars"])


def test_a_frame_keeps_its_names(clf, toy_reviews):
    X, y = toy_reviews
    frame = pd.DataFrame({"text": X})
    fitted = clone(clf).set_params(max_epochs=1).fit(frame, y)
    assert fitted.feature_names_in_.tolist() == ["text"] and fitted.n_features_in_ == 1
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame.rename(columns={"text": "review"}))


@pytest.mark.parametrize("kind", ["classifier", "transformer"])
def test_a_grid_over_models_scores_each_of_them(tiny_bert, clf, toy_reviews, tmp_path, kind):
    """The model is loaded in `fit`, so `set_params` changes more than the name."""
    models = [tiny_bert, str(save_bert(tmp_path / "other", seed=1, hidden_size=16))]
    if kind == "classifier":
        searched, name = clone(clf).set_params(model="no/such/model", max_epochs=1), "model"
    else:
        embed = BertEmbeddingTransformer("no/such/model", max_length=32)
        searched = make_pipeline(embed, LogisticRegression())
        name = "bertembeddingtransformer__model"
    settings = {"cv": 2, "scoring": "neg_log_loss"}
    search = GridSearchCV(searched, {name: models}, refit=False, **settings).fit(*toy_reviews)
    first, second = search.cv_results_["mean_test_score"]
    alone = [
        cross_val_score(clone(searched).set_params(**{name: model}), *toy_reviews, **settings)
        for model in models
    ]
    assert [first, second] == [scores.mean() for scores in alone]
    assert first != second


def test_weights_do_not_leak_from_fold_to_fold(clf, toy_reviews):
    X, y = toy_reviews
    found = cross_validate(clf, X, y, cv=2, return_estimator=True)["estimator"]
    half = len(X) // 2
    rows = np.arange(half)  # what the second of two stratified folds trains on
    alone = clone(clf).fit([X[i] for i in rows], y[rows])
    assert alone.predict_proba(X).tolist() == found[1].predict_proba(X).tolist()


def test_models_of_earlier_folds_are_freed(clf, toy_reviews):
    def alive():
        gc.collect()
        kinds = (BertModel, torch.optim.Optimizer)
        return sum(issubclass(type(thing), kinds) for thing in gc.get_objects())

    before = alive()
    cross_validate(clone(clf).set_params(max_epochs=1), *toy_reviews, cv=4)
    assert alive() == before


def test_html_and_tab_completion_load_nothing(clf, fitted, monkeypatch):
    def no_loading(model):
        raise AssertionError(f"{model} was loaded")

    embed = BertEmbeddingTransformer(clf.model, max_length=32)
    estimators = [clone(clf), fitted, embed, clone(embed).fit(["a film"])]
    monkeypatch.setattr("skbert.engine.files.pretrained.find_model", no_loading)
    with pytest.raises(AssertionError, match="was loaded"):
        embed.transform(["a film"])
    for estimator in estimators:
        assert "fit" in dir(estimator)
        inspect.getmembers(estimator)  # as notebooks do: reads every property
        assert f"/skbert.{type(estimator).__name__}.html" in estimator._repr_html_()


@pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.8"),
    reason="scikit-learn shows the description of a parameter since 1.8",
)
def test_html_tells_what_a_parameter_means(clf):
    assert "Highest learning rate, reached after the warm-up" in clf._repr_html_()
