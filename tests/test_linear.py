"""Linear layers are torch's own, whichever library computes them and whatever is fused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skbert.engine import linear as linear_module
from skbert.engine.linear import (
    constant_weights,
    joint_linear,
    linear,
    linear_add,
    linear_gelu,
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


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def library(request, monkeypatch):
    if request.param and not linear_module._HAS_ONEDNN:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(linear_module, "_HAS_ONEDNN", request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("repeats", [1, 3])
def test_without_gradients(x, repeats):
    layer, other = layer_of(32, 17, seed=1), layer_of(32, 17, seed=2)
    residual = random_tensor(50, 17, seed=3)
    with torch.no_grad():
        plain, second = layer(x), other(x)
        expected = [plain, F.gelu(plain), residual + plain, torch.cat([plain, second], 1)]
        with constant_weights():
            for _ in range(repeats):
                found = [
                    linear(x, layer),
                    linear_gelu(x, layer),
                    linear_add(x, layer, residual),
                    joint_linear(x, [layer, other]),
                ]
                for ours, theirs in zip(found, expected, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_weights_are_laid_out_anew_in_each_block(x):
    layer = layer_of(32, 17, seed=1)
    for _ in range(2):
        with torch.no_grad(), constant_weights():
            for _ in range(2):
                torch.testing.assert_close(linear(x, layer), layer(x), rtol=1e-5, atol=1e-5)
            layer.weight.mul_(2)


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


def test_double_precision_takes_the_plain_way():
    layer = nn.Linear(3, 3, dtype=torch.float64)
    x = torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, layer), layer(x), rtol=0, atol=0)
