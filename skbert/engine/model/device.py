"""Names of devices and precisions -> torch's objects, and context managers for torch's modes.

Importing this file also makes forked processes safe; see `use_one_thread`.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral

import numpy as np
import torch

from skbert.engine.clusters import dask_workers, local_rank, ray_gpus
from skbert.engine.forks import after_fork
from skbert.engine.warn import warn_user

#: What the parameter `device` may be.
DeviceName = str | int | torch.device

#: Allowed values of the parameter `precision`.
PRECISIONS = ("auto", "float32", "bfloat16")


def use_one_thread() -> None:
    """Let torch compute on one thread in a forked process.

    ``gunicorn --preload``, ``multiprocessing`` with "fork" and ``os.fork`` copy a process without
    the threads of its pool. If torch has used the pool before, the first operation on several
    threads then waits forever for them, without a message. One thread needs no pool. Several forked
    processes together still use all cores. A process that was started anew ("spawn", "forkserver",
    joblib's default backend) keeps its threads.

    If torch did not compute in the parent process, not even to load a model, call
    ``torch.set_num_threads`` in the forked process for more threads.
    """
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


after_fork(use_one_thread)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Enable gradients and disable autocast, whatever the caller has set."""
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):  # it would change our derivatives
                modes.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def computing_in(precision: torch.dtype, device: torch.device) -> Iterator[None]:
    """Compute matrix products in `precision`, whatever autocast the caller has set.

    Weights, sums over residuals and LayerNorms stay float32. Autocast caches nothing: a forward
    pass uses each weight once, and a cache that an outer autocast keeps alive would contain the
    weights from before the optimizer's step.
    """
    is_lower = precision != torch.float32
    dtype = precision if is_lower else None
    with torch.autocast(device.type, dtype, enabled=is_lower, cache_enabled=False):
        yield


def is_asynchronous(device: torch.device) -> bool:
    """Whether the host runs ahead of this device, so that reading a result would make it wait."""
    return device.type == "cuda"


def page_locked(n: int, dtype: torch.dtype) -> torch.Tensor:
    """Allocate (n,) on the host for copies that the host does not wait for."""
    return torch.empty(n, device="cpu", dtype=dtype, pin_memory=True)


