"""
Choose max_length
=================

BERT reads at most `max_length` tokens of a text, and skbert cuts longer texts. A small `max_length`
loses text. A large one costs time and memory on long texts. `TokenLengthDisplay` shows how much a
value loses on your own texts, before you train.
"""

import matplotlib.pyplot as plt

from skbert import BertSentimentClassifier
from skbert.datasets import load_movie_reviews
from skbert.inspection import TokenLengthDisplay

# %%
# Sentences
# ---------
# `TokenLengthDisplay` counts tokens in the same way as `fit`. The classifier needs no `fit` before.
# The sentences from Rotten Tomatoes are short, so the default `max_length` of 128 cuts none.
# skbert does not pad texts, so a larger `max_length` than necessary costs nothing.

clf = BertSentimentClassifier()
sentences = load_movie_reviews("rotten_tomatoes")["text"].sample(1000, random_state=0)

figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
display = TokenLengthDisplay.from_estimator(clf, sentences, ax=ax)
ax.set_title("1,000 sentences from Rotten Tomatoes")
plt.show()

# %%
# The longest sentence is far below 128 tokens.

print(f"longest sentence: {display.lengths.max()} tokens")
print(f"truncated at max_length=128: {display.truncated_fraction:.1%} of the texts")

# %%
# Documents
# ---------
# Reviews from IMDB are whole documents. They contain HTML line breaks, which we replace first:
# the model would read each of them as four tokens, "<", "br", "/" and ">".

documents = load_movie_reviews("imdb")["text"].sample(1000, random_state=0)
print(f"HTML line breaks in 1,000 documents: {documents.str.count('<br />').sum():,}")
documents = documents.str.replace("<br />", "\n")

# sphinx_gallery_thumbnail_number = 2
figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
display = TokenLengthDisplay.from_estimator(clf, documents, ax=ax)
ax.set_title("1,000 documents from IMDB")
plt.show()

# %%
# Compare several values
# ----------------------
# A display of the same lengths with another `max_length` needs no new tokenisation. The last column
# is the share of all tokens that the model reads. The time of `fit` and `predict` grows roughly in
# proportion to it.

print(f"{'max_length':>10} {'texts truncated':>16} {'tokens lost':>12} {'tokens read':>12}")
for max_length in [64, 128, 256, 512]:
    other = TokenLengthDisplay(display.lengths, max_length=max_length)
    lost = other.lost_fraction
    print(f"{max_length:10} {other.truncated_fraction:16.1%} {lost:12.1%} {1 - lost:12.1%}")

# %%
# A truncated text can still have enough words for a correct prediction. By default, skbert keeps
# the beginning and the end of a long text (`truncation="head+tail"`), because reviews often end
# with their verdict. Compare `max_length=128` with a larger value by cross-validation before you
# pay for it. The default model has 512 positions, so 512 is its largest value.

values = range(16, 513, 8)
others = [TokenLengthDisplay(display.lengths, max_length=value) for value in values]
figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
ax.plot(values, [other.truncated_fraction for other in others], label="texts truncated")
ax.plot(values, [other.lost_fraction for other in others], "--", label="tokens lost")
ax.axvline(clf.max_length, color="gray", linestyle=":", label="default")
ax.set(xlabel="max_length (tokens)", ylabel="share", ylim=(0, 1))
ax.legend()
plt.savefig("token_lengths.png", dpi=150)
plt.show()
