"""
Fine-tune BERT on movie reviews
===============================

This example classifies sentences about films with `BertSentimentClassifier`: first without a label,
then with 200 labels, and then with 2,000. The baseline is a linear model on word counts, which
cannot see that "not" changes the meaning of "funny".
"""

import time

import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skbert import BertSentimentClassifier
from skbert.datasets import load_movie_reviews

# %%
# Load the reviews
# ----------------
# The sentences come from Rotten Tomatoes reviews. Half of them are positive and half are
# negative.

reviews = load_movie_reviews("rotten_tomatoes")
X_train, X_test, y_train, y_test = train_test_split(
    reviews["text"],
    reviews["sentiment"],
    train_size=2000,
    test_size=1000,
    stratify=reviews["sentiment"],
    random_state=0,
)

# %%
# Predict without a label
# -----------------------
# The default model has learned from other reviews, those of IMDB. It predicts "negative" and
# "positive" without more training.

accuracies = {}
start = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
accuracies["BERT, no label"] = start.score(X_test, y_test)
print(f"no label: accuracy {accuracies['BERT, no label']:.3f}")

# %%
# Train with 200 labels
# ---------------------
# With few texts, `fit` takes small batches and more epochs.

few = BertSentimentClassifier(random_state=0).fit(X_train[:200], y_train[:200])
accuracies["BERT, 200 labels"] = few.score(X_test, y_test)
print(f"200 labels: accuracy {accuracies['BERT, 200 labels']:.3f}")
print(f"epochs: {few.max_epochs_}, texts per step: {few.batch_size_}")

# %%
# Train with 2,000 labels
# -----------------------
# `fit` fine-tunes all layers of a small BERT. With `verbose=1`, it shows its progress. The baseline
# gets the same 2,000 sentences.

bert = BertSentimentClassifier(random_state=0, verbose=1)
counts = make_pipeline(TfidfVectorizer(), LogisticRegression())
rows = []
for name, classifier in {"TF-IDF": counts, "BERT": bert}.items():
    begin = time.perf_counter()
    classifier.fit(X_train, y_train)
    fitted = time.perf_counter()
    y_pred = classifier.predict(X_test)
    predicted = time.perf_counter()
    accuracies[f"{name}, 2,000 labels"] = accuracy_score(y_test, y_pred)
    rows.append((name, accuracies[f"{name}, 2,000 labels"], fitted - begin, predicted - fitted))

# %%
# The time depends on the machine.

print(f"{'2,000 labels':14} {'accuracy':>8} {'fit':>8} {'predict':>8}")
for name, accuracy, fit_seconds, predict_seconds in rows:
    print(f"{name:14} {accuracy:8.3f} {fit_seconds:6.1f} s {predict_seconds:6.1f} s")

# %%
# Predict your own sentences
# --------------------------
# The second sentence is the negation of a positive sentence.

sentences = [
    "I love completing my todos! Best app ever!!!",
    "I do not love completing my todos, and this is not the best app ever.",
]
for sentence, probabilities in zip(sentences, bert.predict_proba(sentences), strict=True):
    best = probabilities.argmax()
    print(f"{bert.classes_[best]} ({probabilities[best]:.2f}): {sentence}")

# %%
# Compare the accuracies
# ----------------------
# With 1,000 test sentences, an accuracy near 0.8 has a standard error of 0.013, so smaller
# differences mean nothing. :doc:`plot_error_analysis` shows which sentences the model gets wrong.

figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
order = sorted(accuracies, key=accuracies.get)
colors = ["C0" if name.startswith("BERT") else "gray" for name in order]
bars = ax.barh(order, [accuracies[name] for name in order], color=colors)
ax.bar_label(bars, fmt="%.3f", padding=4)
ax.set(xlim=(0.5, 0.9), xlabel="accuracy (chance: 0.5)", title="1,000 test sentences")
plt.savefig("quickstart.png", dpi=150)
plt.show()
