"""The tables of docs/scaling.md, and the simulation behind some of them."""

import re
import sys

import numpy as np
import pytest

from tests.offline import ROOT

PAGE = ROOT / "docs" / "scaling.md"


@pytest.fixture
def plan(monkeypatch):
    """The script that prints the tables; it reads results, and measures nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan_scaling

    yield plan_scaling
    for name in ("plan_scaling", "_scaling", "_common", "_gpu_inputs"):
        sys.modules.pop(name, None)


def test_the_tables_are_those_of_the_script(plan):
    tables = re.findall(r"<!-- table: (\w+) -->\n\n(.*?)\n\n<!-- end -->", PAGE.read_text(), re.S)
    assert len(tables) == 4
    for name, table in tables:
        assert table == getattr(plan, name)(), f"run benchmarks/plan_scaling.py: {name}"


def test_one_rank_computes_all_tokens_and_sums_nothing(plan):
    speeds = plan.Speeds(100.0, 0.5, gradient_bytes=1e9, bytes_per_second=1.0)
    assert plan.simulate_epoch(np.array([10, 20, 30]), 2, 1, speeds) == pytest.approx(0.6 + 2 * 0.5)


def test_two_ranks_share_the_tokens_and_wait_for_the_sum(plan):
    speeds = plan.Speeds(100.0, 0.5, gradient_bytes=8.0, bytes_per_second=10.0)
    lengths = np.array([30, 30, 20, 20])  # 50 on each rank; each sends all 8 bytes once
    assert plan.simulate_epoch(lengths, 4, 2, speeds) == pytest.approx(0.5 + 0.8 + 0.5)


def test_a_sum_beside_the_backward_pass_is_not_seen(plan):
    speeds = plan.Speeds(100.0, 0.0, gradient_bytes=1.0, bytes_per_second=10.0, hidden_share=1.0)
    assert plan.simulate_epoch(np.array([50, 50]), 2, 2, speeds) == pytest.approx(0.5)


def test_a_step_takes_at_least_as_long_as_the_host(plan):
    speeds = plan.Speeds(
        100.0, 0.0, 0.0, 1.0, host_seconds=3.0, graph_seconds=1.0, part_tokens=60.0
    )
    lengths = np.array([50, 50])
    assert plan.simulate_epoch(lengths, 1, 1, speeds) == pytest.approx(2 * 1.0)  # graphs
    assert plan.simulate_epoch(lengths, 2, 1, speeds) == pytest.approx(2 * 3.0)  # two parts
    assert plan.simulate_epoch(lengths, 2, 2, speeds) == pytest.approx(3.0)  # one for each rank
