"""The parameter `n_threads`: on how many threads a call of an estimator computes.

Torch has one number of threads per calling thread, and another with which new threads start. OpenMP
libraries have one per calling thread. OpenBLAS and other BLAS libraries have one for the whole
process. So a call changes the numbers of its own thread, and shares those of the process with
other calls.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from skbert.engine.clusters import runs_dask_task
from skbert.engine.forks import after_fork

_Result = TypeVar("_Result")

#: The methods of all estimators that compute.
_COMPUTING = (
    "fit",
    "partial_fit",
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score",
    "explain",
    "transform",
    "token_embeddings",
    "fill_mask",
    "predict_next_sentence",
)


class ThreadsMixin:
    """Lets the methods of an estimator that compute use `n_threads` threads.

    `fit_transform` and similar methods call these methods. Arguments and docstrings stay.
    """

    n_threads: int | None

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap the methods of a new class, also those that it inherits from other mixins."""
        super().__init_subclass__(**options)
        for name in _COMPUTING:
            method = getattr(cls, name, None)
            if method is not None and not hasattr(method, "_limits_threads"):
                setattr(cls, name, _limited(method))


def _limited(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        n_here = _number_here()
        n_threads = getattr(self, "n_threads", None)
        if n_threads is None:
            n_threads = _threads_of_a_task(n_here)
        if n_threads is None:
            return method(self, *args, **kwargs)
        if not isinstance(n_threads, Integral) or n_threads < 1:
            self._validate_params()  # raises an error
        with limited_threads(int(n_threads)):
            return method(self, *args, **kwargs)

    call._limits_threads = True  # type: ignore[attr-defined]
    return call


def _threads_of_a_task(n_here: int) -> int | None:
    """Choose the number of threads in a task of Dask; None elsewhere, which changes no number.

    Dask runs a task in each thread of a worker, and counts it as one core. A nanny starts its
    workers with ``OMP_NUM_THREADS=1``, or what the configuration of Dask says. Workers without a
    nanny would use all cores for each task. The variable may be newer than torch's number, because
    a nanny also sets it in the process that starts the cluster.
    """
    if not runs_dask_task():
        return None
    number = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", ""))
    return min(n_here, max(1, int(number.group())) if number else 1)


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Compute on `n_threads` threads in the block, and restore all numbers of threads after it.

    Blocks may be nested, and the innermost one counts. If blocks of several threads overlap, each
    has its own number for torch and OpenMP. For BLAS libraries, which have one number for the whole
    process, the smallest one counts until the last block ends.

    Parameters
    ----------
    n_threads : int
        At least 1.
    """
    # Torch first: it compares its number with OpenMP's, and sets MKL's only if they differ.
    with _torch_limited(n_threads), _blas.limited(n_threads), _openmp_limited(n_threads):
        yield


# Torch ----------------------------------------------------------------------------------------

#: Held while torch's number for new threads is not what it was.
_switching = threading.Lock()


def _number_here() -> int:
    """Read torch's number of threads for this thread.

    A thread takes the stored number when it first uses torch, and keeps it. So it must not do that
    while another call has changed the stored number.
    """
    with _switching:
        return torch.get_num_threads()


@contextmanager
def _torch_limited(n_threads: int) -> Iterator[None]:
    before = _number_here()
    if before == n_threads:
        yield
        return
    _set_here(n_threads)
    try:
        yield
    finally:
        _set_here(before)


def _set_here(n_threads: int) -> None:
    """Set torch's number of threads in this thread, and in no other.

    `torch.set_num_threads` also stores the number for threads that use torch for the first time
    later, and they keep it. Only such a thread can read the stored number. Setting OpenMP's number
    instead is not enough: in a thread that has called `torch.set_num_threads`, MKL has its own.
    """
    with _switching:
        stored = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(n_threads)
        if stored != n_threads:
            _in_new_thread(partial(torch.set_num_threads, stored))


def _in_new_thread(function: Callable[[], _Result]) -> _Result:
    results: list[_Result] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# OpenMP and BLAS ------------------------------------------------------------------------------


@functools.cache
def _libraries(kind: str) -> list[Any]:
    """Find the loaded libraries of a kind, "openmp" or "blas"; takes milliseconds, so only once."""
    return ThreadpoolController().select(user_api=kind).lib_controllers


@contextmanager
def _openmp_limited(n_threads: int) -> Iterator[None]:
    """Limit what scikit-learn computes with OpenMP; torch's own number is set separately."""
    before = [(library, library.get_num_threads()) for library in _libraries("openmp")]
    for library, _ in before:
        library.set_num_threads(n_threads)
    try:
        yield
    finally:
        for library, n in before:
            library.set_num_threads(n)


class _SharedLimit:
    """The number of threads of BLAS libraries, which calls in several threads limit together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: dict[int, list[int]] = {}  # of each thread, the innermost limit last
        self._before: list[tuple[Any, int]] = []  # what the libraries had without any limit
        self._set: int | None = None  # what they have now, if there is a limit
        after_fork(self._keep_own)

    @contextmanager
    def limited(self, n_threads: int) -> Iterator[None]:
        thread = threading.get_ident()
        with self._lock:
            if not self._limits:
                self._begin()
            self._limits.setdefault(thread, []).append(n_threads)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._limits[thread].pop()
                if not self._limits[thread]:
                    del self._limits[thread]
                self._apply()

    def _begin(self) -> None:
        # With OpenMP, a library has a number for each thread, which `_openmp_limited` sets.
        own = [x for x in _libraries("blas") if getattr(x, "threading_layer", "") != "openmp"]
        found = [(library, library.get_num_threads()) for library in own]
        self._before = [(library, n) for library, n in found if n and n > 0]
        self._set = None

    def _apply(self) -> None:
        smallest = min((limits[-1] for limits in self._limits.values()), default=None)
        for library, before in self._before:
            if smallest is not None:
                _take_and_set(library, smallest)
            elif library.get_num_threads() == self._set:  # nobody else has changed it meanwhile
                _take_and_set(library, before)
        self._set = smallest

    def _keep_own(self) -> None:
        """Forget the limits of threads that a forked process does not have."""
        own = threading.get_ident()
        others = self._limits.keys() - {own}
        self._lock = threading.Lock()
        self._limits = {own: self._limits[own]} if own in self._limits else {}
        if others:
            self._apply()


def _take_and_set(library: Any, n_threads: int) -> None:
    """Set the number of threads of a BLAS library from any thread.

    Newer versions of threadpoolctl ignore all threads but the first one as long as it lives. Here,
    the lock of `_SharedLimit` makes the threads wait for each other.
    """
    release = getattr(library, "clear_controlling_thread", None)
    if release is None:
        library.set_num_threads(n_threads)
        return
    release(force=True)
    library.set_num_threads(n_threads)
    release()


def _renew_lock() -> None:
    global _switching
    _switching = threading.Lock()


_blas = _SharedLimit()
after_fork(_renew_lock)
