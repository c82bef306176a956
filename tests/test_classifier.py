"""The public interface of the classifier: basic use, learning, order of texts, bad input."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skbert import BertSentimentClassifier, TruncationWarning
from skbert.engine.files.pretrained import free_pretrained, load_pretrained
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from tests.conftest import save_bert

SETTINGS = {"max_length": 64, "max_epochs": 2, "learning_rate": 1e-3, "random_state": 0}
AWKWARD = ["", "\U0001f600", "a\x00b", "\ud800", "  \t"]


def strip(texts):
    return [text.strip() for text in texts]


@pytest.fixture(scope="module")
def fitted(tiny_bert, toy_reviews):
    return BertSentimentClassifier(
        tiny_bert, **{**SETTINGS, "max_epochs": 15, "learning_rate": 5e-3, "dropout": 0.0}
    ).fit(*toy_reviews)


@pytest.mark.weights
def test_fit_with_nothing_but_texts_and_labels(real_weights):
    X, y = ["what a joy", "so dull"] * 6, ["good", "bad"] * 6
    clf = BertSentimentClassifier().fit(X, y)
    assert clf.classes_.tolist() == ["bad", "good"]
    assert clf.predict(X).shape == (12,)


@pytest.mark.parametrize("n_frozen_layers", [0, 2])
def test_each_text_is_tokenised_once(tiny_bert, toy_reviews, monkeypatch, n_frozen_layers):
    X, y = toy_reviews
    load_pretrained(tiny_bert)  # loading tokenises some probe texts
    tokenised = []
    tokenise = SubwordTokenizer.__call__

    def counting(self, texts, *others, **options):
        tokenised.extend(texts)
        return tokenise(self, texts, *others, **options)

    monkeypatch.setattr(SubwordTokenizer, "__call__", counting)
    settings = SETTINGS | {"max_epochs": 3, "n_frozen_layers": n_frozen_layers}
    BertSentimentClassifier(tiny_bert, **settings).fit(X, y)
    assert tokenised == X


def test_two_jobs_of_a_grid_search_give_the_scores_of_one(tiny_bert, toy_reviews):
    X, y = toy_reviews
    pipeline = Pipeline(
        [
            ("strip", FunctionTransformer(strip)),
            ("bert", BertSentimentClassifier(tiny_bert, **SETTINGS)),
        ]
    )
    grid, settings = {"bert__max_epochs": [1, 2]}, {"cv": 2, "scoring": "neg_log_loss"}
    one, two = (
        GridSearchCV(pipeline, grid, n_jobs=n, **settings).fit(X, y).cv_results_["mean_test_score"]
        for n in (1, 2)
    )
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)
    assert abs(one[0] - one[1]) > 1e-4


def test_dump_and_predict_in_a_new_process_without_the_model(prepared, tmp_path, toy_reviews):
    X, y = toy_reviews
    folder = save_bert(tmp_path / "model")
    clf = BertSentimentClassifier(str(folder), **SETTINGS).fit(X, y)
    joblib.dump(clf, tmp_path / "sentiment.joblib")
    for file in folder.iterdir():
        file.unlink()
    done = prepared.run(
        "import joblib, sys\n"
        "clf = joblib.load(sys.argv[1])\n"
        "print(clf.predict_proba(['a good film', '']).tobytes().hex())\n"
        "assert not attempts\n",
        str(tmp_path / "sentiment.joblib"),
        folder=tmp_path / "elsewhere",
    )
    # another process may use another number of threads, so the last bits may differ
    other = np.frombuffer(bytes.fromhex(done.stdout.strip())).reshape(2, 2)
    np.testing.assert_allclose(other, clf.predict_proba(["a good film", ""]), rtol=0, atol=1e-6)


def test_pickles_hold_no_tensor(fitted):
    content = pickle.dumps(fitted)
    assert b"torch._utils" not in content and b"_rebuild_tensor" not in content
    again = pickle.loads(content)
    texts = ["good film", "dull"]
    assert again.predict_proba(texts).tolist() == fitted.predict_proba(texts).tolist()


def test_learns_a_separable_set(fitted, toy_reviews):
    assert fitted.score(*toy_reviews) == 1.0


def test_predictions_do_not_depend_on_the_other_texts(fitted, toy_reviews):
    X, _ = toy_reviews
    order = np.random.default_rng(0).permutation(len(X))
    whole = fitted.predict_proba(X)
    shuffled = fitted.predict_proba([X[row] for row in order])
    alone = np.concatenate([fitted.predict_proba([text]) for text in X[:10]])
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=1e-5)
    np.testing.assert_allclose(alone, whole[:10], rtol=0, atol=1e-5)


def test_the_methods_agree(fitted, toy_reviews):
    X, _ = toy_reviews
    proba, decision = fitted.predict_proba(X), fitted.decision_function(X)
    assert decision.shape == (len(X),)
    np.testing.assert_allclose(np.log(proba), fitted.predict_log_proba(X), atol=1e-9)
    np.testing.assert_allclose(np.log(proba[:, 1] / proba[:, 0]), decision, atol=1e-4)
    assert fitted.predict(X).tolist() == fitted.classes_[proba.argmax(1)].tolist()


def test_the_callers_random_states_stay(tiny_bert):
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    numpy_state, torch_state = pickle.dumps(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    clf = BertSentimentClassifier(tiny_bert, **{**SETTINGS, "random_state": None})
    clf.fit(["a", "b"], [0, 1]).predict(["a"])
    assert pickle.dumps(np.random.get_state()) == numpy_state  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("labels", [["x", "y", "z"], [3, 1, 2], [True, False, True]])
def test_labels_of_each_type(tiny_bert, labels):
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(["a", "film", "b"] * 2, labels * 2)
    assert clf.classes_.tolist() == sorted(set(labels))
    assert set(clf.predict(["a", "film"])) <= set(labels)
    assert [*clf.history_[0]] == ["epoch", "train_loss", "learning_rate", "seconds", "n_tokens"]


def test_awkward_texts_keep_their_row(fitted):
    texts = [*AWKWARD, "good great fun"]
    assert fitted.predict(texts)[-1] == "good"
    with pytest.warns(TruncationWarning, match="1 of 1 texts are longer than max_length=64"):
        assert fitted.predict(["good " * 20_000]).shape == (1,)


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        ("one string", [0], TypeError, "X is a single str, 'one string'; a sequence of texts"),
        (["a", "b"], [0], ValueError, "X has 2 texts and y has 1 labels"),
        (["a", "b"], [1, 1], ValueError, r"y has 1 class: .*1.*; 2 to 1000 classes"),
        (["a", None], [0, 1], ValueError, r"X\[1\] is None \(NoneType\); every text must be"),
        (["a", np.nan], [0, 1], ValueError, r"X\[1\] is nan \(float\); every text must be"),
        (["a", pd.NA], [0, 1], ValueError, r"X\[1\] is <NA> \(NAType\); every text must be"),
        (["a", 7], [0, 1], TypeError, r"X\[1\] is 7 \(int\); every text must be a str"),
        ([], [], ValueError, r"X has 0 texts \(list\); a minimum of 1 is required"),
    ],
)
def test_bad_input_is_refused_in_words(tiny_bert, X, y, error, message):
    with pytest.raises(error, match=message):
        BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_length": 65}, "max_length=65, but the model has 64 positions"),
        ({"device": "tpu"}, "device='tpu' is not a known device"),
        ({"max_epochs": 0}, "The 'max_epochs' parameter of BertSentimentClassifier"),
    ],
)
def test_bad_parameters_are_refused_in_words(tiny_bert, parameters, message):
    clf = BertSentimentClassifier(tiny_bert, **{**SETTINGS, **parameters})
    with pytest.raises(ValueError, match=message):
        clf.fit(["a", "b"], [0, 1])


def test_predict_before_fit():
    with pytest.raises(NotFittedError, match="This BertSentimentClassifier instance is not fitted"):
        BertSentimentClassifier().predict(["a"])


def test_an_unknown_name_without_network(prepared, tmp_path):
    done = prepared.run(
        "from skbert import BertSentimentClassifier\n"
        "try:\n    BertSentimentClassifier('nobody/nothing').fit(['a', 'b'], [0, 1])\n"
        "except OSError as error:\n    print(error)\n",
        folder=tmp_path / "run",
    )
    assert done.stdout.startswith("Could not find the model 'nobody/nothing'. It is not a local")


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "n": 3072},
        pytest.param(
            {"num_hidden_layers": 6, "hidden_size": 1024, "num_attention_heads": 16, "n": 4096},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["base", "as wide as large"],
)
def test_berts_own_sizes_take_a_step(tmp_path, sizes):
    sizes = dict(sizes)
    sizes["intermediate_size"] = sizes.pop("n")
    folder = save_bert(tmp_path / "model", initializer_range=0.02, **sizes)
    clf = BertSentimentClassifier(str(folder), max_length=16, max_epochs=1).fit(["a", "b"], [0, 1])
    assert np.isfinite(clf.history_[0]["train_loss"])
    free_pretrained()
