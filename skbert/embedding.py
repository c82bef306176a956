"""BertEmbeddingTransformer: texts -> vectors of a pretrained BERT. No tensor operations here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from tqdm.auto import tqdm

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from skbert.contract.output import wants_tensors, with_index_of
from skbert.contract.parameters import (
    DOC_LINK_TEMPLATE,
    check_layer,
    check_max_length,
    check_segments,
)
from skbert.contract.persistence import checked, stamped
from skbert.contract.texts import check_texts, warn_truncated
from skbert.engine.files.arrays import pack_pretrained, unpack_pretrained
from skbert.engine.files.pretrained import Pretrained, load_config, load_pretrained, weights_sha256
from skbert.engine.model.device import precision_name, resolve_device, resolve_precision
from skbert.engine.model.pooling import ALL_POOLINGS
from skbert.engine.prediction.cache import CacheInfo, cache_info, open_cache
from skbert.engine.prediction.embed import (
    TextEmbedder,
    embed_texts,
    embed_texts_cached,
    embed_tokens,
    to_numpy,
)
from skbert.engine.text.tokens import Tokens
from skbert.engine.text.wordpiece import TRUNCATIONS


@dataclass(frozen=True, eq=False)
class TokenEmbeddings:
    """The tokens of one text and their vectors.

    Attributes
    ----------
    tokens : list of str
        Word pieces, from "[CLS]" to "[SEP]"; "##" begins a piece that continues a word.
    vectors : ndarray of shape (n_tokens, d_model), float32
    """

    tokens: list[str]
    vectors: np.ndarray


class BertEmbeddingTransformer(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Turn texts into vectors of a pretrained BERT, as features for another estimator.

    The encoder is not trained, so a linear model on its vectors is the cheapest way to use
    BERT. Each distinct text is encoded once, without padding; with `cache`, once for all folds
    and candidates of a search.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        The pretrained BERT: a local folder, or a name, as in `BertSentimentClassifier`.
    pooling : {"cls", "mean", "max", "pooler"}, default="cls"
        The vector that stands for a text: the hidden state of its [CLS] token; the mean or the
        elementwise maximum over its tokens, [CLS] and [SEP] included; or what BERT's own
        pooler, trained for next sentence prediction, makes of [CLS]. "cls" and "pooler" save
        most of the work of the last layer. Models made for sentence similarity, as the default
        one, were trained with "mean".
    layer : int, default=-1
        Whose hidden states are pooled: 1 is the first layer, -1 the last, -2 the one before
        it, and 0 the embeddings below all layers. Layers above are not computed.
    normalize : bool, default=False
        Divide each vector by its Euclidean length.
    max_length : int, default=128
        The most tokens of a text that are read, [CLS] and [SEP] included; at least 3, at most
        the positions of the model (512 for the published BERTs).
    truncation : {"head", "tail", "head+tail"}, default="head+tail"
        What is kept of a longer text, as in `BertSentimentClassifier`.
    cache : "memory", path, joblib.Memory or None, default=None
        Where vectors are kept, so that no text is encoded twice. "memory" is one cache for all
        transformers of the process, of at most 512 MiB. A folder on a disk of this machine is
        shared by all processes that name it, those of ``n_jobs`` included, and has at most
        4 GiB; of a `joblib.Memory` its `location` is used. Each vector is kept under a hash of
        the weights, the layer, the precision and the tokens, so a cache serves any models and
        parameters, and one entry all of "cls", "mean", "max" and "pooler".
    store_weights : bool, default=False
        Whether a pickle of the fitted transformer holds the weights of the encoder. If not, it
        holds their SHA-256, and `transform` finds them by `model` again.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1" and so on, "mps"; "auto" is the first of CUDA, MPS and CPU
        that is there.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        How the encoder multiplies matrices, as in `BertSentimentClassifier`. Vectors are always
        float32.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    weights_sha256_ : str
        Hash of the weights file that was there in `fit`. `transform` refuses others.
    precision_ : {"float32", "bfloat16"}
        What `precision` stands for on this machine. Not there if it cannot be had here.
    cache_info_ : CacheInfo
        ``hits``, ``misses`` and ``size`` of the cache, counted in texts: for "memory" since the
        process began, for a folder since it was first used. Not there if `cache` is None.
    n_features_in_ : int
        Columns of X in `fit`, 1 or 2; only where X was two-dimensional.
    feature_names_in_ : ndarray of shape (n_columns,)
        Their names; only where X was a frame with names.

    See Also
    --------
    BertSentimentClassifier : Trains the encoder too: slower, and more accurate.

    Notes
    -----
    `transform` may be called without `fit`. `fit` learns nothing from the texts and reads no
    weights into memory; it notes their hash and the names of the features.

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

    _doc_link_module = "skbert"
    _doc_link_template = DOC_LINK_TEMPLATE

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str],
        "pooling": [StrOptions(set(ALL_POOLINGS))],
        "layer": [Integral],
        "normalize": ["boolean"],
        "max_length": [Interval(Integral, 3, None, closed="left")],
        "truncation": [StrOptions(set(TRUNCATIONS))],
        "cache": [str, os.PathLike, joblib.Memory, None],
        "store_weights": ["boolean"],
        "device": [str],
        "precision": [str],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        pooling: str = "cls",
        layer: int = -1,
        normalize: bool = False,
        max_length: int = 128,
        truncation: str = "head+tail",
        cache: Any = None,
        store_weights: bool = False,
        device: str = "auto",
        precision: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self.max_length = max_length
        self.truncation = truncation
        self.cache = cache
        self.store_weights = store_weights
        self.device = device
        self.precision = precision
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> BertEmbeddingTransformer:
        """Check the parameters and the texts; nothing is learned from them.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            Texts or pairs of texts, as in `BertSentimentClassifier.fit`.
        y : None, default=None
            Not used.

        Returns
        -------
        self : BertEmbeddingTransformer
            The fitted transformer.

        Raises
        ------
        ValueError
            If a parameter or the number of columns is not allowed, or a text is missing.
        TypeError
            If X is one string, or something in it is not a string.
        OSError
            If the model's files cannot be had.
        """
        self._validate_params()
        check_texts(self, X, reset=True)
        task = EpochTasks(self, 0, X, y)
        config = load_config(self.model)
        check_max_length(self.max_length, config.max_position_embeddings)
        check_layer(self.layer, config.num_hidden_layers)
        resolve_precision(self.precision, resolve_device(self.device))
        self.weights_sha256_ = weights_sha256(self.model)
        self._n_features_out = config.hidden_size
        self._stored: dict[str, Pretrained] = {}
        task.end_fit()
        return self

    def transform(self, X: Any) -> Any:
        """Compute the vectors of texts, or find them in the cache.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, d_model), float32
            Or a frame, after `set_output`. With scikit-learn's ``array_api_dispatch`` on, and
            no frame asked for, a `torch.Tensor` on the device of the encoder: scalers and
            linear models that support the array API take it from there without a copy.

        Raises
        ------
        ValueError
            As in `fit`; if the weights are not those that were there in `fit`; if `pooling`
            is "pooler" and the model has none; or if a vector is not finite, as with damaged
            weights.
        OSError
            If the model's files cannot be had, or the cache cannot be used.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`.
        """
        pretrained = self._pretrained()
        tokens = self._tokens(X, pretrained)
        embedder = self._embedder(pretrained)
        place = self._cache_place()
        if place is None:
            vectors = embed_texts(embedder, tokens, self._progress)
        else:
            with closing(open_cache(place)) as cache:
                vectors = embed_texts_cached(
                    embedder, tokens, self._progress, cache, self._sha256()
                )
        return vectors if wants_tensors(self) else with_index_of(X, to_numpy(vectors), self)

    def token_embeddings(self, X: Any) -> list[TokenEmbeddings]:
        """Compute the vector of each token, which depends on the text around it.

        `layer` and `normalize` apply, `pooling` does not, and nothing is cached.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        list of TokenEmbeddings
            For each text its ``tokens`` and their ``vectors``.

        Examples
        --------
        >>> from skbert import BertEmbeddingTransformer
        >>> (text,) = BertEmbeddingTransformer().token_embeddings(["so dull"])
        >>> text.tokens, text.vectors.shape
        (['[CLS]', 'so', 'dull', '[SEP]'], (4, 384))
        """
        pretrained = self._pretrained()
        tokens = self._tokens(X, pretrained)
        vectors = embed_tokens(self._embedder(pretrained), tokens, self._progress)
        strings = pretrained.tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
        return [
            TokenEmbeddings(strings[start : start + len(of_text)], of_text)
            for start, of_text in zip(tokens.offsets.tolist(), vectors, strict=False)
        ]

    def _pretrained(self) -> Pretrained:
        """Get the weights: those of this object's pickle, or those that the process shares."""
        self._validate_params()
        stored = getattr(self, "_stored", {}).get(self.model)
        if stored is not None:
            return stored
        expected = getattr(self, "weights_sha256_", None)
        try:
            if expected is not None:
                self._check_weights(expected, weights_sha256(self.model))
            return load_pretrained(self.model)
        except OSError as error:
            if expected is None:
                raise
            raise OSError(
                f"This {type(self).__name__} needs the weights with the SHA-256 {expected}, which "
                f"are not part of its pickle. {error} Or save it again where its weights are, "
                "with store_weights=True."
            ) from error

    def _check_weights(self, expected: str, found: str) -> None:
        if found != expected:
            raise ValueError(
                f"The weights of model={self.model!r} have the SHA-256 {found}, but this "
                f"{type(self).__name__} was fitted with {expected}, and other weights give other "
                "vectors. Put the former weights back, or call fit again to take these."
            )

    def _sha256(self) -> str:
        """Get the hash of the weights that `_pretrained` gives."""
        if self.model in getattr(self, "_stored", {}):
            return self.weights_sha256_
        return weights_sha256(self.model)

    def _tokens(self, X: Any, pretrained: Pretrained) -> Tokens:
        texts = check_texts(self, X, reset=False)
        check_max_length(self.max_length, pretrained.config.max_position_embeddings)
        if texts.second is not None:
            check_segments(pretrained.config)
        tokens = pretrained.wordpiece(
            texts.first, texts.second, max_length=self.max_length, truncation=self.truncation
        )
        warn_truncated(tokens, self.max_length)
        return tokens

    def _embedder(self, pretrained: Pretrained) -> TextEmbedder:
        if self.pooling == "pooler" and not pretrained.pooler:
            raise ValueError(
                f"pooling='pooler', but the weights of model={self.model!r} hold no pooler "
                "('pooler.dense.weight' and 'pooler.dense.bias'). Choose pooling='cls', 'mean' "
                "or 'max', or a model that was saved with its pooler."
            )
        device = resolve_device(self.device)
        return TextEmbedder(
            encoder=pretrained.frozen_encoder(device),
            pooler=pretrained.pooler,
            pooling=self.pooling,
            n_layers=check_layer(self.layer, pretrained.config.num_hidden_layers),
            normalize=self.normalize,
            precision=resolve_precision(self.precision, device),
        )

    def _progress(self, batches: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
        return tqdm(batches, desc="embedding", unit="batch", disable=not self.verbose)

    def _cache_place(self) -> str | Path | None:
        """None, "memory" or a folder."""
        place = self.cache
        if isinstance(place, joblib.Memory):
            place = place.location and Path(place.location)
        return place if place in (None, "memory") else Path(place)

    @property
    def precision_(self) -> str:
        """What `precision` stands for on this machine."""
        try:
            return precision_name(resolve_precision(self.precision, resolve_device(self.device)))
        except ValueError as error:  # `dir` asks every property, and expects this one
            raise AttributeError(str(error)) from error

    @property
    def cache_info_(self) -> CacheInfo:
        """How much the cache was used."""
        place = self._cache_place()
        if place is None:
            raise AttributeError(
                f"cache=None: this {type(self).__name__} has no cache_info_. Give it a cache, "
                "for example cache='memory'."
            )
        try:
            return cache_info(place)
        except OSError as error:
            raise AttributeError(str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the weights, or hold them as numpy arrays, which load on any device."""
        state = super().__getstate__().copy()
        state.pop("_stored", None)
        if self.store_weights and "weights_sha256_" in state:
            state["_packed"] = pack_pretrained(self._pretrained())
        return stamped(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the weights of the pickle, if it holds any."""
        state = checked(state, type(self))
        packed = state.pop("_packed", None)
        super().__setstate__(state)
        if packed is not None:
            self._stored = {self.model: unpack_pretrained(packed)}

    def __sklearn_tags__(self) -> Any:
        """Declare that X is texts, that fit is not needed, and that vectors are float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
