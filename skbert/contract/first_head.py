"""A first linear layer that already separates the training texts: a logistic regression.

A random layer sends random gradients through the encoder until it has learned, and a few texts
cannot repair what they change. So with few texts, `fit` starts with the logistic regression on the
vectors of the pretrained encoder, and fine-tunes both from there [1]_.

.. [1] A. Kumar et al. Fine-Tuning can Distort Pretrained Features and Underperform
   Out-of-Distribution. ICLR 2022, arXiv:2202.10054.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.predict import predict_vectors
from skbert.engine.training.classification import LabelledTexts

#: The most training texts for which `fit` starts with a logistic regression. A fit of three epochs
#: would spend about a tenth of its time on the vectors. Larger numbers were not measured.
MOST_TEXTS = 512

# Inverse of the L2 penalty, for vectors of norm 1 on average. For mean vectors as they are, this is
# C=0.07 with skbert/minilm-sentiment, and 0.2 with all-MiniLM-L6-v2. In trials on reviews and
# tweets, 0.1 gave better accuracies than 1 and 10; values near 0.1 were not compared.
_C = 3.0


def start_head(network: TextClassifier, data: LabelledTexts) -> None:
    """Set the linear layer to a logistic regression on the vectors of the encoder, in place.

    The layer stays as it is if there are more than `MOST_TEXTS` texts, if a class has no text, or
    if a vector is not finite, of which training itself will warn.

    Parameters
    ----------
    network : TextClassifier
    data : LabelledTexts
        The training texts.
    """
    n_classes = network.head.out_features
    if len(data.labels) > MOST_TEXTS or len(np.unique(data.labels)) < n_classes:
        return
    vectors = predict_vectors(network, data.tokens)
    norm = float(np.linalg.norm(vectors, axis=1).mean())
    if not np.isfinite(norm) or norm == 0:
        return
    regression = LogisticRegression(C=_C, max_iter=1000)
    regression.fit(vectors / norm, data.labels, sample_weight=data.weights)
    weight, bias = regression.coef_ / norm, regression.intercept_
    if n_classes == 2:  # scikit-learn has one logit, the difference of the two here
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))
