"""An ONNX graph and a tokenizer -> two files that a program reads without torch or skbert.

``model.onnx`` has the weights and, as metadata, what a reader needs to know of them.
``tokenizer.json`` turns texts into its inputs. `model.onnx_graph` builds the graph.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tokenizers

from skbert.engine.files.folders import remove_left, sync, temporary_name, unwritable
from skbert.engine.model.onnx_graph import OUTPUT_SCOPE
from skbert.engine.text.layout import Layout, Piece
from skbert.engine.text.post_processor import read_layout

if TYPE_CHECKING:
    from onnx import ModelProto
    from transformers import PreTrainedTokenizerBase

#: Name of the file beside the graph.
TOKENIZER_FILE = "tokenizer.json"

#: Key of the metadata with the hash of the tokenizer, which tells that the file is ours.
_TOKENIZER_HASH = "tokenizer_sha256"

# protobuf allows files of 2 GiB. Larger graphs have their weights in a file of their own.
_LARGEST_FILE = 2**31 - 2**24

# onnxruntime advises preparations, which change nothing here, if a model lacks this entry.
_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


@dataclass(frozen=True)
class OnnxFiles:
    """The content of both files.

    Attributes
    ----------
    model : onnx.ModelProto
    tokenizer : str
        The tokenizer.json.
    metadata : dict of str to str
        For readers of the graph.
    """

    model: ModelProto
    tokenizer: str
    metadata: Mapping[str, str]


def check_onnx_packages(quantize: bool) -> None:
    """Raise an error if a package that writing needs is not installed."""
    try:
        import onnx  # noqa: F401

        if quantize:
            import onnxruntime  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"to_onnx needs the package {error.name}, which is not installed. Run `pip install "
            '"skbert[onnx]"`.'
        ) from error


def tokenizer_for_onnx(
    tokenizer: PreTrainedTokenizerBase,
    layout: Layout,
    max_length: int,
    truncation: Literal["head", "tail"] | None,
) -> str:
    """Write a tokenizer.json that pads each batch to its longest text.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    layout : Layout
        The special tokens that skbert adds, also if the tokenizer adds none.
    max_length : int
    truncation : {"head", "tail"} or None
        Which part of a longer text the tokenizer keeps; None if the graph cuts.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if not read_layout(backend).n_special(n_segments=1):
        first, last = layout.single[0], layout.single[-1]  # the layout of BERT
        backend.post_processor = tokenizers.processors.BertProcessing(
            _special_token(backend, last), _special_token(backend, first)
        )
    backend.no_truncation()
    if truncation is not None:
        direction = {"head": "right", "tail": "left"}[truncation]
        backend.enable_truncation(max_length, strategy="longest_first", direction=direction)
    padding = tokenizer.pad_token_id or 0
    token = tokenizer.pad_token or backend.id_to_token(padding)
    backend.enable_padding(direction="right", pad_id=padding, pad_token=str(token))
    return str(backend.to_str(pretty=True)) + "\n"


def _special_token(backend: tokenizers.Tokenizer, piece: Piece) -> tuple[str, int]:
    number = int(piece.token_id or 0)
    return str(backend.id_to_token(number)), number


def write_onnx(path: Path, files: OnnxFiles, *, quantize: bool) -> None:
    """Write both files under temporary names, and then rename them.

    Parameters
    ----------
    path : Path
        The file of the graph, which is replaced. Folders above it are created.
    files : OnnxFiles
    quantize : bool
        Whether to store weights as int8, with one scale for each column, and to multiply in int8.
        The layers of `finish` stay in float32.

    Raises
    ------
    FileExistsError
        If `path` is a folder, or if its folder has another tokenizer.json.
    OSError
        If the files cannot be written; those of before then stay unchanged.
    """
    check_target(path, files.tokenizer)
    new = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left(path)
        new.mkdir()
        _write_model(new / path.name, files, quantize)
        (new / TOKENIZER_FILE).write_text(files.tokenizer, encoding="utf-8", newline="\n")
        for file in new.iterdir():
            sync(file)
        _move(new, path)
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_target(path: Path, tokenizer: str) -> None:
    """Raise an error if files would be replaced that are not those of an earlier export."""
    if path.is_dir():
        raise FileExistsError(
            f"{str(path)!r} is a folder, but to_onnx writes a file. Pass the name of a file, for "
            f"example {str(path / 'model.onnx')!r}."
        )
    beside = path.with_name(TOKENIZER_FILE)
    if path.name == TOKENIZER_FILE or (beside.exists() and not _is_ours(beside, path, tokenizer)):
        raise FileExistsError(
            f"to_onnx writes {str(beside)!r} beside the graph, but another tokenizer is there, or "
            f"the graph has its name. Choose a path in a new folder, or delete the file."
        )


def _is_ours(beside: Path, path: Path, tokenizer: str) -> bool:
    """Whether a tokenizer.json is the one to write, or belongs to the graph to replace alone."""
    content = beside.read_bytes()
    if content == tokenizer.encode():
        return True
    users = [
        graph
        for graph in path.parent.glob("*.onnx")
        if read_metadata(graph).get(_TOKENIZER_HASH) == _sha256(content)
    ]
    return users == [path]  # other graphs would read another tokenizer


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a graph; empty if the file is none."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # whatever protobuf raises for a file of another kind
        return {}
    return {entry.key: entry.value for entry in model.metadata_props}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_model(path: Path, files: OnnxFiles, quantize: bool) -> None:
    import onnx

    model = files.model
    if quantize:
        model = _quantized(model, path.with_name("float32.onnx"))
    digest = _sha256(files.tokenizer.encode())
    onnx.helper.set_model_props(model, {**files.metadata, _TOKENIZER_HASH: digest})
    _save(model, path)


def _save(model: ModelProto, path: Path) -> None:
    import onnx

    is_large = sum(len(weight.raw_data) for weight in model.graph.initializer) > _LARGEST_FILE
    name = f"{path.name}.data"
    onnx.save_model(model, path, save_as_external_data=is_large, location=name)


def _quantized(model: ModelProto, path: Path) -> ModelProto:
    """Quantize a graph, which onnxruntime reads from `path`."""
    import onnx
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        QuantType,
        quantize_dynamic,
    )

    onnx.helper.set_model_props(model, _PREPARED)
    _save(model, path)
    small = path.with_name("int8.onnx")
    with _logging_unchanged():
        quantize_dynamic(
            path,
            small,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[n.name for n in model.graph.node if n.name.startswith(OUTPUT_SCOPE)],
            use_external_data_format=(path.parent / f"{path.name}.data").exists(),
        )
    quantized = onnx.load(small)
    for left in path.parent.iterdir():
        left.unlink()
    return quantized


@contextmanager
def _logging_unchanged() -> Iterator[None]:
    """Prevent `logging.info`, which onnxruntime calls, from configuring the root logger."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _move(new: Path, path: Path) -> None:
    """Rename the files, the graph last, and delete weights of an earlier graph.

    A crash between the renames leaves the old graph with a new tokenizer, which its hash tells, or,
    of a model with weights in another file, no graph.
    """
    data = new / f"{path.name}.data"
    beside = path.with_name(data.name)
    has_data = data.exists()
    if has_data:
        path.unlink(missing_ok=True)
        data.replace(beside)
    (new / TOKENIZER_FILE).replace(path.with_name(TOKENIZER_FILE))
    (new / path.name).replace(path)
    if not has_data:
        beside.unlink(missing_ok=True)
