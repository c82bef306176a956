"""BERT's own two tasks as an `Objective`: masked language model and next sentence.

Tokens or sentences in, losses out, with other masks and pairs in each epoch. The logits of
words are computed at the masked places alone: (n_masked, n_words), never (n_tokens, n_words).

The word embeddings are trained whole, unlike in fine-tuning: the softmax is over all words, and
any of them can stand in the place of a masked one, so there is no compact vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skbert.engine.files.pretrained import Pretrained
from skbert.engine.files.scratch import head_weights
from skbert.engine.files.tokenizer_files import vocabulary_of
from skbert.engine.files.weights import build_heads
from skbert.engine.model.dropout import Dropout, no_dropout
from skbert.engine.model.families import word_embeddings
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.prediction.fill_mask import to_indices
from skbert.engine.prediction.predict import TOKEN_BUDGET
from skbert.engine.text.masking import (
    NOT_MASKED,
    MaskedTokens,
    Vocabulary,
    mask_tokens,
    may_be_masked,
)
from skbert.engine.text.packing import budgeted_batches, pack, token_index
from skbert.engine.text.sentences import NO_PAIR, Sentences, draw_pairs, lay_out
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.loop import (
    EpochProgress,
    EpochRecord,
    Loss,
    TrainingOptions,
    planned_trainer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Added to the count of each word: what a word is worth that the texts do not have.
_COUNT_OF_UNSEEN = 0.1


@dataclass(frozen=True)
class Masking:
    """How tokens are masked; see `mask_tokens`."""

    vocabulary: Vocabulary
    mask_fraction: float = 0.15
    whole_words: bool = False

    def draw(self, tokens: Tokens, rng: np.random.Generator) -> MaskedTokens:
        """Choose tokens to be guessed, and hide most of them."""
        return mask_tokens(tokens, self.vocabulary, self.mask_fraction, self.whole_words, rng)


@dataclass(frozen=True)
class MaskedTexts:
    """What is to be learned from in one epoch.

    Attributes
    ----------
    masked : MaskedTokens
        Of n_texts texts.
    labels : ndarray of shape (n_texts,), int64
        Of each text `IS_NEXT`, `NOT_NEXT` or `NO_PAIR`.
    n_masked : ndarray of shape (n_texts,), int64
        How many tokens of each text are to be guessed.
    """

    masked: MaskedTokens
    labels: np.ndarray
    n_masked: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each text; shape (n_texts,)."""
        return self.masked.tokens.lengths

    def n_pairs(self, rows: np.ndarray) -> int:
        """Count the pairs among some texts."""
        return int(np.count_nonzero(self.labels[rows] != NO_PAIR))


@dataclass(frozen=True)
class BatchLosses:
    """Losses of some texts, summed.

    Attributes
    ----------
    words : Tensor of shape ()
        Cross-entropy of the masked tokens.
    next_sentence : Tensor of shape ()
        Cross-entropy of the pairs.
    n_right : int
        Pairs of which the right label has the higher logit.
    """

    words: Tensor
    next_sentence: Tensor
    n_right: int


def batch_losses(
    network: PretrainingNetwork, texts: MaskedTexts, rows: np.ndarray, dropout: Dropout = no_dropout
) -> BatchLosses:
    """Compute both losses of the texts `rows`."""
    batch = pack(texts.masked.tokens, rows)
    hidden = network.hidden(batch, dropout)
    targets = texts.masked.targets[token_index(texts.masked.tokens, batch)]
    places = np.flatnonzero(targets != NOT_MASKED)
    logits = network.word_logits(hidden.index_select(0, to_indices(places, hidden)))
    words = F.cross_entropy(logits, to_indices(targets[places], hidden), reduction="sum")

    labels = texts.labels[batch.rows]
    pairs = np.flatnonzero(labels != NO_PAIR)
    if not len(pairs):
        return BatchLosses(words, words.new_zeros(()), 0)
    first = hidden.index_select(0, to_indices(batch.cu_seqlens[pairs], hidden))
    logits, right = network.next_sentence_logits(first), to_indices(labels[pairs], hidden)
    next_sentence = F.cross_entropy(logits, right, reduction="sum")
    return BatchLosses(words, next_sentence, int((logits.argmax(dim=1) == right).sum()))


def draw_texts(
    texts: Tokens | Sentences, masking: Masking, rng: np.random.Generator
) -> MaskedTexts:
    """Pair sentences, if sentences they are, and mask."""
    if isinstance(texts, Sentences):
        pairs = draw_pairs(texts, rng)
        tokens, labels = lay_out(texts, pairs.first, pairs.second), pairs.labels
    else:
        tokens, labels = texts, np.full(len(texts), NO_PAIR)
    masked = masking.draw(tokens, rng)
    n_masked = np.add.reduceat(masked.targets != NOT_MASKED, tokens.offsets[:-1], dtype=np.int64)
    return MaskedTexts(masked, labels, n_masked)


