"""The post-processor of a tokenizer -> `Layout`: its special tokens and segment ids.

Each kind of post-processor (BERT's, RoBERTa's, a template, a sequence of them) has settings of its
own. This file does not read them: it lets the post-processor lay out two texts, and looks.
"""

from __future__ import annotations

from itertools import groupby

import tokenizers
from tokenizers import Encoding, models, pre_tokenizers

from skbert.engine.text.layout import Layout, Piece

# A post-processor sees ids, not texts. These ids are in no vocabulary.
_ID_OF_WORD = {"first": 2**32 - 1, "second": 2**32 - 2}

_TEXT_OF_ID = {2**32 - 1: 0, 2**32 - 2: 1}


def read_layout(
    backend: tokenizers.Tokenizer, *, has_segments: bool = True, type_vocab_size: int | None = None
) -> Layout:
    """Find out where a tokenizer puts special tokens, and which segment ids it gives.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    has_segments : bool
        Whether the model gets the segment ids of the tokenizer. If not, all are 0.
    type_vocab_size : int or None
        As in `Layout`.

    Returns
    -------
    Layout
        `Layout.check` tells whether it can be used.
    """
    probe = tokenizers.Tokenizer(models.WordLevel(_ID_OF_WORD, unk_token="first"))
    probe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if backend.post_processor is not None:
        probe.post_processor = backend.post_processor
    single, pair = probe.encode("first first"), probe.encode("first first", "second second")
    return Layout(_pieces(single, has_segments), _pieces(pair, has_segments), type_vocab_size)


def _pieces(row: Encoding, has_segments: bool) -> tuple[Piece, ...]:
    """Find the parts of a row in which each text has two tokens."""
    pieces = []
    for (token_id, type_id), run in groupby(zip(row.ids, row.type_ids, strict=True)):
        segment_id = type_id if has_segments else 0
        n_tokens = len([*run])
        if token_id in _TEXT_OF_ID:
            pieces += [Piece(segment_id, text=_TEXT_OF_ID[token_id])] * (n_tokens // 2)
        else:
            pieces += [Piece(segment_id, token_id=token_id)] * n_tokens
    return tuple(pieces)
