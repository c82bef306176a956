"""How does time grow with the number of texts, their length and the layers of the model?

Without padding, work is linear in tokens except in attention, which is quadratic in the length of a
text, but small at these lengths. The benchmark fits each series with a line, and reports R2, and
with a power, and reports the exponent, which is the slope in log-log coordinates; 1 is linear.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common as common
import numpy as np

from skbert import BertSentimentClassifier
from skbert.engine.files.pretrained import load_pretrained

LARGEST_EXPONENT = 1.15  # of the time against tokens
SMALLEST_R2 = 0.97


@dataclass(frozen=True)
class Point:
    """One size of a series, and its contender."""

    size: float
    contender: common.Contender


@dataclass(frozen=True)
class Series:
    """The sizes of one quantity, and their times."""

    name: str
    unit: str
    points: list[Point]


def classifier(model: str = common.MODEL, **parameters: Any) -> BertSentimentClassifier:
    settings = {
        "pooling": "cls",
        "max_epochs": 1,
        "batch_size": 32,
        "truncation": "head",
        "device": "cpu",
        "random_state": 0,
    }
    return BertSentimentClassifier(model, **(settings | parameters))


def fit_point(
    name: str, size: float, texts: list[str], labels: list[int], **parameters: Any
) -> Point:
    def prepare() -> Callable[[], Any]:
        estimator = classifier(**parameters)
        load_pretrained(estimator.model)  # load it into memory
        common.forget_words(estimator.model)
        return lambda: estimator.fit(texts, labels)

    return Point(size, common.Contender(f"{name} {size:g}", prepare))


def predict_point(
    name: str, size: float, fitted: BertSentimentClassifier, texts: list[str]
) -> Point:
    def prepare() -> Callable[[], Any]:
        estimator = copy.deepcopy(fitted)  # without the tokenizer's cache of words
        return lambda: estimator.predict_proba(texts)

    return Point(size, common.Contender(f"{name} {size:g}", prepare))


def n_tokens(texts: list[str], max_length: int = common.MAX_LENGTH) -> int:
    subword_tokenizer = load_pretrained(common.MODEL).subword_tokenizer
    return len(subword_tokenizer(texts, max_length=max_length, truncation="head").ids)


# Series -------------------------------------------------------------------------------------


def number_of_texts(
    n_texts: int, shares: tuple[float, ...], fitted: BertSentimentClassifier
) -> list[Series]:
    """Shares of `n_texts` sentences in `fit`, of four times as many in `predict`."""
    data = common.load_split(4 * n_texts, 2)
    fits, predictions = [], []
    for share in shares:
        n_fit, n_predict = round(share * n_texts), round(4 * share * n_texts)
        texts, labels = data.train_texts[:n_fit], data.train_labels[:n_fit]
        fits.append(fit_point("fit: tokens", n_tokens(texts), texts, labels))
        texts = data.train_texts[:n_predict]
        predictions.append(predict_point("predict: tokens", n_tokens(texts), fitted, texts))
    return [
        Series("fit, number of texts", "tokens", fits),
        Series("predict, number of texts", "tokens", predictions),
    ]


def length_of_texts(
    n_texts: int, lengths: tuple[int, ...], fitted: BertSentimentClassifier
) -> list[Series]:
    """Documents, all cut to the same number of tokens."""
    texts, labels = common.long_texts(n_texts)
    fits, predictions = [], []
    for length in lengths:
        size = n_tokens(texts, length)
        fits.append(fit_point("fit: length, tokens", size, texts, labels, max_length=length))
        cutting = copy.deepcopy(fitted).set_params(max_length=length)
        predictions.append(predict_point("predict: length, tokens", size, cutting, texts))
    return [
        Series("fit, length of texts", "tokens", fits),
        Series("predict, length of texts", "tokens", predictions),
    ]


def number_of_layers(n_texts: int, folder: Path, layers: tuple[int, ...]) -> list[Series]:
    """Sentences, on the lowest layers of the default model."""
    data = common.load_split(n_texts, 2)
    points = []
    for n_layers in layers:
        model = save_lowest_layers(folder / str(n_layers), n_layers)
        points.append(
            fit_point("fit: layers", n_layers, data.train_texts, data.train_labels, model=model)
        )
    return [Series("fit, number of layers", "layers", points)]


def save_lowest_layers(folder: Path, n_layers: int) -> str:
    pretrained = load_pretrained(common.MODEL)
    encoder = pretrained.new_encoder()
    encoder.encoder.layer = encoder.encoder.layer[:n_layers]
    encoder.config.num_hidden_layers = n_layers
    encoder.save_pretrained(folder)
    pretrained.new_tokenizer().save_pretrained(folder)
    return str(folder)


# Report -------------------------------------------------------------------------------------


def fitted_line(series: Series, timings: common.Timings) -> dict[str, Any]:
    """Slope, intercept and R2 of a line through the medians, and the log-log exponent."""
    sizes = np.array([point.size for point in series.points], dtype=float)
    seconds = np.array([timings.median(point.contender.name) for point in series.points])
    slope, intercept = np.polyfit(sizes, seconds, 1)
    residuals = seconds - (slope * sizes + intercept)
    exponent, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return {
        "unit": series.unit,
        "sizes": sizes.tolist(),
        "median_seconds": seconds.tolist(),
        "seconds": [timings.seconds[point.contender.name] for point in series.points],
        "slope": float(slope),
        "intercept": float(intercept),
        "r2": float(1 - residuals.var() / seconds.var()),
        "exponent": float(exponent),
    }


def print_series(lines: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, line in lines.items():
        sizes = ", ".join(f"{size:g}" for size in line["sizes"])
        seconds = ", ".join(f"{median:.3f}" for median in line["median_seconds"])
        slope = f"{line['slope'] * 1e3:.3f} ms/{line['unit'].removesuffix('s')}"
        row = [name, f"{sizes} {line['unit']}", seconds, slope]
        rows.append([*row, f"{line['r2']:.4f}", f"{line['exponent']:.2f}"])
    common.print_table(["series", "sizes", "median s", "slope", "R2", "exponent"], rows)


def bounds(lines: dict[str, dict[str, Any]]) -> list[common.Bound]:
    found = []
    for name, line in lines.items():
        found.append(common.Bound(f"{name}: R2 of a line", line["r2"], SMALLEST_R2))
        if line["unit"] == "tokens":
            claim = f"{name}: exponent of the time"
            bound = common.Bound(claim, line["exponent"], LARGEST_EXPONENT, at_least=False)
            found.append(bound)
    return found


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=3, n_texts=512)
    shares, lengths, layers = (0.125, 0.25, 0.5, 1.0), (16, 32, 64, 128, 256), (1, 2, 3, 4, 5, 6)
    if arguments.smoke:
        shares, lengths, layers = (0.5, 1.0), (8, 32), (1, 6)
    few = common.load_split(4, 2)
    fitted = classifier().fit(few.train_texts, few.train_labels)
    with tempfile.TemporaryDirectory() as folder:
        all_series = [
            *number_of_texts(arguments.n_texts, shares, fitted),
            *length_of_texts(max(arguments.n_texts // 8, 2), lengths, fitted),
            *number_of_layers(max(arguments.n_texts // 4, 2), Path(folder), layers),
        ]
        contenders = [point.contender for series in all_series for point in series.points]
        timings = common.run_rounds(contenders, arguments.rounds)
    lines = {series.name: fitted_line(series, timings) for series in all_series}
    print_series(lines)
    return common.finish("scaling", arguments, lines, bounds(lines))


if __name__ == "__main__":
    sys.exit(main())
