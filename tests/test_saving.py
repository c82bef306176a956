"""What is saved: pickles and joblib files, and folders without pickle."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from safetensors.torch import load_file, save_file
from transformers import pipeline

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.engine import folders
from tests.offline import ROOT, run_offline
from tests.old_pickles import format_0, from_the_future
from tests.saved_folders import sign_again


def fitted_on(model, X, y, **parameters):
    settings = {"max_length": 32, "max_epochs": 2, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters)).fit(X, y)


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return fitted_on(tiny_bert, *toy_reviews, class_weight={"good": 2.0, "bad": 1.0})


@pytest.fixture
def folder(clf, tmp_path):
    clf.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits_of(clf, X):
    return clf.decision_function(X).tolist()


# joblib and pickle ------------------------------------------------------------------------------


def test_a_pickle_says_format_and_versions(clf):
    stamp = clf.__getstate__()["_skbert"]
    assert stamp["format"] == 1
    assert stamp["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_pickle_without_a_stamp_is_read(clf, toy_reviews):
    X, _ = toy_reviews
    assert logits_of(pickle.loads(format_0(clf)), X) == logits_of(clf, X)


def test_a_pickle_of_a_newer_skbert_is_refused(clf):
    for estimator in (clf, BertEmbeddingTransformer()):
        with pytest.raises(
            ValueError, match=r"saved in format 2 by skbert 99\.0; .* Update skbert"
        ):
            pickle.loads(from_the_future(estimator))


def test_memory_mapped_weights_predict_and_can_be_trained_on(clf, toy_reviews, tmp_path):
    X, y = toy_reviews
    joblib.dump(clf, tmp_path / "clf.joblib")
    mapped = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")
    assert logits_of(mapped, X) == logits_of(clf, X)
    mapped.partial_fit(X, y)
    mapped.set_params(warm_start=True).fit(X, y)
    again = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")
    assert logits_of(again, X) == logits_of(clf, X)


def predict_mapped(path, X):
    return joblib.load(path, mmap_mode="r").decision_function(X)


def test_eight_workers_share_memory_mapped_weights(clf, toy_reviews, tmp_path):
    X, _ = toy_reviews
    path = tmp_path / "clf.joblib"
    joblib.dump(clf, path)
    found = Parallel(n_jobs=8)(delayed(predict_mapped)(path, X) for _ in range(8))
    for logits in found:
        np.testing.assert_allclose(logits, clf.decision_function(X), rtol=0, atol=1e-5)


def test_device_auto_is_resolved_again(clf, monkeypatch):
    data = pickle.dumps(clf)
    asked = []
    monkeypatch.setattr(
        "skbert.persistence.resolve_device", lambda d: asked.append(d) or torch.device("cpu")
    )
    assert pickle.loads(data).device_ == "cpu" and asked == ["auto"]


@pytest.mark.weights
def test_a_file_of_the_default_model_is_under_100_mb(real_weights, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = fitted_on(real_weights, X[:8], y[:8], max_epochs=1)
    joblib.dump(clf, tmp_path / "clf.joblib")
    assert (tmp_path / "clf.joblib").stat().st_size < 100e6


# folders ------------------------------------------------------------------------------------------


def test_a_folder_gives_back_what_was_saved(clf, folder, toy_reviews):
    X, _ = toy_reviews
    loaded = BertSentimentClassifier.from_pretrained(folder)
    assert logits_of(loaded, X) == logits_of(clf, X)
    assert loaded.get_params() == clf.get_params()
    assert loaded.classes_.tolist() == ["bad", "good"]
    assert loaded.classes_.dtype == clf.classes_.dtype
    assert loaded.history_ == clf.history_ and loaded.n_epochs_ == 2
    assert loaded.n_truncated_ == 0
    assert sorted(path.suffix for path in folder.iterdir() if "token" not in path.name) == [
        ".json",
        ".json",
        ".safetensors",
    ]


@pytest.mark.parametrize(
    "labels", [np.array([3, 7]), np.array([True, False]), np.array(["no", "yes"], dtype=object)]
)
def test_labels_keep_their_type(tiny_bert, toy_reviews, tmp_path, labels):
    X, y = toy_reviews
    clf = fitted_on(tiny_bert, X, labels[(y == "good").astype(int)], max_epochs=1)
    clf.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert loaded.classes_.dtype == labels.dtype
    assert loaded.predict(X).tolist() == clf.predict(X).tolist()


def test_transformers_reads_it_and_says_the_same(clf, folder, toy_reviews):
    X, _ = toy_reviews
    classify = pipeline("text-classification", str(folder), top_k=None, device="cpu")
    found = [{entry["label"]: entry["score"] for entry in scores} for scores in classify(X)]
    proba = [[scores["bad"], scores["good"]] for scores in found]
    np.testing.assert_allclose(proba, clf.predict_proba(X), rtol=0, atol=1e-5)


def test_it_is_a_model_for_the_other_estimators(clf, folder, toy_reviews):
    X, _ = toy_reviews
    vectors = BertEmbeddingTransformer(str(folder), max_length=32).fit_transform(X)
    by_hand = vectors @ clf.head_.weight.detach().numpy().T + clf.head_.bias.detach().numpy()
    np.testing.assert_allclose(by_hand[:, 1] - by_hand[:, 0], clf.decision_function(X), atol=1e-4)


def test_mean_pooling_is_kept_but_not_for_transformers(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = fitted_on(tiny_bert, X, y, pooling="mean", max_epochs=1)
    with pytest.warns(UserWarning, match="pooling='mean' has no counterpart"):
        clf.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert logits_of(loaded, X) == logits_of(clf, X)


def test_a_random_state_that_cannot_be_written_is_said(tiny_bert, toy_reviews, tmp_path):
    clf = fitted_on(tiny_bert, *toy_reviews, max_epochs=1, random_state=np.random.RandomState(0))
    with pytest.warns(UserWarning, match="RandomState instance, which is saved as None"):
        clf.save_pretrained(tmp_path / "model")
    assert BertSentimentClassifier.from_pretrained(tmp_path / "model").random_state is None


def test_a_fresh_process_without_the_model_and_a_network(folder, clf, toy_reviews, tmp_path):
    X, _ = toy_reviews
    code = """
