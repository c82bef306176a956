"""Much of everything: threads, texts, fits; and nothing of the caller's changed by them."""

import copy
import gc
import logging
import os
import pickle
import random
import signal
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.utils.fixes import parse_version

from skbert import BertEmbeddingTransformer, BertSentimentClassifier, TruncationWarning
from skbert.engine.model import encoder
from skbert.engine.training.loop import Trainer
from tests.offline import run_offline


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return BertSentimentClassifier(
        tiny_bert, max_length=32, max_epochs=8, learning_rate=5e-3, dropout=0.0, random_state=0
    ).fit(*toy_reviews)


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_sixteen_threads_get_the_answers_of_one(clf):
    """Each its own texts, all with words and lengths that others have too."""
    texts = [f"the film number {i} was {'good ' * (i % 40) or 'dull'}" for i in range(640)]
    parts = [texts[i::16] for i in range(16)]
    alone = [clf.decision_function(part).tolist() for part in parts]
    begin = threading.Barrier(16)

    def predict(part):
        begin.wait()
        return clf.decision_function(part).tolist()

    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            assert list(pool.map(predict, parts)) == alone


@pytest.mark.skipif(
    parse_version(tokenizers.__version__) < parse_version("0.23"),
    reason="threads cannot share a tokenizer of transformers with these: Already borrowed",
)
def test_threads_may_use_the_tokenizer_of_transformers_meanwhile(clf):
    """Which sets padding and truncation on its own copy, and so cannot spoil skbert's."""
    texts = [f"the film number {i}" for i in range(200)]
    alone = clf.decision_function(texts).tolist()

    def work(i):
        if i % 2:
            clf.tokenizer_(texts[:8], padding="max_length", max_length=9 + i, truncation=True)
            return alone
        return clf.decision_function(texts).tolist()

    with ThreadPoolExecutor(16) as pool:
        assert all(found == alone for found in pool.map(work, range(64)))


