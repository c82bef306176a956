"""Compare packed attention with one softmax per text, and check its explicit derivative."""

import numpy as np
import pytest
import torch

from skbert.engine.model import attention
from skbert.engine.model.attention import (
    TextBlock,
    _length_group,
    _text_block,
    first_token_attention,
    self_attention,
    text_groups,
)

N_HEADS, D_HEAD = 3, 4
LENGTHS = [7, 7, 5, 2]  # sorted, as in a batch
CU_SEQLENS = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int32)
CPU = torch.device("cpu")


def groups_of_equal_length():
    """Groups on a CPU without gradients, and for long texts."""
    return attention.groups_of_equal_length(np.array(LENGTHS), CPU)


def padded_groups():
    """Groups on an accelerator, of 2 texts each: the first group has no padding."""
    halves = np.array(LENGTHS[:2]), np.array(LENGTHS[2:])
    return [_length_group(lengths, CPU) for lengths in halves]


def blocks():
    """Groups for training on a CPU: 14 tokens of two texts, and 7 tokens of two texts."""
    return [_text_block(np.array(lengths)) for lengths in ([7, 7], [5, 2])]


def blocks_of_one():
    """As `blocks`, for longer texts: 7, 7, and the 7 tokens of two texts."""
    return [_text_block(np.array(lengths)) for lengths in ([7], [7], [5, 2])]


ALL_GROUPS = [groups_of_equal_length, padded_groups, blocks, blocks_of_one]


@pytest.fixture(params=ALL_GROUPS, ids=lambda make: make.__name__)
def groups(request):
    return request.param()


def one_text(query, key, value):
    """(L, n_heads, d_head) each -> (L, n_heads * d_head), by the definition."""
    scores = torch.einsum("qhd,khd->hqk", query, key) / D_HEAD**0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)


def by_definition(query_key_value):
    parts = query_key_value.view(-1, 3, N_HEADS, D_HEAD).split(LENGTHS)
    return torch.cat([one_text(*part.unbind(1)) for part in parts])


def random_input(columns):
    generator = torch.Generator().manual_seed(0)
    shape = (sum(LENGTHS), columns)
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def test_groups_on_a_cpu_are_never_padded():
    groups = groups_of_equal_length()
    assert [(g.n_texts, g.n_tokens, g.max_length) for g in groups] == [
        (2, 14, 7),
        (1, 5, 5),
        (1, 2, 2),
    ]
    assert all(g.places is None and g.visible is None for g in groups)


def test_padded_groups_by_hand():
    full, padded = padded_groups()
    assert (full.n_texts, full.n_tokens, full.max_length) == (2, 14, 7)
    assert full.places is None and full.visible is None
    assert (padded.n_texts, padded.n_tokens, padded.max_length) == (2, 7, 5)
    assert padded.places.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert padded.visible[:, 0, 0].tolist() == [[True] * 5, [True, True, False, False, False]]


def test_blocks_by_hand(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_TOKENS", 14)
    full, short = text_groups(CU_SEQLENS, CPU)
    assert (full.n_texts, full.n_tokens, short.n_texts, short.n_tokens) == (2, 14, 2, 7)
    sees = short.mask == 0
    assert sees.tolist() == [[True] * 5 + [False] * 2] * 5 + [[False] * 5 + [True] * 2] * 2
    assert (short.mask[~sees] == -torch.inf).all()
    assert torch.equal(short.first_mask, short.mask[[0, 5]])
    monkeypatch.setattr(attention, "_BLOCK_TOKENS", 7)
    assert [(b.n_texts, b.n_tokens) for b in text_groups(CU_SEQLENS, CPU)] == [
        (1, 7),
        (1, 7),
        (2, 7),
    ]
    assert text_groups(CU_SEQLENS, CPU)[0].mask is None


def test_a_text_longer_than_a_block_makes_one_of_its_own(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_TOKENS", 6)
    assert [b.n_tokens for b in text_groups(CU_SEQLENS, CPU)] == [7, 7, 5, 2]


def test_texts_that_are_not_sorted_do_not_see_each_other(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_TOKENS", 9)
    lengths = [2, 7, 5, 7]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    x = random_input(3 * N_HEADS * D_HEAD)
    parts = x.view(-1, 3, N_HEADS, D_HEAD).split(lengths)
    expected = torch.cat([one_text(*part.unbind(1)) for part in parts])
    assert [block.n_tokens for block in text_groups(cu_seqlens, CPU)] == [9, 5, 7]
    for is_derived in (True, False):
        with torch.set_grad_enabled(is_derived):
            ours = self_attention(x, text_groups(cu_seqlens, CPU), N_HEADS)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_where_blocks_are_used(monkeypatch):
    assert all(isinstance(b, TextBlock) for b in text_groups(CU_SEQLENS, CPU))
    with torch.no_grad():
        assert not isinstance(text_groups(CU_SEQLENS, CPU)[0], TextBlock)
    monkeypatch.setattr(attention, "_LONGEST_WRITTEN_OUT", 6)
    assert not isinstance(text_groups(CU_SEQLENS, CPU)[0], TextBlock)


def test_self_attention_by_definition(groups):
    x = random_input(3 * N_HEADS * D_HEAD)
    ours, theirs = self_attention(x, groups, N_HEADS), by_definition(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    (ours_gradient,) = torch.autograd.grad((ours * weights).sum(), x)
    (theirs_gradient,) = torch.autograd.grad((theirs * weights).sum(), x)
    torch.testing.assert_close(ours_gradient, theirs_gradient, rtol=0, atol=1e-12)


def test_derivative_numerically(groups):
    x = random_input(3 * N_HEADS * D_HEAD)
    assert torch.autograd.gradcheck(lambda x: self_attention(x, groups, N_HEADS), x)


def test_without_gradients_it_is_the_same(groups):
    x = random_input(3 * N_HEADS * D_HEAD)
    with torch.no_grad():
        torch.testing.assert_close(
            self_attention(x, groups, N_HEADS), by_definition(x), rtol=0, atol=1e-12
        )


def test_self_attention_leaves_its_input_as_it_was(groups):
    x = random_input(3 * N_HEADS * D_HEAD)
    before = x.detach().clone()
    self_attention(x, groups, N_HEADS)
    assert torch.equal(x.detach(), before)


def test_first_token_attention_is_the_first_row_of_self_attention(groups):
    x = random_input(3 * N_HEADS * D_HEAD)
    firsts = torch.tensor(np.cumsum([0, *LENGTHS[:-1]]))
    query, key_value = x[firsts, : N_HEADS * D_HEAD], x[:, N_HEADS * D_HEAD :]
    ours = first_token_attention(query, key_value, groups, N_HEADS)
    torch.testing.assert_close(ours, by_definition(x)[firsts], rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda q, kv: first_token_attention(q, kv, groups, N_HEADS), (query, key_value)
    )
