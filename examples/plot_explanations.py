"""
Which words decide?
===================

`explain` tells how much each word of a text speaks for the predicted class.
`TokenAttributionDisplay` colours the words by this share. The sentences of this example are ours,
and the model is the one that skbert contains, so there is nothing to train.
"""

import matplotlib.pyplot as plt
import numpy as np

from skbert import BertSentimentClassifier
from skbert.inspection import TokenAttributionDisplay

# %%
# Explain predictions
# -------------------
# A positive score speaks for the predicted class, a negative score against it. The words are those
# of the tokenizer, so punctuation has scores, too.

clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
texts = [
    "The music is wonderful, but the story is a boring mess.",
    "Slow at first, then funny, warm and surprisingly moving.",
    "I wanted to like this film. I could not.",
]
attributions = clf.explain(texts)
for text, probabilities in zip(texts, clf.predict_proba(texts), strict=True):
    print(f"{clf.classes_[probabilities.argmax()]} ({probabilities.max():.2f}): {text}")

# %%
# The second prediction is wrong, but its probability is near 0.5.
#
# `plot` draws the texts with matplotlib. Blue words speak for the predicted class, orange words
# against it. In the second text, "Slow" outweighs "funny", "warm", "surprisingly" and "moving"
# together.

# sphinx_gallery_thumbnail_number = 1
figure, ax = plt.subplots(figsize=(5, 3.5))
display = TokenAttributionDisplay(attributions).plot(ax=ax)
plt.show()

# %%
# In a notebook, a display is shown as HTML. Point at a word to see its score.

display

# %%
# Read the scores
# ---------------
# Each `TextAttribution` has the words, their places in the text and their scores. With
# integrated gradients, the scores of a text add up to the difference between its logit and the
# logit of the same text with all its tokens hidden.

first = attributions[0]
for number in np.argsort(-np.abs(first.word_scores))[:4]:
    start, stop = first.word_spans[number]
    word, score = first.words[number], first.word_scores[number]
    print(f"{word:>10} {score:+.2f}  (characters {start} to {stop})")
print(f"sum of all word scores:    {first.word_scores.sum():+.2f}")
print(f"logit minus the baseline:  {first.logit - first.baseline_logit:+.2f}")

# %%
# Explain the other class
# -----------------------
# `target` chooses the class. This is what speaks for "positive" in a text that is predicted as
# "negative". The two scores of a word are not exact opposites, because the logits of the classes
# are not.

(praise,) = clf.explain(texts[:1], target="positive")
best = praise.word_scores.argmax()
print(f"most positive word: {praise.words[best]} ({praise.word_scores[best]:+.2f})")

# %%
# Negation
# --------
# BERT reads words in their sentence, so the score of a word depends on the other words. Here,
# "not" changes the class, and with it the role of "funny".

pair = clf.explain(["This film is funny.", "This film is not funny."], target="positive")
for attribution in pair:
    scores = zip(attribution.words, attribution.word_scores, strict=True)
    print("  ".join(f"{word} {score:+.2f}" for word, score in scores))

# %%
# Compare two methods
# -------------------
# "occlusion" hides one word at a time and measures how much the logit falls. For both methods,
# "boring" is the strongest word. They disagree about "but": without it, the two halves of the
# sentence are no longer opposed, and the logit falls nearly as much as without "boring". The
# reverse happens when two words say the same: hiding one of them changes little. Trust an
# explanation more where both methods agree. It describes what the model does, and not whether the
# model is right.

(hidden,) = clf.explain(texts[:1], method="occlusion")

# %%

figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
places = np.arange(len(first.words))
ax.barh(places - 0.2, first.word_scores, height=0.4, label="integrated gradients")
ax.barh(places + 0.2, hidden.word_scores, height=0.4, label="occlusion")
ax.axvline(0, color="gray", linewidth=1)
ax.set_yticks(places, first.words)
ax.invert_yaxis()
ax.set(xlabel=f"contribution to the logit of {first.target}")
ax.legend()
plt.savefig("explanations.png", dpi=150)
plt.show()
