"""
BERT's own two tasks
====================

BERT learned language by guessing hidden words, and by telling whether one sentence follows
another. The default model was made for sentence vectors and published without the heads for
these tasks, so they are new here. On film reviews without any label the first learns a lot in
a minute; the second, told from pairs instead of words, has far fewer examples to learn from.
"""

import matplotlib.pyplot as plt
import numpy as np

from skbert import BertPretrainer
from skbert.datasets import load_movie_reviews

# %%
# Documents
# ---------
# The first 60 words of IMDB reviews. `fit` cuts them into sentences; the last 200 documents are
# kept apart.

reviews = load_movie_reviews("imdb")["text"].sample(600, random_state=0)
reviews = reviews.str.replace("<br /><br />", "\n").str.split(" ").str[:60].str.join(" ")
train, test = reviews[:400], reviews[400:]

# %%
# Learn
# -----
# A masked loss of x nats means that the model is as uncertain as among exp(x) equally likely
# words: the perplexity.

pretrainer = BertPretrainer(max_epochs=3, learning_rate=2e-4, max_length=64, random_state=0)
pretrainer.fit(train)
for record in pretrainer.history_:
    print(
        f"epoch {record['epoch']}: perplexity {record['perplexity']:.0f}, "
        f"next sentence right {record['next_sentence_accuracy']:.0%}"
    )
print(f"perplexity on other documents: {np.exp(-pretrainer.score(test)):.0f}")

# %%
# Fill the gaps
# -------------
# A minute on 400 documents does not make a language model; the guesses show what it has
# picked up so far.

texts = ["That's [MASK] she [MASK]", "I loved this [MASK] and would watch it [MASK]."]
filled = pretrainer.fill_mask(texts, top_k=5)
for text, guesses in zip(texts, filled, strict=True):
    print(f"\n{text}\n  likeliest: {guesses.text}")
    for words, probabilities in zip(guesses.words, guesses.probabilities, strict=True):
        print("  " + ", ".join(f"{w} {p:.2f}" for w, p in zip(words, probabilities, strict=True)))

# %%
# Does it follow?
# ---------------
# The beginning of each held-out document, with its own end and with that of the next document.
# Half right is chance, and so are probabilities near one half: a minute is too short for this
# task. `benchmarks/bench_pretraining.py` trains for longer.

words = [document.split() for document in test if len(document.split()) >= 50]
begins = [" ".join(document[:15]) for document in words]
ends = [" ".join(document[15:30]) for document in words]
follows = pretrainer.predict_next_sentence([*zip(begins, ends, strict=True)])
strange = pretrainer.predict_next_sentence([*zip(begins, ends[1:] + ends[:1], strict=True)])
print(f"own end preferred to a stranger's: {(follows > strange).mean():.0%} of {len(begins)}")

# %%
# What was learned
# ----------------

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
epochs = [record["epoch"] for record in pretrainer.history_]
left.plot(epochs, [record["masked_loss"] for record in pretrainer.history_], marker="o")
left.axhline(-pretrainer.score(test), color="gray", linestyle=":", label="other documents, after")
left.set(xlabel="epoch", ylabel="masked loss (nats)", xticks=epochs)
left.legend()
places = np.arange(5)
middle.barh(places, filled[1].probabilities[0], color="C1")
middle.set_yticks(places, filled[1].words[0])
middle.invert_yaxis()
middle.set(title="I loved this [MASK] and ...", xlabel="probability")
bins = np.linspace(0, 1, 21)
right.hist([follows, strange], bins=bins, label=["its own end", "another's end"])
right.set(xlabel="probability of IsNext", ylabel="pairs")
right.legend()
plt.tight_layout()
plt.savefig("pretraining.png", dpi=150)
plt.show()
