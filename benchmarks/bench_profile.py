"""Where does the time of skbert's own fit and predict go?

torch's profiler adds up the time inside each operation, in the thread that calls it; what is left
of the wall-clock time is Python, numpy and the calls themselves. Noting every operation takes
time too, most of it where there are many small ones, as in attention. What attention copies and
scales counts among the copies and sums.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import _common as common
import numpy as np
from torch.profiler import ProfilerActivity, profile

from skbert import BertSentimentClassifier

REST = "Python, numpy, other operations"
KINDS = {
    "matrix products": {"mm", "addmm", "addmm_", "addmv"},
    "attention": {
        *("bmm", "baddbmm", "_softmax", "_softmax_backward_data", "cat"),
        "_scaled_dot_product_flash_attention_for_cpu",
    },
    "copies": {"copy_", "fill_", "index_select"},
    "GELU": {"gelu", "gelu_", "gelu_backward"},
    "LayerNorm": {"native_layer_norm", "native_layer_norm_backward"},
    "sums and dropout": {"add", "add_", "mul", "mul_", "sum"},
    "AdamW and the norm of the gradients": {"_fused_adamw_", "dot"},
}
KIND_OF = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}


def shares_of(run: Callable[[], Any]) -> dict[str, float]:
    """Share of the wall-clock time of `run` that each kind of operation takes."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        run()
        seconds = time.perf_counter() - begin
    shares = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages():
        if event.key in KIND_OF:
            shares[KIND_OF[event.key]] += event.self_cpu_time_total / 1e6 / seconds
    return shares | {REST: 1 - sum(shares.values())}


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=3, n_texts=512)
    data = common.load_split(arguments.n_texts, 2 * arguments.n_texts)
    clf = BertSentimentClassifier(
        common.MODEL,
        batch_size=arguments.batch_size,
        max_epochs=1,
        device="cpu",
        random_state=0,
    )
    runs: dict[str, Callable[[], Any]] = {
        "fit": lambda: clf.fit(data.train_texts, data.train_labels),
        "predict": lambda: clf.predict_proba(data.test_texts),
    }
    results: dict[str, Any] = {}
    for name, run in runs.items():
        run()  # words, memory and libraries are warm
        rounds = [shares_of(run) for _ in range(arguments.rounds)]
        results[name] = {kind: float(np.median([r[kind] for r in rounds])) for kind in rounds[0]}
        unseen = [kind for kind in KINDS if not results[name][kind]]
        assert unseen == ([] if name == "fit" else ["AdamW and the norm of the gradients"]), unseen
    rows = [[kind, *(f"{results[name][kind]:.1%}" for name in runs)] for kind in (*KINDS, REST)]
    common.print_table(["share of the time", *runs], rows)
    return common.finish("profile", arguments, {"shares": results}, [])


if __name__ == "__main__":
    sys.exit(main())
