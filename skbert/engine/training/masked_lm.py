"""BERT's two pre-training tasks as an `Objective`: masked language model and next sentence.

Tokens or sentences -> losses, with new masks and pairs in each epoch. skbert computes the logits of
words only at the masked places: (n_masked, n_words), never (n_tokens, n_words).

Unlike fine-tuning, pre-training has no compact embeddings and trains all word embeddings, because
the softmax is over all words, and any word can replace a masked one.
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
from skbert.engine.model.batch import DeviceBatch, HostBatch, host_batch, stage
from skbert.engine.model.dropout import Dropout, no_dropout
from skbert.engine.model.families import word_embeddings
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.prediction.parts import BatchProgress, compute_parts, token_budget, with_progress
from skbert.engine.text.masking import (
    NOT_MASKED,
    MaskedTokens,
    Vocabulary,
    mask_tokens,
    may_be_masked,
)
from skbert.engine.text.packing import Filling, budgeted_batches, next_multiple, pack
from skbert.engine.text.sentences import NO_PAIR, Sentences, draw_pairs, lay_out
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.loop import (
    EpochRecord,
    StepProgress,
    TrainingOptions,
    planned_trainer,
    steps_per_epoch,
)
from skbert.engine.training.objective import Loss, loss_sums

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A target that has no loss.
_IGNORED = -100

# Added to the count of each word, so that the frequency of an unseen word is not 0.
_COUNT_OF_UNSEEN = 0.1


@dataclass(frozen=True)
class Masking:
    """Parameters of `mask_tokens`."""

    vocabulary: Vocabulary
    mask_fraction: float = 0.15
    whole_words: bool = False

    def draw(self, tokens: Tokens, rng: np.random.Generator) -> MaskedTokens:
        """Choose the tokens to predict, and mask most of them."""
        return mask_tokens(tokens, self.vocabulary, self.mask_fraction, self.whole_words, rng)


@dataclass(frozen=True)
class MaskedTexts:
    """The texts of one epoch.

    Attributes
    ----------
    masked : MaskedTokens
        The masked tokens of n_texts texts.
    labels : ndarray of shape (n_texts,), int64
        `IS_NEXT`, `NOT_NEXT` or `NO_PAIR` for each text.
    n_masked : ndarray of shape (n_texts,), int64
        Number of tokens to predict in each text.
    """

    masked: MaskedTokens
    labels: np.ndarray
    n_masked: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each text; shape (n_texts,)."""
        return self.masked.tokens.lengths

    def n_pairs(self, rows: np.ndarray) -> int:
        """Count the pairs among the texts `rows`."""
        return int(np.count_nonzero(self.labels[rows] != NO_PAIR))


@dataclass(frozen=True)
class BatchLosses:
    """Sums of the losses of some texts, as tensors of shape ().

    Attributes
    ----------
    words, n_masked : Tensor
        Cross-entropy of the masked tokens, and their number.
    next_sentence, n_right, n_pairs : Tensor
        Cross-entropy of the pairs, number of pairs for which the right label has the higher logit,
        and number of pairs.
    """

    words: Tensor
    n_masked: Tensor
    next_sentence: Tensor
    n_right: Tensor
    n_pairs: Tensor


def masked_batch(
    network: PretrainingNetwork,
    texts: MaskedTexts,
    rows: np.ndarray,
    filling: Filling | None = None,
    **others: np.ndarray,
) -> HostBatch:
    """Collect what `batch_losses` reads of the texts `rows`."""
    packed = pack(texts.masked.tokens, rows)
    targets = texts.masked.targets[texts.masked.tokens.places(packed.rows)]
    places = np.flatnonzero(targets != NOT_MASKED)
    labels = texts.labels[packed.rows]
    pairs = np.flatnonzero(labels != NO_PAIR)
    tasks = {
        "masked_places": places,
        "masked_words": targets[places],
        "pair_places": packed.cu_seqlens[pairs],
        "pair_labels": labels[pairs],
    }
    if filling is not None:
        sizes = [next_multiple(len(places), 64)] * 2 + [len(rows) if len(pairs) else 0] * 2
        tasks = {
            name: np.pad(array, (0, size - len(array)), constant_values=_padding_of(name))
            for (name, array), size in zip(tasks.items(), sizes, strict=True)
        }
    arrays = {name: array.astype(np.int32) for name, array in tasks.items()}
    return host_batch(network.encoder, packed, filling, **arrays, **others)


def _padding_of(name: str) -> int:
    return 0 if name.endswith("_places") else _IGNORED


def batch_losses(
    network: PretrainingNetwork,
    batch: DeviceBatch,
    dropout: Dropout = no_dropout,
    *,
    with_pairs: bool = False,
) -> BatchLosses:
    """Compute the losses of a `masked_batch`, that of the next sentence only `with_pairs`."""
    hidden, tensors = network.hidden(batch, dropout), batch.tensors
    words = tensors["masked_words"].long()
    logits = network.word_logits(hidden.index_select(0, tensors["masked_places"]))
    words_loss = _summed_loss(logits, words)
    n_masked = (words != _IGNORED).sum()
    if not with_pairs:
        nothing = words_loss.new_zeros(())
        return BatchLosses(words_loss, n_masked, nothing, nothing, nothing)
    labels = tensors["pair_labels"].long()
    first = hidden.index_select(0, tensors["pair_places"])
    logits = network.next_sentence_logits(first)
    n_right = (logits.argmax(dim=1) == labels).sum()
    n_pairs = (labels != _IGNORED).sum()
    return BatchLosses(words_loss, n_masked, _summed_loss(logits, labels), n_right, n_pairs)


