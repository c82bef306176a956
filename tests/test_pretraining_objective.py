"""Masked language model and next sentence: losses and gradients against transformers' own."""

import copy

import numpy as np
import pytest
import torch
from transformers import BertForPreTraining

from skbert import BertPretrainer
from skbert.engine.files.pretrained import load_config, load_pretrained
from skbert.engine.model.families import pretraining_heads
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.text.masking import NOT_MASKED, Vocabulary
from skbert.engine.text.sentences import NO_PAIR, Sentences
from skbert.engine.training import micro_batches
from skbert.engine.training.loop import TrainingOptions, planned_trainer
from skbert.engine.training.masked_lm import (
    Masking,
    Pretraining,
    batch_losses,
    draw_texts,
    masked_batch,
)
from tests.objectives import loss_of, on_cpu

DOCUMENTS = [
    ["a good film", "it was great fun, and i loved it", "not dull at all"],
    ["boring", "the best nap of my life!"],
    ["i hate this movie", "", "very bad acting and a very, very bad script", "waste"],
]
SINGLE = ["not very good", "a", "fun and joy and love and everything"]
OPTIONS = TrainingOptions(
    max_epochs=3,
    batch_size=4,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup_fraction=0.1,
    dropout=0.0,
)


@pytest.fixture
def module(tiny_bert):
    """A BertForPreTraining of transformers whose every weight is random."""
    config = load_config(tiny_bert)
    config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = BertForPreTraining(config)
        for parameter in module.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if parameter.mean() == 1 else 0.0, 0.2)
    return module.train()


def network_of(module):
    return PretrainingNetwork(module.bert, pretraining_heads(module), module.bert.pooler)


def masking_of(folder, **settings):
    tokenizer = load_pretrained(folder).new_tokenizer()
    vocabulary = Vocabulary.of(
        tokenizer.get_vocab(), tokenizer.all_special_ids, tokenizer.mask_token_id
    )
    return Masking(vocabulary, **settings)


def sentences_of(folder):
    subword_tokenizer = load_pretrained(folder).subword_tokenizer
    documents = [*DOCUMENTS, *([text] for text in SINGLE)]
    bare = subword_tokenizer.tokenize_bare([text for document in documents for text in document])
    numbers = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    return Sentences.of(bare, numbers, subword_tokenizer.layout)


def padded(texts):
    """The same texts as a padded batch of transformers, with its names."""
    tokens, n_texts, length = texts.masked.tokens, len(texts.labels), texts.lengths.max()
    inside = np.arange(length) < texts.lengths[:, None]

    def filled(values, padding):
        block = np.full((n_texts, length), padding)
        block[inside] = values
        return torch.from_numpy(block)

    targets = np.where(texts.masked.targets == NOT_MASKED, -100, texts.masked.targets)
    return {
        "input_ids": filled(tokens.ids, 0),
        "token_type_ids": filled(tokens.segment_ids, 0),
        "attention_mask": torch.from_numpy(inside.astype(int)),
        "labels": filled(targets, -100),
        "next_sentence_label": torch.from_numpy(np.where(texts.labels < 0, -100, texts.labels)),
    }


def gradients(module):
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {name: gradient.clone() for name, gradient in found.items()}


@pytest.mark.parametrize("whole_words", [False, True])
def test_losses_and_gradients_are_those_of_transformers(tiny_bert, module, whole_words):
    masking = masking_of(tiny_bert, mask_fraction=0.3, whole_words=whole_words)
    network, rng = network_of(module), np.random.default_rng(0)
    objective = Pretraining(network, sentences_of(tiny_bert), masking, rng)
    texts = objective._texts
    rows = np.arange(len(texts.labels))
    assert len(rows) == 9 and len(set(texts.lengths.tolist())) > 5
    assert sorted(set(texts.labels.tolist())) == [-1, 0, 1]

    loss = loss_of(objective, rows, rows)
    loss.part.backward()
    ours = gradients(module)
    module.zero_grad()
    theirs = module(**padded(texts)).loss
    theirs.backward()
    assert loss.part.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert objective.measures(loss.sums)["train_loss"] == pytest.approx(theirs.item(), abs=1e-5)
    reference = gradients(module)
    assert ours.keys() == reference.keys() and "cls.seq_relationship.weight" in ours
    assert "bert.pooler.dense.weight" in ours and "cls.predictions.bias" in ours
    for name, gradient in reference.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5, msg=name)


def test_without_pairs_the_loss_is_that_of_the_words(tiny_bert, module):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    tokens = subword_tokenizer(SINGLE, max_length=64, truncation="head")
    network = network_of(module)
    objective = Pretraining(network, tokens, masking_of(tiny_bert), np.random.default_rng(0))
    rows = np.arange(3)
    loss = loss_of(objective, rows, rows)
    inputs = padded(objective._texts)
    logits = module(**{k: v for k, v in inputs.items() if "label" not in k}).prediction_logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())
    assert loss.part.item() == pytest.approx(theirs.item(), abs=1e-5)
    measures = objective.measures(loss.sums)
    assert [*measures] == ["train_loss", "masked_loss", "perplexity"]
    assert measures["perplexity"] == pytest.approx(np.exp(theirs.item()), rel=1e-5)


