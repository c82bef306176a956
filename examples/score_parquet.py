"""
Score Parquet files
===================

This script adds class probabilities to the rows of Parquet files, for more rows than fit into
memory. It cuts the rows into pieces. Each worker process loads the model once, memory-mapped, and
writes each piece under a temporary name that it changes when the piece is complete. If the run
ends early, start it again with the same command: it skips the pieces that are finished.

Save a model with joblib, and score a file or a folder of files::

    pip install ".[offline]" pyarrow
    python examples/score_parquet.py sentiment.joblib reviews.parquet scored --workers 2

The folder `scored` then contains one Parquet file for each piece. Readers of Parquet read it as one
table, in the order of the input. Start only one run for a folder at a time.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

ROWS_OF_A_CALL = 16_384  # what a worker holds in memory, besides the model
KEY = b"score_parquet"  # in the metadata of each file of the output
JOB = "_job.json"  # readers of Parquet ignore names that begin with "_" or "."


class CannotScore(Exception):
    """An error whose message is for the user."""


# %%
# Pieces
# ------
# A piece is some consecutive rows of one file. Its number in the name of its file keeps the order.


@dataclass(frozen=True)
class Piece:
    """The rows from `start` to `stop` of a file, and the file that gets their probabilities."""

    file: str
    start: int
    stop: int
    output: str


def files_of(path: Path) -> list[Path]:
    """List the Parquet files of the input in the order of their names."""
    hidden = ("_", ".")
    files = [path]
    if path.is_dir():
        names = (file.relative_to(path) for file in path.rglob("*.parquet"))
        seen = (name for name in names if not any(part.startswith(hidden) for part in name.parts))
        files = [path / name for name in sorted(seen)]
    if not files or not files[0].is_file():
        raise CannotScore(f"{path} is no Parquet file, and no folder with *.parquet files in it.")
    return files


def pieces_of(files: list[Path], output: Path, n_rows: int) -> list[Piece]:
    """Cut the rows of all files into pieces of at most `n_rows`."""
    pieces = []
    for file in files:
        n = pq.read_metadata(file).num_rows
        for start in range(0, n, n_rows):
            name = str(output / f"part-{len(pieces):08d}.parquet")
            pieces.append(Piece(str(file), start, min(start + n_rows, n), name))
    return pieces


# %%
# The job
# -------
# Pieces of another model, another input or other options must not be mixed with those of this run.
# `_job.json` says what the output was made from, and each piece contains its hash.


def describe_job(options: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """Collect everything that the output depends on."""
    if not options.model.is_file():
        raise CannotScore(f"{options.model} is no file. Save the model with joblib.dump first.")
    with options.model.open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    names = [os.path.relpath(file, options.input) for file in files]
    facts = zip(names, (file.stat() for file in files), strict=True)
    return {
        "model": model,
        "input": [[name, fact.st_size, fact.st_mtime_ns] for name, fact in facts],
        "options": [options.text_column, options.keep, options.rows_per_piece],
    }


def open_job(output: Path, job: dict[str, Any]) -> str:
    """Start or resume a job; return its hash."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / JOB
    if not path.exists():
        if any(not path.name.startswith(".") for path in output.iterdir()):
            raise CannotScore(f"{output} contains other files. Choose another folder.")
        write_whole(path, lambda temporary: temporary.write_text(json.dumps(job), "utf-8"))
    known = json.loads(path.read_text("utf-8"))
    if differs := [name for name in job if job[name] != known.get(name)]:
        raise CannotScore(
            f"{output} contains the results of another {' and '.join(differs)}. Choose another "
            "folder, delete this one to start again, or use what it was made from."
        )
    return hashlib.sha256(json.dumps(job).encode()).hexdigest()