def _summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="sum", ignore_index=_IGNORED)


def draw_texts(
    texts: Tokens | Sentences, masking: Masking, rng: np.random.Generator
) -> MaskedTexts:
    """Draw pairs, if `texts` are sentences, and masks."""
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
        Texts for the masked language model only, or sentences to pair.
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
        self._texts = draw_texts(texts, masking, rng)  # `lengths` must be known before an epoch

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each text of this epoch; shape (n_texts,)."""
        return self._texts.lengths

    def begin_epoch(self) -> None:
        """Draw new pairs and new masks."""
        self._texts = draw_texts(self._source, self._masking, self._rng)

    def prepare(
        self, rows: np.ndarray, batch: np.ndarray, filling: Filling | None = None
    ) -> HostBatch:
        """Collect the masked tokens of `rows`, and how much there is to predict in `batch`."""
        texts = self._texts
        numbers = [max(int(texts.n_masked[batch].sum()), 1), max(texts.n_pairs(batch), 1)]
        return masked_batch(
            self._network, texts, rows, filling, n_in_batch=np.array(numbers, dtype=np.float32)
        )

    def loss(self, batch: DeviceBatch, dropout: Dropout) -> Loss:
        """Compute the contribution of some texts to the loss of their batch."""
        with_pairs = isinstance(self._source, Sentences)
        losses = batch_losses(self._network, batch, dropout, with_pairs=with_pairs)
        n_masked, n_pairs = batch.tensors["n_in_batch"]
        part = losses.words / n_masked
        if with_pairs:  # also if the batch has none, so that all steps train the same weights
            part = part + losses.next_sentence / n_pairs
        sums = loss_sums(
            losses.words, losses.n_masked, losses.next_sentence, losses.n_right, losses.n_pairs
        )
        return Loss(part, sums)

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        """Compute mean losses, perplexity and, if there are pairs, next sentence accuracy."""
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
    """Pre-training with a known number of steps, epoch by epoch.

    Parameters
    ----------
    network : PretrainingNetwork
        Changed in place.
    texts : Tokens or Sentences
        As for `Pretraining`.
    masking : Masking
    options : TrainingOptions
    seed : numpy.random.SeedSequence
        Determines pairs, masks, the order of the texts and the dropout.

    Attributes
    ----------
    n_steps_per_epoch : int
        Number of optimizer steps in each epoch.
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
        self.n_steps_per_epoch = steps_per_epoch(n_texts, options.batch_size)
        self.trainer = planned_trainer(network, n_texts, options, training_seed)

    def epoch(self, progress: StepProgress | None = None) -> EpochRecord:
        """Train on every text once, with new masks and pairs, in a new order."""
        return self.trainer.epoch(self._objective, progress)


def within_task_pretraining(
    encoder: PreTrainedModel,
    pretrained: Pretrained,
    tokens: Tokens,
    options: TrainingOptions,
    seed: np.random.SeedSequence,
    precision: torch.dtype = torch.float32,
) -> PretrainingRun:
    """Prepare masked language modelling on an encoder that will be used without its heads.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
        Changed in place.
    pretrained : Pretrained
        The source of the encoder, and of its head for words if it has one.
    tokens, options, seed
        As for `PretrainingRun`.
    precision : torch.dtype
        Precision of the matrix products.
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
    network: PretrainingNetwork,
    tokens: Tokens,
    masking: Masking,
    rng: np.random.Generator,
    progress: BatchProgress | None = None,
) -> float:
    """Compute the mean cross-entropy of masked tokens in nats, without dropout or gradients."""
    texts = draw_texts(tokens, masking, rng)

    def compute_rows(rows: np.ndarray) -> float:
        staged = stage(masked_batch(network, texts, rows), network.device)
        return batch_losses(network, staged.copy(network.device)).words.item()

    parts = budgeted_batches(tokens.lengths, token_budget(network.device))
    with torch.inference_mode():
        total = math.fsum(
            loss for _, loss in compute_parts(with_progress(parts, progress), compute_rows)
        )
    return total / int(texts.n_masked.sum())


def start_from_frequencies(
    network: PretrainingNetwork, tokens: Tokens, vocabulary: Vocabulary
) -> None:
    """Set the decoder's bias to the logarithms of the words' frequencies, in place.

    The loss of a new head then starts near the entropy of single words, instead of near the entropy
    of a uniform guess. The bias has one number per word and moves by at most one learning rate per
    step, so training alone would need tens of thousands of steps for this.
    """
    bias = network.word_bias
    words = tokens.ids[may_be_masked(tokens, vocabulary)]
    counts = np.bincount(words, minlength=len(bias)) + _COUNT_OF_UNSEEN
    with torch.no_grad():
        bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
