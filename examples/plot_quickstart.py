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
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score
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

start = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
print(f"no label: accuracy {start.score(X_test, y_test):.3f}")

# %%
# Train with 200 labels
# ---------------------
# With few texts, `fit` takes small batches and more epochs.

few = BertSentimentClassifier(random_state=0).fit(X_train[:200], y_train[:200])
print(f"200 labels: accuracy {few.score(X_test, y_test):.3f}")
print(f"epochs: {few.max_epochs_}, texts per step: {few.batch_size_}")

# %%
# Train with 2,000 labels
# -----------------------
# `BertSentimentClassifier` fine-tunes all layers of a small BERT in `fit`.

classifiers = {
    "TF-IDF + LogisticRegression": make_pipeline(TfidfVectorizer(), LogisticRegression()),
    "BertSentimentClassifier": BertSentimentClassifier(random_state=0, verbose=1),
}
print(f"{'':28} {'accuracy':>8} {'fit':>8} {'predict':>8}")
for name, classifier in classifiers.items():
    begin = time.perf_counter()
    classifier.fit(X_train, y_train)
    fitted = time.perf_counter()
    y_pred = classifier.predict(X_test)
    predicted = time.perf_counter()
    accuracy = accuracy_score(y_test, y_pred)
    print(f"{name:28} {accuracy:8.3f} {fitted - begin:6.1f} s {predicted - fitted:6.1f} s")

# %%
# Predict your own sentences
# --------------------------
# The second sentence is the negation of a positive sentence.

bert = classifiers["BertSentimentClassifier"]
sentences = [
    "I love completing my todos! Best app ever!!!",
    "I do not love completing my todos, and this is not the best app ever.",
]
for sentence, probabilities in zip(sentences, bert.predict_proba(sentences), strict=True):
    best = probabilities.argmax()
    print(f"{bert.classes_[best]} ({probabilities[best]:.2f}): {sentence}")

# %%
# Errors
# ------
# The confusion matrix shows how many sentences of each class BERT gets wrong.

ConfusionMatrixDisplay.from_predictions(y_test, y_pred, cmap="Blues", colorbar=False)
plt.title("BertSentimentClassifier on 1,000 test sentences")
plt.tight_layout()
plt.savefig("quickstart_confusion_matrix.png", dpi=150)
plt.show()
