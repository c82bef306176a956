"""Texts -> flat ids of pieces, and offsets, with any fast tokenizer.

No torch, no padding, no batches: each text is tokenised once, and the texts are laid end to end.
Each text gets special tokens, such as ``[CLS]`` and ``[SEP]``, so an empty text keeps its row.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tokenizers

from skbert.engine.text.emoji_names import emoji_replacements
from skbert.engine.text.layout import Layout, share_room, truncate
from skbert.engine.text.post_processor import read_layout
from skbert.engine.text.replacements import Replacement, map_to_original, replace_all
from skbert.engine.text.spans import TextPieces
from skbert.engine.text.tokens import BareTokens, Tokens

# Space characters that separate words for BERT. `str.split()` would also split at \x0b, \x0c,
# \x1c-\x1f and \x85, which BERT deletes, so that both sides become one word.
_SPACES = re.compile("[ \t\n\r\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")

# Longer words are rare (addresses, junk), and would fill the memo with strings that occur once.
_LONGEST_MEMORISED_WORD = 64

_MEMO_SIZE = 200_000


class SubwordTokenizer:
    """A private copy of a fast tokenizer that never pads, and truncates by itself.

    The saved state of a tokenizer may contain padding and truncation (all-MiniLM pads each text to
    128 tokens). Any call through transformers may set them again, and setting them raises an error
    if threads share the tokenizer. Therefore this class has its own copy, and does not use them.

    Parameters
    ----------
    backend_json : str
        The ``tokenizer.json`` of the model, as text.
    cls_token, sep_token : str
        The special tokens around each text, as in BERT, if the tokenizer itself adds none.
    type_vocab_size : int or None
        The number of segment ids that the model has; None if it has none, or if it is not known.
    splits_special_tokens : bool
        Whether a special token within a text, such as "[SEP]", is read as its characters.

    Attributes
    ----------
    layout : Layout
        The ids and positions of the special tokens, and the room that they leave.
    unknown_id : int or None
        The id of the token that stands for what the vocabulary does not contain; None if nothing is
        unknown to the tokenizer, as with the bytes of RoBERTa.
    """

    def __init__(
        self,
        backend_json: str,
        cls_token: str,
        sep_token: str,
        type_vocab_size: int | None = None,
        splits_special_tokens: bool = False,
    ) -> None:
        self._backend = tokenizers.Tokenizer.from_str(backend_json)
        self._backend.encode_special_tokens = splits_special_tokens
        self._backend.no_padding()
        self._backend.no_truncation()
        layout = read_layout(self._backend)
        if not layout.n_special(n_segments=1):
            layout = Layout.of_bert(self._special_id(cls_token), self._special_id(sep_token))
        self.layout = replace(layout, type_vocab_size=type_vocab_size)
        settings = json.loads(backend_json)
        self.unknown_id = _unknown_id(self._backend, settings.get("model") or {})
        self._words_are_independent = _words_are_independent(settings)
        self._names_emoji = True
        self._memo: dict[str, Sequence[int]] = {}

    def naming_emoji(self, names_emoji: bool) -> SubwordTokenizer:
        """Return a tokenizer that reads unknown emoji as their names, or one that does not."""
        if names_emoji == self._names_emoji:
            return self
        other = copy.copy(self)
        other._names_emoji, other._memo = names_emoji, {}
        return other

    @property
    def largest_id(self) -> int:
        """The largest id of a token, or of a special token around texts."""
        ids = self._backend.get_vocab(with_added_tokens=True).values()
        return max(self.layout.largest_id, *ids)

    def _special_id(self, token: str) -> int:
        token_id: int | None = self._backend.token_to_id(token)
        if token_id is None:
            raise ValueError(
                f"The vocabulary of the tokenizer does not contain {token!r}, but BERT needs its "
                "special tokens. Use the tokenizer files that belong to the model."
            )
        return token_id

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
        truncation: str | tuple[str, str],
    ) -> Tokens:
        """Tokenise `texts`, or pairs of texts.

        Parameters
        ----------
        texts : sequence of str
            Lone surrogates are replaced by U+FFFD, which BERT's normalizer removes.
        pairs : sequence of str or None
            The second text of each row, laid out as the tokenizer says: for example
            ``[CLS] text [SEP] pair [SEP]``. If a row is too long, the longer one of its two texts
            is truncated first, as in transformers.
        max_length : int
            Maximum number of tokens of a row, special tokens included.
        truncation : {"head", "tail", "head+tail"}
            The part of a longer text that is kept; see `truncate`. Or a tuple with one value for
            each text of a pair.

        Returns
        -------
        Tokens

        Raises
        ------
        ValueError
            If the layout of the tokenizer cannot be used, or leaves no room for the texts.
        """
        segments = [texts] if pairs is None else [texts, pairs]
        kinds = (truncation, truncation) if isinstance(truncation, str) else truncation
        self.layout.check(len(segments))
        room = self.layout.room(max_length, len(segments))
        ids: list[int] = []
        n_kept: list[int] = []
        n_lost: list[int] = []
        for row in zip(*segments, strict=True):
            bodies = [self._ids(text) for text in row]
            lengths = [len(body) for body in bodies]
            n_of_each = share_room(lengths, room)
            n_kept.extend(n_of_each)
            n_lost.append(sum(lengths) - sum(n_of_each))
            for segment, body in enumerate(bodies):
                ids.extend(truncate(body, n_of_each[segment], kinds[segment]))
        first = np.arange(0, len(n_kept), len(segments))
        second = np.full_like(first, -1) if pairs is None else first + 1
        tokens = self.layout.surround(BareTokens.of(ids, n_kept), first, second)
        return replace(tokens, n_lost=np.array(n_lost, dtype=np.int64))

    def count_tokens(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Count the tokens of each row before truncation, special tokens included.

        Parameters
        ----------
        texts, pairs
            As in a call of the tokenizer. No more ids are in memory than those of one row.

        Returns
        -------
        ndarray of shape (n_rows,), int64
        """
        segments = [texts] if pairs is None else [texts, pairs]
        self.layout.check(len(segments))
        n_special = self.layout.n_special(len(segments))
        rows = zip(*segments, strict=True)
        return np.array(
            [n_special + sum(len(self._ids(text)) for text in row) for row in rows], dtype=np.int64
        )

    def tokenize_bare(self, texts: Sequence[str]) -> BareTokens:
        """Tokenise `texts` without special tokens and without truncation."""
        ids: list[int] = []
        lengths: list[int] = []
        for text in texts:
            found = self._ids(text)
            ids.extend(found)
            lengths.append(len(found))
        return BareTokens.of(ids, lengths)

    def pieces(self, text: str) -> TextPieces:
        """Find the pieces of one text, without special tokens and without truncation.

        Their ids are those of `tokenize_bare`.
        """
        names = self._emoji_replacements(text)
        named = replace_all(text, names)
        pairs = _surrogate_pairs(named)
        encoding = self._backend.encode(readable(named), add_special_tokens=False)
        in_text, in_named = map_to_original(text, names), map_to_original(named, pairs)
        first, stop = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
        starts = in_text[in_named[first, 0], 0]
        stops = in_text[np.maximum(in_named[np.maximum(stop - 1, first), 1] - 1, 0), 1]
        spans = [*zip(starts.tolist(), np.maximum(starts, stops).tolist(), strict=True)]
        return TextPieces.of(text, encoding.ids, encoding.tokens, spans, encoding.word_ids)

    def kept_pieces(
        self, row: Sequence[str], *, max_length: int, truncation: str
    ) -> list[TextPieces]:
        """Find the pieces that `__call__` keeps of the one or two texts of a row.

        They come in the order in which the model reads the texts.
        """
        found = [self.pieces(text) for text in row]
        room = self.layout.room(max_length, len(row))
        n_of_each = share_room([len(pieces.ids) for pieces in found], room)
        kept = [
            pieces.take(truncate(range(len(pieces.ids)), n, truncation))
            for pieces, n in zip(found, n_of_each, strict=True)
        ]
        return [kept[text] for text in self.layout.order(len(row))]

    def _emoji_replacements(self, text: str) -> list[Replacement]:
        if not self._names_emoji or self.unknown_id is None:
            return []
        return emoji_replacements(text, self._is_known)

    def _ids(self, text: str) -> Sequence[int]:
        """Compute the ids of one text, without special tokens."""
        if not self._words_are_independent:
            return self._encode(text)
        memo = self._memo  # one reference: another thread may replace the attribute
        ids: list[int] = []
        for word in _SPACES.split(text):
            known = memo.get(word)
            if known is None:
                known = self._encode(word)
                if len(word) <= _LONGEST_MEMORISED_WORD:
                    memo[word] = known
            ids.extend(known)
        if len(memo) > _MEMO_SIZE:
            self._memo = {}
        return ids

    def _encode(self, text: str) -> Sequence[int]:
        # `encode_batch` would start threads, and then print a warning each time joblib forks a
        # worker.
        text = replace_all(text, self._emoji_replacements(text))
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except TypeError:  # a lone surrogate has no UTF-8
            return self._backend.encode(readable(text), add_special_tokens=False).ids

    def _is_known(self, text: str) -> bool:
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return self.unknown_id not in ids

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memo": {}}


