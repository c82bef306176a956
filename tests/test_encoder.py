"""Compare values and gradients of the packed encoder with those of `transformers.BertModel`."""

import numpy as np
import pytest
import torch

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model import encoder
from skbert.engine.model.attention import padded_groups
from skbert.engine.model.encoder import HiddenStates, encode, encode_first_token
from skbert.engine.model.pooling import mean_of_tokens, pooled_states
from skbert.engine.text.packing import pack

# 21 texts of unequal lengths, more than the 16 of an accelerator's group; one text is empty.
TEXTS = [
    "",
    "a film",
    "this film is not good",
    "loved it, loved it; the best movie ever made, and then some more words to make it long!",
    *(f"movie {'very ' * n}dull" for n in range(13)),
    *["same length"] * 4,
]


def padded_reference(pretrained, model, texts, max_length):
    """Hidden states from transformers itself: padded, with its own attention mask."""
    tokenizer = pretrained.new_tokenizer()
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    hidden = model(**inputs).last_hidden_state
    return hidden, inputs["attention_mask"].bool()


@pytest.fixture(params=["tiny", pytest.param("real", marks=pytest.mark.weights)])
def pretrained(request):
    name = {"tiny": "tiny_bert", "real": "real_weights"}[request.param]
    return load_pretrained(request.getfixturevalue(name))


@pytest.fixture
def batch(pretrained):
    tokens = pretrained.subword_tokenizer(TEXTS, max_length=64, truncation="head")
    return pack(tokens, np.random.default_rng(0).permutation(len(TEXTS)))


def test_hidden_states_are_those_of_transformers(pretrained, batch):
    model = pretrained.new_encoder()
    with torch.no_grad():
        hidden, mask = padded_reference(pretrained, model, TEXTS, 64)
        ours = encode(model, batch)
    expected = torch.cat([hidden[row][mask[row]] for row in batch.rows])
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.fixture
def biased(pretrained):
    """An encoder with random biases; the biases of a new encoder are 0."""
    model = pretrained.new_encoder()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_predicting_leaves_no_bias_out(biased, pretrained, batch):
    with torch.no_grad():
        hidden, mask = padded_reference(pretrained, biased, TEXTS, 64)
        expected = torch.cat([hidden[row][mask[row]] for row in batch.rows])
        torch.testing.assert_close(encode(biased, batch), expected, rtol=0, atol=2e-5)
        first = hidden[batch.rows, 0]
        torch.testing.assert_close(encode_first_token(biased, batch), first, rtol=0, atol=2e-5)


def test_predicting_is_what_is_trained(biased, batch):
    for compute in (encode, encode_first_token):
        trained = compute(biased, batch).detach()
        with torch.no_grad():
            predicted = compute(biased, batch)
        torch.testing.assert_close(predicted, trained, rtol=0, atol=2e-5)


def test_predicting_leaves_weights_and_given_states_as_they_were(biased, batch):
    before = {name: value.clone() for name, value in biased.state_dict().items()}
    with torch.no_grad():
        given = HiddenStates(encode(biased, batch, n_layers=1), layer=1)
        states = given.states.clone()
        for compute in (encode, encode_first_token):
            from_start = compute(biased, batch, start=given)
            torch.testing.assert_close(from_start, compute(biased, batch), rtol=0, atol=1e-5)
    assert torch.equal(given.states, states)
    for name, value in biased.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_first_token_is_the_first_row_of_the_full_encoder(pretrained, batch):
    model = pretrained.new_encoder()
    with torch.no_grad():
        full = encode(model, batch)[torch.from_numpy(batch.cu_seqlens[:-1]).long()]
        torch.testing.assert_close(encode_first_token(model, batch), full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_gradients_are_those_of_transformers(pretrained, batch, pooling):
    ours, theirs = pretrained.new_encoder(), pretrained.new_encoder()
    target = torch.from_numpy(
        np.random.default_rng(1).normal(size=(len(TEXTS), pretrained.config.hidden_size))
    ).float()
    (pooled_states(ours, batch, pooling) * target[batch.rows]).mean().backward()

    hidden, mask = padded_reference(pretrained, theirs, TEXTS, 64)
    if pooling == "cls":
        pooled = hidden[:, 0]
    else:
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    (pooled * target).mean().backward()

    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert reference.grad is not None, name
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("compute", [encode, encode_first_token])
def test_the_groups_of_accelerators_say_the_same(pretrained, batch, monkeypatch, compute):
    """Compute padded groups of 16 texts, which a CPU uses only in this test."""

    def states_and_gradients():
        model = pretrained.new_encoder()
        with torch.no_grad():
            predicted = compute(model, batch)
        trained = compute(model, batch)
        trained.square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        return [predicted, trained.detach(), *gradients]

    def text_groups_padded(cu_seqlens, device, position_bias):
        groups = padded_groups(np.diff(cu_seqlens), device)
        seen.append([group.places is not None for group in groups])
        return groups

    seen = []
    expected = states_and_gradients()
    monkeypatch.setattr(encoder, "text_groups", text_groups_padded)
    found = states_and_gradients()
    assert seen == [[True, True]] * 2  # two groups, both padded, in predicting and in training
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_a_text_does_not_see_its_neighbours(pretrained):
    tokens = pretrained.subword_tokenizer(
        ["a good film", "dull dull dull dull"], max_length=64, truncation="head"
    )
    model = pretrained.new_encoder()
    with torch.no_grad():
        together = encode(model, pack(tokens, np.array([0, 1])))
        alone = encode(model, pack(tokens, np.array([0])))
    # the longer text comes first in the batch
    torch.testing.assert_close(together[-len(alone) :], alone, rtol=0, atol=1e-5)


def test_mean_of_tokens_by_hand():
    hidden = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 7.0]])
    means = mean_of_tokens(hidden, np.array([0, 2, 3], dtype=np.int32))
    assert means.tolist() == [[2.0, 1.0], [5.0, 7.0]]
