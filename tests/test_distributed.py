"""Fits that several processes share, on a CPU with gloo. NCCL, and two GPUs, never ran."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skbert.contract.ranks import check_same_fit
from skbert.engine.clusters import is_started_by_torchrun
from skbert.engine.model import device
from skbert.engine.training import distributed
from skbert.engine.training.distributed import balanced_owners
from tests.offline import ROOT, in_this_clone
from tests.padded_folders import save_padded
from tests.ranks import FITS, classifier, reviews, weights_of

RANK = """
from tests.padded_folders import save_padded
from tests.ranks import main
main(*sys.argv[1:])
"""


@pytest.fixture
def run_ranks(prepared, tiny_bert, tmp_path):
    """Let some ranks do a task of tests/ranks.py; return what each printed, "" if it was killed."""

    def run(task: str, n_ranks: int, *arguments: str, model: str = tiny_bert) -> list[str]:
        store = tmp_path / f"store.{task}"
        store.unlink(missing_ok=True)
        own = [model, str(tmp_path)]
        processes = [
            prepared.start(RANK, task, *own, str(rank), str(n_ranks), *arguments)
            for rank in range(n_ranks)
        ]
        printed = []
        for process in processes:
            with process:
                printed.append(process.stdout.read().strip())
        return printed

    return run


def assert_same(path: Path, estimator, atol: float) -> None:
    with np.load(path) as found:
        for name, weight in weights_of(estimator).items():
            np.testing.assert_allclose(found[name], weight, rtol=0, atol=atol, err_msg=path.name)
        history = json.loads(str(found["history"]))
    assert len(history) == len(estimator.history_)
    for ours, theirs in zip(history, estimator.history_, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("n_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_number_of_ranks_changes_nothing(run_ranks, tiny_bert, tmp_path, n_ranks):
    assert run_ranks("fit_all", n_ranks) == ["done"] * n_ranks
    for name, function in FITS.items():
        alone = function(tiny_bert)
        assert_same(tmp_path / f"{name}.0.npz", alone, atol=1e-5)
        with np.load(tmp_path / f"{name}.0.npz") as first:
            for rank in range(1, n_ranks):
                with np.load(tmp_path / f"{name}.{rank}.npz") as other:
                    for weight in weights_of(alone):
                        np.testing.assert_array_equal(first[weight], other[weight])
        for rank in range(1, n_ranks):
            assert (tmp_path / f"{name}.{rank}.txt").read_text() == ""
    assert "epoch 2/2" in (tmp_path / "with_validation.0.txt").read_text()


def test_ranks_of_a_padded_family_agree(run_ranks, tiny_bert, tmp_path):
    model = save_padded(tmp_path / "deberta", "deberta-v2", tiny_bert)
    assert run_ranks("fit_without_dropout", 2, model=model) == ["done"] * 2
    alone = classifier(model, dropout=0.0).fit(*reviews())
    assert_same(tmp_path / "without_dropout.0.npz", alone, atol=1e-5)
    # With dropout, each rank has masks of its own, but they still end with the same weights.
    assert run_ranks("fit_with_dropout", 2, model=model) == ["done"] * 2
    with (
        np.load(tmp_path / "with_dropout.0.npz") as first,
        np.load(tmp_path / "with_dropout.1.npz") as second,
    ):
        for name in weights_of(alone):
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("n_ranks_after", [1, 3])
def test_a_killed_run_resumes_on_another_number_of_ranks(
    run_ranks, tiny_bert, tmp_path, n_ranks_after
):
    first, killed = run_ranks("fit_with_checkpoints", 2, "8")  # in the third epoch of three steps
    assert first.startswith("ConnectionError: Rank 0 of 2 has lost the connection")
    assert killed == ""
    [file] = (tmp_path / "runs").iterdir()
    parameters = {"max_epochs": 3, "early_stopping": True}
    if n_ranks_after == 1:
        resumed = classifier(tiny_bert, checkpoint_dir=tmp_path / "runs", **parameters)
        resumed.fit(*reviews())
    else:
        assert run_ranks("fit_with_checkpoints", n_ranks_after) == ["done"] * n_ranks_after
    assert not file.exists()
    assert not [*tmp_path.glob("never*")]
    whole = classifier(tiny_bert, **parameters).fit(*reviews())
    if n_ranks_after == 1:
        for name, weight in weights_of(whole).items():
            np.testing.assert_allclose(weights_of(resumed)[name], weight, rtol=0, atol=1e-5)
        return
    for rank in range(n_ranks_after):
        assert_same(tmp_path / f"resumed.{rank}.npz", whole, atol=1e-5)


@pytest.mark.parametrize("where", ["step", "loss"])
def test_a_rank_that_fails_does_not_let_the_others_wait(run_ranks, where):
    first, second, failed = run_ranks("fail_and_stay", 3, where)
    assert first.startswith("ConnectionError: Rank 0 of 3 has lost the connection")
    assert second.startswith("ConnectionError: Rank 1 of 3 has lost the connection")
    assert failed == "done"


def test_ranks_that_fit_different_texts_get_an_error(run_ranks):
    printed = run_ranks("fit_other_texts", 3)
    assert all(text.startswith("ValueError: Rank 1 fits other texts") for text in printed)


def test_ranks_with_different_seeds_get_an_error(run_ranks):
    message = "ValueError: Rank 1 has another random_state than rank 0"
    assert all(text.startswith(message) for text in run_ranks("fit_with_other_seeds", 2))


def test_the_callbacks_of_rank_0_stop_all_ranks(run_ranks):
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    assert run_ranks("stop_after_two_epochs", 2) == ["done", "done"]


def test_all_ranks_notice_a_loss_that_is_not_finite(run_ranks):
    first, second = run_ranks("diverge", 2)
    assert first == second != ""


@given(st.lists(st.integers(2, 512), max_size=40), st.integers(2, 8))
def test_ranks_get_about_the_same_number_of_tokens(lengths, n_ranks):
    n_tokens = np.zeros(n_ranks, dtype=np.int64)
    owners = balanced_owners(np.array(lengths, dtype=np.int64), n_tokens)
    own = [sum(np.array(lengths)[owners == rank]) for rank in range(n_ranks)]
    assert own == n_tokens.tolist()
    assert sum(own) == sum(lengths)
    assert n_tokens.max() - n_tokens.min() <= max(lengths, default=0)


def test_texts_already_given_count():
    owners = balanced_owners(np.array([5, 4, 3]), np.array([8, 0]))
    assert owners.tolist() == [1, 1, 0]


def test_only_the_process_that_torchrun_has_started_is_a_rank(monkeypatch):
    assert not is_started_by_torchrun()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert is_started_by_torchrun()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert not pool.submit(is_started_by_torchrun).result()


def test_ranks_take_the_devices_of_their_machine_in_turn(monkeypatch):
    monkeypatch.setattr(device, "_count", lambda kind: 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for number, expected in enumerate(["cuda:0", "cuda:1", "cuda:0"]):
        monkeypatch.setenv("LOCAL_RANK", str(number))
        assert str(device.resolve_device("cuda")) == expected
    assert str(device.resolve_device("cuda:0")) == "cuda:0"


def test_one_process_of_torchrun_fits_alone(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed.ranks_of_fit() as ranks:
        assert ranks is None
    assert not torch.distributed.is_initialized()


def test_a_device_that_cannot_sum_over_processes_is_refused():
    with pytest.raises(ValueError, match="device='mps', but 2 ranks share this fit"):
        check_same_fit(TwoRanks(), "", torch.device("mps"))


class TwoRanks:
    """Two ranks that always have the same values."""

    n_ranks = 2

    def all_values(self, value):
        return [value] * 2


def test_two_ranks_on_one_gpu_are_refused():
    message = r"Ranks 0 and 1 both compute on 'cuda:0' of the machine .*, but each rank needs a GPU"
    with pytest.raises(ValueError, match=message):
        check_same_fit(TwoRanks(), "", torch.device("cuda:0"))


def test_a_forked_process_is_no_rank(run_ranks):
    assert run_ranks("fork", 2) == ["done", "done"]


@pytest.mark.slow
def test_the_example_trains_with_torchrun(tiny_bert, tmp_path):
    texts, labels = reviews(40)
    lines = ["text,label", *(f"{t},{y}" for t, y in zip(texts, labels, strict=True))]
    (tmp_path / "reviews.csv").write_text("\n".join(lines))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    example = str(ROOT / "examples" / "distributed" / "train.py")
    arguments = [str(tmp_path / "reviews.csv"), str(tmp_path / "model"), "--model", tiny_bert]
    run = subprocess.run(
        [*torchrun, "--nproc-per-node=2", example, *arguments, "--max-length=32"],
        env=in_this_clone() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("accuracy") == 1
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert os.listdir(tmp_path / "model.runs") == []
