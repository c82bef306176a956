"""How fast is skbert on a GPU, next to Trainer, the pipeline and sentence-transformers?

``benchmarks/gpu.sh`` runs the GPU tests and this script. A case is a task ("fit", "predict" or
"embed"), a shape of a BERT, and a kind of text: sentences of up to 128 tokens, or documents of up
to 512. The most important cases come first, and each gets an equal part of the time that is left,
for at least one round. All contenders of a case read the same weights from the same folder.

- Each contender runs once before the first round, untimed. The pipeline and sentence-transformers
  look there for their fastest batch size, of 32, 128 and 512 texts.
- All contenders of `fit` tokenize within the time and none loads weights: skbert copies them from
  the memory of the process, and Trainer gets a model on the CPU. Both move it to the GPU.
- Rivals compute in bfloat16, as skbert does by default on such a card.
- The share of the matrix rate is F / t / R, for a median time of t. F counts the operations of the
  matrix products that the real tokens need: 2 n P for n tokens and P weights of the blocks, plus
  4 d L^2 per block for the attention within a text of L tokens and hidden states of size d; three
  times as many in training. With pooling "cls", the last block computes all but keys and values
  for only one token per text. R is the rate of a bfloat16 product of two random matrices of 8,192
  rows and columns on this card.

The folder .gpu, which `pack_for_gpu.py` writes, has real reviews and the default model; without it,
texts and weights are made up, and no accuracy is measured.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import torch
from _gpu_inputs import CARRIED, MAX_LENGTH, Inputs, LabelledTexts, carried_inputs, made_up_inputs
from _shapes import SHAPES, Shape, save_shape
from transformers import AutoTokenizer, pipeline

from skbert import BertEmbeddingTransformer, BertSentimentClassifier, free_pretrained
from skbert.engine.files.config import read_config
from skbert.engine.model import encoder
from skbert.engine.training import loop

TASKS = ("fit", "predict", "embed", "accuracy")
SHAPE_NAMES = ("minilm", "bert", "bert-large")
BATCH_SIZE = 32
BATCH_SIZES = (32, 128, 512)  # of which the rivals of predict and embed take the fastest
FIT_TEXTS = {"sentences": 2048, "documents": 1024}
PREDICT_TEXTS = {"sentences": 4096, "documents": 512}
N_ACCURACY_TEXTS = 1024  # to train on, and as many to test on
N_SEEDS = 3
#: Mean difference of the probabilities of skbert and the pipeline, and mean cosine distance of the
#: vectors of skbert and sentence-transformers, that rounding alone does not reach.
TOLERANCE = {torch.bfloat16: 0.02, torch.float32: 1e-3}

TRAINER, TRAINER_GROUPED = "Trainer", "Trainer, length-grouped"
PIPELINE, PIPELINE_SORTED = "transformers pipeline", "transformers pipeline, sorted"
SENTENCE_TRANSFORMERS = "sentence-transformers"
WITHOUT_GRAPHS, PADDED_GROUPS = "skbert, without graphs", "skbert, padded groups, without graphs"


# Cases and settings -------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is timed."""

    task: str
    shape: str
    kind: str

    def __str__(self) -> str:
        return f"{self.task}, {self.shape}, {self.kind}"


#: The most important first.
CASES = (
    Case("fit", "minilm", "sentences"),
    Case("fit", "bert", "sentences"),
    Case("predict", "minilm", "sentences"),
    Case("predict", "bert", "sentences"),
    Case("accuracy", "minilm", "sentences"),
    Case("embed", "minilm", "sentences"),
    Case("embed", "bert", "sentences"),
    Case("fit", "minilm", "documents"),
    Case("fit", "bert", "documents"),
    Case("predict", "minilm", "documents"),
    Case("predict", "bert", "documents"),
    Case("fit", "bert-large", "sentences"),
    Case("predict", "bert-large", "sentences"),
    Case("fit", "bert-large", "documents"),
    Case("predict", "bert-large", "documents"),
)


