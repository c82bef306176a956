"""Tokens in, tokens with hidden places out: BERT's masked language model, without the model.

numpy only. Which tokens are chosen, what stands in their place, and what was there; no
sentences, no batches, no loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from skbert.engine.text.layout import special_places
from skbert.engine.text.tokens import Tokens

#: The target of a token that is not to be guessed.
NOT_MASKED = -1

# Of the chosen tokens (Devlin et al., 2019, section 3.1): the rest, a tenth, stays as it is.
_SHARE_MASKED, _SHARE_RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a WordPiece vocabulary.

    Attributes
    ----------
    mask_id : int
        The id of [MASK].
    special_ids : ndarray of shape (n_special,), int32
        [PAD], [UNK], [CLS], [SEP], [MASK] and others that are no words.
    word_ids : ndarray of shape (n_words,), int32
        All other ids: what may stand in the place of a chosen token.
    continues : ndarray of shape (largest id + 1,), bool
        Whether a piece continues the word before it: those that begin with ##.
    """

    mask_id: int
    special_ids: np.ndarray
    word_ids: np.ndarray
    continues: np.ndarray

    @classmethod
    def of(
        cls, id_of_piece: Mapping[str, int], special_ids: Iterable[int], mask_id: int
    ) -> Vocabulary:
        """Take the pieces of a tokenizer apart."""
        special = np.unique(np.fromiter(special_ids, dtype=np.int32))
        ids = np.fromiter(id_of_piece.values(), dtype=np.int32)
        continues = np.zeros(ids.max() + 1, dtype=bool)
        continues[ids] = [piece.startswith("##") for piece in id_of_piece]
        return cls(mask_id, special, np.setdiff1d(ids, special), continues)


@dataclass(frozen=True)
class MaskedTokens:
    """Texts of which some tokens are to be guessed.

    Attributes
    ----------
    tokens : Tokens
        As the model sees them.
    targets : ndarray of shape (n_tokens,), int32
        Of each chosen token the id it had, `NOT_MASKED` elsewhere.
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
    """Choose tokens to be guessed, and hide most of them.

    Of the chosen, 80 % become [MASK], 10 % a random word piece, and 10 % stay, so that the
    model cannot know which of the tokens it sees are right.

    Parameters
    ----------
    tokens : Tokens
        With the special tokens that the tokenizer put around each text. These are never
        chosen, nor are special tokens that a text itself spells out, such as "[SEP]".
    vocabulary : Vocabulary
    mask_fraction : float
        Share of the tokens that are chosen, each by itself; one at least.
    whole_words : bool
        Choose words, that is a piece and the ## pieces after it, instead of single pieces.
        Each chosen piece is then hidden, replaced or kept by itself.
    rng : numpy.random.Generator

    Returns
    -------
    MaskedTokens

    Raises
    ------
    ValueError
        If there is no token to choose.
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
    """Whether each token is one of the text's own words; shape (n_tokens,), bool."""
    return ~np.isin(tokens.ids, vocabulary.special_ids) & ~special_places(tokens)


def _chosen(
    tokens: Tokens,
    vocabulary: Vocabulary,
    mask_fraction: float,
    whole_words: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Which tokens are to be guessed; shape (n_tokens,), bool."""
    allowed = may_be_masked(tokens, vocabulary)
    if not allowed.any():
        raise ValueError(
            "The texts hold no word pieces, only special tokens, so that nothing can be masked. "
            "Check that they are not all empty."
        )
    is_word = allowed.copy()
    if whole_words:  # the pieces that begin one
        is_word[1:] &= ~(vocabulary.continues[tokens.ids[1:]] & allowed[:-1])
    word_of_token = np.cumsum(is_word) - 1
    word_is_chosen = rng.random(np.count_nonzero(is_word)) < mask_fraction
    if not word_is_chosen.any():
        word_is_chosen[rng.integers(len(word_is_chosen))] = True
    return allowed & word_is_chosen[word_of_token]