def readable(text: str) -> str:
    """Replace lone surrogates, which have no UTF-8, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _surrogate_pairs(text: str) -> list[Replacement]:
    """Find the pairs of surrogates that `readable` reads as one character."""
    if text.isascii():
        return []
    found = re.finditer("[\ud800-\udbff][\udc00-\udfff]", text)
    return [Replacement(*match.span(), readable(match[0])) for match in found]


def _unknown_id(backend: tokenizers.Tokenizer, model: dict[str, Any]) -> int | None:
    """Find the id of the unknown token: Unigram has its id, the other models its name, or none."""
    if model.get("type") == "Unigram":
        return model.get("unk_id")
    name = model.get("unk_token")
    return backend.token_to_id(name) if name else None


def _words_are_independent(tokenizer_json: dict[str, Any]) -> bool:
    """Whether the ids of a text are the ids of its whitespace-separated words, concatenated.

    True for BERT's own normalizer, pre-tokenizer and WordPiece, because none of them combines
    characters on both sides of a space. The tokenizer then processes each distinct word once. On
    10,662 sentences of movie reviews, this takes a third of the time of one call for all of them,
    and a tenth the second time. In the vocabularies of RoBERTa or SentencePiece,
    spaces are parts of the pieces.
    """
    parts = [(tokenizer_json.get(p) or {}) for p in ("normalizer", "pre_tokenizer", "model")]
    return [part.get("type") for part in parts] == [
        "BertNormalizer",
        "BertPreTokenizer",
        "WordPiece",
    ] and not any(_SPACES.search(token["content"]) for token in tokenizer_json["added_tokens"])
