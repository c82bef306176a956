"""The caches compute each vector once, and survive writers that are killed."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skbert import BertEmbeddingTransformer, CacheInfo
from skbert.contract import progress
from skbert.engine.model import encoder
from skbert.engine.model.encoder import _embedded
from skbert.engine.prediction import cache as cache_module
from skbert.engine.prediction.cache import FolderCache, MemoryCache, compute_once
from tests.conftest import save_bert

TEXTS = ["a film", "dull", "a film", "A  FILM", "very very good", "dull", ""]  # 4 are distinct
A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))


def vector(*numbers):
    return np.array(numbers, dtype=np.float32)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """A cache in memory that no other test has used."""
    memory = MemoryCache()
    monkeypatch.setattr(cache_module, "shared_memory_cache", memory)
    return memory


@pytest.fixture(params=["memory", "folder"])
def cache(request, memory, tmp_path):
    cache = memory if request.param == "memory" else FolderCache(tmp_path)
    yield cache
    cache.close()


@pytest.fixture
def encoded(monkeypatch):
    """Lengths of all texts that an encoder computes, in order."""
    encoded = []
    plain = _embedded

    def counting(model, batch, *arguments):
        encoded.extend(np.diff(batch.cu_seqlens).tolist())
        return plain(model, batch, *arguments)

    monkeypatch.setattr(encoder, "_embedded", counting)
    return encoded


def transformer_of(model, **parameters):
    return BertEmbeddingTransformer(model, **{"max_length": 64} | parameters)


# -- the cache itself ---------------------------------------------------------------------------


def test_what_is_put_can_be_got(cache):
    assert cache.get([A, B]) == {}
    cache.put({A: vector(1, 2), B: vector(3, 4)})
    found = cache.get([A, C])
    assert found.keys() == {A}
    assert found[A].dtype == np.float32
    assert found[A].tolist() == [1, 2]
    cache.put({A: vector(5, 6)})  # an entry never changes
    assert cache.get([A])[A].tolist() == [1, 2]
    assert cache.info() == CacheInfo(hits=0, misses=0, size=2)


def test_one_claim_a_key(cache):
    cache.put({A: vector(1)})
    assert cache.claim([A, B]) == {B}
    assert cache.claim([A, B, C]) == {C}
    cache.release([B])
    assert cache.claim([A, B, C]) == {B}
    cache.put({B: vector(2)})
    assert cache.claim([A, B, C]) == set()


def test_a_claim_ends_by_itself(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_CLAIM_SECONDS", -1)
    assert cache.claim([A]) == {A}
    assert cache.claim([A]) == {A}


def test_memory_is_bounded_and_what_was_used_last_stays():
    cache = MemoryCache(limit=2 * 8)
    cache.put({A: vector(1, 1), B: vector(2, 2)})
    cache.get([A])
    cache.put({C: vector(3, 3)})
    assert cache.get([A, B, C]).keys() == {A, C}
    assert cache.info().size == 2


def test_a_folder_is_bounded_and_the_newest_stay(tmp_path):
    limit = 2**20
    cache = FolderCache(tmp_path, limit)
    keys = [os.urandom(32) for _ in range(1000)]
    for key in keys:
        cache.put({key: np.ones(1024, dtype=np.float32)})  # 4 MiB in all
    there = cache.get(keys).keys()
    cache.close()
    assert {*keys[-150:]} <= there
    assert not there & {*keys[:700]}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.1 * limit


def halves(missing):
    return [part for part in np.array_split(missing, 2) if len(part)]


def test_compute_once_by_hand(cache):
    cache.put({B: vector(2)})
    computed = []

    def compute(indices):
        computed.extend(indices.tolist())
        return np.float32([[10 * i] for i in indices])

    found = dict(compute_once(cache, [A, B, C], halves, compute))
    assert {i: v.tolist() for i, v in found.items()} == {0: [0], 1: [2], 2: [20]}
    assert computed == [0, 2]
    assert cache.info() == CacheInfo(hits=1, misses=2, size=3)


def test_a_failed_computation_claims_nothing(cache):
    def fail(indices):
        raise MemoryError

    with pytest.raises(MemoryError):
        dict(compute_once(cache, [A], halves, fail))
    assert cache.claim([A]) == {A}


def test_more_texts_than_a_cache_holds(tmp_path):
    keys = [os.urandom(32) for _ in range(50)]
    for cache in (MemoryCache(limit=8), FolderCache(tmp_path, limit=1)):
        for _ in range(2):
            found = dict(compute_once(cache, keys, halves, lambda i: i[:, None].astype("f4")))
            assert [found[i].tolist() for i in range(50)] == [[i] for i in range(50)]
        cache.close()


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_another_thread_computes_is_waited_for(memory, tmp_path, kind):
    keys = [os.urandom(32) for _ in range(8)]
    computed, results = [], []

    def compute(indices):
        computed.extend(indices.tolist())
        time.sleep(0.05)
        return indices[:, None].astype("f4")

    def work():
        cache = memory if kind == "memory" else FolderCache(tmp_path)
        results.append(dict(compute_once(cache, keys, lambda missing: missing[:, None], compute)))
        cache.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == [*range(8)]
    assert [sorted(result) for result in results] == [[*range(8)]] * 3


# -- unusable folders -----------------------------------------------------------------------------


def test_a_damaged_file_is_an_error(tmp_path, tiny_bert):
    (tmp_path / "skbert-vectors.sqlite3").write_bytes(b"not a database " * 100)
    transformer = transformer_of(tiny_bert, cache=tmp_path)
    with pytest.raises(OSError) as error:
        transformer.transform(TEXTS)
    assert str(error.value) == (
        f"Could not open cache={str(tmp_path)!r} (file is not a database); a writable folder on a "
        "local disk is expected. Choose another folder, or delete 'skbert-vectors.sqlite3' in it "
        "if that file is damaged."
    )
    assert not hasattr(transformer, "cache_info_")


def test_a_file_is_no_folder(tmp_path, tiny_bert):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"^Could not open cache='.*file' \(.*File exists"):
        transformer_of(tiny_bert, cache=tmp_path / "file").transform(TEXTS)


def test_nobody_waits_for_vectors_that_a_full_disk_refuses(tmp_path, monkeypatch):
    def full(self):
        raise sqlite3.OperationalError("database or disk is full")

    with closing(FolderCache(tmp_path)) as cache, closing(FolderCache(tmp_path)) as other:
        monkeypatch.setattr(FolderCache, "_drop_oldest", full)
        assert cache.claim([A]) == {A}
        assert other.claim([A]) == set()
        with pytest.warns(UserWarning, match="database or disk is full"):
            cache.put({A: vector(1)})
        assert other.claim([A]) == {A}


def test_a_full_disk_costs_the_cache_and_not_the_result(tmp_path, tiny_bert, monkeypatch):
    def full(self):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(FolderCache, "_drop_oldest", full)
    with pytest.warns(UserWarning) as warnings:
        vectors = transformer_of(tiny_bert, cache=tmp_path).transform(TEXTS)
    assert [str(warning.message) for warning in warnings] == [
        f"Could not add vectors to {str(tmp_path / 'skbert-vectors.sqlite3')!r} (database or disk "
        "is full). skbert returns them, but does not store them. Free some disk space there, or "
        "choose another folder."
    ]
    expected = transformer_of(tiny_bert).transform(TEXTS)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


# -- the transformer with a cache -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "folder", "path", "joblib"])
def test_each_text_is_encoded_once(tiny_bert, tmp_path, encoded, kind):
    cache = {
        "memory": "memory",
        "folder": str(tmp_path / "vectors"),
        "path": tmp_path / "vectors",
        "joblib": joblib.Memory(tmp_path / "vectors", verbose=0),
    }[kind]
    first = transformer_of(tiny_bert, cache=cache)
    assert first.cache_info_ == CacheInfo(0, 0, 0)
    assert not (tmp_path / "vectors" / "skbert-vectors.sqlite3").exists()
    vectors = first.transform(TEXTS)
    assert sorted(encoded) == [2, 3, 4, 5]
    assert first.cache_info_ == CacheInfo(hits=0, misses=4, size=4)

    second = transformer_of(tiny_bert, cache=cache)
    assert second.fit_transform(TEXTS[::-1])[::-1].tolist() == vectors.tolist()
    assert len(second.transform(["dull", "boring"])) == 2
    assert sorted(encoded) == [2, 3, 3, 4, 5]
    assert first.cache_info_ == CacheInfo(hits=5, misses=5, size=5)


@pytest.mark.parametrize("memory", [None, joblib.Memory(None)])
def test_no_cache(tiny_bert, encoded, memory):
    transformer = transformer_of(tiny_bert, cache=memory)
    transformer.fit_transform(TEXTS)
    transformer.transform(TEXTS)
    assert len(encoded) == 8
    with pytest.raises(AttributeError) as error:
        _ = transformer.cache_info_
    assert str(error.value) == (
        "This BertEmbeddingTransformer has no cache_info_, because cache=None. Set a cache, for "
        "example cache='memory'."
    )


def test_one_pass_serves_all_poolings(tiny_bert, encoded):
    for pooling in ("cls", "mean", "max", "pooler"):
        for normalize in (False, True):
            parameters = {"pooling": pooling, "normalize": normalize}
            cached = transformer_of(tiny_bert, cache="memory", **parameters).transform(TEXTS)
            assert len(encoded) == 4
            plain = transformer_of(tiny_bert, **parameters).transform(TEXTS)
            np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-5)
            del encoded[4:]


def test_other_vectors_have_other_keys(tiny_bert, tmp_path):
    other = str(save_bert(tmp_path / "other", seed=1))
    heads = str(save_bert(tmp_path / "heads", num_attention_heads=2))  # the same weights
    long, pairs = ["very good and not dull"], [("very good", "and not dull")]
    settings = [
        (tiny_bert, long, {}),
        (other, long, {}),
        (heads, long, {}),
        (tiny_bert, pairs, {}),
        (tiny_bert, long, {"layer": 1}),
        (tiny_bert, long, {"layer": 0}),
        (tiny_bert, long, {"max_length": 4, "truncation": "head"}),
        (tiny_bert, long, {"max_length": 4, "truncation": "tail"}),
    ]
    with pytest.warns(UserWarning, match="max_length=4"):
        for model, texts, parameters in settings * 2:
            parameters = {"pooling": "mean"} | parameters
            cached = transformer_of(model, cache="memory", **parameters).transform(texts)
            plain = transformer_of(model, **parameters).transform(texts)
            np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-5)
    assert transformer_of(tiny_bert, cache="memory").cache_info_ == CacheInfo(8, 8, 8)


def test_equal_tokens_share_a_vector(tiny_bert, encoded):
    for max_length, truncation in [(64, "head"), (32, "tail")]:
        transformer_of(
            tiny_bert, cache="memory", max_length=max_length, truncation=truncation
        ).transform(TEXTS)
    assert len(encoded) == 4


def test_progress_is_shown_where_there_is_some(tiny_bert, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    transformer = transformer_of(tiny_bert, cache="memory", verbose=1)
    transformer.transform(TEXTS)
    assert f"embedding: {len(TEXTS)} of {len(TEXTS)} texts" in capsys.readouterr().err
    transformer.transform(TEXTS)
    assert capsys.readouterr().err == ""


# -- searches -------------------------------------------------------------------------------------

GRID = {
    "countingtransformer__pooling": ["cls", "mean"],
    "logisticregression__C": [0.01, 0.1, 1.0, 10.0, 100.0],
}


class CountingTransformer(BertEmbeddingTransformer):
    """Writes the length of each encoded text to the file "encoded" beside its model."""

    def transform(self, X):
        plain = encoder._embedded

        def counting(model, batch, *arguments):
            with open(Path(self.model).with_name("encoded"), "a") as file:
                file.write("".join(f"{n}\n" for n in np.diff(batch.cu_seqlens)))
            return plain(model, batch, *arguments)

        encoder._embedded = counting
        try:
            return super().transform(X)
        finally:
            encoder._embedded = plain


@pytest.mark.parametrize(
    ("cache", "n_jobs", "times"),
    [(None, 1, 51), ("memory", 1, 1), ("folder", 1, 1), ("folder", 2, 1)],
)
def test_5_folds_and_10_values_encode_each_text_once(toy_reviews, tmp_path, cache, n_jobs, times):
    model = str(save_bert(tmp_path / "model"))
    texts = sorted({*toy_reviews[0]})
    labels = [any(word in text for word in ("good", "great", "fun", "joy")) for text in texts]
    transformer = CountingTransformer(
        model, max_length=64, cache=str(tmp_path) if cache == "folder" else cache
    )
    pipeline = make_pipeline(transformer, LogisticRegression(max_iter=5000))
    search = GridSearchCV(pipeline, GRID, cv=5, n_jobs=n_jobs).fit(texts, labels)
    n_encoded = len((tmp_path / "encoded").read_text().split())
    assert n_encoded == times * len(texts)
    if cache:
        # Each of the 50 fits embeds 4/5 of the texts to fit and 1/5 to score, the last all.
        assert search.best_estimator_[0].cache_info_ == CacheInfo(
            hits=50 * len(texts), misses=len(texts), size=len(texts)
        )


# -- writers that are killed --------------------------------------------------------------------


def is_intact(folder):
    with closing(sqlite3.connect(folder / "skbert-vectors.sqlite3")) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_killed_writer_leaves_a_good_cache(tmp_path):
    # The script imports only this module, which needs no torch, so many writers fit in a test.
    script = textwrap.dedent(
        f"""
        import importlib.util, os, sys
        from pathlib import Path
        import numpy as np
        spec = importlib.util.spec_from_file_location("cache", {cache_module.__file__!r})
        module = sys.modules["cache"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cache = module.FolderCache(Path({str(tmp_path)!r}), limit=2**23)
        while True:
            keys = [os.urandom(32) for _ in range(100)]
            cache.claim(keys)
            cache.put({{k: np.full(1000, k[0], dtype="f4") for k in keys}})
            print(*(key.hex() for key in keys), flush=True)
        """
    )
    written = []
    for n in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as writer:
            written += [writer.stdout.readline().split() for _ in range(1 + n)]
            time.sleep(n * 0.003)  # a different point of a transaction each time
            writer.kill()  # SIGKILL
    assert is_intact(tmp_path)

    cache = FolderCache(tmp_path)
    last = [bytes.fromhex(key) for key in written[-1]]
    found = cache.get(last)
    assert found.keys() == {*last}
    assert all(vector.tolist() == [key[0]] * 1000 for key, vector in found.items())
    assert dict(compute_once(cache, [A], halves, lambda i: np.ones((1, 5), "f4")))[0].sum() == 5
    cache.close()


def test_a_transformer_killed_midway_has_kept_what_it_did(prepared, tiny_bert, tmp_path):
    script = textwrap.dedent(
        f"""
        import itertools
        from skbert import BertEmbeddingTransformer
        words = "the a this that was is it film movie not very good great fun joy love".split()
        transformer = BertEmbeddingTransformer({tiny_bert!r}, cache={str(tmp_path)!r})
        transformer.set_params(max_length=64)
        for phrase in itertools.product(words, repeat=4):
            transformer.transform([" ".join(phrase)])
            print(" ".join(phrase), flush=True)
        """
    )
    with prepared.start(script) as writer:
        written = [writer.stdout.readline().strip() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
    assert is_intact(tmp_path)
    transformer = transformer_of(tiny_bert, cache=tmp_path)
    before = transformer.cache_info_
    assert before.size >= 30
    expected = transformer_of(tiny_bert).transform(written)
    np.testing.assert_allclose(transformer.transform(written), expected, rtol=0, atol=1e-5)
    assert transformer.cache_info_.misses == before.misses


def test_processes_that_begin_a_folder_at_once(prepared, tiny_bert, tmp_path):
    script = textwrap.dedent(
        f"""
        import warnings
        from skbert import BertEmbeddingTransformer
        warnings.simplefilter("error")
        texts = [f"{{a}} {{b}} film" for a in range(20) for b in range(10)]
        input()
        for start in range(0, len(texts), 20):
            BertEmbeddingTransformer(
                {tiny_bert!r}, max_length=64, cache={str(tmp_path / "new")!r}
            ).transform(texts[start : start + 20])
        """
    )
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(prepared.start(script)) for _ in range(3)]
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait() for process in processes] == [0, 0, 0]
    info = transformer_of(tiny_bert, cache=Path(tmp_path) / "new").cache_info_
    assert info == CacheInfo(hits=400, misses=200, size=200)
