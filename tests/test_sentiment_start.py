"""skbert/minilm-sentiment: the classifier in the wheel, its files, and training on top of it."""

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEFAULT_MODEL
from offline import ROOT, in_this_clone
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.engine.files import find
from skbert.engine.files.find import SENTIMENT_START, file_sha256, find_model
from skbert.engine.files.low_rank import read_change
from skbert.engine.files.pretrained import load_pretrained, weights_sha256

pytestmark = pytest.mark.weights

TEXTS = [
    "What a joy, I loved every minute.",
    "The food was delicious and the staff friendly.",
    "A complete waste of time and money.",
    "It broke after two days. Terrible quality.",
]
LABELS = ["positive", "positive", "negative", "negative"]


@pytest.fixture(scope="module")
def start(real_weights):
    return BertSentimentClassifier.from_pretrained(SENTIMENT_START)


def test_it_predicts_without_a_label(start):
    assert start.predict(TEXTS).tolist() == LABELS
    assert start.classes_.tolist() == ["negative", "positive"]
    assert start.predict_proba(TEXTS).max(axis=1).min() > 0.7
    assert (start.history_, start.n_epochs_, start.pooling_) == ([], 0, "mean")


def test_it_needs_no_network(prepared, tmp_path):
    code = f"""
from skbert import BertSentimentClassifier
clf = BertSentimentClassifier.from_pretrained({SENTIMENT_START!r})
print(*clf.predict({TEXTS!r}))
assert attempts == [], attempts
"""
    done = prepared.run(code, folder=tmp_path / "cwd")
    assert (done.stdout, done.stderr) == ("positive positive negative negative\n", "")


def test_its_file_is_small_and_the_published_one():
    path = find_model(SENTIMENT_START).change
    assert path.stat().st_size <= 1.5e6
    assert file_sha256(path) == find_model(SENTIMENT_START).change_sha256


def test_its_file_holds_float16_factors_of_matrices_and_no_embeddings():
    change = read_change(find_model(SENTIMENT_START).change)
    weights = load_pretrained(DEFAULT_MODEL).weights
    assert {n for n, w in weights.items() if w.ndim == 2} - set(change.factors) == {
        n for n in weights if n.startswith("embeddings.") and weights[n].ndim == 2
    }
    for name, (left, right) in change.factors.items():
        assert (left.dtype, right.dtype) == (torch.float16, torch.float16)
        assert (left.shape[0], right.shape[1]) == weights[name].shape


def test_only_the_layers_differ_from_the_published_weights():
    published, ours = load_pretrained(DEFAULT_MODEL), load_pretrained(SENTIMENT_START)
    differ = {n for n, w in published.weights.items() if not torch.equal(w, ours.weights[n])}
    assert differ
    assert all(name.startswith("encoder.layer.") for name in differ)


def test_published_and_changed_weights_have_different_hashes():
    assert weights_sha256(SENTIMENT_START) != weights_sha256(DEFAULT_MODEL)
    assert len(weights_sha256(SENTIMENT_START)) == 64


def test_a_damaged_change_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "change.safetensors"
    shutil.copy(find_model(SENTIMENT_START).change, path)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    change = replace(find._CHANGES[SENTIMENT_START], path=path)
    monkeypatch.setitem(find._CHANGES, SENTIMENT_START, change)
    with pytest.raises(ValueError, match=r"not the published ones.*Reinstall skbert with"):
        BertSentimentClassifier.from_pretrained(SENTIMENT_START)


def test_a_change_fits_no_other_weights(tiny_bert, monkeypatch):
    # The hub, or the cache of the hub, may have other files under the same name.
    other = replace(find_model(SENTIMENT_START), folder=Path(tiny_bert))
    monkeypatch.setattr("skbert.engine.files.pretrained.find_model", lambda model: other)
    with pytest.raises(ValueError, match=r"not the published ones: their SHA-256 is"):
        load_pretrained(SENTIMENT_START)


