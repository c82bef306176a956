"""How accurate is each way to use BERT, with 0 to 2,048 labels, and how long does it take?

The contenders are a linear model on word counts; the same on the frozen mean vectors of
all-MiniLM-L6-v2; SetFit, which fine-tunes the same encoder with pairs of texts, with its defaults;
and `BertSentimentClassifier` with its defaults and with ``model=`` the plain encoder. Without a
label, only skbert can predict. The texts are Rotten Tomatoes, and each CSV file in the folder
`--data` with the columns ``text`` and ``sentiment``. A column ``source`` divides a file into
several sets, and a column ``split`` names the rows to test on ("test"). Other files are divided at
random.

Each seed draws other labels, the same for all contenders, and the same number of each class. SetFit
makes a pair of all labels with each other, so its time grows with their square: by default it runs
with at most 64 labels, where it takes minutes on two cores.

`--device cuda` fits BERT on a GPU. skbert then computes in float32, as on a CPU. The results keep
the name of the device, and the tables mark them.

The results are of several runs: each one replaces the cells that it measures, and stores its commit
with them. With `--beside-other-work`, it stores no seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.datasets import load_movie_reviews
from skbert.engine.files.find import SENTIMENT_START

N_TEST = 1500
SIZES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
TFIDF, FROZEN, SETFIT, DEFAULT, PLAIN = (
    "TF-IDF + LogisticRegression",
    "frozen mean + LogisticRegression",
    "SetFit",
    "skbert, default",
    "skbert, plain encoder",
)


@dataclass(frozen=True)
class TextSet:
    """Labelled texts of one domain, divided into rows to draw from and rows to test on."""

    name: str
    train: pd.DataFrame
    test: pd.DataFrame

    @property
    def n_classes(self) -> int:
        return self.train["sentiment"].nunique()


def divided(name: str, texts: pd.DataFrame) -> TextSet:
    """Shuffle, and set test rows aside."""
    texts = texts.sample(frac=1, random_state=0)
    is_test = (
        texts["split"] == "test"
        if "split" in texts
        else np.arange(len(texts)) < min(N_TEST, len(texts) // 2)
    )
    return TextSet(name, texts[~is_test], texts[is_test][:N_TEST])


def text_sets(folder: Path | None) -> list[TextSet]:
    found = [divided("Rotten Tomatoes", load_movie_reviews("rotten_tomatoes"))]
    for path in sorted(folder.glob("*.csv")) if folder else ():
        texts = pd.read_csv(path)
        sources = texts.groupby("source") if "source" in texts else [(path.stem, texts)]
        found += [divided(str(name), rows) for name, rows in sources]
    return found


def draw(texts: pd.DataFrame, n_labels: int, seed: int) -> pd.DataFrame:
    """Draw the same number of texts of each sentiment, or one more of the first ones."""
    shuffled = texts.sample(frac=1, random_state=seed)
    rank = shuffled.groupby("sentiment").cumcount()
    order = np.lexsort([shuffled["sentiment"], rank])  # one of each class, then another of each
    return shuffled.iloc[order[:n_labels]].sample(frac=1, random_state=seed)


Model = Any  # anything with fit and predict


def new_tfidf(seed: int, device: str) -> Model:
    return make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))


def new_frozen(seed: int, device: str) -> Model:
    vectors = BertEmbeddingTransformer(
        common.MODEL, pooling="mean", device=device, precision="float32"
    )
    return make_pipeline(vectors, LogisticRegression(max_iter=1000))


class SetFit:
    """SetFit with its defaults, as an estimator."""

    def __init__(self, seed: int, device: str) -> None:
        self._seed, self._device = seed, device

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        from datasets import Dataset, disable_progress_bars
        from setfit import SetFitModel, Trainer, TrainingArguments

        disable_progress_bars()
        self._model = SetFitModel.from_pretrained(common.model_folder(), device=self._device)
        rows = Dataset.from_dict({"text": list(texts), "label": list(labels)})
        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                folder, seed=self._seed, report_to="none", show_progress_bar=False
            )
            Trainer(model=self._model, args=options, train_dataset=rows).train()

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        return np.array(self._model.predict(list(texts), show_progress_bar=False))


def new_default(seed: int, device: str) -> Model:
    return BertSentimentClassifier(device=device, precision="float32", random_state=seed)


def new_plain(seed: int, device: str) -> Model:
    return BertSentimentClassifier(
        common.MODEL, device=device, precision="float32", random_state=seed
    )


CONTENDERS: dict[str, Callable[[int, str], Model]] = {
    TFIDF: new_tfidf,
    FROZEN: new_frozen,
    SETFIT: SetFit,
    DEFAULT: new_default,
    PLAIN: new_plain,
}


def without_labels(test: pd.DataFrame, device: str) -> dict[str, Any]:
    """Accuracy and expected calibration error of the classifier that skbert contains."""
    known = test[test["sentiment"].isin(["negative", "positive"])]
    clf = BertSentimentClassifier.from_pretrained(
        SENTIMENT_START, device=device, precision="float32"
    )
    probabilities = clf.predict_proba(known["text"])
    is_right = clf.classes_[probabilities.argmax(axis=1)] == known["sentiment"].to_numpy()
    return {
        "n_test": len(known),
        "accuracy": float(is_right.mean()),
        "calibration_error": calibration_error(probabilities.max(axis=1), is_right),
        **common.commit(),
        **described(device),
    }


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error [1]_: mean distance of confidence and accuracy in equal bins.

    .. [1] C. Guo et al. On Calibration of Modern Neural Networks. ICML 2017, arXiv:1706.04599.
    """
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return float(
        sum(
            abs(is_right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins)
        )
    )


