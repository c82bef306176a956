"""BertSentimentClassifier: parameters, fit and predict. No tensor operations here."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.special import log_expit, log_softmax
from sklearn.utils._param_validation import Interval, StrOptions

from skbert.contract.callbacks import with_callbacks
from skbert.contract.explanation import ExplainMixin
from skbert.contract.fine_tuned import FineTunedEstimator
from skbert.contract.labels import check_classes, check_labels
from skbert.contract.load_classifier import LoadClassifierMixin
from skbert.contract.onnx_export import ExportClassifierMixin
from skbert.contract.parameters import fill_docstring
from skbert.contract.prepare_finetuning import continues_fit
from skbert.contract.scoring import AccuracyMixin
from skbert.contract.several_labels import has_several_labels
from skbert.contract.targets import CheckedTargets, check_labels_of
from skbert.engine.files.find import ModelName
from skbert.engine.files.finetuned import Task
from skbert.engine.model.device import DeviceName, gradients_on


@fill_docstring
class BertSentimentClassifier(
    AccuracyMixin, LoadClassifierMixin, ExplainMixin, ExportClassifierMixin, FineTunedEstimator
):
    """Fine-tune BERT on texts and their sentiments.

    `fit` trains all layers of a pretrained BERT encoder, and a new linear layer on top, with AdamW
    and cross-entropy, as in [1]_. It processes texts without padding. The default model already
    distinguishes negative from positive English sentences. If `y` gives several labels to a text,
    one model learns all of them.

    Parameters
    ----------
    {model}
    {pooling}
    {max_length}
    {truncation}
    {max_windows}
    {emoji_names}
    {max_epochs}
    {batch_size}
    {learning_rate}
    {weight_decay}
    {warmup_fraction}
    {dropout}
    {n_frozen_layers}
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as a dict from label to weight. "balanced" takes weights
        inversely proportional to the class frequencies in `y`, in which each text counts with its
        `sample_weight`. With several labels, how much more the presence of a label counts than its
        absence; "balanced" makes both count the same.
    label_smoothing : float, default=0.0
        Share of the target probability that is spread evenly over all classes, in [0, 1). With
        several labels, over the presence and the absence of each.
    {early_stopping}
    validation_fraction : float, default=0.1
        Fraction of the training texts to set aside for validation, in (0, 1), stratified by class
        if possible; with several labels, at random. Only used if `early_stopping` is True and
        `X_val` is None.
    {n_iter_no_change}
    {warm_start}
    {pretraining_epochs}
    {checkpoint_dir}
    {device}
    {precision}
    {n_threads}
    {random_state}
    {verbose}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. With several labels in the columns of a `y`, their order: the names of
        the columns of a frame, or else 0, 1, and so on.
    multilabel_ : bool
        Whether the `y` of `fit` gave several labels to a text.
    {model_}
    head_ : torch.nn.Module
        d_model -> n_classes. A torch.nn.Linear, or the head of a published classifier with its
        dense layer.
    {tokenizer_}
    history_ : list of dict
        For each epoch: ``epoch`` (from 1), ``train_loss`` (mean cross-entropy, in nats; with
        several labels, the mean of the binary cross-entropies), ``learning_rate`` (of the last
        step), ``seconds``, ``n_tokens``. With validation texts also ``val_loss`` and ``val_score``
        (accuracy, as in `score`).
    {pretraining_history_}
    class_count_ : ndarray of shape (n_classes,)
        Number of texts of each class, or with each label, that `fit` trained on, without those of
        weight 0 and those of the validation. `partial_fit` adds those of each call.
    {n_training_texts_}
    {n_validation_texts_}
    {n_epochs_}
    {best_epoch_}
    {pooling_}
    {max_epochs_}
    {batch_size_}
    {learning_rate_}
    {n_truncated_}
    {n_unknown_tokens_}
    {device_}
    {precision_}
    {n_features_in_}
    {feature_names_in_}

    See Also
    --------
    BertSentimentRegressor : Predicts numbers, such as stars.
    BertEmbeddingTransformer : Vectors of the pretrained model, without training it.
    sklearn.feature_extraction.text.TfidfVectorizer : Word counts instead of BERT, as a baseline.

    Notes
    -----
    With up to 512 training texts, or 2,048 of two classes with the default model, `fit` starts with
    the logistic regression on the vectors of the pretrained encoder as its linear layer [3]_; with
    several labels, one for each label. If the model contains a classifier, as the default model
    does, its logit and threshold are features of the regression. With more texts, in `partial_fit`,
    and if a class has no text of positive weight, the first weights of the layer are random.

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
    multilabel_: bool

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FineTunedEstimator._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        model: ModelName = "skbert/minilm-sentiment",
        *,
        pooling: Literal["auto", "cls", "mean"] = "auto",
        max_length: int = 128,
        truncation: Literal["head", "tail", "head+tail", "windows"] = "head+tail",
        max_windows: int | None = 8,
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
        self.max_windows = max_windows
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
        y : array-like of shape (n_texts,) or (n_texts, n_labels)
            Labels: strings, integers or booleans, with 2 to 1000 classes. For several labels per
            text, a table of 0 and 1 (array, data frame or sparse matrix), with a column for each
            label, or a list of labels for each text.
        sample_weight : array-like of shape (n_texts,), default=None
            Weights of the texts in the loss. Only their proportions matter. Texts of weight 0 are
            ignored.
        X_val : sequence of str, default=None
            Validation texts, in the same form as X. `history_` contains their loss and accuracy,
            and `early_stopping` uses the loss.
        y_val : array-like, default=None
            Labels of `X_val`, all of which must occur in `y`; or a table with the same columns.
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
        ConnectionError
            If other processes share the fit, as ``torchrun`` starts them, and one of them ends.

        Warns
        -----
        TruncationWarning
            If texts are longer than `max_length`.
        UnknownTokenWarning
            If more than 3% of the tokens are not in the vocabulary of the model.
        ConvergenceWarning
            If the loss or a gradient is no longer finite. Training then ends with the weights
            before that step. Also if `max_epochs` or `batch_size` is a number, and they allow
            fewer than 50 optimizer steps, and fewer than "auto" does.
        UserWarning
            If `checkpoint_dir` contains other runs only, if an epoch cannot be saved there, if
            `early_stopping` cannot validate on each class, or if labels look like a mistake.

        Notes
        -----
        A fit that fails or is interrupted, for example by Ctrl+C, leaves the estimator unchanged.
        """
        self._fit(X, y, sample_weight, X_val, y_val, X_unlabelled)
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
        y : array-like of shape (n_texts,) or (n_texts, n_labels)
            Labels, all of which must be in `classes`. Either one label or several for each text,
            as in the first call or in `fit`.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call may contain. Required in the first call. Later calls must
            omit it or pass the same classes. For a table, the names or numbers of its columns.
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
        ConnectionError
            As in `fit`.

        Notes
        -----
        A call that fails or is interrupted, for example by Ctrl+C, leaves the estimator unchanged,
        except that the next call resets the optimizer.
        """
        self._partial_fit(X, y, sample_weight, classes)
        return self

    def _check_targets(self, y: Any, n_texts: int, sample_weight: Any) -> CheckedTargets:
        if not continues_fit(self):
            return check_labels_of(self, y, n_texts, sample_weight)
        if not self.multilabel_ and not has_several_labels(y, n_texts):
            _check_same_classes(check_labels(y, n_texts)[0], self.classes_)
        return check_labels_of(self, y, n_texts, sample_weight, continues=True)

    def _check_more_targets(
        self, classes: Any, y: Any, n_texts: int, sample_weight: Any
    ) -> CheckedTargets:
        continues = hasattr(self, "classes_")
        if not continues:
            check_classes(classes, None)  # required
        return check_labels_of(
            self, y, n_texts, sample_weight, classes=classes, continues=continues
        )

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute the logits of texts.

        Parameters
        ----------
        X : sequence or stream of str, of length n_texts
            As in `fit`, or a stream; see `predict_proba`.

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_classes)
            For two classes, the logit of ``classes_[1]`` minus the logit of ``classes_[0]``, which
            is positive if ``classes_[1]`` is predicted. With several labels, a column for each
            label, which is positive if the label is predicted.
        """
        logits = self._logits(X)
        if self.multilabel_ or len(self.classes_) != 2:
            return logits
        return logits[:, 1] - logits[:, 0]

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute the logarithms of the class probabilities.

        Parameters
        ----------
        X : sequence or stream of str, of length n_texts
            As in `fit`, or a stream; see `predict_proba`.

        Returns
        -------
        ndarray of shape (n_texts, n_classes)
            Natural logarithms of `predict_proba`, in the order of `classes_`.
        """
        logits = self._logits(X).astype(np.float64)
        return log_expit(logits) if self.multilabel_ else log_softmax(logits, axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        X : sequence or stream of str, of length n_texts
            As in `fit`. Or a stream, which is read in parts of 16,384 texts and need not fit into
            memory: an iterator of texts or of pairs, or a `Dataset`, `Scanner`,
            `RecordBatchReader` or `ParquetFile` of pyarrow with one column of texts, or two
            columns of pairs. See :doc:`/guide/more_than_memory`.

        Returns
        -------
        ndarray of shape (n_texts, n_classes)
            In the order of `classes_`. Each row sums to 1, except with several labels, each of
            which has a probability of its own.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each text, or its labels.

        Parameters
        ----------
        X : sequence or stream of str, of length n_texts
            As in `fit`, or a stream; see `predict_proba`.

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_classes)
            Labels, of the type of `classes_`. With several labels, int64: 1 for each label with a
            probability above 0.5, otherwise 0.
        """
        logits = self._logits(X)
        if self.multilabel_:
            return (logits > 0).astype(np.int64)
        return self.classes_[logits.argmax(axis=1)]

    def _task(self) -> Task:
        kind = "multi_label" if self.multilabel_ else "single_label"
        return Task(f"{kind}_classification", [str(label) for label in self.classes_.tolist()])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the modules; see the base class."""
        super().__setstate__(state)
        if "classes_" in state:
            self.multilabel_ = state.get("multilabel_", False)  # old pickles lack it

    def __sklearn_tags__(self) -> Any:
        """Declare that a text may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_same_classes(classes: np.ndarray, known: np.ndarray) -> None:
    if not np.array_equal(classes, known):
        raise ValueError(
            f"y has the classes {classes.tolist()}, but with warm_start=True they must be "
            f"those of the last fit, {known.tolist()}. Pass texts of all these "
            "classes, or set warm_start=False."
        )
