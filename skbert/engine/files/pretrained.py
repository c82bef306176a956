"""Pretrained checkpoints in memory. A process reads each one once, and shares it until freed."""

from __future__ import annotations

import copy
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skbert.engine.files.config import read_config
from skbert.engine.files.find import FoundModel, ModelName, find_model
from skbert.engine.files.low_rank import ClassifierHead, read_change
from skbert.engine.files.manifest import check_folder
from skbert.engine.files.sentence_modules import check_modules, read_pooling
from skbert.engine.files.tokenizer_files import (
    check_special_tokens,
    read_tokenizer,
    subword_tokenizer_of,
)
from skbert.engine.files.weights import (
    HeadWeights,
    build_encoder,
    build_pretraining_model,
    encoder_weights,
    is_tied,
    read_safetensors,
    stored_heads,
    stored_pooler,
)
from skbert.engine.forks import after_fork
from skbert.engine.model.capture import free_idle_memory
from skbert.engine.model.families import family_of, n_segments
from skbert.engine.text.subword_tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A checkpoint in memory. All estimators of a process share it; `new_encoder` copies it.

    Attributes
    ----------
    config : transformers.PretrainedConfig
    weights : dict of str to Tensor
        By their names in the encoder, float32, without the pooler.
    pooler : dict of str to Tensor
        "weight" and "bias" of the pooler's linear layer; empty if the checkpoint has none.
    tokenizer : transformers.PreTrainedTokenizerBase
    subword_tokenizer : SubwordTokenizer
        The same tokenizer as the engine uses it.
    heads : dict of str to Tensor
        Weights of the pre-training heads that the checkpoint contains, by their full names.
    is_tied : bool
        Whether the decoder of the masked-language-model head is the word embeddings, as in BERT.
        True if the checkpoint has no decoder.
    pooling : str
        The pooling with which the model was made; see `read_pooling`.
    classifier : ClassifierHead or None
        The linear layer of a classifier that skbert contains.
    """

    config: PretrainedConfig
    weights: Mapping[str, torch.Tensor]
    pooler: Mapping[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerBase
    subword_tokenizer: SubwordTokenizer
    heads: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_tied: bool = True
    pooling: str = "cls"
    classifier: ClassifierHead | None = None

    def frozen_encoder(self, device: torch.device) -> PreTrainedModel:
        """Return the shared encoder, whose weights must not change; see `PretrainedCache`."""
        return _CACHE.encoder_on(self, device)

    def new_encoder(self, device: torch.device = _CPU) -> PreTrainedModel:
        """Build an encoder to train; its weights are copied to the device."""
        weights = {name: weight.to(device, copy=True) for name, weight in self.weights.items()}
        return build_encoder(copy.deepcopy(self.config), weights)

    def naming_emoji(self, names_emoji: bool) -> Pretrained:
        """Return the checkpoint with a tokenizer that reads unknown emoji as names, or not."""
        other = self.subword_tokenizer.naming_emoji(names_emoji)
        return self if other is self.subword_tokenizer else replace(self, subword_tokenizer=other)

    def new_tokenizer(self) -> PreTrainedTokenizerBase:
        """Copy the tokenizer, because each call sets padding and truncation on it."""
        # `deepcopy` would look at each word of a vocabulary, although words and ids never change.
        known = {
            id(value): value.copy()
            for value in vars(self.tokenizer).values()
            if isinstance(value, dict) and all(type(number) is int for number in value.values())
        }
        return copy.deepcopy(self.tokenizer, known)


#: The folder of a checkpoint, and the change of its weights.
_Key = tuple[Path, Path | None]


@dataclass(frozen=True)
class _Kept:
    """A checkpoint and the version of its files when they were read."""

    version: Any
    pretrained: Pretrained


class PretrainedCache:
    """The checkpoints that a process keeps in memory, and their encoders on devices.

    The cache is safe for threads. If several threads need the same files, one of them reads them.

    Parameters
    ----------
    n_models : int
        Maximum number of checkpoints. Beyond it, the cache drops the least recently used one. An
        encoder on a device lives as long as its checkpoint.
    """

    def __init__(self, n_models: int) -> None:
        self._n_models = n_models
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()  # least recently used first
        self._encoders: weakref.WeakKeyDictionary[
            Pretrained, dict[torch.device, PreTrainedModel]
        ] = weakref.WeakKeyDictionary()
        self.renew_locks()

    def renew_locks(self) -> None:
        """Replace the locks, which a thread that a forked process lacks may hold for ever."""
        self._lock = threading.RLock()  # protects the two dictionaries
        self._reading = threading.Lock()  # held by the one thread that reads files

    def get(self, found: FoundModel) -> Pretrained:
        """Read a checkpoint, or take it from memory if its files have not changed since."""
        version, key = (found.sha256, found.stamps), (found.folder, found.change)
        pretrained = self._look_up(key, version)
        if pretrained is not None:
            return pretrained
        with self._reading:
            pretrained = self._look_up(key, version)  # another thread may have read it
            if pretrained is None:
                pretrained = _read(found)
                self._keep(key, _Kept(version, pretrained))
        return pretrained

    def encoder_on(self, pretrained: Pretrained, device: torch.device) -> PreTrainedModel:
        """Return the frozen encoder of a checkpoint on a device, which all callers share."""
        with self._lock:
            encoders = self._encoders.setdefault(pretrained, {})
            if device not in encoders:
                weights = {name: weight.to(device) for name, weight in pretrained.weights.items()}
                encoder = build_encoder(copy.deepcopy(pretrained.config), weights)
                encoders[device] = encoder.requires_grad_(False).to(device)
            return encoders[device]

    def clear(self) -> None:
        """Drop all checkpoints and encoders; see `free_pretrained`."""
        with self._lock:
            self._kept.clear()
            self._encoders.clear()

    def _look_up(self, key: _Key, version: Any) -> Pretrained | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            if kept.version != version:
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return kept.pretrained

    def _keep(self, key: _Key, kept: _Kept) -> None:
        with self._lock:
            self._kept[key] = kept
            while len(self._kept) > self._n_models:
                self._kept.popitem(last=False)


_CACHE = PretrainedCache(n_models=2)
after_fork(_CACHE.renew_locks)


def free_pretrained() -> None:
    """Free the memory of the pretrained weights that this process shares, on all devices.

    Fitted estimators keep working: they have their own weights, or load the shared ones again.
    On CUDA devices this function also frees what earlier fits have left for the steps of later
    ones. The memory goes back to torch; ``torch.cuda.empty_cache()`` then gives it to other
    processes.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier, free_pretrained
    >>> clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
    >>> free_pretrained()
    >>> clf.predict(["what a joy"])
    array(['positive'], dtype='<U8')
    """
    _CACHE.clear()
    free_idle_memory()


def load_pretrained(model: ModelName) -> Pretrained:
    """Load a BERT checkpoint from its files, or from memory if the process has loaded it before.

    skbert keeps the last two checkpoints in memory; `free_pretrained` frees them.

    Parameters
    ----------
    model : str or path
        A local folder or a name, also with a revision ("name@revision"). skbert looks for a name
        in an installed package that contains the weights, in the local Hugging Face cache, and on
        the Hugging Face Hub.

    Raises
    ------
    OSError
        If the files are not available. The message lists the places, and why each one failed.
    ValueError
        If the files are not a BERT encoder, or their hashes are wrong.
    """
    return _CACHE.get(find_model(model))


def load_config(model: ModelName) -> PretrainedConfig:
    """Read the configuration of a checkpoint without its weights; see `load_pretrained`."""
    return read_config(find_model(model).config)


def load_subword_tokenizer(model: ModelName) -> SubwordTokenizer:
    """Read the tokenizer of a checkpoint without its weights; raises as `load_pretrained`."""
    found = find_model(model)
    config = read_config(found.config)
    tokenizer = _read_tokenizer(found.folder)
    return subword_tokenizer_of(tokenizer, config.vocab_size, n_segments(config))


def load_pooling(model: ModelName) -> str:
    """Find the pooling with which a checkpoint was made; see `read_pooling`."""
    return read_pooling(find_model(model).folder)


def weights_sha256(model: ModelName) -> str:
    """Compute the SHA-256 of a checkpoint's weights; see `FoundModel.weights_sha256`."""
    return find_model(model).weights_sha256()


def _read(found: FoundModel) -> Pretrained:
    found.check_hashes()
    check_folder(found.folder)
    check_modules(found.folder)
    config = read_config(found.config)
    tokenizer = _read_tokenizer(found.folder)
    family = family_of(config)
    stored = read_safetensors(found.weights, family)
    weights = encoder_weights(stored, found.weights, config)
    change = read_change(found.change) if found.change else None
    return Pretrained(
        config=config,
        weights=change.apply(weights) if change else weights,
        pooler=stored_pooler(stored, family),
        tokenizer=tokenizer,
        subword_tokenizer=subword_tokenizer_of(tokenizer, config.vocab_size, n_segments(config)),
        heads=stored_heads(stored, family),
        is_tied=is_tied(stored, family),
        pooling=read_pooling(found.folder),
        classifier=change.head if change else None,
    )


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = read_tokenizer(folder)
    check_special_tokens(tokenizer)
    return tokenizer


def new_pretraining_model(pretrained: Pretrained, heads: HeadWeights) -> PreTrainedModel:
    """Build a model with heads to train; the encoder's weights are copied."""
    weights = {name: weight.clone() for name, weight in pretrained.weights.items()}
    return build_pretraining_model(copy.deepcopy(pretrained.config), weights, heads)
