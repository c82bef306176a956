"""An encoder and its heads: hidden states -> logits. No loss and no labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from skbert.engine.model.batch import DeviceBatch
from skbert.engine.model.device import computing_in
from skbert.engine.model.dropout import Dropout, after_pooling, no_dropout
from skbert.engine.model.encoder import Start, encode, is_replayable
from skbert.engine.model.families import (
    Heads,
    block_modules,
    family_of,
    heads_of,
    pretraining_heads,
    word_embeddings,
)
from skbert.engine.model.heads import Head, head_logits
from skbert.engine.model.onednn import drop_filling, fill_batch
from skbert.engine.model.pooling import pooled_states
from skbert.engine.text.packing import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _EncoderNetwork:
    """What a network says of its encoder."""

    encoder: PreTrainedModel
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return word_embeddings(self.encoder).weight.device

    @property
    def is_packed(self) -> bool:
        """Whether skbert computes the encoder, and not the forward of transformers."""
        return family_of(self.encoder).padded is None

    @property
    def is_replayable(self) -> bool:
        """Whether a CUDA graph can replay a step; see `encoder.is_replayable`."""
        return is_replayable(self.encoder, self.device, self.precision)


@dataclass(frozen=True)
class TextClassifier(_EncoderNetwork):
    """An encoder, a pooling to one vector per text, and a head.

    Attributes
    ----------
    encoder : transformers.PreTrainedModel
    head : torch.nn.Linear or DenseHead
        (d_model) -> (n_classes).
    pooling : {"cls", "mean"}
    precision : torch.dtype
        Precision of the encoder's matrix products. Weights, vectors and logits are float32.
    """

    encoder: PreTrainedModel
    head: Head
    pooling: str
    precision: torch.dtype = torch.float32

    @property
    def n_layers(self) -> int:
        """Number of blocks of the encoder."""
        return len(block_modules(self.encoder))

    def logits(
        self,
        batch: PackedBatch | DeviceBatch,
        dropout: Dropout = no_dropout,
        start: Start = None,
    ) -> torch.Tensor:
        """Compute unnormalised scores, in the order of the batch: (n_texts, n_classes)."""
        # Fill before the encoder does, because the head's rounding depends on its number of rows.
        filled = fill_batch(batch) if start is None else batch
        pooled = self.pooled(filled, dropout, start)
        with computing_in(torch.float32, self.device):
            logits = head_logits(self.head, pooled, after_pooling(dropout))
            return drop_filling(logits, len(batch.rows))

    def pooled(
        self,
        batch: PackedBatch | DeviceBatch,
        dropout: Dropout = no_dropout,
        start: Start = None,
    ) -> torch.Tensor:
        """Compute the vector of each text, in the order of the batch: (n_texts, d_model)."""
        with computing_in(self.precision, self.device):
            return pooled_states(self.encoder, batch, self.pooling, dropout, start).float()

    def parameters(self, n_frozen_layers: int = 0) -> list[nn.Parameter]:
        """List the weights to train: all, or those above the embeddings and the first layers."""
        if n_frozen_layers == 0:
            return [*self.encoder.parameters(), *self.head.parameters()]
        trained = block_modules(self.encoder)[n_frozen_layers:]
        return [*(p for block in trained for p in block.parameters()), *self.head.parameters()]

    def to(self, device: torch.device) -> TextClassifier:
        """Move all weights to `device`, in place."""
        self.encoder.to(device)
        self.head.to(device)
        return self


@dataclass(frozen=True)
class PretrainingNetwork(_EncoderNetwork):
    """An encoder and its pre-training heads; all are modules of transformers.

    Attributes
    ----------
    encoder : transformers.PreTrainedModel
    heads : torch.nn.ModuleDict
        The head for words, whose decoder shares its weights with the word embeddings, and, of
        BERT, the head for the next sentence; see `families.Heads`.
    pooler : torch.nn.Module or None
        tanh of a linear layer, between [CLS] and the head for the next sentence; None without
        next sentence prediction.
    precision : torch.dtype
        Precision of the matrix products of the encoder and of the head for words; see
        `computing_in`. The pooler and its head are float32.
    """

    encoder: PreTrainedModel
    heads: nn.ModuleDict
    pooler: nn.Module | None = None
    precision: torch.dtype = torch.float32

    @classmethod
    def of(
        cls, model: PreTrainedModel, precision: torch.dtype = torch.float32
    ) -> PretrainingNetwork:
        """Take encoder, heads and pooler from a module of `build_pretraining_model`."""
        family = family_of(model)
        encoder = getattr(model, family.encoder)
        pooler = getattr(encoder, family.pooler_module) if family.has_next_sentence else None
        return cls(encoder, pretraining_heads(model), pooler, precision)

    @property
    def word_bias(self) -> nn.Parameter:
        """Bias of the logits of words: (n_words,)."""
        return self._head_modules.bias

    @property
    def _head_modules(self) -> Heads:
        return heads_of(self.encoder, self.heads)

    def parameters(self, n_frozen_layers: int = 0) -> list[nn.Parameter]:
        """List the weights to train: all, or those above the embeddings and the first layers.

        The decoder shares its weights with the word embeddings; they are listed once.
        """
        if n_frozen_layers:
            raise ValueError(
                f"n_frozen_layers={n_frozen_layers}, but pre-training trains all layers; only 0 is "
                "allowed. Set n_frozen_layers=0."
            )
        modules = [self.encoder, self.heads, *([self.pooler] if self.pooler else [])]
        return [*dict.fromkeys(p for module in modules for p in module.parameters())]

    def hidden(
        self, batch: PackedBatch | DeviceBatch, dropout: Dropout = no_dropout
    ) -> torch.Tensor:
        """Compute the last hidden states, in the order of the batch: (n_tokens, d_model)."""
        with computing_in(self.precision, self.device):
            return encode(self.encoder, batch, dropout).float()

    def word_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute scores of all word pieces: (n_masked, d_model) -> (n_masked, n_words)."""
        with computing_in(self.precision, hidden.device):
            for module in self._head_modules.words:
                hidden = module(hidden)
            return hidden.float()

    def next_sentence_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute scores of IsNext and NotNext from [CLS]: (n_texts, d_model) -> (n_texts, 2)."""
        head = self._head_modules.next_sentence
        assert self.pooler is not None and head is not None
        with computing_in(torch.float32, hidden.device):
            return head(self.pooler(hidden[:, None]))
