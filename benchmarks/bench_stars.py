"""Does `BertSentimentRegressor` make smaller mistakes with stars than a classifier of five classes?

The texts are IMDB documents whose authors wrote a rating, which is removed from the text; see
`_ratings.py`. The contenders have the same model, rows, epochs and random state. The classifier
predicts the most probable star and, from the same fit, the mean of the stars under its
probabilities. The training texts' median star is what a model must beat.

The mean absolute error and the root of the mean squared error are those of the predictions as they
are. The median of a distribution makes the first smallest, and the mean the second. For quadratic
kappa and the share that is exactly right, predictions are rounded to whole stars. No measure
depends on the load of the machine, so the results contain no times.

`--device cuda` fits on a GPU, in float32 as on a CPU, and the results keep its name. Without a
network, write the texts to a file with `--write-texts` on another machine, and read them with
`--texts`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import pandas as pd
import torch
from _ratings import rated_documents
from bench_windows import named
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, root_mean_squared_error
from sklearn.model_selection import train_test_split

from skbert import BertSentimentClassifier, BertSentimentRegressor

ORDINAL, SQUARED_ERROR, CLASSES, MEAN, MEDIAN = (
    "regressor, ordinal",
    "regressor, squared_error",
    "classifier, most probable star",
    "classifier, mean star",
    "median of the training texts",
)
MEASURES = {
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "kappa": "quadratic kappa",
    "exact": "exactly right",
}

# Results: name of a model -> contender -> {"seeds": [...], "mae": [...], "kappa": [...], ...}
Results = dict[str, dict[str, dict[str, Any]]]


def predictions(
    train: pd.DataFrame, test: pd.DataFrame, seed: int, arguments: Any
) -> Iterator[tuple[str, np.ndarray]]:
    """Fit each contender, and yield its name and predictions; each of shape (n_test,)."""
    yield MEDIAN, np.full(len(test), train["stars"].median())
    options = {
        "max_epochs": arguments.epochs or "auto",
        "device": arguments.device,
        "precision": "float32",
        "random_state": seed,
    }
    clf = BertSentimentClassifier(arguments.model, **options)
    probabilities = clf.fit(train["text"], train["stars"]).predict_proba(test["text"])
    yield CLASSES, clf.classes_[probabilities.argmax(axis=1)]
    yield MEAN, probabilities @ clf.classes_
    for name, loss in ((ORDINAL, "ordinal"), (SQUARED_ERROR, "squared_error")):
        reg = BertSentimentRegressor(arguments.model, loss=loss, **options)
        yield name, reg.fit(train["text"], train["stars"]).predict(test["text"])


def measures(stars: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Compute the measures of one contender; both of shape (n_test,)."""
    whole = np.rint(predicted).astype(int)
    # Kappa is 0 / 0 if all stars and all predictions are the same, as in a smoke run.
    with np.errstate(invalid="ignore"):
        kappa = cohen_kappa_score(stars, whole, weights="quadratic", labels=range(1, 6))
    return {
        "mae": float(mean_absolute_error(stars, predicted)),
        "rmse": float(root_mean_squared_error(stars, predicted)),
        "kappa": float(kappa),
        "exact": float((whole == stars).mean()),
    }


def run(texts: pd.DataFrame, arguments: Any, results: Results) -> Iterator[None]:
    """Measure what the arguments ask for, and yield after each seed; other models' results stay."""
    of_model = results[Path(arguments.model).name] = {}
    for seed in arguments.seeds:
        train, test = train_test_split(
            texts,
            train_size=arguments.n_train,
            test_size=arguments.n_test,
            stratify=texts["stars"],
            random_state=seed,
        )
        for name, predicted in predictions(train, test, seed, arguments):
            found = measures(test["stars"].to_numpy(), predicted)
            print(f"seed {seed}, {name}: {found}", file=sys.stderr, flush=True)
            about = {
                "n_train": len(train),
                "epochs": arguments.epochs or "auto",
                "device": device_name(arguments.device),
            }
            of_contender = of_model.setdefault(name, {**about, "seeds": []})
            of_contender["seeds"].append(seed)
            for measure, value in found.items():
                of_contender.setdefault(measure, []).append(value)
        yield


def device_name(device: str) -> str:
    """Name a GPU and its torch, or "cpu"; the results describe the CPU elsewhere."""
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"{torch.cuda.get_device_name()}, float32, torch {torch.__version__}"


def tables(results: Results) -> list[str]:
    """One table for each model: mean and standard deviation over the seeds."""
    found = []
    for model, of_model in results.items():
        first = next(iter(of_model.values()))
        n_draws = len(first["seeds"])
        header = [
            f"{model}, {first['n_train']} training texts, epochs: {first['epochs']}, "
            f"{n_draws} draw{'s' * (n_draws > 1)}, {first['device']}"
        ]
        rows = [
            [name, *(_cell(of_contender[measure]) for measure in MEASURES)]
            for name, of_contender in of_model.items()
        ]
        found.append(common.markdown_table([*header, *MEASURES.values()], rows))
    return found


def _cell(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def bounds(results: Results) -> list[common.Bound]:
    """The squared mistakes of regressors must be smaller than those of the most probable star."""
    found = []
    for model, of_model in results.items():
        rival = np.mean(of_model[CLASSES]["rmse"])
        for name in (SQUARED_ERROR, ORDINAL):
            if name in of_model:
                ratio = float(np.mean(of_model[name]["rmse"]) / rival)
                claim = f"{model}, RMSE of {name}, over that of the most probable star"
                found.append(common.Bound(claim, ratio, 1.0, at_least=False))
    return found


def parse_arguments() -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n-train", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--n-test", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, help="of all contenders; default: that of skbert")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--model", default=common.MODEL, help="name or folder")
    parser.add_argument("--texts", type=Path, help="CSV file with text and stars; default: IMDB")
    parser.add_argument("--write-texts", type=Path, help="write that file, and measure nothing")
    parser.add_argument("--smoke", action="store_true", help="a few texts, no results")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound fails")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.n_train, arguments.n_test, arguments.epochs, arguments.seeds = 16, 10, 1, [0]
    return arguments


def main() -> int:
    arguments = parse_arguments()
    texts = pd.read_csv(arguments.texts) if arguments.texts else rated_documents()
    if arguments.write_texts:
        texts.to_csv(arguments.write_texts, index=False)
        return 0
    path = common.RESULTS / "stars.json"
    kept = path.exists() and not arguments.smoke
    results: Results = json.loads(path.read_text())["results"] if kept else {}
    code = 0
    for _ in run(texts, arguments, results):  # finished seeds are kept if a later one is stopped
        print("", *tables(results), sep="\n\n")
        about = argparse.Namespace(**{k: named(v) for k, v in vars(arguments).items()})
        code = common.finish("stars", about, results, bounds(results), path)
    return code


if __name__ == "__main__":
    sys.exit(main())
