"""Where do skbert's fit and predict spend their time, and how much does each optimization save?

torch's profiler sums the time inside each operation, in the thread that calls it. The rest of the
wall-clock time is Python, numpy and the calls themselves. Profiling takes time, too, most of it for
many small operations, as in attention. Copies and scaling in attention count as copies and sums.

So the benchmark also times fit as it is and without one part at a time, in interleaved rounds. The
results without a part are useless, but the difference is the cost of that part, and the maximum
that a faster version could save. In the same rounds, the benchmark replaces one optimization at a
time by the ordinary way of torch; the difference is the time that the optimization saves. Without
dropout, it checks that the losses are the same.
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
from skbert.engine.model import encoder, pooling
from skbert.engine.model.attention import padded_groups
from skbert.engine.model.batch import on_device
from skbert.engine.model.dropout import no_dropout
from skbert.engine.model.encoder import encode
from skbert.engine.training import classification, loop
from skbert.engine.training.optimizer import new_adamw

PRODUCTS = ("linear layers", "products of attention")
REST = "Python, numpy, other operations"
KINDS = {
    PRODUCTS[0]: {
        *("aten::mm", "aten::addmm", "aten::addmm_", "aten::addmv"),
        *("mkldnn::_linear_pointwise", "mkldnn::_reorder_linear_weight"),  # of predict: with GELU
    },
    PRODUCTS[1]: {"aten::bmm", "aten::baddbmm"},
    "softmax; in predict attention": {
        *("aten::_softmax", "aten::_softmax_backward_data", "aten::cat"),
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    },
    "copies": {"aten::copy_", "aten::fill_", "aten::index_select"},
    "GELU": {"aten::gelu", "aten::gelu_", "aten::gelu_backward"},
    "LayerNorm": {"aten::native_layer_norm", "aten::native_layer_norm_backward"},
    "sums and dropout": {"aten::add", "aten::add_", "aten::mul", "aten::mul_", "aten::sum"},
    "AdamW and the norm of the gradients": {"aten::_fused_adamw_", "aten::dot"},
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
ONLY_IN_FIT = [PRODUCTS[1], "AdamW and the norm of the gradients"]
AT_LEAST = 0.75  # of a fit; operations other than matrix products must take less than a quarter


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
    """Replace functions of a module."""
    own = {name: getattr(module, name) for name in others}
    vars(module).update(others)
    try:
        yield
    finally:
        vars(module).update(own)


def first_third(query_key_value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query_key_value[:, : query_key_value.shape[1] // 3].clone()


class WholeTable:
    """Replaces `CompactEmbeddings`; AdamW trains all word embeddings."""

    def __init__(self, embedding: torch.nn.Embedding, tokens: Any) -> None:
        self.tokens = tokens

    def in_place(self) -> Any:
        return nullcontext()

    def decay_absent(self, factor: float) -> None:
        """Do nothing: AdamW itself decays the rows without a gradient."""


def unfused_adamw(parameters: Any, weight_decay: float) -> torch.optim.AdamW:
    groups = new_adamw(parameters, weight_decay).param_groups
    return torch.optim.AdamW(
        [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
    )


def clip_then_step(optimizer: torch.optim.Optimizer, norm: torch.Tensor, max_norm: float) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()


def all_tokens_in_last_layer(model: Any, batch: Any, *others: Any) -> torch.Tensor:
    batch = on_device(model, batch)
    return encode(model, batch, *others).index_select(0, batch.first_tokens)


def one_by_one(x: torch.Tensor, layers: Any) -> torch.Tensor:
    return torch.cat([layer(x) for layer in layers], dim=1)


def in_groups_of_16(cu_seqlens: np.ndarray, device: torch.device, _position_bias: None) -> Any:
    return padded_groups(np.diff(cu_seqlens), device)


Patches = dict[str, Callable[[], Any]]
PARTS: Patches = {
    "without attention": lambda: replaced(
        encoder, self_attention=first_third, first_token_attention=lambda q, *_: q.clone()
    ),
    "without dropout": lambda: replaced(loop, seeded_dropout=lambda *_: no_dropout),
    "without gradient clipping": lambda: replaced(
        loop,
        gradient_norm=lambda _: torch.ones(()),
        clip_and_step=lambda optimizer, *_: optimizer.step(),
    ),
    "without AdamW": lambda: replaced(loop, clip_and_step=lambda *_: None),
}
SHORTCUTS: Patches = {
    "whole table of words": lambda: replaced(classification, CompactEmbeddings=WholeTable),
    "AdamW and clipping not fused": lambda: replaced(
        loop,
        new_adamw=unfused_adamw,
        gradient_norm=lambda _: torch.ones(()),
        clip_and_step=clip_then_step,
    ),
    "query, key and value concatenated": lambda: replaced(encoder, joint_linear=one_by_one),
    "last layer for all tokens": lambda: replaced(
        pooling, encode_first_token=all_tokens_in_last_layer
    ),
    "attention in padded groups of 16": lambda: replaced(encoder, text_groups=in_groups_of_16),
    "torch's dropout": lambda: replaced(loop, seeded_dropout=lambda p, *_: torch.nn.Dropout(p)),
}


def fit_with(
    name: str, patch: Callable[[], Any], data: common.Split, dropout: float = 0.1, **settings: Any
) -> common.Contender:
    """Fit, with one part changed."""
    settings |= {"pooling": "cls", "max_epochs": 1, "device": "cpu", "random_state": 0}
    clf = BertSentimentClassifier(common.MODEL, dropout=dropout, **settings)

    def run() -> Any:
        with patch():
            return clf.fit(data.train_texts, data.train_labels)

    return common.Contender(name, lambda: run, n_texts=len(data.train_texts))


def check_same_loss(without_dropout: list[common.Contender]) -> None:
    """Check that no optimization changes the losses, without dropout, whose masks would differ."""
    losses = {c.name: c.prepare()().history_[-1]["train_loss"] for c in without_dropout}
    for name, loss in losses.items():
        assert abs(loss - losses["fit"]) < 1e-4, f"{name}: loss {loss}, not {losses['fit']}"


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=5, n_texts=512)
    data = common.load_split(arguments.n_texts, 2 * arguments.n_texts)
    clf = BertSentimentClassifier(
        common.MODEL,
        pooling="cls",
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
        run()  # warm-up
        rounds = [shares_of(run) for _ in range(arguments.rounds)]
        results[name] = {kind: float(np.median([r[kind] for r in rounds])) for kind in rounds[0]}
        unseen = [kind for kind in KINDS if not results[name][kind]]
        assert unseen == ([] if name == "fit" else ONLY_IN_FIT), unseen
    rows = [[kind, *(f"{results[name][kind]:.1%}" for name in runs)] for kind in (*KINDS, REST)]
    common.print_table(["share of the time", *runs], rows)
    print()
    variants: Patches = {"fit": nullcontext, **SHORTCUTS, **PARTS}
    size = {"batch_size": arguments.batch_size}
    check_same_loss(
        [fit_with(name, variants[name], data, 0.0, **size) for name in ("fit", *SHORTCUTS)]
    )
    contenders = [fit_with(name, patch, data, **size) for name, patch in variants.items()]
    timings = common.run_rounds(contenders, arguments.rounds)
    common.print_timings(timings, contenders, "fit")
    described = common.describe_timings(timings, contenders, "fit")
    results = {"shares": results, "parts": {"contenders": described}}
    products = sum(results["shares"]["fit"][kind] for kind in PRODUCTS)
    bounds = [common.Bound("matrix products, share of a fit", products, AT_LEAST)]
    return common.finish("profile", arguments, results, bounds)


if __name__ == "__main__":
    sys.exit(main())
