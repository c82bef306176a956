"""BertPretrainer: parameters, fit, and the predictions of both heads. No tensor operations here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from skbert.contract.fitting import EpochLoop, all_or_nothing
from skbert.contract.parameters import (
    BertConfigs,
    Seeds,
    TextInputMixin,
    check_max_length,
    check_segments,
    fill_docstring,
)
from skbert.contract.persistence import checked, device_here, stamped, versions
from skbert.contract.progress import show_epochs
from skbert.contract.texts import Documents, check_documents, check_pairs, warn_truncated
from skbert.engine.files.arrays import pack_pretraining_model, unpack_pretraining_model
from skbert.engine.files.finetuned import save_pretraining_model
from skbert.engine.files.pretrained import load_config, load_pretrained, new_pretraining_model
from skbert.engine.files.scratch import head_weights, new_pretrained
from skbert.engine.files.tokenizer_files import (
    pack_tokenizer,
    unpack_tokenizer,
    vocabulary_of,
    wordpiece_of,
)
from skbert.engine.model.device import (
    gradients_on,
    loaded_precision,
    precision_name,
    resolve_device,
    resolve_precision,
)
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.prediction.embed import TextEmbedder, embed_texts, to_numpy
from skbert.engine.prediction.fill_mask import guess_words, next_sentence_probabilities
from skbert.engine.text.sentences import (
    Sentences,
    WholeTexts,
    documents_of,
    split_into_sentences,
    tokenize_in_pieces,
)
from skbert.engine.text.tokens import Tokens
from skbert.engine.text.wordpiece import WordPieceTokenizer
from skbert.engine.training.loop import TrainingOptions
from skbert.engine.training.masked_lm import (
    Masking,
    PretrainingRun,
    masked_loss,
    start_from_frequencies,
)
from skbert.engine.warn import warn_user

if TYPE_CHECKING:
    import torch
    from transformers import BertConfig

# The part of a longer text that is kept where one text must stay one text: both ends, as in the
# classifier. Of a pair, the end of the first and the beginning of the second text, as in `fit`.
_TRUNCATION, _TRUNCATION_OF_PAIRS = "head+tail", ("tail", "head")


@dataclass(frozen=True, eq=False)
class FilledText:
    """A text with [MASK]s, and the words predicted for them.

    Attributes
    ----------
    text : str
        The text with the most probable word at each [MASK].
    words : list of list of str
        For each [MASK], from left to right, the most probable word pieces, best first. A piece that
        starts with "##" continues the word before it.
    probabilities : ndarray of shape (n_masks, top_k), float32
        Their probabilities among all word pieces.
    """

    text: str
    words: list[list[str]]
    probabilities: np.ndarray


@dataclass(frozen=True)
class _State:
    """What `fit` trains, before it becomes attributes of the estimator."""

    model: Any
    tokenizer: Any
    wordpiece: WordPieceTokenizer
    knows_words: bool
    knows_next_sentence: bool
    knows_pooler: bool
    precision: torch.dtype

    @property
    def network(self) -> PretrainingNetwork:
        bert = self.model.bert
        return PretrainingNetwork(bert, self.model.cls, bert.pooler, self.precision)

    def after(self, history: list[dict[str, Any]], trains_pairs: bool) -> _State:
        """Note which heads the epochs of `history` have trained."""
        return replace(
            self,
            knows_words=self.knows_words or bool(history),
            knows_next_sentence=self.knows_next_sentence or trains_pairs,
            knows_pooler=self.knows_pooler or trains_pairs,
        )

    def fitted_attributes(self, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Attributes with which an estimator can predict."""
        return {
            "model_": self.model,
            "tokenizer_": self.tokenizer,
            "_wordpiece": self.wordpiece,
            "history_": history,
            "n_epochs_": len(history),
            "device_": str(self.network.device),
            "precision_": precision_name(self.precision),
            "_knows_words": self.knows_words,
            "_knows_next_sentence": self.knows_next_sentence,
            "_knows_pooler": self.knows_pooler,
            "_n_features_out": self.model.config.hidden_size,
        }