def test_threads_may_embed_with_one_cache(tiny_bert):
    texts = [f"film {i}" for i in range(320)]
    embed = BertEmbeddingTransformer(tiny_bert, cache="memory", max_length=32)
    expected = BertEmbeddingTransformer(tiny_bert, max_length=32).fit_transform(texts)
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(embed.fit(texts).transform, [texts] * 16):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_texts_in_parts_are_predicted_as_in_one(clf, monkeypatch):
    texts = ["a great film", "a dull film " * 20, "", "a great film"] * 5 + ["dull"]
    with pytest.warns(TruncationWarning) as at_once:
        expected = copy.deepcopy(clf).decision_function(texts)
    monkeypatch.setattr("skbert.contract.text_parts.TEXTS_AT_ONCE", 4)
    with pytest.warns(TruncationWarning) as in_parts:
        found = copy.deepcopy(clf).decision_function(texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert [str(w.message) for w in in_parts] == [str(w.message) for w in at_once]
    assert str(at_once[0].message).startswith("5 of 21 texts are longer than max_length=32")
    pairs = [("a great film", "good"), ("dull", "")] * 5
    clf_of_pairs = copy.deepcopy(clf)
    clf_of_pairs._n_columns = 2
    monkeypatch.undo()
    expected = clf_of_pairs.decision_function(pairs)
    monkeypatch.setattr("skbert.contract.text_parts.TEXTS_AT_ONCE", 3)
    np.testing.assert_allclose(clf_of_pairs.decision_function(pairs), expected, rtol=0, atol=1e-5)


def peak_above(work):
    """The most memory during `work`, above what there was before; in bytes. Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    work()
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) * 1024 - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc/self/status")
def test_a_hundred_thousand_texts_in_bounded_memory(clf):
    def texts_of(n):
        return [f"a {'great' if i % 2 else 'dull'} film, {i // 100} {i % 100}" for i in range(n)]

    texts = texts_of(100_000)
    # All words; it fills what is remembered of words, and oneDNN's for GELU, both limited.
    clf.predict(texts[::5])
    labels = []
    some = peak_above(lambda: clf.predict(texts[:20_000]))
    most = peak_above(lambda: labels.extend(clf.predict(texts).tolist()))
    assert most < 64 * 2**20  # a part of 16,384 texts at a time
    assert most - some < 80_000 * 200  # of each further text little more than its label
    assert set(labels) == {"bad", "good"}
    rows = np.random.default_rng(0).choice(len(texts), 1000, replace=False)
    assert clf.predict([texts[row] for row in rows]).tolist() == [labels[row] for row in rows]


@pytest.mark.slow
def test_three_hundred_fits_do_not_grow(tiny_bert):
    texts, labels = ["good film", "bad film", "great", "dull"], [1, 0, 1, 0]
    process = psutil.Process()

    def fits(n):
        for seed in range(n):
            clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=seed)
            clf.fit(texts, labels).predict(texts)
        gc.collect()
        return process.memory_info().rss, len(process.open_files()), process.num_threads()

    fits(50)
    memory, *others = fits(50)
    memory_after, *others_after = fits(200)
    # The weights alone are 0.1 MiB a fit, with gradients and moments 0.4.
    assert memory_after - memory < 200 * 0.02 * 2**20
    assert others_after == others


def surroundings():
    """What of the process a library could change."""
    loggers = {
        name: logging.getLogger(name).level for name in sorted(logging.root.manager.loggerDict)
    }
    return {
        "environment": dict(os.environ),
        "folder": sorted(os.listdir()),
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "loggers": loggers,
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "torch threads": torch.get_num_threads(),
        "torch dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "umask": current_umask(),
        "threads": threading.active_count(),
        "operating system's threads": psutil.Process().num_threads(),
        "open files": sorted(file.path for file in psutil.Process().open_files()),
        "connections": len(psutil.Process().net_connections()),
        "children": psutil.Process().children(),
        "working directory": os.getcwd(),
        "random": random.getstate(),
        "warnings": list(warnings.filters),
        "path": list(sys.path),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy errors": np.geterr(),
        "recursion": sys.getrecursionlimit(),
        "collector": (gc.isenabled(), gc.get_threshold()),
        "temporary files": sorted(os.listdir(tempfile.gettempdir())),
    }


def current_umask():
    found = os.umask(0o022)
    os.umask(found)
    return found


def test_nothing_of_the_callers_is_changed(
    tiny_bert, toy_reviews, tmp_path, tmp_path_factory, monkeypatch
):
    X, y = toy_reviews
    # A folder for temporary files that no other process uses.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    clf = BertSentimentClassifier(tiny_bert, max_length=32, max_epochs=1)

    def everything(folder):
        clf.set_params(checkpoint_dir=folder / "runs", early_stopping=True).fit(X, y)
        clf.partial_fit(X, y)
        clf.predict_proba(X)
        pickle.loads(pickle.dumps(clf)).predict(X)
        joblib.dump(clf, folder / "clf.joblib")
        clf.save_pretrained(folder / "model")
        BertSentimentClassifier.from_pretrained(folder / "model").predict(X)
        BertEmbeddingTransformer(tiny_bert, cache=folder / "cache", max_length=32).fit_transform(X)

    everything(tmp_path_factory.mktemp("first"))  # the first time, modules are imported
    monkeypatch.chdir(tmp_path)
    before = surroundings()
    everything(elsewhere)
    after = surroundings()
    for name, value in before.items():
        assert after[name] == value, name


def test_fit_starts_no_process_and_no_data_loader(tiny_bert, toy_reviews, monkeypatch):
    process, plain = psutil.Process(), Trainer.step
    before = {child.pid for child in process.children(recursive=True)}
    during = []

    def refuse(*args, **kwargs):
        raise AssertionError("this must not be called")

    def watching(self, *arguments):
        during.append({child.pid for child in process.children(recursive=True)})
        return plain(self, *arguments)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", refuse)
    monkeypatch.setattr(Trainer, "step", watching)
    clf = BertSentimentClassifier(tiny_bert, max_length=32, max_epochs=1, batch_size=32)
    clf.fit(*toy_reviews).predict(toy_reviews[0])
    assert len(during) == 3  # steps of an epoch
    assert set().union(*during) <= before
    assert {child.pid for child in process.children(recursive=True)} <= before


FORK_AFTER_FIT = """
import os
from skbert import BertSentimentClassifier
X = ["good", "bad"] * 20
clf = BertSentimentClassifier(sys.argv[1], max_length=16, max_epochs=10).fit(X, [0, 1] * 20)
clf.predict(X)
child = os.fork()
if child == 0:
    os._exit(int(clf.predict(X).shape == (40,)))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_forking_after_a_fit_warns_of_nothing(tiny_bert, tmp_path):
    done = run_offline(FORK_AFTER_FIT, tiny_bert, folder=tmp_path / "run", OMP_NUM_THREADS="1")
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_too_little_memory_is_an_error_and_not_an_answer(clf, monkeypatch):
    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(encoder, "_full_layer", no_memory)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        clf.predict_proba(["a good film"])


# bad input ----------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "\x00", "\ud800", "\udfff", "\u200b", "\u3000"]
)
ANY_TEXT = st.text(st.characters(), max_size=60) | st.lists(
    PIECES | st.text(max_size=5), max_size=8
).map("".join)
ANY_LABEL = st.text(st.characters(exclude_characters="\0"))  # at which numpy's strings end
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
@FEW
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_any_text_is_predicted_in_its_row(clf, texts):
    together = clf.predict_proba(texts)
    alone = np.concatenate([clf.predict_proba([text]) for text in texts])
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
@FEW
@given(ANYTHING)
def test_anything_is_predicted_or_refused_in_words(clf, X):
    try:
        labels = clf.predict(X)
    except (TypeError, ValueError) as error:
        assert len(str(error)) > 40 and "X" in str(error)
    else:
        assert len(labels) == len(X)


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@FEW
@given(ANYTHING, ANYTHING)
def test_any_labels_and_weights_are_learned_or_refused_in_words(tiny_bert, y, weights):
    X = ["good film", "bad film", "dull"]
    for labels, sample_weight in ((y, None), ([0, 1, 1], weights)):
        clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
        try:
            clf.fit(X, labels, sample_weight)
        except (TypeError, ValueError) as error:
            assert len(str(error)) > 20
            assert not hasattr(clf, "classes_")
        else:
            assert len(clf.predict(X)) == 3


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
@FEW
@given(st.data())
def test_any_texts_labels_and_weights_are_learned(tiny_bert, data):
    n_texts = data.draw(st.integers(2, 6))
    texts = data.draw(st.lists(ANY_TEXT, min_size=n_texts, max_size=n_texts))
    kind = data.draw(st.sampled_from([ANY_LABEL, st.integers(-(2**40), 2**40)]))
    classes = data.draw(st.lists(kind, min_size=2, max_size=3, unique=True))
    y = [classes[i % len(classes)] for i in range(n_texts)]
    weights = data.draw(st.lists(st.floats(0, 1e6), min_size=n_texts, max_size=n_texts))
    weights[0] = max(weights[0], 1e-3)
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    clf.fit(texts, y, sample_weight=weights)
    assert clf.classes_.tolist() == sorted(set(y))
    assert np.isfinite(clf.predict_proba(texts)).all()
    assert set(clf.predict(texts).tolist()) <= set(y)


