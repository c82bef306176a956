"""Fit with a checkpoint_dir in child processes, kill them, and resume.

test_resuming.py runs `main`, as does python kill_and_resume.py MODEL FOLDER N_KILLS. The children
are forks of a process that has computed nothing, so each starts in milliseconds. A child writes a
byte into a pipe when it begins a step, and another when it begins to write an epoch, so the script
knows where it was killed. N_KILLS counts the kills after at least one step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

# Imported here, because each child would otherwise import it for itself, which takes seconds.
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoTokenizer, BertTokenizerFast  # noqa: F401

from skbert import BertSentimentClassifier
from skbert.engine.training.loop import Trainer
from skbert.engine.training.resume import RunFile

N_EPOCHS, STEPS_AN_EPOCH = 12, 4
STEP, KEEP, KEPT = b"s", b"k", b"K"


def fit(model, checkpoint_dir):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["good", "bad", "film", "the", "fun"], 12)) for _ in range(128)]
    labels = ["good" if "good" in text else "bad" for text in texts]
    clf = BertSentimentClassifier(
        model,
        max_length=32,
        max_epochs=N_EPOCHS,
        batch_size=32,
        learning_rate=1e-3,
        early_stopping=True,
        n_iter_no_change=N_EPOCHS,
        checkpoint_dir=checkpoint_dir,
        random_state=0,
    )
    return clf.fit(texts, labels)


def report_progress(pipe):
    """Let this process report when it begins a step, and when it writes an epoch."""
    plain_step, plain_write = Trainer.step, RunFile.write

    def step(*arguments):
        os.write(pipe, STEP)
        return plain_step(*arguments)

    def write(*arguments):
        os.write(pipe, KEEP)
        plain_write(*arguments)
        os.write(pipe, KEPT)

    Trainer.step, RunFile.write = step, write


def in_child(work):
    """Start a process that does `work`; return its id and the pipe of its progress."""
    progress, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(progress)
            report_progress(pipe)
            work()
            code = 0
        finally:
            os._exit(code)
    os.close(pipe)
    return pid, progress


def wait(child):
    pid, progress = child
    while os.read(progress, 4096):
        pass
    os.close(progress)
    return os.waitpid(pid, 0)[1]


def kill_within(child, n_events, seconds):
    """Kill a child `seconds` after its n-th event; return all events, or None if it ended."""
    pid, progress = child
    events = b""
    while len(events) < n_events:
        event = os.read(progress, 1)
        if not event:
            assert os.waitpid(pid, 0)[1] == 0
            os.close(progress)
            return None
        events += event
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    while event := os.read(progress, 4096):
        events += event
    os.close(progress)
    was_killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    return events if was_killed else None


def save_weights(path, clf):
    weights = {f"model.{k}": v.numpy() for k, v in clf.model_.state_dict().items()}
    weights |= {f"head.{k}": v.numpy() for k, v in clf.head_.state_dict().items()}
    losses = np.array([[r["train_loss"], r["val_loss"]] for r in clf.history_])
    np.savez(path, losses=losses, **weights)


def main(model, folder, n_kills):
    runs, folder = Path(folder) / "runs", Path(folder)
    assert wait(in_child(lambda: save_weights(folder / "whole.npz", fit(model, None)))) == 0
    rng = np.random.default_rng(1)
    report = {"kills": 0, "while keeping": 0, "resumed": 0, "finished": 0}
    while report["kills"] < n_kills:
        report["resumed"] += any(runs.glob("*.skbert-run"))
        n_events = int(rng.integers(1, 2 * STEPS_AN_EPOCH + 2))
        child = in_child(lambda: fit(model, str(runs)))
        events = kill_within(child, n_events, rng.uniform(0, 0.005))
        if events is None:
            report["finished"] += 1
        else:
            report["kills"] += 1
            report["while keeping"] += events.endswith(KEEP)
    assert wait(in_child(lambda: save_weights(folder / "resumed.npz", fit(model, str(runs))))) == 0
    left = [path.name for path in runs.glob("*.skbert-run")]
    print(json.dumps(report | {"left": left}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
