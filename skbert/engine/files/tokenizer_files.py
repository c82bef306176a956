"""A tokenizer of transformers <-> the texts of its files, by name. No weights.

Pickles contain these texts, too, so they refer to no class of another package. The files need not
be trusted: transformers gets a folder that contains nothing else, without the settings that name
other files or code.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skbert.engine.files.folders import temporary_folder
from skbert.engine.files.textfiles import parse_object, read_text
from skbert.engine.model.families import BERT
from skbert.engine.text.masking import Vocabulary
from skbert.engine.text.post_processor import read_layout
from skbert.engine.text.wordpiece import WordPieceTokenizer
from skbert.engine.warn import warn_user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A tokenizer needs one of these two files. The other files of `TOKENIZER_FILES` are optional.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")

_CONFIG = "tokenizer_config.json"

TOKENIZER_FILES = (*VOCABULARY_FILES, _CONFIG, "special_tokens_map.json", "added_tokens.json")

#: What to do about a tokenizer that is code of the model's author.
CODE_ADVICE = (
    "If you trust the code, load the tokenizer with transformers and trust_remote_code=True, and "
    "save it into a local copy of the model with `save_pretrained`; skbert reads the "
    "tokenizer.json that a fast tokenizer then has. Otherwise choose another model."
)

#: Values of `tokenizer_class` that need only a vocab.txt.
_OF_VOCABULARY = (None, "BertTokenizer", "BertTokenizerFast")

#: Settings that name code, or the place that a tokenizer came from.
_NOT_KEPT = {"auto_map", "is_local", "local_files_only", "name_or_path"}

#: Lower-case vocabularies may have this share of pieces with capital letters, such as symbols.
_FEW_CAPITALS = 0.01

# Texts that any tokenizer must accept: empty, an ordinary word, and words in no vocabulary.
_PROBES = ("", "a", "\U0010fffd\u4e00 \u0345")


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from the files of a folder.

    A vocabulary with capital letters and no settings is read as cased.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If the files do not define a tokenizer.

    Warns
    -----
    UserWarning
        If the settings lower-case texts, but the vocabulary has capital letters.
    """
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    tokenizer = unpack_tokenizer({name: read_text(folder / name) for name in present}, folder)
    _warn_lower_cased(tokenizer, folder)
    return tokenizer


def _warn_lower_cased(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Warn if texts lose capital letters that the vocabulary has."""
    share = share_of_capitals(tokenizer.get_vocab())
    normalizer = tokenizer.backend_tokenizer.normalizer
    if share > _FEW_CAPITALS and normalizer and normalizer.normalize_str("A") == "a":
        warn_user(
            f"The tokenizer of {str(folder)!r} lower-cases texts, but {share:.0%} of its "
            "vocabulary has capital letters and can never occur. If the model is cased, set "
            f'"do_lower_case": false in its {_CONFIG}.'
        )


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
    files: Mapping[str, str], place: Path = Path("the pickle")
) -> PreTrainedTokenizerBase:
    """Build a tokenizer from the texts of its files.

    Parameters
    ----------
    files : dict of str to str
        By name. Names that are not in `TOKENIZER_FILES` are ignored.
    place : Path
        Where the files come from, for errors.

    Raises
    ------
    ValueError
        If the files do not define a fast tokenizer, or define it by code.
    """
    from transformers import AutoTokenizer

    texts = {name: files[name] for name in TOKENIZER_FILES if name in files}
    settings = parse_object(texts.get(_CONFIG, "{}"), place / _CONFIG)
    code = "" if "tokenizer.json" in texts else _code_in(settings)
    if code:
        raise ValueError(
            f"The tokenizer of {str(place)!r} is code, {code}, which skbert does not run. "
            f"{CODE_ADVICE}"
        )
    if "vocab.txt" in texts:  # an editor may add blank lines, and each would get an id
        texts["vocab.txt"] = texts["vocab.txt"].rstrip("\r\n") + "\n"
    pieces = texts.get("vocab.txt", "").splitlines()
    if "tokenizer.json" not in texts and share_of_capitals(pieces) > 0:
        settings.setdefault("do_lower_case", False)  # transformers would lower-case the texts
    texts[_CONFIG] = json.dumps(_kept(settings))
    with temporary_folder() as folder:
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        # If the settings do not name a class, transformers chooses the class by the model type.
        (folder / "config.json").write_text(
            json.dumps({"model_type": BERT.model_type}), encoding="utf-8"
        )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except BaseException as error:
            name = settings.get("tokenizer_class")
            if "tokenizer.json" not in texts and name not in _OF_VOCABULARY and pieces:
                raise ValueError(
                    f"The tokenizer of {str(place)!r} is a {name!r}, which a vocab.txt alone does "
                    "not define. Save or download its tokenizer.json, too. If the class is code "
                    "that belongs to the model, choose another model: skbert does not run it."
                ) from error
            raise _unreadable(place, error) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ValueError(
            f"The tokenizer of {str(place)!r} is a {type(tokenizer).__name__}, which splits texts "
            "in Python, but skbert needs a fast tokenizer. Choose another model, or one whose "
            "tokenizer_class has a fast version in transformers."
        )
    tokenizer.name_or_path = str(place)
    return tokenizer


def share_of_capitals(pieces: Collection[str]) -> float:
    """Compute the share of word pieces with capital letters; [CLS] and its like do not count."""
    n_capitals = sum(
        piece != piece.lower() and not (piece.startswith("[") and piece.endswith("]"))
        for piece in pieces
    )
    return n_capitals / max(1, len(pieces))


def wordpiece_of(
    tokenizer: PreTrainedTokenizerBase,
    n_ids: int | None = None,
    type_vocab_size: int | None = None,
) -> WordPieceTokenizer:
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
        wordpiece = WordPieceTokenizer(
            tokenizer.backend_tokenizer.to_str(),
            str(tokenizer.cls_token),
            str(tokenizer.sep_token),
            type_vocab_size=type_vocab_size,
        )
        if n_ids is not None:
            n_special = wordpiece.layout.n_special(n_segments=1)
            wordpiece(_PROBES, max_length=n_special + 14, truncation="head")
    except ValueError:
        raise
    except BaseException as error:
        raise _unreadable(place, error) from error
    if n_ids is not None and wordpiece.largest_id >= n_ids:
        raise ValueError(
            f"The tokenizer of {str(place)!r} has ids up to {wordpiece.largest_id}, but the model "
            f"has only {n_ids} word embeddings. Use the tokenizer files that belong to the weights."
        )
    return wordpiece


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
    reason = str(error).splitlines() or [type(error).__name__]
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
    return Vocabulary.of(tokenizer.get_vocab(), tokenizer.all_special_ids, tokenizer.mask_token_id)
