"""The example that scores Parquet files: killed, restarted, and refused."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future

import joblib
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from skbert import BertSentimentClassifier
from tests.offline import ROOT

EXAMPLE = ROOT / "examples" / "score_parquet.py"
N_ROWS = 200_000
N_PIECES = 40


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    return clf.fit(*toy_reviews)


@pytest.fixture(scope="module")
def model(clf, tmp_path_factory):
    path = tmp_path_factory.mktemp("scored") / "clf.joblib"
    joblib.dump(clf, path)
    return path


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("score_parquet", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    _, written = process.communicate(timeout=600)
    return process.returncode, written


def workers_of(process):
    children = psutil.Process(process.pid).children()
    return [c for c in children if "--multiprocessing-fork" in c.cmdline()]


def finished_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}


def wait_for(process, folder, n_pieces):
    while len(finished_in(folder)) < n_pieces:
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the run ended with {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_worker_loses_and_doubles_nothing(clf, model, tmp_path):
    texts = [f"a {word} film {i}" for word in ("good", "dull", "great") for i in range(400)]
    chosen = np.random.default_rng(0).integers(0, len(texts), N_ROWS)
    rows = pa.table({"id": np.arange(N_ROWS), "text": pa.array(texts).take(pa.array(chosen))})
    reviews, scored = tmp_path / "reviews", tmp_path / "scored"
    reviews.mkdir()
    for i, n in enumerate((0, 130_000)):  # two files, whose row groups are no pieces
        part = rows.slice(n, [130_000, 70_000][i])
        pq.write_table(part, reviews / f"{i}.parquet", row_group_size=33_000)
    arguments = (model, reviews, scored, "--workers", 2, "--rows-per-piece", N_ROWS // N_PIECES)

    process = start(*arguments)
    wait_for(process, scored, N_PIECES // 2 - 5)
    workers_of(process)[0].send_signal(signal.SIGKILL)
    status, written = finish(process)
    before = finished_in(scored)
    assert status == 1 and "A worker process has ended." in written
    assert N_PIECES // 2 - 5 <= len(before) < N_PIECES
    sizes = [pq.read_metadata(scored / name).num_rows for name in before]
    assert sizes == [N_ROWS // N_PIECES] * len(before)  # each of them is complete

    status, written = finish(start(*arguments, "--workers", 1))
    assert status == 0, written
    after = finished_in(scored)
    assert len(after) == N_PIECES and before.items() <= after.items()  # written once
    assert {path.name for path in scored.iterdir()} == {*after, "_job.json"}
    found = pa.dataset.dataset(scored).to_table()
    assert found.column_names == ["id", "text", "probability_bad", "probability_good"]
    assert found["id"].to_pylist() == [*range(N_ROWS)]
    assert found["text"].combine_chunks().equals(rows["text"].combine_chunks())
    proba = np.stack([found["probability_bad"], found["probability_good"]], axis=1)
    sample = np.random.default_rng(1).choice(N_ROWS, 2_000, replace=False)
    expected = clf.predict_proba(rows["text"].take(pa.array(sample)))
    np.testing.assert_allclose(proba[sample], expected, atol=1e-6)


# Small inputs -------------------------------------------------------------------------------------


SMALL = pa.table({"id": [7, 8, 9], "text": ["a good film", "dull", ""], "stars": [5, 1, 3]})


@pytest.fixture
def reviews(tmp_path):
    pq.write_table(SMALL, tmp_path / "reviews.parquet", row_group_size=2)
    return tmp_path / "reviews.parquet"


class InThisProcess:
    """A pool that works in this process."""

    def __init__(self, n_workers, context, initializer, arguments):
        initializer(*arguments)

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, cancel_futures):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def score(example, monkeypatch, capsys):
    """Run the script in this process; return its message, or "" if it succeeds."""
    monkeypatch.setattr(example, "ProcessPoolExecutor", InThisProcess)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["score_parquet.py", *map(str, arguments)])
        try:
            example.main()
        except SystemExit as error:
            return error.code
        return ""

    return run


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5])
def test_columns_are_kept_in_the_order_of_the_input(clf, model, reviews, tmp_path, score, n_rows):
    output = tmp_path / "scored"
    arguments = (model, reviews, output, "--rows-per-piece", n_rows)
    assert score(*arguments, "--keep", "stars", "id") == ""
    found = pa.dataset.dataset(output).to_table()
    assert found.column_names == ["stars", "id", "probability_bad", "probability_good"]
    assert found["id"].to_pylist() == [7, 8, 9] and found["stars"].to_pylist() == [5, 1, 3]
    np.testing.assert_allclose(
        found["probability_good"], clf.predict_proba(SMALL["text"])[:, 1], atol=1e-6
    )
    assert len(finished_in(output)) == -(-3 // n_rows)


def test_a_finished_job_computes_nothing(model, reviews, tmp_path, score, example, monkeypatch):
    assert score(model, reviews, tmp_path / "scored") == ""
    before = finished_in(tmp_path / "scored")
    monkeypatch.setattr(example, "score_piece", None)
    assert score(model, reviews, tmp_path / "scored") == ""
    assert finished_in(tmp_path / "scored") == before


def test_another_job_is_refused(clf, model, reviews, tmp_path, score):
    output = tmp_path / "scored"
    assert score(model, reviews, output) == ""

    def message(what):
        return (
            f"score_parquet.py: {output} contains the results of another {what}. Choose another "
            "folder, delete this one to start again, or use what it was made from."
        )

    before = finished_in(output)
    assert score(model, reviews, output, "--keep", "id") == message("options")
    other = tmp_path / "other.joblib"
    joblib.dump(clf.predict(["good"]), other)
    assert score(other, reviews, output) == message("model")
    pq.write_table(SMALL[:2], reviews)
    assert score(model, reviews, output) == message("input")
    assert score(other, reviews, output) == message("model and input")
    assert finished_in(output) == before


def test_a_piece_of_another_job_is_refused(model, reviews, tmp_path, score):
    assert score(model, reviews, tmp_path / "one", "--keep", "id") == ""
    assert score(model, reviews, tmp_path / "two", "--keep", "id", "text") == ""
    piece = tmp_path / "two" / "part-00000000.parquet"
    os.replace(tmp_path / "one" / piece.name, piece)
    assert score(model, reviews, tmp_path / "two", "--keep", "id", "text") == (
        f"score_parquet.py: {piece} is not a piece of this job. Delete it, and run again."
    )


def test_folders_and_files_that_do_not_fit(model, reviews, tmp_path, score):
    output = tmp_path / "scored"
    assert score(model, tmp_path / "nothing", output) == (
        f"score_parquet.py: {tmp_path / 'nothing'} is no Parquet file, and no folder with "
        "*.parquet files in it."
    )
    assert score(tmp_path, reviews, output) == (
        f"score_parquet.py: {tmp_path} is no file. Save the model with joblib.dump first."
    )
    assert score(model, tmp_path, output) == (
        f"score_parquet.py: {output} is in the input. Choose another folder."
    )
    assert not output.exists()
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert score(model, reviews, output) == (
        f"score_parquet.py: {output} contains other files. Choose another folder."
    )


def test_texts_and_columns_that_do_not_fit(model, reviews, tmp_path, score):
    assert score(model, reviews, tmp_path / "1", "--text-column", "review") == (
        f"score_parquet.py: {reviews} has no columns ['review'], only ['id', 'text', 'stars']."
    )
    pq.write_table(pa.table({"text": ["good", "dull", None]}), reviews)
    assert score(model, reviews, tmp_path / "2", "--rows-per-piece", 2) == (
        f"score_parquet.py: {reviews}, X[0] is row 2: X[0] is None (NoneType); every text must be "
        'a str. Replace missing texts, for example with "".'
    )
    assert [*finished_in(tmp_path / "2")] == ["part-00000000.parquet"]
    pq.write_table(pa.table({"text": ["good"], "probability_bad": [1]}), reviews)
    assert score(model, reviews, tmp_path / "3") == (
        "score_parquet.py: The input has columns ['probability_bad'] already; choose with --keep."
    )


def test_a_piece_that_fails_leaves_no_temporary_file(model, reviews, tmp_path, score, example):
    pq.write_table(pa.table({"text": [None]}), reviews)
    assert score(model, reviews, tmp_path / "scored") != ""
    assert [path.name for path in (tmp_path / "scored").iterdir()] == ["_job.json"]
    assert json.loads((tmp_path / "scored" / "_job.json").read_text())["input"][0][1] > 0
