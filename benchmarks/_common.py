"""Shared by all benchmarks: data, machine, interleaved rounds, matrix-product limit, report.

`Trainer` is the only contender in this file, because two benchmarks use it. Unless a name states
another unit, times are seconds and memory is bytes.
"""

from __future__ import annotations

import os

# Set before the import of any library of the hub. All weights are on this machine.
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import copy
import functools
import gc
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sklearn.model_selection import train_test_split

from skbert import TruncationWarning
from skbert.datasets import load_movie_reviews
from skbert.engine.files.find import find_model
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import constant_weights, is_used

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MAX_LENGTH = 128  # tokens, special tokens included
LEARNING_RATE = 5e-5  # the default of skbert, of Trainer and of skorch's notebook

HERE = Path(__file__).parent
RESULTS = HERE / "results"
REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "scikit-learn",
    "numpy",
    "skbert",
    "accelerate",
    "skorch",
    "sentence-transformers",
    "onnx",
    "onnxruntime",
)

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.simplefilter("ignore", TruncationWarning)  # some benchmarks cut long texts on purpose
warnings.filterwarnings("ignore", "max_epochs=.* optimizer step")  # and smoke runs hardly train


# Weights and data ---------------------------------------------------------------------------


def model_folder() -> str:
    """Folder of the default model's files, from which every contender loads."""
    folder = find_model(MODEL).folder
    return str(folder)


def forget_words(model: str = MODEL) -> None:
    """Clear the tokenizer's cache of words, so that no round profits from the round before."""
    load_pretrained(model).subword_tokenizer._memo.clear()


@dataclass(frozen=True)
class Split:
    """Texts with labels 0 (negative) and 1 (positive), half of each."""

    train_texts: list[str]
    train_labels: list[int]
    test_texts: list[str]
    test_labels: list[int]


def load_split(n_train: int, n_test: int, source: str = "rotten_tomatoes") -> Split:
    """Draw a stratified sample, the same in each call."""
    reviews = load_movie_reviews(source)
    labels = (reviews["sentiment"] == "positive").astype(int)
    parts = train_test_split(
        reviews["text"],
        labels,
        train_size=n_train,
        test_size=n_test,
        stratify=labels,
        random_state=0,
    )
    train_texts, test_texts, train_labels, test_labels = (part.tolist() for part in parts)
    return Split(train_texts, train_labels, test_texts, test_labels)


def long_texts(n_texts: int) -> tuple[list[str], list[int]]:
    """IMDB documents of more than 256 tokens (1,800 characters), with labels."""
    split = load_split(20_000, 2, source="imdb")
    rows = [i for i, text in enumerate(split.train_texts) if len(text) > 1800][:n_texts]
    return [split.train_texts[i] for i in rows], [split.train_labels[i] for i in rows]


# Command line -------------------------------------------------------------------------------


def parse_arguments(
    description: str,
    *,
    rounds: int,
    n_texts: int,
    smoke_texts: int = 8,
    families: Collection[str] = (),
) -> argparse.Namespace:
    """Read the options of all benchmarks; `--smoke` makes everything tiny."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    parser.add_argument("--n-texts", type=int, default=n_texts, help="default: %(default)s")
    parser.add_argument("--smoke", action="store_true", help="a few texts, one round, no results")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound fails")
    if families:
        parser.add_argument("--family", nargs="+", choices=families, help="shapes; see _shapes.py")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.n_texts = 1, smoke_texts
    arguments.batch_size = 4 if arguments.smoke else 32
    return arguments


# Trainer ------------------------------------------------------------------------------------


def load_sequence_classifier(folder: str | None = None) -> Any:
    """Load transformers' own classifier in float32; its linear layer has random weights."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        folder or model_folder(), num_labels=2, dtype=torch.float32
    )