import json
from skbert import BertSentimentClassifier
clf = BertSentimentClassifier.from_pretrained(sys.argv[1])
print(json.dumps(clf.decision_function(json.loads(sys.argv[2])).tolist()))
assert not attempts
"""
    done = run_offline(code, str(folder), json.dumps(X[:5]), folder=tmp_path / "elsewhere")
    np.testing.assert_allclose(json.loads(done.stdout), clf.decision_function(X[:5]), atol=1e-6)


def test_an_older_folder_is_replaced_and_nothing_else(clf, folder, tmp_path):
    clf.save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 'notes\.txt', which save_pretrained did not"):
        clf.save_pretrained(folder)
    with pytest.raises(FileExistsError, match="is a file; a folder is written"):
        clf.save_pretrained(folder / "notes.txt")


def test_without_the_exchange_of_linux(clf, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders.sys, "platform", "another")
    clf.save_pretrained(folder)
    assert BertSentimentClassifier.from_pretrained(folder).n_epochs_ == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_full_disk_leaves_the_old_folder(clf, folder, tmp_path, monkeypatch, file):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path):
        if path.name == file:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        clf.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_killed_writer_leaves_a_whole_folder(clf, folder, tmp_path, toy_reviews):
    X, _ = toy_reviews
    joblib.dump(clf, tmp_path / "clf.joblib")
    code = (
        "import sys, joblib\nclf = joblib.load(sys.argv[1])\nprint('ready', flush=True)\n"
        "while True: clf.save_pretrained(sys.argv[2])"
    )
    rng = np.random.default_rng(0)
    writer = None
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "clf.joblib", folder],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        assert logits_of(BertSentimentClassifier.from_pretrained(folder), X) == logits_of(clf, X)


# folders that somebody has been at ----------------------------------------------------------------


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.write_bytes(b"{}")])
def test_a_changed_file_is_refused(folder, name, damage):
    damage(folder / name)
    with pytest.raises(ValueError, match=f"{name}' is not the file that was written"):
        BertSentimentClassifier.from_pretrained(folder)


def test_a_changed_manifest_is_refused(folder):
    manifest = json.loads((folder / "skbert.json").read_text())
    manifest["settings"]["classes"]["values"] = ["good", "bad"]
    (folder / "skbert.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is not the file that was written"):
        BertSentimentClassifier.from_pretrained(folder)
    for content in ("", "[]", "{}", '{"sha256": 1}', "\x00"):
        (folder / "skbert.json").write_text(content)
        with pytest.raises(ValueError, match="is not the file that was written"):
            BertSentimentClassifier.from_pretrained(folder)


def test_a_folder_of_a_newer_skbert_is_refused(folder):
    sign_again(folder, lambda manifest: manifest.update(format=2))
    with pytest.raises(ValueError, match=r"in format 2 by a newer skbert; .* Update skbert"):
        BertSentimentClassifier.from_pretrained(folder)


def test_a_missing_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        BertSentimentClassifier.from_pretrained(folder)


def test_another_kind_of_folder_is_refused(tiny_bert, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no skbert\.json; .* call fit"):
        BertSentimentClassifier.from_pretrained(tiny_bert)
    with pytest.raises(FileNotFoundError, match=r"has no skbert\.json"):
        BertSentimentClassifier.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/hostname", "sub/file.json"])
def test_a_path_out_of_the_folder_is_refused(folder, name):
    sign_again(folder, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(ValueError, match="leads out of"):
        BertSentimentClassifier.from_pretrained(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    shutil.move(folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValueError, match=r"'model\.safetensors' leads out of"):
        BertSentimentClassifier.from_pretrained(folder)


def lying_header(path):
    """Say that the first tensor has more bytes than there are."""
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    name = next(name for name in header if name != "__metadata__")
    header[name]["data_offsets"][1] += 10**12
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + n :])


def long_header(path):
    path.write_bytes((10**15).to_bytes(8, "little") + path.read_bytes()[8:])


@pytest.mark.parametrize("lie", [lying_header, long_header])
def test_a_safetensors_header_that_lies_is_refused(folder, lie):
    lie(folder / "model.safetensors")
    sign_again(folder)
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        BertSentimentClassifier.from_pretrained(folder)


def test_weights_of_another_size_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.query.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors")
    sign_again(folder)
    with pytest.raises(ValueError, match=r"has shape \(3, 3\)"):
        BertSentimentClassifier.from_pretrained(folder)
