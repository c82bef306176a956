"""
Grid search on cached BERT vectors
==================================

The cheapest way to use BERT is not to train it. Instead, use its vectors as features of a linear
model. This example chooses the kind of vector and the regularisation with cross-validation, which
needs the vectors of the same texts many times. With a cache, skbert encodes each text only once.
"""

import time

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

from skbert import BertEmbeddingTransformer
from skbert.datasets import load_movie_reviews

# %%
# Load the reviews
# ----------------
# The search uses 2,000 sentences. The final test uses 1,000 others.

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
# Search over ten candidates
# --------------------------
# The vector of a sentence is the vector of its [CLS] token or the mean over all its tokens.
# skbert computes both in one pass through the encoder and caches both.

pipeline = Pipeline(
    [
        ("embed", BertEmbeddingTransformer(cache="memory")),
        ("classify", LogisticRegression(max_iter=2000)),
    ]
)
grid = {"embed__pooling": ["cls", "mean"], "classify__C": [0.001, 0.01, 0.1, 1, 10]}
start = time.perf_counter()
search = GridSearchCV(pipeline, grid, cv=5).fit(X_train, y_train)
seconds = time.perf_counter() - start

# %%
# Cache hits
# ----------
# Each of the 50 fits needs the vectors of all 2,000 sentences: it trains on four fifths of them
# and scores on the rest. The final fit of the best candidate needs them again.

used = search.best_estimator_["embed"].cache_info_
print(f"the search took {seconds:.0f} s")
print(f"{used.hits + used.misses:7,} vectors were requested")
print(f"{used.misses:7,} sentences were encoded ({X_train.nunique():,} are distinct)")

# %%
# Results
# -------

results = pd.DataFrame(search.cv_results_).rename(
    columns={"param_embed__pooling": "pooling", "param_classify__C": "C"}
)
accuracy = results.pivot(index="C", columns="pooling", values="mean_test_score")
print(accuracy.round(3))
best = search.best_params_
print(f"best: pooling={best['embed__pooling']!r}, C={best['classify__C']}")
print(f"accuracy on 1,000 test sentences:  {search.score(X_test, y_test):.3f}")

# %%
# For comparison, we train the same classifier on word counts of the same sentences, and choose C in
# the same way. With 1,000 test sentences, an accuracy near 0.8 has a standard error of 0.013, so
# smaller differences mean nothing. Fine-tuning the encoder takes longer and can be more accurate:
# see :doc:`plot_quickstart`.

counts = Pipeline([("count", TfidfVectorizer()), ("classify", LogisticRegression(max_iter=2000))])
by_counts = GridSearchCV(counts, {"classify__C": [0.1, 1, 10, 100]}, cv=5).fit(X_train, y_train)
print(f"TF-IDF on the same test sentences: {by_counts.score(X_test, y_test):.3f}")

# %%
# Plot the search
# ---------------
# The bars are standard deviations over the five folds.

figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
deviation = results.pivot(index="C", columns="pooling", values="std_test_score")
accuracy.plot(yerr=deviation, logx=True, marker="o", capsize=3, ax=ax)
ax.set(xlabel="C (inverse of the regularisation strength)", ylabel="accuracy, 5-fold mean")
ax.set_title("LogisticRegression on BERT vectors")
ax.legend(title="pooling")
plt.savefig("embeddings_grid.png", dpi=150)
plt.show()
