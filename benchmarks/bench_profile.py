"""Where does the time of skbert's own fit and predict go?

torch's profiler adds up the time inside each operation, in the thread that calls it; what is left
of the wall-clock time is Python, numpy and the calls themselves. Noting every operation takes
time too, most of it where there are many small ones, as in attention. What attention copies and
scales counts among the copies and sums.

So fit is also timed as it is and without one part at a time, in interleaved rounds: what comes out
is then useless, but the difference is what that part costs, and the most that making it faster
could bring.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import _common as common
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from skbert import BertSentimentClassifier
from skbert.engine import encoder, training

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


@contextmanager
def replaced(module: Any, **others: Any) -> Iterator[None]:
    """Put other functions in the place of a module's own."""
    own = {name: getattr(module, name) for name in others}
    vars(module).update(others)
    try:
        yield
    finally:
        vars(module).update(own)


def first_third(query_key_value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query_key_value[:, : query_key_value.shape[1] // 3].clone()


def fit_without(part: str | None, data: common.Split, batch_size: int) -> common.Contender:
    """Fit, with one part left out."""
    patches: dict[str | None, Any] = {
        "attention": lambda: replaced(
            encoder, self_attention=first_third, first_token_attention=lambda q, *_: q.clone()
        ),
        "gradient clipping": lambda: replaced(
            training,
            gradient_norm=lambda _: torch.ones(()),
            clipped_step=lambda optimizer, *_: optimizer.step(),
        ),
        "AdamW": lambda: replaced(training, clipped_step=lambda *_: None),
    }
    settings = {"max_epochs": 1, "device": "cpu", "random_state": 0}
    clf = BertSentimentClassifier(
        common.MODEL, batch_size=batch_size, dropout=0.0 if part == "dropout" else 0.1, **settings
    )

    def run() -> Any:
        with patches.get(part, nullcontext)():
            return clf.fit(data.train_texts, data.train_labels)

    name = f"without {part}" if part else "fit"
    return common.Contender(name, lambda: run, n_texts=len(data.train_texts))


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=5, n_texts=512)
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
    print()
    parts = (None, "attention", "dropout", "gradient clipping", "AdamW")
    contenders = [fit_without(part, data, arguments.batch_size) for part in parts]
    timings = common.run_rounds(contenders, arguments.rounds)
    common.print_timings(timings, contenders, "fit")
    described = common.describe_timings(timings, contenders, "fit")
    results = {"shares": results, "without": {"contenders": described}}
    return common.finish("profile", arguments, results, [])


if __name__ == "__main__":
    sys.exit(main())