@fill_docstring
class BertPretrainer(
    CallbackSupportMixin,
    TextInputMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Pre-train BERT on texts without labels, with BERT's own two tasks.

    In *masked language modelling*, BERT predicts 15% of the tokens, which are hidden, from the
    others. In *next sentence prediction*, it predicts whether the second of two sentences follows
    the first in its document or comes from another document [1]_. Continuing the pre-training of a
    published BERT on texts of your field can improve the classification of such texts [2]_: the
    folder that `save_pretrained` writes is a valid `model` for `BertSentimentClassifier` and
    `BertEmbeddingTransformer`.

    Parameters
    ----------
    model : str or transformers.BertConfig, default="sentence-transformers/all-MiniLM-L6-v2"
        Where to start. A local folder or a name is a pretrained model, as in
        `BertSentimentClassifier`. The heads for the two tasks come from the checkpoint if it has
        them; otherwise the head for words starts from the word embeddings, and the others have
        random weights. A `BertConfig` starts from scratch, with its sizes, random weights, and a
        lower-case WordPiece vocabulary that `fit` learns from the texts. The vocabulary has at
        most `vocab_size` pieces, or as many as the texts have characters, if that is more.
    mask_fraction : float, default=0.15
        Fraction of the tokens to predict, in (0, 1). Of these, 80% are replaced by [MASK], 10% by
        a random word piece, and 10% stay. Special tokens are never chosen. Each epoch draws new
        masks.
    whole_words : bool, default=False
        Choose whole words instead of word pieces.
    next_sentence : bool, default=True
        Also train next sentence prediction. Each sentence that has a successor in its document
        starts one pair per epoch. Half of the pairs are true, and the others exchange their second
        sentences. A sentence without a pair stands alone and only trains masked language
        modelling. If fewer than two texts have several sentences, skbert warns and trains masked
        language modelling alone.
    max_length : int, default=128
        Maximum number of tokens of a training text, special tokens included. At least 5, and at
        most the number of positions of the model. `fit` cuts nothing off: it splits a longer text
        into several, and in pairs it splits a sentence that is longer than half of `max_length`.
    max_epochs : int, default=1
        Number of passes over the training data. 0 trains nothing, so that you can use the heads of
        the checkpoint as they are.
    batch_size : int, default=32
        Number of texts, or pairs, per optimizer step.
    learning_rate : float, default=5e-5
        Highest learning rate, reached after the warm-up. It then decays linearly. From scratch, try
        5e-4.
    {weight_decay}
    {warmup_fraction}
    {dropout}
    {device}
    {precision}
    random_state : int, RandomState instance or None, default=None
        Determines random weights, masks, pairs, the order of the texts and dropout. With an int,
        `fit` gives the same weights each time on the same machine with the same number of threads.
        None takes fresh entropy. skbert neither reads nor changes a global random state.
    {verbose}

    Attributes
    ----------
    model_ : transformers.BertForPreTraining
        Encoder, pooler and both heads.
    {tokenizer_}
    history_ : list of dict
        For each epoch: ``epoch`` (from 1), ``train_loss`` (the sum of both losses),
        ``masked_loss`` (mean cross-entropy of the masked tokens, in nats) and its exponential
        ``perplexity``, ``learning_rate`` (of the last step), ``seconds``, ``n_tokens``. With pairs
        also ``next_sentence_loss`` and ``next_sentence_accuracy``.
    n_epochs_ : int
        Number of epochs trained, the length of `history_`.
    {device_}
    {precision_}
    {n_features_in_}
    {feature_names_in_}

    See Also
    --------
    BertSentimentClassifier : With ``pretraining_epochs``, its `fit` starts with masked language
        modelling, so that cross-validation does not leak.

    References
    ----------
    .. [1] J. Devlin, M.-W. Chang, K. Lee, K. Toutanova. BERT: Pre-training of Deep
       Bidirectional Transformers for Language Understanding. NAACL 2019, arXiv:1810.04805.
    .. [2] C. Sun, X. Qiu, Y. Xu, X. Huang. How to Fine-Tune BERT for Text Classification?
       CCL 2019, arXiv:1905.05583.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> from skbert import BertPretrainer
    >>> texts = ["what a joy", "what a waste", "so dull", "so good"] * 20
    >>> tiny = BertConfig(
    ...     vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=64)
    >>> pretrainer = BertPretrainer(
    ...     tiny, next_sentence=False, max_epochs=30, learning_rate=5e-3, random_state=0)
    >>> pretrainer.fit(texts).fill_mask("what [MASK] joy", top_k=2).text
    'what a joy'
    >>> pretrainer.transform(["so dull"]).shape
    (1, 32)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str, BertConfigs()],
        "mask_fraction": [Interval(Real, 0, 1, closed="neither")],
        "whole_words": ["boolean"],
        "next_sentence": ["boolean"],
        "max_length": [Interval(Integral, 5, None, closed="left")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_fraction": [Interval(Real, 0, 1, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "device": [str],
        "precision": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | BertConfig = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        mask_fraction: float = 0.15,
        whole_words: bool = False,
        next_sentence: bool = True,
        max_length: int = 128,
        max_epochs: int = 1,
        batch_size: int = 32,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        dropout: float = 0.1,
        device: str = "auto",
        precision: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.mask_fraction = mask_fraction
        self.whole_words = whole_words
        self.next_sentence = next_sentence
        self.max_length = max_length
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.dropout = dropout
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @gradients_on()
    def fit(self, X: Any, y: Any = None) -> BertPretrainer:
        """Pre-train on texts or documents.

        Parameters
        ----------
        X : sequence of str, or of lists of str
            Texts, in a list, tuple, numpy array, Series, pyarrow array or one column of a frame;
            or documents, each a list of its sentences. With `next_sentence`, skbert splits a text
            into sentences at line breaks, and after ``.``, ``!`` or ``?`` followed by a space. If
            that is too simple, pass documents as lists.
        y : None, default=None
            Ignored.

        Returns
        -------
        self : BertPretrainer
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is not allowed, a text is missing, or there is no word to mask.
        ArithmeticError
            If the loss is not finite in the very first step.
        TypeError
            If X is a single string, or contains something that is not a string.
        OSError
            If the files of the model are not available.

        Warns
        -----
        UserWarning
            If `next_sentence` is on, but there are no pairs of sentences to train it.
        ConvergenceWarning
            If the loss or a gradient is no longer finite. Training then ends with the weights
            before that step.
        """
        self._validate_params()
        with all_or_nothing(self):
            documents = check_documents(self, X, reset=True)
            seeds = Seeds.of(self.random_state)
            start, whole = self._prepare(documents, np.random.default_rng(seeds.new_weights))
            masking = Masking(vocabulary_of(start.tokenizer), self.mask_fraction, self.whole_words)
            if not start.knows_words:
                start_from_frequencies(start.network, whole, masking.vocabulary)
            pairs = self._sentences(documents, start)
            run = PretrainingRun(
                start.network,
                whole if pairs is None else pairs,
                masking,
                self._options(),
                seeds.training,
            )
            tasks = EpochTasks(self, self.max_epochs, X, None)
            trains_pairs = pairs is not None and self.max_epochs > 0

            def learned(history: list[dict[str, Any]]) -> dict[str, Any]:
                return start.after(history, trains_pairs).fitted_attributes(history)

            progress = show_epochs("pre-training epoch", self.max_epochs, self.verbose)
            history = EpochLoop(run, tasks, progress, learned).train(self.max_epochs, [])
            vars(self).update(learned(history))  # at once, or not at all
            tasks.end_fit()
        return self

    def _prepare(self, documents: Documents, rng: np.random.Generator) -> tuple[_State, Tokens]:
        """Check, load or create the model, tokenise the texts, then move it to the device."""
        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device)
        if isinstance(self.model, str):
            self._check_max_length(load_config(self.model))
            pretrained = load_pretrained(self.model)
        else:
            self._check_max_length(self.model)
            pretrained = new_pretrained(self.model, documents.texts, rng)
        heads = head_weights(pretrained, rng)
        whole = self._whole_texts(documents, pretrained.wordpiece)
        state = _State(
            new_pretraining_model(pretrained, heads).to(device),
            pretrained.new_tokenizer(),
            pretrained.wordpiece,
            heads.knows_words,
            heads.knows_next_sentence,
            heads.knows_pooler,
            precision,
        )
        return state, whole

    def _check_max_length(self, config: BertConfig) -> None:
        advice = "fit splits a longer text into several."
        check_max_length(self.max_length, config.max_position_embeddings, 5, advice)

    def _current(self) -> _State:
        """Collect what this estimator has learned so far."""
        check_is_fitted(self)
        return _State(
            self.model_,
            self.tokenizer_,
            self._wordpiece,
            self._knows_words,
            self._knows_next_sentence,
            self._knows_pooler,
            resolve_precision(self.precision_, resolve_device(self.device_)),
        )

    def _sentences(self, documents: Documents, state: _State) -> Sentences | None:
        """Sentences to pair; None if there are no pairs, or `next_sentence` is off."""
        if not self.next_sentence:
            return None
        split = documents.sentences or [split_into_sentences(text) for text in documents.texts]
        flat = [sentence for sentences in split for sentence in sentences]
        room = (self.max_length - 3) // 2  # two sentences, [CLS] and twice [SEP]
        sentences = tokenize_in_pieces(state.wordpiece, flat, documents_of(split), room)
        n_with_pairs = len(np.unique(sentences.documents[sentences.has_successor]))
        if n_with_pairs > 1:
            check_segments(state.model.config)
            return sentences
        why = (
            f"only 1 of the {len(split)} texts has several sentences, and false pairs need another"
            if n_with_pairs
            else f"none of the {len(split)} texts has several sentences"
        )
        warn_user(
            f"next_sentence=True, but {why}. fit trains masked language modelling alone. Pass "
            "documents of several sentences, or set next_sentence=False."
        )
        return None

    def _whole_texts(self, documents: Documents, wordpiece: WordPieceTokenizer) -> Tokens:
        """Tokens for masked language modelling alone; longer texts in several pieces."""
        return WholeTexts.of(wordpiece, documents.texts, self.max_length).pieces

    def _options(self) -> TrainingOptions:
        return TrainingOptions(
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            dropout=self.dropout,
        )

    def fill_mask(self, texts: Any, top_k: int = 5) -> Any:
        """Guess the words at the [MASK]s of texts, each from all that is not masked.

        Parameters
        ----------
        texts : str, or sequence of str of length n_texts
            Each with one or more "[MASK]".
        top_k : int, default=5
            How many guesses for each.

        Returns
        -------
        FilledText, or list of FilledText
            One if `texts` is a str, otherwise one for each. The guesses for several [MASK]s of
            a text do not know of each other.

        Raises
        ------
        ValueError
            If a text has no [MASK] or one beyond `max_length`, or `top_k` is not an integer from 1
            to the number of word pieces.
        NotFittedError
            If `fit` has not been called.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`.

        Examples
        --------
        >>> from skbert import BertPretrainer
        >>> pretrainer = BertPretrainer(next_sentence=False, max_epochs=0).fit(["so dull"])
        >>> filled = pretrainer.fill_mask("That's [MASK] she [MASK]", top_k=3)
        >>> [len(words) for words in filled.words]
        [3, 3]
        """
        state = self._current()
        single = isinstance(texts, str)
        given = check_documents(self, [texts] if single else texts, reset=False).texts
        self._check_top_k(top_k)
        tokens = self._one_text_each(given, None, state)
        mask, mask_id = self.tokenizer_.mask_token, self.tokenizer_.mask_token_id
        pieces = [*self.tokenizer_.get_vocab().values()]
        no_pieces = np.setdiff1d(np.arange(self.model_.config.vocab_size), pieces)
        guesses = guess_words(state.network, tokens, mask_id, top_k, no_pieces)
        found = np.bincount(guesses.rows, minlength=len(given))
        for row, text in enumerate(given):
            if text.count(mask) == 0 or found[row] != text.count(mask):
                raise ValueError(
                    f"Text {row} has {text.count(mask)} {mask!r}, of which {found[row]} are among "
                    f"the tokens that are read; at least 1 is needed and all must be. Write "
                    f"{mask!r} where a word is to be guessed, or raise max_length="
                    f"{self.max_length}."
                )
        words = [self.tokenizer_.convert_ids_to_tokens(ids) for ids in guesses.ids.tolist()]
        stops = np.cumsum(found)
        filled = [
            _filled(text, mask, words[stop - n : stop], guesses.probabilities[stop - n : stop])
            for text, n, stop in zip(given, found.tolist(), stops.tolist(), strict=True)
        ]
        return filled[0] if single else filled

    def _check_top_k(self, top_k: Any) -> None:
        n_pieces = len(self.tokenizer_.get_vocab())
        if not isinstance(top_k, Integral) or not 1 <= top_k <= n_pieces:
            raise ValueError(
                f"top_k={top_k!r}; allowed are the integers from 1 to {n_pieces}, the number of "
                "word pieces. Choose one of them, for example 5."
            )

    def predict_next_sentence(self, pairs: Any) -> np.ndarray:
        """Probability that the second text of each pair follows the first.

        Parameters
        ----------
        pairs : sequence of pairs of str, of length n_pairs
            A list of ``(first, second)``, or two columns of a frame or array. Of pairs longer than
            `max_length`, the end of the first and the beginning of the second text are read, as
            in `fit`.

        Returns
        -------
        ndarray of shape (n_pairs,), float32
            The probability of IsNext. Where `fit` had no pairs to train on, but the checkpoint
            knew the task, by the head of the checkpoint on the encoder as it is now.

        Raises
        ------
        ValueError
            If these are not pairs, or neither the checkpoint nor `fit` has trained next sentence
            prediction.
        NotFittedError
            If `fit` has not been called.

        Warns
        -----
        TruncationWarning
            If pairs are longer than `max_length`.
        """
        state = self._current()
        texts = check_pairs(pairs)
        if not state.knows_next_sentence:
            raise ValueError(
                "Next sentence prediction is not trained: the checkpoint has no head for it, and "
                "fit had no pairs of sentences. Fit with next_sentence=True, max_epochs of at "
                "least 1 and documents of several sentences."
            )
        return next_sentence_probabilities(
            state.network, self._one_text_each(texts.first, texts.second, state)
        )

    def score(self, X: Any, y: Any = None) -> float:
        """Masked language model on texts: the larger, the better.

        Parameters
        ----------
        X : sequence of str, or of lists of str
            Texts that `fit` did not see, as in `fit`.
        y : None, default=None
            Not used.

        Returns
        -------
        float
            Minus the mean cross-entropy of the masked tokens, nats; the perplexity is
            ``exp(-score)``. Of the same texts, the same tokens are masked at each call: 15 % of
            the word pieces, whatever `mask_fraction` and `whole_words` are, so that both can be
            searched. Texts longer than `max_length` are scored in pieces.

        Raises
        ------
        ValueError
            If a text is missing, or there is no word to mask.
        NotFittedError
            If `fit` has not been called.
        """
        state = self._current()
        self._check_max_length(self.model_.config)
        tokens = self._whole_texts(check_documents(self, X, reset=False), state.wordpiece)
        masking = Masking(vocabulary_of(state.tokenizer))
        return -masked_loss(state.network, tokens, masking, np.random.default_rng(0))

    def transform(self, X: Any) -> np.ndarray:
        """Compute a vector for each text: the mean of the last hidden states of its tokens.

        For other poolings, give the folder that `save_pretrained` writes to
        `BertEmbeddingTransformer`.

        Parameters
        ----------
        X : sequence of str, or of lists of str
            As in `fit`; of texts longer than `max_length` tokens, a quarter of the room is for
            their first and the rest for their last.

        Returns
        -------
        ndarray of shape (n_texts, d_model), float32
            Or a frame, after `set_output`.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`.
        """
        state = self._current()
        texts = check_documents(self, X, reset=False).texts
        tokens = self._one_text_each(texts, None, state)
        embedder = TextEmbedder(
            encoder=self.model_.bert,
            pooler={},
            pooling="mean",
            n_layers=self.model_.config.num_hidden_layers,
            normalize=False,
            precision=state.precision,
        )
        return to_numpy(embed_texts(embedder, tokens))

    def _one_text_each(
        self, first: Sequence[str], second: Sequence[str] | None, state: _State
    ) -> Tokens:
        """Tokens of texts or pairs, cut where they are too long."""
        self._check_max_length(self.model_.config)
        if second is not None:
            check_segments(self.model_.config)
        truncation = _TRUNCATION if second is None else _TRUNCATION_OF_PAIRS
        tokens = state.wordpiece(first, second, max_length=self.max_length, truncation=truncation)
        warn_truncated(tokens, self.max_length, "Raise max_length, or give shorter texts.")
        return tokens

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write encoder, heads and tokenizer to a folder of safetensors and JSON files.

        The folder is a valid `model` of `BertSentimentClassifier`, `BertEmbeddingTransformer`
        and `BertPretrainer`, and ``transformers.BertForPreTraining.from_pretrained(folder)``
        reads it. It is written under another name and put in place whole. A head or pooler that
        nothing has trained is in the folder too, because transformers expects it, and marked in
        the header of ``model.safetensors`` so that skbert does not take it for a trained one.

        Parameters
        ----------
        folder : str or path
            A new or empty folder, or one that an earlier `save_pretrained` wrote; that is
            replaced.

        Raises
        ------
        FileExistsError
            If the folder holds anything else.
        NotFittedError
            If there is nothing to save yet.
        """
        check_is_fitted(self)
        settings = {"versions": versions(), "history": self.history_}
        known = {
            "cls.predictions": self._knows_words,
            "cls.seq_relationship": self._knows_next_sentence,
            "pooler": self._knows_pooler,
        }
        drawn = [part for part, is_known in known.items() if not is_known]
        save_pretraining_model(Path(folder), self.model_, self.tokenizer_, settings, drawn)

    def __getstate__(self) -> dict[str, Any]:
        """Replace all tensors by numpy arrays: a pickle must load where there is no GPU."""
        state = super().__getstate__().copy()
        if not isinstance(state["model"], str):
            state["model"] = state["model"].to_dict()
        if "model_" in state:
            state["model_"] = pack_pretraining_model(state["model_"])
            state["tokenizer_"] = pack_tokenizer(state["tokenizer_"])
            del state["_wordpiece"]
        return stamped(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the modules, on the device that `device` stands for here."""
        state = checked(state, type(self))
        if isinstance(state["model"], dict):
            from transformers import BertConfig

            state["model"] = BertConfig.from_dict(state["model"])
        super().__setstate__(state)
        if "model_" in state:
            device = device_here(self.device)
            self.device_ = str(device)
            self.precision_ = precision_name(loaded_precision(self.precision, device))
            self.model_ = unpack_pretraining_model(state["model_"]).to(device)
            self.tokenizer_ = unpack_tokenizer(state["tokenizer_"])
            self._wordpiece = wordpiece_of(self.tokenizer_)

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether there is something to predict with."""
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        """Declare that vectors are float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _filled(text: str, mask: str, words: list[list[str]], probabilities: np.ndarray) -> FilledText:
    """Put the likeliest words in their places; a ## piece joins the word before it."""
    filled, *rests = text.split(mask)
    for (best, *_), rest in zip(words, rests, strict=True):
        if best.startswith("##"):
            filled = filled.rstrip() + best.removeprefix("##") + rest
        else:
            filled += best + rest
    return FilledText(filled, words, probabilities)
