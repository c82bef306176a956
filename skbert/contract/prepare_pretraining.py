"""All that a fit of the pretrainer needs, made ready: checked, loaded or created, tokenised.

The order is fixed, as in `prepare_finetuning`: parameters are checked before any weights are
loaded, and the network moves to the device last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skbert.contract.fingerprints import fingerprint_of_fit
from skbert.contract.lost_tokens import LostTokens, forget_warnings
from skbert.contract.padded import check_has_heads
from skbert.contract.parameters import Seeds, check_max_length
from skbert.contract.ranks import check_same_fit, shared_seeds
from skbert.contract.texts import Documents
from skbert.engine.files.pretrained import (
    Pretrained,
    load_config,
    load_pretrained,
    new_pretraining_model,
)
from skbert.engine.files.scratch import head_weights, new_pretrained
from skbert.engine.files.tokenizer_files import vocabulary_of
from skbert.engine.model.device import precision_name, resolve_device, resolve_precision
from skbert.engine.model.families import FAMILIES, family_of, longest_text
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.text.layout import smallest_max_length
from skbert.engine.text.sentences import (
    Sentences,
    WholeTexts,
    documents_of,
    split_into_sentences,
    tokenize_in_pieces,
)
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.distributed import Ranks
from skbert.engine.training.masked_lm import Masking, start_from_frequencies
from skbert.engine.warn import warn_user

if TYPE_CHECKING:
    import torch

    from skbert.engine.files.weights import HeadWeights


@dataclass(frozen=True)
class PretrainerState:
    """What a pretrainer learns, before it becomes attributes of the estimator.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        Of `Family.pretraining_class`.
    tokenizer : transformers.PreTrainedTokenizerBase
    subword_tokenizer : SubwordTokenizer
        The same tokenizer as the engine uses it.
    knows_words, knows_next_sentence, knows_pooler : bool
        Whether the heads and the pooler are trained; if not, their weights are random, or the
        family does not have them.
    precision : torch.dtype
    made_with : str
        The pooling with which the encoder was made before; see `Pretrained.pooling`.
    """

    model: Any
    tokenizer: Any
    subword_tokenizer: SubwordTokenizer
    knows_words: bool
    knows_next_sentence: bool
    knows_pooler: bool
    precision: torch.dtype
    made_with: str

    @classmethod
    def of(
        cls, pretrained: Pretrained, heads: HeadWeights, model: Any, precision: torch.dtype
    ) -> PretrainerState:
        """Collect what a checkpoint and its heads know; `model` has their weights."""
        return cls(
            model,
            pretrained.new_tokenizer(),
            pretrained.subword_tokenizer,
            heads.knows_words,
            heads.knows_next_sentence,
            heads.knows_pooler,
            precision,
            pretrained.pooling,
        )

    @property
    def network(self) -> PretrainingNetwork:
        """The modules of `model` as the engine uses them."""
        return PretrainingNetwork.of(self.model, self.precision)

    def after(self, history: list[dict[str, Any]], trains_pairs: bool) -> PretrainerState:
        """Note which heads the epochs of `history` have trained."""
        return replace(
            self,
            knows_words=self.knows_words or bool(history),
            knows_next_sentence=self.knows_next_sentence or trains_pairs,
            knows_pooler=self.knows_pooler or trains_pairs,
        )

    def fitted_attributes(self, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Attributes with which an estimator can predict."""
        return {
            "model_": self.model,
            "tokenizer_": self.tokenizer,
            "_subword_tokenizer": self.subword_tokenizer,
            "history_": history,
            "n_epochs_": len(history),
            "device_": str(self.network.device),
            "precision_": precision_name(self.precision),
            "_knows_words": self.knows_words,
            "_knows_next_sentence": self.knows_next_sentence,
            "_knows_pooler": self.knows_pooler,
            "_made_with": self.made_with,
            "_n_features_out": self.model.config.hidden_size,
        }


@dataclass(frozen=True)
class PreparedPretraining:
    """All that a fit of the pretrainer needs.

    Attributes
    ----------
    start : PretrainerState
        The network before the first step.
    texts : Tokens or Sentences
        Sentences to pair, or texts for masked language modelling alone.
    masking : Masking
    seeds : Seeds
    """

    start: PretrainerState
    texts: Tokens | Sentences
    masking: Masking
    seeds: Seeds

    @property
    def has_pairs(self) -> bool:
        """Whether next sentence prediction is trained."""
        return isinstance(self.texts, Sentences)


def current_state(estimator: Any) -> PretrainerState:
    """Collect what a fitted pretrainer has learned."""
    check_is_fitted(estimator)
    estimator._validate_params()  # set_params may have changed them since fit
    return PretrainerState(
        estimator.model_,
        estimator.tokenizer_,
        estimator._subword_tokenizer.naming_emoji(estimator.emoji_names),
        estimator._knows_words,
        estimator._knows_next_sentence,
        estimator._knows_pooler,
        resolve_precision(estimator.precision_, resolve_device(estimator.device_)),
        estimator._made_with,
    )


