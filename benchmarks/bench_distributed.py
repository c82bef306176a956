"""How much faster are two ranks than one, each on a core of its own?

One rank and two ranks fit the same texts with the same batch size, so two ranks end with the same
weights. Each process is pinned to one core and computes on one thread. The efficiency is the time
of one rank divided by twice the time of two. One process with a thread on each of both cores is the
alternative on one machine. A simulation predicts the time of two ranks from what was measured on
one, and from a sum of gradients alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import torch
import torch.distributed as dist
from _scaling import Speeds, simulate_epoch

from skbert import BertSentimentClassifier
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.training.loop import Trainer

LEAST_EFFICIENCY = 0.85  # of the steps with the most tokens, which hide the sum of gradients best
LARGEST_ERROR = 0.15  # of the simulation
N_SUMS = 9
TWO_THREADS = "2 threads"
BUCKET_BYTES = 25 * 2**20  # the default of DistributedDataParallel


# In a rank ----------------------------------------------------------------------------------


class Rank:
    """Answers the requests of the parent process, one per line."""

    def __init__(self, settings: dict[str, Any]) -> None:
        os.sched_setaffinity(0, settings["cores"])
        torch.set_num_threads(len(settings["cores"]))
        self._n_ranks = settings["n_ranks"]
        if self._n_ranks > 1:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{settings['store']}",
                rank=settings["rank"],
                world_size=self._n_ranks,
            )
        self._update_seconds = 0.0
        plain = Trainer._update

        def timed(*arguments: Any) -> None:
            begin = time.perf_counter()
            plain(*arguments)
            self._update_seconds += time.perf_counter() - begin

        Trainer._update = timed  # type: ignore[method-assign]

    def fit(self, path: str, batch_size: int, max_length: int) -> dict[str, Any]:
        """Fit one epoch; seconds of the whole fit, of its epoch, and of its updates."""
        texts, labels = json.loads(Path(path).read_text(encoding="utf-8"))
        clf = BertSentimentClassifier(
            common.MODEL,
            pooling="cls",
            max_epochs=1,
            batch_size=batch_size,
            max_length=max_length,
            truncation="head",
            device="cpu",
            random_state=0,
        )
        load_pretrained(common.MODEL)
        common.forget_words()
        if self._n_ranks > 1:
            dist.barrier()
        self._update_seconds = 0.0
        begin = time.perf_counter()
        clf.fit(texts, labels)
        seconds = time.perf_counter() - begin
        record = clf.history_[0]
        weights = next(iter(clf.head_.parameters())).detach().double()
        return {
            "seconds": seconds,
            "epoch": record["seconds"],
            "updates": self._update_seconds,
            "n_tokens": record["n_tokens"],
            "checksum": float(weights.abs().sum()),
        }

    def sum_gradients(self, n_bytes: int) -> dict[str, Any]:
        """Collect gradients of this size in buckets, and compute their means; median seconds."""
        buckets = [torch.zeros(BUCKET_BYTES // 4) for _ in range(-(-n_bytes // BUCKET_BYTES))]
        gradients = [torch.ones_like(bucket) for bucket in buckets]
        seconds = []
        for _ in range(N_SUMS):
            dist.barrier()
            begin = time.perf_counter()
            for bucket, gradient in zip(buckets, gradients, strict=True):
                torch.div(gradient, self._n_ranks, out=bucket)
                dist.all_reduce(bucket)
            seconds.append(time.perf_counter() - begin)
        n_summed = len(buckets) * BUCKET_BYTES
        return {"seconds": float(np.median(seconds)) * n_bytes / n_summed}


def serve(settings: dict[str, Any]) -> None:
    """Answer requests until there are no more."""
    rank = Rank(settings)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(rank, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)
    sys.stdout.flush()
    os._exit(0)


# In the parent process ----------------------------------------------------------------------


class Ranks:
    """Processes that fit together; a context manager.

    Parameters
    ----------
    cores : list of list of int
        Of each process; it has one thread per core.
    folder : Path
    """

    def __init__(self, cores: list[list[int]], folder: Path) -> None:
        self._processes = []
        for rank, own in enumerate(cores):
            settings: dict[str, Any] = {"rank": rank, "n_ranks": len(cores), "cores": own}
            settings["store"] = str(folder / "store")
            n_threads = str(len(own))
            process = subprocess.Popen(
                [sys.executable, __file__, "--rank", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": n_threads, "MKL_NUM_THREADS": n_threads},
            )
            self._processes.append(process)
        for process in self._processes:
            self._answer(process)

    def ask(self, **request: Any) -> list[dict[str, Any]]:
        """Send a request to all ranks, and return their answers."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in self._processes]

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"A rank has ended with the exit status {process.wait()}.")
        return json.loads(line)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: Any) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def slowest(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the numbers of the rank that took the longest; all must have the same weights."""
    assert len({answer["checksum"] for answer in answers}) == 1, "the ranks differ"
    return max(answers, key=lambda answer: answer["seconds"])


def cases(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Sentences in small and large batches, and documents of up to 256 tokens, as requests."""
    split = common.load_split(arguments.n_texts, 2)
    sentences = _save(folder / "sentences.json", split.train_texts, split.train_labels)
    documents = common.load_split(max(arguments.n_texts * 3 // 16, 2), 2, source="imdb")
    long = _save(folder / "documents.json", documents.train_texts, documents.train_labels)
    size = arguments.batch_size
    return {
        f"sentences, {size} in a step": _request(sentences, size, 128),
        f"sentences, {4 * size} in a step": _request(sentences, 4 * size, 128),
        f"documents, {size} in a step": _request(long, size, 256),
    }


def _save(path: Path, texts: list[str], labels: list[int]) -> str:
    path.write_text(json.dumps([texts, labels]), encoding="utf-8")
    return str(path)


def _request(path: str, batch_size: int, max_length: int) -> dict[str, Any]:
    return {"path": path, "batch_size": batch_size, "max_length": max_length}


def measure(
    requests: dict[str, dict[str, Any]], rounds: int, contenders: dict[str, Ranks]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Fit each case on one rank, on two, and in one process with two threads, in turns."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, request in requests.items():
        found[name] = {contender: [] for contender in contenders}
        for i in range(rounds):
            for contender, ranks in [*contenders.items()][:: 1 if i % 2 == 0 else -1]:
                found[name][contender].append(slowest(ranks.ask(do="fit", **request)))
            print(f"{name}: round {i + 1} of {rounds} done", file=sys.stderr, flush=True)
    return found


def lengths_of(request: dict[str, Any]) -> np.ndarray:
    texts, _ = json.loads(Path(request["path"]).read_text(encoding="utf-8"))
    subword_tokenizer = load_pretrained(common.MODEL).subword_tokenizer
    return subword_tokenizer(texts, max_length=request["max_length"], truncation="head").lengths


def n_gradient_bytes(request: dict[str, Any]) -> int:
    """Size of the gradients of a fit, which trains only the words that occur."""
    texts, _ = json.loads(Path(request["path"]).read_text(encoding="utf-8"))
    pretrained = load_pretrained(common.MODEL)
    ids = pretrained.subword_tokenizer(
        texts, max_length=request["max_length"], truncation="head"
    ).ids
    encoder = pretrained.new_encoder()
    words = encoder.embeddings.word_embeddings.weight
    n_weights = sum(weight.numel() for weight in encoder.parameters()) - words.numel()
    return 4 * (n_weights + len(np.unique(ids)) * words.shape[1])


def compare(
    name: str,
    request: dict[str, Any],
    found: dict[str, list[dict[str, Any]]],
    sum_seconds: float,
    n_bytes: int,
) -> dict[str, Any]:
    """Efficiency of two ranks, and what the simulation says of them."""

    def column(n_ranks: str, key: str) -> np.ndarray:
        return np.array([answer[key] for answer in found[n_ranks]])

    lengths, batch_size = lengths_of(request), request["batch_size"]
    n_steps = -(-len(lengths) // batch_size)
    alone, updates = (float(np.median(column("1", key))) for key in ("epoch", "updates"))
    speeds = Speeds(
        tokens_per_second=int(lengths.sum()) / (alone - updates),
        update_seconds=updates / n_steps,
        gradient_bytes=n_bytes,
        bytes_per_second=n_bytes / sum_seconds,  # of 2 ranks, a ring sends all bytes once
    )
    simulated = simulate_epoch(lengths, batch_size, 2, speeds)
    measured = float(np.median(column("2", "epoch")))
    efficiency = column("1", "seconds") / column("2", "seconds") / 2
    of_epochs = column("1", "epoch") / column("2", "epoch") / 2
    return {
        "name": name,
        "n_texts": len(lengths),
        "n_tokens": int(lengths.sum()),
        "batch_size": batch_size,
        "efficiency": float(np.median(efficiency)),
        "epoch_efficiency": float(np.median(of_epochs)),
        "seconds": {n: column(n, "seconds").tolist() for n in found},
        "epoch_seconds": {n: column(n, "epoch").tolist() for n in found},
        "sum_seconds": sum_seconds,
        "speeds": asdict(speeds),
        "simulated_epoch_of_2": float(simulated),
        "simulation_error": float(simulated / measured - 1),
    }


def print_cases(results: list[dict[str, Any]]) -> None:
    rows = []
    for case in results:
        step = 1e3 * case["speeds"]["update_seconds"]
        row = [case["name"], *(f"{np.median(s):.2f}" for s in case["seconds"].values())]
        row.append(f"{case['efficiency']:.3f}")
        row += [f"{case['epoch_efficiency']:.3f}", f"{1e3 * case['sum_seconds']:.0f}"]
        row += [f"{step:.0f}", f"{case['simulation_error']:+.1%}"]
        rows.append(row)
    header = ["fit", "1 rank, s", "2 ranks, s", "2 threads, s", "efficiency", "of the epoch"]
    header.append("sum, ms")
    common.print_table([*header, "update, ms", "simulation"], rows)


def main() -> int:
    if sys.argv[1:2] == ["--rank"]:
        serve(json.loads(sys.argv[2]))
    arguments = common.parse_arguments(__doc__, rounds=3, n_texts=512)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("This benchmark needs two cores.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        requests = cases(arguments, Path(folder))
        first, second = cores
        contenders = {"1": [[first]], "2": [[first], [second]], TWO_THREADS: [[first, second]]}
        started = {
            name: stack.enter_context(Ranks(of_ranks, Path(folder)))
            for name, of_ranks in contenders.items()
        }
        found = measure(requests, arguments.rounds, started)
        results = []
        for name, request in requests.items():
            n_bytes = n_gradient_bytes(request)
            [sums, _] = started["2"].ask(do="sum_gradients", n_bytes=n_bytes)
            results.append(compare(name, request, found[name], sums["seconds"], n_bytes))
    print_cases(results)
    bounds = []
    claim = f"{results[-1]['name']}: efficiency of 2 ranks"
    bounds.append(common.Bound(claim, results[-1]["efficiency"], LEAST_EFFICIENCY))
    for case in results:
        claim = f"{case['name']}: error of the simulation"
        error = abs(case["simulation_error"])
        bounds.append(common.Bound(claim, error, LARGEST_ERROR, at_least=False))
    return common.finish("distributed", arguments, {"cases": results}, bounds)


if __name__ == "__main__":
    sys.exit(main())
