"""Layers side by side are torch's own, one by one; and so are their derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skbert.engine import linear as linear_module
from skbert.engine.linear import (
    FUSED_ROWS,
    constant_weights,
    joint_linear,
    linear_add,
    linear_gelu,
    row_blocks,
)


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(d_in, d_out, seed):
    layer = nn.Linear(d_in, d_out)
    with torch.no_grad():
        layer.weight.copy_(random_tensor(d_out, d_in, seed=seed))
        layer.bias.copy_(random_tensor(d_out, seed=seed + 100))
    return layer


@pytest.fixture
def x():
    return random_tensor(50, 32)


def test_results_stand_side_by_side(x):
    layers = [layer_of(32, width, seed=width) for width in (17, 5, 17)]
    with torch.no_grad():
        expected = torch.cat([layer(x) for layer in layers], 1)
        torch.testing.assert_close(joint_linear(x, layers), expected, rtol=1e-5, atol=1e-5)


def test_gradients(x):
    x.requires_grad_()
    ours = [layer_of(32, width, seed=width) for width in (17, 5)]
    theirs = copy.deepcopy(ours)
    weights = random_tensor(50, 22, seed=9)

    def gradients(result, layers):
        parameters = [p for layer in layers for p in layer.parameters()]
        return torch.autograd.grad((result * weights).sum(), [x, *parameters])

    found = gradients(joint_linear(x, ours), ours)
    expected = gradients(torch.cat([layer(x) for layer in theirs], 1), theirs)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-4)


def test_joint_derivative_numerically():
    layers = [nn.Linear(3, width, dtype=torch.float64) for width in (2, 4)]
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: joint_linear(x, layers), x)


def test_an_input_without_gradient_gets_none(x):
    layers = [layer_of(32, 4, seed=1), layer_of(32, 4, seed=2)]
    joint_linear(x, layers).sum().backward()
    assert x.grad is None and layers[0].weight.grad is not None


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("n_rows", [FUSED_ROWS, 7])
def test_fused_layers_are_the_plain_ones(monkeypatch, onednn, n_rows):
    if onednn and not linear_module._HAS_ONEDNN:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(linear_module, "_HAS_ONEDNN", onednn)
    layer, x = layer_of(32, 17, seed=1), random_tensor(n_rows, 32)
    residual = random_tensor(n_rows, 17, seed=2)
    for _ in range(2):  # weights that change between two blocks are laid out anew
        with torch.no_grad(), constant_weights():
            for _ in range(2):
                expected = [F.gelu(layer(x)), layer(x) + residual]
                found = [linear_gelu(x, layer), linear_add(x, layer, residual)]
                for ours, theirs in zip(found, expected, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            layer.weight.mul_(2)


def test_with_gradients_they_are_the_plain_ones_too(x):
    layer, residual = layer_of(32, 17, seed=1), random_tensor(50, 17)
    with constant_weights():
        found = (linear_gelu(x, layer) + linear_add(x, layer, residual)).sum()
    expected = (F.gelu(layer(x)) + layer(x) + residual).sum()
    for ours, theirs in zip(
        torch.autograd.grad(found, layer.parameters()),
        torch.autograd.grad(expected, layer.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n_rows", [1, 511, 512, 513, 700, 900, 1024, 2030])
def test_blocks_cover_all_rows_and_have_one_size_but_for_a_rest(n_rows):
    blocks = row_blocks(n_rows)
    covered = sorted({row for block in blocks for row in range(n_rows)[block]})
    assert covered == list(range(n_rows))
    sizes = [block.stop - block.start for block in blocks]
    assert set(sizes[:-1]) <= {FUSED_ROWS}
    assert sizes[-1] == FUSED_ROWS or sizes[-1] <= FUSED_ROWS // 2 or n_rows < FUSED_ROWS
    assert sum(sizes) < n_rows + FUSED_ROWS // 2
