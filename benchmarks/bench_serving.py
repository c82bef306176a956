"""How long does one text take, compared with the bare forward of the same transformers model?

The bare forward gets token ids, in `torch.inference_mode`. `predict_proba` also checks and
tokenises its text, looks for truncated and unknown tokens, and returns probabilities. Both predict
each sentence, one directly after the other, on one thread and on two. Then 10 predicts per
sentence, each in a new thread, must not make the process grow.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import _common as common
import numpy as np
import torch
from scipy.special import softmax

from skbert import BertSentimentClassifier

MODEL = "skbert/minilm-sentiment"
TOLERANCE = 1e-5
MOST_TIMES_BARE = 1.3
MOST_GROWTH_MIB = 20.0
N_WARM_UPS = 500  # new threads, which fill the pools of the allocators

Call = Callable[[], np.ndarray]


def bare_forward(clf: BertSentimentClassifier, text: str) -> Call:
    """Tokenise a text, and return its forward without padding: logits of shape (1, n_classes)."""
    encoded = clf.tokenizer_(text, truncation=True, max_length=128, return_tensors="pt")
    model, head, is_mean = clf.model_.eval(), clf.head_, clf.pooling_ == "mean"

    @torch.inference_mode()
    def run() -> np.ndarray:
        states = model(**encoded).last_hidden_state
        return head(states.mean(1) if is_mean else states[:, 0]).numpy()

    return run


def seconds_of(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(clf: BertSentimentClassifier, texts: list[str]) -> dict[str, Any]:
    """Time both for each text; every other text begins with the other one."""
    seconds: dict[str, list[float]] = {"bare forward": [], "predict_proba": []}
    largest = 0.0
    for i, text in enumerate(texts):
        calls = {
            "bare forward": bare_forward(clf, text),
            "predict_proba": lambda text=text: clf.predict_proba([text]),
        }
        found = {name: call() for name, call in calls.items()}  # a warm-up for this length
        expected = softmax(found["bare forward"].astype(np.float64), axis=1)
        largest = max(largest, float(np.abs(expected - found["predict_proba"]).max()))
        assert largest < TOLERANCE, f"the probabilities of {text!r} differ by {largest:.1e}"
        for name in [*calls] if i % 2 else [*calls][::-1]:
            seconds[name].append(seconds_of(calls[name]))
    ratios = np.divide(seconds["predict_proba"], seconds["bare forward"])
    return {
        "seconds": seconds,
        "largest_difference": largest,
        "times_bare": float(np.median(ratios)),
        "latency": {
            name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 99)}
            for name, values in seconds.items()
        },
    }


def growth_in_threads(clf: BertSentimentClassifier, texts: list[str], n_calls: int) -> float:
    """Predict in threads that live for one call; return how many MiB the process grows."""

    def predict(n: int) -> None:
        for i in range(n):
            thread = threading.Thread(target=clf.predict_proba, args=([texts[i % len(texts)]],))
            thread.start()
            thread.join()

    predict(min(N_WARM_UPS, n_calls))
    gc.collect()
    before = common.resident_bytes()
    predict(n_calls)
    gc.collect()
    return (common.resident_bytes() - before) / 2**20


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=1, n_texts=1000)
    texts = common.load_split(2, arguments.n_texts).test_texts
    clf = BertSentimentClassifier.from_pretrained(MODEL, device="cpu")
    clf.predict_proba(texts)  # reads all words, as a service has after a while
    n_before, results, bounds, rows = torch.get_num_threads(), {}, [], []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        name = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
        results[name] = found = compare(clf, texts * arguments.rounds)
        claim = f"one text, {name}, times the bare forward"
        bounds.append(common.Bound(claim, found["times_bare"], MOST_TIMES_BARE, at_least=False))
        rows += [
            [f"{contender}, {name}", *(f"{1000 * found_of[q]:.2f}" for q in ("p50", "p99"))]
            for contender, found_of in found["latency"].items()
        ]
    common.print_table(["one text", "p50 ms", "p99 ms"], rows)
    torch.set_num_threads(1)
    n_calls = 10 * arguments.n_texts
    growth = growth_in_threads(clf, texts, n_calls)
    torch.set_num_threads(n_before)
    results |= {"n_calls_in_new_threads": n_calls, "growth_mib": growth}
    claim = f"{n_calls:,} predicts in new threads, growth in MiB"
    bounds.append(common.Bound(claim, growth, MOST_GROWTH_MIB, at_least=False))
    return common.finish("serving", arguments, results, bounds)


if __name__ == "__main__":
    sys.exit(main())
