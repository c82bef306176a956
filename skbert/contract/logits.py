"""A fitted classifier and texts -> logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skbert.contract.output import check_logits
from skbert.contract.parameters import check_max_length
from skbert.contract.prepare_finetuning import state_of
from skbert.contract.texts import check_texts, warn_cut
from skbert.contract.unknown_tokens import UnknownTokens
from skbert.engine.prediction.predict import predict_logits

#: Number of texts that are tokenised at once, so that the memory is bounded.
TEXTS_AT_ONCE = 2**14


def logits_of(estimator: Any, X: Any) -> np.ndarray:
    """Compute the logits of texts; shape (n_texts, n_classes), float32.

    Raises
    ------
    ValueError, TypeError
        If X or a logit is invalid, or `max_length` does not fit the model.
    NotFittedError
        If the classifier is not fitted.

    Warns
    -----
    TruncationWarning
        If texts are longer than `max_length`.
    UnknownTokenWarning
        If more than 3% of the tokens are not in the vocabulary.
    """
    check_is_fitted(estimator)
    state = state_of(estimator, estimator.precision_)
    max_length, truncation = estimator.max_length, estimator.truncation
    logits, n_lost, n_kept, unknown = [], [], 0, []
    for texts in check_texts(estimator, X, reset=False).parts(TEXTS_AT_ONCE):
        check_max_length(max_length, estimator.model_.config.max_position_embeddings)
        tokens = state.wordpiece(
            texts.first, texts.second, max_length=max_length, truncation=truncation
        )
        logits.append(predict_logits(state.network, tokens))
        n_lost.append(tokens.n_lost)
        n_kept += len(tokens.ids)
        unknown.append(UnknownTokens.of(tokens, state.wordpiece))
    warn_cut(np.concatenate(n_lost), n_kept, max_length)
    UnknownTokens.total(unknown).warn()
    return check_logits(np.concatenate(logits))
