"""Masked tokens: worked examples and statistics."""

import numpy as np
import pytest

from skbert.engine.text.masking import NOT_MASKED, Vocabulary, mask_tokens, may_be_masked
from skbert.engine.text.tokens import Tokens

PIECES = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "play": 5, "##ing": 6}
PIECES |= {f"w{i}": i for i in range(7, 100)}
VOCABULARY = Vocabulary.of(PIECES, special_ids=[0, 1, 2, 3, 4], mask_id=4)


def tokens_of(*texts):
    """Build Tokens from rows of ids; -3 marks the [SEP], id 3, that ends the first segment."""
    ids = np.array([abs(i) for text in texts for i in text], dtype=np.int32)
    segments = np.concatenate(
        [np.cumsum([0] + [i == -3 for i in text[:-1]]) for text in texts]
    ).astype(np.int32)
    offsets = np.cumsum([0, *map(len, texts)])
    is_special = np.array([i < 0 for text in texts for i in text])
    is_special[offsets[:-1]] = is_special[offsets[1:] - 1] = True
    return Tokens(ids, segments, is_special, offsets, np.zeros(len(texts), dtype=np.int64))


def many_tokens(n_texts=2000, n_words=50):
    rng = np.random.default_rng(0)
    return tokens_of(*([2, *rng.integers(5, 100, n_words), 3] for _ in range(n_texts)))


def test_the_vocabulary_by_hand():
    assert VOCABULARY.special_ids.tolist() == [0, 1, 2, 3, 4]
    assert VOCABULARY.word_ids.tolist() == [*range(5, 100)]
    assert np.flatnonzero(VOCABULARY.continues).tolist() == [6]


def test_special_tokens_are_never_masked_wherever_they_come_from():
    # [CLS] play ##ing [SEP]; a pair; a text that contains [SEP], [CLS], [UNK] and [MASK]; ""
    tokens = tokens_of([2, 5, 6, 3], [2, 5, -3, 6, 3], [2, 5, 3, 7, 2, 1, 4, 8, 3], [2, 3])
    allowed = may_be_masked(tokens, VOCABULARY)
    assert [
        allowed[start:stop].astype(int).tolist()
        for start, stop in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ] == [[0, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0, 0, 1, 0], [0, 0]]


def test_a_vocabulary_without_special_ids_goes_by_place():
    nothing_special = Vocabulary.of(PIECES, special_ids=[4], mask_id=4)
    allowed = may_be_masked(tokens_of([9, 7, -3, 8, 9], [9, 7, 9]), nothing_special)
    assert allowed.astype(int).tolist() == [0, 1, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_are_15_80_10_10(whole_words):
    tokens = many_tokens()
    masked = mask_tokens(tokens, VOCABULARY, 0.15, whole_words, np.random.default_rng(1))
    n = 2000 * 50
    chosen = masked.targets != NOT_MASKED
    assert chosen.sum() / n == pytest.approx(0.15, abs=0.004)  # 3.5 standard deviations
    now, before = masked.tokens.ids[chosen], tokens.ids[chosen]
    assert masked.targets[chosen].tolist() == before.tolist()
    n_chosen = chosen.sum()
    hidden, kept = now == 4, now == before
    assert hidden.sum() / n_chosen == pytest.approx(0.8, abs=0.012)
    # in 1 of 95 cases, the random word is the original one
    assert kept.sum() / n_chosen == pytest.approx(0.1 + 0.1 / 95, abs=0.009)
    assert (~hidden & ~kept).sum() / n_chosen == pytest.approx(0.1 - 0.1 / 95, abs=0.009)
    random = now[~hidden & ~kept]
    assert {*random.tolist()} == {*range(5, 100)}  # any word, but no special token
    assert masked.tokens.ids[~chosen].tolist() == tokens.ids[~chosen].tolist()


def test_the_share_can_be_another():
    masked = mask_tokens(many_tokens(), VOCABULARY, 0.4, False, np.random.default_rng(1))
    assert (masked.targets != NOT_MASKED).sum() / 100_000 == pytest.approx(0.4, abs=0.006)


def test_whole_words_are_chosen_whole():
    # play ##ing ##ing w7 ##ing in each text; the last ##ing of one text ends its word
    tokens = tokens_of(*([2, 5, 6, 6, 7, 6, 3] for _ in range(500)))
    targets = mask_tokens(tokens, VOCABULARY, 0.3, True, np.random.default_rng(0)).targets
    chosen = (targets != NOT_MASKED).reshape(500, 7)
    assert not chosen[:, [0, 6]].any()
    assert (chosen[:, 1] == chosen[:, 2]).all() and (chosen[:, 2] == chosen[:, 3]).all()
    assert (chosen[:, 4] == chosen[:, 5]).all()
    assert (chosen[:, 1] != chosen[:, 4]).any()
    assert chosen[:, [1, 4]].mean() == pytest.approx(0.3, abs=0.05)


def test_a_piece_after_a_special_token_begins_a_word():
    tokens = tokens_of(*([2, 6, 3, 6, 3] for _ in range(500)))  # "##ing [SEP] ##ing"
    targets = mask_tokens(tokens, VOCABULARY, 0.5, True, np.random.default_rng(0)).targets
    chosen = (targets != NOT_MASKED).reshape(500, 5)
    assert (chosen[:, 1] != chosen[:, 3]).any() and not chosen[:, [0, 2, 4]].any()


def test_each_draw_is_another_and_the_generator_decides():
    tokens = many_tokens(20)
    rng = np.random.default_rng(5)
    first, second = (mask_tokens(tokens, VOCABULARY, 0.15, False, rng) for _ in range(2))
    again = mask_tokens(tokens, VOCABULARY, 0.15, False, np.random.default_rng(5))
    assert first.targets.tolist() == again.targets.tolist()
    assert first.tokens.ids.tolist() == again.tokens.ids.tolist()
    assert first.targets.tolist() != second.targets.tolist()


def test_the_tokens_given_are_not_changed_and_one_is_always_chosen():
    tokens = tokens_of([2, 3], [2, 7, 3])
    for seed in range(20):
        masked = mask_tokens(tokens, VOCABULARY, 0.01, False, np.random.default_rng(seed))
        assert masked.targets.tolist() == [-1, -1, -1, 7, -1]
    assert tokens.ids.tolist() == [2, 3, 2, 7, 3]


def test_nothing_to_mask_is_an_error():
    with pytest.raises(ValueError, match="The texts contain only special tokens"):
        mask_tokens(tokens_of([2, 3], [2, 1, 3]), VOCABULARY, 0.15, False, np.random.default_rng(0))
