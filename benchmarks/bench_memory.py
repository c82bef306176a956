"""How much peak memory does fine-tuning need, compared with transformers' Trainer?

Each measurement runs in its own process. The process imports everything, records its resident
memory, loads the weights, trains for a few steps, and reports the peak above the recorded memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from skbert import BertSentimentClassifier

CONTENDERS = ("skbert", "Trainer")

Measure = Callable[[str, str, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A model, its training texts, and the claimed peak.

    Attributes
    ----------
    name : str
    folder : str
        Folder of the model.
    texts_path : str
        A JSON file with a list of texts and a list of labels.
    at_most : float
        Claimed peak of skbert, as a multiple of Trainer's.
    """

    name: str
    folder: str
    texts_path: str
    at_most: float


# In the measured process --------------------------------------------------------------------


def fit_skbert(folder: str, texts: list[str], labels: list[int], batch_size: int) -> None:
    BertSentimentClassifier(
        folder,
        pooling="cls",
        max_epochs=1,
        batch_size=batch_size,
        max_length=common.MAX_LENGTH,
        truncation="head",
        device="cpu",
        random_state=0,
    ).fit(texts, labels)


def fit_trainer(folder: str, texts: list[str], labels: list[int], batch_size: int) -> None:
    common.fit_with_trainer(
        common.load_sequence_classifier(folder),
        AutoTokenizer.from_pretrained(folder),
        texts,
        labels,
        batch_size=batch_size,
    )


def measure_here(contender: str, folder: str, texts_path: str, batch_size: int) -> dict[str, Any]:
    """Fine-tune in this process and report its memory, in bytes, and time, in seconds."""
    fit = {"skbert": fit_skbert, "Trainer": fit_trainer}[contender]
    if contender == "Trainer":
        from transformers import Trainer  # noqa: F401  (transformers imports when first used)
    texts, labels = json.loads(Path(texts_path).read_text(encoding="utf-8"))
    imports = common.resident_bytes()
    common.forget_peak()
    begin = time.perf_counter()
    fit(folder, texts, labels, batch_size)
    seconds = time.perf_counter() - begin
    peak = common.peak_bytes()
    return {"imports": imports, "peak": peak, "above": peak - imports, "seconds": seconds}


# In the parent process ----------------------------------------------------------------------


def measure_in_process(
    contender: str, folder: str, texts_path: str, batch_size: int
) -> dict[str, Any]:
    """Start a process for one measurement and read its answer, the last line it prints."""
    options = [contender, folder, texts_path, str(batch_size)]
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *options], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"measuring {contender} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def save_bert(folder: Path, **sizes: int) -> str:
    """Save a BERT with random weights: BERT-base, with the changes in `sizes`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(common.model_folder()).save_pretrained(folder)
    return str(folder)


def save_texts(path: Path, texts: list[str], labels: list[int]) -> str:
    path.write_text(json.dumps([texts, labels]), encoding="utf-8")
    return str(path)


def all_cases(folder: Path, arguments: argparse.Namespace) -> list[Case]:
    n_texts = arguments.n_texts
    sentences = common.load_split(n_texts, 2)
    n_documents = 2 if arguments.smoke else 3 * arguments.batch_size
    small = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {**small, "intermediate_size": 512} if arguments.smoke else {}
    base = save_bert(folder / "base", **sizes)
    sentences_path = save_texts(
        folder / "sentences.json", sentences.train_texts, sentences.train_labels
    )
    documents_path = save_texts(folder / "documents.json", *common.long_texts(n_documents))
    minilm = Case("all-MiniLM-L6-v2, sentences", common.model_folder(), sentences_path, at_most=0.8)
    bert = Case("BERT-base (12 x 768), 128 tokens a text", base, documents_path, at_most=1.0)
    return [minilm, bert]


def run_case(
    case: Case, arguments: argparse.Namespace, measure_skbert: Measure, measure_trainer: Measure
) -> dict[str, list[dict[str, Any]]]:
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    measures = {"skbert": measure_skbert, "Trainer": measure_trainer}
    for i in range(arguments.rounds):
        for name in CONTENDERS[:: 1 if i % 2 == 0 else -1]:
            answer = measures[name](name, case.folder, case.texts_path, arguments.batch_size)
            measured[name].append(answer)
    return measured


def ratio(measured: dict[str, list[dict[str, Any]]]) -> float:
    """Peak of skbert divided by the peak of Trainer: the median over the rounds."""
    ours, theirs = ([round_["above"] for round_ in measured[name]] for name in CONTENDERS)
    return float(np.median(np.divide(ours, theirs)))


def print_case(case: Case, measured: dict[str, list[dict[str, Any]]]) -> None:
    def column(name: str, key: str) -> np.ndarray:
        return np.array([round_[key] for round_ in measured[name]])

    rows = []
    for name in CONTENDERS:
        above, imports = column(name, "above") / 2**20, column(name, "imports") / 2**20
        spread = f"{above.min():.0f} - {above.max():.0f}"
        seconds = f"{np.median(column(name, 'seconds')):.1f}"
        rows.append([name, f"{np.median(above):.0f}", spread, f"{np.median(imports):.0f}", seconds])
    print(f"{case.name}; skbert takes {ratio(measured):.2f} of Trainer's peak\n")
    header = ["contender", "peak MiB", "min - max MiB", "imports MiB", "seconds with loading"]
    common.print_table(header, rows)
    print()


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        contender, folder, texts_path, batch_size = sys.argv[2:]
        print(json.dumps(measure_here(contender, folder, texts_path, int(batch_size))))
        return 0
    arguments = common.parse_arguments(__doc__, rounds=3, n_texts=256)
    results, bounds = {}, []
    with tempfile.TemporaryDirectory() as name:
        for case in all_cases(Path(name), arguments):
            # A smoke run starts one process: each takes seconds to import.
            measure_rest = measure_here if arguments.smoke else measure_in_process
            measure_first = measure_rest if results else measure_in_process
            measured = run_case(case, arguments, measure_first, measure_rest)
            print_case(case, measured)
            results[case.name] = {"measured": measured, "ratio": ratio(measured)}
            claim = f"peak memory of fit over Trainer's, {case.name}"
            bounds.append(common.Bound(claim, ratio(measured), case.at_most, at_least=False))
    return common.finish("memory", arguments, results, bounds)


if __name__ == "__main__":
    sys.exit(main())
