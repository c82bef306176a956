"""All that a fit of the classifier needs, made ready: checked, loaded, tokenised, split.

The order is fixed. `check_input` checks all that came to `fit`. `prepare_fit` checks the parameters
against the configuration of the model, loads its weights once, tokenises, and only then moves the
network to the device. Nothing is trained here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from skbert.contract.fingerprints import fingerprint_of_fit
from skbert.contract.holdout import hold_out, hold_out_any
from skbert.contract.lost_tokens import LostTokens, forget_warnings
from skbert.contract.padded import check_has_heads
from skbert.contract.parameters import (
    Seeds,
    check_max_length,
    check_n_frozen_layers,
    resolve_pooling,
)
from skbert.contract.ranks import check_same_fit, shared_seeds
from skbert.contract.steps import training_options, warn_few_steps
from skbert.contract.targets import CheckedTargets, Target
from skbert.contract.texts import Texts, check_texts
from skbert.engine.files.pretrained import (
    Pretrained,
    load_config,
    load_pooling,
    load_pretrained,
)
from skbert.engine.model.device import precision_name, resolve_device, resolve_precision
from skbert.engine.model.families import longest_text
from skbert.engine.model.networks import TextClassifier
from skbert.engine.text.sentences import WholeTexts
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import Tokens, concatenate
from skbert.engine.text.windows import WINDOWS, tokenize_in_windows
from skbert.engine.training.classification import LabelledTexts
from skbert.engine.training.distributed import Ranks
from skbert.engine.training.loop import TrainingOptions
from skbert.engine.training.resume import KeptRun, find_run
from skbert.engine.warn import warn_user


@dataclass(frozen=True)
class LabelledInput:
    """Texts and the value of y of each, as in `LabelledTexts.labels`."""

    texts: Texts
    values: np.ndarray


@dataclass(frozen=True)
class TrainingInput:
    """All that came to `fit`, checked.

    Attributes
    ----------
    labelled : LabelledInput
    weights : ndarray of shape (n_texts,), float64
        How much each text counts, at most 1.
    target : Target
        What y is.
    validation : LabelledInput or None
    unlabelled : Texts or None
        More texts for masked language modelling.
    """

    labelled: LabelledInput
    weights: np.ndarray
    target: Target
    validation: LabelledInput | None
    unlabelled: Texts | None


#: Checks y for an estimator: (y, number of texts, sample weights) -> CheckedTargets.
TargetCheck = Callable[[Any, int, Any], CheckedTargets]


def check_input(
    estimator: Any,
    check_targets: TargetCheck,
    X: Any,
    y: Any,
    sample_weight: Any,
    X_val: Any,
    y_val: Any,
    X_unlabelled: Any,
) -> TrainingInput:
    """Check the arguments of `fit`; nothing of the model is needed.

    Raises
    ------
    ValueError, TypeError
        As documented in `BertSentimentClassifier.fit`.
    """
    texts = check_texts(estimator, X, reset=True)
    checked = check_targets(y, len(texts), sample_weight)
    return TrainingInput(
        labelled=LabelledInput(texts, checked.values),
        weights=checked.weights,
        target=checked.target,
        validation=_check_validation(estimator, X_val, y_val, checked.target),
        unlabelled=(
            None
            if X_unlabelled is None
            else check_texts(estimator, X_unlabelled, reset=False, name="X_unlabelled")
        ),
    )


def _check_validation(
    estimator: Any, X_val: Any, y_val: Any, target: Target
) -> LabelledInput | None:
    if X_val is None and y_val is None:
        return None
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(
            f"{missing} is None, but the other of X_val and y_val is given. Pass both or neither."
        )
    texts = check_texts(estimator, X_val, reset=False, name="X_val")
    values = target.read(y_val, len(texts), name="y_val", texts="X_val")
    return LabelledInput(texts, values)


@dataclass(frozen=True)
class ClassifierState:
    """What a classifier learns, before it becomes attributes of the estimator.

    Attributes
    ----------
    network : TextClassifier
    tokenizer : transformers.PreTrainedTokenizerBase
    subword_tokenizer : SubwordTokenizer
        The same tokenizer as the engine uses it.
    history : list of dict
        One record per epoch.
    """

    network: TextClassifier
    tokenizer: Any
    subword_tokenizer: SubwordTokenizer
    history: list[dict[str, Any]]

    def fitted_attributes(self, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Attributes with which an estimator can predict, besides those of `Target`."""
        return {
            "model_": self.network.encoder,
            "head_": self.network.head,
            "tokenizer_": self.tokenizer,
            "_subword_tokenizer": self.subword_tokenizer,
            "history_": history,
            "n_epochs_": len(history),
            "device_": str(self.network.device),
            "precision_": precision_name(self.network.precision),
            "pooling_": self.network.pooling,
        }


