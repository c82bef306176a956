"""Resolve the names of devices on simulated machines."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from joblib import Parallel, delayed

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.clusters import DaskWorkers
from skbert.engine.model import device as device_module
from skbert.engine.model.device import resolve_device


@pytest.fixture(params=[(0, False), (2, False), (0, True), (2, True)])
def machine(request, monkeypatch):
    """Let torch see some CUDA devices, and an MPS device or none."""
    n_cuda, has_mps = request.param
    see(monkeypatch, n_cuda, has_mps)
    return request.param


def see(monkeypatch, n_cuda, has_mps):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)


def test_auto_is_the_first_of_cuda_mps_and_cpu(machine):
    expected = {(0, False): "cpu", (2, False): "cuda", (0, True): "mps", (2, True): "cuda"}
    assert resolve_device("auto") == torch.device(expected[machine])


def test_cpu_is_everywhere(machine):
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("cpu:0") == torch.device("cpu:0")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "mps", "mps:0"])
def test_a_device_that_is_there(monkeypatch, name):
    see(monkeypatch, n_cuda=2, has_mps=True)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "n_cuda", "seen"),
    [
        ("cuda", 0, "0 cuda"),
        ("cuda:0", 0, "0 cuda"),
        ("cuda:2", 2, "2 cuda"),
        ("mps", 0, "0 mps"),
        ("cpu:1", 0, "1 cpu"),
    ],
)
def test_an_absent_device_is_refused(monkeypatch, name, n_cuda, seen):
    see(monkeypatch, n_cuda, has_mps=False)
    message = (
        f"device='{name}' is not available; torch {torch.__version__} finds {seen} device(s). "
        "Use device='auto' for the best available device."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resolve_device(name)


@pytest.mark.parametrize(
    "estimator", [BertSentimentClassifier, BertEmbeddingTransformer, BertPretrainer]
)
def test_fit_refuses_an_absent_device(tiny_bert, estimator):
    with pytest.raises(ValueError, match=r"^device='cuda:63' is not available; torch .* finds"):
        estimator(tiny_bert, max_length=32, device="cuda:63").fit(["a film", "dull"], [1, 0])


@pytest.mark.parametrize(
    "name", ["", "gpu", "tpu", "CPU", " cpu", "cuda:x", "cuda:-1", "cuda:1:1", "cuda1", "cpu:"]
)
def test_an_unknown_device_is_refused(name):
    message = (
        f"device='{name}' is not a known device; 'auto', 'cpu', 'cuda', 'cuda:<number>' and "
        "'mps' are allowed. Use device='auto' for the best available device."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resolve_device(name)


# several devices ----------------------------------------------------------------------------------


IN_A_POOL = """
import time
import joblib

def found(_):
    import torch
    from skbert.engine.model.device import resolve_device
    torch.cuda.device_count = lambda: 2
    time.sleep(0.2)  # so that the other process gets work, too
    return tuple(str(resolve_device(name)) for name in ("cuda", "auto", "cuda:0", "cpu"))

print(sorted(set(joblib.Parallel(n_jobs=2)(joblib.delayed(found)(i) for i in range(4)))))
"""


@pytest.mark.slow
def test_the_processes_of_a_search_take_the_devices_in_turn():
    found = subprocess.run(
        [sys.executable, "-c", IN_A_POOL], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    both = [("cuda:0", "cuda:0", "cuda:0", "cpu"), ("cuda:1", "cuda:1", "cuda:0", "cpu")]
    assert found.strip() == str(both)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LokyProcess-1", "cuda:0"),
        ("ForkPoolWorker-2", "cuda:1"),
        ("my worker", "cuda"),
    ],
)
def test_the_name_of_a_process_has_its_number(monkeypatch, name, expected):
    see(monkeypatch, n_cuda=2, has_mps=False)
    be_process(monkeypatch, name)
    assert resolve_device("cuda") == torch.device(expected)


def be_process(monkeypatch, name):
    """Be a process of a pool that has not warned yet."""
    monkeypatch.setattr("multiprocessing.parent_process", lambda: "not None")
    monkeypatch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(name=name))
    monkeypatch.setattr(device_module, "_has_warned", False)


@pytest.mark.parametrize(
    ("name", "n_cuda", "expected"),
    [
        ("LokyProcess-3", 2, "cuda:0"),
        ("SpawnProcess-8", 2, "cuda:1"),
        ("LokyProcess-2", 1, "cuda:0"),
    ],
)
def test_more_processes_than_devices_warn_once_each(monkeypatch, name, n_cuda, expected):
    see(monkeypatch, n_cuda=n_cuda, has_mps=False)
    be_process(monkeypatch, name)
    message = (
        f"This is process {name[-1]} of a pool, and it computes on '{expected}', maybe at the same "
        f"time as another process, because torch finds {n_cuda} CUDA device(s). Fits that share a "
        f"device share its memory and its time. Use n_jobs={n_cuda}. Or name the device, as in "
        f"device='{expected}', to share it without this warning."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert resolve_device("auto") == torch.device(expected)
    assert resolve_device("auto") == torch.device(expected)  # and a warning would be an error


def test_a_device_that_is_named_is_shared_without_a_warning(monkeypatch):
    see(monkeypatch, n_cuda=2, has_mps=False)
    be_process(monkeypatch, "LokyProcess-3")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("n_tasks", "visible", "devices", "sharing"),
    [
        ((1, 1), (None, None), [0, 1], [1, 1]),
        ((1, 1, 1), (None,) * 3, [0, 1, 0], [2, 1, 2]),
        ((1, 1), ("0,1", "0,1"), [0, 1], [1, 1]),  # the user limits all workers
        ((4,), (None,), [0], [4]),  # threads of one worker
        ((1, 1), ("0,1", "1,0"), [0, 0], [1, 1]),  # dask-cuda: its own device first
        ((1, 1), ("0", "1"), [0, 0], [1, 1]),
        ((1, 2, 1), ("0", "1", "0"), [0, 0, 0], [2, 2, 2]),
    ],
)
def test_dask_workers_take_turns_or_what_they_were_given(n_tasks, visible, devices, sharing):
    n_devices = len((visible[0] or "0,1").split(","))
    workers = [DaskWorkers(n_tasks, visible, own) for own in range(len(n_tasks))]
    assert [w.device(n_devices) for w in workers] == devices
    assert [w.n_sharing(n_devices) for w in workers] == sharing


def test_a_thread_and_the_first_process_take_the_current_device(monkeypatch):
    see(monkeypatch, n_cuda=2, has_mps=False)
    found = Parallel(n_jobs=2, backend="threading")(
        delayed(resolve_device)("cuda") for _ in range(2)
    )
    assert found == [torch.device("cuda")] * 2
