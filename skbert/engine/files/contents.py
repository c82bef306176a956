"""The files of a model, and what a folder contains instead of them: the cause, in words."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

from skbert.engine.files.config import CONFIG_FILE
from skbert.engine.files.manifest import MANIFEST
from skbert.engine.files.sentence_modules import MODULES_FILE, POOLING_FILE
from skbert.engine.files.textfiles import parse_object, read_text
from skbert.engine.files.tokenizer_files import (
    BYTE_PAIR_FILES,
    CODE_ADVICE,
    SENTENCEPIECE_FILES,
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    has_vocabulary,
    names_code,
)

WEIGHTS_FILE = "model.safetensors"

_SUFFIX = ".safetensors"

#: Lists the files of weights that are saved in several files (shards).
INDEX_FILE = "model.safetensors.index.json"

_SHARDS = "model-*-of-*.safetensors"

#: All files of a model, except for shards. skbert reads the model again if one of them changes.
MODEL_FILES = (
    CONFIG_FILE,
    WEIGHTS_FILE,
    INDEX_FILE,
    MODULES_FILE,
    POOLING_FILE,
    MANIFEST,
    *TOKENIZER_FILES,
    *SENTENCEPIECE_FILES,
)

#: What skbert downloads from the hub.
HUB_PATTERNS = (*MODEL_FILES, _SHARDS)

# A folder with more files is no model, and listing them would take time.
_MOST_FILES = 10_000

# Files of a training, which contain no weights of a model.
_OF_A_TRAINING = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")

# Vocabularies of other kinds, without the fast tokenizer that contains them.
_OTHER_VOCABULARIES = ("*.model", "bpe.codes")


def shards_of(index: Path) -> list[Path]:
    """List the files that an index names.

    Raises
    ------
    ValueError
        If the index is damaged, or names anything but safetensors files beside it.
    """
    by_weight = parse_object(read_text(index), index).get("weight_map")
    names = list(by_weight.values()) if isinstance(by_weight, dict) else []
    for name in names or [None]:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != _SUFFIX:
            raise ValueError(
                f"{str(index)!r} must name safetensors files beside it in its 'weight_map', but it "
                f"names {name!r}. Save or download the model again."
            )
    return [index.parent / name for name in sorted(set(names))]


def weight_files(folder: Path) -> list[Path]:
    """List the files with the weights of a model: one, or several that an index names."""
    if (folder / WEIGHTS_FILE).is_file() or not (folder / INDEX_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    return shards_of(folder / INDEX_FILE)


def missing_files(folder: Path) -> list[str]:
    """Name the necessary files that a folder lacks."""
    needed = [folder / CONFIG_FILE, *weight_files(folder)]
    missing = [path.name for path in needed if not path.is_file()]
    if not has_vocabulary([name for name in MODEL_FILES if (folder / name).is_file()]):
        missing.append(" or ".join(VOCABULARY_FILES))
    return missing


def files_of(folder: Path) -> set[str]:
    """Name the files of a folder and of its subfolders, as ``subfolder/file``."""
    names: set[str] = set()
    for place in (folder, *_folders(folder), *_folders(folder / "snapshots")):
        try:
            found = [path for path in islice(place.iterdir(), _MOST_FILES) if path.is_file()]
        except OSError:  # may not be read
            continue
        names |= {path.relative_to(folder).as_posix() for path in found}
        if len(names) >= _MOST_FILES:
            break
    return names


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in islice(folder.iterdir(), _MOST_FILES) if path.is_dir()]
    except OSError:
        return []


def in_words(names: Sequence[str], most: int = 3) -> str:
    """Enumerate names, the first few in full."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def advice_for_folder(folder: Path, missing: Sequence[str]) -> str:
    """Say what a local folder contains instead of the missing files, and what to do."""
    names = files_of(folder)
    if CONFIG_FILE in missing or WEIGHTS_FILE in missing:
        if (folder.parent / CONFIG_FILE).is_file() and not missing_files(folder.parent):
            return f"The folder above it contains a whole model. Pass model={str(folder.parent)!r}."
    elif not models_below(names) and (above := _vocabulary_above(folder)):
        return f"The folder above it contains {above}. Copy the tokenizer files from there."
    save = "Save the model and its tokenizer there with `save_pretrained`."
    if not names:
        save = f"The folder is empty. {save}"
    needs_code = names_code(folder)
    return advice_for(names, missing, lambda name: f"model={str(folder / name)!r}", needs_code) or (
        save
    )


def _vocabulary_above(folder: Path) -> str:
    known = (*VOCABULARY_FILES, *BYTE_PAIR_FILES, *SENTENCEPIECE_FILES)
    names = [name for name in known if (folder.parent / name).is_file()]
    return " and ".join(names) if has_vocabulary(names) else ""


def models_below(names: Collection[str]) -> list[str]:
    """Name the subfolders with a configuration and weights, checkpoints by their numbers."""
    folders = {name.rpartition("/")[0] for name in names if name.endswith(f"/{CONFIG_FILE}")}
    found = [folder for folder in folders if _weights([*_inside(names, folder)])]
    return sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)] + [len(name)])


