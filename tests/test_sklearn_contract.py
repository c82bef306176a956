"""scikit-learn's own checks, really run.

An estimator that honestly says it takes strings gets one check of `check_estimator`. So the
checks are run on a subclass that turns rows of numbers into sentences and says that it takes
two-dimensional arrays.
"""

import inspect

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from skbert import BertPretrainer, BertSentimentClassifier
from tests.conftest import save_bert

N_STEPS = 12  # steps of the scale that a number is read on, to either side of zero


def words_of(row):
    """[0.4, -9] -> "f0p1 f1n12": a word for each feature and half-unit step of its value."""
    steps = np.clip(np.round(row * 2), -N_STEPS, N_STEPS).astype(int)
    return " ".join(
        f"f{i % 10}{'n' if step < 0 else 'p'}{abs(step)}" for i, step in enumerate(steps)
    )


def takes_numbers(tags):
    """Say that an estimator takes two-dimensional arrays of numbers."""
    tags.input_tags.string = False
    tags.input_tags.one_d_array = False
    tags.input_tags.two_d_array = True
    return tags


class NumberClassifier(BertSentimentClassifier):
    """`BertSentimentClassifier` on sentences made of rows of numbers."""

    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        X, y = validate_data(self, X, y, multi_output=False)
        n_features = self.n_features_in_, getattr(self, "feature_names_in_", None)
        super().fit([words_of(row) for row in X], y, sample_weight)
        self.n_features_in_, names = n_features
        if names is not None:
            self.feature_names_in_ = names
        return self

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        first = not hasattr(self, "classes_")
        X, y = validate_data(self, X, y, reset=first)
        n_features = self.n_features_in_, getattr(self, "feature_names_in_", None)
        super().partial_fit([words_of(row) for row in X], y, classes, sample_weight)
        self.n_features_in_, names = n_features
        if names is not None:
            self.feature_names_in_ = names
        return self

    def _logits(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return super()._logits([words_of(row) for row in X])

    def __sklearn_tags__(self):
        return takes_numbers(super().__sklearn_tags__())


class NumberPretrainer(BertPretrainer):
    """`BertPretrainer` on sentences made of rows of numbers."""

    def fit(self, X, y=None):
        X = validate_data(self, X)
        n_features = self.n_features_in_, getattr(self, "feature_names_in_", None)
        super().fit([words_of(row) for row in X])
        self.n_features_in_, names = n_features
        if names is not None:
            self.feature_names_in_ = names
        return self

    def transform(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return super().transform([words_of(row) for row in X])

    def score(self, X, y=None):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return super().score([words_of(row) for row in X])

    def __sklearn_tags__(self):
        return takes_numbers(super().__sklearn_tags__())


@pytest.fixture(scope="session")
def number_bert(tmp_path_factory):
    """Folder of a one-layer BERT that knows the words of `words_of`."""
    steps = [*(f"p{i}" for i in range(N_STEPS + 1)), *(f"n{i}" for i in range(1, N_STEPS + 1))]
    words = [f"f{i}{step}" for i in range(10) for step in steps]
    folder = tmp_path_factory.mktemp("models") / "numbers"
    return str(save_bert(folder, words=words, hidden_size=16, num_hidden_layers=1))


def number_classifier(**parameters):
    # The model is named by `number_bert_in_place`, as checks are collected before fixtures run.
    return NumberClassifier(
        "tests/number-bert",
        max_length=64,
        max_epochs=10,
        learning_rate=3e-2,
        dropout=0.0,
        **parameters,
    )


def number_pretrainer():
    return NumberPretrainer(
        "tests/number-bert", next_sentence=False, max_length=64, max_epochs=2, dropout=0.0
    )


@pytest.fixture(autouse=True)
def number_bert_in_place(number_bert, monkeypatch):
    """Let "tests/number-bert" be found where the fixture has put it."""
    from skbert.engine import checkpoint

    plain = checkpoint.load_pretrained
    monkeypatch.setattr(
        checkpoint,
        "load_pretrained",
        lambda model: plain(number_bert if model == "tests/number-bert" else model),
    )


EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weight 2 and a repeated row are the same loss, but other mini-batches"
    ),
}
# scikit-learn 1.8 and later let a stale excuse fail.
STRICT = (
    {"xfail_strict": True}
    if "xfail_strict" in inspect.signature(parametrize_with_checks).parameters
    else {}
)


@parametrize_with_checks(
    [number_classifier()], expected_failed_checks=lambda _: EXPECTED_FAILURES, **STRICT
)
def test_check_estimator(estimator, check):
    check(estimator)


@parametrize_with_checks([number_pretrainer()])
def test_check_pretrainer(estimator, check):
    check(estimator)


def test_the_battery_for_the_pretrainer_is_not_hollow(capsys):
    n_checks = len(list(estimator_checks_generator(number_pretrainer())))
    with capsys.disabled():
        print(f"\ncheck_estimator runs {n_checks} checks on BertPretrainer")
    assert n_checks >= 40


def test_the_battery_is_not_hollow(capsys):
    n_checks = len(list(estimator_checks_generator(number_classifier())))
    with capsys.disabled():
        print(f"\ncheck_estimator runs {n_checks} checks on BertSentimentClassifier")
    assert n_checks >= 55


@pytest.mark.parametrize("estimator", [number_classifier(), number_pretrainer()])
@pytest.mark.parametrize(
    "name", ["check_param_validation", "check_dataframe_column_names_consistency"]
)
def test_checks_that_check_estimator_never_yields(name, estimator):
    getattr(estimator_checks, name)(type(estimator).__name__, estimator)


def test_balanced_class_weights_help_the_rare_class():
    rng = np.random.default_rng(0)
    y_train, y_test = np.repeat([0, 1], [180, 20]), np.repeat([0, 1], [50, 50])
    X_train, X_test = (rng.normal(size=(len(y), 4)) + y[:, None] for y in (y_train, y_test))
    estimator_checks.check_class_weight_balanced_classifiers(
        "NumberClassifier", number_classifier(), X_train, y_train, X_test, y_test, None
    )
