"""BertPretrainer: parameters, fit, and the predictions of both heads. No tensor operations here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from skbert.contract.fitting import EpochLoop, all_or_nothing
from skbert.contract.load_pretrainer import FromPretrainedMixin
from skbert.contract.lost_tokens import LostTokens
from skbert.contract.parameters import (
    DEVICES,
    N_THREADS,
    STARTS,
    TextInputMixin,
    check_start,
    fill_docstring,
)
from skbert.contract.persistence import (
    migrate_state,
    resolve_saved_device,
    stamp_state,
)
from skbert.contract.prepare_pretraining import (
    PretrainerState,
    check_knows_next_sentence,
    check_length,
    current_state,
    prepare_pretraining,
    tokenize_whole,
)
from skbert.contract.progress import plan_epochs, show_fit, show_texts
from skbert.contract.ranks import verbose_of
from skbert.contract.save_pretrainer import SavePretrainerMixin
from skbert.contract.texts import check_documents, check_pairs
from skbert.engine.files.arrays import pack_pretraining_model, unpack_pretraining_model
from skbert.engine.files.find import ModelName
from skbert.engine.files.tokenizer_files import (
    fill_masks,
    pack_tokenizer,
    subword_tokenizer_of,
    unpack_tokenizer,
    vocabulary_of,
    words_of,
)
from skbert.engine.model.device import DeviceName, gradients_on, loaded_precision, precision_name
from skbert.engine.model.families import n_segments
from skbert.engine.prediction.embed import TextEmbedder, embed_texts, to_numpy
from skbert.engine.prediction.fill_mask import guess_words, next_sentence_probabilities
from skbert.engine.text.layout import smallest_max_length
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.distributed import ranks_of_fit
from skbert.engine.training.loop import TrainingOptions
from skbert.engine.training.masked_lm import Masking, PretrainingRun, masked_loss

if TYPE_CHECKING:
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
        starts with "##" continues the word before it. In a vocabulary of bytes, such as RoBERTa's,
        a piece that starts with a space does not.
    probabilities : ndarray of shape (n_masks, top_k), float32
        Their probabilities among all word pieces.

    Examples
    --------
    >>> from skbert import BertPretrainer
    >>> pretrainer = BertPretrainer(next_sentence=False, max_epochs=0).fit(["so dull"])
    >>> filled = pretrainer.fill_mask("That's [MASK] she [MASK]", top_k=3)
    >>> [len(words) for words in filled.words], filled.probabilities.shape
    ([3, 3], (2, 3))
    """

    text: str
    words: list[list[str]]
    probabilities: np.ndarray


