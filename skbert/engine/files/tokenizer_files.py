"""A tokenizer of transformers <-> the texts of its files, by name. No weights.

The texts travel in pickles too, so that those name no class of another package. Whoever wrote
the files need not be trusted: transformers is shown a folder that holds nothing else, without
the settings that name other files or code.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skbert.engine.files.textfiles import parse_object, read_text
from skbert.engine.model.families import BERT
from skbert.engine.text.masking import Vocabulary
from skbert.engine.text.wordpiece import WordPieceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: One of these two is necessary; the others, if they are there, say more.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")

_CONFIG = "tokenizer_config.json"

TOKENIZER_FILES = (*VOCABULARY_FILES, _CONFIG, "special_tokens_map.json", "added_tokens.json")

#: Settings that say where a tokenizer was, or name code.
_NOT_KEPT = {"auto_map", "is_local", "local_files_only", "name_or_path"}

# What any tokenizer must be able to read: nothing, an ordinary word, one that is in no vocabulary.
_PROBES = ("", "a", "\U0010fffd\u4e00 \u0345")


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from the files of a folder.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If the files are not those of a tokenizer.
    """
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return unpack_tokenizer({name: read_text(folder / name) for name in present}, folder)


def pack_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Get the texts of the files that a tokenizer is saved in; see `unpack_tokenizer`."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        files = {path.name: read_text(path) for path in sorted(Path(name).iterdir())}
    return {name: text for name, text in files.items() if name in TOKENIZER_FILES}


def unpack_tokenizer(
    files: Mapping[str, str], place: Path = Path("the pickle")
) -> PreTrainedTokenizerBase:
    """Make a tokenizer of the texts of its files.

    Parameters
    ----------
    files : dict of str to str
        By name; of `TOKENIZER_FILES`, others are not looked at.
    place : Path
        Where they come from, for errors.

    Raises
    ------
    ValueError
        If they are not those of a tokenizer.
    """
    from transformers import AutoTokenizer

    texts = {name: files[name] for name in TOKENIZER_FILES if name in files}
    settings = parse_object(texts.get(_CONFIG, "{}"), place / _CONFIG)
    texts[_CONFIG] = json.dumps(_kept(settings))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        # Where the settings do not name the class, transformers takes that of the model.
        (folder / "config.json").write_text(
            json.dumps({"model_type": BERT.model_type}), encoding="utf-8"
        )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except BaseException as error:
            raise _unreadable(place, error) from error
    tokenizer.name_or_path = str(place)
    return tokenizer


def wordpiece_of(
    tokenizer: PreTrainedTokenizerBase, n_ids: int | None = None
) -> WordPieceTokenizer:
    """Take a private copy of a transformers tokenizer.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    n_ids : int or None
        How many word embeddings there are. If given, the tokenizer is tried out.

    Raises
    ------
    ValueError
        If it has no fast backend, lacks a special token, cannot read, or has more ids than there
        are embeddings.
    """
    place = Path(tokenizer.name_or_path)
    try:
        wordpiece = WordPieceTokenizer(
            tokenizer.backend_tokenizer.to_str(), str(tokenizer.cls_token), str(tokenizer.sep_token)
        )
        if n_ids is not None:
            wordpiece(_PROBES, max_length=16, truncation="head")
    except ValueError:
        raise
    except BaseException as error:
        raise _unreadable(place, error) from error
    if n_ids is not None and wordpiece.largest_id >= n_ids:
        raise ValueError(
            f"The tokenizer of {str(place)!r} has ids up to {wordpiece.largest_id}, but there are "
            f"{n_ids} word embeddings. Use the tokenizer files that belong to the weights."
        )
    return wordpiece


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in settings.items()
        if name not in _NOT_KEPT and not name.endswith(("_file", "_files"))
    }


def _unreadable(place: Path, error: BaseException) -> BaseException:
    """Make a ValueError of whatever tokenizers raised: a bare Exception, or a panic of Rust."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    reason = str(error).splitlines() or [type(error).__name__]
    return ValueError(
        f"The tokenizer files of {str(place)!r} cannot be used ({reason[0]}). Save or download "
        "the model again."
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Take what masking must know; refuse a tokenizer without a mask token."""
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "The tokenizer has no mask token, which the masked language model needs. Use the "
            "tokenizer files that belong to a BERT."
        )
    return Vocabulary.of(tokenizer.get_vocab(), tokenizer.all_special_ids, tokenizer.mask_token_id)
