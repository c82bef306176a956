"""The loss of an objective, without a trainer."""

import torch

from skbert.engine.model.batch import stage
from skbert.engine.model.dropout import no_dropout

CPU = torch.device("cpu")


def on_cpu(host):
    return stage(host, CPU).copy(CPU)


def loss_of(objective, rows, batch, dropout=no_dropout):
    return objective.loss(on_cpu(objective.prepare(rows, batch)), dropout)
