"""How accurate are windows of long reviews, and head and tail, if both cost the same?

The texts are IMDB documents of more than 1,800 characters, about 400 tokens. Each contender reads
at most as many tokens of a text as its rival: one sequence of 256 tokens, or two windows of 128;
one of 512, or four windows of 128. For comparison, head and tail of 128 tokens. All have the
same model, the same number of epochs, and for each seed the same training texts. The test texts
are the same for all. The model is the plain encoder, because skbert's default model has learned
from these documents.

Accuracies do not depend on the load of the machine, so the results contain no times. The cost is
the number of tokens that an epoch computes, of which attention makes those of long sequences more
expensive.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from skbert import BertSentimentClassifier


@dataclass(frozen=True)
class Way:
    """A way to read a long text."""

    name: str
    cost: int  # tokens of a long text
    parameters: dict[str, Any]


def head_and_tail(max_length: int) -> Way:
    name = f"head+tail, {max_length} tokens"
    return Way(name, max_length, {"truncation": "head+tail", "max_length": max_length})


def in_windows(max_windows: int, max_length: int) -> Way:
    parameters = {"truncation": "windows", "max_windows": max_windows, "max_length": max_length}
    return Way(f"{max_windows} windows of {max_length}", max_windows * max_length, parameters)


WAYS = (
    head_and_tail(256),
    in_windows(2, 128),
    head_and_tail(128),
    head_and_tail(512),
    in_windows(4, 128),
)

COSTS = (128, 256, 512)

# Results: name of a way -> {"cost": ..., "n_train": ..., "accuracies": [...], "n_tokens": [...]}
Results = dict[str, dict[str, Any]]


def measure(way: Way, split: common.Split, seed: int, arguments: Any) -> dict[str, float]:
    """Fit, and compute the accuracy on the test texts and the number of tokens of an epoch."""
    clf = BertSentimentClassifier(
        arguments.model,
        **way.parameters,
        max_epochs=arguments.epochs,
        device=arguments.device,
        random_state=seed,
    )
    clf.fit(split.train_texts, split.train_labels)
    accuracy = float(clf.score(split.test_texts, split.test_labels))
    return {"accuracies": accuracy, "n_tokens": clf.history_[0]["n_tokens"]}


def load_texts(path: Path | None) -> tuple[list[str], list[int]]:
    """Load long documents and their labels, from a file where the package with IMDB is missing."""
    if path is None:
        return common.long_texts(5000)
    found = pd.read_csv(path)
    return found["text"].tolist(), found["label"].tolist()


def split_of(seed: int, arguments: Any) -> common.Split:
    """Draw training texts by the seed, and always the same test texts."""
    texts, labels = load_texts(arguments.texts)
    train, test, train_labels, test_labels = train_test_split(
        texts, labels, test_size=arguments.n_test, stratify=labels, random_state=0
    )
    drawn, _, drawn_labels, _ = train_test_split(
        train,
        train_labels,
        train_size=arguments.n_train,
        stratify=train_labels,
        random_state=seed,
    )
    return common.Split(drawn, drawn_labels, test, test_labels)


def run(arguments: Any, results: Results) -> Iterator[None]:
    """Measure what the arguments ask for, and yield after each seed; other results stay."""
    ways = [way for way in WAYS if way.cost in arguments.costs]
    for way in ways:
        results[way.name] = {"cost": way.cost, "n_train": arguments.n_train}
    for seed in arguments.seeds:
        split = split_of(seed, arguments)
        for way in ways:
            found = measure(way, split, seed, arguments)
            for name, value in found.items():
                results[way.name].setdefault(name, []).append(value)
            print(f"seed {seed}, {way.name}: {found}", file=sys.stderr, flush=True)
        yield


def table(results: Results) -> str:
    """Mean and standard deviation of the accuracy, by the most tokens of a text."""
    rows = []
    for name, found in sorted(results.items(), key=lambda item: item[1]["cost"]):
        accuracies = found["accuracies"]
        spread = f"{np.std(accuracies, ddof=1):.3f}" if len(accuracies) > 1 else ""
        n_tokens = f"{np.mean(found['n_tokens']):,.0f}"
        rows.append([name, n_tokens, f"{np.mean(accuracies):.3f}", spread])
    header = ["reads", "tokens of an epoch", "accuracy", "standard deviation"]
    return common.markdown_table(header, rows)


def bounds(results: Results) -> list[common.Bound]:
    """Rivals must cost the same: windows may compute 5% more tokens."""
    found = []
    for ours, theirs in ((WAYS[1], WAYS[0]), (WAYS[4], WAYS[3])):
        if ours.name in results and theirs.name in results:
            ratio = np.mean(results[ours.name]["n_tokens"]) / np.mean(
                results[theirs.name]["n_tokens"]
            )
            claim = f"tokens of {ours.name}, relative to {theirs.name}"
            found.append(common.Bound(claim, float(ratio), 1.05, at_least=False))
    return found


def parse_arguments() -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n-train", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--n-test", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--costs", type=int, nargs="+", default=COSTS, help="tokens of a text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--model", default=common.MODEL, help="default: %(default)s")
    parser.add_argument("--texts", type=Path, help="CSV file with text and label; default: IMDB")
    parser.add_argument("--smoke", action="store_true", help="a few texts, no results")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound fails")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.n_train, arguments.n_test, arguments.epochs, arguments.seeds = 8, 4, 1, [0]
    return arguments


def named(value: Any) -> Any:
    """Replace a path by its name, because the results name no folder."""
    return value.name if isinstance(value, Path) else value


def main() -> int:
    arguments = parse_arguments()
    path = common.RESULTS / "windows.json"
    kept = path.exists() and not arguments.smoke
    results: Results = json.loads(path.read_text())["results"] if kept else {}
    code = 0
    for _ in run(arguments, results):  # what is measured is kept if a later seed is interrupted
        print(table(results))
        about = argparse.Namespace(**{k: named(v) for k, v in vars(arguments).items()})
        code = common.finish("windows", about, results, bounds(results), path)
    return code


if __name__ == "__main__":
    sys.exit(main())
