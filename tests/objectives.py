"""A small classifier to train, and the loss of an objective without a trainer."""

import numpy as np
import torch

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.scratch import random_head
from skbert.engine.model.batch import stage
from skbert.engine.model.dropout import no_dropout
from skbert.engine.model.networks import TextClassifier
from skbert.engine.training.classification import LabelledTexts

CPU = torch.device("cpu")


def classifier_and_tokens(folder, texts, pooling):
    pretrained = load_pretrained(folder)
    head = random_head(pretrained.config.hidden_size, 2, 0.02, np.random.default_rng(0))
    tokens = pretrained.subword_tokenizer(texts, max_length=64, truncation="head")
    return TextClassifier(pretrained.new_encoder(), head, pooling), tokens


def equally_weighted(tokens, labels):
    return LabelledTexts(tokens, labels, np.ones(len(labels), dtype=np.float32))


def on_cpu(host):
    return stage(host, CPU).copy(CPU)


def loss_of(objective, rows, batch, dropout=no_dropout):
    return objective.loss(on_cpu(objective.prepare(rows, batch)), dropout)
