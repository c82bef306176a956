"""Prints the tables of docs/scaling.md from the results of the benchmarks.

Times of one machine are measured. Those of several GPUs and machines are simulated, from measured
times and from the bandwidths below, which are assumptions.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
from _gpu_inputs import LENGTHS, MAX_LENGTH
from _scaling import Speeds, simulate_epoch

from skbert.engine.training.micro_batches import (
    _MICRO_BATCH_TOKENS_OF_ACCELERATORS as TOKENS_OF_A_PART,
)

CPU, GPU = "amd-epyc", "nvidia-h200"
N_TEXTS_PER_STEP = 32
N_GPUS = 8
N_WEIGHTS_OF_BERT = 110e6

#: Half of what data sheets say: 450 GB/s in each direction by NVLink, and 100 Gbit/s by Ethernet.
BYTES_PER_SECOND = {"in one machine": 225e9, "2 x 4, 100 Gbit/s": 6.25e9}
LATENCY = 2e-5

#: Share of the sum of the gradients that runs beside the backward pass.
HIDDEN_SHARE = 0.8


def results_of(machine: str, name: str) -> dict[str, Any]:
    path = common.RESULTS / machine / f"{name}.json"
    return json.loads(path.read_text())["results"]


def lengths_of(kind: str, n_texts: int) -> np.ndarray:
    """Draw lengths in tokens as those of Rotten Tomatoes or IMDB."""
    quantiles = np.array(LENGTHS[kind].split(), dtype=float)
    places = np.random.default_rng(0).uniform(0, len(quantiles) - 1, n_texts)
    lengths = np.interp(places, np.arange(len(quantiles)), quantiles).round().astype(np.int64)
    return np.minimum(lengths, MAX_LENGTH[kind])


def rate(results: dict[str, Any], case: str | None = None) -> float:
    """Texts per second of skbert."""
    contenders = (results[case] if case else results)["contenders"]
    return contenders["skbert"]["n_texts"] / contenders["skbert"]["median_seconds"]


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def rates_table(machines: dict[str, float], numbers: dict[str, float]) -> str:
    """Say how long some numbers of sentences take, from the sentences per second."""
    rows = [
        [name, f"{per_second:,.0f}", *(duration(n / per_second) for n in numbers.values())]
        for name, per_second in machines.items()
    ]
    return common.markdown_table(["machine", "sentences/s", *numbers], rows)


def predictions() -> str:
    """How long predicting sentences takes."""
    gpu = results_of(GPU, "gpu")
    cpu = rate(results_of(CPU, "predict"))
    minilm, bert = (rate(gpu, f"predict, {shape}, sentences") for shape in ("minilm", "bert"))
    machines = {
        "MiniLM, two cores": cpu,
        "MiniLM, 50 workers of two cores, simulated": 50 * cpu,
        "MiniLM, one H200": minilm,
        "BERT-base, one H200": bert,
        f"BERT-base, {N_GPUS} H200 with 16 cores each, simulated": N_GPUS * bert,
    }
    return rates_table(machines, {"a million": 1e6, "a billion": 1e9})


def epochs() -> str:
    """How long an epoch of fine-tuning takes on one machine."""
    gpu = results_of(GPU, "gpu")
    cpu = results_of(CPU, "distributed")["cases"][0]
    of_cpu = {n: cpu["n_texts"] / np.median(cpu["epoch_seconds"][n]) for n in cpu["epoch_seconds"]}
    machines = {
        "MiniLM, one core": of_cpu["1"],
        "MiniLM, two cores, one process": of_cpu["2 threads"],
        "MiniLM, two cores, two ranks": of_cpu["2"],
        "MiniLM, one H200": rate(gpu, "fit, minilm, sentences"),
        "BERT-base, one H200": rate(gpu, "fit, bert, sentences"),
    }
    return rates_table(machines, {"10,000 sentences": 1e4, "a million": 1e6})


def speeds_of_bert() -> Speeds:
    """Find out from the measured fits of BERT-base what one GPU and its host do."""
    gpu = results_of(GPU, "gpu")

    def seconds(kind: str, contender: str) -> float:
        return gpu[f"fit, bert, {kind}"]["contenders"][contender]["median_seconds"]

    def per_step(contender: str) -> float:
        n_texts = gpu["fit, bert, sentences"]["contenders"][contender]["n_texts"]
        return seconds("sentences", contender) * N_TEXTS_PER_STEP / n_texts

    # Documents keep the device busy; sentences show what the host needs.
    n_documents = gpu["fit, bert, documents"]["contenders"]["skbert"]["n_texts"]
    n_tokens = lengths_of("documents", n_documents).sum()
    return Speeds(
        tokens_per_second=n_tokens / seconds("documents", "skbert"),
        update_seconds=0.0,  # contained in the tokens per second
        gradient_bytes=4 * N_WEIGHTS_OF_BERT,
        bytes_per_second=1.0,
        latency=LATENCY,
        hidden_share=HIDDEN_SHARE,
        host_seconds=per_step("skbert, without graphs"),
        graph_seconds=per_step("skbert"),
        part_tokens=TOKENS_OF_A_PART,
    )


def gpus() -> str:
    """Simulate the speed-up of eight GPUs over one, by the number of texts in a step."""
    rows = []
    for kind in ("sentences", "documents"):
        for batch_size in (32, 256, 2048):
            lengths = lengths_of(kind, 8 * batch_size)
            row = [f"{kind}, {batch_size:,}"]
            for bandwidth in BYTES_PER_SECOND.values():
                speeds = replace(speeds_of_bert(), bytes_per_second=bandwidth)
                one, several = (
                    simulate_epoch(lengths, batch_size, n_ranks, speeds) for n_ranks in (1, N_GPUS)
                )
                row.append(f"{one / several:.1f} x")
            rows.append(row)
    return common.markdown_table(["BERT-base, texts in a step", *BYTES_PER_SECOND], rows)


def two_processes() -> str:
    """Compare the simulation with what was measured on two cores."""
    rows = []
    for case in results_of(CPU, "distributed")["cases"]:
        one, two = (float(np.median(case["epoch_seconds"][n])) for n in ("1", "2"))
        simulated = case["simulated_epoch_of_2"]
        rows.append(
            [
                f"{case['n_texts']} {case['name']}",
                f"{one:.2f} s",
                f"{two:.2f} s",
                f"{simulated:.2f} s",
            ]
        )
        rows[-1] += [f"{case['simulation_error']:+.1%}", f"{case['epoch_efficiency']:.2f}"]
        rows[-1].append(f"{case['efficiency']:.2f}")
    header = ["MiniLM, one epoch", "one rank", "two ranks", "simulated", "error"]
    header += ["efficiency, epoch", "efficiency, whole fit"]
    return common.markdown_table(header, rows)


def main() -> int:
    if not (Path(common.RESULTS) / CPU / "distributed.json").exists():
        print("Run benchmarks/bench_distributed.py first.", file=sys.stderr)
        return 1
    for table in (predictions, epochs, two_processes, gpus):
        assert table.__doc__ is not None
        print(f"{table.__doc__}\n\n{table()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
