"""Names of devices and precisions -> torch's; and torch's modes, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from skbert.engine.warn import warn_user

#: What can be asked for.
PRECISIONS = ("auto", "float32", "bfloat16")


@contextmanager
def gradients_on() -> Iterator[None]:
    """Let gradients be computed, also where the caller has switched them off or autocast on."""
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):  # it would reach into our derivatives
                modes.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def computing_in(precision: torch.dtype, device: torch.device) -> Iterator[None]:
    """Let matrix products be computed in `precision`, also where the caller's autocast differs.

    Weights stay float32, and so do sums over residuals and LayerNorms. Nothing is cached: each
    weight is used once in a forward pass, and a cache that an outer autocast keeps alive would
    hold the weights of before the optimizer's step.
    """
    is_lower = precision != torch.float32
    dtype = precision if is_lower else None
    with torch.autocast(device.type, dtype, enabled=is_lower, cache_enabled=False):
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


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Find the number format of matrix products on a device.

    Parameters
    ----------
    name : {"auto", "float32", "bfloat16"}
        "auto" is float32 on CPUs and MPS, for the sake of exact results, and bfloat16 on CUDA
        devices of compute capability 8.0 or more.
    device : torch.device

    Raises
    ------
    ValueError
        If it is bfloat16 and the device has no instructions for it. Nothing falls back silently.
    """
    if name not in PRECISIONS:
        raise ValueError(
            f"precision={name!r} is not a precision that skbert knows. Allowed are 'auto', "
            "'float32' and 'bfloat16'. Use precision='auto' to take the one for the device."
        )
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and _has_bfloat16(device) else "float32"
    elif name == "bfloat16" and not _has_bfloat16(device):
        raise ValueError(
            f"precision='bfloat16' was asked for, but device {str(device)!r} has no instructions "
            "for it here: CPUs need AMX or AVX512-BF16 (others are many times slower in "
            "bfloat16 than in float32), CUDA devices compute capability 8.0; MPS is not "
            "supported. Use precision='auto' or 'float32'."
        )
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def loaded_precision(name: str, device: torch.device) -> torch.dtype:
    """As `resolve_precision`, for weights from another machine: they can be used on this one.

    Warns
    -----
    UserWarning
        If the precision cannot be had here, so that it is float32.
    """
    try:
        return resolve_precision(name, device)
    except ValueError as error:
        if name not in PRECISIONS:
            raise
        warn_user(f"{error} What was loaded predicts in float32 here.")
        return torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Get the name that `resolve_precision` knows: "float32" or "bfloat16"."""
    return str(precision).removeprefix("torch.")


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively. Only CPUs are run by the test suite."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Not `torch.ops.mkldnn._is_mkldnn_bf16_supported`: it says yes to any AVX-512.
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    helpers = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return device.type == "cpu" and any(helper() for helper in helpers)