def measure(
    new: Callable[[int], Model], texts: TextSet, n_labels: int, seed: int
) -> tuple[float, float]:
    """Accuracy on the test rows, and seconds of the fit."""
    labelled = draw(texts.train, n_labels, seed)
    model = new(seed)
    start = time.perf_counter()
    model.fit(labelled["text"].tolist(), labelled["sentiment"].tolist())
    seconds = time.perf_counter() - start
    predicted = np.asarray(model.predict(texts.test["text"].tolist()))
    return float((predicted == texts.test["sentiment"].to_numpy()).mean()), seconds


# Results: set -> contender -> number of labels -> {"accuracies": [...], "seconds": [...], "commit":
# ..., "dirty": ...}, without "seconds" if something ran beside, and with "device" if it was not a
# CPU. Older cells have no "commit".
Results = dict[str, dict[str, dict[str, dict[str, Any]]]]


def run(arguments: Any, results: Results) -> None:
    """Measure what the arguments ask for; other results stay."""
    for texts in text_sets(arguments.data):
        if arguments.sets and texts.name not in arguments.sets:
            continue
        if arguments.smoke:
            texts = TextSet(texts.name, texts.train[:200], texts.test[:20])
        of_set = results.setdefault(texts.name, {})
        if 0 in arguments.sizes:
            of_set.setdefault(DEFAULT, {})["0"] = without_labels(texts.test, arguments.device)
        for name in arguments.contenders:
            for n_labels in sizes_for(name, texts, arguments):
                new = partial(CONTENDERS[name], device=arguments.device)
                found = [measure(new, texts, n_labels, seed) for seed in arguments.seeds]
                accuracies, seconds = zip(*found, strict=True)
                of_set.setdefault(name, {})[str(n_labels)] = {
                    "seeds": arguments.seeds,
                    "n_test": len(texts.test),
                    "accuracies": accuracies,
                    **common.commit(),
                    **({} if arguments.beside_other_work else {"seconds": seconds}),
                    **({} if name == TFIDF else described(arguments.device)),
                }
                print(
                    f"{texts.name}, {name}, {n_labels} labels: {np.mean(accuracies):.3f} "
                    f"in {np.median(seconds):.1f} s",
                    flush=True,
                )


