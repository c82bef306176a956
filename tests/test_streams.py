"""Streams of texts: the results of lists, in bounded memory, and errors that name their rows."""

import copy
import io
import re
import sys
import tracemalloc
import weakref

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skbert import (
    BertEmbeddingTransformer,
    BertPretrainer,
    BertSentimentClassifier,
    BertSentimentRegressor,
    TruncationWarning,
)
from skbert.contract import progress
from skbert.engine.model.networks import TextClassifier

#: Number of texts in a part, in these tests.
N_AT_ONCE = 8

WORDS = ["good", "dull", "", "great"] * 5 + ["bad"]
TEXTS = [f"a {word} film {i % 5}" for i, word in enumerate(WORDS)]  # 21
PAIRS = [(text, f"the {i % 3}") for i, text in enumerate(TEXTS)]
SETTINGS = {"max_length": 16, "max_epochs": 1, "batch_size": 4, "random_state": 0}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in ("streams", "text_parts"):
        monkeypatch.setattr(f"skbert.contract.{module}.TEXTS_AT_ONCE", N_AT_ONCE)
    monkeypatch.setattr("skbert.contract.streams._ROWS_AT_ONCE", 3)


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    """A classifier of single texts."""
    return BertSentimentClassifier(tiny_bert, **SETTINGS).fit(TEXTS[:8], ["a", "b"] * 4)


@pytest.fixture
def clf(fitted):
    return copy.deepcopy(fitted)  # has not warned yet


@pytest.fixture(scope="module")
def clf_of_pairs(tiny_bert):
    frame = pd.DataFrame(PAIRS[:8], columns=["first", "second"])
    return BertSentimentClassifier(tiny_bert, **SETTINGS).fit(frame, ["a", "b"] * 4)


def saved(table, folder):
    path = folder / "texts.parquet"
    pa.parquet.write_table(table, path, row_group_size=5)
    return path


def rows_of(table):
    rows = [tuple(row.values()) for row in table.to_pylist()]
    return [row[0] for row in rows] if table.num_columns == 1 else rows


def some_columns(table):
    wide = table.append_column("id", [[*range(len(table))]])
    return pa.dataset.dataset(wide).scanner(columns=table.column_names)


def written_as_csv(table, folder):
    """Two files, whose names have the order of the rows."""
    folder.mkdir()
    for i, part in enumerate([table[:9], table[9:]]):
        pa.csv.write_csv(part, folder / f"{i}.csv")
    return pa.dataset.dataset(folder, format="csv", schema=table.schema)


#: Streams of the rows of a table, which may be written into a folder.
STREAMS = {
    "generator": lambda table, folder: (row for row in rows_of(table)),
    "iterator": lambda table, folder: iter(rows_of(table)),
    "map": lambda table, folder: map(copy.copy, rows_of(table)),
    "dataset": lambda table, folder: pa.dataset.dataset(saved(table, folder)),
    "filtered": lambda table, folder: pa.dataset.dataset(table).filter(pa.dataset.scalar(True)),
    "folder of CSV": lambda table, folder: written_as_csv(table, folder / "csv"),
    "dataset in memory": lambda table, folder: pa.dataset.dataset(table),
    "scanner": lambda table, folder: pa.dataset.dataset(saved(table, folder)).scanner(),
    "some columns": lambda table, folder: some_columns(table),
    "reader": lambda table, folder: table.to_reader(max_chunksize=10),
    "file": lambda table, folder: pa.parquet.ParquetFile(saved(table, folder)),
}
each_stream = pytest.mark.parametrize("kind", STREAMS)
SINGLE = pa.table({"text": TEXTS})
DOUBLE = pa.table({"first": [a for a, _ in PAIRS], "second": [b for _, b in PAIRS]})


# Results ------------------------------------------------------------------------------------------


@each_stream
def test_a_stream_of_texts(clf, tmp_path, kind):
    stream = STREAMS[kind](SINGLE, tmp_path)
    np.testing.assert_allclose(clf.predict_proba(stream), clf.predict_proba(TEXTS), atol=1e-6)


@each_stream
def test_a_stream_of_pairs(clf_of_pairs, tmp_path, kind):
    stream = STREAMS[kind](DOUBLE, tmp_path)
    expected = clf_of_pairs.predict_proba(DOUBLE)
    np.testing.assert_allclose(clf_of_pairs.predict_proba(stream), expected, atol=1e-6)


@pytest.mark.parametrize("n_texts", [1, 7, 8, 9, 16, 17])
def test_any_number_of_texts(clf, n_texts):
    found = clf.decision_function(iter(TEXTS[:n_texts]))
    np.testing.assert_allclose(found, clf.decision_function(TEXTS[:n_texts]), atol=1e-6)


