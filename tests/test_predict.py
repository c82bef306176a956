"""Predictions are in the caller's order, and each distinct text is encoded once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.scratch import random_head
from skbert.engine.model.encoder import encode, encode_first_token
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import FULL_ROWS, constant_weights
from skbert.engine.prediction import parts, predict
from skbert.engine.prediction.parts import TOKEN_BUDGET
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.packing import budgeted_batches, pack

TEXTS = ["a film", "dull", "a film", "A  FILM", "very very good", "dull", ""]


@pytest.fixture
def classifier_and_tokens(tiny_bert):
    pretrained = load_pretrained(tiny_bert)
    head = random_head(pretrained.config.hidden_size, 3, 0.5, np.random.default_rng(0))
    tokens = pretrained.subword_tokenizer(TEXTS, max_length=64, truncation="head")
    return TextClassifier(pretrained.new_encoder(), head, "cls"), tokens


def test_each_distinct_text_is_encoded_once(classifier_and_tokens, monkeypatch):
    classifier, tokens = classifier_and_tokens
    encoded = []

    def counting(tokens, rows):
        encoded.extend(rows.tolist())
        return plain(tokens, rows)

    plain = pack
    monkeypatch.setattr(predict, "pack", counting)
    logits = predict_logits(classifier, tokens)
    # "A  FILM" has the tokens of "a film"
    assert sorted(encoded) == [0, 1, 4, 6]
    assert logits.shape == (7, 3)
    for row, same in [(2, 0), (3, 0), (5, 1)]:
        assert logits[row].tolist() == logits[same].tolist()
    assert len({tuple(row) for row in logits.tolist()}) == 4


@pytest.mark.parametrize("token_budget", [1, 5, 12, 10_000])
def test_token_budget_changes_nothing(classifier_and_tokens, monkeypatch, token_budget):
    classifier, tokens = classifier_and_tokens
    expected = predict_logits(classifier, tokens)
    monkeypatch.setattr(parts, "TOKEN_BUDGET", token_budget)
    np.testing.assert_allclose(predict_logits(classifier, tokens), expected, rtol=0, atol=1e-5)


def test_thousands_of_variants_of_a_text_come_in_bounded_batches(
    classifier_and_tokens, tiny_bert, monkeypatch
):
    """LIME and SHAP make such variants by removing words."""
    classifier, _ = classifier_and_tokens
    words = np.array("this film was not very good but i loved it".split())
    kept = np.random.default_rng(0).random((5000, len(words))) < 0.5
    variants = [" ".join(words[row]) for row in kept]
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    tokens = subword_tokenizer(variants, max_length=64, truncation="head")
    sizes = []

    def counting(tokens, rows):
        sizes.append(int(tokens.lengths[rows].sum()))
        return pack(tokens, rows)

    monkeypatch.setattr(predict, "pack", counting)
    assert predict_logits(classifier, tokens).shape == (5000, 3)
    assert max(sizes) <= TOKEN_BUDGET < sum(sizes)
    assert sum(sizes) < 12 * 2**10  # of 1024 distinct variants, at most 12 tokens each


def test_no_texts_give_no_rows(classifier_and_tokens, tiny_bert):
    classifier, _ = classifier_and_tokens
    none = load_pretrained(tiny_bert).subword_tokenizer([], max_length=64, truncation="head")
    assert predict_logits(classifier, none).shape == (0, 3)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batches_filled_for_onednn_give_the_same_logits(
    classifier_and_tokens, tiny_bert, monkeypatch, onednn_products, pooling
):
    classifier = replace(classifier_and_tokens[0], pooling=pooling)
    rng = np.random.default_rng(0)
    words = np.array("the a film very good bad dull i my not".split())
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(5, 60, 300)]
    tokens = load_pretrained(tiny_bert).subword_tokenizer(texts, max_length=64, truncation="head")
    sizes = [tokens.lengths[rows].sum() for rows in budgeted_batches(tokens.lengths, FULL_ROWS)]
    assert sum(FULL_ROWS - 64 <= size < FULL_ROWS for size in sizes) >= 3
    found = predict_logits(classifier, tokens)
    assert len(onednn_products) >= 3 * len(classifier.encoder.encoder.layer)
    monkeypatch.setattr(parts, "TOKEN_BUDGET", FULL_ROWS // 4)
    expected = predict_logits(classifier, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_results_of_a_filled_batch_have_the_rows_of_the_batch(
    classifier_and_tokens, tiny_bert, onednn_products
):
    classifier, _ = classifier_and_tokens
    texts = ["a film " * 30] * 33  # 62 tokens each: 2046 in all
    tokens = load_pretrained(tiny_bert).subword_tokenizer(texts, max_length=64, truncation="head")
    batch = pack(tokens, np.arange(33))
    assert len(batch.ids) == FULL_ROWS - 2
    model = classifier.encoder
    with torch.inference_mode(), constant_weights(torch.device("cpu"), torch.float32):
        assert encode(model, batch).shape == (2046, 32)
        assert encode(model, batch, n_layers=0).shape == (2046, 32)
        assert encode_first_token(model, batch).shape == (33, 32)
        assert encode_first_token(model, batch, n_layers=0).shape == (33, 32)
        assert classifier.logits(batch).shape == (33, 3)
    assert onednn_products
