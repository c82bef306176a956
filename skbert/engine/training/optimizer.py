"""Weight decay, learning rates and clipping. This file knows neither texts nor labels.

skbert uses torch's fused AdamW, which reads weights, gradients and moments once, and clips in the
same pass. With an unfused AdamW and separate clipping, a fit of 512 sentences takes 1.10 times as
long (bench_profile.py, AMD EPYC, two threads).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from skbert.engine.model.device import is_asynchronous

# Devices on which fused AdamW divides the gradients by its attribute `grad_scale`.
_DIVIDING_DEVICES = ("cpu", "cuda")


def new_adamw(parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter, 2019) with weight decay on matrices only.

    Biases and LayerNorm weights are vectors; they do not decay, as in the code of the BERT paper.
    The trainer sets the learning rate before each step; see `learning_rate_factor`. On CUDA devices
    it is a tensor there, and the moments exist from the start, so that memory runs out for
    activations, which can be split, and not for the optimizer.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim > 1 else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    weights = decayed + others
    device = weights[0].device
    if not is_asynchronous(device):
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)
    rate = torch.zeros((), device=device, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        groups, lr=rate, betas=(0.9, 0.999), eps=1e-8, fused=True, capturable=True
    )
    for weight in weights:
        optimizer.state[weight] = {
            "step": torch.zeros((), device=device, dtype=torch.float32),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    return optimizer


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    norm: torch.Tensor,
    max_norm: float,
    failed: torch.Tensor | None = None,
) -> None:
    """Take a step with the gradients scaled down to a norm of at most `max_norm`.

    The result is the same as after ``torch.nn.utils.clip_grad_norm_``. But on CPUs and CUDA
    devices, fused AdamW divides the gradients while it reads them, which saves a pass over all of
    them. `torch.amp.GradScaler` passes its scale, and whether the step failed, through the same two
    attributes. On MPS the fused kernel ignores them, so this function divides the gradients before.
    Nothing has run on MPS.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Fused.
    norm : Tensor of shape ()
        Norm of all gradients; see `gradient_norm`.
    max_norm : float
    failed : Tensor of shape (), float32, or None
        If it is 1, no weight and no moment changes. With it, the host reads no result: the
        gradients are divided in any case, by 1 if their norm is small enough.
    """
    excess = (norm.float() + 1e-6) / max_norm
    if failed is not None:
        optimizer.grad_scale = excess.clamp(min=1)  # type: ignore[attr-defined]
        optimizer.found_inf = failed  # type: ignore[attr-defined]
        optimizer.step()
        return
    is_divided_inside = norm.device.type in _DIVIDING_DEVICES
    optimizer.grad_scale = (  # type: ignore[attr-defined]
        excess if excess > 1 and is_divided_inside else None
    )
    if excess > 1 and not is_divided_inside:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter.grad is not None:
                parameter.grad.div_(excess)
    optimizer.step()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Compute the Euclidean norm of all gradients together; shape ().

    On a CPU, dot products use all threads, but ``torch.linalg.vector_norm`` uses one.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients[0].is_cuda:  # one kernel for many gradients
        return torch.nn.utils.get_total_norm(gradients, foreach=True)
    gradients = [gradient.reshape(-1) for gradient in gradients]
    return torch.stack([torch.dot(g, g) for g in gradients]).sum().sqrt()


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set one learning rate for all weights."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def n_warmup_steps(n_steps: int, warmup_fraction: float) -> int:
    """Compute a share of the steps, rounded up; 0.07 of 100 is 7, although 0.07 * 100 > 7."""
    return math.ceil(round(warmup_fraction * n_steps, 6))


def learning_rate_factor(step: int, n_steps: int, warmup_fraction: float) -> float:
    """Compute the factor of linear warm-up, then linear decay (Devlin et al., 2019, appendix A.2).

    Parameters
    ----------
    step : int
        From 0 to ``n_steps - 1``.
    n_steps : int
        Number of steps of the whole training.
    warmup_fraction : float
        Share of the steps, rounded up, in which the learning rate rises.

    Returns
    -------
    float
        In (0, 1]. Neither the first factor nor the last is 0, so even a training of one step
        learns; the schedules of transformers begin with a factor of 0.
    """
    n_warmup = n_warmup_steps(n_steps, warmup_fraction)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return (n_steps - step) / (n_steps - n_warmup)


def constant_after_warmup(step: int, n_warmup: int) -> float:
    """Compute the factor of linear warm-up, then always 1, for an unknown number of steps.

    Parameters
    ----------
    step : int
        From 0.
    n_warmup : int
        Number of steps in which the learning rate rises.
    """
    return min(1.0, (step + 1) / (n_warmup + 1))