def test_all_methods_that_predict(clf, tiny_bert):
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        found, expected = (getattr(clf, method)(X) for X in (iter(TEXTS), TEXTS))
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert clf.predict(iter(TEXTS)).tolist() == clf.predict(TEXTS).tolist()
    labels = ["a", "b", "b"] * 7
    assert clf.score(iter(TEXTS), labels) == clf.score(TEXTS, labels)
    reg = BertSentimentRegressor(tiny_bert, **SETTINGS).fit(TEXTS[:8], [1, 2, 3, 4] * 2)
    np.testing.assert_allclose(reg.predict(iter(TEXTS)), reg.predict(TEXTS), atol=1e-5)


@pytest.mark.parametrize("cache", [None, "memory", "folder"])
def test_vectors(tiny_bert, tmp_path, cache):
    cache = tmp_path if cache == "folder" else cache
    embed = BertEmbeddingTransformer(tiny_bert, max_length=16, cache=cache)
    found, expected = embed.transform(iter(TEXTS)), embed.transform(TEXTS)
    assert found.shape == (21, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_vectors_as_tensors_and_as_frames(tiny_bert, monkeypatch):
    embed = BertEmbeddingTransformer(tiny_bert, max_length=16).fit(TEXTS)
    expected = embed.transform(TEXTS)
    with monkeypatch.context() as context:  # as if array_api_dispatch were on
        context.setattr("skbert.embedding.wants_tensors", lambda estimator: True)
        tensor = embed.transform(iter(TEXTS))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor, expected, atol=1e-6)
    frame = embed.set_output(transform="polars").transform(iter(TEXTS))
    assert isinstance(frame, pl.DataFrame)
    np.testing.assert_allclose(frame.to_numpy(), expected, atol=1e-6)


def test_a_pipeline_with_vectors(tiny_bert):
    pipeline = make_pipeline(
        BertEmbeddingTransformer(tiny_bert, max_length=16), LogisticRegression()
    )
    pipeline.fit(TEXTS[:8], ["a", "b"] * 4)
    found = pipeline.predict_proba(pa.dataset.dataset(SINGLE))
    np.testing.assert_allclose(found, pipeline.predict_proba(TEXTS), atol=1e-5)


def test_a_stream_that_predicts_while_it_is_read(clf):
    stream = (text for text in TEXTS if clf.predict([text])[0])
    np.testing.assert_allclose(clf.predict_proba(stream), clf.predict_proba(TEXTS), atol=1e-6)


# Memory -------------------------------------------------------------------------------------------


class Text(str):
    """A str that can be referenced weakly."""


def counted(rows, alive):
    """Yield texts, and note how many are alive when the next one is asked for."""
    living = weakref.WeakSet()
    for row in rows:
        text = Text(row)
        living.add(text)
        alive.append(len(living))
        yield text
        del text


#: 100 texts that differ, because equal str are one element of a WeakSet.
MANY = [f"a film {i}" for i in range(100)]


def test_one_part_and_no_more_is_alive(clf, tiny_bert):
    for method in (clf.predict, BertEmbeddingTransformer(tiny_bert, max_length=16).transform):
        alive = []
        assert len(method(counted(MANY, alive))) == 100
        assert max(alive) == N_AT_ONCE


