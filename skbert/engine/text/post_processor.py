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


def read_layout(backend: tokenizers.Tokenizer) -> Layout:
    """Find out where a tokenizer puts special tokens, and which segment ids it gives.

    transformers drops the segment ids if its class of the tokenizer does not name them as an input
    of the model, which differs between its versions. skbert always uses them.

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
    return Layout(_pieces(single), _pieces(pair))


def _pieces(row: Encoding) -> tuple[Piece, ...]:
    """Find the parts of a row in which each text has two tokens."""
    pieces = []
    for (token_id, segment_id), run in groupby(zip(row.ids, row.type_ids, strict=True)):
        n_tokens = len([*run])
        if token_id in _TEXT_OF_ID:
            pieces += [Piece(segment_id, text=_TEXT_OF_ID[token_id])] * (n_tokens // 2)
        else:
            pieces += [Piece(segment_id, token_id=token_id)] * n_tokens
    return tuple(pieces)
