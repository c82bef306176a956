"""A tokenizer of transformers <-> the texts of its files, by name. No weights.

Pickles contain these texts, too, so they refer to no class of another package. The files need not
be trusted: transformers gets a folder that contains nothing else, without the settings that name
other files or code.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skbert.engine.files.config import CONFIG_FILE
from skbert.engine.files.folders import temporary_folder
from skbert.engine.files.textfiles import parse_object, read_text
from skbert.engine.model.families import BERT, FAMILIES
from skbert.engine.text.masking import Vocabulary, continues_word
from skbert.engine.text.post_processor import read_layout
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.warn import warn_user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The usual files of a vocabulary. A tokenizer needs one of them, or what `has_vocabulary` names.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")

#: A vocabulary of byte pairs, as RoBERTa's authors published it; both files are needed.
BYTE_PAIR_FILES = ("vocab.json", "merges.txt")

#: Vocabularies of SentencePiece, which are not texts: XLM-RoBERTa's, ALBERT's, DeBERTa's.
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "spm.model")

_CONFIG = "tokenizer_config.json"

#: The files of tokenizers that are texts, which pickles and saved folders keep.
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    *BYTE_PAIR_FILES,
    _CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
)

#: What to do about a tokenizer that is code of the model's author.
CODE_ADVICE = (
    "If you trust the code, load the tokenizer with transformers and trust_remote_code=True, and "
    "save it into a local copy of the model with `save_pretrained`; skbert reads the "
    "tokenizer.json that a fast tokenizer then has. Otherwise choose another model."
)

#: Classes and families that a damaged vocab.txt may belong to; others need other files.
_OF_VOCABULARY = {*FAMILIES, "BertTokenizer", "BertTokenizerFast"}

#: Settings that name code, or the place that a tokenizer came from.
_NOT_KEPT = {"auto_map", "is_local", "local_files_only", "name_or_path"}

#: Lower-case vocabularies may have this share of pieces with capital letters, such as symbols.
_FEW_CAPITALS = 0.01

# Texts that any tokenizer must accept: empty, an ordinary word, and words in no vocabulary.
_PROBES = ("", "a", "\U0010fffd\u4e00 \u0345")


def has_vocabulary(names: Collection[str]) -> bool:
    """Whether the files with these names define the vocabulary of a tokenizer."""
    alone = (*VOCABULARY_FILES, *SENTENCEPIECE_FILES)
    return any(name in names for name in alone) or all(name in names for name in BYTE_PAIR_FILES)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from the files of a folder.

    If its settings name no class, the family of the model decides, as in transformers. A vocab.txt
    with capital letters and no settings is read as cased.

    Raises
    ------
    OSError
        If a file cannot be read.
    ImportError
        If the vocabulary needs packages that are not installed.
    ValueError
        If the files do not define a tokenizer.

    Warns
    -----
    UserWarning
        If the settings lower-case texts, but the vocabulary has capital letters.
    """
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    texts = {name: read_text(folder / name) for name in present}
    models = [name for name in SENTENCEPIECE_FILES if (folder / name).is_file()]
    contents = {name: (folder / name).read_bytes() for name in models}
    tokenizer = _build(texts, contents, folder, _settings_of_model(folder))
    _warn_lower_cased(tokenizer, folder)
    return tokenizer


def _settings_of_model(folder: Path) -> dict[str, str]:
    """Read what config.json says of the tokenizer.

    Empty if the file is missing, or damaged, which `read_config` explains.
    """
    try:
        settings = parse_object(read_text(folder / CONFIG_FILE), folder / CONFIG_FILE)
    except (OSError, ValueError):
        return {}
    kept = {name: settings.get(name) for name in ("model_type", "tokenizer_class")}
    return {name: value for name, value in kept.items() if isinstance(value, str)}


