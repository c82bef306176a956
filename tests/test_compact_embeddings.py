"""The compact embedding table by hand, and compared with training of the whole table."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.scratch import random_head
from skbert.engine.model.networks import TextClassifier
from skbert.engine.text.tokens import Tokens
from skbert.engine.training import classification, loop
from skbert.engine.training.classification import LabelledTexts, TrainingRun
from skbert.engine.training.compact_embeddings import CompactEmbeddings
from skbert.engine.training.loop import TrainingOptions
from skbert.engine.training.optimizer import gradient_norm

TEXTS = ["a good film", "not a good film", "great fun", "", "dull [PAD] and boring"] * 4
LABELS = np.array([1, 0, 1, 0, 0] * 4)
OPTIONS = TrainingOptions(
    max_epochs=4,
    batch_size=8,
    learning_rate=1e-3,
    weight_decay=0.3,
    warmup_fraction=0.1,
    dropout=0.1,
)


class WholeVocabulary:
    """Replaces `CompactEmbeddings`: AdamW itself updates every row in every step."""

    def __init__(self, embedding, tokens):
        self.tokens, self.weight = tokens, embedding.weight

    def in_place(self):
        return nullcontext()

    def decay_absent(self, factor):
        pass


def trained(folder):
    pretrained = load_pretrained(folder)
    head = random_head(pretrained.config.hidden_size, 2, 0.02, np.random.default_rng(0))
    classifier = TextClassifier(pretrained.new_encoder(), head, "cls")
    tokens = pretrained.subword_tokenizer(TEXTS, max_length=64, truncation="head")
    seed = np.random.SeedSequence(0)
    data = LabelledTexts(tokens, LABELS, np.ones(len(LABELS), dtype=np.float32))
    training = TrainingRun(classifier, data, OPTIONS, seed)
    losses = [training.epoch().train_loss for _ in range(OPTIONS.max_epochs)]
    return classifier, losses


def test_training_on_the_rows_that_occur_equals_training_on_all(tiny_bert, monkeypatch):
    norms = []

    def noting(parameters):
        norms.append(gradient_norm(parameters))
        return norms[-1]

    monkeypatch.setattr(loop, "gradient_norm", noting)
    ours, ours_losses = trained(tiny_bert)
    assert max(norms) > OPTIONS.max_gradient_norm  # clipping acts
    monkeypatch.setattr(classification, "CompactEmbeddings", WholeVocabulary)
    theirs, theirs_losses = trained(tiny_bert)
    assert ours_losses == pytest.approx(theirs_losses, abs=1e-6)
    for (name, mine), reference in zip(
        ours.encoder.named_parameters(), theirs.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6, msg=name)


def test_rows_by_hand():
    embedding = torch.nn.Embedding(6, 2, padding_idx=0)
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(12.0).view(6, 2))
    ids = np.array([5, 2, 5], dtype=np.int32)
    tokens = Tokens(ids, np.zeros_like(ids), ids > 999, np.array([0, 3]), n_lost=np.zeros(1))
    compact = CompactEmbeddings(embedding, tokens)
    assert compact.tokens.ids.tolist() == [1, 0, 1]
    assert compact.weight.tolist() == [[4.0, 5.0], [10.0, 11.0]]

    whole = embedding.weight
    with compact.in_place():
        assert embedding.weight is compact.weight
        assert embedding.padding_idx is None  # [PAD] is not among the rows
        with torch.no_grad():
            compact.weight += 1
        compact.decay_absent(0.5)
        compact.decay_absent(0.5)
    assert embedding.weight is whole and embedding.padding_idx == 0
    assert whole[[2, 5]].tolist() == [[5.0, 6.0], [11.0, 12.0]]
    assert whole[[0, 1, 3, 4]].tolist() == [[0.0, 0.25], [0.5, 0.75], [1.5, 1.75], [2.0, 2.25]]


def test_the_padding_row_keeps_its_meaning():
    embedding = torch.nn.Embedding(6, 2, padding_idx=3)
    ids = np.array([5, 3, 1], dtype=np.int32)
    tokens = Tokens(ids, np.zeros_like(ids), ids > 999, np.array([0, 3]), n_lost=np.zeros(1))
    compact = CompactEmbeddings(embedding, tokens)
    with compact.in_place():
        assert embedding.padding_idx == 1
        embedding(torch.tensor([0, 1, 2])).sum().backward()
    assert compact.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_an_error_in_the_middle_leaves_the_whole_table(tiny_bert):
    pretrained = load_pretrained(tiny_bert)
    model = pretrained.new_encoder()
    table = model.embeddings.word_embeddings
    before = table.weight.detach().clone()
    tokens = pretrained.subword_tokenizer(TEXTS, max_length=64, truncation="head")
    with pytest.raises(KeyboardInterrupt), CompactEmbeddings(table, tokens).in_place():
        raise KeyboardInterrupt
    assert torch.equal(table.weight, before)


def test_tokens_are_not_changed():
    ids = np.array([5, 3, 1], dtype=np.int32)
    tokens = Tokens(ids, np.zeros_like(ids), ids > 999, np.array([0, 3]), n_lost=np.zeros(1))
    compact = CompactEmbeddings(torch.nn.Embedding(6, 2), tokens)
    assert tokens.ids.tolist() == [5, 3, 1]
    assert compact.tokens.ids.tolist() == [2, 1, 0]
