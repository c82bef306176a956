"""`to_onnx` of the classifier and of the transformer: a graph and a tokenizer for other programs.

`engine/model/onnx_graph.py` builds the graph, and `engine/files/onnx.py` writes the files.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skbert.contract.containers import shorten
from skbert.contract.parameters import check_max_length
from skbert.engine.files.onnx import (
    OnnxFiles,
    check_onnx_packages,
    tokenizer_for_onnx,
    write_onnx,
)
from skbert.engine.model.families import embeddings_of, longest_text
from skbert.engine.model.onnx_graph import Classes, Cut, Vectors, build_onnx, check_has_graph
from skbert.engine.text.layout import Layout, n_of_head
from skbert.engine.text.windows import WINDOWS
from skbert.engine.warn import warn_user


@dataclass(frozen=True)
class _Export:
    """What an estimator gives to a graph.

    Attributes
    ----------
    encoder : transformers.PreTrainedModel
    tokenizer : transformers.PreTrainedTokenizerBase
    layout : Layout
    pooling : {"cls", "mean", "max"}
        The pooling over tokens.
    finish : Classes or Vectors
    output : str
        Name of the output.
    metadata : dict of str to str
        What only this kind of estimator notes.
    n_layers : int or None
        Number of layers to compute; None computes all.
    """

    encoder: Any
    tokenizer: Any
    layout: Layout
    pooling: str
    finish: Classes | Vectors
    output: str
    metadata: Mapping[str, str]
    n_layers: int | None = None


class ExportClassifierMixin:
    """`to_onnx` of the classifier."""

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        quantize: bool = False,
        pairs: bool | None = None,
    ) -> None:
        """Write the fitted classifier as an ONNX graph, which runs without torch and skbert.

        The graph computes the class probabilities from padded token ids: encoder, pooling, head
        and softmax, or sigmoid with several labels a text. In ONNX Runtime, they equal those of
        `predict_proba` in float32 to within 1e-5. A ``tokenizer.json`` in the same folder converts
        texts to ids; see :doc:`/guide/onnx`.

        Parameters
        ----------
        path : str or path
            The file to write, for example "model.onnx"; it is replaced if it exists. A model of
            more than 2 GiB has its weights in another file, whose name ends in ".data".
        quantize : bool, default=False
            Whether to store and multiply the weights as int8, which makes the file about four
            times as small and changes the probabilities. Measure the accuracy before you use it.
        pairs : bool or None, default=None
            Whether the graph reads pairs of texts. None does what `fit` got; a published
            classifier, which may be for either, gets a graph for single texts.

        Raises
        ------
        FileExistsError
            If `path` is a folder, or if its folder contains another ``tokenizer.json``.
        ImportError
            If onnx, or onnxruntime for `quantize`, is not installed.
        OSError
            If the files cannot be written.
        ValueError
            If an argument is not allowed, or if the model runs through the padded forward of
            transformers (:doc:`/encoders`).
        NotFittedError
            If the classifier is not fitted.

        Warns
        -----
        UserWarning
            If longer pairs of texts are cut in another way than in skbert.

        See Also
        --------
        save_pretrained : A folder for skbert and transformers.

        Notes
        -----
        The inputs are ``input_ids`` and ``attention_mask``, int64 of shape (n_texts, length), and
        for pairs of models with segments also ``token_type_ids``. The output is ``probabilities``,
        float32 of shape (n_texts, n_classes). The metadata contains ``labels``, the classes as
        JSON, ``multilabel``, and ``pooling``, ``max_length``, ``truncation``, ``emoji_names`` and
        ``skbert_version``. The graph truncates single texts as `truncation` says. It does not name
        emoji.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from skbert import BertSentimentClassifier
        >>> clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.to_onnx(Path(folder) / "model.onnx")
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['model.onnx', 'tokenizer.json']
        """
        check_is_fitted(self)
        self._validate_params()
        given = _Export(
            self.model_,
            self.tokenizer_,
            self._subword_tokenizer.layout,
            self.pooling_,
            Classes(self.head_, link="sigmoid" if self.multilabel_ else "softmax"),
            output="probabilities",
            metadata={
                "labels": json.dumps(self.classes_.tolist()),
                "multilabel": json.dumps(self.multilabel_),
                "pooling": self.pooling_,
            },
        )
        _export(self, given, path, quantize, pairs)


class ExportTransformerMixin:
    """`to_onnx` of the embedding transformer."""

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        quantize: bool = False,
        pairs: bool | None = None,
    ) -> None:
        """Write the encoder as an ONNX graph, which runs without torch and skbert.

        The graph computes the vectors from padded token ids: encoder, pooling and normalization. In
        ONNX Runtime, they equal those of `transform` in float32 to within 1e-5, or to within 1e-5
        of the largest number of a vector if that is above 1. A ``tokenizer.json`` in the same
        folder converts texts to ids; see :doc:`/guide/onnx`. `fit` is not needed.

        Parameters
        ----------
        path : str or path
            As in `BertSentimentClassifier.to_onnx`.
        quantize : bool, default=False
            As in `BertSentimentClassifier.to_onnx`.
        pairs : bool or None, default=None
            Whether the graph reads pairs of texts. None does what `fit` got, and reads single
            texts without `fit`.

        Raises
        ------
        FileExistsError, ImportError, OSError, ValueError
            As in `BertSentimentClassifier.to_onnx`. Also as in `transform`.

        Warns
        -----
        UserWarning
            If longer pairs of texts are cut in another way than in skbert.

        Notes
        -----
        Inputs and metadata are those of `BertSentimentClassifier.to_onnx`, with ``layer`` and
        ``normalize`` instead of ``labels``. The output is ``vectors``, float32 of shape
        (n_texts, d_model).

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from skbert import BertEmbeddingTransformer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     BertEmbeddingTransformer(pooling="mean").to_onnx(Path(folder) / "model.onnx")
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['model.onnx', 'tokenizer.json']
        """
        self._validate_params()
        pretrained = self._load()
        embedder = self._embedder(pretrained)
        pooler = embedder.pooler if embedder.pooling == "pooler" else None
        about = {"layer": embedder.n_layers, "normalize": embedder.normalize}
        given = _Export(
            embedder.encoder,
            pretrained.tokenizer,
            pretrained.subword_tokenizer.layout,
            embedder.token_pooling,
            Vectors(embedder.d_model, embedder.normalize, pooler),
            output="vectors",
            metadata={
                "pooling": embedder.pooling,
                **{name: json.dumps(value) for name, value in about.items()},
            },
            n_layers=embedder.n_layers,
        )
        _export(self, given, path, quantize, pairs)


def _export(estimator: Any, given: _Export, path: Any, quantize: Any, pairs: Any) -> None:
    """Check everything that costs no time, build the graph, and write it with the tokenizer."""
    n_texts = _n_texts(estimator, pairs)
    if not isinstance(quantize, (bool, np.bool_)):
        raise ValueError(
            f"quantize={shorten(quantize)}; it must be True or False. Pass one of them."
        )
    if estimator.truncation == WINDOWS:
        raise ValueError(
            "truncation='windows', but an ONNX graph reads one window of each text. Set truncation "
            "to 'head', 'tail' or 'head+tail', or call predict_proba, which reads all windows."
        )
    check_has_graph(given.encoder.config)
    check_max_length(estimator.max_length, longest_text(given.encoder.config))
    given.layout.check(n_texts)
    check_onnx_packages(quantize)
    cut = _cut(given.layout, estimator) if n_texts == 1 else None
    max_length = estimator.max_length
    truncation = None if cut else _truncation_of_pairs(estimator.truncation)
    tokenizer = tokenizer_for_onnx(given.tokenizer, given.layout, max_length, truncation)
    model = build_onnx(
        given.encoder,
        given.pooling,
        given.finish,
        given.output,
        n_layers=given.n_layers,
        cut=cut,
        has_segments=_has_segments(given, n_texts),
    )
    metadata = {
        **given.metadata,
        "max_length": str(max_length),
        "truncation": truncation or estimator.truncation,
        "emoji_names": json.dumps(estimator.emoji_names),
        "skbert_version": importlib.metadata.version("skbert"),
    }
    write_onnx(Path(path), OnnxFiles(model, tokenizer, metadata), quantize=bool(quantize))


def _n_texts(estimator: Any, pairs: Any) -> int:
    """Find the number of texts of each row, 1 or 2: that of `fit`, or what the user says."""
    fitted = getattr(estimator, "_n_columns", None)
    if pairs is None:
        return fitted or 1
    if not isinstance(pairs, (bool, np.bool_)):
        raise ValueError(
            f"pairs={shorten(pairs)}; it must be True, False or None. Use None for what fit got."
        )
    n_texts = 2 if pairs else 1
    if fitted not in (None, n_texts):
        kinds = {1: "single texts", 2: "pairs of texts"}
        raise ValueError(
            f"pairs={pairs!r}, but {type(estimator).__name__} was fitted to {kinds[fitted]}. Leave "
            "pairs at None."
        )
    return n_texts


def _cut(layout: Layout, estimator: Any) -> Cut:
    """Let the graph keep the special tokens of a single text, and a part of it as in skbert."""
    room = layout.room(estimator.max_length, 1)
    n_before = [piece.text for piece in layout.pieces(1)].index(0)
    return Cut(estimator.max_length, n_before + n_of_head(room, estimator.truncation))


def _truncation_of_pairs(truncation: str) -> Literal["head", "tail"]:
    """Choose the part of a pair that the tokenizer keeps; it has no "head+tail"."""
    if truncation == "head+tail":
        warn_user(
            "A tokenizer.json has no truncation='head+tail', so the exported tokenizer keeps the "
            "first tokens of longer pairs, as with truncation='head'. Pairs of at most max_length "
            "tokens are not affected. Set truncation to 'head' or 'tail' for the same result."
        )
    return "tail" if truncation == "tail" else "head"


def _has_segments(given: _Export, n_texts: int) -> bool:
    """Whether the model reads segments that differ."""
    differ = any(piece.segment_id for piece in given.layout.pieces(n_texts))
    return differ and embeddings_of(given.encoder).segments is not None