def test_a_part_is_predicted_before_the_next_one_is_read(clf, monkeypatch):
    n_read, seen = 0, []
    predict = TextClassifier.logits

    def logits(self, batch, *arguments):
        seen.append((n_read, int(batch.rows.max())))
        return predict(self, batch, *arguments)

    def reading():
        nonlocal n_read
        for text in MANY:
            n_read += 1
            yield text

    monkeypatch.setattr(TextClassifier, "logits", logits)
    clf.predict(reading())
    assert [n for n, _ in seen] == [*range(8, 100, 8), 100]
    assert max(row for _, row in seen) == N_AT_ONCE - 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_the_memory_of_long_texts_is_that_of_a_part(clf):
    def texts():
        for i in range(100):
            yield f"{i} " + "a film " * 15_000  # 105 kB

    clf.predict(["a film " * 40])  # warns of truncation, and imports what it needs
    tracemalloc.start()
    clf.predict(texts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # all texts have 10 MB


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
@pytest.mark.parametrize("kind", ["dataset", "file"])
def test_pyarrow_does_not_read_far_ahead(clf, tmp_path, monkeypatch, kind):
    rng = np.random.default_rng(0)
    table = pa.table({"text": [rng.bytes(25_000).hex() for _ in range(100)]})  # 5 MB
    stream = STREAMS[kind](table, tmp_path)  # in row groups of 5 texts
    del table
    before, held = pa.total_allocated_bytes(), []
    predict = TextClassifier.logits

    def logits(*arguments):
        held.append(pa.total_allocated_bytes() - before)
        return predict(*arguments)

    monkeypatch.setattr(TextClassifier, "logits", logits)
    clf.predict(stream)
    assert len(held) >= 12 and max(held) < 1.5e6


# Errors and warnings ------------------------------------------------------------------------------


@each_stream
def test_no_texts(clf, tmp_path, kind):
    stream = STREAMS[kind](SINGLE[:0], tmp_path)
    with pytest.raises(ValueError, match=r"^X has 0 texts \(\w+\); a minimum of 1 is required\. "):
        clf.predict(stream)


BAD_ROWS = {
    "a missing text": [*TEXTS[:19], None, "a film"],
    "a number": [*TEXTS[:17], 3],
    "a pair among texts": [*TEXTS[:16], ("a", "b")],
    "a text among pairs": [*PAIRS[:16], "a film"],
    "three texts": [*PAIRS[:16], ("a", "b", "c")],
    "a missing text in a pair": [*PAIRS[:16], ("a", None)],
    "triples": [("a", "b", "c")] * 3,
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_errors_are_those_of_the_list(clf, clf_of_pairs, case):
    rows = BAD_ROWS[case]
    estimator = clf if isinstance(rows[0], str) else clf_of_pairs
    with pytest.raises((TypeError, ValueError)) as expected:
        estimator.predict(rows)
    with pytest.raises(type(expected.value), match=f"^{re.escape(str(expected.value))}$"):
        estimator.predict(iter(rows))


@pytest.mark.parametrize("kind", ["dataset", "scanner", "reader", "file"])
def test_a_null_has_its_row(clf, clf_of_pairs, tmp_path, kind):
    missing = "is None (NoneType); every text must be a str. Replace missing texts"
    table = pa.table({"text": [*TEXTS[:19], None]})
    with pytest.raises(ValueError, match=rf"^X\[19\] {re.escape(missing)}"):
        clf.predict(STREAMS[kind](table, tmp_path))
    table = pa.table({"first": TEXTS, "second": [*TEXTS[:20], None]})
    with pytest.raises(ValueError, match=rf"^X\[20\]\[1\] {re.escape(missing)}"):
        clf_of_pairs.predict(STREAMS[kind](table, tmp_path))


def test_logits_and_vectors_that_are_not_finite_have_their_row(clf, tiny_bert, monkeypatch):
    word = clf.tokenizer_.convert_tokens_to_ids("hate")
    texts = ["a film"] * 20 + ["hate"]
    with torch.no_grad():
        clf.model_.embeddings.word_embeddings.weight[word] = torch.nan
    with pytest.raises(ValueError, match=r"^The logits of X\[20\] are \[nan, nan\]"):
        clf.predict(iter(texts))
    embed = BertEmbeddingTransformer(tiny_bert, max_length=16)
    damaged = copy.deepcopy(embed._load().frozen_encoder(torch.device("cpu")))
    with torch.no_grad():
        damaged.embeddings.word_embeddings.weight[word] = torch.nan
    monkeypatch.setattr(
        "skbert.engine.files.pretrained.Pretrained.frozen_encoder", lambda *_: damaged
    )
    for cache in (None, "memory"):
        embed.set_params(cache=cache)
        with pytest.raises(ValueError, match=r"^The vector of X\[20\] contains values that are"):
            embed.transform(iter(texts))


THREE = pa.table({"id": [1], "text": ["a film"], "stars": [5]})
EXPECTED = (
    "with the columns ['id', 'text', 'stars']; one column of texts, or two columns of pairs, are "
    "expected. Choose them, for example"
)


@pytest.mark.parametrize(
    ("kind", "name", "choice"),
    [
        ("dataset", "FileSystemDataset", "X.scanner(columns=['text'])"),
        ("dataset in memory", "InMemoryDataset", "X.scanner(columns=['text'])"),
        ("scanner", "Scanner", "dataset.scanner(columns=['text'])"),
        (
            "reader",
            "RecordBatchReader",
            "(text for batch in X for text in batch['text'].to_pylist())",
        ),
        ("file", "ParquetFile", "pyarrow.dataset.dataset(path).scanner(columns=['text'])"),
    ],
)
def test_a_stream_with_other_columns(clf, tmp_path, kind, name, choice):
    X = STREAMS[kind](THREE, tmp_path)
    message = f"X is a {name} {EXPECTED} {choice}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clf.predict(X)
    names = {"X": X, "pyarrow": pa, "path": tmp_path / "texts.parquet"}
    names["dataset"] = pa.dataset.dataset(THREE)
    assert clf.predict(eval(choice, names)).shape == (1,)  # the advice is true


def test_columns_are_compared_with_those_of_fit(clf, clf_of_pairs):
    with pytest.raises(ValueError, match=r"^X contains pairs of texts, but .* single texts\. Pass"):
        clf.predict(pa.dataset.dataset(DOUBLE))
    with pytest.raises(ValueError, match=r"^X contains single texts, but .* pairs of texts\. Pass"):
        clf_of_pairs.predict(iter(TEXTS))
    renamed = DOUBLE.rename_columns(["first", "third"])
    with pytest.raises(ValueError, match="The feature names should match those that were passed"):
        clf_of_pairs.predict(pa.dataset.dataset(renamed))


def test_truncation_is_warned_of_once_with_the_totals(clf):
    texts = ["good film " * 20 if i % 7 == 0 else text for i, text in enumerate(TEXTS)]
    with pytest.warns(TruncationWarning) as caught:
        clf.predict(iter(texts))
    assert [str(w.message).partition(";")[0] for w in caught] == [
        "3 of 21 texts are longer than max_length=16 tokens and were truncated"
    ]


@pytest.mark.parametrize(
    ("kind", "name", "whole"),
    [
        ("generator", "generator", "list(X)"),
        ("dataset in memory", "InMemoryDataset", "X.to_table()"),
        ("scanner", "Scanner", "X.to_table()"),
        ("reader", "RecordBatchReader", "X.read_all()"),
        ("file", "ParquetFile", "X.read()"),
    ],
)
def test_what_needs_all_texts_says_how_to_read_them(clf, tiny_bert, tmp_path, kind, name, whole):
    message = (
        f"X is a {name}; a sequence of texts is expected, such as a list or a pandas Series of "
        "str. Only methods that predict, and transform of BertEmbeddingTransformer, read a stream. "
        f"If the texts fit into memory, pass {whole}."
    )
    y = ["a", "b", "a"] * 7
    for call in (
        lambda X: clf.fit(X, y),
        lambda X: clf.partial_fit(X, y),
        lambda X: clf.explain(X),
        lambda X: BertEmbeddingTransformer(tiny_bert).fit(X),
        lambda X: BertEmbeddingTransformer(tiny_bert).token_embeddings(X),
        lambda X: BertPretrainer(tiny_bert).fit(X),
    ):
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            call(STREAMS[kind](SINGLE, tmp_path))
    X = eval(whole, {"X": STREAMS[kind](SINGLE, tmp_path)})
    assert len(clf.fit(X, y).predict(X)) == 21  # the advice is true


# Progress -----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at_once(monkeypatch):
    for name in ("DELAY_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)


def shown_of(clf, monkeypatch, X, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    clf.set_params(verbose=1).predict(X)
    return stderr.getvalue()


def test_lines_of_a_stream_count_its_texts(clf, monkeypatch, at_once):
    lines = shown_of(clf, monkeypatch, iter(TEXTS), io.StringIO()).splitlines()
    found = [re.fullmatch(r"predicting: (\d+) texts, \d+\.\d s", line)[1] for line in lines]
    assert found == ["8", "16", "21"]


def test_lines_of_a_long_stream_become_rarer(monkeypatch, capsys, at_once):
    lines = progress.LinesOfStream("predicting")
    for n_done in range(1, 10_001):
        lines.advance(n_done)
    lines.close()
    counts = [int(n) for n in re.findall(r": (\d+) texts", capsys.readouterr().err)]
    assert counts[:3] == [1, 2, 3] and counts[-1] == 10_000 and len(counts) < 80


def test_lines_of_a_short_stream_are_none(clf, monkeypatch):
    assert shown_of(clf, monkeypatch, iter(TEXTS), io.StringIO()) == ""


def test_the_bar_of_a_stream_counts_its_texts(clf, monkeypatch, at_once):
    shown = shown_of(clf, monkeypatch, iter(TEXTS), Terminal())
    assert re.search(r"\rpredicting: 21 texts \[\d\d:\d\d, .*texts/s\]\s*\n$", shown)


def test_the_bar_of_a_parquet_file_knows_the_number(clf, monkeypatch, tmp_path, at_once):
    shown = shown_of(clf, monkeypatch, STREAMS["file"](SINGLE, tmp_path), Terminal())
    assert re.search(r"\rpredicting: 100%\|.*\| 21/21 \[", shown)


# Optional packages --------------------------------------------------------------------------------


def test_pyarrow_is_not_imported(tiny_bert, prepared, tmp_path):
    code = """
from skbert import BertSentimentClassifier
clf = BertSentimentClassifier(sys.argv[1], max_length=16, max_epochs=1).fit(["good", "bad"], [1, 0])
sys.modules["pyarrow"] = None  # an import of it is an error
print(clf.predict(iter(["good", "bad"])).shape)
"""
    assert prepared.run(code, tiny_bert, folder=tmp_path / "run").stdout == "(2,)\n"
