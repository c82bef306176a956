"""How accurate, large and fast are the graphs of `to_onnx`, in float32 and in int8?

skbert writes its sentiment start twice. ONNX Runtime computes the probabilities of reviews, which
that model has not seen, from both files, with the tokenizer that lies beside them, as
docs/guide/onnx.md shows. In float32, they must equal those of `predict_proba` within 1e-5; of int8,
the benchmark measures the accuracy.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import _common as common
import numpy as np
import onnxruntime
import tokenizers
import torch

from skbert import BertSentimentClassifier

TOLERANCE = 1e-5
BATCH_SIZE = 32
MODEL = "skbert/minilm-sentiment"

Predict = Callable[[], np.ndarray]


def onnx_predict(path: Path, texts: list[str]) -> Predict:
    """ONNX Runtime with the tokenizer beside the graph: longest texts first, padded batches."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(texts: list[str] = texts) -> np.ndarray:
        order = np.argsort([-len(text) for text in texts], kind="stable")
        found = np.empty((len(texts), 2), dtype=np.float32)
        for start in range(0, len(texts), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            encoded = tokenizer.encode_batch([texts[row] for row in rows])
            inputs = {
                "input_ids": np.array([row.ids for row in encoded]),
                "attention_mask": np.array([row.attention_mask for row in encoded]),
            }
            found[rows] = session.run(["probabilities"], inputs)[0]
        return found

    run(texts[:BATCH_SIZE])  # a new session's first run allocates its memory
    return run


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=3, n_texts=1000)
    data = common.load_split(2, arguments.n_texts)
    texts, labels = data.test_texts, np.array(data.test_labels)
    fitted = BertSentimentClassifier.from_pretrained(MODEL, device="cpu", precision="float32")

    def accuracy(probabilities: np.ndarray) -> float:
        return float((probabilities.argmax(axis=1) == labels).mean())

    with tempfile.TemporaryDirectory() as name:
        paths = {kind: Path(name) / f"{kind}.onnx" for kind in ("float32", "int8")}
        for kind, path in paths.items():
            fitted.to_onnx(path, quantize=kind == "int8")
        megabytes = {kind: path.stat().st_size / 1e6 for kind, path in paths.items()}
        expected = fitted.predict_proba(texts)
        found = {kind: onnx_predict(path, texts)() for kind, path in paths.items()}
        differences = {kind: np.abs(proba - expected) for kind, proba in found.items()}
        largest = {kind: float(difference.max()) for kind, difference in differences.items()}
        assert largest["float32"] < TOLERANCE, f"float32 differs by {largest['float32']:.1e}"
        contenders = [
            common.Contender(
                "skbert", lambda: lambda: fitted.predict_proba(texts), "", accuracy, len(texts)
            ),
            *(
                common.Contender(
                    f"ONNX Runtime, {kind}",
                    lambda path=path: onnx_predict(path, texts),
                    "longest first, batches of 32",
                    accuracy,
                    len(texts),
                )
                for kind, path in paths.items()
            ),
        ]
        timings = common.run_rounds(contenders, arguments.rounds)

    common.print_timings(timings, contenders, "skbert")
    accuracies = {kind: accuracy(proba) for kind, proba in found.items()}
    same = float((found["int8"].argmax(1) == found["float32"].argmax(1)).mean())
    print(f"\naccuracy: float32 {accuracies['float32']:.4f}, int8 {accuracies['int8']:.4f}")
    print(f"equal predictions: {same:.4f}; largest differences of probabilities: {largest}")
    print(f"size: float32 {megabytes['float32']:.1f} MB, int8 {megabytes['int8']:.1f} MB")
    speedup = timings.speedup("ONNX Runtime, int8", "ONNX Runtime, float32")
    print(f"int8 is {speedup:.2f} times as fast as float32 in ONNX Runtime")
    bounds = [
        common.Bound("onnx, float32, difference", largest["float32"], TOLERANCE, at_least=False),
        common.Bound(
            "onnx, accuracy of int8 minus float32",
            accuracies["int8"] - accuracies["float32"],
            -0.01,
        ),
        common.Bound(
            "onnx, size of int8 over float32",
            megabytes["int8"] / megabytes["float32"],
            0.27,
            at_least=False,
        ),
    ]
    results = {
        "contenders": common.describe_timings(timings, contenders, "skbert"),
        "accuracies": accuracies,
        "equal_predictions": same,
        "largest_differences": largest,
        "megabytes": megabytes,
        "int8_times_as_fast": speedup,
    }
    return common.finish("onnx", arguments, results, bounds)


if __name__ == "__main__":
    sys.exit(main())
