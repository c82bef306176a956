"""A fitted classifier and texts -> logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skbert.contract.lost_tokens import LostTokens
from skbert.contract.output import check_logits
from skbert.contract.parameters import check_max_length
from skbert.contract.prepare_finetuning import state_of, tokenize
from skbert.contract.progress import show_texts
from skbert.contract.text_parts import texts_in_parts
from skbert.engine.model.families import longest_text
from skbert.engine.prediction.predict import predict_logits


def logits_of(estimator: Any, X: Any) -> np.ndarray:
    """Compute the logits of texts, or of a stream of texts; shape (n_texts, n_classes), float32.

    Raises
    ------
    ValueError, TypeError
        If X or a logit is invalid, or `max_length` does not fit the model.
    NotFittedError
        If the classifier is not fitted.

    Warns
    -----
    TruncationWarning
        If texts are longer than `max_length`, unless `fit` has warned of about as many.
    UnknownTokenWarning
        If more than 3% of the tokens are not in the vocabulary, with the same exception.
    """
    check_is_fitted(estimator)
    estimator._validate_params()  # set_params may have changed them since fit
    state = state_of(estimator, estimator.precision_)
    config = estimator.model_.config
    given = texts_in_parts(estimator, X)
    check_max_length(estimator.max_length, longest_text(config))
    logits: list[np.ndarray] = []
    lost, n_before = [], 0
    with show_texts("predicting", given.n_texts, estimator.verbose) as part:
        for texts in given.parts:
            tokens = tokenize(estimator, texts, state.subword_tokenizer)
            found = predict_logits(state.network, tokens, part(len(texts)))
            logits.append(check_logits(found, n_before))
            lost.append(LostTokens.of(tokens, state.subword_tokenizer))
            n_before += len(texts)
            del texts, tokens  # before the next part of a stream is read
    LostTokens.total(lost).warn(estimator, config)
    return np.concatenate(logits)
