"""BertEmbeddingTransformer: texts -> vectors of a pretrained BERT. No tensor operations here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from skbert.contract.lost_tokens import LostTokens, forget_warnings
from skbert.contract.onnx_export import ExportTransformerMixin
from skbert.contract.output import wants_tensors, with_index_of
from skbert.contract.parameters import (
    DEVICES,
    MODELS,
    N_THREADS,
    TextInputMixin,
    check_layer,
    check_max_length,
    fill_docstring,
    resolve_pooling,
)
from skbert.contract.persistence import migrate_state, stamp_state
from skbert.contract.progress import show_texts
from skbert.contract.text_parts import texts_in_parts
from skbert.contract.texts import Texts, check_texts
from skbert.engine.files.arrays import pack_pretrained, unpack_pretrained
from skbert.engine.files.find import ModelName
from skbert.engine.files.pretrained import (
    Pretrained,
    load_config,
    load_pooling,
    load_pretrained,
    weights_sha256,
)
from skbert.engine.model.device import (
    DeviceName,
    precision_name,
    resolve_device,
    resolve_precision,
)
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES, family_of, longest_text
from skbert.engine.model.pooling import ALL_POOLINGS
from skbert.engine.prediction.cache import CacheInfo, cache_info, open_cache
from skbert.engine.prediction.embed import (
    TextEmbedder,
    embed_texts,
    embed_texts_cached,
    embed_tokens,
    join_parts,
    to_numpy,
)
from skbert.engine.text.layout import TRUNCATIONS, smallest_max_length
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenEmbeddings:
    """The tokens of one text and their vectors.

    Attributes
    ----------
    tokens : list of str
        Word pieces, from "[CLS]" to "[SEP]". A piece that starts with "##" continues a word.
    vectors : ndarray of shape (n_tokens, d_model), float32

    Examples
    --------
    >>> from skbert import BertEmbeddingTransformer
    >>> text = BertEmbeddingTransformer().token_embeddings(["so dull"])[0]
    >>> dict(zip(text.tokens, text.vectors, strict=True))["dull"].shape
    (384,)
    """

    tokens: list[str]
    vectors: np.ndarray


@fill_docstring
class BertEmbeddingTransformer(
    CallbackSupportMixin,
    TextInputMixin,
    ExportTransformerMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Turn texts into vectors of a pretrained BERT, as features for another estimator.

    The transformer does not train the encoder, so a linear model on its vectors is the cheapest
    way to use BERT. It encodes each distinct text once, without padding. With `cache`, it encodes
    each text once for all folds and candidates of a search.

    Parameters
    ----------
    model : str or path, default="skbert/minilm-sentiment"
        The pretrained encoder: a local folder or a name, as in `BertSentimentClassifier`. Use
        "sentence-transformers/all-MiniLM-L6-v2" for features of topics rather than of sentiment.
    pooling : {"auto", "cls", "mean", "max", "pooler"}, default="cls"
        How the hidden states of a text become one vector. "cls" takes the hidden state of [CLS].
        "mean" and "max" take the mean and the elementwise maximum over all tokens, [CLS] and
        [SEP] included. "pooler" applies BERT's pooler, which was trained for next sentence
        prediction, to the hidden state of [CLS]; DistilBERT and ELECTRA have none. "cls" and
        "pooler" save most of the work of the last layer. The default model was trained with "mean"
        and "cls", other models for sentence similarity usually with "mean". "auto" takes the
        pooling with which the model was made, if its files name one, and otherwise "cls".
    layer : int, default=-1
        The layer whose hidden states are pooled: 1 is the first layer, -1 the last, -2 the one
        before it, and 0 the embeddings below all layers. Layers above it are not computed.
    normalize : bool, default=False
        Divide each vector by its Euclidean norm, as a Normalize module of sentence-transformers
        does. Set it for models that have one, such as all-MiniLM: skbert does not look for it.
    {max_length}
    truncation : {"head", "tail", "head+tail"}, default="head+tail"
        The part of a longer text that is kept, as in `BertSentimentClassifier`.
    {emoji_names}
    cache : "memory", path, joblib.Memory or None, default=None
        Where to keep vectors, so that no text is encoded twice. "memory" is one cache for all
        transformers of the process and holds at most 512 MiB. A folder on a local disk is shared
        by all processes that use it, including the workers of ``n_jobs``, and holds at most
        4 GiB. Of a `joblib.Memory`, its `location` is used. The key of a vector is a hash of the
        weights, the layer, the precision and the tokens, so one cache serves any models and
        parameters, and one entry serves "cls", "mean", "max" and "pooler".
    store_weights : bool, default=False
        Whether a pickle of the fitted transformer contains the weights of the encoder. Otherwise
        it contains their SHA-256, and `transform` loads them by `model` again.
    {device}
    {precision}
    {n_threads}
    verbose : int, default=0
        0 shows nothing. 1 shows the progress of `transform` and `token_embeddings` on standard
        error: a bar once they have computed for one second, or, where standard error is no
        terminal, lines. Larger integers mean the same as 1.

    Attributes
    ----------
    weights_sha256_ : str
        Hash of the weights file at the time of `fit`. With other weights, `transform` raises an
        error.
    precision_ : {"float32", "bfloat16"}
        The precision that `precision` resolves to on this machine. Undefined if this machine does
        not support the precision.
    cache_info_ : CacheInfo
        ``hits``, ``misses`` and ``size`` of the cache, counted in texts: for "memory" since the
        process started, for a folder since its first use. Undefined if `cache` is None.
    {n_features_in_}
    {feature_names_in_}

    See Also
    --------
    BertSentimentClassifier : Also trains the encoder, which is slower and more accurate.

    Notes
    -----
    You can call `transform` without `fit`. `fit` learns nothing from the texts and loads no
    weights; it stores the hash of the weights file and the names of the features.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skbert import BertEmbeddingTransformer
    >>> texts = ["what a joy", "i loved it", "so dull", "a waste of time"]
    >>> labels = ["good", "good", "bad", "bad"]
    >>> BertEmbeddingTransformer().fit_transform(texts).shape
    (4, 384)
    >>> clf = make_pipeline(BertEmbeddingTransformer(pooling="mean"), LogisticRegression())
    >>> clf.fit(texts, labels).predict(["we loved every minute"])
    array(['good'], dtype='<U4')
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": MODELS,
        "pooling": [StrOptions({"auto", *ALL_POOLINGS})],
        "layer": [Integral],
        "normalize": ["boolean"],
        "max_length": [Interval(Integral, smallest_max_length(1), None, closed="left")],
        "truncation": [StrOptions(set(TRUNCATIONS))],
        "emoji_names": ["boolean"],
        "cache": [str, os.PathLike, joblib.Memory, None],
        "store_weights": ["boolean"],
        "device": DEVICES,
        "precision": [str],
        "n_threads": N_THREADS,
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: ModelName = "skbert/minilm-sentiment",
        *,
        pooling: Literal["auto", "cls", "mean", "max", "pooler"] = "cls",
        layer: int = -1,
        normalize: bool = False,
        max_length: int = 128,
        truncation: Literal["head", "tail", "head+tail"] = "head+tail",
        emoji_names: bool = True,
        cache: Any = None,
        store_weights: bool = False,
        device: DeviceName = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        n_threads: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self.max_length = max_length
        self.truncation = truncation
        self.emoji_names = emoji_names
        self.cache = cache
        self.store_weights = store_weights
        self.device = device
        self.precision = precision
        self.n_threads = n_threads
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the texts; `fit` learns nothing from them.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            Texts or pairs of texts, as in `BertSentimentClassifier.fit`.
        y : None, default=None
            Ignored.

        Returns
        -------
        self : BertEmbeddingTransformer
            The fitted transformer.

        Raises
        ------
        ValueError
            If a parameter or the number of columns is not allowed, or a text is missing.
        TypeError
            If X is a single string, or contains something that is not a string.
        OSError
            If the files of the model are not available.
        """
        self._validate_params()
        check_texts(self, X, reset=True)
        task = EpochTasks(self, 0, X, y)
        forget_warnings(self)
        config = load_config(self.model)
        self._check_for_model(config)
        self._resolve_pooling(load_pooling(self.model))
        self.weights_sha256_ = weights_sha256(self.model)
        self._n_features_out = config.hidden_size
        self._model_type = config.model_type
        self._stored: dict[str, Pretrained] = {}
        task.end_fit()
        return self

    def transform(self, X: Any) -> Any:
        """Compute the vectors of texts, or read them from the cache.

        Parameters
        ----------
        X : sequence or stream of str, of length n_texts
            As in `fit`, or a stream, as in `BertSentimentClassifier.predict_proba`. Equal texts
            of a stream are encoded once in each part, unless there is a cache.

        Returns
        -------
        ndarray of shape (n_texts, d_model), float32
            A frame after `set_output`. If scikit-learn's ``array_api_dispatch`` is on and no
            frame is requested, a `torch.Tensor` on the device of the encoder, which scalers and
            linear models that support the array API use without a copy.

        Raises
        ------
        ValueError
            As in `fit`. Also if the weights differ from those at the time of `fit`, if `pooling`
            is "pooler" and the model has no pooler, or if a vector is not finite, for example
            because the weights are damaged.
        OSError
            If the files of the model are not available, or the cache is not usable.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`; once after each `fit`.
        UnknownTokenWarning
            If more than 3% of the tokens are not in the vocabulary; once after each `fit`.
        """
        self._validate_params()
        given = texts_in_parts(self, X, whole=True)
        pretrained = self._load()
        embedder = self._embedder(pretrained)
        subword_tokenizer = self._subword_tokenizer(pretrained)
        keeps_tensors = wants_tensors(self)
        vectors, lost, n_before = [], [], 0
        with ExitStack() as stack:
            embed = self._embed_with(embedder, stack)
            part = stack.enter_context(show_texts("embedding", given.n_texts, self.verbose))
            for texts in given.parts:
                tokens = self._tokenize(subword_tokenizer, texts)
                found = embed(tokens, progress=part(len(texts)), n_before=n_before)
                vectors.append(found if keeps_tensors else to_numpy(found))
                lost.append(LostTokens.of(tokens, subword_tokenizer))
                n_before += len(texts)
                del texts, tokens  # before the next part of a stream is read
        LostTokens.total(lost).warn(self, pretrained.config)
        together = join_parts(vectors)
        return together if keeps_tensors else with_index_of(X, together, self)

    def token_embeddings(self, X: Any) -> list[TokenEmbeddings]:
        """Compute the vector of each token, which depends on the text around it.

        `layer` and `normalize` apply; `pooling` and `cache` do not.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        list of TokenEmbeddings
            The ``tokens`` of each text and their ``vectors``.

        Examples
        --------
        >>> from skbert import BertEmbeddingTransformer
        >>> (text,) = BertEmbeddingTransformer().token_embeddings(["so dull"])
        >>> text.tokens, text.vectors.shape
        (['[CLS]', 'so', 'dull', '[SEP]'], (4, 384))
        """
        self._validate_params()
        texts = check_texts(self, X, reset=False)
        pretrained = self._load()
        subword_tokenizer = self._subword_tokenizer(pretrained)
        tokens = self._tokenize(subword_tokenizer, texts)
        LostTokens.of(tokens, subword_tokenizer).warn(self, pretrained.config)
        embedder = self._embedder(pretrained)
        with show_texts("embedding", len(tokens), self.verbose) as part:
            vectors = embed_tokens(embedder, tokens, part(len(tokens)))
        strings = pretrained.tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
        return [
            TokenEmbeddings(strings[start : start + len(of_text)], of_text)
            for start, of_text in zip(tokens.offsets.tolist(), vectors, strict=False)
        ]

    def _check_for_model(self, config: Any) -> None:
        """Raise an error for parameters that do not fit the machine or the model."""
        resolve_precision(self.precision, resolve_device(self.device))
        check_max_length(self.max_length, longest_text(config))
        check_layer(self.layer, config.num_hidden_layers)
        if self.pooling == "pooler" and family_of(config).pooler is None:
            known = FAMILIES | PADDED_FAMILIES
            able = [name for name, family in known.items() if family.pooler]
            raise ValueError(
                f"pooling='pooler', but model={self.model!r} has "
                f"model_type={config.model_type!r}, and its family has no pooler; allowed is "
                f"model_type in {able}. Choose pooling='cls', 'mean' or 'max', or such a model."
            )

    def _embed_with(self, embedder: TextEmbedder, stack: ExitStack) -> Callable[..., Tensor]:
        """Return what computes vectors of tokens; a cache is open until `stack` closes it."""
        place = self._cache_place()
        if place is None:
            return partial(embed_texts, embedder)
        cache = stack.enter_context(closing(open_cache(place)))
        return partial(embed_texts_cached, embedder, cache=cache, weights_sha256=self._sha256())

    def _subword_tokenizer(self, pretrained: Pretrained) -> SubwordTokenizer:
        return pretrained.subword_tokenizer.naming_emoji(self.emoji_names)

    def _tokenize(self, subword_tokenizer: SubwordTokenizer, texts: Texts) -> Tokens:
        return subword_tokenizer(
            texts.first, texts.second, max_length=self.max_length, truncation=self.truncation
        )

    def _load(self) -> Pretrained:
        """Check the parameters against the model, and load its weights."""
        with self._naming_the_weights():
            stored = self._stored_weights()
            self._check_for_model(stored.config if stored else load_config(self.model))
            return stored or self._shared_weights()

    @contextmanager
    def _naming_the_weights(self) -> Iterator[None]:
        """If the files of the model are missing, raise an error that names its weights."""
        try:
            yield
        except OSError as error:
            if not hasattr(self, "weights_sha256_"):
                raise
            raise OSError(
                f"This {type(self).__name__} needs the weights with the SHA-256 "
                f"{self.weights_sha256_}, which its pickle does not contain. {error} Or save it "
                "again with store_weights=True on a machine that has the weights."
            ) from error

    def _stored_weights(self) -> Pretrained | None:
        """Weights that the pickle of this transformer contained."""
        return getattr(self, "_stored", {}).get(os.fspath(self.model))

    def _shared_weights(self) -> Pretrained:
        """Load the weights that all users of this model in the process share."""
        expected = getattr(self, "weights_sha256_", None)
        if expected is not None and (found := weights_sha256(self.model)) != expected:
            raise ValueError(
                f"The weights of model={self.model!r} have the SHA-256 {found}, but this "
                f"{type(self).__name__} was fitted with {expected}, and other weights give other "
                "vectors. Restore the original weights, or call fit again to use these."
            )
        return load_pretrained(self.model)

    def _sha256(self) -> str:
        """Hash of the weights that `transform` uses."""
        return self.weights_sha256_ if self._stored_weights() else weights_sha256(self.model)

    def _embedder(self, pretrained: Pretrained) -> TextEmbedder:
        if self.pooling == "pooler" and not pretrained.pooler:
            raise ValueError(
                f"pooling='pooler', but the weights of model={self.model!r} contain no "
                "pooler. Choose pooling='cls', 'mean' or 'max', or a model that was saved with "
                "its pooler."
            )
        device = resolve_device(self.device)
        return TextEmbedder(
            encoder=pretrained.frozen_encoder(device),
            pooler=pretrained.pooler,
            pooling=self._resolve_pooling(pretrained.pooling),
            n_layers=check_layer(self.layer, pretrained.config.num_hidden_layers),
            normalize=self.normalize,
            precision=resolve_precision(self.precision, device),
        )

    def _resolve_pooling(self, made_with: str) -> str:
        return resolve_pooling(self.pooling, made_with, ALL_POOLINGS, "transformer")

    def _cache_place(self) -> str | Path | None:
        """Resolve `cache` to None, "memory" or a folder."""
        place = self.cache
        if isinstance(place, joblib.Memory):
            place = place.location and Path(place.location)
        return place if place in (None, "memory") else Path(place)

    @property
    def precision_(self) -> str:
        """Precision that `precision` resolves to on this machine."""
        try:
            return precision_name(resolve_precision(self.precision, resolve_device(self.device)))
        except ValueError as error:  # `dir` reads every property, and expects this error
            raise AttributeError(str(error)) from error

    @property
    def cache_info_(self) -> CacheInfo:
        """Counts of the cache."""
        place = self._cache_place()
        if place is None:
            raise AttributeError(
                f"This {type(self).__name__} has no cache_info_, because cache=None. Set a cache, "
                "for example cache='memory'."
            )
        try:
            return cache_info(place)
        except OSError as error:
            raise AttributeError(str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the weights, or store them as numpy arrays, which load on any device."""
        state = super().__getstate__().copy()
        state.pop("_stored", None)
        if self.store_weights and "weights_sha256_" in state:
            state["_packed"] = pack_pretrained(self._stored_weights() or self._shared_weights())
        return stamp_state(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Use the weights of the pickle, if it contains any."""
        state = migrate_state(state, type(self))
        packed = state.pop("_packed", None)
        super().__setstate__(state)
        if packed is not None:
            self._stored = {os.fspath(self.model): unpack_pretrained(packed)}

    def __sklearn_tags__(self) -> Any:
        """Declare that `fit` is optional and that vectors are float32."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
