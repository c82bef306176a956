"""pooling="auto": the pooling with which a model was made, and where that is written."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import DEFAULT_MODEL

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files.pretrained import load_pooling, load_pretrained
from skbert.engine.files.sentence_modules import read_pooling

SETTINGS = {"max_length": 32, "max_epochs": 10, "learning_rate": 5e-3, "random_state": 0}


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT, without a pooling file."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def with_pooling(folder, settings):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def flags(**modes):
    """A pooling file as sentence-transformers wrote it before version 5.4."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {"word_embedding_dimension": 32} | {
        f"pooling_mode_{name}": modes.get(name, False) for name in names
    }


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        (flags(mean_tokens=True), "mean"),
        (flags(cls_token=True), "cls"),
        (flags(max_tokens=True), "max"),
        (flags(mean_sqrt_len_tokens=True), "mean_sqrt_len_tokens"),
        (flags(cls_token=True, mean_tokens=True), "cls + mean"),
        (flags(), "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last token"),
    ],
)
def test_the_file_of_sentence_transformers_names_it(folder, settings, pooling):
    assert read_pooling(with_pooling(folder, settings)) == pooling


def test_a_model_without_such_a_file_was_made_with_none(folder):
    assert read_pooling(folder) == "cls"


@pytest.mark.weights
def test_minilm_and_the_start_were_made_with_mean(real_weights):
    assert load_pooling(DEFAULT_MODEL) == load_pretrained(DEFAULT_MODEL).pooling == "mean"
    assert load_pooling("skbert/minilm-sentiment") == "mean"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_auto_gives_the_fit_of_that_name(folder, toy_reviews, pooling):
    with_pooling(folder, {"pooling_mode": pooling})
    auto = BertSentimentClassifier(str(folder), **SETTINGS).fit(*toy_reviews)
    named = BertSentimentClassifier(str(folder), pooling=pooling, **SETTINGS).fit(*toy_reviews)
    assert (auto.pooling, auto.pooling_, named.pooling_) == ("auto", pooling, pooling)
    assert np.array_equal(auto.predict_proba(toy_reviews[0]), named.predict_proba(toy_reviews[0]))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_auto_gives_the_vectors_of_that_name(folder, pooling):
    with_pooling(folder, {"pooling_mode": pooling})
    texts = ["a film", "this film is not good", ""]
    named = BertEmbeddingTransformer(str(folder), max_length=32, pooling=pooling).transform(texts)
    auto = BertEmbeddingTransformer(str(folder), max_length=32, pooling="auto", store_weights=True)
    assert np.array_equal(auto.transform(texts), named)
    again = pickle.loads(pickle.dumps(auto.fit(texts)))
    with_pooling(folder, {"pooling_mode": "lasttoken"})  # the pickle has its own
    assert np.array_equal(again.transform(texts), named)


def test_auto_gives_the_vectors_of_cls_where_the_model_names_no_pooling(folder):
    auto, named = (
        BertEmbeddingTransformer(str(folder), max_length=32, pooling=pooling).transform(["a film"])
        for pooling in ("auto", "cls")
    )
    assert np.array_equal(auto, named)


@pytest.mark.parametrize("use", ["fit", "transform"])
def test_a_pooling_that_transformers_lack_is_refused(folder, use):
    with_pooling(folder, {"pooling_mode": "lasttoken"})
    message = (
        "pooling='auto' takes the pooling with which the model was made, but that is 'last "
        "token', and a transformer of skbert has ['cls', 'mean', 'max', 'pooler']. Pass one of "
        "them."
    )
    embedding = BertEmbeddingTransformer(str(folder), max_length=32, pooling="auto")
    with pytest.raises(ValueError) as caught:
        getattr(embedding, use)(["a film"])
    assert str(caught.value) == message


def test_a_pooling_that_classifiers_lack_is_refused_before_the_weights_are_read(
    folder, toy_reviews
):
    with_pooling(folder, {"pooling_mode": "max"})
    (folder / "model.safetensors").write_bytes(b"not weights")
    message = (
        r"^pooling='auto' takes the pooling with which the model was made, but that is 'max', and "
        r"a classifier of skbert has \['cls', 'mean'\]\. Pass one of them\.$"
    )
    with pytest.raises(ValueError, match=message):
        BertSentimentClassifier(str(folder), **SETTINGS).fit(*toy_reviews)


def test_a_pooling_file_that_is_not_json_is_refused(folder, toy_reviews):
    with_pooling(folder, {})
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not readable JSON"):
        BertSentimentClassifier(str(folder), **SETTINGS).fit(*toy_reviews)


def test_a_changed_parameter_counts_from_the_next_fit(folder, toy_reviews):
    X, y = toy_reviews
    clf = BertSentimentClassifier(str(folder), warm_start=True, **SETTINGS).fit(X, y)
    before = clf.predict_proba(X)
    clf.set_params(pooling="mean")
    assert np.array_equal(clf.predict_proba(X), before)
    assert clf.fit(X, y).pooling_ == "mean"
    clf.set_params(pooling="auto")
    assert clf.partial_fit(X, y).pooling_ == "mean"  # "auto" keeps it


def test_a_pretrained_folder_keeps_the_pooling_of_its_model(folder, toy_reviews, tmp_path):
    with_pooling(folder, {"pooling_mode": "mean"})
    pretrainer = BertPretrainer(str(folder), max_length=32, next_sentence=False, random_state=0)
    pretrainer.fit(toy_reviews[0]).save_pretrained(tmp_path / "saved")
    assert load_pooling(str(tmp_path / "saved")) == "mean"
    clf = BertSentimentClassifier(str(tmp_path / "saved"), **SETTINGS).fit(*toy_reviews)
    assert clf.pooling_ == "mean"


def test_a_folder_of_a_classifier_keeps_its_pooling(folder, toy_reviews, tmp_path):
    clf = BertSentimentClassifier(str(folder), pooling="mean", **SETTINGS).fit(*toy_reviews)
    with pytest.warns(UserWarning, match="transformers does not support pooling='mean'"):
        clf.save_pretrained(tmp_path / "saved")
    assert load_pooling(str(tmp_path / "saved")) == "mean"
