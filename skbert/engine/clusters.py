"""What Dask, Ray and torchrun say of this thread or process: its neighbours and its GPUs.

No package is imported here. A thread runs a task of Dask or Ray only if the process has imported
them. torchrun sets environment variables.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from typing import Any

#: `ray.get_runtime_context().worker.mode` of a process that runs tasks; a driver has another one.
_RAY_WORKER = 1


def is_started_by_torchrun() -> bool:
    """Whether ``torchrun`` started this process itself, and not as a worker of a pool in it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and multiprocessing.parent_process() is None


def local_rank() -> int | None:
    """Find the number of this process among those of ``torchrun`` on its machine."""
    number = os.environ.get("LOCAL_RANK") if is_started_by_torchrun() else None
    return None if number is None else int(number)


def runs_dask_task() -> bool:
    """Whether this thread runs a task of `distributed`."""
    return _dask_worker() is not None


@dataclass(frozen=True)
class DaskWorkers:
    """The Dask workers of one machine, ordered by their addresses, as a task sees them.

    Attributes
    ----------
    n_tasks : tuple of int
        How many tasks each worker runs at a time.
    visible : tuple of (str or None)
        ``CUDA_VISIBLE_DEVICES`` of each worker.
    own : int
        The number of the worker that runs this task, from 0.
    """

    n_tasks: tuple[int, ...]
    visible: tuple[str | None, ...]
    own: int

    @property
    def are_assigned(self) -> bool:
        """Whether the workers see different devices, of which the first is theirs."""
        return len(set(self.visible)) > 1

    def device(self, n_devices: int) -> int:
        """Choose the number of the device for this task; workers without their own take turns."""
        return 0 if self.are_assigned else self.own % n_devices

    def n_sharing(self, n_devices: int) -> int:
        """Count the tasks that compute on the device of this one at a time."""
        if self.are_assigned:
            of_worker = [(devices or "").split(",")[0] for devices in self.visible]
        else:
            of_worker = [str(number % n_devices) for number in range(len(self.n_tasks))]
        mine = of_worker[self.own]
        return sum(n for n, device in zip(self.n_tasks, of_worker, strict=True) if device == mine)


def dask_workers() -> DaskWorkers | None:
    """Ask Dask for the workers of this machine; None if this thread runs no task of it."""
    worker = _dask_worker()
    if worker is None:
        return None
    distributed = sys.modules["distributed"]
    client = distributed.get_client()
    n_tasks = client.nthreads()
    host = _host(worker.address)
    here = sorted(address for address in n_tasks if _host(address) == host)
    # Not a function of skbert: other workers may not have imported it.
    visible = client.run(os.getenv, "CUDA_VISIBLE_DEVICES", workers=here, on_error="ignore")
    here = [address for address in here if address in visible or address == worker.address]
    return DaskWorkers(
        n_tasks=tuple(n_tasks[address] for address in here),
        visible=tuple(visible.get(address) for address in here),
        own=here.index(worker.address),
    )


def _dask_worker() -> Any | None:
    get_worker = getattr(sys.modules.get("distributed"), "get_worker", None)
    if get_worker is None:
        return None
    try:
        return get_worker()
    except ValueError:  # no task
        return None


def _host(address: str) -> str:
    """Find the machine in the address of a worker, as in "tcp://10.0.0.1:4567"."""
    get_address_host: Any = sys.modules["distributed.comm"].get_address_host
    return str(get_address_host(address))


@dataclass(frozen=True)
class RayGpus:
    """The GPUs that a task of Ray has.

    Attributes
    ----------
    n_assigned : int
        Number of GPUs that Ray has assigned to this worker. It sees only these, if any.
    n_of_cluster : int
        Number of GPUs that Ray knows.
    """

    n_assigned: int
    n_of_cluster: int


def ray_gpus() -> RayGpus | None:
    """Ask Ray for the GPUs of this task; None if this process is no worker of Ray."""
    ray: Any = sys.modules.get("ray")
    if not hasattr(ray, "is_initialized") or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    if context.worker.mode != _RAY_WORKER:
        return None
    n_assigned = len(context.get_accelerator_ids().get("GPU", ()))
    return RayGpus(n_assigned, int(ray.cluster_resources().get("GPU", 0)))
