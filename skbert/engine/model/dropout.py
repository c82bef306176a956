"""Dropout with masks of our own: cheap on a CPU, and seeded without torch's global state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

#: Hidden states (n, d) -> hidden states (n, d). What the encoder and the heads are given.
Dropout = Callable[[torch.Tensor], torch.Tensor]


def no_dropout(hidden: torch.Tensor) -> torch.Tensor:
    """Return `hidden` as it is: evaluation mode."""
    return hidden


def seeded_dropout(p: float, seed: np.random.SeedSequence, device: torch.device) -> Dropout:
    """Make the dropout of one training run.

    Parameters
    ----------
    p : float
        Probability of an element to become zero, in [0, 1). On CPUs it is rounded to the
        nearest 1/65536.
    seed : numpy.random.SeedSequence
        Same seed, same device, same calls: the same masks.
    device : torch.device
        Where the hidden states live.
    """
    if p == 0:
        return no_dropout
    if device.type != "cpu":
        return _DeviceDropout(p, seed, device)
    return _CpuDropout(p, seed)


class _CpuDropout:
    """Compares 16 raw random bits an element with a threshold.

    torch's bernoulli on CPU takes 12 % of a training step, this a third of that.
    """

    def __init__(self, p: float, seed: np.random.SeedSequence) -> None:
        self._bits = np.random.SFC64(seed)
        threshold = min(round(p * 2**16), 2**16 - 1)  # at least one value in 65536 is kept
        self._scale = 1 / (1 - threshold / 2**16)
        self._lowest_kept = np.iinfo(np.int16).min + threshold

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        raw = self._bits.random_raw(-(-hidden.numel() // 4)).view(np.int16)[: hidden.numel()]
        # numpy compares 16-bit integers ten times as fast as torch, and torch makes floats of
        # bytes five times as fast as of booleans.
        kept = torch.from_numpy((raw >= self._lowest_kept).view(np.uint8)).view(hidden.shape)
        return hidden * kept.to(hidden.dtype).mul_(self._scale)

    @property
    def state(self) -> list[int]:
        """Where the random bits are; four numbers of 64 bits."""
        return self._bits.state["state"]["state"].tolist()

    @state.setter
    def state(self, state: list[int]) -> None:
        words = np.array(state, dtype=np.uint64)
        self._bits.state = self._bits.state | {"state": {"state": words}}


class _DeviceDropout:
    """Draws the masks on an accelerator. Not run by the test suite, which has only CPUs."""

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
        self._generator.set_state(torch.tensor(state, dtype=torch.uint8))
