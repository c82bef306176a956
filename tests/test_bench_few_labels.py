"""The tables of benchmarks/bench_few_labels.py: cells of another device are marked."""

import importlib
import sys
from pathlib import Path

import pytest
from transformers.utils import logging

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The script as a module; the process is left as it was."""
    verbosity = logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setenv("HF_HUB_OFFLINE", "1")  # the script sets it, too
        yield importlib.import_module("bench_few_labels")
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()
    for name in ("bench_few_labels", "_common"):
        sys.modules.pop(name, None)


def test_a_cell_of_another_device_is_marked_and_explained(bench):
    on_cpu = {"accuracies": [0.7, 0.8], "seconds": [2.0, 2.0]}
    on_gpu = {"accuracies": [0.8, 0.8], "device": "NVIDIA H200, float32, torch 2.11.0"}
    tables = bench.accuracy_tables({"films": {"plain": {"8": on_cpu, "16": on_gpu}}})
    assert tables == [
        "| films, accuracy (s) by number of labels |                 8 |              16 |\n"
        "| --------------------------------------- | ----------------: | --------------: |\n"
        "| plain                                   | 0.750 ± 0.071 (2) | 0.800 ± 0.000 † |\n\n"
        "† on NVIDIA H200, float32, torch 2.11.0."
    ]


def test_cells_of_a_cpu_have_no_mark(bench):
    without = {"accuracy": 0.9}
    (table,) = bench.accuracy_tables({"films": {"plain": {"0": without}}})
    assert table.endswith("| plain                                   | 0.900 |")


def test_a_cpu_adds_no_device_to_the_results(bench):
    assert bench.described("cpu") == {}


@pytest.mark.parametrize(("of_plain", "holds"), [([0.8, 0.9], True), ([0.95, 0.96], False)])
def test_the_default_is_compared_with_the_plain_encoder(bench, of_plain, holds):
    ours = {"8": {"accuracies": [0.8, 0.82]}, "0": {"accuracy": 0.8}}
    theirs = {"8": {"accuracies": of_plain}}
    (bound,) = bench.bounds({"films": {bench.DEFAULT: ours, bench.PLAIN: theirs}})
    assert (
        bound.claim == "films, least lead over skbert, plain encoder, with one standard deviation"
    )
    assert bound.holds is holds
