"""A prepared fit of the classifier -> trained weights and their history.

Masked language modelling, fine-tuning, and the single epochs of `partial_fit`. What an epoch does
is in engine/training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from skbert.contract.callbacks import EpochTasks
from skbert.contract.data_sizes import sizes_with_more
from skbert.contract.fingerprints import fingerprint_of_fit
from skbert.contract.first_head import start_head
from skbert.contract.fitting import EpochLoop, Transaction
from skbert.contract.lost_tokens import LostTokens
from skbert.contract.prepare_finetuning import (
    ClassifierState,
    PreparedFit,
    TargetCheck,
    check_before_loading,
    check_for_model,
    copy_state,
    new_state,
    state_of,
    take_rows,
    tokenize,
    with_pooling,
)
from skbert.contract.progress import FitProgress, PlannedEpoch, plan_epochs, show_fit
from skbert.contract.ranks import check_same_fit, shared_seeds, verbose_of
from skbert.contract.steps import resolve_learning_rate, training_options
from skbert.contract.texts import check_texts
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model.device import precision_name
from skbert.engine.training.classification import (
    Classification,
    LabelledTexts,
    TrainingRun,
    evaluate,
)
from skbert.engine.training.distributed import Ranks
from skbert.engine.training.loop import (
    Trainer,
    TrainingOptions,
    open_ended_trainer,
    steps_per_epoch,
)
from skbert.engine.training.masked_lm import within_task_pretraining
from skbert.engine.training.resume import restore_position
from skbert.engine.training.stopping import EarlyStopping, way_back


def plan_fit(estimator: Any, prepared: PreparedFit) -> list[PlannedEpoch]:
    """List the epochs that a fit is going to train, those of pre-training first."""
    n_before = len(prepared.start.history)
    n_steps = steps_per_epoch(len(prepared.training.tokens), prepared.options.batch_size)
    epochs = plan_epochs("epoch", prepared.options.max_epochs, n_steps, n_before)
    if prepared.kept and prepared.kept.saved:
        position = prepared.kept.saved.position
        return [] if position.stopped else epochs[len(position.history) - n_before :]
    if prepared.pretraining_texts is None or prepared.pretrained is None:
        return epochs
    options = _pretraining_options(estimator, len(prepared.pretraining_texts))
    n_steps = steps_per_epoch(len(prepared.pretraining_texts), options.batch_size)
    return [*plan_epochs("pre-training epoch", options.max_epochs, n_steps), *epochs]


def _pretraining_options(estimator: Any, n_texts: int) -> TrainingOptions:
    """Collect the parameters of masked language modelling inside a fit."""
    learning_rate = resolve_learning_rate(
        estimator.learning_rate, n_texts, contains_classifier=False
    )
    return replace(
        training_options(estimator, n_texts, n_classes=None),
        max_epochs=estimator.pretraining_epochs,
        learning_rate=learning_rate,
        n_frozen_layers=0,
    )


def pretrain_encoder(
    estimator: Any, prepared: PreparedFit, progress: FitProgress
) -> list[dict[str, Any]]:
    """Train the encoder in place by masked language modelling, and return the history.

    The history is empty if the fit does no masked language modelling.
    """
    if prepared.pretraining_texts is None or prepared.pretrained is None:
        return []
    if prepared.kept and prepared.kept.saved:
        return prepared.kept.saved.position.pretraining_history
    network = prepared.start.network
    options = _pretraining_options(estimator, len(prepared.pretraining_texts))
    run = within_task_pretraining(
        network.encoder,
        prepared.pretrained,
        prepared.pretraining_texts,
        options,
        prepared.seeds.pretraining,
        network.precision,
    )
    history = []
    with run.trainer.shared_by(prepared.ranks):
        for _ in range(options.max_epochs):
            history.append(run.epoch(progress.after_step).as_dict())
            progress.end_epoch(history[-1])
    return history


def fine_tune(
    estimator: Any,
    prepared: PreparedFit,
    pretraining_history: list[dict[str, Any]],
    tasks: EpochTasks,
    progress: FitProgress,
) -> tuple[list[dict[str, Any]], int]:
    """Train the network of `prepared.start` in place.

    Returns
    -------
    history : list of dict
        One record per epoch.
    best_epoch : int
        The epoch whose weights are kept, from 1.
    """
    start, kept, options = prepared.start, prepared.kept, prepared.options
    n_epochs = options.max_epochs
    criterion, seed = prepared.target.criterion, prepared.seeds.training
    if prepared.pretrained is not None and not (kept and kept.saved):
        classifier = prepared.pretrained.classifier
        start_head(start.network, prepared.training, classifier, criterion, prepared.ranks)
    run = TrainingRun(start.network, prepared.training, options, seed, criterion)
    stopping = None
    if estimator.early_stopping:
        stopping = EarlyStopping(start.network, estimator.n_iter_no_change)

    def validate() -> dict[str, float]:
        if prepared.validation is None:
            return {}
        found = evaluate(start.network, prepared.validation, criterion, prepared.ranks)
        return {"val_loss": found.loss, "val_score": found.score}

    def save(history: list[dict[str, Any]], stopped: bool, by_callback: bool) -> None:
        if kept:
            if by_callback:
                kept.forget_when_finished()
            kept.write(
                run.trainer,
                stopping,
                entropy=prepared.seeds.root.entropy,
                history=history,
                pretraining_history=pretraining_history,
                stopped=stopped,
            )

    loop = EpochLoop(
        run=run,
        tasks=tasks,
        progress=progress,
        fitted_attributes=lambda history: (
            start.fitted_attributes(history) | prepared.target.attributes
        ),
        validate=validate,
        stopping=stopping,
        save=save,
    )
    history = start.history
    if kept and kept.saved:
        restore_position(kept.saved, run.trainer, stopping)
        history = kept.saved.position.history
        n_done = len(history) - len(start.history)
        n_epochs = 0 if kept.saved.position.stopped else n_epochs - n_done
    with run.trainer.shared_by(prepared.ranks):
        history = loop.train(n_epochs, history)
    if stopping is None:
        return history, len(history)
    stopping.restore()
    best_epoch = len(start.history) + stopping.best_epoch
    progress.keep(best_epoch)
    return history, best_epoch


def fine_tune_one_epoch(
    estimator: Any,
    check_targets: TargetCheck,
    X: Any,
    y: Any,
    sample_weight: Any,
    transaction: Transaction,
    ranks: Ranks | None,
) -> dict[str, Any]:
    """Train one epoch on more texts, and return the fitted attributes.

    The weights of a fitted estimator change in place; `transaction` restores them if the epoch
    fails. `ranks` are the processes that share the epoch.
    """
    is_first = not hasattr(estimator, "head_")
    texts = check_texts(estimator, X, reset=is_first)
    checked = check_targets(y, len(texts), sample_weight)
    seeds = shared_seeds(estimator.random_state, ranks)
    if is_first:
        check_before_loading(estimator)
        pretrained = load_pretrained(estimator.model).naming_emoji(estimator.emoji_names)
        tokens = tokenize(estimator, texts, pretrained.subword_tokenizer)
        start = new_state(estimator, pretrained, checked.target, seeds)
    else:
        check_for_model(estimator, estimator.model_.config)
        start = with_pooling(state_of(estimator, estimator.precision), estimator.pooling)
        tokens = tokenize(estimator, texts, start.subword_tokenizer)
    lost = LostTokens.of(tokens, start.subword_tokenizer)
    lost.warn(estimator, start.network.encoder.config)
    labelled = LabelledTexts(tokens, checked.values, checked.weights)
    training = take_rows(labelled, np.flatnonzero(checked.weights))
    trainer = getattr(estimator, "_trainer", None)
    n_classes = checked.target.n_classes
    options = _open_ended_options(estimator, len(training.tokens), n_classes, trainer)
    if trainer is None or not _fits(trainer, options, estimator, start):
        start = start if is_first else copy_state(start)
        n_texts = len(training.tokens)
        trainer = open_ended_trainer(start.network, n_texts, options, seeds.training)
    if ranks is not None:
        fingerprint = fingerprint_of_fit(
            estimator,
            start.network,
            [labelled],
            seeds,
            heads=[] if is_first else [start.network.head],
            classes=checked.target.identity,
            n_epochs_before=len(start.history),
        )
        position = trainer.position()
        same = (fingerprint, position["n_steps"], position["n_epochs"], position["order"])
        check_same_fit(ranks, same, start.network.device)
    if not is_first:
        transaction.undo.append(way_back(start.network))
    objective = Classification(start.network, training, options, checked.target.criterion)
    n_before = len(start.history)
    n_steps = steps_per_epoch(len(training.tokens), options.batch_size)
    planned = plan_epochs("epoch", 1, n_steps, n_before)
    verbose = verbose_of(estimator.verbose, ranks)
    with trainer.shared_by(ranks), show_fit(verbose, planned) as progress:
        record = trainer.epoch(objective, progress.after_step).as_dict() | {"epoch": n_before + 1}
        progress.end_epoch(record)
    history = [*start.history, record]
    learned = start.fitted_attributes(history) | checked.target.attributes
    return learned | {
        "best_epoch_": len(history),
        "batch_size_": options.batch_size,
        "learning_rate_": options.learning_rate,
        "n_truncated_": lost.n_truncated,
        "n_unknown_tokens_": lost.n_unknown,
        "_trainer": trainer,
        **sizes_with_more(estimator, training, checked.target),
    }


def _open_ended_options(
    estimator: Any, n_texts: int, n_classes: int | None, trainer: Trainer | None
) -> TrainingOptions:
    """Collect the parameters of one epoch; what "auto" is stays that of the first call."""
    options = replace(training_options(estimator, n_texts, n_classes), max_epochs=1)
    if trainer is None:
        return options
    return replace(
        options,
        **{
            name: getattr(trainer.options, name)
            for name in ("batch_size", "learning_rate")
            if getattr(estimator, name) == "auto"
        },
    )


def _fits(
    trainer: Trainer, options: TrainingOptions, estimator: Any, start: ClassifierState
) -> bool:
    """Whether the optimizer of the last `partial_fit` can continue with these parameters."""
    return (
        trainer.options == options
        and estimator.precision_ == precision_name(start.network.precision)
        and not trainer.was_interrupted
    )
