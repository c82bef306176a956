"""`PackedBatch` and what belongs to its texts, as tensors on the device of a model.

A `HostBatch` holds everything that one forward pass and its loss read, as numpy arrays. Copying it
to the device makes a `DeviceBatch`; to a CUDA device, this is one copy from page-locked memory, for
which the host does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skbert.engine.model.device import is_asynchronous, page_locked, to_device
from skbert.engine.model.families import embeddings_of, family_of, word_embeddings
from skbert.engine.text.packing import Filling, PackedBatch, fill

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HostBatch:
    """The arrays of a batch, before they are copied to a device.

    Attributes
    ----------
    packed : PackedBatch
        The texts. The last one may be a filler; see `packing.fill`.
    n_texts : int
        Number of texts without the filler.
    longest : int
        Attention computes sequences of up to this number of tokens.
    arrays : dict of str to ndarray of shape (n,), int32 or float32
        "ids", "positions", "segment_ids", "cu_seqlens", with windows "cu_windows", and what else
        the loss reads.
    """

    packed: PackedBatch
    n_texts: int
    longest: int
    arrays: Mapping[str, np.ndarray]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What decides the shapes of all that a device computes from the batch."""
        lengths = tuple((name, len(array)) for name, array in self.arrays.items())
        return self.n_texts, self.longest, lengths


@dataclass(frozen=True)
class DeviceBatch:
    """A `HostBatch` on the device of the model.

    Attributes
    ----------
    host : HostBatch
        If a CUDA graph replays a step, `host` is still the batch of its capture. So what computes
        on the device may read the shapes of `host`, but nothing else.
    tensors : dict of str to Tensor
        The arrays of `host`.
    """

    host: HostBatch
    tensors: Mapping[str, Tensor]

    @property
    def packed(self) -> PackedBatch:
        """The texts, on the host."""
        return self.host.packed

    @property
    def ids(self) -> Tensor:
        """Word id of each token: (n_tokens,), int32."""
        return self.tensors["ids"]

    @property
    def rows(self) -> np.ndarray:
        """The row of each text in the caller's order: (n_texts,), int64."""
        return self.packed.rows

    @property
    def cu_seqlens(self) -> Tensor:
        """Cumulative lengths: (n_sequences + 1,), int32."""
        return self.tensors["cu_seqlens"]

    @property
    def cu_windows(self) -> Tensor | None:
        """Cumulative numbers of windows: (n_texts + 1,), int32; None without windows."""
        return self.tensors.get("cu_windows")

    @property
    def cu_texts(self) -> Tensor:
        """Cumulative lengths of texts, with all of their windows: (n_texts + 1,), int32."""
        windows = self.cu_windows
        return self.cu_seqlens if windows is None else self.cu_seqlens.index_select(0, windows)

    @property
    def first_tokens(self) -> Tensor:
        """Place of the first token of each sequence: (n_sequences,), int32."""
        return self.cu_seqlens[:-1]


def host_batch(
    model: PreTrainedModel,
    packed: PackedBatch,
    filling: Filling | None = None,
    **others: np.ndarray,
) -> HostBatch:
    """Collect what `model` reads of some texts, and `others`, which the loss reads."""
    n_texts = len(packed.rows)
    if filling is not None:
        packed = fill(packed, filling.n_tokens)
    longest = int(np.diff(packed.cu_seqlens).max())
    if filling is not None:
        longest = max(longest, filling.longest)
    arrays = {
        "ids": packed.ids,
        "positions": _positions(model, packed),
        "segment_ids": packed.segment_ids,
        "cu_seqlens": packed.cu_seqlens,
    }
    if packed.cu_windows is not None:
        arrays["cu_windows"] = packed.cu_windows
    return HostBatch(packed, n_texts, longest, arrays | others)


@dataclass(frozen=True)
class StagedBatch:
    """A `HostBatch` that is ready to be copied.

    Attributes
    ----------
    host : HostBatch
    flat : Tensor of shape (n,), int32, or None
        All arrays, one after the other, in page-locked memory; None if the device is not CUDA.
    """

    host: HostBatch
    flat: Tensor | None

    def copy(self, device: torch.device) -> DeviceBatch:
        """Copy the arrays to the device; on a CPU, share their memory."""
        if self.flat is not None:
            return self.view(self.flat.to(device, non_blocking=True))
        arrays = self.host.arrays.items()
        return DeviceBatch(self.host, {name: to_device(array, device) for name, array in arrays})

    def view(self, flat: Tensor) -> DeviceBatch:
        """Find the arrays in `flat`, which is on the device."""
        pieces = flat.split([len(array) for array in self.host.arrays.values()])
        tensors = {
            name: piece.view(torch.float32) if array.dtype == np.float32 else piece
            for (name, array), piece in zip(self.host.arrays.items(), pieces, strict=True)
        }
        return DeviceBatch(self.host, tensors)


def stage(host: HostBatch, device: torch.device) -> StagedBatch:
    """Prepare a batch for its copy. This may run in another thread."""
    if not is_asynchronous(device):
        return StagedBatch(host, None)
    flat = page_locked(sum(len(array) for array in host.arrays.values()), torch.int32)
    np.concatenate([array.view(np.int32) for array in host.arrays.values()], out=flat.numpy())
    return StagedBatch(host, flat)


def on_device(model: PreTrainedModel, batch: PackedBatch | DeviceBatch) -> DeviceBatch:
    """Copy a batch to the device of the model, unless it is already there."""
    if isinstance(batch, DeviceBatch):
        return batch
    device = word_embeddings(model).weight.device
    return stage(host_batch(model, batch), device).copy(device)


def packed_of(batch: PackedBatch | DeviceBatch) -> PackedBatch:
    """Get the texts on the host."""
    return batch.packed if isinstance(batch, DeviceBatch) else batch


def _positions(model: PreTrainedModel, packed: PackedBatch) -> np.ndarray:
    """Compute the position number of each token: (n_tokens,), int32.

    RoBERTa gives padding a position of its own and starts after it. A text may contain the padding
    token, for example as "<pad>", and then gets that position there, and no other is skipped.
    """
    if family_of(model).padded:  # its module computes them
        return packed.positions
    embeddings = embeddings_of(model)
    padding = embeddings.positions.padding_idx
    if padding is None:
        return packed.positions
    is_padding = packed.ids == embeddings.words.padding_idx
    if not is_padding.any():
        return packed.positions + np.int32(padding + 1)
    lengths = np.diff(packed.cu_seqlens)
    n_before = np.cumsum(is_padding) - is_padding  # in all texts
    n_before -= np.repeat(n_before[packed.cu_seqlens[:-1]], lengths)
    positions = packed.positions - n_before + padding + 1
    return np.where(is_padding, padding, positions).astype(np.int32)
