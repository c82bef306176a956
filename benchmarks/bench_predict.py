"""How fast is `predict_proba` of new sentences, with the same fine-tuned model everywhere?

skbert fine-tunes for a few steps, and all contenders use these weights. Before timing, all must
return the same probabilities, within 1e-4. ``--family distilbert roberta`` compares skbert with the
pipeline on random weights of the shapes of other published models.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import _common as common
import numpy as np
import onnxruntime
import torch
from _shapes import SHAPES, save_shape
from scipy.special import softmax
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from skbert import BertSentimentClassifier, free_pretrained
from skbert.engine.model import onednn

TOLERANCE = 1e-4
PIPELINE = "transformers pipeline"
BATCH_SIZE = 32  # sentence-transformers' default, also for the pipeline
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Predict = Callable[[], np.ndarray]

logging.getLogger("torch.onnx").setLevel(
    logging.ERROR
)  # about torchvision, which is unnecessary here


# The same weights for all contenders --------------------------------------------------------


def save_for_transformers(fitted: BertSentimentClassifier, folder: Path) -> None:
    """Save as a `BertForSequenceClassification` with the same logits.

    That class has a pooler, tanh(P x + b), between [CLS] and its linear layer; skbert has none.
    With P = 2^-12 and b = 0, the pooler is x / 4096 up to a relative error of (x / 4096)^2 / 3,
    which is below float32 rounding. A linear layer with 4096 times the weights reverts it without
    rounding, because 4096 is a power of two. The pooler costs d_model^2 products per text, under
    1 % of the model's.
    """
    config = fitted.model_.config
    config.num_labels = len(fitted.classes_)
    classifier = BertForSequenceClassification(config)
    classifier.bert.load_state_dict(fitted.model_.state_dict(), strict=False)
    with torch.no_grad():
        classifier.bert.pooler.dense.weight.copy_(torch.eye(config.hidden_size) * 2**-12)
        classifier.bert.pooler.dense.bias.zero_()
        classifier.classifier.weight.copy_(fitted.head_.weight * 2**12)
        classifier.classifier.bias.copy_(fitted.head_.bias)
    classifier.save_pretrained(folder)
    fitted.tokenizer_.save_pretrained(folder)


class LogitsModule(nn.Module):
    """Encoder and head of skbert as one module over padded input, for the ONNX export."""

    def __init__(self, fitted: BertSentimentClassifier) -> None:
        super().__init__()
        self.encoder, self.head = fitted.model_, fitted.head_

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> torch.Tensor:
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        return self.head(states[:, 0])


def export_onnx(fitted: BertSentimentClassifier, path: Path) -> None:
    """Export with torch.onnx, for any batch size and length."""
    tokenizer = fitted.tokenizer_
    example = tokenizer(["one", "some more words"], padding=True, return_tensors="pt")
    axes = {name: {0: "n_texts", 1: "length"} for name in INPUTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            LogitsModule(fitted).eval(),
            tuple(example[name] for name in INPUTS),
            path,
            input_names=INPUTS,
            output_names=["logits"],
            dynamic_shapes=axes,
            dynamo=True,
            verbose=False,
        )


# Contenders ---------------------------------------------------------------------------------


def skbert_predict(fitted: BertSentimentClassifier, texts: list[str]) -> Predict:
    """Predict with a fresh copy, because a pickle does not contain the tokenizer's cache."""
    copy = pickle.loads(pickle.dumps(fitted))
    return lambda: copy.predict_proba(texts)


def pipeline_predict(folder: Path, texts: list[str], *, is_sorted: bool) -> Predict:
    classify = pipeline(
        "text-classification", str(folder), tokenizer=str(folder), device="cpu", dtype=torch.float32
    )

    def run() -> np.ndarray:
        order = longest_first(texts) if is_sorted else np.arange(len(texts))
        results = classify(
            [texts[i] for i in order],
            batch_size=BATCH_SIZE,
            top_k=None,
            truncation=True,
            max_length=common.MAX_LENGTH,
        )
        probabilities = np.empty((len(texts), 2))
        for row, scores in zip(order, results, strict=True):
            by_label = {score["label"]: score["score"] for score in scores}
            probabilities[row] = [by_label[label] for label in sorted(by_label)]
        return probabilities

    return run


def longest_first(texts: list[str]) -> np.ndarray:
    """Order by characters, as sentence-transformers does."""
    return np.argsort([-len(text) for text in texts], kind="stable")


