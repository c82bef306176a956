"""Names of devices -> `torch.device`; and torch's modes, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def gradients_on() -> Iterator[None]:
    """Let gradients be computed, also where the caller has switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def resolve_device(name: str) -> torch.device:
    """Find the device to compute on.

    Parameters
    ----------
    name : str
        "auto" is the first of "cuda", "mps" and "cpu" that this machine has; or one of
        these by name, also with a number ("cuda:1").

    Raises
    ------
    ValueError
        If there is no such device here. Nothing falls back silently.
    """
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if _count(kind)))
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not index.isdecimal()):
        raise ValueError(
            f"device={name!r} is not a device that skbert knows. Allowed are 'auto', 'cpu', "
            "'cuda', 'cuda:<number>' and 'mps'. Use device='auto' to take the best there is."
        )
    if int(index or 0) >= _count(kind):
        raise ValueError(
            f"device={name!r} was asked for, but torch {torch.__version__} sees "
            f"{_count(kind)} {kind} device(s) here. Use device='auto' to take the best there is."
        )
    return torch.device(name)


def _count(kind: str) -> int:
    """How many devices of this kind the machine has. Only "cpu" is run by the test suite."""
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 1
