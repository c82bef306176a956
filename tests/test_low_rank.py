"""A low-rank change of weights: what it keeps, how it is stored, and how it is applied."""

import pytest
import torch

from skbert.engine.files.low_rank import (
    ClassifierHead,
    LowRankChange,
    low_rank_change,
    read_change,
    write_change,
)

# With these, the singular values are those of the change itself.
UNCORRELATED = {"dense": torch.eye(24)}


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 24, generator=generator)
    return ClassifierHead(weight, torch.tensor([0.5, -0.5]), ["bad", "good"], "mean")


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(1)
    shapes = {"embeddings": (50, 24), "dense": (16, 24), "bias": (16,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def changed(weights, rank, scale=0.01):
    """Weights after a change of exactly this rank; the embeddings stay."""
    generator = torch.Generator().manual_seed(2)
    left, right = (
        torch.randn(16, rank, generator=generator),
        torch.randn(rank, 24, generator=generator),
    )
    bias = weights["bias"] + scale * torch.randn(16, generator=generator)
    return weights | {"dense": weights["dense"] + scale * left @ right, "bias": bias}


def test_a_change_of_the_same_rank_is_kept_but_for_rounding(weights, head):
    after = changed(weights, rank=3)
    found = low_rank_change(weights, after, [1, 1, 1], head, UNCORRELATED).apply(weights)
    for name, weight in after.items():
        step = (weight - weights[name]).abs().max()
        # float16 has 11 significant bits, and two factors of it are multiplied
        assert (found[name] - weight).abs().max() <= step * 3 * 2**-10, name


def test_a_lower_rank_keeps_the_largest_singular_values(weights, head):
    after = changed(weights, rank=5)
    change = after["dense"] - weights["dense"]
    values = torch.linalg.svdvals(change)
    found = (
        low_rank_change(weights, after, [1, 1], head, UNCORRELATED).apply(weights)["dense"]
        - after["dense"]
    )
    assert torch.linalg.norm(found) == pytest.approx(torch.linalg.norm(values[2:]).item(), rel=0.01)


def test_a_factor_scales_its_singular_value(weights, head):
    after = changed(weights, rank=3)
    values = torch.linalg.svdvals(after["dense"] - weights["dense"])[:3]
    found = low_rank_change(weights, after, [1, 0.5, 0.25], head, UNCORRELATED).apply(weights)
    scaled = torch.linalg.svdvals(found["dense"] - weights["dense"])[:3]
    assert scaled == pytest.approx(values * torch.tensor([1, 0.5, 0.25]), rel=0.01)


def test_the_error_of_the_outputs_is_the_smallest(weights, head):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(4000, 24, generator=generator) * torch.logspace(0, -2, 24)
    inputs = inputs @ torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
    covariances = {"dense": inputs.T.cov(correction=0)}
    inputs -= inputs.mean(0)
    after = changed(weights, rank=10)
    change = after["dense"] - weights["dense"]

    def error(covariances):
        found = low_rank_change(weights, after, [1, 1], head, covariances).apply(weights)["dense"]
        return torch.linalg.norm(inputs @ (found - after["dense"]).T).item()

    # Eckart-Young: no matrix of rank 2 is closer to the outputs than their largest two components.
    least = torch.linalg.norm(torch.linalg.svdvals(inputs @ change.T)[2:]).item()
    assert error(covariances) == pytest.approx(least, rel=0.01)
    assert error(UNCORRELATED) > 1.2 * least


def test_inputs_may_vary_in_one_direction_only(weights, head):
    covariance = torch.zeros(24, 24)
    covariance[0, 0] = 1.0
    after = changed(weights, rank=3)
    change = low_rank_change(weights, after, [1], head, {"dense": covariance})
    found = change.apply(weights)["dense"] - weights["dense"]
    first_input = (after["dense"] - weights["dense"])[:, 0]
    assert torch.allclose(found[:, 0], first_input, rtol=0.01, atol=1e-4)


def test_weights_that_do_not_change_are_left_out_and_stay_the_same(weights, head):
    change = low_rank_change(weights, changed(weights, rank=3), [1, 1, 1], head, UNCORRELATED)
    assert (set(change.factors), set(change.vectors)) == ({"dense"}, {"bias"})
    assert change.apply(weights)["embeddings"] is weights["embeddings"]


def test_applying_leaves_the_published_weights_as_they_are(weights, head):
    before = {name: weight.clone() for name, weight in weights.items()}
    low_rank_change(weights, changed(weights, rank=3), [1, 1, 1], head, UNCORRELATED).apply(weights)
    assert all(torch.equal(before[name], weight) for name, weight in weights.items())


def test_a_file_holds_all_of_a_change(weights, head, tmp_path):
    change = low_rank_change(weights, changed(weights, rank=3), [1, 1, 1], head, UNCORRELATED)
    write_change(change, tmp_path / "change.safetensors")
    found = read_change(tmp_path / "change.safetensors")
    assert (found.head.labels, found.head.pooling) == (["bad", "good"], "mean")
    assert torch.equal(found.head.weight, head.weight)
    assert torch.equal(found.head.bias, head.bias)
    applied, expected = found.apply(weights), change.apply(weights)
    assert applied.keys() == weights.keys()
    assert all(torch.equal(applied[name], expected[name]) for name in expected)


def test_factors_of_a_tiny_change_do_not_underflow(head):
    before = {"dense": torch.zeros(16, 24)}
    after = changed({"dense": torch.zeros(16, 24), "bias": torch.zeros(16)}, 1, scale=1e-7)
    found = low_rank_change(before, after, [1], head, UNCORRELATED).apply(before)["dense"]
    assert torch.linalg.norm(found - after["dense"]) < 0.01 * torch.linalg.norm(after["dense"])


def test_a_new_head_does_not_share_the_weights_of_the_file(head):
    module = head.new_module()
    module.weight.data.zero_()
    assert head.weight.any()


def test_an_empty_change_changes_nothing(head, tmp_path):
    write_change(LowRankChange({}, {}, head), tmp_path / "change")
    change = read_change(tmp_path / "change")
    assert change.apply({"a": torch.ones(2)})["a"].tolist() == [1.0, 1.0]
    assert torch.equal(change.head.weight, head.weight)
