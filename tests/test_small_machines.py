"""Machines on which nothing is writable: no temporary folder, and a cache that is read-only."""

import pickle
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files import folders
from skbert.engine.files.pretrained import free_pretrained
from skbert.engine.prediction import cache

pytestmark = pytest.mark.filterwarnings("ignore:max_epochs=1:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return fitted(tiny_bert, *toy_reviews)


def fitted(model, X, y):
    clf = BertSentimentClassifier(model, max_length=16, max_epochs=1, random_state=0)
    return clf.fit(X, y)


def fit(clf, X, y, folder):
    return fitted(clf.model, X, y).decision_function(X)


def predict(clf, X, y, folder):
    return clf.decision_function(X)


def unpickle(clf, X, y, folder):
    return pickle.loads(pickle.dumps(clf)).decision_function(X)


def save_and_load(clf, X, y, folder):
    clf.save_pretrained(folder)
    return BertSentimentClassifier.from_pretrained(folder).decision_function(X)


def embed(clf, X, y, folder):
    return BertEmbeddingTransformer(clf.model, max_length=16).fit_transform(X)


def pretrain_from_scratch(clf, X, y, folder):
    config = BertConfig(
        vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    pretrainer = BertPretrainer(
        config, max_length=16, max_epochs=1, random_state=0, next_sentence=False
    )
    pretrainer.fit(X).save_pretrained(folder)
    return fitted(str(folder), X, y).decision_function(X)


TASKS = [fit, predict, unpickle, save_and_load, embed, pretrain_from_scratch]


@pytest.fixture
def no_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))


@pytest.mark.parametrize("task", TASKS)
def test_nothing_needs_a_temporary_folder(
    clf, toy_reviews, tmp_path, monkeypatch, no_temporary_folder, task
):
    memory = tmp_path / "memory"  # stands for the folder in memory, which some systems lack
    memory.mkdir()
    monkeypatch.setattr(folders, "MEMORY", str(memory))
    with monkeypatch.context() as usual:
        usual.setattr(tempfile, "tempdir", None)
        expected = task(clf, *toy_reviews, tmp_path / "before")
    free_pretrained()
    result = task(clf, *toy_reviews, tmp_path / "after")
    np.testing.assert_array_equal(result, expected)
    assert list(memory.iterdir()) == []


@pytest.mark.parametrize("task", [fit, unpickle, save_and_load, pretrain_from_scratch])
def test_without_any_such_folder_the_error_says_so(
    clf, toy_reviews, tmp_path, monkeypatch, no_temporary_folder, task
):
    monkeypatch.setattr(folders, "MEMORY", str(tmp_path / "absent"))
    free_pretrained()
    with pytest.raises(OSError) as raised:
        task(clf, *toy_reviews, tmp_path / "model")
    start, end = str(raised.value).split(str(tmp_path / "missing"))
    assert start == (
        "transformers reads and writes tokenizers as files, but no temporary folder is writable "
        "([Errno 2] No such file or directory: '"
    )
    assert end.split("')", 1)[1] == (
        f", and {str(tmp_path / 'absent')!r} is not writable either. Set the environment variable "
        "TMPDIR to a writable folder."
    )


@pytest.fixture
def read_only(monkeypatch):
    """Let no database be written; root may write to each folder, so permissions are no test."""

    def refuse(database):
        raise sqlite3.OperationalError("attempt to write a readonly database")

    def switch_on():
        monkeypatch.setattr(cache, "_prepare", refuse)
        monkeypatch.setattr(cache, "_is_writable", lambda path: False)

    return switch_on


def test_a_filled_cache_that_is_read_only_is_read(tiny_bert, tmp_path, read_only, monkeypatch):
    encoder = BertEmbeddingTransformer(tiny_bert, max_length=16, cache=tmp_path).fit(["a"])
    expected = encoder.transform(["a film", "dull"])
    read_only()
    with monkeypatch.context() as without_model:
        without_model.setattr("skbert.engine.model.encoder._embedded", None)  # nothing is computed
        np.testing.assert_array_equal(encoder.transform(["dull", "a film"]), expected[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["skbert-vectors.sqlite3"]


def test_a_read_only_cache_that_lacks_a_text_computes_it_and_warns(tiny_bert, tmp_path, read_only):
    encoder = BertEmbeddingTransformer(tiny_bert, max_length=16, cache=tmp_path).fit(["a"])
    encoder.transform(["a film"])
    read_only()
    with pytest.warns(UserWarning) as warned:
        result = encoder.transform(["a film", "dull"])
    plain = BertEmbeddingTransformer(tiny_bert, max_length=16).fit(["a"])
    np.testing.assert_allclose(result, plain.transform(["a film", "dull"]), atol=1e-6)
    assert [str(warning.message) for warning in warned] == [
        f"Could not add vectors to {str(Path(tmp_path) / 'skbert-vectors.sqlite3')!r} (attempt to "
        "write a readonly database). skbert returns them, but does not store them. Make it "
        "writable, or choose another folder."
    ]


def test_an_empty_cache_that_is_read_only_is_refused(tiny_bert, tmp_path, read_only):
    read_only()
    encoder = BertEmbeddingTransformer(tiny_bert, max_length=16, cache=tmp_path).fit(["a"])
    with pytest.raises(OSError) as raised:
        encoder.transform(["a film"])
    assert str(raised.value) == (
        f"Could not open cache={str(tmp_path)!r} (attempt to write a readonly database); a "
        "writable folder on a local disk is expected. Choose another folder, or delete "
        "'skbert-vectors.sqlite3' in it if that file is damaged."
    )
