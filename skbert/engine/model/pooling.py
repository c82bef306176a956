"""Hidden states of tokens -> one vector per text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from skbert.engine.model.batch import DeviceBatch
from skbert.engine.model.device import to_device
from skbert.engine.model.dropout import Dropout, no_dropout
from skbert.engine.model.encoder import Start, encode, encode_first_token
from skbert.engine.text.packing import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Poolings of a classifier.
POOLINGS = ("cls", "mean")

#: Poolings of an embedding transformer.
ALL_POOLINGS = (*POOLINGS, "max", "pooler")


def pooled_states(
    model: PreTrainedModel,
    batch: PackedBatch | DeviceBatch,
    pooling: str,
    dropout: Dropout = no_dropout,
    start: Start = None,
    n_layers: int | None = None,
) -> Tensor:
    """Compute one vector per text, in the order of the batch: (n_texts, d_model).

    "cls" is the hidden state of [CLS]. "mean" and "max" are the average and the elementwise
    maximum over all tokens of the text, special tokens included, as sentence-transformers
    computes them. The hidden states come from the last layer, or from layer `n_layers`.

    If a text has several windows, "cls" is the mean over them of the hidden states of [CLS], and
    "mean" and "max" are over the tokens of all windows. The windows of a text have the same
    length, so both means are those of the vectors of the windows, weighted by their lengths.
    """
    if pooling == "cls":
        states = encode_first_token(model, batch, dropout, start, n_layers)
        if batch.cu_windows is None:
            return states
        return mean_of_tokens(states.float(), batch.cu_windows)
    hidden = encode(model, batch, dropout, start, n_layers)
    pool = {"mean": mean_of_tokens, "max": max_of_tokens}[pooling]
    return pool(hidden, batch.cu_texts)


def mean_of_tokens(hidden: Tensor, cu_seqlens: np.ndarray | Tensor) -> Tensor:
    """Average the tokens of each text: (n_tokens, d_model) -> (n_texts, d_model)."""
    if hidden.is_cuda:
        return _reduce_on_cuda(hidden, cu_seqlens, "mean")
    lengths = _lengths(cu_seqlens).to(hidden.device)
    text_of_token = torch.repeat_interleave(lengths)
    sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add_(0, text_of_token, hidden)
    return sums / lengths[:, None]


def max_of_tokens(hidden: Tensor, cu_seqlens: np.ndarray | Tensor) -> Tensor:
    """Take the elementwise maximum in each text: (n_tokens, d_model) -> (n_texts, d_model)."""
    if hidden.is_cuda:
        return _reduce_on_cuda(hidden, cu_seqlens, "max")
    lengths = _lengths(cu_seqlens).to(hidden.device)
    text_of_token = torch.repeat_interleave(lengths)[:, None].expand_as(hidden)
    lowest = hidden.new_full((len(lengths), hidden.shape[1]), -torch.inf)
    return lowest.scatter_reduce_(0, text_of_token, hidden, "amax")


def _lengths(cu_seqlens: np.ndarray | Tensor) -> Tensor:
    """Compute the number of tokens of each text: (n_texts,), int64."""
    ends = cu_seqlens if isinstance(cu_seqlens, Tensor) else torch.from_numpy(cu_seqlens)
    return ends.diff().long()


def _reduce_on_cuda(hidden: Tensor, cu_seqlens: np.ndarray | Tensor, reduction: str) -> Tensor:
    """Reduce each text by itself, in a fixed order and without reading lengths on the host."""
    ends = cu_seqlens
    if isinstance(ends, np.ndarray):
        ends = to_device(ends, hidden.device)
    # `unsafe` skips checks that would wait for the device.
    return torch.segment_reduce(hidden.float(), reduction, offsets=ends, axis=0, unsafe=True)
