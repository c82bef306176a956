"""How much faster is a search with joblib's backends, and on how many threads do its fits compute?

`GridSearchCV` over two learning rates and two folds runs in one process, in processes of loky, on
workers of Dask that a nanny started, on workers of Dask in threads of this process, and on Ray.
Every backend has two jobs. Before the first round, each backend fits once, so that no time contains
imports. A backend whose package is not installed is left out, and the output says so.

Then a halving search over `max_epochs` runs, plain and with `warm_start` and `checkpoint_dir`. The
latter trains two thirds of the epochs, and after each of them writes three times the weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import _common as common
import joblib
import numpy as np
import torch
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV

from skbert import BertSentimentClassifier

N_JOBS = 2
TOLERANCE = 0.02  # of an accuracy: products on another number of threads round otherwise

#: Makes a context in which searches run on a backend.
Backend = Callable[[], AbstractContextManager[Any]]


class NotingClassifier(BertSentimentClassifier):
    """Notes on how many threads its fit computed."""

    def _fit(self, *arguments: Any) -> None:
        super()._fit(*arguments)
        self.n_threads_of_fit_ = torch.get_num_threads()


def scores(clf: NotingClassifier, X: list[str], y: list[int]) -> dict[str, float]:
    return {"accuracy": clf.score(X, y), "threads": clf.n_threads_of_fit_}


@contextmanager
def backends() -> Iterator[dict[str, Backend]]:
    """Start the workers of all backends that are installed, and stop them afterwards."""
    with ExitStack() as stack:
        found: dict[str, Backend] = {
            "one process": lambda: joblib.parallel_config("sequential"),
            "loky": lambda: joblib.parallel_config("loky", n_jobs=N_JOBS),
        }
        if importlib.util.find_spec("distributed"):
            import distributed

            for name, in_processes in (("dask", True), ("dask, no nanny", False)):
                cluster = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=N_JOBS,
                        threads_per_worker=1,
                        processes=in_processes,
                        dashboard_address=":0",
                    )
                )
                client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
                found[name] = lambda client=client: on_dask(client)
        if importlib.util.find_spec("ray"):
            import ray
            from ray.util.joblib import register_ray

            register_ray()
            ray.init(num_cpus=N_JOBS, include_dashboard=False, log_to_driver=False)
            stack.callback(ray.shutdown)
            found["ray"] = lambda: joblib.parallel_config("ray", n_jobs=N_JOBS)
        yield found


@contextmanager
def on_dask(client: Any) -> Iterator[None]:
    with client.as_current(), joblib.parallel_config("dask"):
        yield


def searching(texts: list[str], labels: list[int], batch_size: int) -> Callable[[], GridSearchCV]:
    clf = NotingClassifier(
        max_epochs=1, batch_size=batch_size, learning_rate=common.LEARNING_RATE, random_state=0
    )
    grid = {"learning_rate": [2e-5, 5e-5]}
    search = GridSearchCV(clf, grid, scoring=scores, cv=2, refit=False)
    return lambda: search.fit(texts, labels)


def accuracy(search: GridSearchCV) -> float:
    return float(np.mean(search.cv_results_["mean_test_accuracy"]))


def halving(
    texts: list[str], labels: list[int], arguments: argparse.Namespace, warm_start: bool
) -> HalvingGridSearchCV:
    """Search in rounds of 1, 2 and 4 epochs, or of 1 and 2 in a smoke run."""
    grid = {"learning_rate": [2e-5, 5e-5]} | ({} if arguments.smoke else {"dropout": [0.0, 0.1]})
    with tempfile.TemporaryDirectory() as folder:
        clf = BertSentimentClassifier(
            batch_size=arguments.batch_size,
            warm_start=warm_start,
            checkpoint_dir=folder if warm_start else None,
            random_state=0,
        )
        return HalvingGridSearchCV(
            clf,
            grid,
            resource="max_epochs",
            min_resources=1,
            max_resources=2 if arguments.smoke else 4,
            factor=2,
            cv=2,
            refit=False,
            random_state=0,
        ).fit(texts, labels)


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=3, n_texts=400, smoke_texts=16)
    split = common.load_split(arguments.n_texts, 2)
    texts, labels = split.train_texts, split.train_labels
    run = searching(texts, labels, arguments.batch_size)
    warm_up = searching(texts[:8] + texts[-8:], labels[:8] + labels[-8:], batch_size=4)
    n_cores = joblib.cpu_count()
    results: dict[str, Any] = {}
    bounds, threads = [], {}
    with backends() as found:
        for name in ("dask", "ray"):
            if name not in found:
                print(f"{name} is not installed, so it is not measured.")

        def prepared(
            name: str, run: Callable[[], GridSearchCV] = run
        ) -> Callable[[], GridSearchCV]:
            def search() -> GridSearchCV:
                with found[name]():
                    result = run()
                threads[name] = int(max(result.cv_results_["mean_test_threads"]))
                return result

            return search

        contenders = [
            common.Contender(
                name, lambda name=name: prepared(name), f"{N_JOBS} jobs", accuracy, 4 * len(texts)
            )
            for name in found
        ]
        if not arguments.smoke:
            for name in found:  # starts the workers, and imports
                prepared(name, warm_up)()
        timings = common.run_rounds(contenders, arguments.rounds)
    rows = []
    for contender in contenders:
        name = contender.name
        n_jobs = 1 if name == "one process" else N_JOBS
        total = n_jobs * threads[name]
        speedup = timings.speedup(name, "one process")
        rows.append(
            [name, f"{timings.median(name):.2f}", f"{speedup:.2f} x", f"{n_jobs} x {threads[name]}"]
        )
        difference = abs(timings.mean_score(name) - timings.mean_score("one process"))
        assert difference <= TOLERANCE, f"the accuracy of {name} differs by {difference}"
        results[name] = {"speedup": speedup, "n_jobs": n_jobs, "n_threads": threads[name]}
        claim = f"search, {name}, jobs times threads of a fit, over the cores"
        bounds.append(common.Bound(claim, total / n_cores, 1.0, at_least=False))
    header = ["search", "median s", "times as fast", "jobs x threads"]
    common.print_table(header, rows)
    rounds = [
        common.Contender(
            name,
            lambda warm=warm_start: lambda: halving(texts, labels, arguments, warm),
            score=lambda search: float(search.best_score_),
        )
        for name, warm_start in (("halving", False), ("halving, warm_start", True))
    ]
    halved = common.run_rounds(rounds, arguments.rounds)
    print()
    common.print_timings(halved, rounds, "halving, warm_start")
    results["searches"] = {
        "contenders": common.describe_timings(timings, contenders, "one process")
    }
    results["halving"] = {
        "contenders": common.describe_timings(halved, rounds, "halving, warm_start")
    }
    return common.finish("search", arguments, results, bounds)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    sys.exit(main())