def sentence_transformers_predict(
    folder: Path, fitted: BertSentimentClassifier, texts: list[str]
) -> Predict:
    """[CLS] vectors of `encode`, then the linear layer in numpy."""
    transformer = Transformer(str(folder), max_seq_length=common.MAX_LENGTH)
    pooling = Pooling(fitted.model_.config.hidden_size, pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    weight, bias = (
        fitted.head_.get_parameter(name).detach().numpy() for name in ("weight", "bias")
    )

    def run() -> np.ndarray:
        vectors = model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)
        return softmax(vectors @ weight.T + bias, axis=1)

    return run


def onnx_predict(folder: Path, texts: list[str]) -> Predict:
    """ONNX Runtime in float32: all texts tokenized at once, sorted, padded batch by batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )

    def run(texts: list[str] = texts) -> np.ndarray:
        encoded = tokenizer(texts, truncation=True, max_length=common.MAX_LENGTH)
        order = np.argsort([-len(ids) for ids in encoded["input_ids"]], kind="stable")
        logits = np.empty((len(texts), 2), dtype=np.float32)
        for start in range(0, len(texts), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            features = {name: [encoded[name][row] for row in rows] for name in INPUTS}
            padded = tokenizer.pad(features, return_tensors="np")
            feed = {name: padded[name].astype(np.int64) for name in INPUTS}
            logits[rows] = session.run(None, feed)[0]
        return softmax(logits, axis=1)

    run(texts[:BATCH_SIZE])  # a new session's first run allocates its memory
    return run


def all_contenders(
    fitted: BertSentimentClassifier, folder: Path, texts: list[str]
) -> list[common.Contender]:
    def contender(name: str, prepare: Callable[[], Predict], settings: str) -> common.Contender:
        return common.Contender(name, prepare, settings, n_texts=len(texts))

    return [
        contender("skbert", lambda: skbert_predict(fitted, texts), "predict_proba, defaults"),
        contender(
            PIPELINE,
            lambda: pipeline_predict(folder, texts, is_sorted=False),
            "text-classification, batch_size=32, texts as they come",
        ),
        contender(
            "transformers pipeline, sorted",
            lambda: pipeline_predict(folder, texts, is_sorted=True),
            "text-classification, batch_size=32, longest texts first",
        ),
        contender(
            "sentence-transformers",
            lambda: sentence_transformers_predict(folder, fitted, texts),
            "encode with its defaults: longest first, batch_size=32; then the linear layer",
        ),
        contender(
            "ONNX Runtime",
            lambda: onnx_predict(folder, texts),
            "float32, all graph optimizations, all cores; longest first, batches of 32",
        ),
    ]


def check_equal(contenders: list[common.Contender]) -> dict[str, float]:
    """Run each contender once, as a warm-up; all must return skbert's probabilities."""
    results = {contender.name: contender.prepare()() for contender in contenders}
    expected = results["skbert"]
    differences = {name: float(np.abs(result - expected).max()) for name, result in results.items()}
    assert np.ptp(expected[:, 0]) > 0.01, "the probabilities say nothing: all texts get the same"
    for name, difference in differences.items():
        assert difference < TOLERANCE, f"{name} differs from skbert by {difference:.1e}"
    print(f"probabilities agree: largest difference {max(differences.values()):.1e}\n")
    return differences


# Report -------------------------------------------------------------------------------------


def matrix_limits(
    fitted: BertSentimentClassifier, texts: list[str], smoke: bool
) -> tuple[list[common.MatrixLimit], float]:
    """Limits for the batches that skbert computes, and the number of operations they need.

    One limit uses torch.mm; if skbert uses oneDNN, another limit uses oneDNN.
    """
    with common.recorded_logits() as calls:
        fitted.predict_proba(texts)
    sizes = common.Sizes.of(fitted.model_.config, n_classes=2)
    n_tokens, n_texts = common.typical_batch(calls)
    products = common.linear_products(sizes, n_tokens, n_texts, training=False)
    lengths = np.concatenate([call.lengths for call in calls])
    seconds = 0.1 if smoke else 2.0
    limits = [common.MatrixLimit(products, seconds)]
    with contextlib.suppress(RuntimeError):
        limits.append(common.OneDnnLimit(products, seconds))
    return limits, common.needed_flops(sizes, lengths, training=False)


# Other families -----------------------------------------------------------------------------


