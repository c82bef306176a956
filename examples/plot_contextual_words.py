"""
One word, several meanings
==========================

In a table of word vectors, "nails" is one vector, whatever the sentence. BERT's vector of the
word depends on the words around it.
"""

import matplotlib.pyplot as plt
import numpy as np

from skbert import BertEmbeddingTransformer

# %%
# Nails on fingers, nails in a wall
# ---------------------------------

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
    """The vector of "nails" in each sentence, of length 1: shape (12, d_model)."""
    transformer = BertEmbeddingTransformer(layer=layer, normalize=True)
    texts = transformer.token_embeddings(sentences)
    return np.stack([text.vectors[text.tokens.index("nails")] for text in texts])


def mean_similarities(vectors):
    """Of pairs on fingers, of pairs in a wall, and of one of each."""
    similarity = vectors @ vectors.T
    fingers, wall = slice(0, 6), slice(6, 12)
    pairs = np.triu_indices(6, k=1)
    return {
        "both on fingers": similarity[fingers, fingers][pairs].mean(),
        "both in a wall": similarity[wall, wall][pairs].mean(),
        "one of each": similarity[fingers, wall].mean(),
    }


# %%
# How similar are they?
# ---------------------
# A static table would put 1 everywhere. In the last layer of this small model the twelve vectors
# still have most in common, since it is one word; but those of one meaning are closer.

last = vectors_of_nails(layer=-1)
print("cosine similarity (a static table: 1.00)")
for kind, similarity in mean_similarities(last).items():
    print(f"  {kind:<16} {similarity:.2f}")

# %%
# What the sentence adds
# ----------------------
# Take away the average of the twelve vectors, which is what a static table could know. For a
# table nothing would be left. What is left here comes from the sentences alone. Twelve vectors
# without any order in them, less their average, would have a similarity of -1/11, or -0.09.

rest = last - last.mean(axis=0)
rest /= np.linalg.norm(rest, axis=1, keepdims=True)
print("without the average of all twelve (no order: -0.09)")
for kind, similarity in mean_similarities(rest).items():
    print(f"  {kind:<16} {similarity:+.2f}")

# %%
# Where the meaning comes in
# --------------------------
# Which of the eleven other vectors is nearest to each? Layer 0 is the embeddings: the word with
# its position, before any sentence is read, which tells no more than chance. A few layers
# later nearly every vector is nearest to one of its own meaning.


def n_nearest_of_same_meaning(vectors):
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return int((is_in_a_wall[similarity.argmax(axis=1)] == is_in_a_wall).sum())


layers = range(7)
n_same = [n_nearest_of_same_meaning(vectors_of_nails(layer)) for layer in layers]
for layer in layers:
    print(f"layer {layer}: {n_same[layer]:2} of 12 are nearest to one of the same meaning")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
image = left.imshow(rest @ rest.T, vmin=-1, vmax=1, cmap="RdBu")
left.set_yticks(range(12), sentences)
left.set_xticks([])
left.set_title("last layer, without the average")
figure.colorbar(image, ax=left, shrink=0.8, label="cosine similarity")
right.plot(layers, n_same, marker="o")
right.axhline(12 * 5 / 11, color="gray", linestyle=":", label="chance, and a static table")
right.set_ylim(0, 12.5)
right.set_xlabel("layer")
right.set_ylabel("of 12, nearest to one of the same meaning")
right.set_title("where the meaning comes in")
right.legend(loc="lower right")
figure.suptitle('The vectors of "nails" in twelve sentences')
plt.savefig("contextual_words.png", dpi=150)
plt.show()