def test_a_missing_package_is_named_with_the_model_that_needs_it(monkeypatch):
    def missing(name):
        raise find.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(find.importlib.metadata, "distribution", missing)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    with pytest.raises(OSError, match=r"pip install \"skbert\[offline\]\""):
        BertSentimentClassifier.from_pretrained(SENTIMENT_START)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, tiny_bert):
    shutil.copytree(tiny_bert, tmp_path / SENTIMENT_START)
    monkeypatch.chdir(tmp_path)
    assert find_model(SENTIMENT_START).change is None
    with pytest.raises(ValueError, match="needs the head of a classifier"):
        BertSentimentClassifier.from_pretrained(SENTIMENT_START)


def test_it_survives_pickle_and_folders(start, tmp_path):
    expected = start.predict_proba(TEXTS)
    loaded = pickle.loads(pickle.dumps(start))
    assert np.array_equal(loaded.predict_proba(TEXTS), expected)
    with pytest.warns(UserWarning, match="transformers does not support pooling='mean'"):
        start.save_pretrained(tmp_path / "saved")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "saved")
    assert np.allclose(loaded.predict_proba(TEXTS), expected, atol=1e-6)
    assert (loaded.history_, loaded.n_epochs_) == ([], 0)


def test_a_copy_for_another_fit_is_not_fitted(start):
    with pytest.raises(NotFittedError):
        clone(start).predict(TEXTS)
    assert clone(start).model == SENTIMENT_START


def test_fit_trains_a_fresh_copy_for_any_labels(start):
    clf = clone(start).set_params(max_epochs=1, random_state=0)
    clf.fit(TEXTS * 4, ["gut", "gut", "schlecht", "schlecht"] * 4)
    assert clf.predict(TEXTS).tolist() == ["gut", "gut", "schlecht", "schlecht"]
    again = BertSentimentClassifier.from_pretrained(SENTIMENT_START)
    assert np.array_equal(again.predict_proba(TEXTS), start.predict_proba(TEXTS))


def test_partial_fit_continues_from_it(start):
    clf = pickle.loads(pickle.dumps(start))
    before = clf.predict_proba(TEXTS)
    clf.partial_fit(TEXTS, LABELS)
    assert clf.classes_.tolist() == ["negative", "positive"]
    after = clf.predict_proba(TEXTS)
    assert not np.array_equal(before, after)
    assert np.abs(before - after).max() < 0.3  # it has not started from a new head


def test_warm_start_continues_from_it(start):
    clf = pickle.loads(pickle.dumps(start)).set_params(warm_start=True, learning_rate=1e-9)
    before = clf.predict_proba(TEXTS)
    clf.set_params(max_epochs=1).fit(TEXTS, LABELS)
    assert np.allclose(clf.predict_proba(TEXTS), before, atol=1e-4)


def test_few_labels_keep_what_the_start_knows():
    clf = BertSentimentClassifier(SENTIMENT_START, max_epochs=1, random_state=0)
    clf.fit(TEXTS * 2, LABELS * 2)
    others = ["An awful, boring book.", "Wonderful! I will come again.", "Never buy this."]
    assert clf.predict(others).tolist() == ["negative", "positive", "negative"]


def test_the_transformer_takes_it(real_weights):
    transformer = BertEmbeddingTransformer(SENTIMENT_START, pooling="mean").fit(TEXTS)
    vectors = transformer.transform(TEXTS)
    plain = BertEmbeddingTransformer(DEFAULT_MODEL, pooling="mean").fit_transform(TEXTS)
    assert vectors.shape == plain.shape
    assert not np.allclose(vectors, plain, atol=0.01)
    assert transformer.weights_sha256_ == weights_sha256(SENTIMENT_START)


@pytest.mark.slow
def test_the_script_makes_the_same_file_twice(prepared, tmp_path):
    """In a fresh process and in one that has imported skbert."""
    script = ROOT / "benchmarks" / "make_sentiment_start.py"
    options = ["--n-excerpts", "6", "--n-jobs", "1", "--n-report", "20", "--out"]
    subprocess.run(
        [sys.executable, script, *options, tmp_path / "first"], check=True, env=in_this_clone()
    )
    run_script = "import runpy\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"sys.argv[0] = {str(script)!r}\n{run_script}"
    prepared.run(code, *options, tmp_path / "second", folder=tmp_path / "elsewhere")
    first, second = (tmp_path / name for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    made, shipped = read_change(first), read_change(find_model(SENTIMENT_START).change)
    assert made.factors.keys() == shipped.factors.keys()
    assert made.vectors.keys() == shipped.vectors.keys()