@dataclass(frozen=True)
class Setup:
    """Device, texts and checkpoints of a run."""

    device: torch.device
    inputs: Inputs
    place: Path  # for checkpoints
    is_smoke: bool

    @property
    def precision(self) -> torch.dtype:
        """The precision of the rivals, which is skbert's default on the device."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def texts(self, kind: str, n_texts: int) -> LabelledTexts:
        """The first texts of a kind; in a smoke run, few."""
        return self.inputs.texts[kind][: 8 if self.is_smoke else n_texts]

    def max_length(self, kind: str) -> int:
        """The most tokens of a text; in a smoke run, few."""
        return 16 if self.is_smoke else MAX_LENGTH[kind]

    def checkpoint(self, name: str) -> str:
        """Folder of a shape; the first call writes it."""
        if name == "minilm" and self.inputs.model and not self.is_smoke:
            return str(self.inputs.model)
        folder = self.place / name
        if not folder.exists():
            tiny = Shape("bert", 2, 32, 2, 30522)
            shape = tiny if self.is_smoke else SHAPES[name]
            save_shape(shape, folder, self.inputs.tokenizer, self.device)
        return str(folder)

    def classifier(self, case: Case, **parameters: Any) -> BertSentimentClassifier:
        """skbert's classifier, with the options that all contenders have."""
        options = {
            "pooling": "cls",
            "max_epochs": 1,
            "batch_size": BATCH_SIZE,
            "learning_rate": common.LEARNING_RATE,
            "max_length": self.max_length(case.kind),
            "truncation": "head",
            "device": str(self.device),
            "random_state": 0,
        }
        return BertSentimentClassifier(self.checkpoint(case.shape), **options | parameters)


# Contenders of fit --------------------------------------------------------------------------


@contextmanager
def without(module: Any, name: str) -> Iterator[None]:
    """Switch a part of the device path off: a function of `module` that says whether to use it."""
    plain = getattr(module, name)
    setattr(module, name, lambda *_: False)
    try:
        yield
    finally:
        setattr(module, name, plain)


def skbert_fit(
    setup: Setup,
    case: Case,
    name: str,
    switched_off: tuple[Any, str] | None = None,
    **parameters: Any,
) -> common.Contender:
    data = setup.texts(case.kind, FIT_TEXTS[case.kind])

    def prepare() -> Callable[[], None]:
        common.forget_words(setup.checkpoint(case.shape))  # and load the weights into memory
        estimator = setup.classifier(case, **parameters)

        def run() -> None:
            with without(*switched_off) if switched_off else nullcontext():
                estimator.fit(data.texts, data.labels)

        return run

    settings = "pooling='cls', defaults" + "".join(f", {k}={v!r}" for k, v in parameters.items())
    return common.Contender(name, prepare, settings, n_texts=len(data))


def trainer_fit(setup: Setup, case: Case, name: str, sampling: str) -> common.Contender:
    data = setup.texts(case.kind, FIT_TEXTS[case.kind])
    folder = setup.checkpoint(case.shape)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    original = common.load_sequence_classifier(folder)
    options: dict[str, Any] = {"max_length": setup.max_length(case.kind)}
    if setup.device.type == "cuda":
        options |= {"use_cpu": False, "bf16": True, "dataloader_pin_memory": True}
        options |= {"pad_to_multiple_of": 8}  # as transformers' own examples do for tensor cores

    def prepare() -> Callable[[], None]:
        return partial(
            common.fit_with_trainer,
            copy.deepcopy(original),
            tokenizer,
            data.texts,
            data.labels,
            batch_size=BATCH_SIZE,
            sampling=sampling,
            **options,
        )

    shown = f"bf16, dataloader_num_workers=0, pinned memory, {sampling}, "
    shown += f"{original.config._attn_implementation} attention, padded to the batch's longest"
    return common.Contender(name, prepare, shown, n_texts=len(data))