def event_now(device: torch.device) -> torch.cuda.Event:
    """Make an event that occurs once the device has done all that was started so far."""
    return torch.cuda.current_stream(device).record_event()


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device; on a CPU, share its memory.

    The host does not wait for a CUDA device: the copy starts from page-locked memory, which torch
    keeps until the copy has ended.
    """
    tensor = torch.from_numpy(array)
    if is_asynchronous(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def resolve_device(device: DeviceName) -> torch.device:
    """Find the device to compute on.

    Parameters
    ----------
    device : str, int or torch.device
        "auto" is the first of "cuda", "mps" and "cpu" that this machine has. The other names are
        these, also with a number ("cuda:1"). A number is that of a CUDA device. Without a number,
        "cuda" is torch's current device. But the processes of a pool, such as those of joblib, take
        the devices in turn: with two devices, the first process takes "cuda:0", the second
        "cuda:1", the third "cuda:0". So do the workers of a Dask cluster on the same machine, and
        the ranks of ``torchrun``. A worker of Ray takes the device that Ray has assigned to it.

    Raises
    ------
    ValueError
        If the device is not available. skbert never falls back to another device silently.

    Warns
    -----
    UserWarning
        Once per process, if several processes or tasks may share a CUDA device that the parameter
        does not name, or if Ray hides the devices.
    """
    if device == "auto":
        device = next(kind for kind in ("cuda", "mps", "cpu") if _count(kind))
        if device == "cpu" and os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            _warn_of_hidden_devices()
    is_number = isinstance(device, Integral) and not isinstance(device, bool)
    name = f"cuda:{device}" if is_number else str(device)
    shown = f"torch.{device!r}" if isinstance(device, torch.device) else repr(device)
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not index.isdecimal()):
        raise ValueError(
            f"device={shown} is not a known device; 'auto', 'cpu', 'cuda', 'cuda:<number>' and "
            "'mps' are allowed. Use device='auto' for the best available device."
        )
    if int(index or 0) >= _count(kind):
        raise ValueError(
            f"device={shown} is not available; torch {torch.__version__} finds {_count(kind)} "
            f"{kind} device(s). Use device='auto' for the best available device."
        )
    return torch.device(name) if name != "cuda" else _own_cuda_device()


def _own_cuda_device() -> torch.device:
    """Choose the CUDA device of this process among those of its pool or cluster."""
    n_devices = _count("cuda")
    if (rank := local_rank()) is not None:
        return torch.device("cuda", rank % n_devices)
    if workers := dask_workers():
        device = torch.device("cuda", workers.device(n_devices))
        if (n_sharing := workers.n_sharing(n_devices)) > 1:
            _warn_of_sharing(
                f"Dask runs {n_sharing} tasks at a time on the CUDA device that this worker calls "
                f"{str(device)!r}",
                "Start one worker per device, with threads_per_worker=1",
                device,
            )
        return device
    if gpus := ray_gpus():
        device = torch.device("cuda")
        if gpus.n_assigned == 0:
            _warn_of_sharing(
                "Ray has assigned no GPU to this worker, so it computes on 'cuda:0', as do all "
                "workers without one",
                "Ask for one: joblib.parallel_config('ray', ray_remote_args={'num_gpus': 1})",
                device,
            )
        return device
    worker = _number_of_worker()
    if worker is None:
        return torch.device("cuda")
    device = torch.device("cuda", worker % n_devices)
    if worker >= n_devices:
        _warn_of_sharing(
            f"This is process {worker + 1} of a pool, and it computes on {str(device)!r}, maybe "
            f"at the same time as another process, because torch finds {n_devices} CUDA device(s)",
            f"Use n_jobs={n_devices}",
            device,
        )
    return device


#: Whether this process has warned; its next fit would say the same.
_has_warned = False


def _warn_of_sharing(what: str, advice: str, device: torch.device) -> None:
    _warn_once(
        f"{what}. Fits that share a device share its memory and its time. {advice}. Or name the "
        f"device, as in device='cuda:{device.index or 0}', to share it without this warning."
    )


def _warn_of_hidden_devices() -> None:
    gpus = ray_gpus()
    if gpus and gpus.n_of_cluster:
        _warn_once(
            "Ray has assigned no GPU to this worker and hides them from it, so device='auto' is "
            f"the CPU, although the cluster has {gpus.n_of_cluster} GPU(s). Ask for one: "
            "joblib.parallel_config('ray', ray_remote_args={'num_gpus': 1}). Or set device='cpu'."
        )


def _warn_once(message: str) -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        warn_user(message)


def _number_of_worker() -> int | None:
    """Find the number of this process in its pool, from 0; None if it belongs to no pool.

    `multiprocessing`, `concurrent.futures` and joblib's default backend number the processes that
    they start in the names, for example "LokyProcess-3".
    """
    process = multiprocessing.current_process()
    number = re.search(r"\d+$", process.name)
    if multiprocessing.parent_process() is None or number is None:
        return None
    return int(number.group()) - 1


def _count(kind: str) -> int:
    """Count the devices of this kind. The test suite has only "cpu"."""
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 1


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Find the number format of matrix products on a device.

    Parameters
    ----------
    name : {"auto", "float32", "bfloat16"}
        "auto" is float32 on CPUs and MPS, to keep results exact, and bfloat16 on CUDA devices of
        compute capability 8.0 or more.
    device : torch.device

    Raises
    ------
    ValueError
        If the name is unknown, or if it is "bfloat16" and the device has no instructions for it.
        skbert never falls back to another precision silently.
    """
    if name not in PRECISIONS:
        raise ValueError(
            f"precision={name!r} is not a known precision; 'auto', 'float32' and 'bfloat16' are "
            "allowed. Use precision='auto' for the default of the device."
        )
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and _has_bfloat16(device) else "float32"
    elif name == "bfloat16" and not _has_bfloat16(device):
        raise ValueError(
            f"precision='bfloat16' is not available on device {str(device)!r}; it requires a CPU "
            "with AMX or AVX512-BF16 (other CPUs are many times slower in bfloat16 than in "
            "float32) or a CUDA device of compute capability 8.0 or more. Use precision='auto' or "
            "'float32'."
        )
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def loaded_precision(name: str, device: torch.device) -> torch.dtype:
    """As `resolve_precision`, but fall back to float32, because the weights may be from elsewhere.

    Warns
    -----
    UserWarning
        If the precision is not available on this machine.
    """
    try:
        return resolve_precision(name, device)
    except ValueError as error:
        if name not in PRECISIONS:
            raise
        warn_user(f"{error} The loaded estimator predicts in float32.")
        return torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Get the name of a precision: "float32" or "bfloat16"."""
    return str(precision).removeprefix("torch.")


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively. CI runs the tests on CPUs only."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Not `torch.ops.mkldnn._is_mkldnn_bf16_supported`, which is true for any AVX-512.
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    helpers = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return device.type == "cpu" and any(helper() for helper in helpers)