class Pretraining:
    """Masked language model and next sentence: the `Objective` of pre-training.

    The loss of a batch is the mean over its masked tokens plus, if it has pairs, the mean over
    its pairs, as in the BERT paper.

    Parameters
    ----------
    network : PretrainingNetwork
    texts : Tokens or Sentences
        Texts for the masked language model alone; or sentences to be paired.
    masking : Masking
    rng : numpy.random.Generator
        Draws pairs and masks.
    """

    def __init__(
        self,
        network: PretrainingNetwork,
        texts: Tokens | Sentences,
        masking: Masking,
        rng: np.random.Generator,
    ) -> None:
        self._network = network
        self._source = texts
        self._masking = masking
        self._rng = rng
        self._texts = draw_texts(texts, masking, rng)  # so that n_texts is known

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each text of this epoch; shape (n_texts,)."""
        return self._texts.lengths

    def begin_epoch(self) -> None:
        """Draw other pairs and other masks."""
        self._texts = draw_texts(self._source, self._masking, self._rng)

    def loss(self, rows: np.ndarray, batch: np.ndarray, dropout: Dropout) -> Loss:
        """Compute what the texts `rows` add to the loss of the texts `batch`."""
        texts = self._texts
        losses = batch_losses(self._network, texts, rows, dropout)
        part = losses.words / max(int(texts.n_masked[batch].sum()), 1)
        n_pairs = texts.n_pairs(batch)
        if n_pairs:
            part = part + losses.next_sentence / n_pairs
        sums = [losses.words.item(), texts.n_masked[rows].sum()]
        sums += [losses.next_sentence.item(), losses.n_right, texts.n_pairs(rows)]
        return Loss(part, np.array(sums))

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Mean losses, perplexity and accuracy; those of the next sentence if there are pairs."""
        words, n_masked, next_sentence, n_right, n_pairs = sums.tolist()
        masked_loss = words / max(n_masked, 1)
        measures = {
            "train_loss": masked_loss,
            "masked_loss": masked_loss,
            "perplexity": float(np.exp(masked_loss)),
        }
        if n_pairs:
            measures["next_sentence_loss"] = next_sentence / n_pairs
            measures["next_sentence_accuracy"] = n_right / n_pairs
            measures["train_loss"] += measures["next_sentence_loss"]
        return measures


class PretrainingRun:
    """A pre-training whose number of steps is known, one epoch after the other.

    Parameters
    ----------
    network : PretrainingNetwork
        Changed in place.
    texts : Tokens or Sentences
        As for `Pretraining`.
    masking : Masking
    options : TrainingOptions
    seed : numpy.random.SeedSequence
        Decides pairs, masks, the order of the texts and the dropout.
    """

    def __init__(
        self,
        network: PretrainingNetwork,
        texts: Tokens | Sentences,
        masking: Masking,
        options: TrainingOptions,
        seed: np.random.SeedSequence,
    ) -> None:
        texts_seed, training_seed = seed.spawn(2)
        rng = np.random.default_rng(texts_seed)
        self._objective = Pretraining(network, texts, masking, rng)
        n_texts = len(self._objective.lengths)
        self.trainer = planned_trainer(network, n_texts, options, training_seed)

    def epoch(self, progress: EpochProgress | None = None) -> EpochRecord:
        """Train on every text once, with other masks and pairs, in a new order."""
        return self.trainer.epoch(self._objective, progress)


def within_task_pretraining(
    encoder: PreTrainedModel,
    pretrained: Pretrained,
    tokens: Tokens,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
    precision: torch.dtype = torch.float32,
) -> PretrainingRun:
    """Prepare the masked language model on an encoder that is used without its heads later.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
        To be changed in place.
    pretrained : Pretrained
        Where it comes from, and where its head is, if there is one.
    tokens, options, seed
        As for `PretrainingRun`.
    precision : torch.dtype
        Of the matrix products.
    """
    head_seed, training_seed = seed.spawn(2)
    weights = head_weights(pretrained, np.random.default_rng(head_seed))
    device = word_embeddings(encoder).weight.device
    heads = build_heads(encoder, weights.heads).to(device)
    network = PretrainingNetwork(encoder, heads, precision=precision)
    masking = Masking(vocabulary_of(pretrained.tokenizer))
    if not weights.knows_words:
        start_from_frequencies(network, tokens, masking.vocabulary)
    return PretrainingRun(network, tokens, masking, options, training_seed)


def masked_loss(
    network: PretrainingNetwork, tokens: Tokens, masking: Masking, rng: np.random.Generator
) -> float:
    """Mean cross-entropy of the masked tokens, nats, without dropout and without gradients."""
    texts = draw_texts(tokens, masking, rng)
    with torch.inference_mode():
        total = math.fsum(
            batch_losses(network, texts, rows).words.item()
            for rows in budgeted_batches(tokens.lengths, TOKEN_BUDGET)
        )
    return total / int(texts.n_masked.sum())


def start_from_frequencies(
    network: PretrainingNetwork, tokens: Tokens, vocabulary: Vocabulary
) -> None:
    """Set the decoder's bias to the logarithms of the words' frequencies, in place.

    A new head then begins near the entropy of single words instead of that of a uniform guess.
    The bias has one number a word and moves by at most a learning rate a step, so it would take
    tens of thousands of steps to get there by itself.
    """
    bias = network.word_bias
    words = tokens.ids[may_be_masked(tokens, vocabulary)]
    counts = np.bincount(words, minlength=len(bias)) + _COUNT_OF_UNSEEN
    with torch.no_grad():
        bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
