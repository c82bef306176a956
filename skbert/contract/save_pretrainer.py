"""A fitted pretrainer -> a folder, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from skbert.contract.card import model_card
from skbert.contract.persistence import pretrainer_settings
from skbert.contract.push import PushToHubMixin
from skbert.engine.files.finetuned import save_pretraining_model


class SavePretrainerMixin(PushToHubMixin):
    """`save_pretrained` and `push_to_hub` of the pretrainer."""

    model_: Any
    tokenizer_: Any
    _made_with: str
    _knows_words: bool
    _knows_next_sentence: bool
    _knows_pooler: bool

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, scores: Mapping[str, float] | None = None
    ) -> None:
        """Write encoder, heads and tokenizer to a folder of safetensors and JSON files.

        The folder is a valid `model` for `BertSentimentClassifier`, `BertEmbeddingTransformer` and
        `BertPretrainer`, and ``transformers.AutoModelForMaskedLM.from_pretrained(folder)`` can read
        it, of a BERT also `BertForPreTraining`. skbert writes it under a temporary name and then
        renames it. The folder also contains heads or poolers with random weights, because
        transformers requires them. The header of ``model.safetensors`` marks these, so that skbert
        does not use them as trained ones. Its README.md describes the model.

        Parameters
        ----------
        folder : str or path
            A new or empty folder, or one that an earlier `save_pretrained` wrote, which is
            replaced.
        scores : dict of str to float, default=None
            Scores of the model on test texts, for README.md, as in ``{"perplexity": 5.2}``.

        Raises
        ------
        FileExistsError
            If the folder contains anything else, or its README.md was edited.
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If a score is not a finite number.

        Warns
        -----
        UserWarning
            If `random_state` is an instance, which is saved as None.

        See Also
        --------
        from_pretrained : Load the folder.
        push_to_hub : Upload the folder to the Hugging Face Hub.
        """
        check_is_fitted(self)
        self._validate_params()  # `from_pretrained` would refuse the folder
        self._save(Path(folder), model_card(self, scores))

    def _save(self, folder: Path, card: str) -> None:
        save_pretraining_model(
            folder,
            self.model_,
            self.tokenizer_,
            pretrainer_settings(self),
            made_with=self._made_with,
            knows_words=self._knows_words,
            knows_next_sentence=self._knows_next_sentence,
            knows_pooler=self._knows_pooler,
            card=card,
        )
