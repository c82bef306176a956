"""Much of everything: threads, texts, fits; and nothing of the caller's changed by them."""

import gc
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skbert import BertEmbeddingTransformer, BertSentimentClassifier


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return BertSentimentClassifier(
        tiny_bert, max_length=32, max_epochs=8, learning_rate=5e-3, dropout=0.0, random_state=0
    ).fit(*toy_reviews)


def test_sixteen_threads_get_the_answers_of_one(clf):
    texts = [f"the film number {i} was {'good' if i % 3 else 'dull'}" for i in range(640)]
    parts = [texts[i::16] for i in range(16)]
    alone = [clf.decision_function(part) for part in parts]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            together = list(pool.map(clf.decision_function, parts))
            for found, expected in zip(together, alone, strict=True):
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_threads_may_embed_with_one_cache(tiny_bert):
    texts = [f"film {i}" for i in range(320)]
    embed = BertEmbeddingTransformer(tiny_bert, cache="memory", max_length=32)
    expected = BertEmbeddingTransformer(tiny_bert, max_length=32).fit_transform(texts)
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(embed.fit(texts).transform, [texts] * 16):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_hundred_thousand_texts_in_bounded_memory(clf):
    texts = [f"a great film {i}" if i % 2 else f"a dull film {i}" for i in range(100_000)]
    process = psutil.Process()
    clf.predict(texts[:1000])
    before = process.memory_info().rss
    peak = before
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        labels = clf.predict(texts)
    finally:
        done.set()
        watcher.join()
    rows = np.random.default_rng(0).choice(len(texts), 1000, replace=False)
    assert clf.predict([texts[row] for row in rows]).tolist() == labels[rows].tolist()
    assert set(labels.tolist()) == {"good", "bad"}
    assert peak - before < 400 * 2**20  # 4 KiB a text, tokens and bookkeeping


@pytest.mark.slow
def test_five_hundred_fits_do_not_grow(tiny_bert):
    texts, labels = ["good film", "bad film", "great", "dull"], [1, 0, 1, 0]
    process = psutil.Process()

    def fits(n):
        for seed in range(n):
            BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=seed).fit(
                texts, labels
            )
        gc.collect()
        return process.memory_info().rss, len(process.open_files()), process.num_threads()

    memory, files, threads = fits(50)
    after = fits(450)
    assert after[0] - memory < 40 * 2**20  # 0.1 MiB of weights a fit would be 45
    assert after[1:] == (files, threads)


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
    }


def current_umask():
    found = os.umask(0o022)
    os.umask(found)
    return found


def test_nothing_of_the_callers_is_changed(
    tiny_bert, toy_reviews, tmp_path, tmp_path_factory, monkeypatch
):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, max_length=32, max_epochs=1)
    clf.fit(X, y)  # the first time, modules are imported
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    before = surroundings()
    clf.set_params(checkpoint_dir=elsewhere / "runs", early_stopping=True).fit(X, y)
    clf.partial_fit(X, y)
    clf.predict_proba(X)
    clf.save_pretrained(elsewhere / "model")
    BertSentimentClassifier.from_pretrained(elsewhere / "model").predict(X)
    BertEmbeddingTransformer(tiny_bert, cache=elsewhere / "cache", max_length=32).fit_transform(X)
    after = surroundings()
    for name, value in before.items():
        assert after[name] == value, name


# bad input ----------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "\x00", "\ud800", "\udfff", "\u200b", "\u3000"]
)
ANY_TEXT = st.text(st.characters(), max_size=60) | st.lists(
    PIECES | st.text(max_size=5), max_size=8
).map("".join)
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
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    X = ["good film", "bad film", "dull"]
    for labels, sample_weight in ((y, None), ([0, 1, 1], weights)):
        try:
            clf.fit(X, labels, sample_weight)
        except (TypeError, ValueError) as error:
            assert str(error)
            assert not hasattr(clf, "classes_") or labels is not y


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_a_text_of_ten_megabytes(clf):
    text = "good " * 2_000_000
    assert len(text) == 10_000_000
    assert clf.predict([text, "a dull film"]).tolist() == ["good", "bad"]