def fit_contenders(setup: Setup, case: Case) -> list[common.Contender]:
    contenders = [
        skbert_fit(setup, case, "skbert"),
        trainer_fit(setup, case, TRAINER_GROUPED, "group_by_length"),
    ]
    if case.shape != "bert-large":
        contenders.append(trainer_fit(setup, case, TRAINER, "random"))
        contenders.append(skbert_fit(setup, case, WITHOUT_GRAPHS, (loop, "pays")))
        contenders.append(skbert_fit(setup, case, PADDED_GROUPS, (encoder, "is_usable")))
    if case.shape == "minilm":
        contenders.append(skbert_fit(setup, case, "skbert, float32", precision="float32"))
    return contenders


# Contenders of predict and embed ------------------------------------------------------------


class FastestBatches:
    """A rival with its fastest batch size, which the first call of `prepare` finds.

    Parameters
    ----------
    run : callable
        Takes texts and a batch size, returns an array with a row for each text.
    texts : list of str
    """

    def __init__(self, run: Callable[[list[str], int], np.ndarray], texts: list[str]) -> None:
        self._run = run
        self._texts = texts
        self.batch_size: int | None = None

    def prepare(self) -> Callable[[], np.ndarray]:
        if self.batch_size is None:
            sample = self._texts[: 2 * max(BATCH_SIZES)]
            self._run(sample[:BATCH_SIZE], BATCH_SIZE)
            self.batch_size = min(BATCH_SIZES, key=partial(self._seconds, sample))
        return partial(self._run, self._texts, self.batch_size)

    def _seconds(self, texts: list[str], batch_size: int) -> float:
        return timed(partial(self._run, texts, batch_size)).seconds

    def contender(self, name: str, settings: str) -> common.Contender:
        return common.Contender(name, self.prepare, settings, n_texts=len(self._texts))


def pipeline_predict(setup: Setup, case: Case, folder: str, *, is_sorted: bool) -> FastestBatches:
    classify = pipeline(
        "text-classification",
        folder,
        tokenizer=folder,
        device=setup.device,
        dtype=setup.precision,
    )

    def run(texts: list[str], batch_size: int) -> np.ndarray:
        order = np.argsort([-len(text) if is_sorted else 0 for text in texts], kind="stable")
        results = classify(
            [texts[i] for i in order],
            batch_size=batch_size,
            top_k=None,
            truncation=True,
            max_length=setup.max_length(case.kind),
        )
        probabilities = np.empty((len(texts), 2))
        for row, scores in zip(order, results, strict=True):
            by_label = {score["label"]: score["score"] for score in scores}
            probabilities[row] = [by_label[label] for label in sorted(by_label)]
        return probabilities

    return FastestBatches(run, setup.texts(case.kind, PREDICT_TEXTS[case.kind]).texts)


def predict_contenders(setup: Setup, case: Case) -> list[common.Contender]:
    data = setup.texts(case.kind, PREDICT_TEXTS[case.kind])
    fitted = setup.classifier(case, learning_rate=1e-4).fit(data.texts[:64], data.labels[:64])
    folder = str(setup.place / f"{case.shape}-fitted-{case.kind}")
    fitted.save_pretrained(folder)

    def prepare() -> Callable[[], np.ndarray]:
        fitted._subword_tokenizer._memo.clear()
        return partial(fitted.predict_proba, data.texts)

    unsorted = pipeline_predict(setup, case, folder, is_sorted=False)
    longest_first = pipeline_predict(setup, case, folder, is_sorted=True)
    return [
        common.Contender("skbert", prepare, "predict_proba, defaults", n_texts=len(data)),
        unsorted.contender(PIPELINE, "fastest batch size, texts as they come"),
        longest_first.contender(PIPELINE_SORTED, "fastest batch size, longest texts first"),
    ]


def sentence_transformers_embed(setup: Setup, case: Case, texts: list[str]) -> FastestBatches:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = setup.checkpoint(case.shape)
    transformer = Transformer(folder, max_seq_length=setup.max_length(case.kind))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling], device=str(setup.device))
    model.to(setup.precision)

    def run(texts: list[str], batch_size: int) -> np.ndarray:
        return model.encode(texts, batch_size=batch_size, show_progress_bar=False)

    return FastestBatches(run, texts)


