"""Dropout with skbert's own masks: cheap, and seeded without torch's global state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from skbert.engine.model.device import to_device

#: Hidden states (n, d) -> hidden states (n, d). The encoder and the heads apply it.
Dropout = Callable[[Tensor], Tensor]


def no_dropout(hidden: Tensor) -> Tensor:
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


def state_of(dropout: Dropout) -> Any:
    """Return the state of the random bits, of JSON types; None if there are none."""
    return getattr(dropout, "state", None)


def set_state(dropout: Dropout, state: Any) -> None:
    """Let the masks begin as after `state`; None changes nothing."""
    if state is not None:
        dropout.state = state  # type: ignore[attr-defined]


class SeededDropout(Protocol):
    """A dropout whose masks are a function of its state."""

    #: Where the masks are.
    device: torch.device
    #: Of JSON types. It changes with each mask.
    state: Any

    def __call__(self, hidden: Tensor) -> Tensor:
        """Draw a mask, and apply it."""

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw a mask."""

    def apply(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Set the elements to zero that `mask` drops, and scale the others."""


class _CpuDropout:
    """Compares 16 raw random bits per element with a threshold.

    torch's bernoulli takes 12 % of a training step on a CPU; this class takes a third of that.
    """

    device = torch.device("cpu")

    def __init__(self, p: float, seed: np.random.SeedSequence) -> None:
        self._bits = np.random.SFC64(seed)
        threshold = min(round(p * 2**16), 2**16 - 1)  # keeps at least one value in 65536
        self._scale = 1 / (1 - threshold / 2**16)
        self._lowest_kept = np.iinfo(np.int16).min + threshold

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.apply(hidden, self.draw(hidden.shape))

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw a mask: uint8, 1 where the element stays."""
        n_elements = int(np.prod(shape))
        raw = self._bits.random_raw(-(-n_elements // 4)).view(np.int16)[:n_elements]
        # numpy compares 16-bit integers ten times as fast as torch, and torch converts bytes to
        # floats five times as fast as booleans.
        return torch.from_numpy((raw >= self._lowest_kept).view(np.uint8)).view(shape)

    def apply(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Compute ``hidden * mask / (1 - p)``."""
        return hidden * mask.to(hidden.dtype).mul_(self._scale)

    @property
    def state(self) -> list[int]:
        """State of the random bits: four numbers of 64 bits."""
        return self._bits.state["state"]["state"].tolist()

    @state.setter
    def state(self, state: list[int]) -> None:
        words = np.array(state, dtype=np.uint64)
        self._bits.state = self._bits.state | {"state": {"state": words}}


class _DeviceDropout:
    """Draws the masks on an accelerator.

    Attributes
    ----------
    device : torch.device
    generator : torch.Generator
        A CUDA graph that draws masks must know it.
    """

    def __init__(self, p: float, seed: np.random.SeedSequence, device: torch.device) -> None:
        self._p, self.device = p, device
        self.generator = torch.Generator(device).manual_seed(int(seed.generate_state(1)[0]))

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.apply(hidden, self.draw(hidden.shape))

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw a mask: bool, True where the element stays."""
        mask = torch.empty(shape, device=self.generator.device, dtype=torch.bool)
        return mask.bernoulli_(1 - self._p, generator=self.generator)

    def apply(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Compute ``hidden * mask / (1 - p)``, and keep one byte per element for the derivative."""
        return _ScaledMask.apply(hidden, mask, 1 / (1 - self._p))

    @property
    def state(self) -> list[int]:
        """Bytes of the generator's state."""
        return self.generator.get_state().tolist()

    @state.setter
    def state(self, state: list[int]) -> None:
        self.generator.set_state(torch.tensor(state, device="cpu", dtype=torch.uint8))


class _ScaledMask(torch.autograd.Function):
    """``x * mask * scale``, and as its derivative the same of the gradient, in one kernel each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(x, mask, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradient, mask, ctx.scale), None, None


class SlicedDropout:
    """Computes some texts in several parts, with the masks that they would get in one.

    Parameters
    ----------
    dropout : Dropout
        Seeded.
    n_texts, n_sequences, n_tokens : int
        Number of texts in all parts, of their windows, and of their tokens, a filler included.
    """

    def __init__(self, dropout: Dropout, n_texts: int, n_sequences: int, n_tokens: int) -> None:
        self._dropout = cast(SeededDropout, dropout)
        self._n_texts, self._n_sequences, self._n_tokens = n_texts, n_sequences, n_tokens
        self._states: list[Any] = []  # before the mask of each place in the network

    def of(self, texts: np.ndarray, sequences: np.ndarray, tokens: np.ndarray) -> _Slice:
        """Make the dropout of one part, which must compute all places in the network in order.

        Parameters
        ----------
        texts, sequences, tokens : ndarray of int64
            Their numbers.
        """
        return _Slice(
            self,
            self._rows(self._n_texts, texts),
            self._rows(self._n_sequences, sequences),
            self._rows(self._n_tokens, tokens),
        )

    def _rows(self, n_in_all: int, of_part: np.ndarray) -> _Rows:
        return _Rows(n_in_all, to_device(of_part, self._dropout.device))

    def apply(self, hidden: Tensor, place: int, others: _Rows, tokens: _Rows) -> Tensor:
        """Draw the mask of a place for all texts, and apply the rows of some.

        The rows of `hidden` are tokens or, if their number is another, `others`.
        """
        if place == len(self._states):
            self._states.append(self._dropout.state)
        self._dropout.state = self._states[place]
        if hidden.ndim != 2:  # padded by transformers; its rows are no texts and no tokens
            return self._dropout(hidden)
        rows = tokens if len(hidden) == len(tokens.of_part) else others
        mask = self._dropout.draw((rows.n_in_all, hidden.shape[1]))
        return self._dropout.apply(hidden, mask.index_select(0, rows.of_part))


@dataclass(frozen=True)
class _Rows:
    """The rows of a part, among those of all parts."""

    n_in_all: int
    of_part: Tensor


class _Slice:
    """The dropout of one part; its state is the number of masks that it has drawn."""

    def __init__(
        self, whole: SlicedDropout, texts: _Rows, sequences: _Rows, tokens: _Rows, state: int = 0
    ) -> None:
        self._whole, self._texts, self._sequences, self._tokens = whole, texts, sequences, tokens
        self.state = state

    def __call__(self, hidden: Tensor) -> Tensor:
        self.state += 1
        return self._whole.apply(hidden, self.state - 1, self._sequences, self._tokens)

    def after_pooling(self) -> _Slice:
        """Make the dropout of the places behind the pooling, where each text has one row."""
        return _Slice(self._whole, self._texts, self._texts, self._tokens, self.state)


def after_pooling(dropout: Dropout) -> Dropout:
    """Return the dropout of vectors of texts, which differs from others only in a part."""
    return dropout.after_pooling() if isinstance(dropout, _Slice) else dropout
