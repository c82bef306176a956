"""What the classifier and the regressor share: a fit in one transaction, folders and pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skbert.contract.callbacks import CallbackSupportMixin, EpochTasks
from skbert.contract.card import model_card
from skbert.contract.data_sizes import sizes_of_fit
from skbert.contract.finetuning import (
    fine_tune,
    fine_tune_one_epoch,
    plan_fit,
    pretrain_encoder,
)
from skbert.contract.fitting import all_or_nothing
from skbert.contract.logits import logits_of
from skbert.contract.parameters import DEVICES, MODELS, N_THREADS, TextInputMixin
from skbert.contract.persistence import (
    migrate_state,
    resolve_saved_device,
    settings_of,
    stamp_state,
    warn_of_own_form,
)
from skbert.contract.prepare_finetuning import check_input, prepare_fit, pretrains
from skbert.contract.progress import show_fit
from skbert.contract.push import PushToHubMixin
from skbert.contract.ranks import verbose_of
from skbert.contract.targets import CheckedTargets
from skbert.engine.files.arrays import pack_encoder, to_arrays, unpack_encoder, unpack_head
from skbert.engine.files.finetuned import Task, save_classifier
from skbert.engine.files.tokenizer_files import (
    pack_tokenizer,
    subword_tokenizer_of,
    unpack_tokenizer,
)
from skbert.engine.model.device import loaded_precision, precision_name
from skbert.engine.model.families import n_segments
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.pooling import POOLINGS
from skbert.engine.text.layout import TRUNCATIONS, smallest_max_length
from skbert.engine.text.windows import WINDOWS
from skbert.engine.training.distributed import ranks_of_fit


class FineTunedEstimator(CallbackSupportMixin, TextInputMixin, PushToHubMixin, BaseEstimator):
    """An estimator that fine-tunes an encoder and a head on texts and a y.

    A subclass has the parameters of `_parameter_constraints`, says with `_check_targets` and
    `_check_more_targets` what y is, and predicts from `_logits`.
    """

    model_: Any
    head_: Any
    history_: list[dict[str, Any]]
    n_epochs_: int
    best_epoch_: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": MODELS,
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "max_length": [Interval(Integral, smallest_max_length(1), None, closed="left")],
        "truncation": [StrOptions({*TRUNCATIONS, WINDOWS})],
        "max_windows": [Interval(Integral, 2, None, closed="left"), None],
        "emoji_names": ["boolean"],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_fraction": [Interval(Real, 0, 1, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_frozen_layers": [Interval(Integral, 0, None, closed="left")],
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

    def _check_targets(self, y: Any, n_texts: int, sample_weight: Any) -> CheckedTargets:
        """Check the y of `fit`."""
        raise NotImplementedError

    def _check_more_targets(
        self, classes: Any, y: Any, n_texts: int, sample_weight: Any
    ) -> CheckedTargets:
        """Check the y of `partial_fit`; `classes` is None without such an argument."""
        raise NotImplementedError

    def _task(self) -> Task:
        """Describe what the head computes, for the configuration of a saved folder."""
        raise NotImplementedError

    def _network_to_save(self) -> TextClassifier:
        """Return the network with a head that transformers can compute."""
        return TextClassifier(self.model_, self.head_, self.pooling_)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any, X_unlabelled: Any
    ) -> None:
        """Check, load, train, and set the fitted attributes at once."""
        self._validate_params()
        with all_or_nothing(self) as transaction, ranks_of_fit() as ranks:
            unlabelled = X_unlabelled if pretrains(self) else None
            given = check_input(
                self, self._check_targets, X, y, sample_weight, X_val, y_val, unlabelled
            )
            prepared = prepare_fit(self, given, ranks)
            verbose = verbose_of(self.verbose, ranks)
            with show_fit(verbose, plan_fit(self, prepared)) as progress:
                pretraining_history = pretrain_encoder(self, prepared, progress)
                tasks = EpochTasks(self, prepared.options.max_epochs, X, y, sample_weight, ranks)
                history, best_epoch = fine_tune(
                    self, prepared, pretraining_history, tasks, progress
                )
            learned = prepared.start.fitted_attributes(history) | prepared.target.attributes
            learned |= {
                "pretraining_history_": pretraining_history,
                "best_epoch_": best_epoch,
                **sizes_of_fit(prepared.training, prepared.validation, prepared.target),
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
                transaction.afterwards.append(prepared.kept.end)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> None:
        """Train one epoch, and set the fitted attributes at once."""
        self._validate_params()
        with all_or_nothing(self) as transaction, ranks_of_fit() as ranks:
            check = partial(self._check_more_targets, classes)
            learned = fine_tune_one_epoch(self, check, X, y, sample_weight, transaction, ranks)
            vars(self).update(learned)

    def _logits(self, X: Any) -> np.ndarray:
        return logits_of(self, X)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, scores: Mapping[str, float] | None = None
    ) -> None:
        """Write the fitted estimator to a folder of safetensors and JSON files.

        The folder contains no pickle, and a README.md that describes the estimator. If `pooling_`
        is "cls", transformers can also read the folder, as in
        ``transformers.pipeline("text-classification", folder)``, and gives the same probabilities
        to within 1e-5, for single texts of at most `max_length` tokens. Of a regressor, it gives
        the numbers, which it does not limit to the range of y, or, with "ordinal", the
        probabilities of being above each level. skbert writes the folder under a temporary name
        and then renames it, so a crash or a full disk leaves an existing folder unchanged.
        `checkpoint_dir`, a path on this machine, is saved as None.

        Parameters
        ----------
        folder : str or path
            A new or empty folder, or one that an earlier `save_pretrained` wrote, which is
            replaced.
        scores : dict of str to float, default=None
            Scores of the estimator on test texts, for README.md, as in ``{"accuracy": 0.91}``.

        Raises
        ------
        FileExistsError
            If the folder contains anything else, or its README.md was edited.
        TypeError, ValueError
            If a score is not a finite number, or a parameter is not allowed.
        OSError
            If the files cannot be written, for example because the disk is full.
        NotFittedError
            If the estimator is not fitted.

        Warns
        -----
        UserWarning
            If the pooling is "mean", which transformers does not support, or if the model runs
            through the padded forward of transformers (:doc:`/encoders`): only `from_pretrained`
            can then use the folder. Also if `random_state` is an instance, which is saved as None.

        See Also
        --------
        push_to_hub : Upload the folder to the Hugging Face Hub.
        from_pretrained : Load the folder.
        """
        check_is_fitted(self)
        self._validate_params()  # `from_pretrained` would refuse the folder
        self._save(Path(folder), model_card(self, scores))

    def _save(self, folder: Path, card: str) -> None:
        warn_of_own_form(self)
        network, task = self._network_to_save(), self._task()
        save_classifier(folder, network, self.tokenizer_, settings_of(self), task, card)

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
            del state["_subword_tokenizer"]
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
            self._subword_tokenizer = subword_tokenizer_of(
                self.tokenizer_, type_vocab_size=n_segments(config)
            )

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the estimator has been fitted."""
        return hasattr(self, "head_")
