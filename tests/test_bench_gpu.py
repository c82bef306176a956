"""The parts of benchmarks/bench_gpu.py that need no GPU: made-up texts, broken contenders, time."""

import importlib
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from transformers.utils import logging

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The script as a module; the process is left as it was."""
    verbosity = logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setenv("HF_HUB_OFFLINE", "1")  # the script sets it, too
        module = importlib.import_module("bench_gpu")
        patch.setattr(module, "free_memory", lambda: None)  # slow beside many modules
        yield module
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()
    for name in ("bench_gpu", "_common", "_gpu_inputs", "_shapes"):
        sys.modules.pop(name, None)


def contender(bench, name, run):
    return bench.common.Contender(name, lambda: run, n_texts=2)


def test_made_up_texts_have_the_lengths_of_reviews(bench, tmp_path):
    inputs = bench.made_up_inputs(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for kind, mean in {"sentences": 27.4, "documents": 309}.items():
        data = inputs.texts[kind]
        ids = tokenizer(data.texts)["input_ids"]
        lengths = [len(row) for row in ids]
        assert np.mean(lengths) == pytest.approx(mean, rel=0.12)
        assert not any(tokenizer.unk_token_id in row for row in ids)
        assert {*data.labels} == {0, 1}
    assert inputs.model is None and inputs.described["weights of minilm"] == "random"


def test_a_broken_contender_does_not_stop_the_others(bench):
    def fail():
        raise RuntimeError("out of memory\nand more")

    contenders = [
        contender(bench, "skbert", lambda: np.ones(2)),
        contender(bench, "broken", fail),
        contender(bench, "slow", lambda: time.sleep(0.02)),
    ]
    measured = bench.measure(contenders, rounds=3, until=math.inf)
    assert measured.errors == {"broken": "RuntimeError: out of memory"}
    assert {name: len(times) for name, times in measured.timings.seconds.items()} == {
        "skbert": 3,
        "slow": 3,
    }
    found = bench.describe(contenders, measured) | {"errors": measured.errors}
    rows = bench.rows_of_case("fit", found)
    assert [row[1] for row in rows] == [
        "skbert",
        "slow",
        "broken: ERROR RuntimeError: out of memory",
    ]
    assert float(rows[1][6].removesuffix(" x")) > 1


def test_a_contender_that_breaks_later_has_no_times(bench):
    calls = []

    def fail_in_the_second_round():
        calls.append(None)
        if len(calls) == 3:  # the first call is the warm-up
            raise ValueError("late")

    measured = bench.measure(
        [contender(bench, "late", fail_in_the_second_round), contender(bench, "skbert", list)],
        rounds=3,
        until=math.inf,
    )
    assert measured.errors == {"late": "ValueError: late"}
    assert [*measured.timings.seconds] == ["skbert"]


def test_without_time_there_is_one_round(bench):
    measured = bench.measure([contender(bench, "skbert", list)], rounds=5, until=0)
    assert len(measured.timings.seconds["skbert"]) == 1


def test_the_fastest_batch_size_is_taken(bench):
    def run(texts, batch_size):
        time.sleep(0.001 if batch_size == 128 else 0.03)
        return np.full(len(texts), batch_size)

    rival = bench.FastestBatches(run, ["one", "two"])
    assert rival.prepare()().tolist() == [128, 128]
    assert rival.contender("rival", "").n_texts == 2


def test_bounds_are_only_of_what_was_measured(bench):
    run = {"speedup_of_skbert": 2.5}
    results = {"fit, bert, sentences": {"contenders": {"Trainer, length-grouped": run}}}
    (bound,) = bench.bounds(results)
    assert bound.claim == "fit, bert, sentences, times as fast as Trainer, length-grouped"
    assert bound.holds and bound.limit == 2
