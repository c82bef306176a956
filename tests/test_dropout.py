"""Dropout masks are unbiased and repeatable, and use no global random state."""

import math

import numpy as np
import pytest
import torch

from skbert.engine.model.dropout import no_dropout, seeded_dropout

CPU = torch.device("cpu")


def dropout_of(p, seed=0):
    return seeded_dropout(p, np.random.SeedSequence(seed), CPU)


def test_elements_are_zero_or_scaled():
    dropped = dropout_of(0.5)(torch.full((100, 7), 3.0))
    assert sorted(set(dropped.flatten().tolist())) == [0.0, 6.0]


def test_zero_is_the_identity():
    hidden = torch.ones(3, 4)
    assert dropout_of(0.0) is no_dropout
    assert no_dropout(hidden) is hidden


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_share_and_expectation(p):
    n = 400_000
    dropped = dropout_of(p)(torch.ones(1000, 400))
    n_zero = int((dropped == 0).sum())
    deviation = math.sqrt(n * p * (1 - p))
    assert abs(n_zero - n * p) < 5 * deviation + n / 2**17  # p is rounded to 1/65536
    # each kept element is worth 1 / (1 - p), so the mean stays 1
    assert dropped.double().mean().item() == pytest.approx(1, abs=6 * deviation / n / (1 - p))


@pytest.mark.parametrize("p", [0.999, 0.99999, 0.999999, np.nextafter(1, 0)])
def test_every_probability_below_one_is_possible(p):
    dropped = dropout_of(p)(torch.ones(50, 8))
    assert torch.isfinite(dropped).all()


def test_elements_are_independent_of_their_neighbours():
    kept = (dropout_of(0.3)(torch.ones(1000, 64)) != 0).double().flatten().numpy()
    for lag in (1, 2, 3, 4, 16, 64):
        correlation = np.corrcoef(kept[:-lag], kept[lag:])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(len(kept))


def test_same_seed_same_masks_and_each_call_another():
    hidden = torch.ones(40, 8)
    first, second = dropout_of(0.2, seed=3), dropout_of(0.2, seed=3)
    masks = [first(hidden) for _ in range(3)]
    assert all(torch.equal(mask, second(hidden)) for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], dropout_of(0.2, seed=4)(hidden))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 3), (0, 4)])
def test_any_shape(shape):
    assert dropout_of(0.5)(torch.ones(shape)).shape == shape


def test_gradient_goes_where_the_values_went():
    hidden = torch.ones(30, 4, requires_grad=True)
    dropped = dropout_of(0.25)(hidden)
    dropped.sum().backward()
    torch.testing.assert_close(hidden.grad, dropped.detach())


def test_no_global_random_state_is_used_or_changed():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    dropout_of(0.1)(torch.ones(10, 10))
    assert torch.equal(torch.get_rng_state(), torch_state)
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)