def write_whole(path: Path, write: Any) -> None:
    """Write a file under a temporary name, and rename it when it is complete and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_finished(piece: Piece, key: str) -> bool:
    """Whether an earlier run has written a piece."""
    if not Path(piece.output).exists():
        return False
    metadata = pq.read_metadata(piece.output)
    of_job = (metadata.metadata or {}).get(KEY) == key.encode()
    if not of_job or metadata.num_rows != piece.stop - piece.start:
        raise CannotScore(f"{piece.output} is not a piece of this job. Delete it, and run again.")
    return True


# %%
# Workers
# -------
# A worker maps the file of the model, so all workers share one copy of the weights. It reads,
# predicts and writes some thousand rows at a time.


@dataclass(frozen=True)
class Work:
    """What a worker needs for any piece."""

    model: str
    text_column: str
    keep: list[str] | None
    key: str
    n_threads: int


worker: dict[str, Any] = {}


def start_worker(work: Work) -> None:
    """Load the model, once in each worker process."""
    import joblib

    clf = joblib.load(work.model, mmap_mode="r")
    worker.update(work=work, clf=clf.set_params(n_threads=work.n_threads, verbose=0))


def batches_of(piece: Piece, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read the rows of a piece; of its file, only the row groups that contain them."""
    with pq.ParquetFile(piece.file, pre_buffer=False) as file:  # which would read all groups ahead
        ends, end = [], 0
        for i in range(file.num_row_groups):
            end += file.metadata.row_group(i).num_rows
            ends.append(end)
        groups = [i for i, end in enumerate(ends) if end > piece.start]
        groups = [i for i in groups if i == 0 or ends[i - 1] < piece.stop]
        row = ends[groups[0] - 1] if groups[0] else 0
        for batch in file.iter_batches(ROWS_OF_A_CALL, row_groups=groups, columns=columns):
            first, last = max(piece.start - row, 0), min(piece.stop - row, batch.num_rows)
            row += batch.num_rows
            if first < last:
                yield batch.slice(first, last - first)


def score_piece(piece: Piece) -> int:
    """Predict the rows of a piece, and write them; return their number."""
    work, clf = worker["work"], worker["clf"]
    schema = pq.read_schema(piece.file)
    keep = [*schema.names] if work.keep is None else work.keep
    names = [f"probability_{label}" for label in clf.classes_.tolist()]
    if missing := {work.text_column, *keep} - {*schema.names}:
        raise CannotScore(f"{piece.file} has no columns {sorted(missing)}, only {schema.names}.")
    if twice := {*names} & {*keep}:
        raise CannotScore(f"The input has columns {sorted(twice)} already; choose with --keep.")
    fields = [schema.field(name) for name in keep] + [(name, pa.float32()) for name in names]
    written = pa.schema(fields, metadata={KEY: work.key.encode()})
    columns = [*dict.fromkeys([work.text_column, *keep])]
    n_done = 0

    def write(path: Path) -> None:
        nonlocal n_done
        with pq.ParquetWriter(path, written) as writer:
            for batch in batches_of(piece, columns):
                try:
                    proba = clf.predict_proba(batch.column(work.text_column))
                except (TypeError, ValueError) as error:
                    first = piece.start + n_done
                    raise CannotScore(f"{piece.file}, X[0] is row {first}: {error}") from None
                arrays = [batch.column(name) for name in keep]
                arrays += [pa.array(column, pa.float32()) for column in proba.T]
                writer.write_batch(pa.record_batch(arrays, schema=written))
                n_done += batch.num_rows

    write_whole(Path(piece.output), write)
    return n_done


# %%
# The run
# -------


def run(options: argparse.Namespace) -> None:
    """Score all pieces that are not finished."""
    files = files_of(options.input)
    if options.output.resolve().is_relative_to(options.input.resolve()):
        raise CannotScore(f"{options.output} is in the input. Choose another folder.")
    key = open_job(options.output, describe_job(options, files))
    pieces = pieces_of(files, options.output, options.rows_per_piece)
    finished = {piece for piece in pieces if is_finished(piece, key)}
    n_threads = max(1, (os.cpu_count() or 1) // options.workers)
    work = Work(str(options.model), options.text_column, options.keep, key, n_threads)
    n_rows, n_done = (sum(p.stop - p.start for p in some) for some in (pieces, finished))
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(options.workers, context, start_worker, (work,)) as pool,
        tqdm(total=n_rows, initial=n_done, unit=" rows") as bar,
    ):
        futures = [pool.submit(score_piece, piece) for piece in pieces if piece not in finished]
        try:
            for future in as_completed(futures):
                bar.update(future.result())
        except BrokenProcessPool:
            raise CannotScore(
                "A worker process has ended. If it wrote no error above, it was killed, maybe "
                "because the memory was short. The finished pieces are kept: run the same command "
                "again, with fewer --workers if memory was short."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    for temporary in options.output.glob(".part-*"):  # of workers that were killed
        temporary.unlink()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("model", type=Path, help="file of joblib.dump; load only files you trust")
    parser.add_argument("input", type=Path, help="Parquet file, or folder of Parquet files")
    parser.add_argument("output", type=Path, help="folder for the results")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--keep", nargs="*", help="columns of the input to keep; default: all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows-per-piece", type=int, default=100_000)
    options = parser.parse_args()
    if min(options.workers, options.rows_per_piece) < 1:
        parser.error("--workers and --rows-per-piece must be at least 1")
    try:
        run(options)
    except CannotScore as error:
        sys.exit(f"score_parquet.py: {error}")


if __name__ == "__main__":
    main()
