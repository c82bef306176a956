"""Layers side by side are torch's own, one by one; and so are their derivatives."""

import copy

import pytest
import torch
from torch import nn

from skbert.engine.linear import joint_linear


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
