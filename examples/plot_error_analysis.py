"""
Analyse errors and probabilities
================================

An accuracy does not tell which texts a model gets wrong, or whether you can trust its
probabilities. This example reads the most confident mistakes, searches for similar texts with
different labels, and calibrates the probabilities.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from sklearn.neighbors import NearestNeighbors

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.datasets import load_movie_reviews

# %%
# Train on 500 sentences
# ----------------------
# 500 other sentences are for the calibration, and 1,000 for the test.

reviews = load_movie_reviews("rotten_tomatoes").sample(frac=1, random_state=0)
X, y = reviews["text"].to_numpy(), reviews["sentiment"].to_numpy()
X_train, X_calibration, X_test = X[:500], X[500:1000], X[1000:2000]
y_train, y_calibration, y_test = y[:500], y[500:1000], y[1000:2000]

clf = BertSentimentClassifier(random_state=0).fit(X_train, y_train)
probabilities = clf.predict_proba(X_test)
y_pred = clf.classes_[probabilities.argmax(axis=1)]
print(f"accuracy on 1,000 test sentences: {accuracy_score(y_test, y_pred):.3f}")


def excerpt(text):
    """Cut a long text and break it into lines, for printing."""
    short = textwrap.shorten(text, width=170, placeholder=" ...")
    return textwrap.fill(short, width=88, initial_indent="    ", subsequent_indent="    ")


# %%
# Most confident mistakes
# -----------------------
# We sort the mistakes by the probability of the wrong class and read the first ten. Look for
# patterns: praise inside a bad review, irony, missing context, wrong labels. Here, most of them
# are bad reviews that begin with praise ("elegantly crafted but ..."), and some are ironic.
# The model gives all of them a probability near 1.

confidence = probabilities.max(axis=1)
mistakes = np.flatnonzero(y_pred != y_test)
for i in mistakes[np.argsort(-confidence[mistakes])][:10]:
    print(f"{y_pred[i]} ({confidence[i]:.3f}), label {y_test[i]}:\n{excerpt(X_test[i])}")

# %%
# Similar texts with different labels
# -----------------------------------
# Two texts that say the same should have the same label. We encode all sentences and find the
# nearest neighbour of each. The model must not be one that was trained for sentiment: its vectors
# would move apart two texts with opposite labels, and hide what we search for.

encoder = BertEmbeddingTransformer("sentence-transformers/all-MiniLM-L6-v2", pooling="mean")
vectors = encoder.fit_transform(X)
neighbours = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectors)
distance, neighbour = (found[:, 0] for found in neighbours.kneighbors())
similarity = 1 - distance

pairs = [(i, j) for i, j in enumerate(neighbour) if i < j or neighbour[j] != i]
pairs.sort(key=lambda pair: -similarity[pair[0]])
for i, j in [(i, j) for i, j in pairs if y[i] != y[j]][:6]:
    print(f"similarity {similarity[i]:.2f}")
    print(f"{y[i]}:\n{excerpt(X[i])}\n{y[j]}:\n{excerpt(X[j])}")

# %%
# Read such pairs before you change a label. These are mostly two opinions about the same film or
# about the same kind of film, and both labels are correct: the vectors represent the topic more
# than the judgement. The most similar pair of all is a different problem, a copy. If one copy is in
# the training texts and the other in the test texts, the accuracy is too high.

i, j = pairs[0]
print(f"similarity {similarity[i]:.2f}")
print(f"{y[i]}:\n{excerpt(X[i])}\n{y[j]}:\n{excerpt(X[j])}")

# %%
# Calibrate the probabilities
# ---------------------------
# Of 100 texts with a probability of 0.9, 90 should have the predicted label. Temperature scaling
# divides the logits by one number, which it fits on texts that the model has not seen.
# `FrozenEstimator` keeps the fitted classifier as it is. `method="temperature"` needs
# scikit-learn 1.8 or later. It does not change the predicted labels.

calibrated = CalibratedClassifierCV(FrozenEstimator(clf), method="temperature")
calibrated.fit(X_calibration, y_calibration)
results = {"before": probabilities, "after": calibrated.predict_proba(X_test)}
print(f"{'calibration':<11} {'accuracy':>9} {'confidence':>11} {'Brier score':>12} {'log loss':>9}")
for name, p in results.items():
    accuracy = accuracy_score(y_test, clf.classes_[p.argmax(axis=1)])
    brier = brier_score_loss(y_test, p[:, 1], pos_label="positive")
    loss = log_loss(y_test == "positive", p[:, 1])
    print(f"{name:<11} {accuracy:9.3f} {p.max(axis=1).mean():11.3f} {brier:12.4f} {loss:9.4f}")

# %%
# The confidence is the mean probability of the predicted class. If it is above the accuracy, the
# model is overconfident, as it is here before the calibration. Lower is better for the Brier score
# and the log loss. Both also count the mistakes, which calibration cannot remove.
#
# Each point of the plot is the mean of 100 test sentences, so it has a standard error of up to
# 0.05. On the right, a point below the diagonal means that the model predicts "positive" with too
# much confidence. On the left, a point above the diagonal means the same for "negative".

figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
for name, p in results.items():
    CalibrationDisplay.from_predictions(
        y_test,
        p[:, 1],
        pos_label="positive",
        n_bins=10,
        strategy="quantile",
        name=f"{name} calibration",
        ax=ax,
    )
ax.set(xlabel='mean probability of "positive"', ylabel='share of "positive"')
plt.savefig("error_analysis.png", dpi=150)
plt.show()
