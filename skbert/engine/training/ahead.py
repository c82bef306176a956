"""Compute the next results in another thread, while the caller uses this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    compute: Callable[[Item], Result], items: Iterable[Item], n_ahead: int = 2
) -> Iterator[Result]:
    """Yield ``compute(item)`` for each item, in order, as `map` does.

    One thread computes up to `n_ahead` results ahead of the caller. It ends with the iteration, or
    when the caller closes the iterator. An error of `compute` reaches the caller at its item.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="skbert-batches")
    try:
        for item in items:
            waiting.append(pool.submit(compute, item))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