def test_the_score_is_the_masked_loss_of_transformers(tiny_bert):
    clf = BertPretrainer(tiny_bert, max_epochs=0, max_length=64, next_sentence=False).fit(SINGLE)
    texts = SINGLE * 5
    tokens = load_pretrained(tiny_bert).subword_tokenizer(texts, max_length=64, truncation="head")
    inputs = padded(draw_texts(tokens, masking_of(tiny_bert), np.random.default_rng(0)))
    with torch.no_grad():
        logits = clf.model_(
            **{k: v for k, v in inputs.items() if "label" not in k}
        ).prediction_logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())
    assert (inputs["labels"] >= 0).sum() > 5
    assert clf.score(texts) == pytest.approx(-theirs.item(), abs=1e-5)


def test_logits_are_computed_for_the_masked_rows_alone(tiny_bert, module, monkeypatch):
    shapes = []
    plain = PretrainingNetwork.word_logits

    def noting(self, hidden):
        logits = plain(self, hidden)
        shapes.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(PretrainingNetwork, "word_logits", noting)
    masking = masking_of(tiny_bert)
    texts = draw_texts(sentences_of(tiny_bert), masking, np.random.default_rng(0))
    network = network_of(module)
    batch_losses(network, on_cpu(masked_batch(network, texts, np.arange(9))))
    assert shapes == [(int(texts.n_masked.sum()), module.config.vocab_size)]
    assert shapes[0][0] < 0.4 * len(texts.masked.tokens.ids)


def test_parts_add_up_to_the_batch_also_where_a_part_has_no_masks(tiny_bert, module):
    network, rng = network_of(module), np.random.default_rng(0)
    objective = Pretraining(network, sentences_of(tiny_bert), masking_of(tiny_bert), rng)
    rows = np.arange(9)
    assert 0 in objective._texts.n_masked
    whole = loss_of(objective, rows, rows)
    parts = [loss_of(objective, rows[i : i + 1], rows) for i in rows]
    assert sum(part.part.item() for part in parts) == pytest.approx(whole.part.item(), abs=1e-5)
    np.testing.assert_allclose(
        sum(part.sums for part in parts).numpy(), whole.sums.numpy(), rtol=0, atol=1e-5
    )


def test_each_epoch_has_other_masks_and_pairs_and_as_many_texts(tiny_bert, module):
    network, rng = network_of(module), np.random.default_rng(0)
    objective = Pretraining(network, sentences_of(tiny_bert), masking_of(tiny_bert), rng)
    drawn = []
    for _ in range(8):
        drawn.append(objective._texts)
        objective.begin_epoch()
    assert len({texts.masked.tokens.ids.tobytes() for texts in drawn}) == 8
    assert len({texts.masked.targets.tobytes() for texts in drawn}) == 8
    assert len({texts.labels.tobytes() for texts in drawn}) > 2  # of at least six
    assert {len(texts.labels) for texts in drawn} == {9}
    assert {(texts.labels == NO_PAIR).sum() for texts in drawn} == {3}


def trained(network, folder, options=OPTIONS, seed=0):
    objective = Pretraining(
        network, sentences_of(folder), masking_of(folder), np.random.default_rng(seed)
    )
    seed = np.random.SeedSequence(seed)
    trainer = planned_trainer(network, len(objective.lengths), options, seed)
    return [trainer.epoch(objective) for _ in range(options.max_epochs)]


def test_training_lowers_both_losses_and_records_them(tiny_bert, module):
    options = TrainingOptions(**{**OPTIONS.__dict__, "max_epochs": 100, "learning_rate": 5e-3})
    records = trained(network_of(module), tiny_bert, options)
    first, last = records[0].as_dict(), records[-1].as_dict()
    assert [*first] == [
        "epoch",
        "train_loss",
        "masked_loss",
        "perplexity",
        "next_sentence_loss",
        "next_sentence_accuracy",
        "learning_rate",
        "seconds",
        "n_tokens",
    ]
    assert last["masked_loss"] < 0.6 * first["masked_loss"]
    assert last["next_sentence_loss"] < 0.6 * first["next_sentence_loss"]
    assert first["train_loss"] == first["masked_loss"] + first["next_sentence_loss"]
    assert 0 <= first["next_sentence_accuracy"] <= 1


def test_micro_batches_change_nothing(tiny_bert, module, monkeypatch):
    other = copy.deepcopy(module)
    at_once = trained(network_of(module), tiny_bert)
    monkeypatch.setattr(micro_batches, "_MICRO_BATCH_TOKENS", 12)
    in_parts = trained(network_of(other), tiny_bert)
    for a, b in zip(at_once, in_parts, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-4)


def test_the_decoder_stays_the_word_embeddings(tiny_bert, module):
    trained(network_of(module), tiny_bert)
    assert module.cls.predictions.decoder.weight is module.bert.embeddings.word_embeddings.weight
    parameters = network_of(module).parameters()
    assert len(parameters) == len({*map(id, parameters)})
