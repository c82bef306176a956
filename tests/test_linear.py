"""The linear layer is torch's own, whichever library computes it."""

import pytest
import torch
import torch.nn.functional as F

from skbert.engine import linear as linear_module
from skbert.engine.linear import linear


@pytest.mark.parametrize("onednn", [True, False])
def test_linear_and_its_gradients(monkeypatch, onednn):
    if onednn and not linear_module._HAS_ONEDNN:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(linear_module, "_HAS_ONEDNN", onednn)
    generator = torch.Generator().manual_seed(0)
    arguments = [
        torch.randn(*shape, generator=generator, requires_grad=True)
        for shape in [(50, 32), (17, 32), (17,)]
    ]
    ours, theirs = linear(*arguments), F.linear(*arguments)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    weights = torch.randn(50, 17, generator=generator)
    for mine, reference in zip(
        torch.autograd.grad((ours * weights).sum(), arguments),
        torch.autograd.grad((theirs * weights).sum(), arguments),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-4)


def test_double_precision_takes_the_plain_way():
    x = torch.ones(2, 3, dtype=torch.float64)
    result = linear(x, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert result.tolist() == [[1.0] * 3] * 2