def prepare_pretraining(
    estimator: Any, documents: Documents, ranks: Ranks | None = None
) -> PreparedPretraining:
    """Check what depends on the model, load or create it, tokenise, and move it to the device.

    Raises
    ------
    ValueError
        If a parameter is out of the range that the model or the machine allows.
    OSError
        If the model's files are not available.

    Warns
    -----
    UserWarning
        If next sentence prediction is requested, but there are no pairs.
    """
    seeds = shared_seeds(estimator.random_state, ranks)
    rng = np.random.default_rng(seeds.new_weights)
    device = resolve_device(estimator.device)
    precision = resolve_precision(estimator.precision, device)
    pretrained = _load_or_create(estimator, documents, rng).naming_emoji(estimator.emoji_names)
    heads = head_weights(pretrained, rng)
    forget_warnings(estimator)
    whole = tokenize_whole(estimator, documents, pretrained.subword_tokenizer, pretrained.config)
    pairs = _sentences_to_pair(estimator, documents, pretrained)
    vocabulary = vocabulary_of(pretrained.tokenizer)
    model = new_pretraining_model(pretrained, heads).to(device)
    start = PretrainerState.of(pretrained, heads, model, precision)
    texts = whole if pairs is None else pairs
    if ranks is not None:
        fingerprint = fingerprint_of_fit(estimator, start.network, [texts], seeds)
        check_same_fit(ranks, (fingerprint, estimator.max_epochs), device)
    if not start.knows_words:
        start_from_frequencies(start.network, whole, vocabulary)
    masking = Masking(vocabulary, estimator.mask_fraction, estimator.whole_words)
    return PreparedPretraining(start, texts, masking, seeds)


def check_length(estimator: Any, config: Any) -> None:
    """Raise an error if `max_length` exceeds the number of positions of the model."""
    advice = "fit splits a longer text into several."
    smallest = smallest_max_length(n_segments=2)
    check_max_length(estimator.max_length, longest_text(config), smallest, advice)


def tokenize_whole(
    estimator: Any, documents: Documents, subword_tokenizer: SubwordTokenizer, config: Any
) -> Tokens:
    """Tokenise documents for masked language modelling alone; longer ones in several pieces."""
    tokens = WholeTexts.of(subword_tokenizer, documents.texts, estimator.max_length).pieces
    LostTokens.of(tokens, subword_tokenizer).warn(estimator, config, selects=False)
    return tokens


def _load_or_create(estimator: Any, documents: Documents, rng: np.random.Generator) -> Pretrained:
    if isinstance(estimator.model, (str, os.PathLike)):
        config = load_config(estimator.model)
        check_has_heads(config)
        check_length(estimator, config)
        check_next_sentence(estimator, config)
        return load_pretrained(estimator.model)
    check_length(estimator, estimator.model)
    return new_pretrained(estimator.model, documents.texts, rng)


def check_next_sentence(estimator: Any, config: Any) -> None:
    """Raise an error if the estimator trains a head that the family does not have."""
    if estimator.next_sentence and not family_of(config).has_next_sentence:
        raise ValueError(
            f"next_sentence=True, but the model has model_type={config.model_type!r}, which has no "
            "head for next sentence prediction; allowed is model_type in "
            f"{_with_next_sentence()}. Set next_sentence=False to train masked language modelling "
            "alone."
        )


def check_knows_next_sentence(state: PretrainerState) -> None:
    """Raise an error if a fitted pretrainer cannot predict the next sentence."""
    config = state.model.config
    if not family_of(config).has_next_sentence:
        raise ValueError(
            f"The fitted model has model_type={config.model_type!r}, which has no head for next "
            f"sentence prediction; allowed is model_type in {_with_next_sentence()}. Fit such a "
            "model with next_sentence=True."
        )
    if not state.knows_next_sentence:
        raise ValueError(
            "Next sentence prediction is not trained: the checkpoint has no head for it, and "
            "fit had no pairs of sentences. Fit with next_sentence=True, max_epochs of at "
            "least 1, and documents of several sentences."
        )


def _with_next_sentence() -> list[str]:
    return [name for name, family in FAMILIES.items() if family.has_next_sentence]


def _sentences_to_pair(
    estimator: Any, documents: Documents, pretrained: Pretrained
) -> Sentences | None:
    """Tokenise sentences; None if `next_sentence` is off or there are no pairs."""
    if not estimator.next_sentence:
        return None
    split = documents.sentences or [split_into_sentences(text) for text in documents.texts]
    flat = [sentence for sentences in split for sentence in sentences]
    subword_tokenizer = pretrained.subword_tokenizer
    room = subword_tokenizer.layout.room_for_each(estimator.max_length, n_segments=2)
    sentences = tokenize_in_pieces(subword_tokenizer, flat, documents_of(split), room)
    n_with_pairs = len(np.unique(sentences.documents[sentences.has_successor]))
    if n_with_pairs > 1:
        subword_tokenizer.layout.check(n_segments=2)
        return sentences
    why = (
        f"only 1 of the {len(split)} texts has several sentences, and false pairs need another"
        if n_with_pairs
        else f"none of the {len(split)} texts has several sentences"
    )
    warn_user(
        f"next_sentence=True, but {why}. fit trains masked language modelling alone. Pass "
        "documents of several sentences, or set next_sentence=False."
    )
    return None
