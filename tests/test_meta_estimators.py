"""Everything of scikit-learn that takes a classifier takes this one, on texts."""

import gc

import numpy as np
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pytest
import sklearn
from sklearn.base import clone, is_classifier
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
    sizes, _, scores = learning_curve(clf, *toy_reviews, train_sizes=[0.5, 1.0], cv=2)
    assert sizes.tolist() == [20, 40] and scores.shape == (2, 2)


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


def test_one_vs_rest(clf, toy_reviews):
    X, y = toy_reviews
    labels = np.where(np.arange(len(y)) % 4 == 0, "other", y)
    one_vs_rest = OneVsRestClassifier(clf).fit(X, labels)
    assert set(one_vs_rest.predict(X)) <= {"good", "bad", "other"}


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
    columns = ColumnTransformer(
        [("embed", BertEmbeddingTransformer(tiny_bert, max_length=32), column)],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    out = columns.fit_transform(frame, y)
    assert out.shape == (len(X), 33) and out.index.equals(frame.index)


def test_a_frame_keeps_its_names(clf, toy_reviews):
    X, y = toy_reviews
    frame = pd.DataFrame({"text": X})
    fitted = clone(clf).set_params(max_epochs=1).fit(frame, y)
    assert fitted.feature_names_in_.tolist() == ["text"] and fitted.n_features_in_ == 1
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame.rename(columns={"text": "review"}))


def test_a_grid_over_models_trains_each_of_them(tiny_bert, clf, toy_reviews, tmp_path):
    X, y = toy_reviews
    other = str(save_bert(tmp_path / "other", seed=1, hidden_size=16))
    search = GridSearchCV(
        clone(clf).set_params(max_epochs=1), {"model": [tiny_bert, other]}, cv=2, refit=False
    ).fit(X, y)
    assert search.cv_results_["param_model"].tolist() == [tiny_bert, other]
    widths = [
        clone(clf).set_params(model=m, max_epochs=1).fit(X, y).model_.config.hidden_size
        for m in (tiny_bert, other)
    ]
    assert widths == [32, 16]


def test_weights_do_not_leak_from_fold_to_fold(clf, toy_reviews):
    X, y = toy_reviews
    found = cross_validate(clf, X, y, cv=2, return_estimator=True)["estimator"]
    half = len(X) // 2
    rows = np.arange(half)  # what the second of two stratified folds trains on
    alone = clone(clf).fit([X[i] for i in rows], y[rows])
    assert alone.predict_proba(X).tolist() == found[1].predict_proba(X).tolist()


def test_memory_after_ten_fits_is_what_it_was_after_two(clf, toy_reviews):
    process = psutil.Process()

    def used_after(n_fits):
        for _ in range(n_fits):
            clone(clf).fit(*toy_reviews)
        gc.collect()
        return process.memory_info().rss

    after_two = used_after(2)
    after_ten = used_after(8)
    assert after_ten - after_two < 30 * 2**20  # 8 models of 0.1 MiB and their optimizers


def test_it_says_what_it_is(clf):
    tags = clf.__sklearn_tags__()
    assert is_classifier(clf)
    assert tags.input_tags.string and tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array


def test_html_and_tab_completion_load_nothing(clf, fitted, monkeypatch):

    def no_loading(model):
        raise AssertionError(f"{model} was loaded")

    for module in ("classifier", "embedding"):
        monkeypatch.setattr(f"skbert.{module}.load_pretrained", no_loading)
    embed = BertEmbeddingTransformer(clf.model, max_length=32)
    for estimator in (clone(clf), fitted, embed, clone(embed).fit(["a film"])):
        assert "fit" in dir(estimator)
        assert f"/skbert.{type(estimator).__name__}.html" in estimator._repr_html_()


@pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.8"),
    reason="scikit-learn shows the description of a parameter since 1.8",
)
def test_html_tells_what_a_parameter_means(clf):
    assert "Highest learning rate, reached after the warm-up" in clf._repr_html_()
