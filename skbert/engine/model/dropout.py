"""Dropout with skbert's own masks: cheap on a CPU, and seeded without torch's global state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

#: Hidden states (n, d) -> hidden states (n, d). The encoder and the heads apply it.
Dropout = Callable[[torch.Tensor], torch.Tensor]


def no_dropout(hidden: torch.Tensor) -> torch.Tensor:
    """Return `hidden` as it is, as in evaluation mode."""
    return hidden


def seeded_dropout(p: float, seed: np.random.SeedSequence, device: torch.device) -> Dropout:
    """Make the dropout of one training run.

    Parameters
    ----------
    p : float
        Probability that an element becomes zero, in [0, 1). On CPUs it is rounded to the
        nearest 1/65536.
    seed : numpy.random.SeedSequence
        The same seed, device and calls give the same masks.
    device : torch.device
        Device of the hidden states.
    """
    if p == 0:
        return no_dropout
    if device.type != "cpu":
        return _DeviceDropout(p, seed, device)
    return _CpuDropout(p, seed)


class _CpuDropout:
    """Compares 16 raw random bits per element with a threshold.

    torch's bernoulli takes 12 % of a training step on a CPU; this class takes a third of that.
    """

    def __init__(self, p: float, seed: np.random.SeedSequence) -> None:
        self._bits = np.random.SFC64(seed)
        threshold = min(round(p * 2**16), 2**16 - 1)  # keeps at least one value in 65536
        self._scale = 1 / (1 - threshold / 2**16)
        self._lowest_kept = np.iinfo(np.int16).min + threshold

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        raw = self._bits.random_raw(-(-hidden.numel() // 4)).view(np.int16)[: hidden.numel()]
        # numpy compares 16-bit integers ten times as fast as torch, and torch converts bytes to
        # floats five times as fast as booleans.
        kept = torch.from_numpy((raw >= self._lowest_kept).view(np.uint8)).view(hidden.shape)
        return hidden * kept.to(hidden.dtype).mul_(self._scale)

    @property
    def state(self) -> list[int]:
        """State of the random bits: four numbers of 64 bits."""
        return self._bits.state["state"]["state"].tolist()

    @state.setter
    def state(self, state: list[int]) -> None:
        words = np.array(state, dtype=np.uint64)
        self._bits.state = self._bits.state | {"state": {"state": words}}


class _DeviceDropout:
    """Draws the masks on an accelerator. Only `tests/test_gpu.py` runs it."""

    def __init__(self, p: float, seed: np.random.SeedSequence, device: torch.device) -> None:
        self._p = p
        self._generator = torch.Generator(device).manual_seed(int(seed.generate_state(1)[0]))

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        keep = torch.empty_like(hidden).bernoulli_(1 - self._p, generator=self._generator)
        return hidden * keep.div_(1 - self._p)

    @property
    def state(self) -> list[int]:
        """Bytes of the generator's state."""
        return self._generator.get_state().tolist()

    @state.setter
    def state(self, state: list[int]) -> None:
        self._generator.set_state(torch.tensor(state, device="cpu", dtype=torch.uint8))