def _any_width(texts):
    return np.array(texts, dtype=np.dtypes.StringDType())


CONTAINERS = [
    tuple,
    lambda texts: np.array(texts, dtype=object),
    lambda texts: np.array(texts, dtype=object)[:, None],
    # numpy has had strings of any width since 2.0
    *([_any_width] if hasattr(np.dtypes, "StringDType") else []),
    pd.Series,
    lambda texts: pd.Series(texts, index=range(7, 7 + len(texts)), dtype=object),
    lambda texts: pd.Series(texts).astype("category"),
    pl.Series,
    pa.array,
    lambda texts: pa.chunked_array([texts[:1], texts[1:]], type=pa.string()),
    lambda texts: [np.str_(text) for text in texts],
]
ENCODABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
@FEW
@given(st.lists(ENCODABLE, min_size=1, max_size=5), st.sampled_from(CONTAINERS))
def test_any_container_of_any_texts_says_the_same(clf, texts, container):
    expected = clf.predict_proba(texts).tolist()
    assert clf.predict_proba(container(texts)).tolist() == expected


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_a_text_of_ten_megabytes(clf):
    text = "good " * 2_000_000
    assert len(text) == 10_000_000
    assert clf.predict([text, "a dull film"]).tolist() == ["good", "bad"]
