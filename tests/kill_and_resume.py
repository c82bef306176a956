"""Fits with a checkpoint_dir in child processes, kills them at random moments, and goes on.

Run by test_resuming.py: python kill_and_resume.py MODEL FOLDER N_KILLS. Children are forked
from a process that has computed nothing, so that each begins in milliseconds.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from skbert import BertSentimentClassifier


def fit(model, checkpoint_dir):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["good", "bad", "film", "the", "fun"], 12)) for _ in range(128)]
    labels = ["good" if "good" in text else "bad" for text in texts]
    clf = BertSentimentClassifier(
        model,
        max_length=32,
        max_epochs=12,
        learning_rate=1e-3,
        early_stopping=True,
        n_iter_no_change=12,
        checkpoint_dir=checkpoint_dir,
        random_state=0,
    )
    return clf.fit(texts, labels)


def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def save_weights(path, clf):
    weights = {f"model.{k}": v.numpy() for k, v in clf.model_.state_dict().items()}
    weights |= {f"head.{k}": v.numpy() for k, v in clf.head_.state_dict().items()}
    losses = np.array([[r["train_loss"], r["val_loss"]] for r in clf.history_])
    np.savez(path, losses=losses, **weights)


def main(model, folder, n_kills):
    runs, folder = Path(folder) / "runs", Path(folder)
    begin = time.perf_counter()
    os.waitpid(in_child(lambda: save_weights(folder / "whole.npz", fit(model, None))), 0)
    seconds = time.perf_counter() - begin
    rng = np.random.default_rng(1)
    kills = found = finished = 0
    while kills < n_kills:
        found += any(runs.glob("*.skbert-run"))
        pid = in_child(lambda: fit(model, str(runs)))
        time.sleep(rng.uniform(0, 0.6 * seconds))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            finished += 1
            assert os.WEXITSTATUS(status) == 0
    pid = in_child(lambda: save_weights(folder / "resumed.npz", fit(model, str(runs))))
    assert os.waitpid(pid, 0)[1] == 0
    left = [path.name for path in runs.glob("*.skbert-run")]
    print(json.dumps({"kills": kills, "resumed": found, "finished": finished, "left": left}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
