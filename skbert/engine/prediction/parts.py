"""Which texts prediction computes together, and what it does if memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from skbert.engine.model.onednn import FULL_ROWS
from skbert.engine.warn import warn_user

#: Maximum number of tokens in a batch on a CPU, unless one text alone has more. skbert uses oneDNN
#: for this number. It is large enough for matrix products at full speed, and small enough that a
#: layer's activations stay near the processor and the allocator reuses their memory. Predicting
#: 1,024 sentences with MiniLM on two threads of an Intel Xeon takes 2.09 s with 512, 1.91 with
#: 1024, 1.84 with 2048, and 2.00 with 4096.
TOKEN_BUDGET = FULL_ROWS

# The same on an accelerator, which has more to do at a time.
_TOKEN_BUDGET_OF_ACCELERATORS = 32768

Result = TypeVar("Result")

#: Wraps all batches of one pass over the texts, to show its progress.
BatchProgress = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]


def token_budget(device: torch.device) -> int:
    """Return the maximum number of tokens in a batch, unless one text alone has more."""
    return TOKEN_BUDGET if device.type == "cpu" else _TOKEN_BUDGET_OF_ACCELERATORS


def with_progress(
    batches: Sequence[np.ndarray], progress: BatchProgress | None
) -> Iterable[np.ndarray]:
    """Return the same batches, whose progress is shown unless `progress` is None."""
    return progress(batches) if progress else batches


@dataclass
class Pieces:
    """Into how many pieces prediction cuts each part; the number grows if memory runs out."""

    n: int = 1


def compute_parts(
    parts: Iterable[np.ndarray],
    compute: Callable[[np.ndarray], Result],
    pieces: Pieces | None = None,
) -> Iterator[tuple[np.ndarray, Result]]:
    """Yield the rows of each part and ``compute(rows)``; cut parts for which memory is too short.

    Parameters
    ----------
    parts : iterable of ndarray of int64
        The rows of each batch.
    compute : callable
    pieces : Pieces or None
        What earlier calls have found out, which this call changes.

    Warns
    -----
    UserWarning
        When memory runs out for the first time. Later parts are cut before they are computed.

    Raises
    ------
    torch.OutOfMemoryError
        If the memory does not suffice for one text.
    """
    pieces = Pieces() if pieces is None else pieces
    for part in parts:
        waiting = deque(np.array_split(part, min(pieces.n, max(len(part), 1))))
        while waiting:
            rows = waiting.popleft()
            try:
                result = compute(rows)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
            else:
                yield rows, result
                continue
            if pieces.n == 1:
                warn_user(
                    f"Out of memory for a batch of {len(rows)} texts. skbert computes smaller "
                    "batches, which gives the same results more slowly. Lower max_length or choose "
                    "a smaller model to avoid this."
                )
            pieces.n *= 2
            waiting = deque(half for left in (rows, *waiting) for half in _halves(left))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _halves(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, min(2, len(rows)))