def _inside(names: Collection[str], folder: str) -> list[str]:
    start = f"{folder}/"
    inside = [name.removeprefix(start) for name in names if name.startswith(start)]
    return [name for name in inside if "/" not in name]


def _weights(names: Collection[str]) -> list[str]:
    """Select the files that may hold the weights of a BERT: safetensors or pickles."""
    own = [n for n in names if "/" not in n and not _matches(n, _OF_A_TRAINING)]
    return sorted(n for n in own if _matches(n, ("*.safetensors", *_PICKLES)))


_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def advice_for(
    names: Collection[str],
    missing: Sequence[str],
    pass_subfolder: Callable[[str], str],
    needs_code: str = "",
) -> str:
    """Say what a folder or repository contains instead of a model, and what to do.

    Parameters
    ----------
    names : collection of str
        Its files, as `files_of` names them.
    missing : sequence of str
        The necessary files that it lacks.
    pass_subfolder : callable
        The name of a subfolder -> what to pass for it.
    needs_code : str
        The code of the tokenizer, as `names_code` names it.

    Returns
    -------
    str
        Empty if nothing there is a known cause.
    """
    own = [name for name in names if "/" not in name]
    no_weights = any(name.endswith(_SUFFIX) for name in missing)
    no_vocabulary = " or ".join(VOCABULARY_FILES) in missing
    if "adapter_config.json" in own and no_weights:
        return (
            "It contains an adapter of PEFT, not a whole model. Load it with PEFT, call "
            "`merge_and_unload`, and save the result with `save_pretrained`."
        )
    below = models_below(names)
    if below and (CONFIG_FILE in missing or WEIGHTS_FILE in missing):
        shown = in_words([repr(name) for name in below])
        if len(below) == 1:
            return f"The model is in its subfolder {shown}. Pass {pass_subfolder(below[0])}."
        return (
            f"Its subfolders {shown} contain models. Pass one of them, for example "
            f"{pass_subfolder(below[-1])}."
        )
    causes = [
        CONFIG_FILE in missing and _cause_of_no_config(own),
        no_weights and _cause_of_no_weights(own),
        no_vocabulary and _cause_of_no_vocabulary(own, needs_code),
    ]
    return " ".join(cause for cause in causes if cause)


def _cause_of_no_config(names: Collection[str]) -> str:
    if "bert_config.json" in names:
        return f"If its bert_config.json is the configuration, rename it to {CONFIG_FILE}."
    return ""


def _cause_of_no_weights(names: Collection[str]) -> str:
    if INDEX_FILE in names and WEIGHTS_FILE not in names:
        return f"Its {INDEX_FILE} lists all files of the weights. Copy or download the whole model."
    weights = _weights(names)
    if any(_matches(name, [_SHARDS]) for name in weights):
        return f"Its weights are in several files. Copy or download their {INDEX_FILE}, too."
    if safetensors := [name for name in weights if name.endswith(_SUFFIX)]:
        return f"If its {safetensors[0]} contains the weights, rename it to {WEIGHTS_FILE}."
    if weights:
        first = "pytorch_model.bin" if "pytorch_model.bin" in weights else weights[0]
        return (
            f"Its {first} is a pickle, which can run any code when it is loaded, so skbert does "
            "not open it. If you trust it, load it with transformers and save it as safetensors "
            "with `save_pretrained`."
        )
    for kind, patterns in _OTHER_WEIGHTS.items():
        for name in sorted(names):
            if _matches(name, patterns):
                return (
                    f"Its {name} contains weights for {kind}, but skbert reads only safetensors. "
                    "Pass the model that it was converted from, or convert it to safetensors."
                )
    return ""


_OTHER_WEIGHTS = {
    "TensorFlow": ("*.h5", "*.ckpt.index", "*.ckpt.data-*", "saved_model.pb"),
    "JAX": ("*.msgpack",),
    "ONNX": ("*.onnx",),
    "llama.cpp": ("*.gguf",),
}


def _cause_of_no_vocabulary(names: Collection[str], needs_code: str) -> str:
    code = needs_code or next((n for n in sorted(names) if _matches(n, ["tokeniz*.py"])), "")
    if code:
        return f"Its tokenizer is code, {code}, which skbert does not run. {CODE_ADVICE}"
    for own, other in (BYTE_PAIR_FILES, BYTE_PAIR_FILES[::-1]):
        if own in names and other not in names:
            return f"Its {own} is half of a vocabulary. Copy or download its {other}, too."
    for name in sorted(names):
        if _matches(name, _OTHER_VOCABULARIES):
            return (
                f"skbert does not read the vocabulary in its {name}. Load the tokenizer with "
                "transformers.AutoTokenizer, and save it into a local copy of the model with "
                "`save_pretrained`; a fast tokenizer then has a tokenizer.json."
            )
    if "trainer_state.json" in names:
        return (
            "transformers.Trainer saves the tokenizer only if it has it as `processing_class`. "
            "Save the tokenizer there with `tokenizer.save_pretrained`."
        )
    return ""
