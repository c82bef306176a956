"""Tokens -> masked tokens and targets, for BERT's masked language modelling.

This file chooses the tokens to predict, replaces them, and notes their ids. Sentences, batches and
the loss are elsewhere. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from skbert.engine.text.tokens import Tokens

#: The target of a token that is not predicted.
NOT_MASKED = -1

# Shares of the chosen tokens (Devlin et al., 2019, section 3.1). The other tenth stays unchanged.
_SHARE_MASKED, _SHARE_RANDOM = 0.8, 0.1


def continues_word(piece: str) -> bool:
    """Whether a piece of a WordPiece vocabulary continues the word before it."""
    return piece.startswith("##")


@dataclass(frozen=True)
class Vocabulary:
    """The parts of a vocabulary that masking needs.

    Attributes
    ----------
    mask_id : int
        The id of the mask token, such as [MASK].
    special_ids : ndarray of shape (n_special,), int32
        [PAD], [UNK], [CLS], [SEP], [MASK] and other tokens that are not words.
    word_ids : ndarray of shape (n_words,), int32
        All other ids. A random one of them may replace a chosen token.
    continues : ndarray of shape (largest id + 1,), bool
        Whether a piece continues the word before it, as those with ## do.
    """

    mask_id: int
    special_ids: np.ndarray
    word_ids: np.ndarray
    continues: np.ndarray

    @classmethod
    def of(
        cls,
        id_of_piece: Mapping[str, int],
        special_ids: Iterable[int],
        mask_id: int,
        continues: Callable[[str], bool] = continues_word,
    ) -> Vocabulary:
        """Sort the pieces of a tokenizer into words and special tokens."""
        special = np.unique(np.fromiter(special_ids, dtype=np.int32))
        ids = np.fromiter(id_of_piece.values(), dtype=np.int32)
        continuing = np.zeros(ids.max() + 1, dtype=bool)
        continuing[ids] = [continues(piece) for piece in id_of_piece]
        return cls(mask_id, special, np.setdiff1d(ids, special), continuing)


@dataclass(frozen=True)
class MaskedTokens:
    """Masked texts, and the tokens to predict.

    Attributes
    ----------
    tokens : Tokens
        The input of the model.
    targets : ndarray of shape (n_tokens,), int32
        The original id of each chosen token, and `NOT_MASKED` for the others.
    """

    tokens: Tokens
    targets: np.ndarray


def mask_tokens(
    tokens: Tokens,
    vocabulary: Vocabulary,
    mask_fraction: float,
    whole_words: bool,
    rng: np.random.Generator,
) -> MaskedTokens:
    """Choose tokens to predict, and mask most of them.

    80 % of the chosen tokens become the mask token, 10 % become a random piece, and 10 % stay
    unchanged, so the model cannot know which of its input tokens are correct.

    Parameters
    ----------
    tokens : Tokens
        Texts with special tokens around them. Special tokens are never chosen, even if a text
        itself contains them, such as "[SEP]".
    vocabulary : Vocabulary
    mask_fraction : float
        Probability of choosing a token, or a word. At least one is chosen.
    whole_words : bool
        Choose whole words, that is, a piece and those after it that continue it, instead of single
        pieces. Byte-level and SentencePiece vocabularies continue a word up to the next space.
        Each piece of a chosen word is then masked, replaced or kept independently.
    rng : numpy.random.Generator

    Returns
    -------
    MaskedTokens

    Raises
    ------
    ValueError
        If the texts contain only special tokens.
    """
    chosen = np.flatnonzero(_chosen(tokens, vocabulary, mask_fraction, whole_words, rng))
    targets = np.full(len(tokens.ids), NOT_MASKED, dtype=np.int32)
    targets[chosen] = tokens.ids[chosen]
    ids = tokens.ids.copy()
    fate = rng.random(len(chosen))
    is_random = (fate >= _SHARE_MASKED) & (fate < _SHARE_MASKED + _SHARE_RANDOM)
    ids[chosen[fate < _SHARE_MASKED]] = vocabulary.mask_id
    ids[chosen[is_random]] = rng.choice(vocabulary.word_ids, np.count_nonzero(is_random))
    return MaskedTokens(replace(tokens, ids=ids), targets)


def may_be_masked(tokens: Tokens, vocabulary: Vocabulary) -> np.ndarray:
    """Whether each token is a word of its text, not a special token; shape (n_tokens,), bool."""
    return ~np.isin(tokens.ids, vocabulary.special_ids) & ~tokens.is_special


def _chosen(
    tokens: Tokens,
    vocabulary: Vocabulary,
    mask_fraction: float,
    whole_words: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose the tokens to predict; shape (n_tokens,), bool."""
    allowed = may_be_masked(tokens, vocabulary)
    if not allowed.any():
        raise ValueError(
            "The texts contain only special tokens, but masked language modelling needs at least "
            "one word. Check that the texts are not all empty."
        )
    is_word = allowed.copy()
    if whole_words:  # only the first piece of each word
        is_word[1:] &= ~(vocabulary.continues[tokens.ids[1:]] & allowed[:-1])
    word_of_token = np.cumsum(is_word) - 1
    word_is_chosen = rng.random(np.count_nonzero(is_word)) < mask_fraction
    if not word_is_chosen.any():
        word_is_chosen[rng.integers(len(word_is_chosen))] = True
    return allowed & word_is_chosen[word_of_token]