def with_other_products(fitted: BertSentimentClassifier, texts: list[str]) -> common.Contender:
    """skbert with oneDNN where it does not use it, and without where it does."""
    other = not onednn.is_faster()

    def prepare() -> Predict:
        predict = skbert_predict(fitted, texts)

        def run() -> np.ndarray:
            with mock.patch.object(onednn, "is_faster", lambda: other):
                return predict()

        return run

    name = f"skbert, {'with' if other else 'without'} oneDNN"
    return common.Contender(name, prepare, "predict_proba, defaults", n_texts=len(texts))


def compare_family(name: str, arguments: Any) -> dict[str, Any]:
    """Compare skbert with the pipeline on the shape of a published model."""
    data = common.load_split(8, arguments.n_texts)
    with tempfile.TemporaryDirectory() as place:
        start, folder = Path(place) / "start", Path(place) / "fitted"
        n_parameters = save_shape(SHAPES[name], start, Path(common.model_folder()))
        fitted = BertSentimentClassifier(
            str(start), max_epochs=1, batch_size=8, learning_rate=1e-4, device="cpu", random_state=0
        ).fit(data.train_texts, data.train_labels)
        fitted.save_pretrained(folder)
        free_pretrained()  # each copy of a large model counts
        contenders = all_contenders(fitted, folder, data.test_texts)[:3]
        contenders.append(with_other_products(fitted, data.test_texts))
        differences = check_equal(contenders)
        timings = common.run_rounds(contenders, arguments.rounds)
    print(f"{name}, {n_parameters / 1e6:.0f} million parameters")
    common.print_timings(timings, contenders, "skbert")
    return {
        "n_parameters": n_parameters,
        "contenders": common.describe_timings(timings, contenders, "skbert"),
        "largest_differences": differences,
    }


def compare_families(arguments: Any) -> int:
    """Compare skbert with the pipeline on each shape; results of other shapes stay."""
    path = common.results_of_machine("predict_families")
    kept = path.exists() and not arguments.smoke
    results = json.loads(path.read_text())["results"] if kept else {}
    for name in arguments.family:
        results[name] = compare_family(name, arguments)
    speedups = {
        name: found["contenders"][PIPELINE]["speedup_of_skbert"] for name, found in results.items()
    }
    bounds = [
        common.Bound(f"predict, {name}, times as fast as {PIPELINE}", speedup, 2.0)
        for name, speedup in speedups.items()
    ]
    return common.finish("predict_families", arguments, results, bounds)


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=7, n_texts=1024, families=SHAPES)
    if arguments.family:
        return compare_families(arguments)
    data = common.load_split(128, arguments.n_texts)
    n_train = 8 if arguments.smoke else 128
    fitted = BertSentimentClassifier(
        common.MODEL,
        pooling="cls",
        max_epochs=1,
        batch_size=32,
        learning_rate=2e-4,
        device="cpu",
        random_state=0,
    ).fit(data.train_texts[:n_train], data.train_labels[:n_train])
    texts = data.test_texts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_for_transformers(fitted, folder)
        export_onnx(fitted, folder / "model.onnx")
        contenders = all_contenders(fitted, folder, texts)
        differences = check_equal(contenders)
        limits, flops = matrix_limits(fitted, texts, arguments.smoke)
        contenders += [limit.contender() for limit in limits]
        timings = common.run_rounds(contenders, arguments.rounds)

    shares = {limit.name: limit.share(timings, "skbert", flops) for limit in limits}
    common.print_timings(timings, contenders, "skbert")
    for limit in limits:
        print(
            f"\n{limit.name}: {np.median(limit.rates(timings)) / 1e9:.1f} GFLOP/s; the texts need "
            f"{flops / 1e9:.0f} GFLOP; skbert reaches {shares[limit.name]:.0%} of that limit"
        )
    at_least = {"transformers pipeline": 2.2, "sentence-transformers": 1.5, "ONNX Runtime": 1.15}
    bounds = [
        common.Bound(f"predict, times as fast as {name}", timings.speedup("skbert", name), limit)
        for name, limit in at_least.items()
    ]
    bounds.append(
        common.Bound("predict, share of the matrix-product limit", shares[limits[0].name], 0.85)
    )
    results = {
        "contenders": common.describe_timings(timings, contenders, "skbert"),
        "largest_differences": differences,
        "needed_flops": flops,
        "limit_flops_per_second": {limit.name: limit.rates(timings).tolist() for limit in limits},
        "share_of_limit": shares,
    }
    return common.finish("predict", arguments, results, bounds)


if __name__ == "__main__":
    sys.exit(main())
