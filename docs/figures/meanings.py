"""Draw meanings.svg: how similar the vectors of one word are in four sentences."""

import numpy as np
from _style import GREY, plt, save

from skbert import BertEmbeddingTransformer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WORD = "cool"
SENTENCES = [
    "the weather was cool and cloudy",
    "a cool wind blew from the sea",
    "what a cool film, i loved it",
    "my friends say the band is cool",
]


def similarities() -> np.ndarray:
    """Cosine similarities of the vectors of WORD; shape (n_sentences, n_sentences)."""
    texts = BertEmbeddingTransformer(MODEL, normalize=True).token_embeddings(SENTENCES)
    vectors = np.stack([text.vectors[text.tokens.index(WORD)] for text in texts])
    return vectors @ vectors.T


def main() -> None:
    found = similarities()
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    image = axes.imshow(found, vmin=0.5, vmax=1, cmap="cividis")
    axes.set_yticks(range(len(SENTENCES)), SENTENCES)
    axes.set_xticks(range(len(SENTENCES)), ["weather", "wind", "film", "band"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i, j in np.ndindex(found.shape):
        colour = "black" if found[i, j] > 0.75 else "white"
        axes.text(j, i, f"{found[i, j]:.2f}", color=colour, ha="center", va="center")
    bar = figure.colorbar(image, ax=axes, label="cosine similarity")
    bar.outline.set_edgecolor(GREY)
    save(figure, "meanings.svg")


if __name__ == "__main__":
    main()