def embed_contenders(setup: Setup, case: Case) -> list[common.Contender]:
    texts = setup.texts(case.kind, PREDICT_TEXTS[case.kind]).texts
    folder = setup.checkpoint(case.shape)
    transformer = BertEmbeddingTransformer(
        folder,
        pooling="mean",
        max_length=setup.max_length(case.kind),
        truncation="head",
        device=str(setup.device),
    ).fit(texts[:1])

    def prepare() -> Callable[[], np.ndarray]:
        common.forget_words(folder)
        return partial(transformer.transform, texts)

    rival = sentence_transformers_embed(setup, case, texts)
    return [
        common.Contender("skbert", prepare, "transform, pooling='mean'", n_texts=len(texts)),
        rival.contender(SENTENCE_TRANSFORMERS, "encode, fastest batch size, longest first"),
    ]


CONTENDERS = {"fit": fit_contenders, "predict": predict_contenders, "embed": embed_contenders}


# Rounds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """Seconds, peak memory of the device in bytes, and result of one run."""

    seconds: float
    peak_bytes: int
    result: Any


@dataclass(frozen=True)
class Measured:
    """All runs of a case, and what went wrong.

    A contender that failed has an error and no times.
    """

    timings: common.Timings = field(default_factory=common.Timings)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, error: Exception) -> None:
        """Record the error of a contender and drop its times."""
        self.errors[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        self.timings.seconds.pop(name, None)
        print(f"{name} failed: {self.errors[name]}", flush=True)


def timed(run: Callable[[], Any]) -> Timed:
    """Run once between two synchronizations with the device."""
    is_cuda = torch.cuda.is_available()
    before = 0
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    result = run()
    if is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() - before if is_cuda else 0
    return Timed(seconds, peak, result)


def measure(contenders: list[common.Contender], rounds: int, until: float) -> Measured:
    """Warm up, then time one round, and more while `time.monotonic()` is less than `until`."""
    measured = Measured()
    for contender in contenders:
        first = run_one(contender, measured)
        if first is not None:
            measured.results[contender.name] = first.result
            measured.timings.seconds[contender.name] = []
    for i in range(rounds):
        if i and time.monotonic() >= until:
            break
        running = [c for c in contenders if c.name in measured.timings.seconds]
        for j in range(len(running)):
            contender = running[(i + j) % len(running)]
            found = run_one(contender, measured)
            if found is not None:
                measured.timings.seconds[contender.name].append(found.seconds)
                measured.peak_bytes[contender.name] = found.peak_bytes
    return measured


def run_one(contender: common.Contender, measured: Measured) -> Timed | None:
    """Prepare and time a contender; None, and an error, if it fails."""
    try:
        run = contender.prepare()
        free_memory()
        return timed(run)
    except Exception as error:  # one broken contender must not lose the run
        measured.fail(contender.name, error)
        return None


def free_memory() -> None:
    """Give back what earlier contenders left on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# Limits of the card, and agreement ----------------------------------------------------------


def card_limits(setup: Setup) -> dict[str, float]:
    """Median rates of a large matrix product (FLOP/s) and of a copy (bytes read and written/s)."""
    size, n_bytes = (64, 2**16) if setup.is_smoke else (8192, 2**31)
    matrices = torch.randn(2, size, size, device=setup.device, dtype=setup.precision)
    multiply = partial(torch.mm, *matrices)
    source = torch.ones(n_bytes, dtype=torch.uint8, device=setup.device)
    copy_all = partial(torch.empty_like(source).copy_, source)
    return {
        "matrix_flops_per_second": 2 * size**3 / median_seconds(multiply),
        "copy_bytes_per_second": 2 * n_bytes / median_seconds(copy_all),
    }


def median_seconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of a run over groups of ten; the first group is a warm-up."""

    def ten_times() -> None:
        for _ in range(10):
            run()

    return float(np.median([timed(ten_times).seconds for _ in range(repeats)][1:])) / 10


def share_of_rate(setup: Setup, case: Case, seconds: float, rate: float) -> float:
    """Share of the matrix rate that a time reaches; see the top of this file."""
    is_fit = case.task == "fit"
    n_texts = (FIT_TEXTS if is_fit else PREDICT_TEXTS)[case.kind]
    texts = setup.texts(case.kind, n_texts).texts
    folder = setup.checkpoint(case.shape)
    ids = AutoTokenizer.from_pretrained(folder)(
        texts, truncation=True, max_length=setup.max_length(case.kind)
    )["input_ids"]
    is_embed = case.task == "embed"
    flops = common.needed_flops(
        common.Sizes.of(read_config(Path(folder) / "config.json"), 0 if is_embed else 2),
        np.array([len(row) for row in ids]),
        training=is_fit,
        pooling="mean" if is_embed else "cls",
    )
    return flops / seconds / rate


def differences(case: Case, results: dict[str, Any]) -> dict[str, float]:
    """Mean difference of each rival's probabilities, or cosine distance of its vectors."""
    found = {}
    for name, result in results.items():
        if name == "skbert" or result is None or results.get("skbert") is None:
            continue
        ours, theirs = results["skbert"], result
        if case.task == "embed":
            lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
            found[name] = float((1 - (ours * theirs).sum(axis=1) / lengths).mean())
        else:
            found[name] = float(np.abs(ours - theirs).mean())
    return found


# Accuracy -----------------------------------------------------------------------------------


def accuracies(setup: Setup, case: Case) -> dict[str, list[float]]:
    """Accuracy on held-out texts after three epochs, by precision, for several seeds."""
    data = setup.texts(case.kind, 2 * N_ACCURACY_TEXTS)
    train, test = data[: len(data) // 2], data[len(data) // 2 :]
    precisions = ("float32",) if setup.precision == torch.float32 else ("float32", "bfloat16")
    found: dict[str, list[float]] = {precision: [] for precision in precisions}
    for seed in range(N_SEEDS):
        for precision in precisions:
            clf = setup.classifier(case, precision=precision, max_epochs=3, random_state=seed)
            clf.fit(train.texts, train.labels)
            found[precision].append(clf.score(test.texts, test.labels))
    return found


# Report -------------------------------------------------------------------------------------


def run_case(setup: Setup, case: Case, rate: float, rounds: int, until: float) -> dict[str, Any]:
    """Measure a case, and describe it for the results file."""
    try:
        if case.task == "accuracy":
            return {"accuracy": accuracies(setup, case), "errors": {}}
        contenders = CONTENDERS[case.task](setup, case)
        measured = measure(contenders, rounds, until)
        found = describe(contenders, measured)
        if "skbert" in found["contenders"]:
            median = measured.timings.median("skbert")
            found["share_of_matrix_rate"] = share_of_rate(setup, case, median, rate)
        found["differences"] = differences(case, measured.results)
    except Exception as error:  # as in `run_one`
        measured = Measured()
        measured.fail("setup", error)
        return {"contenders": {}, "errors": measured.errors}
    for name, difference in found["differences"].items():
        if not difference < TOLERANCE[setup.precision]:
            error_text = f"differs from skbert by {difference:.2g} on average"
            measured.errors.setdefault(name, error_text)
    return found | {"errors": measured.errors}


def describe(contenders: list[common.Contender], measured: Measured) -> dict[str, Any]:
    """Times, peak memory and batch sizes of the contenders that ran."""
    seconds = measured.timings.seconds
    ran = [contender for contender in contenders if contender.name in seconds]
    reference = "skbert" if "skbert" in seconds else next(iter(seconds), "")
    described = common.describe_timings(measured.timings, ran, reference)
    for contender in ran:
        rival = getattr(contender.prepare, "__self__", None)  # a FastestBatches
        described[contender.name] |= {
            "peak_bytes": measured.peak_bytes[contender.name],
            "batch_size": getattr(rival, "batch_size", None),
        }
    return {"contenders": described}


def rows_of_case(name: str, found: dict[str, Any]) -> list[list[str]]:
    """Lines of the table: one for each contender, and one for each error."""
    rows = []
    for contender, run in found.get("contenders", {}).items():
        seconds, batch_size = run["seconds"], run["batch_size"]
        speedup = run.get("speedup_of_skbert")
        share = found.get("share_of_matrix_rate") if contender == "skbert" else None
        rows.append(
            [
                name,
                contender + (f", batches of {batch_size}" if batch_size else ""),
                f"{run['n_texts'] / run['median_seconds']:.0f}",
                f"{run['median_seconds']:.3f}",
                f"{min(seconds):.3f} - {max(seconds):.3f}",
                str(len(seconds)),
                f"{speedup:.2f} x" if speedup else "",
                f"{share:.1%}" if share is not None else "",
                f"{run['peak_bytes'] / 2**30:.2f}",
            ]
        )
    rows += [[name, f"{k}: ERROR {v}", *[""] * 7] for k, v in found["errors"].items()]
    return rows


def print_report(results: dict[str, Any]) -> None:
    """Print the origin of the texts, the limits, all cases in one table, and the accuracy."""
    print("\n" + "; ".join(f"{name}: {origin}" for name, origin in results["inputs"].items()))
    limits = results["card"]
    print(
        f"matrix products: {limits['matrix_flops_per_second'] / 1e12:.3g} TFLOP/s, "
        f"copies: {limits['copy_bytes_per_second'] / 1e9:.4g} GB/s\n"
    )
    header = ["case", "contender", "texts/s", "median s", "min - max s", "rounds", "skbert is"]
    header += ["of matrix rate", "peak GiB"]
    rows = [row for case, found in cases_of(results).items() for row in rows_of_case(case, found)]
    common.print_table(header, rows)
    for case, found in cases_of(results).items():
        for precision, scores in found.get("accuracy", {}).items():
            shown = ", ".join(f"{score:.4f}" for score in scores)
            mean, spread = np.mean(scores), np.std(scores)
            print(f"{case}, in {precision}: {mean:.4f} ± {spread:.4f} ({shown})")
    if results["not_measured"]:
        print(f"no time was left for: {'; '.join(results['not_measured'])}")


def cases_of(results: dict[str, Any]) -> dict[str, Any]:
    """The part of the results that cases wrote."""
    names = [str(case) for case in CASES]
    return {name: results[name] for name in names if name in results}


def bounds(results: dict[str, Any]) -> list[common.Bound]:
    """The claims about what was measured."""
    claims = [
        ("fit, minilm, sentences", TRAINER_GROUPED, 3.0),
        ("fit, bert, sentences", TRAINER_GROUPED, 2.0),
        ("predict, minilm, sentences", PIPELINE, 3.0),
        ("predict, bert, sentences", PIPELINE, 3.0),
    ]
    found = []
    for case, rival, limit in claims:
        run = results.get(case, {}).get("contenders", {}).get(rival, {})
        if "speedup_of_skbert" in run:
            claim = f"{case}, times as fast as {rival}"
            found.append(common.Bound(claim, run["speedup_of_skbert"], limit))
    return found


def card(device: torch.device) -> dict[str, Any]:
    """Describe the device, by the names that `report.py` reads."""
    described = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "flags": [f"CUDA {torch.version.cuda}", f"driver {driver_version()}"],
        "memory_gib": 0.0,
        "system": platform.platform(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["processor"] = properties.name
        described["memory_gib"] = round(properties.total_memory / 2**30, 1)
        described["multiprocessors"] = properties.multi_processor_count
    return described


def driver_version() -> str:
    """The driver's version, as nvidia-smi tells it."""
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else "unknown"


# Main ---------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="at most; default: %(default)s")
    parser.add_argument("--shapes", nargs="+", choices=SHAPE_NAMES, default=SHAPE_NAMES)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--kinds", nargs="+", choices=tuple(MAX_LENGTH), default=tuple(MAX_LENGTH))
    parser.add_argument("--json", type=Path, help="a second file for the results")
    parser.add_argument("--smoke", action="store_true", help="tiny, on the CPU, no results")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = 1
        torch.set_num_threads(1)  # tiny matrices, and perhaps on a busy machine
    return arguments


def save(arguments: argparse.Namespace, about: dict[str, Any], results: dict[str, Any]) -> None:
    """Write what is known so far, so that a run that is stopped leaves its results.

    Cases that the file has from an earlier run on such a card, and this run has not, stay.
    """
    if arguments.smoke:
        return
    file = common.results_of_machine("gpu", about["machine"]["processor"])
    known = json.loads(file.read_text())["results"] if file.exists() else {}
    known |= results
    known["not_measured"] = [str(case) for case in CASES if str(case) not in known]
    for path in filter(None, (file, arguments.json)):
        common.write_results(path, about, known, bounds(known))


def chosen_cases(setup: Setup, arguments: argparse.Namespace) -> list[Case]:
    """The cases of the command line; random weights and texts have no accuracy."""
    has_accuracy = setup.inputs.model is not None or setup.is_smoke
    return [
        case
        for case in CASES
        if case.task in arguments.tasks
        and case.shape in arguments.shapes
        and case.kind in arguments.kinds
        and (case.task != "accuracy" or has_accuracy)
    ]


def run_all(
    setup: Setup, arguments: argparse.Namespace, about: dict[str, Any], end: float
) -> dict[str, Any]:
    """Measure the chosen cases; while there is time, each gets an equal part of what is left."""
    results: dict[str, Any] = {
        "inputs": setup.inputs.described,
        "card": card_limits(setup),
        "not_measured": [],
    }
    rate = results["card"]["matrix_flops_per_second"]
    cases = chosen_cases(setup, arguments)
    gc.collect()
    gc.freeze()  # so that no round searches the objects that exist now, mostly modules
    for i, case in enumerate(cases):
        now = time.monotonic()
        if now >= end:
            results["not_measured"].append(str(case))
            continue
        until = now + (end - now) / (len(cases) - i)
        found = run_case(setup, case, rate, arguments.rounds, until)
        results[str(case)] = found | {"commit": about["commit"], "date": about["date"]}
        free_pretrained()
        free_memory()
        medians = [
            f"{name} {run['median_seconds']:.3f} s"
            for name, run in results[str(case)].get("contenders", {}).items()
        ]
        shown = f"{case} ({time.monotonic() - now:.0f} s): {', '.join(medians)}"
        print(shown, file=sys.stderr, flush=True)
        save(arguments, about, results)
    return results


def main() -> int:
    begin = time.monotonic()
    arguments = parse_arguments()
    if not (arguments.smoke or torch.cuda.is_available()):
        raise SystemExit("This machine has no CUDA device. --smoke runs on the CPU.")
    device = torch.device("cpu" if arguments.smoke else "cuda:0")
    about = {
        "benchmark": "gpu",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **common.commit(),
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "machine": card(device),
        "versions": common.versions(),
    }
    torch.manual_seed(0)  # for heads, dropout and order of the rivals
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        is_carried = CARRIED.is_dir() and not arguments.smoke
        inputs = carried_inputs() if is_carried else made_up_inputs(place)
        setup = Setup(device, inputs, place, arguments.smoke)
        results = run_all(setup, arguments, about, begin + 60 * arguments.minutes)
    save(arguments, about, results)
    print_report(results)
    common.print_bounds(bounds(results))
    here = about["machine"]
    print(f"\n{here['processor']}, {here['memory_gib']} GiB, {', '.join(here['flags'])}")
    print(", ".join(f"{package} {version}" for package, version in about["versions"].items()))
    if arguments.smoke:
        print("smoke run: the numbers above mean nothing")
    return int(any(found["errors"] for found in cases_of(results).values()))


if __name__ == "__main__":
    sys.exit(main())
