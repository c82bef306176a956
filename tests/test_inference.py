"""Predictions in the caller's order, each distinct text once."""

import numpy as np
import pytest

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.scratch import random_head
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.onednn import FULL_ROWS
from skbert.engine.prediction import predict
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.packing import filled_up, pack

TEXTS = ["a film", "dull", "a film", "A  FILM", "very very good", "dull", ""]


@pytest.fixture
def classifier_and_tokens(tiny_bert):
    pretrained = load_pretrained(tiny_bert)
    head = random_head(pretrained.config.hidden_size, 3, 0.5, np.random.default_rng(0))
    tokens = pretrained.wordpiece(TEXTS, max_length=64, truncation="head")
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
def test_token_budget_changes_nothing(classifier_and_tokens, token_budget):
    classifier, tokens = classifier_and_tokens
    np.testing.assert_allclose(
        predict_logits(classifier, tokens, token_budget),
        predict_logits(classifier, tokens),
        rtol=0,
        atol=1e-5,
    )


def test_no_texts_give_no_rows(classifier_and_tokens, tiny_bert):
    classifier, _ = classifier_and_tokens
    none = load_pretrained(tiny_bert).wordpiece([], max_length=64, truncation="head")
    assert predict_logits(classifier, none).shape == (0, 3)


def test_batches_filled_up_for_onednn_say_the_same(
    classifier_and_tokens, tiny_bert, monkeypatch, onednn_products
):
    classifier, _ = classifier_and_tokens
    rng = np.random.default_rng(0)
    words = np.array("the a film very good bad dull i my not".split())
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(5, 60, 300)]
    wordpiece = load_pretrained(tiny_bert).wordpiece
    tokens = wordpiece(texts, max_length=64, truncation="head")
    sizes = []

    def counting(batch, n_tokens, at_most):
        filled = filled_up(batch, n_tokens, at_most)
        sizes.append((len(batch.ids), len(filled.ids)))
        return filled

    monkeypatch.setattr(predict, "filled_up", counting)
    found = predict_logits(classifier, tokens)
    assert onednn_products
    assert sum(before < FULL_ROWS == after for before, after in sizes) >= 3
    expected = predict_logits(classifier, tokens, token_budget=FULL_ROWS // 4)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