def fit_with_trainer(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    labels: list[int],
    *,
    batch_size: int,
    sampling: str = "random",
    max_length: int = MAX_LENGTH,
    pad_to_multiple_of: int | None = None,
    **options: Any,
) -> None:
    """Tokenize and train for one epoch with the defaults of `TrainingArguments`.

    Each batch is padded to its longest text. Only the batch size, one epoch, the CPU and the
    sampling strategy are set, and evaluation, logging and saving are off. `options` are more
    arguments of `TrainingArguments`, and replace these.
    """
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    encoded = tokenizer(texts, truncation=True, max_length=max_length)
    rows = [
        {key: encoded[key][i] for key in encoded} | {"labels": label}
        for i, label in enumerate(labels)
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": 1,
            "train_sampling_strategy": sampling,
            "use_cpu": True,
            "dataloader_pin_memory": False,  # useless without a GPU, and warns
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
        }
        arguments = TrainingArguments(folder, **settings | options)
        collator = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        trainer = Trainer(model, arguments, data_collator=collator, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


# Machine and versions -----------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Describe processor, memory and threads."""
    import psutil
    import threadpoolctl

    model, flags = _processor()
    shown = ("avx", "avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
    return {
        "processor": model,
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "flags": [flag for flag in shown if flag in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "torch_threads": torch.get_num_threads(),
        "thread_pools": sorted(
            f"{pool['internal_api']} {pool['num_threads']}"
            for pool in threadpoolctl.threadpool_info()
        ),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> tuple[str, set[str]]:
    """Name and flags of the processor; only Linux lists the flags."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name", platform.machine())
    return model, set(fields.get("flags", "").split())


def versions() -> dict[str, str]:
    """Versions of Python, skbert, and all contenders."""
    found = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def commit() -> dict[str, Any]:
    """Git commit at the start, and whether files other than results differ from it."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=HERE.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


commit()  # at import, because the imported code is the code that runs

# Interleaved rounds -------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """A contender of a benchmark.

    Attributes
    ----------
    name : str
    prepare : callable
        Loads the weights before each round, untimed, and returns the function to time.
    settings : str
        Settings that matter for the comparison.
    score : callable or None
        Applied to the result after each round, untimed; for example, a held-out accuracy.
    n_texts : int
        Number of texts in one run, to compute texts per second; 0 if that has no meaning.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    settings: str = ""
    score: Callable[[Any], float] | None = None
    n_texts: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds and, if available, scores of each contender in each round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median over the rounds, in seconds."""
        return float(np.median(self.seconds[name]))

    def speedup(self, name: str, than: str) -> float:
        """Return how many times as fast as `than` `name` is: the median of the rounds' ratios.

        A disturbance that lasts longer than a round affects both numbers of a ratio.
        """
        return float(np.median(np.divide(self.seconds[than], self.seconds[name])))

    def mean_score(self, name: str) -> float:
        """Return the mean over the rounds."""
        return float(np.mean(self.scores[name]))


def run_rounds(contenders: list[Contender], rounds: int) -> Timings:
    """Time every contender once per round; each round begins with another one."""
    gc.collect()
    gc.freeze()  # so that no round searches the objects that exist now, mostly modules
    timings = Timings({c.name: [] for c in contenders}, {c.name: [] for c in contenders if c.score})
    for i in range(rounds):
        start = i % len(contenders)
        for contender in contenders[start:] + contenders[:start]:
            run = contender.prepare()
            gc.collect()
            begin = time.perf_counter()
            result = run()
            timings.seconds[contender.name].append(time.perf_counter() - begin)
            if contender.score:
                timings.scores[contender.name].append(contender.score(result))
            del run, result
        print(f"round {i + 1} of {rounds} done", file=sys.stderr, flush=True)
    return timings


# Matrix products: how many skbert needs, and how fast this machine computes them --------------


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine the number of operations of a BERT encoder with a linear head."""

    n_layers: int
    d_model: int
    d_inner: int
    n_classes: int

    @classmethod
    def of(cls, config: Any, n_classes: int) -> Sizes:
        return cls(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size, n_classes
        )


@dataclass(frozen=True)
class Product:
    """`count` matrix products (m, k) @ (k, n)."""

    m: int
    k: int
    n: int
    count: int = 1

    @property
    def flops(self) -> int:
        """Number of multiplications and additions of all products."""
        return 2 * self.m * self.k * self.n * self.count

    def gradients(self) -> list[Product]:
        """Products of the backward pass of Y = X W: dX = dY W^T and dW = X^T dY."""
        return [
            Product(self.m, self.n, self.k, self.count),
            Product(self.k, self.m, self.n, self.count),
        ]


def linear_products(
    sizes: Sizes, n_tokens: int, n_texts: int, *, training: bool, pooling: str = "cls"
) -> list[Product]:
    """All linear layers of one batch without padding.

    A layer has, for each token, the projections to query, key and value (one product, d_model
    -> 3 d_model), the output projection (d_model -> d_model) and the feed-forward network
    (d_model -> d_inner -> d_model). With pooling "cls", the last layer needs keys and values of all
    tokens, but the rest only for one token per text. In training, each product adds two products
    for its gradients. The embeddings need the gradient of the first layer's input.
    """
    d, d_inner = sizes.d_model, sizes.d_inner
    n_whole = sizes.n_layers - (pooling == "cls")
    products = [
        Product(n_tokens, d, 3 * d, n_whole),
        Product(n_tokens, d, d, n_whole),
        Product(n_tokens, d, d_inner, n_whole),
        Product(n_tokens, d_inner, d, n_whole),
    ]
    if pooling == "cls":
        products += [
            Product(n_tokens, d, 2 * d),
            Product(n_texts, d, d, 2),
            Product(n_texts, d, d_inner),
            Product(n_texts, d_inner, d),
        ]
    if sizes.n_classes:
        products.append(Product(n_texts, d, sizes.n_classes))
    products = [product for product in products if product.count]
    if training:
        products += [gradient for product in products for gradient in product.gradients()]
    return products


def needed_flops(
    sizes: Sizes, lengths: np.ndarray, *, training: bool, pooling: str = "cls"
) -> float:
    """Count the operations of all matrix products for texts of these lengths, once each.

    Linear layers are as in `linear_products`. Attention has two products per layer, Q K^T and P V:
    2 * 2 L^2 d_model operations for a text of L tokens, or 2 * 2 L d_model if only [CLS] is a
    query; in training three times as many. Softmax, GELU, LayerNorm, dropout, embedding lookups
    and the optimizer are not matrix products and do not count, so their time lowers the share of
    the limit.
    """
    linear = linear_products(
        sizes, int(lengths.sum()), len(lengths), training=training, pooling=pooling
    )
    n_whole = sizes.n_layers - (pooling == "cls")
    pairs = n_whole * float(np.square(lengths.astype(np.float64)).sum())
    if pooling == "cls":
        pairs += float(lengths.sum())
    attention = 4 * sizes.d_model * pairs * (3 if training else 1)
    return sum(product.flops for product in linear) + attention


class MatrixLimit:
    """The float32 matrix products of a typical batch, and nothing else.

    The constructor finds the fastest of the four memory layouts (each operand row- or column-major)
    for each product; the result goes into allocated memory. `run` then repeats all products of the
    batch for about `seconds`, on all threads.

    Parameters
    ----------
    products : list of Product
        From `linear_products`, for the number of tokens of a real batch. The products of
        attention count as needed operations, but this class does not time them: they are small,
        and no machine computes small products at the speed of large ones.
    seconds : float
    """

    name = "matrix products alone"
    settings = "torch.mm, best memory layout of each"

    def __init__(self, products: list[Product], seconds: float) -> None:
        self._work = [(self._way(product), product.count) for product in products]
        once = _seconds_of(self._batch)
        self._repeats = max(1, round(seconds / once))
        self.flops = self._repeats * sum(product.flops for product in products)

    def _way(self, product: Product) -> Callable[[], Any]:
        return _fastest(product)

    def _batch(self) -> None:
        for multiply, count in self._work:
            for _ in range(count):
                multiply()

    def run(self) -> None:
        for _ in range(self._repeats):
            self._batch()

    def contender(self) -> Contender:
        return Contender(self.name, lambda: self.run, self.settings)

    def rates(self, timings: Timings) -> np.ndarray:
        """FLOP/s in each round."""
        return self.flops / np.array(timings.seconds[self.name])

    def share(self, timings: Timings, name: str, flops: float) -> float:
        """FLOP/s of a contender divided by the FLOP/s of the limit: the median over the rounds."""
        return float(np.median(flops / np.array(timings.seconds[name]) / self.rates(timings)))


class OneDnnLimit(MatrixLimit):
    """The same products by oneDNN, as skbert uses it for full batches, with reordered weights.

    Raises RuntimeError if skbert does not use oneDNN on this machine.
    """

    name = "matrix products alone, oneDNN"
    settings = "torch.ops.mkldnn._linear_pointwise, weights in its own order"

    def _way(self, product: Product) -> Callable[[], Any]:
        left = torch.randn(product.m, product.k)
        weight = torch.nn.Parameter(torch.randn(product.n, product.k))
        with torch.no_grad(), constant_weights(torch.device("cpu"), torch.float32):
            if not is_used():
                raise RuntimeError("skbert does not use oneDNN here")
            reordered = torch.ops.mkldnn._reorder_linear_weight(weight, product.m)
        return partial(torch.ops.mkldnn._linear_pointwise, left, reordered, None, "none", [], "")


def _fastest(product: Product) -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(0)

    def matrix(n_rows: int, n_columns: int, transposed: bool) -> torch.Tensor:
        if transposed:
            return torch.randn(n_columns, n_rows, generator=generator).t()
        return torch.randn(n_rows, n_columns, generator=generator)

    out = torch.empty(product.m, product.n)
    candidates = [
        partial(
            torch.mm,
            matrix(product.m, product.k, left),
            matrix(product.k, product.n, right),
            out=out,
        )
        for left in (False, True)
        for right in (False, True)
    ]
    return min(candidates, key=_seconds_of)


def _seconds_of(run: Callable[[], Any], repeats: int = 3) -> float:
    """Time a few runs after a warm-up run, and return the shortest time."""
    run()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


# Batches that skbert computes ---------------------------------------------------------------


@dataclass(frozen=True)
class LogitsCall:
    """A batch, or a part of one, that skbert's classifier computed.

    Attributes
    ----------
    rows : ndarray of shape (n_texts,)
        Rows of the texts, in the caller's order.
    lengths : ndarray of shape (n_texts,)
        Number of tokens of each text.
    logits : Tensor of shape (n_texts, n_classes)
    head : torch.nn.Linear
        A copy of the head at the first call.
    """

    rows: np.ndarray
    lengths: np.ndarray
    logits: torch.Tensor
    head: torch.nn.Linear


@contextmanager
def recorded_logits() -> Iterator[list[LogitsCall]]:
    """Record all batches that an estimator computes in the block."""
    calls: list[LogitsCall] = []
    original = TextClassifier.logits

    def logits(self: TextClassifier, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        head = calls[0].head if calls else copy.deepcopy(self.head)
        result = original(self, batch, *args, **kwargs)
        own = batch.rows >= 0  # a text without a row only fills the batch
        lengths = np.diff(batch.cu_seqlens)[own]
        own_logits = result.detach()[torch.from_numpy(own)]
        calls.append(LogitsCall(batch.rows[own], lengths, own_logits, head))
        return result

    TextClassifier.logits = logits
    try:
        yield calls
    finally:
        TextClassifier.logits = original


def typical_batch(calls: list[LogitsCall]) -> tuple[int, int]:
    """Median tokens and median texts of the recorded batches."""
    n_tokens = np.median([call.lengths.sum() for call in calls])
    return round(n_tokens), round(np.median([len(call.rows) for call in calls]))


# Memory -------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    import psutil

    return psutil.Process().memory_info().rss


def forget_peak() -> None:
    """Reset `peak_bytes`, for example after the imports. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the maximum resident memory since `forget_peak`, as recorded by the kernel.

    The maximum of `getrusage` would include the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no line VmHWM. Run this benchmark on Linux.")


# Report -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """A one-sided claim about a measured number."""

    claim: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Lay out as Markdown, first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [header, rules, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print as Markdown."""
    print(markdown_table(header, rows))


def print_timings(timings: Timings, contenders: list[Contender], reference: str) -> None:
    """Table of texts per second, median and spread of the seconds, and speedup of `reference`."""
    rows = []
    for contender in contenders:
        seconds = timings.seconds[contender.name]
        median = timings.median(contender.name)
        rate = f"{contender.n_texts / median:.1f}" if contender.n_texts else ""
        ratio = f"{timings.speedup(reference, contender.name):.2f} x" if contender.n_texts else ""
        spread = f"{min(seconds):.3f} - {max(seconds):.3f}"
        rows.append([contender.name, rate, f"{median:.3f}", spread, ratio])
        if contender.score:
            rows[-1].append(f"{timings.mean_score(contender.name):.3f}")
        else:
            rows[-1].append("")
    header = ["contender", "texts/s", "median s", "min - max s", f"{reference} is", "accuracy"]
    if not timings.scores:
        header, rows = header[:-1], [row[:-1] for row in rows]
    print_table(header, rows)


def describe_timings(
    timings: Timings, contenders: list[Contender], reference: str
) -> dict[str, Any]:
    """Everything that was measured, for the results file."""
    return {
        contender.name: {
            "settings": contender.settings,
            "seconds": timings.seconds[contender.name],
            "median_seconds": timings.median(contender.name),
            "speedup_of_" + reference: timings.speedup(reference, contender.name),
            "scores": timings.scores.get(contender.name),
            "n_texts": contender.n_texts,
        }
        for contender in contenders
    }


def plain_name(processor: str) -> str:
    """Name a processor without trade marks, as the tables and folders of results do."""
    return processor.replace("(R)", "")


def results_of_machine(name: str, processor: str | None = None) -> Path:
    """Path of the results of a benchmark; each kind of processor has its own folder."""
    processor = plain_name(processor or _processor()[0]).lower()
    folder = "-".join("".join(c if c.isalnum() else " " for c in processor).split())
    return RESULTS / folder / f"{name}.json"


def print_bounds(bounds: list[Bound]) -> None:
    """Print one line per bound, after an empty one."""
    print()
    for bound in bounds:
        verdict = "PASS" if bound.holds else "FAIL"
        sign = ">=" if bound.at_least else "<="
        print(f"{verdict}  {bound.claim}: {bound.value:.3g} (must be {sign} {bound.limit:g})")


def write_results(
    path: Path, about: dict[str, Any], results: dict[str, Any], bounds: list[Bound]
) -> None:
    """Write a results file, as `report.py` reads it."""
    described = [asdict(bound) | {"holds": bound.holds} for bound in bounds]
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({**about, "results": results, "bounds": described}, indent=1) + "\n")


def finish(
    name: str,
    arguments: argparse.Namespace,
    results: dict[str, Any],
    bounds: list[Bound],
    path: Path | None = None,
) -> int:
    """Print machine, versions and bounds, write the results file, return the exit code."""
    about = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **commit(),
        "arguments": vars(arguments),
        "machine": machine(),
        "versions": versions(),
    }
    print_bounds(bounds)
    here = about["machine"]
    print(
        f"\n{here['processor']}, {here['cores']} cores, {here['torch_threads']} threads, "
        f"{' '.join(here['flags'])}, {here['memory_gib']} GiB"
    )
    print(", ".join(f"{package} {version}" for package, version in about["versions"].items()))
    if arguments.smoke:
        print("smoke run: the numbers above mean nothing")
        return 0
    path = path or results_of_machine(name)
    write_results(path, about, results, bounds)
    print(f"written: {path.relative_to(HERE.parent)}")
    return int(arguments.strict and not all(bound.holds for bound in bounds))