def state_of(estimator: Any, precision: str) -> ClassifierState:
    """Collect what a fitted classifier has learned; `precision` is that of the computations."""
    dtype = resolve_precision(precision, next(estimator.head_.parameters()).device)
    network = TextClassifier(estimator.model_, estimator.head_, estimator.pooling_, dtype)
    subword_tokenizer = estimator._subword_tokenizer.naming_emoji(estimator.emoji_names)
    return ClassifierState(network, estimator.tokenizer_, subword_tokenizer, estimator.history_)


def copy_state(state: ClassifierState) -> ClassifierState:
    """Copy the weights, which may be memory-mapped or shared with a copy of the estimator."""
    return replace(state, network=copy.deepcopy(state.network))


def with_pooling(state: ClassifierState, pooling: str) -> ClassifierState:
    """Change the pooling to that of the parameter; "auto" keeps it."""
    pooling = resolve_pooling(pooling, state.network.pooling)
    return replace(state, network=replace(state.network, pooling=pooling))


def new_state(
    estimator: Any, pretrained: Pretrained, target: Target, seeds: Seeds
) -> ClassifierState:
    """Copy a pretrained model, put a new head on it, and move both to the device."""
    config = pretrained.config
    rng = np.random.default_rng(seeds.new_weights)
    head = target.new_head(config.hidden_size, config.initializer_range, rng)
    device = resolve_device(estimator.device)
    precision = resolve_precision(estimator.precision, device)
    pooling = resolve_pooling(estimator.pooling, pretrained.pooling)
    network = TextClassifier(pretrained.new_encoder(device), head, pooling, precision)
    return ClassifierState(
        network.to(device), pretrained.new_tokenizer(), pretrained.subword_tokenizer, []
    )


@dataclass(frozen=True)
class PreparedFit:
    """All that a fit of the classifier needs.

    Attributes
    ----------
    start : ClassifierState
        The network before the first step.
    pretrained : Pretrained or None
        None if the fit continues an earlier one.
    target : Target
        What y is.
    training : LabelledTexts
    validation : LabelledTexts or None
    pretraining_texts : Tokens or None
        None if the fit does no masked language modelling.
    options : TrainingOptions
        The parameters of training, with "auto" resolved.
    n_truncated : int
        Number of truncated texts in X.
    n_unknown_tokens : int
        Number of tokens in X that the vocabulary does not contain.
    seeds : Seeds
    kept : KeptRun or None
        None without a `checkpoint_dir`.
    ranks : Ranks or None
        The processes that share the fit; None if this one fits alone.
    """

    start: ClassifierState
    pretrained: Pretrained | None
    target: Target
    training: LabelledTexts
    validation: LabelledTexts | None
    pretraining_texts: Tokens | None
    options: TrainingOptions
    n_truncated: int
    n_unknown_tokens: int
    seeds: Seeds
    kept: KeptRun | None
    ranks: Ranks | None


def continues_fit(estimator: Any) -> bool:
    """Whether `fit` starts from the weights of the last `fit`."""
    return estimator.warm_start and hasattr(estimator, "head_")


def pretrains(estimator: Any) -> bool:
    """Whether `fit` starts with masked language modelling."""
    return estimator.pretraining_epochs > 0 and not continues_fit(estimator)


def prepare_fit(estimator: Any, given: TrainingInput, ranks: Ranks | None = None) -> PreparedFit:
    """Check what depends on the model, load it, tokenise, and move it to the device.

    Raises
    ------
    ValueError
        If a parameter is out of the range that the model or the machine allows.
    OSError
        If the model's files are not available.
    """
    seeds = shared_seeds(estimator.random_state, ranks)
    pretrained = None
    if continues_fit(estimator):
        check_for_model(estimator, estimator.model_.config)
        start = copy_state(state_of(estimator, estimator.precision))
        start = with_pooling(start, estimator.pooling)
        data = tokenize_input(estimator, given, start.subword_tokenizer, estimator.model_.config)
    else:
        check_before_loading(estimator)
        pretrained = load_pretrained(estimator.model).naming_emoji(estimator.emoji_names)
        data = tokenize_input(estimator, given, pretrained.subword_tokenizer, pretrained.config)
        start = new_state(estimator, pretrained, given.target, seeds)
    parts = split(estimator, data, given.target, seeds)
    options = training_options(estimator, len(parts.training.tokens), given.target.n_classes)
    n_epochs = options.max_epochs
    kept = _find_kept_run(estimator, start, data, given.target, seeds, ranks, n_epochs)
    if kept and kept.saved:
        seeds = Seeds(np.random.SeedSequence(kept.saved.position.entropy))
        parts = split(estimator, data, given.target, seeds)
    if pretrained is not None:
        warn_few_steps(estimator, len(parts.training.tokens), options)
    return PreparedFit(
        start=start,
        pretrained=pretrained,
        target=given.target,
        training=parts.training,
        validation=parts.validation,
        pretraining_texts=data.pretraining and data.pretraining.of_rows(parts.rows),
        options=options,
        n_truncated=data.labelled.tokens.n_truncated,
        n_unknown_tokens=LostTokens.of(data.labelled.tokens, start.subword_tokenizer).n_unknown,
        seeds=seeds,
        kept=kept,
        ranks=ranks,
    )


