"""The losses of the steps of an epoch, and whether one was not finite, without waiting for them.

A host that reads a number from an accelerator waits until everything before it is computed, and the
accelerator then waits for the host. So `StepLog` sums on the device. If a loss or gradient is not
finite there, the device itself skips this optimizer step and all later ones, and the host learns of
it some steps later: the weights are still those before the failed step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skbert.engine.model.device import event_now, is_asynchronous, page_locked

# Places in the report; the sums of the failed step and those of all other steps follow.
_FAILED, _N_STEPS, _SUMS = 0, 1, 2


@dataclass(frozen=True)
class FailedStep:
    """A step whose loss or gradient was not finite.

    Attributes
    ----------
    n_before : int
        Number of the epoch's steps before it.
    sums : ndarray of shape (n_sums,)
        The sums of its loss.
    """

    n_before: int
    sums: np.ndarray


@dataclass(frozen=True)
class FinishedSteps:
    """The steps of an epoch of which the host knows that they have ended.

    Attributes
    ----------
    n : int
        Their number.
    sums : ndarray of shape (n_sums,)
        The sums of their losses.
    """

    n: int
    sums: np.ndarray


class StepLog:
    """Sums of an epoch, and the first step that failed.

    Parameters
    ----------
    device : torch.device

    Attributes
    ----------
    failed : Tensor of shape (), float32
        1 after a failed step, else 0. It is always the same tensor.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_asynchronous = is_asynchronous(device)
        self.failed = torch.zeros((), device=device, dtype=torch.float32)
        self._report: Tensor | None = None
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._known: np.ndarray | None = None

    def begin_epoch(self) -> None:
        """Forget all steps, and a failure, too."""
        self._copied = self._known = None
        for tensor in (self.failed, self._report):
            if tensor is not None:
                tensor.zero_()

    def record(self, sums: Tensor, norm: Tensor) -> None:
        """Add the sums of a step, unless it or an earlier one failed; a CUDA graph may replay this.

        Parameters
        ----------
        sums : Tensor of shape (n_sums,)
            See `objective.Loss`.
        norm : Tensor of shape ()
            Norm of the gradients.
        """
        if self._report is None:
            self._report = sums.new_zeros(_SUMS + 2 * len(sums))
        of_failed, totals = self._report[_SUMS:].chunk(2)
        is_bad = ~(torch.isfinite(sums).all() & torch.isfinite(norm))
        is_first = is_bad & (self.failed == 0)
        self.failed.add_(is_bad).clamp_(max=1)
        of_failed.copy_(torch.where(is_first, sums, of_failed))
        self._report[_FAILED].copy_(self.failed)
        self._report[_N_STEPS].add_(1 - self.failed)
        totals.add_(torch.where(self.failed > 0, torch.zeros_like(sums), sums))

    def failure(self, wait: bool = False) -> FailedStep | None:
        """Find the first failed step, as far as the host knows; all of them if it may `wait`."""
        if self._report is None:
            return None
        if wait or not self._is_asynchronous:
            return self._read(self._report.cpu())
        if self._copied is not None and not self._copied.query():
            return None  # the copy is still under way
        if self._copy is None:
            self._copy = page_locked(len(self._report), self._report.dtype)
        failed = None if self._copied is None else self._read(self._copy)
        if failed is None:
            self._copy.copy_(self._report, non_blocking=True)
            self._copied = event_now(self._device)
        return failed

    def _read(self, report: Tensor) -> FailedStep | None:
        """Keep the numbers of a report on the host; return the failed step, if there is one."""
        self._known = numbers = report.double().numpy().copy()
        if not numbers[_FAILED]:
            return None
        return FailedStep(int(numbers[_N_STEPS]), np.split(numbers[_SUMS:], 2)[0])

    @property
    def finished(self) -> FinishedSteps | None:
        """The steps that `failure` last knew of; None if it knew of none. The host never waits."""
        if self._known is None or not self._known[_N_STEPS]:
            return None
        return FinishedSteps(int(self._known[_N_STEPS]), np.split(self._known[_SUMS:], 2)[1])

    def totals(self) -> np.ndarray:
        """Return the sums of all steps that did not fail: (n_sums,). The host waits for them."""
        assert self._report is not None
        return self._report[_SUMS:].chunk(2)[1].cpu().double().numpy()
