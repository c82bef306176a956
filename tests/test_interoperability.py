"""docs/interoperability.md: libraries beside scikit-learn that take an estimator of skbert."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from tests.conftest import save_bert

#: Why a library may be missing.
REASON = "an extra of its own, which the oldest versions do not have"


@pytest.fixture(scope="module")
def shallow_bert(tmp_path_factory):
    """A BERT of one layer, which learns in half a second what a single word decides."""
    return str(save_bert(tmp_path_factory.mktemp("shallow") / "bert", num_hidden_layers=1))


@pytest.fixture(scope="module")
def clf(shallow_bert):
    return BertSentimentClassifier(
        shallow_bert,
        pooling="mean",
        max_length=16,
        max_epochs=4,
        batch_size=8,
        learning_rate=1e-2,
        dropout=0.0,
        random_state=0,
    )


@pytest.fixture(scope="module")
def reviews():
    """60 different texts, whose label is the word in the middle; 1 is good."""
    words = itertools.product(
        ["the", "a", "this", "my", "your"],
        ["bad", "good"],
        ["film", "movie", "app", "joy", "waste", "nothing"],
    )
    texts = [" ".join(three) for three in words]
    return np.array(texts, dtype=object), np.array(["good" in text for text in texts], dtype=int)


# label errors ---------------------------------------------------------------------------------


def test_cleanlab_finds_wrong_labels(clf, reviews):
    classification = pytest.importorskip("cleanlab.classification", reason=REASON)
    X, y = reviews
    wrong = [3, 10, 40]
    given = y.copy()
    given[wrong] = 1 - given[wrong]
    cleaned = classification.CleanLearning(clf, cv_n_folds=3, seed=0, verbose=False).fit(X, given)
    issues = cleaned.get_label_issues()
    assert {*wrong} <= {*np.flatnonzero(issues["is_label_issue"])}
    assert sorted(issues["label_quality"].nsmallest(3).index) == wrong
    assert cleaned.score(X, y) == 1.0  # with the right labels
    assert isinstance(cleaned.clf, BertSentimentClassifier)


def test_cleanlab_wants_an_array_or_a_column(clf, reviews):
    """Told in docs/interoperability.md."""
    classification = pytest.importorskip("cleanlab.classification", reason=REASON)
    X, y = reviews
    with pytest.raises(TypeError, match="X must support list-based indexing"):
        classification.CleanLearning(clf, cv_n_folds=2).fit([*X], y)
    cleaned = classification.CleanLearning(clf, cv_n_folds=2, seed=0, verbose=False)
    assert cleaned.fit(pd.Series(X), y).score(pd.Series(X), y) == 1.0


# classes in a hierarchy -----------------------------------------------------------------------


@pytest.fixture
def levels(reviews):
    """Two levels: what the text is about, and that with its sentiment."""
    X, y = reviews
    topics = np.where(["film" in text or "movie" in text for text in X], "film", "other")
    leaves = [
        f"{topic}, {'good' if good else 'bad'}" for topic, good in zip(topics, y, strict=True)
    ]
    return np.column_stack([topics, leaves])


@pytest.fixture
def hiclass():
    return pytest.importorskip("hiclass", reason=REASON)


def test_hiclass_flat_classifier_takes_texts(hiclass, clf, reviews, levels):
    X, _ = reviews
    flat = hiclass.FlatClassifier(clone(clf).set_params(max_epochs=12)).fit(X, levels)
    assert (flat.predict(X) == levels).mean() > 0.95


@pytest.mark.parametrize("kind", ["PerParentNode", "PerNode", "PerLevel"])
def test_hiclass_local_classifiers_take_vectors(hiclass, shallow_bert, reviews, levels, kind):
    X, _ = reviews
    local = getattr(hiclass, f"LocalClassifier{kind}")
    vectors = BertEmbeddingTransformer(shallow_bert, layer=0, pooling="mean", max_length=16)
    model = make_pipeline(vectors, local(LogisticRegression(C=100, max_iter=1000), verbose=50))
    assert (model.fit(X, levels).predict(X) == levels).mean() > 0.95


def test_hiclass_local_classifiers_want_numbers(hiclass, clf, reviews, levels):
    """Told in docs/interoperability.md, with what to do instead."""
    X, _ = reviews
    with pytest.raises(ValueError, match="could not convert string to float"):
        hiclass.LocalClassifierPerParentNode(clf).fit(X, levels)


# searches -------------------------------------------------------------------------------------

#: A value of each parameter that a search may vary, other than that of `start`.
OTHER_VALUES = {
    "pooling": "cls",
    "max_length": 4,
    "truncation": "head",
    "emoji_names": False,
    "max_epochs": 3,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    "warmup_fraction": 0.5,
    "dropout": 0.3,
    "n_frozen_layers": 1,
    "class_weight": "balanced",
    "label_smoothing": 0.2,
    "early_stopping": False,
    "validation_fraction": 0.4,
    "pretraining_epochs": 1,
    "random_state": 1,
}

#: What a search does not vary, and why.
NOT_SEARCHED = {
    "model": "test_meta_estimators.py searches it",
    "n_threads": "says how fast it computes",
    "max_windows": "only used with truncation='windows'; test_windows.py varies it",
    "n_iter_no_change": "changes nothing while every epoch is better than the one before",
    "warm_start": "a search fits clones, which continue nothing",
    "checkpoint_dir": "says where files are",
    "device": "says where it computes",
    "precision": "the processor decides which there are",
    "verbose": "says what is shown",
}


def test_each_parameter_is_searched_or_has_a_reason():
    parameters = inspect.signature(BertSentimentClassifier).parameters
    assert {*OTHER_VALUES} | {*NOT_SEARCHED} == {*parameters}
    assert not {*OTHER_VALUES} & {*NOT_SEARCHED}


# One of the values of max_length cuts texts.
@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_optuna_changes_what_each_parameter_says(tiny_bert, toy_reviews):
    optuna = pytest.importorskip("optuna", reason=REASON)
    level = optuna.logging.get_verbosity()
    X, y = toy_reviews
    X, y = [f"{text} 😀" if i % 3 else text for i, text in enumerate(X[:33])], y[:33]
    start = BertSentimentClassifier(
        tiny_bert, pooling="mean", max_length=6, max_epochs=2, batch_size=8, learning_rate=5e-3
    )
    start.set_params(early_stopping=True, validation_fraction=0.2, random_state=0)
    first = {name: start.get_params()[name] for name in OTHER_VALUES}

    def objective(trial):
        chosen = {
            name: trial.suggest_categorical(name, [value, OTHER_VALUES[name]])
            for name, value in first.items()
        }
        fitted = clone(start).set_params(**chosen).fit(X, y)
        trial.set_user_attr("proba", fitted.predict_proba(X).tolist())
        return fitted.score(X, y)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study.enqueue_trial(first)
        for name, value in OTHER_VALUES.items():
            study.enqueue_trial(first | {name: value})
        study.enqueue_trial(first)
        study.optimize(objective, n_trials=len(OTHER_VALUES) + 2)
    finally:
        optuna.logging.set_verbosity(level)
    start_proba, *others, same = [trial.user_attrs["proba"] for trial in study.trials]
    assert same == start_proba
    unchanged = [
        name for name, proba in zip(OTHER_VALUES, others, strict=True) if proba == start_proba
    ]
    assert unchanged == []


# saved models ---------------------------------------------------------------------------------


# mlflow warns of the types in its own classes when it is imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
@pytest.mark.parametrize("kind", ["classifier", "pipeline"])
def test_mlflow_logs_and_loads(clf, shallow_bert, reviews, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    # A new SQLite data base takes ten seconds, a folder none.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    mlflow = pytest.importorskip("mlflow", reason=REASON)
    X, y = reviews
    if kind == "classifier":
        model, trusted = clone(clf), ["skbert.classifier.BertSentimentClassifier"]
    else:
        vectors = BertEmbeddingTransformer(shallow_bert, store_weights=True, max_length=16)
        model = make_pipeline(vectors, LogisticRegression(max_iter=1000))
        trusted = ["skbert.embedding.BertEmbeddingTransformer"]
    model.fit(X, y)
    with mlflow.start_run() as run:
        mlflow.log_params(model.get_params(deep=kind == "classifier"))
        info = mlflow.sklearn.log_model(
            model, name="sentiment", skops_trusted_types=trusted, pip_requirements=["skbert"]
        )
    loaded = mlflow.sklearn.load_model(info.model_uri)
    assert type(loaded) is type(model)
    assert loaded.predict_proba(X).tolist() == model.predict_proba(X).tolist()
    served = mlflow.pyfunc.load_model(info.model_uri)
    assert served.predict([*X]).tolist() == model.predict(X).tolist()
    logged = mlflow.get_run(run.info.run_id).data.params
    assert logged.keys() == model.get_params(deep=kind == "classifier").keys()


# rare classes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imbalanced(reviews):
    """All 30 bad texts and 6 good ones; column by column, as imbalanced-learn wants them."""
    X, y = reviews
    rows = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[::5]]
    return X[rows, np.newaxis], y[rows]


@pytest.mark.parametrize("container", ["array", "frame"])
def test_imbalanced_learn_repeats_texts(clf, reviews, imbalanced, container):
    over_sampling = pytest.importorskip("imblearn.over_sampling", reason=REASON)
    pipeline = pytest.importorskip("imblearn.pipeline", reason=REASON)
    (X, y), test = imbalanced, reviews[0][:, np.newaxis]
    if container == "frame":
        X, test = pd.DataFrame(X, columns=["text"]), pd.DataFrame(test, columns=["text"])
    sampler = over_sampling.RandomOverSampler(random_state=0)
    model = pipeline.make_pipeline(sampler, clone(clf)).fit(X, y)
    repeated, labels = sampler.fit_resample(X, y)
    assert np.bincount(labels).tolist() == [30, 30]
    alone = clone(clf).fit(repeated, labels)
    assert alone.predict_proba(test).tolist() == model.predict_proba(test).tolist()
    assert model.score(test, reviews[1]) > 0.9
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        sampler.fit_resample(np.ravel(X), y)


def test_imbalanced_learn_makes_vectors(shallow_bert, reviews, imbalanced):
    over_sampling = pytest.importorskip("imblearn.over_sampling", reason=REASON)
    pipeline = pytest.importorskip("imblearn.pipeline", reason=REASON)
    vectors = BertEmbeddingTransformer(shallow_bert, layer=0, pooling="mean", max_length=16)
    model = pipeline.make_pipeline(
        vectors, over_sampling.SMOTE(random_state=0), LogisticRegression(C=100, max_iter=1000)
    )
    assert model.fit(*imbalanced).score(*reviews) > 0.9


# text beside other columns --------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(reviews):
    """A text, a number and a category, and four classes: good or bad, and cheap or not.

    The text alone decides half of the answer, and the number alone the other half.
    """
    X, good = reviews
    cheap = np.random.default_rng(0).permutation(len(X)) % 2
    frame = pd.DataFrame({"review": X, "price": np.where(cheap, 5.0, 50.0)}, index=range(7, 67))
    frame["shop"] = np.where(np.arange(len(X)) % 2, "north", "south")
    return frame, good + 2 * cheap


@pytest.mark.parametrize("choice", ["by name", "by cardinality"])
def test_skrub_table_vectorizer(shallow_bert, table, choice):
    skrub = pytest.importorskip("skrub", reason=REASON)
    frame, y = table
    embed = BertEmbeddingTransformer(shallow_bert, layer=0, pooling="mean", max_length=16)
    settings = {"by name": {"specific_transformers": [(embed, ["review"])]}}
    settings["by cardinality"] = {"high_cardinality": embed}
    vectorizer = skrub.TableVectorizer(**settings[choice])
    out = vectorizer.fit_transform(frame)
    assert out.shape == (60, 34) and out.index.equals(frame.index)
    assert out.iloc[:, :32].to_numpy().tolist() == embed.fit_transform(frame["review"]).tolist()
    assert [*out.columns[32:]] == ["price", "shop_south"]
    model = make_pipeline(vectorizer, StandardScaler(), LogisticRegression(C=10, max_iter=1000))
    assert cross_val_score(model, frame, y, cv=3).mean() > 0.85
    assert cross_val_score(model, frame.assign(price=0.0), y, cv=3).mean() < 0.7


def test_text_and_numbers_in_a_column_transformer(shallow_bert, table):
    frame, y = table
    embed = BertEmbeddingTransformer(shallow_bert, layer=0, pooling="mean", max_length=16)
    columns = [("text", embed, "review"), ("numbers", StandardScaler(), ["price"])]
    scores = []
    for chosen in (columns, columns[:1], columns[1:]):
        logistic = LogisticRegression(C=100, max_iter=1000)
        model = make_pipeline(ColumnTransformer(chosen), logistic)
        scores.append(cross_val_score(model, frame, y, cv=3).mean())
    assert scores[0] > 0.9 and max(scores[1:]) < 0.7


def test_text_and_numbers_with_a_fine_tuned_classifier(clf, table):
    frame, y = table
    text = make_pipeline(ColumnTransformer([("text", "passthrough", ["review"])]), clf)
    numbers = make_pipeline(
        ColumnTransformer([("numbers", StandardScaler(), ["price"])]), LogisticRegression()
    )
    stack = StackingClassifier([("text", text), ("numbers", numbers)], cv=3)
    assert stack.fit(frame, y).score(frame, y) > 0.9
    assert isinstance(stack.estimators_[0][-1], BertSentimentClassifier)