def check_before_loading(estimator: Any) -> None:
    """Raise an error for parameters that do not fit the machine or the model; read no weights."""
    resolve_precision(estimator.precision, resolve_device(estimator.device))
    config = load_config(estimator.model)
    check_for_model(estimator, config)
    if pretrains(estimator):
        check_has_heads(config)
    resolve_pooling(estimator.pooling, load_pooling(estimator.model))


def check_for_model(estimator: Any, config: Any) -> None:
    """Check the parameters of a fit whose range depends on the model, by its configuration."""
    check_max_length(estimator.max_length, longest_text(config))
    check_n_frozen_layers(estimator.n_frozen_layers, config)


@dataclass(frozen=True)
class PretrainingTexts:
    """Texts for masked language modelling inside `fit`.

    Attributes
    ----------
    own : WholeTexts
        The training texts. Nothing of single texts is cut off; pairs are cut as for fine-tuning.
    unlabelled : Tokens
        More texts.
    """

    own: WholeTexts
    unlabelled: Tokens

    def of_rows(self, rows: np.ndarray) -> Tokens:
        """Choose `rows` of the training texts, and all unlabelled texts."""
        return concatenate([self.own.of_texts(rows), self.unlabelled])


@dataclass(frozen=True)
class TokenizedInput:
    """Tokens of all that came to `fit`.

    Attributes
    ----------
    labelled : LabelledTexts
    validation : LabelledTexts or None
    pretraining : PretrainingTexts or None
        None if the fit does no masked language modelling.
    """

    labelled: LabelledTexts
    validation: LabelledTexts | None
    pretraining: PretrainingTexts | None

    def all_data(self) -> list[LabelledTexts | Tokens | None]:
        """All data that the weights will depend on."""
        pretraining = self.pretraining
        more = [pretraining.own.pieces, pretraining.unlabelled] if pretraining else []
        return [self.labelled, self.validation, *more]


def tokenize_input(
    estimator: Any, given: TrainingInput, subword_tokenizer: SubwordTokenizer, config: Any
) -> TokenizedInput:
    """Tokenise all texts, and warn once of what is lost of them."""
    tokens = tokenize(estimator, given.labelled.texts, subword_tokenizer)
    lost = [LostTokens.of(tokens, subword_tokenizer)]
    validation = None
    if given.validation is not None:
        held_out = tokenize(estimator, given.validation.texts, subword_tokenizer)
        lost.append(LostTokens.of(held_out, subword_tokenizer))
        ones = np.ones(len(held_out), dtype=np.float32)
        validation = LabelledTexts(held_out, given.validation.values, ones)
    pretraining = None
    if pretrains(estimator):
        pretraining = _tokenize_for_pretraining(estimator, given, tokens, subword_tokenizer)
        lost.append(LostTokens.of(pretraining.unlabelled, subword_tokenizer))
    forget_warnings(estimator)
    LostTokens.total(lost).warn(estimator, config)
    labelled = LabelledTexts(tokens, given.labelled.values, given.weights)
    return TokenizedInput(labelled, validation, pretraining)


def tokenize(estimator: Any, texts: Texts, subword_tokenizer: SubwordTokenizer) -> Tokens:
    """Tokenise texts or pairs, as the parameters of the estimator say.

    Raises
    ------
    ValueError
        If pairs shall be read in windows.
    """
    if estimator.truncation == WINDOWS:
        if texts.second is not None:
            raise ValueError(
                "truncation='windows' with pairs of texts, but only single texts can be read in "
                "windows. Choose truncation='head+tail', or join the two texts of each pair."
            )
        return tokenize_in_windows(
            subword_tokenizer,
            texts.first,
            max_length=estimator.max_length,
            max_windows=estimator.max_windows,
        )
    return subword_tokenizer(
        texts.first,
        texts.second,
        max_length=estimator.max_length,
        truncation=estimator.truncation,
    )


