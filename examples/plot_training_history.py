"""
Recognise overfitting
=====================

A model overfits when it learns its training texts by heart: the training loss falls while the loss
of other texts rises. This example trains for up to ten epochs on few texts.
`TrainingHistoryDisplay` shows where overfitting starts, and which epoch `early_stopping` keeps.
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import train_test_split

from skbert import BertSentimentClassifier
from skbert.datasets import load_movie_reviews
from skbert.inspection import TrainingHistoryDisplay

# %%
# Load the reviews
# ----------------
# We train on 600 sentences and validate on 300 others.

reviews = load_movie_reviews("rotten_tomatoes")
X_train, X_val, y_train, y_val = train_test_split(
    reviews["text"],
    reviews["sentiment"],
    train_size=600,
    test_size=300,
    stratify=reviews["sentiment"],
    random_state=0,
)

# %%
# Train with validation texts
# ---------------------------
# `fit` computes the loss and the accuracy of the validation texts after each epoch. With
# `early_stopping`, it stops when the validation loss has not improved for `n_iter_no_change`
# epochs, and restores the weights of the best epoch. The default model has learned sentiment
# already, so this example takes a model that has not: it has more to learn before it overfits.

clf = BertSentimentClassifier(
    "sentence-transformers/all-MiniLM-L6-v2",
    max_epochs=10,
    early_stopping=True,
    n_iter_no_change=3,
    random_state=0,
)
clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"trained {clf.n_epochs_} of {clf.max_epochs} epochs, kept epoch {clf.best_epoch_}")

# %%
# Compare the epochs
# ------------------
# `history_` has one record per epoch. The training loss of the last epoch is much lower than that
# of the best epoch. The validation loss is higher: the model is more often wrong with high
# confidence. The accuracy can stay the same or even rise a little at the same time, because it
# ignores the confidence. With 300 validation texts, its standard error is 0.025.

best, last = clf.history_[clf.best_epoch_ - 1], clf.history_[-1]
print(f"{'':>20} {'best epoch':>11} {'last epoch':>11}")
for key in ["train_loss", "val_loss", "val_score"]:
    print(f"{key:>20} {best[key]:11.3f} {last[key]:11.3f}")

# %%
# Plot the history
# ----------------

figure, ax = plt.subplots(figsize=(6, 5.4), layout="constrained")
TrainingHistoryDisplay.from_estimator(clf, ax=ax)
plt.savefig("training_history.png", dpi=150)
plt.show()
