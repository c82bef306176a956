"""
Pre-train BERT on unlabelled reviews
====================================

BERT is pre-trained on two tasks: it predicts masked words, and it predicts whether one sentence
follows another. This example continues both tasks on film reviews without labels. The default
model was published without the heads for these tasks, so skbert trains new heads. In a minute,
the head for masked words learns a lot. The head for next sentences learns less: it gets one
example per pair of sentences, and not one per masked word.
"""

import matplotlib.pyplot as plt
import numpy as np

from skbert import BertPretrainer
from skbert.datasets import load_movie_reviews

# %%
# Load the documents
# ------------------
# We use the first 60 words of 600 IMDB reviews and hold out 200 of these documents. `fit` splits
# each document into sentences.

reviews = load_movie_reviews("imdb")["text"].sample(600, random_state=0)
reviews = reviews.str.replace("<br /><br />", "\n").str.split(" ").str[:60].str.join(" ")
train, test = reviews[:400], reviews[400:]

# %%
# Pre-train
# ---------
# The perplexity is exp(masked loss). A perplexity of n means that the model is as uncertain as if
# it had to choose between n equally likely words.

pretrainer = BertPretrainer(max_epochs=3, learning_rate=2e-4, max_length=64, random_state=0)
pretrainer.fit(train)
for record in pretrainer.history_:
    print(
        f"epoch {record['epoch']}: perplexity {record['perplexity']:.0f}, "
        f"next sentence accuracy {record['next_sentence_accuracy']:.0%}"
    )
print(f"perplexity on held-out documents: {np.exp(-pretrainer.score(test)):.0f}")

# %%
# Predict masked words
# --------------------
# A minute of training on 400 documents is not enough for a good language model. The predictions
# show what the model has learned so far.

texts = ["That's [MASK] she [MASK]", "I loved this [MASK] and would watch it [MASK]."]
filled = pretrainer.fill_mask(texts, top_k=5)
for text, guesses in zip(texts, filled, strict=True):
    print(f"\n{text}\n  most likely: {guesses.text}")
    for words, probabilities in zip(guesses.words, guesses.probabilities, strict=True):
        print("  " + ", ".join(f"{w} {p:.2f}" for w, p in zip(words, probabilities, strict=True)))

# %%

# sphinx_gallery_thumbnail_number = 1
figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
bars = ax.barh(filled[1].words[0], filled[1].probabilities[0], color="C1")
ax.bar_label(bars, fmt="%.2f", padding=4)
ax.margins(x=0.15)
ax.invert_yaxis()
ax.set(xlabel="probability", title="I loved this [MASK] and ...")
plt.show()

# %%
# Predict next sentences
# ----------------------
# We pair the beginning of each held-out document with its own continuation and with the
# continuation of another document. Chance is 50%. Expect results near chance: a minute of
# training is too short for this task. `benchmarks/bench_pretraining.py` trains for longer.

words = [document.split() for document in test if len(document.split()) >= 50]
begins = [" ".join(document[:15]) for document in words]
ends = [" ".join(document[15:30]) for document in words]
follows = pretrainer.predict_next_sentence([*zip(begins, ends, strict=True)])
strange = pretrainer.predict_next_sentence([*zip(begins, ends[1:] + ends[:1], strict=True)])
share = (follows > strange).mean()
print(f"own continuation is more likely than another: {share:.0%} of {len(begins)}")

# %%

figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
bins = np.linspace(0, 1, 21)
ax.hist([follows, strange], bins=bins, label=["own continuation", "another document"])
ax.set(xlabel="predicted probability of the pair", ylabel="pairs")
ax.legend()
plt.savefig("pretraining.png", dpi=150)
plt.show()