def _tokenize_for_pretraining(
    estimator: Any, given: TrainingInput, tokens: Tokens, subword_tokenizer: SubwordTokenizer
) -> PretrainingTexts:
    texts, unlabelled, max_length = given.labelled.texts, given.unlabelled, estimator.max_length
    if texts.second is None:
        own = WholeTexts.of(subword_tokenizer, texts.first, max_length)
    else:
        own = WholeTexts(tokens, np.arange(len(tokens)))
    if unlabelled is None:
        more = tokens.take(np.empty(0, dtype=np.int64))
    elif unlabelled.second is None:
        more = WholeTexts.of(subword_tokenizer, unlabelled.first, max_length).pieces
    else:
        more = tokenize(estimator, unlabelled, subword_tokenizer)
    return PretrainingTexts(own, more)


@dataclass(frozen=True)
class Split:
    """The rows to train on, and the texts to validate on.

    Attributes
    ----------
    rows : ndarray of shape (n_training_texts,), int64
    training : LabelledTexts
    validation : LabelledTexts or None
    """

    rows: np.ndarray
    training: LabelledTexts
    validation: LabelledTexts | None


def split(estimator: Any, data: TokenizedInput, target: Target, seeds: Seeds) -> Split:
    """Leave out texts of weight 0, and set validation texts aside where they are needed."""
    labelled, validation = data.labelled, data.validation
    rows = np.flatnonzero(labelled.weights)
    if estimator.early_stopping and validation is None:
        seed = int(seeds.validation_split.generate_state(1)[0])
        fraction = estimator.validation_fraction
        if target.strata is None:
            parts = hold_out_any(len(rows), fraction, seed)
        else:
            parts = hold_out(labelled.labels[rows], target.strata, fraction, seed)
        validation = take_rows(labelled, rows[parts.validation])
        rows = rows[parts.training]
    return Split(rows, take_rows(labelled, rows), validation)


def take_rows(data: LabelledTexts, rows: np.ndarray) -> LabelledTexts:
    """Choose some texts, and divide their weights by the mean of these."""
    weights = data.weights[rows]
    return LabelledTexts(
        data.tokens.take(rows), data.labels[rows], (weights / weights.mean()).astype(np.float32)
    )


def _find_kept_run(
    estimator: Any,
    start: ClassifierState,
    data: TokenizedInput,
    target: Target,
    seeds: Seeds,
    ranks: Ranks | None,
    max_epochs: int,
) -> KeptRun | None:
    """Look in `checkpoint_dir` for this run, and load its weights into the network of `start`."""
    if estimator.checkpoint_dir is None and ranks is None:
        return None
    fingerprint = fingerprint_of_fit(
        estimator,
        start.network,
        data.all_data(),
        seeds,
        heads=[start.network.head] if continues_fit(estimator) else [],
        classes=target.identity,
        n_epochs_before=len(start.history),
    )
    if ranks is not None:
        same = (fingerprint, max_epochs, estimator.checkpoint_dir is None)
        check_same_fit(ranks, same, start.network.device)
    if estimator.checkpoint_dir is None:
        return None
    return find_run(
        Path(estimator.checkpoint_dir),
        fingerprint,
        start.network,
        ranks,
        max_epochs=max_epochs,
        keeps_finished=_keeps_finished_runs(estimator),
    )


def _keeps_finished_runs(estimator: Any) -> bool:
    """Whether a fit continues the finished runs in `checkpoint_dir`, and stays there for others.

    With `warm_start`, the first fit of an estimator does. A search fits new copies only.

    Warns
    -----
    UserWarning
        If `random_state` does not say which run this is.
    """
    if not estimator.warm_start or continues_fit(estimator):
        return False
    if isinstance(estimator.random_state, Integral):
        return True
    kind = type(estimator.random_state).__name__
    shown = "None" if estimator.random_state is None else f"a {kind}"
    warn_user(
        f"warm_start=True and checkpoint_dir={str(estimator.checkpoint_dir)!r} continue finished "
        f"runs with fewer epochs only if random_state is an int, but it is {shown}, which asks for "
        "a new run in each fit. So this fit continues no finished run, and is not kept for longer "
        "ones. Set random_state to an int, or warm_start=False."
    )
    return False
