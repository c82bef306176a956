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

sentences = [
    "she painted her nails red",
    "he bites his nails when he is nervous",
    "her nails were long and polished",
    "he hammered the nails into the wall",
    "the carpenter bought a box of steel nails",
    "the board is held by rusty nails",
]


def vectors_of_nails(layer):
    """The vector of "nails" in each sentence, of length 1: shape (6, d_model)."""
    transformer = BertEmbeddingTransformer(layer=layer, normalize=True)
    texts = transformer.token_embeddings(sentences)
    return np.stack([text.vectors[text.tokens.index("nails")] for text in texts])


# %%
# How similar are they?
# ---------------------
# A static table would put 1 everywhere. In the last layer of this small model the six vectors
# still have most in common, since it is one word; but those of one meaning are closer.

last = vectors_of_nails(layer=-1)
similarity = last @ last.T
fingers, wall = slice(0, 3), slice(3, 6)
pairs = np.triu_indices(3, k=1)
print(f"both on fingers: {similarity[fingers, fingers][pairs].mean():.2f}")
print(f"both in a wall:  {similarity[wall, wall][pairs].mean():.2f}")
print(f"one of each:     {similarity[fingers, wall].mean():.2f}")
print("a static table:  1.00")

# %%
# What the sentence adds
# ----------------------
# Take away the average of the six vectors, which is what a static table could know. For a
# table nothing would be left. What is left here comes from the sentences alone.

rest = last - last.mean(axis=0)
rest /= np.linalg.norm(rest, axis=1, keepdims=True)
rest_similarity = rest @ rest.T
print("without the average of all six:")
print(f"both on fingers: {rest_similarity[fingers, fingers][pairs].mean():+.2f}")
print(f"both in a wall:  {rest_similarity[wall, wall][pairs].mean():+.2f}")
print(f"one of each:     {rest_similarity[fingers, wall].mean():+.2f}")

# %%
# Where the meaning comes in
# --------------------------
# Layer 0 is the embeddings: the word with its position, before any sentence is read.

layers = range(7)
by_layer = [vectors_of_nails(layer) for layer in layers]
same = [
    np.mean([(v[part] @ v[part].T)[pairs].mean() for part in (fingers, wall)]) for v in by_layer
]
different = [(v[fingers] @ v[wall].T).mean() for v in by_layer]

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
image = left.imshow(rest_similarity, vmin=-1, vmax=1, cmap="RdBu")
left.set_yticks(range(6), sentences)
left.set_xticks([])
left.set_title('"nails", without the average: cosine similarity')
figure.colorbar(image, ax=left, shrink=0.8)
right.plot(layers, same, marker="o", label="same meaning")
right.plot(layers, different, marker="o", label="different meaning")
right.axhline(1, color="gray", linestyle=":", label="a static table")
right.set_xlabel("layer")
right.set_ylabel("cosine similarity")
right.legend()
plt.tight_layout()
plt.savefig("contextual_words.png", dpi=150)
plt.show()
