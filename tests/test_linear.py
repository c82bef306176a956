"""Compare layers side by side and their derivatives with torch's single layers."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skbert.engine.model import onednn
from skbert.engine.model.linear import joint_linear, linear_gelu, residual_linear, side_by_side
from skbert.engine.model.onednn import (
    FULL_ROWS,
    _reordered,
    constant_weights,
    drop_filling,
    fill_batch,
)
from skbert.engine.text.packing import PackedBatch


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


CPU = torch.device("cpu")


@pytest.mark.parametrize("n_rows", [FULL_ROWS - 1, FULL_ROWS])
@pytest.mark.parametrize("owns_memory", [True, False])
def test_what_onednn_takes_into_its_products(onednn_products, n_rows, owns_memory):
    x, residual = random_tensor(n_rows, 32), random_tensor(n_rows, 17, seed=1)
    layers = [layer_of(32, 17, seed=2), layer_of(32, 5, seed=3)]
    if not owns_memory:
        for layer in layers:
            layer.weight = nn.Parameter(torch.from_numpy(layer.weight.detach().numpy().copy()))
    weights = [layer.weight for layer in layers]
    with torch.no_grad():
        expected = [
            F.gelu(layers[0](x)),
            residual + layers[0](x),
            torch.cat([layers[0](x), x @ weights[1].t()], 1),
        ]
        with constant_weights(CPU, torch.float32):
            for _ in range(2):  # reordered in the first, used in the second
                found = [
                    linear_gelu(x, layers[0]),
                    residual_linear(residual, x, weights[0], layers[0].bias),
                    side_by_side(x, weights, [layers[0].bias, None]),
                ]
            n_copies = sum(used.is_mkldnn for _, used in _reordered.get().values())
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=2e-5)
    is_used = n_rows == FULL_ROWS
    assert len(onednn_products) == is_used * (6 if owns_memory else 4)
    assert n_copies == (2 if is_used and owns_memory else 0)  # the first weight, and both together


@pytest.mark.parametrize(("capability", "expected"), [("AVX512", True), ("AVX2", False)])
def test_onednn_is_used_only_where_it_is_faster(onednn_products, monkeypatch, capability, expected):
    monkeypatch.undo()  # the fixture says that it is faster everywhere
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(onednn, "is_faster", onednn.is_faster.__wrapped__)
    with torch.no_grad(), constant_weights(CPU, torch.float32):
        assert onednn.is_used() is expected


def test_weights_are_reordered_again_in_the_next_block(onednn_products):
    x, layer = random_tensor(FULL_ROWS, 32), layer_of(32, 17, seed=2)
    with torch.no_grad():
        for _ in range(2):
            with constant_weights(CPU, torch.float32):
                found = linear_gelu(x, layer)
            torch.testing.assert_close(found, F.gelu(layer(x)), rtol=1e-5, atol=2e-5)
            layer.weight.mul_(-1)
    assert len(onednn_products) == 2


def test_weights_that_are_computed_are_not_reordered(onednn_products):
    """Each access to the weight gives a new tensor, which may have the id of the previous one."""
    x = random_tensor(FULL_ROWS, 32)
    layers = [layer_of(32, 17, seed=seed) for seed in range(4)]
    for layer in layers:
        torch.nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad(), constant_weights(CPU, torch.float32):
        for layer in layers:
            expected = F.linear(x, layer.weight, layer.bias)
            residual = torch.zeros(FULL_ROWS, 17)
            for found in (
                residual_linear(residual, x, layer.weight, layer.bias),
                side_by_side(x, [layer.weight], [layer.bias]),
            ):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert not onednn_products


def test_hooks_of_a_layer_are_called(onednn_products):
    x, layer = random_tensor(FULL_ROWS, 32), layer_of(32, 17, seed=2)
    layer.register_forward_hook(lambda module, inputs, output: output * 0)
    with torch.no_grad(), constant_weights(CPU, torch.float32):
        assert not linear_gelu(x, layer).any()


@pytest.mark.parametrize(
    ("device", "precision"), [("cpu", torch.bfloat16), ("cuda", torch.float32)]
)
def test_where_onednn_keeps_out(onednn_products, device, precision):
    x, layer = random_tensor(FULL_ROWS, 32), layer_of(32, 17, seed=2)
    with torch.no_grad():
        linear_gelu(x, layer)  # no block of `constant_weights`
        with constant_weights(torch.device(device), precision):
            linear_gelu(x, layer)
    with constant_weights(CPU, torch.float32):
        linear_gelu(x, layer).sum().backward()
        joint_linear(x, [layer, layer]).sum().backward()
    assert layer.weight.grad is not None and not onednn_products


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # of torch's own flags
def test_who_switches_onednn_off_gets_none(onednn_products):
    x, layer = random_tensor(FULL_ROWS, 32), layer_of(32, 17, seed=2)
    with (
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False),
        constant_weights(CPU, torch.float32),
    ):
        linear_gelu(x, layer)
    assert not onednn_products


def batch_of(*lengths):
    ids = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    cu_seqlens = np.cumsum([0, *lengths]).astype(np.int32)
    return PackedBatch(ids, positions, np.ones_like(ids), cu_seqlens, np.arange(len(lengths)))


@pytest.mark.usefixtures("onednn_products")
def test_a_batch_that_lacks_few_tokens_is_filled():
    batch = batch_of(2000, 45)
    with torch.no_grad(), constant_weights(CPU, torch.float32):
        filled = fill_batch(batch)
    assert filled.ids[2040:].tolist() == [2041, 2042, 2043, 2044, 2045, 0, 0, 0]
    assert filled.positions[2040:].tolist() == [40, 41, 42, 43, 44, 0, 0, 0]
    assert filled.segment_ids[2040:].tolist() == [1] * 5 + [0] * 3
    assert filled.cu_seqlens.tolist() == [0, 2000, 2045, FULL_ROWS]
    assert filled.rows.tolist() == [0, 1, -1]
    for array, before in zip(vars(filled).values(), vars(batch).values(), strict=True):
        assert getattr(array, "dtype", None) == getattr(before, "dtype", None)
    assert drop_filling(torch.arange(3), 2).tolist() == [0, 1]


@pytest.mark.usefixtures("onednn_products")
def test_other_batches_are_not_filled():
    lacks_few = batch_of(2000, 45)
    assert fill_batch(lacks_few) is lacks_few  # no block of `constant_weights`
    with constant_weights(CPU, torch.float32):
        assert fill_batch(lacks_few) is lacks_few  # gradients are on
        with torch.no_grad():
            for n_tokens in (1, FULL_ROWS - 65, FULL_ROWS, FULL_ROWS + 1):
                batch = batch_of(n_tokens)
                assert fill_batch(batch) is batch
    rows = torch.arange(3)
    assert drop_filling(rows, 3) is rows
