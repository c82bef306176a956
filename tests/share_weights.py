"""Loads a joblib file memory-mapped in several processes at once, and measures what is shared.

test_saving.py runs `main`, as does python share_weights.py FILE N_PROCESSES TEXTS, texts as JSON.
Children are forked from a process that has computed nothing. Prints one report a process, in bytes.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import joblib

# Imported here, so that all children share the modules. skbert imports transformers only when it
# builds a model, which each child would otherwise do for itself, in 100 MB of its own.
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoTokenizer, BertTokenizerFast  # noqa: F401

from skbert import BertSentimentClassifier  # noqa: F401


def mapped_kib(path):
    """Sum, over the mappings of a file in this process, what /proc/self/smaps says of each."""
    sums = {}
    of_file = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            of_file = line.endswith(str(path))
        elif of_file and values[-1] == "kB":
            sums[name[:-1]] = sums.get(name[:-1], 0) + int(values[0])
    return sums


def anonymous_kib():
    """Memory of this process that is in no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no RssAnon")


def predict_mapped(path, texts):
    """Logits of a memory-mapped classifier; here, because a worker of joblib imports this file."""
    return joblib.load(path, mmap_mode="r").decision_function(texts)


def measure(path, texts, all_loaded, all_measured, reports):
    before = anonymous_kib()
    clf = joblib.load(path, mmap_mode="r")
    logits = clf.decision_function(texts).tolist()
    all_loaded.wait()
    mapped = mapped_kib(path)
    report = {
        "pid": os.getpid(),
        "logits": logits,
        "resident": mapped["Rss"] * 1024,
        "proportional": mapped["Pss"] * 1024,
        "private": (mapped["Private_Dirty"] + mapped.get("Anonymous", 0)) * 1024,
        "anonymous": (anonymous_kib() - before) * 1024,
    }
    all_measured.wait()
    reports.put(report)


def main(path, n_processes, texts):
    context = multiprocessing.get_context("fork")
    barriers = context.Barrier(n_processes), context.Barrier(n_processes)
    reports = context.Queue()
    children = [
        context.Process(target=measure, args=(path, texts, *barriers, reports))
        for _ in range(n_processes)
    ]
    for child in children:
        child.start()
    found = [reports.get(timeout=240) for _ in children]
    for child in children:
        child.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
