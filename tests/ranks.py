"""What the ranks of test_distributed.py do; a process of `prepared` runs `main`."""

import contextlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from skbert import BertPretrainer, BertSentimentClassifier, BertSentimentRegressor
from skbert.engine.training import micro_batches
from skbert.engine.training.classification import Classification
from skbert.engine.training.loop import Trainer

WORDS = "good bad film the fun not a this very great".split()


def reviews(n: int = 61, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of 1 to 13 words, with two labels."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 14))) for _ in range(n)]
    return texts, ["good" if "good" in text else "bad" for text in texts]


def classifier(model: str, **parameters: Any) -> BertSentimentClassifier:
    settings = {"max_length": 32, "max_epochs": 2, "batch_size": 16, "learning_rate": 1e-4}
    settings |= {"random_state": 0, "device": "cpu"}
    return BertSentimentClassifier(model, **(settings | parameters))


def pretrainer(model: str, **parameters: Any) -> BertPretrainer:
    settings = {"max_length": 32, "max_epochs": 2, "batch_size": 8, "learning_rate": 1e-4}
    return BertPretrainer(model, **(settings | {"random_state": 0, "device": "cpu"} | parameters))


def with_validation(model: str) -> Any:
    clf = classifier(model, early_stopping=True, validation_fraction=0.3, verbose=1)
    return clf.fit(*reviews())


def with_one_validation_text(model: str) -> Any:
    """With fewer validation texts than ranks."""
    texts, labels = reviews(31)
    return classifier(model).fit(texts[1:], labels[1:], X_val=texts[:1], y_val=labels[:1])


def in_many_parts(model: str) -> Any:
    """Each step has parts of few texts, and the last step fewer texts than ranks."""
    before, micro_batches._MICRO_BATCH_TOKENS = micro_batches._MICRO_BATCH_TOKENS, 40
    try:
        return classifier(model, max_epochs=1, batch_size=15).fit(*reviews())
    finally:
        micro_batches._MICRO_BATCH_TOKENS = before


def in_windows(model: str) -> Any:
    parameters = {"truncation": "windows", "max_windows": 4, "max_length": 6, "pooling": "mean"}
    return classifier(model, **parameters).fit(*reviews())


def with_frozen_layers(model: str) -> Any:
    return classifier(model, n_frozen_layers=1).fit(*reviews())


def after_masked_lm(model: str) -> Any:
    return classifier(model, pretraining_epochs=1).fit(*reviews())


def in_two_calls(model: str) -> Any:
    clf = classifier(model)
    for seed in range(2):
        clf.partial_fit(*reviews(30, seed), classes=["bad", "good"])
    return clf


def regressor(model: str) -> Any:
    texts, _ = reviews()
    numbers = [text.count("good") - text.count("bad") for text in texts]
    settings = {"max_length": 32, "max_epochs": 2, "batch_size": 16, "learning_rate": 1e-4}
    return BertSentimentRegressor(model, random_state=0, **settings).fit(texts, numbers)


def masked_lm(model: str) -> Any:
    return pretrainer(model, next_sentence=False).fit(reviews()[0])


def next_sentence(model: str) -> Any:
    sentences = reviews()[0]
    documents = [sentences[i : i + 3] for i in range(0, len(sentences), 3)]
    return pretrainer(model, next_sentence=True).fit(documents)


#: What one process and several have to agree on.
FITS = {
    function.__name__: function
    for function in (
        *(with_validation, with_one_validation_text, in_many_parts, in_windows),
        *(with_frozen_layers, after_masked_lm, in_two_calls, regressor, masked_lm, next_sentence),
    )
}


def weights_of(estimator: Any) -> dict[str, np.ndarray]:
    """All weights, but not the keys' biases.

    Their true gradient is zero, and Adam amplifies the rounding; no result depends on them.
    """
    weights = {f"model.{name}": w for name, w in estimator.model_.state_dict().items()}
    if hasattr(estimator, "head_"):
        weights |= {f"head.{name}": w for name, w in estimator.head_.state_dict().items()}
    return {
        name: weight.numpy() for name, weight in weights.items() if not name.endswith("key.bias")
    }


def save(path: Path, estimator: Any) -> None:
    np.savez(path, history=json.dumps(estimator.history_), **weights_of(estimator))


# What `main` may do ---------------------------------------------------------------------------


def fit_all(model: str, folder: Path, rank: int) -> None:
    """Fit all `FITS`, and save weights, history and what is written to stderr."""
    for name, function in FITS.items():
        written = io.StringIO()
        with contextlib.redirect_stderr(written):
            save(folder / f"{name}.{rank}.npz", function(model))
        (folder / f"{name}.{rank}.txt").write_text(written.getvalue())
    one = torch.ones(())
    dist.all_reduce(one)  # the group of the caller still works
    assert one == dist.get_world_size()


def fit_with_dropout(model: str, folder: Path, rank: int) -> None:
    save(folder / f"with_dropout.{rank}.npz", classifier(model, dropout=0.3).fit(*reviews()))


def fit_without_dropout(model: str, folder: Path, rank: int) -> None:
    save(folder / f"without_dropout.{rank}.npz", classifier(model, dropout=0.0).fit(*reviews()))


def fit_with_checkpoints(model: str, folder: Path, rank: int, killed_at: str = "") -> None:
    """Fit with a `checkpoint_dir` that only rank 0 has; the last rank may be killed at a step."""
    plain, taken = Trainer.step, 0

    def step(*arguments: Any) -> None:
        nonlocal taken
        taken += 1
        if str(taken) == killed_at and rank == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(*arguments)

    Trainer.step = step  # type: ignore[method-assign]
    runs = folder / "runs" if rank == 0 else folder / f"never of {rank}"
    clf = classifier(model, max_epochs=3, checkpoint_dir=runs, early_stopping=True)
    save(folder / f"resumed.{rank}.npz", clf.fit(*reviews()))


def fit_other_texts(model: str, folder: Path, rank: int) -> None:
    classifier(model).fit(*reviews(seed=rank))


def fit_with_other_seeds(model: str, folder: Path, rank: int) -> None:
    classifier(model, random_state=rank).fit(*reviews())


def fork(model: str, folder: Path, rank: int) -> None:
    """A fork of a rank fits alone."""
    classifier(model, max_epochs=1).fit(*reviews())
    if (child := os.fork()) == 0:
        code = 1
        try:
            classifier(model, max_epochs=1).fit(*reviews(seed=rank))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def fail_and_stay(model: str, folder: Path, rank: int, where: str) -> None:
    """The last rank fails in its third call, and runs until the others have ended."""
    owner = {"step": Trainer, "loss": Classification}[where]
    plain, taken = getattr(owner, where), 0

    def failing(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 3 and rank == dist.get_world_size() - 1:
            raise KeyboardInterrupt
        return plain(*arguments)

    setattr(owner, where, failing)
    try:
        classifier(model).fit(*reviews())
    except KeyboardInterrupt:
        while not (folder / "ended").exists():
            time.sleep(0.05)
    finally:
        if rank == 0:
            (folder / "ended").touch()


def stop_after_two_epochs(model: str, folder: Path, rank: int) -> None:
    """Rank 0 has a callback that stops the fit; the others have one that must not be told."""

    class Stops:
        def setup(self, estimator: Any, context: Any) -> None:
            pass

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            pass

        def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
            assert rank == 0
            return context.task_name == "epoch" and context.task_id == 1

        def teardown(self, estimator: Any, context: Any) -> None:
            pass

    clf = classifier(model, max_epochs=4).set_callbacks(Stops()).fit(*reviews())
    assert clf.n_epochs_ == 2


def diverge(model: str, folder: Path, rank: int) -> None:
    classifier(model, learning_rate=1e30).fit(*reviews())


def main(task: str, model: str, folder: str, rank: str, n_ranks: str, *arguments: str) -> None:
    """Join the other ranks, do a task, and print the error that it raises."""
    store = f"file://{folder}/store.{task}"
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(n_ranks))
    try:
        globals()[task](model, Path(folder), int(rank), *arguments)
        print("done")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    os._exit(0)  # the group of a failed rank cannot be left in order
