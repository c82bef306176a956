"""BertSentimentRegressor: parameters, fit and predict. No tensor operations here."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skbert.contract.callbacks import with_callbacks
from skbert.contract.fine_tuned import FineTunedEstimator
from skbert.contract.load_classifier import LoadRegressorMixin
from skbert.contract.parameters import fill_docstring
from skbert.contract.persistence import head_in_numbers
from skbert.contract.prepare_finetuning import continues_fit
from skbert.contract.scoring import R2Mixin
from skbert.contract.targets import CheckedTargets, check_numbers_of, learned_numbers
from skbert.engine.files.find import ModelName
from skbert.engine.files.finetuned import Task
from skbert.engine.model.device import DeviceName, gradients_on
from skbert.engine.model.networks import TextClassifier


@fill_docstring
class BertSentimentRegressor(R2Mixin, LoadRegressorMixin, FineTunedEstimator):
    """Fine-tune BERT on texts and numbers, such as stars.

    `fit` trains all layers of a pretrained BERT encoder, and a new head on top, as
    `BertSentimentClassifier` does for classes. A regressor knows that 4 stars are closer to 5
    than 1 is, so it makes fewer large mistakes than a classifier of five classes.

    Parameters
    ----------
    {model}
    {pooling}
    loss : {"squared_error", "ordinal"}, default="squared_error"
        What is minimised. "squared_error" predicts the mean. "ordinal" is for a few ordered levels,
        such as 1 to 5 stars: one score of a text is compared with a threshold between each two
        levels [1]_, [3]_, and the prediction is the expected level.
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
    {early_stopping}
    validation_fraction : float, default=0.1
        Fraction of the training texts to set aside for validation, in (0, 1); with "ordinal",
        stratified by level if possible. Only used if `early_stopping` is True and `X_val` is None.
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
    y_min_, y_max_ : float
        The range of y in `fit`. Predictions are in it.
    levels_ : ndarray of shape (n_levels,), float64, or None
        The different numbers of y, sorted, for "ordinal", those of texts of weight 0 included;
        otherwise None.
    {model_}
    head_ : torch.nn.Module
        For "squared_error", a torch.nn.Linear, d_model -> 1, whose output is standardised: minus
        the mean of y, divided by its standard deviation. For "ordinal", d_model -> n_levels - 1,
        the logits of being above each level.
    {tokenizer_}
    history_ : list of dict
        For each epoch: ``epoch`` (from 1), ``train_loss`` (mean squared error of the standardised
        numbers, or sum of the cross-entropies of the thresholds, in nats), ``learning_rate`` (of
        the last step), ``seconds``, ``n_tokens``. With validation texts also ``val_loss`` and
        ``val_score`` (R2).
    {pretraining_history_}
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
    BertSentimentClassifier : Predicts classes, with their probabilities.

    Notes
    -----
    With up to 512 training texts, `fit` starts with a regression on the vectors of the pretrained
    encoder as its head: a ridge regression, or a logistic regression for each threshold.

    References
    ----------
    .. [1] P. McCullagh. Regression Models for Ordinal Data. Journal of the Royal Statistical
       Society, Series B, 42 (2), 1980.
    .. [2] C. Sun, X. Qiu, Y. Xu, X. Huang. How to Fine-Tune BERT for Text Classification?
       CCL 2019, arXiv:1905.05583.
    .. [3] W. Cao, V. Mirjalili, S. Raschka. Rank Consistent Ordinal Regression for Neural Networks
       with Application to Age Estimation. Pattern Recognition Letters 140, 2020, arXiv:1901.07884.

    Examples
    --------
    >>> from skbert import BertSentimentRegressor
    >>> texts = ["what a joy", "quite good", "rather dull", "a waste of time"] * 8
    >>> stars = [5, 4, 2, 1] * 8
    >>> reg = BertSentimentRegressor(random_state=0).fit(texts, stars)
    >>> good, bad = reg.predict(["what a joy it was", "a dull waste of time"])
    >>> bool(good > 4 and bad < 2)
    True
    """

    y_min_: float
    y_max_: float
    levels_: np.ndarray | None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FineTunedEstimator._parameter_constraints,
        "loss": [StrOptions({"squared_error", "ordinal"})],
    }

    def __init__(
        self,
        model: ModelName = "skbert/minilm-sentiment",
        *,
        pooling: Literal["auto", "cls", "mean"] = "auto",
        loss: Literal["squared_error", "ordinal"] = "squared_error",
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
        self.loss = loss
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
            Texts or pairs of texts, as in `BertSentimentClassifier.fit`.
        y : array-like of shape (n_texts,)
            Finite numbers. With ``loss="ordinal"``, 2 to 100 different ones.
        sample_weight : array-like of shape (n_texts,), default=None
            Weights of the texts in the loss. Only their proportions matter. Texts of weight 0 are
            ignored.
        X_val : sequence of str, default=None
            Validation texts, in the same form as X. `history_` contains their loss and R2, and
            `early_stopping` uses the loss.
        y_val : array-like, default=None
            Numbers of `X_val`; with "ordinal", all of them must occur in `y`.
        X_unlabelled : sequence of str, default=None
            More texts for masked language modelling, in the same form as X. Only used if
            `pretraining_epochs` is not 0.

        Returns
        -------
        self : BertSentimentRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, text, number, weight, or the number of rows or columns is not allowed.
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
        TruncationWarning, UnknownTokenWarning, ConvergenceWarning, UserWarning
            As in `BertSentimentClassifier.fit`.

        Notes
        -----
        A fit that fails or is interrupted, for example by Ctrl+C, leaves the estimator unchanged.
        """
        self._fit(X, y, sample_weight, X_val, y_val, X_unlabelled)
        return self

    @gradients_on()
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one epoch on more texts, continuing from the last call.

        The optimizer keeps its state between calls, as in `BertSentimentClassifier.partial_fit`.
        The first call decides the mean and standard deviation by which y is standardised, or, with
        "ordinal", the levels.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.
        y : array-like of shape (n_texts,)
            Finite numbers. With "ordinal", those of the first call only.
        sample_weight : array-like of shape (n_texts,), default=None
            As in `fit`.

        Returns
        -------
        self : BertSentimentRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            As in `fit`. Also if `loss` has changed, or if y has a level that the first call had
            not.
        ArithmeticError
            If the loss or a gradient is no longer finite.
        ConnectionError
            As in `fit`.

        Notes
        -----
        A call that fails or is interrupted, for example by Ctrl+C, leaves the estimator unchanged,
        except that the next call resets the optimizer.
        """
        self._partial_fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict a number for each text.

        Parameters
        ----------
        X : sequence or stream of str, of length n_texts
            As in `fit`, or a stream, as in `BertSentimentClassifier.predict_proba`.

        Returns
        -------
        ndarray of shape (n_texts,), float64
            Numbers from `y_min_` to `y_max_`.
        """
        outputs = self._logits(X)
        return learned_numbers(self).predict(outputs)

    def _check_targets(self, y: Any, n_texts: int, sample_weight: Any) -> CheckedTargets:
        known = learned_numbers(self) if continues_fit(self) else None
        return check_numbers_of(self.loss, y, n_texts, sample_weight, known)

    def _check_more_targets(
        self, classes: Any, y: Any, n_texts: int, sample_weight: Any
    ) -> CheckedTargets:
        known = learned_numbers(self) if hasattr(self, "head_") else None
        return check_numbers_of(self.loss, y, n_texts, sample_weight, known)

    def _task(self) -> Task:
        if self.levels_ is None:
            return Task("regression", ["number"])
        names = [f"above {level:.15g}" for level in self.levels_[:-1].tolist()]
        return Task("multi_label_classification", names)

    def _network_to_save(self) -> TextClassifier:
        return TextClassifier(self.model_, head_in_numbers(self), self.pooling_)