def _warn_lower_cased(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Warn if texts lose capital letters that the vocabulary has."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None or normalizer.normalize_str("A") != "a":
        return
    pieces: Collection[str] = [*tokenizer.get_vocab()]
    if "ByteLevel" in _steps(tokenizer):  # other characters stand for bytes
        pieces = ["".join(filter(str.isascii, piece)) for piece in pieces]
    share = share_of_capitals(pieces)
    if share > _FEW_CAPITALS:
        warn_user(
            f"The tokenizer of {str(folder)!r} lower-cases texts, but {share:.0%} of its "
            "vocabulary has capital letters and can never occur. If the model is cased, set "
            f'"do_lower_case": false in its {_CONFIG}.'
        )


def _steps(tokenizer: PreTrainedTokenizerBase) -> str:
    """Describe, as JSON, what the backend does with a text before its model sees it."""
    backend = tokenizer.backend_tokenizer
    parts = [part for part in (backend.normalizer, backend.pre_tokenizer) if part is not None]
    return "".join(part.__getstate__().decode() for part in parts)


def pack_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Convert a tokenizer to the texts of its files; see `unpack_tokenizer`."""
    with temporary_folder() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: read_text(path) for path in sorted(folder.iterdir())}
    return {name: text for name, text in files.items() if name in TOKENIZER_FILES}


def names_code(folder: Path) -> str:
    """Find the code that a folder names as its tokenizer, without reading it; empty without any."""
    path = folder / _CONFIG
    try:
        return _code_in(parse_object(read_text(path), path))
    except (OSError, ValueError):
        return ""


def _code_in(settings: Mapping[str, Any]) -> str:
    named = settings.get("auto_map")
    found = named.get("AutoTokenizer") if isinstance(named, dict) else named
    codes = found if isinstance(found, list) else [found]  # of the slow and of the fast tokenizer
    return next((repr(code) for code in codes if code and isinstance(code, str)), "")


def unpack_tokenizer(
    files: Mapping[str, str], place: Path = Path("the pickle"), model_type: str = BERT.model_type
) -> PreTrainedTokenizerBase:
    """Build a tokenizer from the texts of its files.

    Parameters
    ----------
    files : dict of str to str
        By name. Names that are not in `TOKENIZER_FILES` are ignored.
    place : Path
        Where the files come from, for errors.
    model_type : str
        The family of the model. It decides on the class if the settings name none; families that
        transformers does not know count as BERT.

    Raises
    ------
    ValueError
        If the files do not define a fast tokenizer, or define it by code.
    """
    texts = {name: files[name] for name in TOKENIZER_FILES if name in files}
    return _build(texts, {}, place, {"model_type": model_type})


def _build(
    texts: dict[str, str], models: Mapping[str, bytes], place: Path, config: Mapping[str, str]
) -> PreTrainedTokenizerBase:
    """Build a tokenizer from texts and SentencePiece models, in a folder that has nothing else.

    If the settings of the tokenizer name no class, `config` does, by the class or the model type.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    settings = parse_object(texts.get(_CONFIG, "{}"), place / _CONFIG)
    code = "" if "tokenizer.json" in texts else _code_in(settings)
    if code:
        raise ValueError(
            f"The tokenizer of {str(place)!r} is code, {code}, which skbert does not run. "
            f"{CODE_ADVICE}"
        )
    written = _as_written(texts, settings)
    if not has_vocabulary(written):
        _check_packages(models, place)
    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        config = {**config, "model_type": BERT.model_type}
    written[CONFIG_FILE] = json.dumps(config)
    with temporary_folder() as folder:
        for file, text in written.items():
            (folder / file).write_text(text, encoding="utf-8")
        for file, model in models.items():
            (folder / file).write_bytes(model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except BaseException as error:
            named = settings.get("tokenizer_class") or config.get("tokenizer_class")
            name = named or config["model_type"]
            raise _unusable(error, texts, name, place) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ValueError(
            f"The tokenizer of {str(place)!r} is a {type(tokenizer).__name__}, which splits texts "
            "in Python, but skbert needs a fast tokenizer. Choose another model, or one whose "
            "tokenizer_class has a fast version in transformers."
        )
    if "tokenizer.json" in texts:
        _check_model(tokenizer, texts["tokenizer.json"], place)
    else:
        _check_source(tokenizer, {*texts, *models}, place)
    tokenizer.name_or_path = str(place)
    return tokenizer


def _as_written(texts: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Change what transformers would misread in the files of a tokenizer."""
    changed, kept = {**texts}, _kept(settings)
    if "vocab.txt" in texts:  # an editor may add blank lines, and each would get an id
        changed["vocab.txt"] = texts["vocab.txt"].rstrip("\r\n") + "\n"
        pieces = changed["vocab.txt"].splitlines()
        if "tokenizer.json" not in texts and share_of_capitals(pieces) > 0:
            kept.setdefault("do_lower_case", False)  # transformers would lower-case the texts
    changed[_CONFIG] = json.dumps(kept)
    return changed


def _unusable(
    error: BaseException, names: Collection[str], name: str, place: Path
) -> BaseException:
    """Say that the class or family `name` needs more than a vocab.txt, or what went wrong."""
    if "vocab.txt" in names and "tokenizer.json" not in names and name not in _OF_VOCABULARY:
        return _undefined(name, "vocab.txt", place)
    return _unreadable(place, error)


def _check_packages(models: Collection[str], place: Path) -> None:
    """Raise an error if transformers needs packages for SentencePiece that are not installed."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    if models and not (is_sentencepiece_available() and is_protobuf_available()):
        raise ImportError(
            f"The vocabulary of {str(place)!r} is in its {next(iter(models))}, which transformers "
            "reads only with the packages sentencepiece and protobuf. Run `pip install "
            '"skbert[sentencepiece]"`, or save or download its tokenizer.json, too.'
        )


def _check_model(tokenizer: PreTrainedTokenizerBase, tokenizer_json: str, place: Path) -> None:
    """Raise an error if the class of a tokenizer made another model of a vocabulary."""
    model = parse_object(tokenizer_json, place / "tokenizer.json").get("model")
    saved = model.get("type") if isinstance(model, dict) else None
    built = type(tokenizer.backend_tokenizer.model).__name__
    if saved is not None and saved != built:  # old versions of tokenizers do not save the type
        raise ValueError(
            f"The tokenizer.json of {str(place)!r} has a vocabulary for {saved}, but its class in "
            f"transformers, {type(tokenizer).__name__}, reads it as one for {built}. Set "
            f'"tokenizer_class": "PreTrainedTokenizerFast" in its {_CONFIG}.'
        )


def _check_source(tokenizer: PreTrainedTokenizerBase, names: Collection[str], place: Path) -> None:
    """Raise an error if the class of a tokenizer did not read a vocabulary.

    transformers gives it a vocabulary of special tokens alone if the file of its class is missing.
    """
    files = {**type(tokenizer).vocab_files_names}
    files.pop("tokenizer_file", None)
    if not {*files.values()} <= {*names}:
        known = (*VOCABULARY_FILES, *BYTE_PAIR_FILES, *SENTENCEPIECE_FILES)
        found = next((name for name in known if name in names), _CONFIG)
        raise _undefined(type(tokenizer).__name__, found, place)


def _undefined(name: str, file: str, place: Path) -> ValueError:
    return ValueError(
        f"The tokenizer of {str(place)!r} is a {name!r}, which a {file} alone does not define. "
        "Save or download its tokenizer.json, too. If the class is code that belongs to the model, "
        "choose another model: skbert does not run it."
    )


def share_of_capitals(pieces: Collection[str]) -> float:
    """Compute the share of pieces with capital letters; special tokens and symbols do not count."""
    return sum(map(_has_capitals, pieces)) / max(1, len(pieces))


def _has_capitals(piece: str) -> bool:
    if piece == piece.lower() or (piece[0], piece[-1]) in (("[", "]"), ("<", ">")):
        return False
    return any(unicodedata.category(letter) in ("Lu", "Lt") for letter in piece)


def subword_tokenizer_of(
    tokenizer: PreTrainedTokenizerBase,
    n_ids: int | None = None,
    type_vocab_size: int | None = None,
) -> SubwordTokenizer:
    """Build the engine's tokenizer from a copy of a transformers tokenizer.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    n_ids : int or None
        Number of word embeddings. If given, the function also tries the tokenizer on a few texts.
    type_vocab_size : int or None
        Number of segment embeddings.

    Raises
    ------
    ValueError
        If the tokenizer has no fast backend, lacks a special token, fails on a text, or has more
        ids than the model has word embeddings.
    """
    place = Path(tokenizer.name_or_path)
    try:
        own = SubwordTokenizer(
            tokenizer.backend_tokenizer.to_str(),
            str(tokenizer.cls_token or tokenizer.bos_token),
            str(tokenizer.sep_token or tokenizer.eos_token),
            type_vocab_size=type_vocab_size,
            splits_special_tokens=tokenizer.backend_tokenizer.encode_special_tokens,
        )
        if type_vocab_size == 1 and "token_type_ids" not in tokenizer.model_input_names:
            own.layout = own.layout.with_one_segment()  # as transformers' models do
        if n_ids is not None:
            n_special = own.layout.n_special(n_segments=1)
            own(_PROBES, max_length=n_special + 14, truncation="head")
    except ValueError:
        raise
    except BaseException as error:
        raise _unreadable(place, error) from error
    if n_ids is not None and own.largest_id >= n_ids:
        raise ValueError(
            f"The tokenizer of {str(place)!r} has ids up to {own.largest_id}, but the model "
            f"has only {n_ids} word embeddings. Use the tokenizer files that belong to the weights."
        )
    return own


def check_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an error if a tokenizer adds no special tokens to a text.

    An estimator that was saved with such a tokenizer keeps the layout of BERT, with which it was
    trained; transformers would add none.
    """
    if not read_layout(tokenizer.backend_tokenizer).n_special(n_segments=1):
        raise ValueError(
            f"The tokenizer of {tokenizer.name_or_path!r} adds no special tokens to texts, but "
            "BERT needs them, for example [CLS] and [SEP]. Set "
            "tokenizer.backend_tokenizer.post_processor, for example to a "
            "tokenizers.processors.BertProcessing, and save the tokenizer again."
        )


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in settings.items()
        if name not in _NOT_KEPT and not name.endswith(("_file", "_files"))
    }


def _unreadable(place: Path, error: BaseException) -> BaseException:
    """Convert an error of tokenizers, a bare Exception or a Rust panic, to a ValueError."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    lines = [line.strip() for line in str(error).splitlines()]
    reason = [line for line in lines if line] or [type(error).__name__]
    return ValueError(
        f"The tokenizer files of {str(place)!r} are not usable ({reason[0]}). Save or download the "
        "model again."
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Extract the vocabulary that masking needs, or raise an error if it has no mask token."""
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "The tokenizer has no mask token, but masked language modelling needs one. Use the "
            "tokenizer files of a BERT."
        )
    added = tokenizer.added_tokens_decoder.items()
    special_ids = {*tokenizer.all_special_ids, *(n for n, token in added if token.special)}
    return Vocabulary.of(
        tokenizer.get_vocab(), special_ids, tokenizer.mask_token_id, _continuation(tokenizer)
    )


def _continuation(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bool]:
    """Find out how the pieces of a vocabulary show that they continue a word."""
    steps = _steps(tokenizer)
    if "ByteLevel" in steps:
        return lambda piece: not piece.startswith(_BYTES_OF_SPACE)
    if "\u2581" in steps:  # the sign of SentencePiece for a space
        return lambda piece: not piece.startswith("\u2581")
    return continues_word


def fill_masks(tokenizer: PreTrainedTokenizerBase, text: str, pieces: Sequence[str]) -> str:
    """Replace the mask tokens of a text by pieces of the vocabulary, from left to right.

    A piece that continues a word joins the word before it. A piece that starts one gets a space if
    the vocabulary marks spaces, as RoBERTa's does.
    """
    continues = _continuation(tokenizer)
    filled, *rests = text.split(str(tokenizer.mask_token))
    for piece, rest in zip(pieces, rests, strict=True):
        word = tokenizer.convert_tokens_to_string([piece.removeprefix("##")]).strip()
        if continues(piece):
            filled = filled.rstrip()
        elif continues is not continues_word and filled and not filled[-1].isspace():
            filled += " "
        filled += word + rest
    return filled


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Write single pieces for readers, as transformers does: "##s", or " good" of RoBERTa."""
    if _continuation(tokenizer) is continues_word:
        return list(tokenizer.convert_ids_to_tokens(list(ids)))
    return [str(tokenizer.decode([number])) for number in ids]


# How byte-level vocabularies write the bytes of a space, a line feed and a tab.
_BYTES_OF_SPACE = ("\u0120", "\u010a", "\u0109")
