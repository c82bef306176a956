"""
Contextual word vectors
=======================

A table of static word vectors has a single vector for "nails". BERT computes a vector for "nails"
that depends on the other words of the sentence. This example compares the vectors of the two
meanings of "nails".
"""

import matplotlib.pyplot as plt
import numpy as np

from skbert import BertEmbeddingTransformer

# %%
# Two meanings of "nails"
# -----------------------
# Each meaning has six sentences. `token_embeddings` returns the vectors of all their tokens. The
# default model was trained for sentiment. This example is about meaning, so it takes the model that
# was trained for that.

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
on_fingers = [
    "she painted her nails red",
    "he bites his nails when he is nervous",
    "her nails were long and polished",
    "the manicurist filed her nails",
    "my nails are short and clean",
    "he cut his nails after the bath",
]
in_a_wall = [
    "he hammered the nails into the wall",
    "the carpenter bought a box of steel nails",
    "the board is held by rusty nails",
    "two nails hold up the picture",
    "you need a hammer and some nails",
    "the nails bent under the hammer",
]
sentences = on_fingers + in_a_wall
is_in_a_wall = np.array([False] * 6 + [True] * 6)


def vectors_of_nails(layer):
    """Return the unit vector of "nails" in each sentence; shape (12, d_model)."""
    transformer = BertEmbeddingTransformer(MODEL, layer=layer, normalize=True)
    texts = transformer.token_embeddings(sentences)
    return np.stack([text.vectors[text.tokens.index("nails")] for text in texts])


def mean_similarities(vectors):
    """Return the mean cosine similarity of pairs, within each meaning and across meanings."""
    similarity = vectors @ vectors.T
    fingers, wall = slice(0, 6), slice(6, 12)
    pairs = np.triu_indices(6, k=1)
    return {
        "both on fingers": similarity[fingers, fingers][pairs].mean(),
        "both in a wall": similarity[wall, wall][pairs].mean(),
        "one of each": similarity[fingers, wall].mean(),
    }


# %%
# Cosine similarity
# -----------------
# With a static table, every similarity is 1. In the last layer of this small model, all twelve
# vectors are similar, because they belong to the same word. But vectors of the same meaning are
# more similar.

last = vectors_of_nails(layer=-1)
print("cosine similarity (a static table: 1.00)")
for kind, similarity in mean_similarities(last).items():
    print(f"  {kind:<16} {similarity:.2f}")

# %%
# Subtract the mean vector
# ------------------------
# We subtract the mean of the twelve vectors, which is the part that a static table can represent.
# With a static table, nothing remains. Here, the remainder comes from the sentences alone. Twelve
# unrelated vectors minus their mean have an average similarity of -1/11, or -0.09.

rest = last - last.mean(axis=0)
rest /= np.linalg.norm(rest, axis=1, keepdims=True)
print("cosine similarity after subtracting the mean (unrelated vectors: -0.09)")
for kind, similarity in mean_similarities(rest).items():
    print(f"  {kind:<16} {similarity:+.2f}")

# %%
# Compare the layers
# ------------------
# For each vector, we find the nearest of the other eleven. Layer 0 is the embeddings of the word
# and its position. They contain nothing about the other words, so layer 0 is no better than
# chance. A few layers later, nearly every vector is nearest to a vector of the same meaning.


def n_nearest_of_same_meaning(vectors):
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return int((is_in_a_wall[similarity.argmax(axis=1)] == is_in_a_wall).sum())


layers = range(7)
n_same = [n_nearest_of_same_meaning(vectors_of_nails(layer)) for layer in layers]
for layer in layers:
    print(f"layer {layer}: {n_same[layer]:2} of 12 are nearest to a vector of the same meaning")

# %%

# sphinx_gallery_thumbnail_number = 1
figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
ax.plot(layers, n_same, marker="o")
ax.axhline(12 * 5 / 11, color="gray", linestyle=":", label="chance, static table")
ax.set(xlabel="layer", ylabel="vectors (of 12)", ylim=(0, 12.5))
ax.set_title('"nails" nearest to the same meaning')
ax.legend(loc="lower right")
plt.show()

# %%
# Plot the similarities
# ---------------------
# Each row is the vector of "nails" in one sentence. The sentences of each meaning form a block.

figure, ax = plt.subplots(figsize=(8, 5.6), layout="constrained")
image = ax.imshow(rest @ rest.T, vmin=-1, vmax=1, cmap="RdBu")
ax.set_yticks(range(12), sentences)
ax.set_xticks([2.5, 8.5], ["on fingers", "in a wall"])
ax.set_title('"nails", last layer minus the mean')
figure.colorbar(image, ax=ax, shrink=0.8, label="cosine similarity")
plt.savefig("contextual_words.png", dpi=150)
plt.show()
