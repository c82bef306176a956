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
from skbert.contract.texts import check_texts
from skbert.engine.model.families import longest_text
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
        If texts are longer than `max_length`, unless `fit` has warned of about as many.
    UnknownTokenWarning
        If more than 3% of the tokens are not in the vocabulary, with the same exception.
    """
    check_is_fitted(estimator)
    state = state_of(estimator, estimator.precision_)
    config = estimator.model_.config
    logits, lost = [], []
    given = check_texts(estimator, X, reset=False)
    with show_texts("predicting", len(given), estimator.verbose) as part:
        for texts in given.parts(TEXTS_AT_ONCE):
            check_max_length(estimator.max_length, longest_text(config))
            tokens = tokenize(estimator, texts, state.wordpiece)
            logits.append(predict_logits(state.network, tokens, part(len(texts))))
            lost.append(LostTokens.of(tokens, state.wordpiece))
    LostTokens.total(lost).warn(estimator, config)
    return check_logits(np.concatenate(logits))