def described(device: str) -> dict[str, str]:
    """Describe a device that is not a CPU; the results describe the CPU elsewhere."""
    if device == "cpu":
        return {}
    name = torch.cuda.get_device_name(device)
    return {"device": f"{name}, float32, torch {torch.__version__}"}


def sizes_for(name: str, texts: TextSet, arguments: Any) -> list[int]:
    """Numbers of labels for a contender: not 0, and no more than the set or its time allows."""
    most = arguments.setfit_most if name == SETFIT else len(texts.train)
    sizes = [n for n in arguments.sizes if texts.n_classes <= n <= most]
    return [*sizes, len(texts.train)] if arguments.all and name != SETFIT else sizes


def accuracy_tables(results: Results) -> list[str]:
    """One table for each set: mean and standard deviation over the seeds, and median seconds."""
    tables = []
    for name, of_set in results.items():
        numbers = sorted({int(n) for found in of_set.values() for n in found})
        header = [f"{name}, accuracy (s) by number of labels", *(f"{n:,}" for n in numbers)]
        rows = [
            [contender, *(_cell(found.get(str(n))) for n in numbers)]
            for contender, found in of_set.items()
        ]
        cells = [cell for found in of_set.values() for cell in found.values()]
        devices = sorted({cell["device"] for cell in cells if "device" in cell})
        note = f"\n\n† on {'; '.join(devices)}." if devices else ""
        tables.append(common.markdown_table(header, rows) + note)
    return tables


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    mark = " †" * ("device" in found)
    if "accuracy" in found:
        return f"{found['accuracy']:.3f}{mark}"
    mean, spread = np.mean(found["accuracies"]), np.std(found["accuracies"], ddof=1)
    # Without seconds, other programs ran beside the benchmark.
    seconds = f" ({np.median(found['seconds']):.0f})" if "seconds" in found else ""
    return f"{mean:.3f} ± {spread:.3f}{seconds}{mark}"


def bounds(results: Results) -> list[common.Bound]:
    """At every size, the default must not be below a rival by more than their spreads."""
    found = []
    for name, of_set in results.items():
        ours = of_set.get(DEFAULT, {})
        for rival in (TFIDF, FROZEN, SETFIT, PLAIN):
            margins = [
                np.mean(ours[n]["accuracies"])
                - np.mean(theirs["accuracies"])
                + np.hypot(
                    np.std(ours[n]["accuracies"], ddof=1), np.std(theirs["accuracies"], ddof=1)
                )
                for n, theirs in of_set.get(rival, {}).items()
                if n in ours
            ]
            if margins:
                claim = f"{name}, least lead over {rival}, with one standard deviation"
                found.append(common.Bound(claim, float(min(margins)), 0.0))
    return found


def parse_arguments() -> Any:
    parser = common.argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with more sets, as CSV files")
    parser.add_argument("--sets", nargs="+", help="names of the sets; default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labels")
    parser.add_argument("--all", action="store_true", help="also with all labels of each set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--setfit-most", type=int, default=64, help="labels; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="for BERT; default: %(default)s")
    parser.add_argument(
        "--beside-other-work", action="store_true", help="store no seconds, which would be too long"
    )
    parser.add_argument("--smoke", action="store_true", help="a few texts, no results")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound fails")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.sizes, arguments.seeds = (0, 8), [0, 1]
    return arguments


def main() -> int:
    arguments = parse_arguments()
    path = common.RESULTS / "few_labels.json"
    kept = path.exists() and not arguments.smoke
    results: Results = json.loads(path.read_text())["results"] if kept else {}
    run(arguments, results)
    print("", *accuracy_tables(results), sep="\n\n")
    arguments.data = arguments.data and arguments.data.name  # the results name no folder
    return common.finish("few_labels", arguments, results, bounds(results), path)


if __name__ == "__main__":
    sys.exit(main())