@fill_docstring
class BertPretrainer(
    CallbackSupportMixin,
    FromPretrainedMixin,
    SavePretrainerMixin,
    TextInputMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Pre-train BERT, or a relative of it, on texts without labels, with BERT's own two tasks.

    In *masked language modelling*, BERT predicts 15% of the tokens, which are hidden, from the
    others. In *next sentence prediction*, it predicts whether the second of two sentences follows
    the first in its document or comes from another document [1]_. Continuing the pre-training of a
    published BERT on texts of your field can improve the classification of such texts [2]_: the
    folder that `save_pretrained` writes is a valid `model` for `BertSentimentClassifier` and
    `BertEmbeddingTransformer`.

    Parameters
    ----------
    model : str, path or BertConfig, default="sentence-transformers/all-MiniLM-L6-v2"
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
        language modelling alone. Only BERT has a head for this task: set False for other families,
        such as RoBERTa, DistilBERT or ALBERT, which has sentence order prediction instead.
    max_length : int, default=128
        Maximum number of tokens of a training text, special tokens included. At least 5, and at
        most the number of positions of the model. `fit` cuts nothing off: it splits a longer text
        into several, and in pairs it splits a sentence that is longer than half of `max_length`.
    {emoji_names}
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
    {n_threads}
    random_state : int, RandomState instance or None, default=None
        Determines random weights, masks, pairs, the order of the texts and dropout. With an int,
        `fit` gives the same weights each time on the same machine with the same number of threads.
        None takes fresh entropy. skbert neither reads nor changes a global random state.
    {verbose}

    Attributes
    ----------
    model_ : transformers.PreTrainedModel
        Encoder and heads: a `BertForPreTraining` of a BERT, and of other families the class for
        masked language modelling, such as `RobertaForMaskedLM`.
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

    history_: list[dict[str, Any]]
    n_epochs_: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": STARTS,
        "mask_fraction": [Interval(Real, 0, 1, closed="neither")],
        "whole_words": ["boolean"],
        "next_sentence": ["boolean"],
        "max_length": [Interval(Integral, smallest_max_length(2), None, closed="left")],
        "emoji_names": ["boolean"],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_fraction": [Interval(Real, 0, 1, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "device": DEVICES,
        "precision": [str],
        "n_threads": N_THREADS,
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: ModelName | BertConfig = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        mask_fraction: float = 0.15,
        whole_words: bool = False,
        next_sentence: bool = True,
        max_length: int = 128,
        emoji_names: bool = True,
        max_epochs: int = 1,
        batch_size: int = 32,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        dropout: float = 0.1,
        device: DeviceName = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        n_threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.mask_fraction = mask_fraction
        self.whole_words = whole_words
        self.next_sentence = next_sentence
        self.max_length = max_length
        self.emoji_names = emoji_names
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.dropout = dropout
        self.device = device
        self.precision = precision
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @gradients_on()
    def fit(self, X: Any, y: Any = None) -> Self:
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
            If a parameter is not allowed, a text is missing, there is no word to mask, or the model
            has no head for `next_sentence`.
        ArithmeticError
            If the loss is not finite in the very first step.
        TypeError
            If X is a single string, or contains something that is not a string.
        OSError
            If the files of the model are not available.
        ConnectionError
            If other processes share the fit, as ``torchrun`` starts them, and one of them ends.

        Warns
        -----
        UserWarning
            If `next_sentence` is on, but there are no pairs of sentences to train it.
        ConvergenceWarning
            If the loss or a gradient is no longer finite. Training then ends with the weights
            before that step.
        """
        check_start(self.model)
        self._validate_params()
        with all_or_nothing(self), ranks_of_fit() as ranks:
            documents = check_documents(self, X, reset=True)
            prepared = prepare_pretraining(self, documents, ranks)
            start, pairs_are_trained = prepared.start, prepared.has_pairs and self.max_epochs > 0
            seed, options = prepared.seeds.training, self._options()
            run = PretrainingRun(start.network, prepared.texts, prepared.masking, options, seed)

            def learned(history: list[dict[str, Any]]) -> dict[str, Any]:
                return start.after(history, pairs_are_trained).fitted_attributes(history)

            tasks = EpochTasks(self, self.max_epochs, X, None, ranks=ranks)
            epochs = plan_epochs("pre-training epoch", self.max_epochs, run.n_steps_per_epoch)
            verbose = verbose_of(self.verbose, ranks)
            with run.trainer.shared_by(ranks), show_fit(verbose, epochs) as progress:
                history = EpochLoop(run, tasks, progress, learned).train(self.max_epochs, [])
            vars(self).update(learned(history))  # at once: no interruption comes between two
            tasks.end_fit()
        return self

    def _options(self) -> TrainingOptions:
        return TrainingOptions(
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            dropout=self.dropout,
        )

    @overload
    def fill_mask(self, texts: str, top_k: int = 5) -> FilledText: ...
    @overload
    def fill_mask(self, texts: Iterable[str], top_k: int = 5) -> list[FilledText]: ...
    def fill_mask(self, texts: Any, top_k: int = 5) -> Any:
        """Predict the words at the [MASK]s of texts, each from all unmasked tokens.

        Parameters
        ----------
        texts : str, or sequence of str of length n_texts
            Each with one or more mask tokens of the model: "[MASK]" of BERT, "<mask>" of RoBERTa;
            see ``tokenizer_.mask_token``.
        top_k : int, default=5
            Number of word pieces to return for each [MASK].

        Returns
        -------
        FilledText, or list of FilledText
            One if `texts` is a str, otherwise one per text. Several [MASK]s of a text are predicted
            independently of each other.

        Raises
        ------
        ValueError
            If a text has no [MASK], or truncation removes one, or `top_k` is not an integer from 1
            to the number of word pieces.
        NotFittedError
            If `fit` has not been called.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`; once after each `fit`.
        """
        state = current_state(self)
        single = isinstance(texts, str)
        given = [texts] if single else texts
        given = check_documents(self, given, reset=False, name="texts").texts
        self._check_top_k(top_k)
        tokens = self._one_text_each(given, None, state)
        mask, mask_id = self.tokenizer_.mask_token, self.tokenizer_.mask_token_id
        pieces = [*self.tokenizer_.get_vocab().values()]
        no_pieces = np.setdiff1d(np.arange(self.model_.config.vocab_size), pieces)
        with show_texts("filling masks", len(tokens), self.verbose) as part:
            progress = part(len(tokens))
            guesses = guess_words(state.network, tokens, mask_id, top_k, no_pieces, progress)
        found = np.bincount(guesses.rows, minlength=len(given))
        for row, text in enumerate(given):
            if text.count(mask) == 0 or found[row] != text.count(mask):
                raise ValueError(
                    f"Text {row} has {text.count(mask)} {mask!r}, of which {found[row]} are within "
                    f"max_length={self.max_length}; at least 1 is required, and all must be "
                    f"within it. Write {mask!r} for each word to predict, or increase max_length."
                )
        words = [words_of(self.tokenizer_, ids) for ids in guesses.ids.tolist()]
        best = self.tokenizer_.convert_ids_to_tokens(guesses.ids[:, 0].tolist())
        filled = []
        for text, stop, n in zip(given, np.cumsum(found).tolist(), found.tolist(), strict=True):
            own = slice(stop - n, stop)
            with_words = fill_masks(self.tokenizer_, text, best[own])
            filled.append(FilledText(with_words, words[own], guesses.probabilities[own]))
        return filled[0] if single else filled

    def _check_top_k(self, top_k: Any) -> None:
        n_pieces = len(self.tokenizer_.get_vocab())
        is_integer = isinstance(top_k, Integral) and not isinstance(top_k, bool)
        if not is_integer or not 1 <= top_k <= n_pieces:
            raise ValueError(
                f"top_k={top_k!r}; allowed are integers from 1 to {n_pieces}, the number of word "
                "pieces. Use for example top_k=5."
            )

    def predict_next_sentence(self, pairs: Any) -> np.ndarray:
        """Compute the probability that the second text of each pair follows the first.

        Parameters
        ----------
        pairs : sequence of pairs of str, of length n_pairs
            A list of ``(first, second)``, or two columns of a frame or array. Of a pair longer than
            `max_length`, the end of the first and the beginning of the second text are kept, as in
            `fit`.

        Returns
        -------
        ndarray of shape (n_pairs,), float32
            The probability of IsNext. If `fit` had no pairs to train on, the head of the checkpoint
            predicts it, if there is one.

        Raises
        ------
        ValueError
            If X does not contain pairs, the model has no head for next sentence prediction, or
            neither the checkpoint nor `fit` has trained it.
        NotFittedError
            If `fit` has not been called.

        Warns
        -----
        TruncationWarning
            If pairs are longer than `max_length`; once after each `fit`.
        """
        state = current_state(self)
        texts = check_pairs(pairs, "pairs")
        check_knows_next_sentence(state)
        tokens = self._one_text_each(texts.first, texts.second, state)
        with show_texts("predicting", len(tokens), self.verbose) as part:
            return next_sentence_probabilities(state.network, tokens, part(len(tokens)))

    def score(self, X: Any, y: Any = None) -> float:
        """Evaluate masked language modelling on texts; larger is better.

        Parameters
        ----------
        X : sequence of str, or of lists of str
            Texts or documents, in the same form as in `fit`, preferably not those of `fit`.
        y : None, default=None
            Ignored.

        Returns
        -------
        float
            Negative mean cross-entropy of the masked tokens, in nats. The perplexity is
            ``exp(-score)``. Each call masks the same tokens of the same texts: 15% of the word
            pieces, whatever `mask_fraction` and `whole_words` are, so that both can be searched.
            Texts longer than `max_length` are split.

        Raises
        ------
        ValueError
            If a text is missing, or there is no word to mask.
        NotFittedError
            If `fit` has not been called.
        """
        state = current_state(self)
        check_length(self, self.model_.config)
        documents = check_documents(self, X, reset=False)
        tokens = tokenize_whole(self, documents, state.subword_tokenizer, self.model_.config)
        masking, rng = Masking(vocabulary_of(state.tokenizer)), np.random.default_rng(0)
        n_texts = len(documents.texts)
        with show_texts("scoring", n_texts, self.verbose) as part:
            return -masked_loss(state.network, tokens, masking, rng, part(n_texts))

    def transform(self, X: Any) -> np.ndarray:
        """Compute a vector for each text, the mean of the last hidden states of its tokens.

        For other poolings, save the model with `save_pretrained`, and pass the folder as `model` to
        `BertEmbeddingTransformer`.

        Parameters
        ----------
        X : sequence of str, or of lists of str
            As in `fit`. Of a text longer than `max_length`, the beginning and the end are kept, as
            with ``truncation="head+tail"`` of `BertSentimentClassifier`.

        Returns
        -------
        ndarray of shape (n_texts, d_model), float32
            A frame after `set_output`.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`; once after each `fit`.
        """
        state = current_state(self)
        texts = check_documents(self, X, reset=False).texts
        tokens = self._one_text_each(texts, None, state)
        embedder = TextEmbedder(
            encoder=state.network.encoder,
            pooler={},
            pooling="mean",
            n_layers=self.model_.config.num_hidden_layers,
            normalize=False,
            precision=state.precision,
        )
        with show_texts("embedding", len(tokens), self.verbose) as part:
            return to_numpy(embed_texts(embedder, tokens, part(len(tokens))))

    def _one_text_each(
        self, first: Sequence[str], second: Sequence[str] | None, state: PretrainerState
    ) -> Tokens:
        """Tokenise texts or pairs without splitting, and warn of what is lost of them."""
        config = self.model_.config
        check_length(self, config)
        truncation = _TRUNCATION if second is None else _TRUNCATION_OF_PAIRS
        tokens = state.subword_tokenizer(
            first, second, max_length=self.max_length, truncation=truncation
        )
        LostTokens.of(tokens, state.subword_tokenizer).warn(self, config, selects=False)
        return tokens

    def __getstate__(self) -> dict[str, Any]:
        """Replace all tensors by numpy arrays, so that the pickle loads on any machine."""
        state = super().__getstate__().copy()
        if hasattr(state["model"], "to_dict"):
            state["model"] = state["model"].to_dict()
        if "model_" in state:
            state["model_"] = pack_pretraining_model(state["model_"])
            state["tokenizer_"] = pack_tokenizer(state["tokenizer_"])
            del state["_subword_tokenizer"]
        return stamp_state(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the modules, on the device that this machine has."""
        state = migrate_state(state, type(self))
        if isinstance(state["model"], dict):
            from transformers import BertConfig

            state["model"] = BertConfig.from_dict(state["model"])
        super().__setstate__(state)
        if "model_" in state:
            self._made_with = state.get("_made_with", "cls")  # old pickles lack it
            device = resolve_saved_device(self.device)
            self.device_ = str(device)
            self.precision_ = precision_name(loaded_precision(self.precision, device))
            self.model_ = unpack_pretraining_model(state["model_"]).to(device)
            self.tokenizer_ = unpack_tokenizer(state["tokenizer_"])
            config = self.model_.config
            self._subword_tokenizer = subword_tokenizer_of(
                self.tokenizer_, type_vocab_size=n_segments(config)
            )

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the estimator has been fitted."""
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        """Declare that vectors are float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
