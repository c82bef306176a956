"""How much memory and time does it take to predict a million short texts?

The model is a BERT of 2 layers and 64 dimensions with the vocabulary of the default model, because
the benchmark measures the memory per text, not the speed of an encoder. The other contender is
TfidfVectorizer + LogisticRegression, which makes one sparse matrix of all texts. Both must predict
the right class of nearly all texts. Each measurement runs in its own process and starts when the
texts and the fitted model are in memory.

skbert caches up to 200,000 words, so the first texts need more memory than later ones. The
benchmark then predicts the same number of other texts, which must add little memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
from bench_memory import save_bert
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skbert import BertSentimentClassifier

CONTENDERS = ("skbert", "TF-IDF + LogisticRegression")
WORDS = {
    0: "dull boring awful bad weak tired".split(),
    1: "great lovely good fine bright funny".split(),
}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}


def short_texts(n_texts: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Sentences of 9 to 12 tokens, nearly all distinct; one word determines the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n_texts)
    words = rng.integers(0, 6, n_texts)
    numbers = rng.integers(0, 10**7, n_texts)
    texts = [
        f"a {WORDS[label][word]} film, number {number}"
        for label, word, number in zip(labels.tolist(), words, numbers, strict=True)
    ]
    return texts, labels


def fitted(contender: str, folder: str) -> Any:
    texts, labels = short_texts(512, seed=0)
    if contender == "skbert":
        model: Any = BertSentimentClassifier(
            folder,
            max_length=32,
            max_epochs=5,
            batch_size=32,
            learning_rate=2e-3,
            device="cpu",
            random_state=0,
        )
    else:
        model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return model.fit(texts, labels)


def measure_here(contender: str, folder: str, n_texts: int) -> dict[str, Any]:
    """Predict in this process; memory in bytes, time in seconds."""
    model = fitted(contender, folder)
    texts, labels = short_texts(n_texts, seed=1)
    other_texts, _ = short_texts(n_texts, seed=2)
    model.predict(texts[:1000])  # warm-up
    before = common.resident_bytes()
    common.forget_peak()
    begin = time.perf_counter()
    found = model.predict(texts)
    seconds = time.perf_counter() - begin
    peak = common.peak_bytes() - before
    model.predict(other_texts)
    return {
        "peak": peak,
        "peak_of_as_many_again": common.peak_bytes() - before,
        "seconds": seconds,
        "accuracy": float(np.mean(found == labels)),
    }


def measure_in_process(contender: str, folder: str, n_texts: int) -> dict[str, Any]:
    """Start a process for one measurement and read its answer, the last line it prints."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", contender, folder, str(n_texts)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"measuring {contender} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_measured(measured: dict[str, dict[int, dict[str, Any]]]) -> None:
    rows = [
        [
            contender,
            f"{n_texts:,}",
            f"{answer['peak'] / 2**20:.0f}",
            f"{answer['peak_of_as_many_again'] / 2**20:.0f}",
            f"{answer['seconds']:.1f}",
            f"{n_texts / answer['seconds']:,.0f}",
            f"{answer['accuracy']:.3f}",
        ]
        for contender, answers in measured.items()
        for n_texts, answer in answers.items()
    ]
    header = [
        "contender",
        "texts",
        "peak MiB",
        "peak with as many again",
        "seconds",
        "texts/s",
        "accuracy",
    ]
    common.print_table(header, rows)


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        contender, folder, n_texts = sys.argv[2:]
        print(json.dumps(measure_here(contender, folder, int(n_texts))))
        return 0
    arguments = common.parse_arguments(__doc__, rounds=1, n_texts=1_000_000, smoke_texts=20_000)
    sizes = (arguments.n_texts // 10, arguments.n_texts)
    measured: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as name:
        folder = save_bert(Path(name) / "small", vocab_size=30522, **SIZES)
        for contender in CONTENDERS:
            for n_texts in sizes:
                # A smoke run starts no process: each takes seconds to import.
                measure = measure_here if arguments.smoke else measure_in_process
                measured[contender][n_texts] = measure(contender, folder, n_texts)
    print_measured(measured)
    for answers in measured.values():
        assert all(answer["accuracy"] > 0.99 for answer in answers.values()), measured
    answer = measured["skbert"][arguments.n_texts]
    peaks = {"peak of predict, MiB": "peak", "with as many again, MiB": "peak_of_as_many_again"}
    bounds = [
        common.Bound(claim, answer[key] / 2**20, limit, at_least=False)
        for (claim, key), limit in zip(peaks.items(), (200, 250), strict=True)
    ]
    return common.finish("many_texts", arguments, measured, bounds)


if __name__ == "__main__":
    sys.exit(main())
