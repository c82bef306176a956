"""
Text and numbers in one model
=============================

A review rarely comes alone: a table also has dates, prices or facts about its author. This example
predicts the sentiment from the text, from two numeric columns, and from both, with a
``ColumnTransformer``. The reviews are real. The numeric columns are simulated, so the size of the
gain means nothing; the example shows how to get it.
"""

import matplotlib.pyplot as plt
import numpy as np
from numpy.random import default_rng
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skbert import BertEmbeddingTransformer
from skbert.datasets import load_movie_reviews

# %%
# A table with a text column
# --------------------------
# We use 3,000 sentences from film reviews, and simulate two facts about their authors: the mean of
# the stars that they gave to other films, and the number of their reviews. People who like this
# film gave on average half a star more to others. The number of reviews says nothing about the
# sentiment.

reviews = load_movie_reviews("rotten_tomatoes").sample(3000, random_state=0)
rng = default_rng(0)
liked = reviews["sentiment"] == "positive"
stars = rng.normal(np.where(liked, 3.5, 3.0), 0.5).clip(1, 5)
reviews["mean_stars"] = stars.round(1)
reviews["n_reviews"] = rng.geometric(0.05, len(reviews))
train, test = train_test_split(
    reviews, test_size=1000, stratify=reviews["sentiment"], random_state=0
)
print(train.head(3).to_string(index=False, max_colwidth=40))

# %%
# One ColumnTransformer for each question
# ---------------------------------------
# BERT turns the text column into 384 columns, and the numeric columns are scaled. With
# ``cache="memory"``, both models that read the text share its vectors.

text = ("text", BertEmbeddingTransformer(cache="memory"), "text")
numbers = ("numbers", StandardScaler(), ["mean_stars", "n_reviews"])
questions = {"numbers alone": [numbers], "text alone": [text], "text and numbers": [text, numbers]}
accuracy = {}
for name, columns in questions.items():
    model = make_pipeline(ColumnTransformer(columns), LogisticRegression(max_iter=2000))
    model.fit(train, train["sentiment"])
    accuracy[name] = model.score(test, test["sentiment"])
    print(
        f"{name:17s} {model[0].transform(test).shape[1]:4d} columns, {accuracy[name]:.3f} correct"
    )

# %%
# What the model learned about the numbers
# ----------------------------------------
# The last model has a coefficient for each column. The numeric columns have a standard deviation of
# 1, so their coefficients can be compared: many stars for other films speak for "positive", and the
# number of reviews is nearly ignored.

coefficients = dict(zip(model[0].get_feature_names_out(), model[1].coef_[0], strict=True))
for name in ("numbers__mean_stars", "numbers__n_reviews"):
    print(f"{name:20s} {coefficients[name]:+.2f}")

# %%
# Plot the accuracies
# -------------------
# The error bars are standard errors for 1,000 test sentences.

values = np.array([*accuracy.values()])
errors = np.sqrt(values * (1 - values) / len(test))
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.barh([*accuracy], values, xerr=errors, capsize=4, color=["C7", "C0", "C2"])
ax.bar_label(ax.containers[1], [f"{value:.3f}" for value in values], padding=10)
ax.axvline(0.5, color="black", linestyle=":")
ax.set(xlim=(0, 1), xlabel="accuracy on 1,000 test sentences (dotted: chance)")
ax.set_title("Numbers beside the text help")
plt.savefig("text_and_numbers.png", dpi=150)
plt.show()
