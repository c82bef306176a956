"""Learning rates by hand, weight decay, and AdamW steps against the formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.training import optimizer as optimizer_module
from skbert.engine.training.optimizer import (
    clip_and_step,
    constant_after_warmup,
    gradient_norm,
    learning_rate_factor,
    new_adamw,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("n_steps", "warmup_fraction", "expected"),
    [
        (5, 0.0, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        (6, 0.5, [1 / 4, 2 / 4, 3 / 4, 1, 2 / 3, 1 / 3]),
        (4, 0.1, [1 / 2, 1, 2 / 3, 1 / 3]),  # 0.4 of a step is a step
        (1, 0.0, [1]),
        (1, 0.1, [1 / 2]),
        (2, 0.99, [1 / 3, 2 / 3]),
    ],
)
def test_learning_rate_by_hand(n_steps, warmup_fraction, expected):
    found = [learning_rate_factor(step, n_steps, warmup_fraction) for step in range(n_steps)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("warmup_fraction", "n_warmup"), [(0.07, 7), (0.14, 14), (0.28, 28)])
def test_a_whole_number_of_warmup_steps_is_not_rounded_up(warmup_fraction, n_warmup):
    # 0.07 * 100 is 7.000000000000001
    factors = [learning_rate_factor(step, 100, warmup_fraction) for step in range(100)]
    assert factors.index(1.0) == n_warmup


@given(n_steps=st.integers(1, 300), warmup_fraction=st.floats(0, 1, exclude_max=True, width=32))
def test_learning_rate_rises_then_falls_and_is_never_zero(n_steps, warmup_fraction):
    factors = [learning_rate_factor(step, n_steps, warmup_fraction) for step in range(n_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors == [*sorted(factors[:top]), *sorted(factors[top:], reverse=True)]


def test_constant_after_warmup_by_hand():
    found = [constant_after_warmup(step, n_warmup=3) for step in range(6)]
    assert found == [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]
    assert constant_after_warmup(0, n_warmup=0) == 1


def test_only_matrices_decay(tiny_bert):
    model = load_pretrained(tiny_bert).new_encoder()
    decayed, others = new_adamw(model.parameters(), weight_decay=0.3).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {name_of[id(parameter)] for parameter in decayed["params"]}
    other_names = {name_of[id(parameter)] for parameter in others["params"]}
    assert all("LayerNorm" in name or name.endswith("bias") for name in other_names)
    assert not any("LayerNorm" in name or name.endswith("bias") for name in decayed_names)
    assert decayed_names | other_names == set(name_of.values())
    assert "embeddings.word_embeddings.weight" in decayed_names


def test_one_step_by_hand():
    matrix = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    vector = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = new_adamw([matrix, vector], weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    matrix.grad, vector.grad = torch.tensor([[0.3, 4.0]]), torch.tensor([0.3, 4.0])
    optimizer.step()
    # the first step of Adam is the sign of the gradient, times the learning rate
    assert vector.tolist() == pytest.approx([1.0 - 0.1, -2.0 - 0.1])
    # decoupled decay first: 1 - 0.1 * 0.5 of the weight is left
    assert matrix.tolist()[0] == pytest.approx([0.95 - 0.1, -1.9 - 0.1])


def test_two_steps_against_the_formula():
    parameter = torch.nn.Parameter(torch.tensor([[1.5]]))
    optimizer = new_adamw([parameter], weight_decay=0.01)
    weight, mean, square = 1.5, 0.0, 0.0
    for step, (learning_rate, gradient) in enumerate([(0.1, 0.5), (0.02, -0.25)], start=1):
        set_learning_rate(optimizer, learning_rate)
        parameter.grad = torch.tensor([[gradient]])
        optimizer.step()
        weight *= 1 - learning_rate * 0.01
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = mean / (1 - 0.9**step) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weight -= learning_rate * update
        assert parameter.item() == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("device_divides", [True, False])
@pytest.mark.parametrize("sizes", [(10, 20, 30), (1e-3, 2e-3, 3e-3), (10, 1e-3, 10)])
def test_clipped_steps_are_those_of_clip_grad_norm(sizes, device_divides, monkeypatch):
    if not device_divides:  # as on MPS
        monkeypatch.setattr(optimizer_module, "_DIVIDING_DEVICES", ())

    def parameters():
        generator = torch.Generator().manual_seed(0)
        return [
            nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 4), (4,), (5,)]
        ]

    ours, theirs = parameters(), parameters()
    optimizers = [new_adamw(ours, 0.01), new_adamw(theirs, 0.01)]
    for size in sizes:  # the moments see the clipped gradients
        for mine, reference in zip(ours[:2], theirs[:2], strict=True):  # the last has no gradient
            gradient = size * torch.linspace(-1, 1, mine.numel()).view_as(mine)
            mine.grad, reference.grad = gradient, gradient.clone()
        for optimizer in optimizers:
            set_learning_rate(optimizer, 1e-2)
        norm = gradient_norm(ours)
        expected = nn.utils.clip_grad_norm_(theirs, 1.0)
        torch.testing.assert_close(norm, expected)
        clip_and_step(optimizers[0], norm, 1.0)
        optimizers[1].step()
    for mine, reference, start in zip(ours, theirs, parameters(), strict=True):
        torch.testing.assert_close(mine, reference)
        assert torch.equal(mine, start) == (mine.grad is None)
