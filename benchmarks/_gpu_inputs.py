"""The texts and the default model of `bench_gpu.py`: carried in the folder .gpu, or made up.

A machine with a GPU often has no network and no packages with reviews or weights. `pack_for_gpu.py`
writes the folder .gpu on another machine, and git ignores it. Without the folder, texts are random
words with the lengths of real reviews, and all weights are random: the time of a fit depends on the
lengths of the texts and the shape of the model, but its accuracy then means nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import BertTokenizerFast

CARRIED = Path(__file__).parent.parent / ".gpu"
MODEL_FOLDER = "model"
TEXTS_FILE = "reviews.csv.gz"

#: The kinds of texts: the data set of each, its number of carried texts and the most tokens a text.
SOURCES = {"sentences": "rotten_tomatoes", "documents": "imdb"}
N_TEXTS = {"sentences": 4096, "documents": 1024}
MAX_LENGTH = {"sentences": 128, "documents": 512}

#: Quantiles (0, 5, ..., 100 %) of the lengths in tokens, [CLS] and [SEP] included: of the 8,530
#: sentences of Rotten Tomatoes, and of 5,000 documents of IMDB.
LENGTHS = {
    "sentences": "3 10 13 15 17 19 21 22 24 25 27 28 29 31 33 35 37 40 43 47 78",
    "documents": (
        "13 87 125 148 158 167 176 187 198 212 228 245 269 300 333 373 422 503 607 799 2315"
    ),
}

# A made-up vocabulary has as many pieces as that of BERT. A word is two or three syllables, and may
# be continued by a number, so that each piece of a text is one token and nothing else can be.
N_PIECES = 30522
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
N_ENDINGS = 3000
SHARE_OF_ENDINGS = 0.2


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with labels 0 and 1, about half of each."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> LabelledTexts:
        return LabelledTexts(self.texts[rows], self.labels[rows])


@dataclass(frozen=True)
class Inputs:
    """What all contenders read.

    Attributes
    ----------
    tokenizer : Path
        A folder with tokenizer.json and tokenizer_config.json.
    model : Path or None
        A folder with the default model; None if its weights must be random.
    texts : dict of str to LabelledTexts
        By kind, "sentences" or "documents".
    """

    tokenizer: Path
    model: Path | None
    texts: dict[str, LabelledTexts]

    @property
    def described(self) -> dict[str, str]:
        """The origin of the texts and weights, for tables and results."""
        is_real = self.model is not None
        return {
            "texts": "Rotten Tomatoes and IMDB" if is_real else "made up, lengths as of reviews",
            "weights of minilm": "all-MiniLM-L6-v2" if is_real else "random",
            "weights of other shapes": "random",
        }


def carried_inputs() -> Inputs:
    """Read the folder .gpu."""
    table = pd.read_csv(CARRIED / TEXTS_FILE, keep_default_na=False)
    texts = {}
    for kind, source in SOURCES.items():
        rows = table[table["source"] == source]
        texts[kind] = LabelledTexts(rows["text"].tolist(), rows["label"].tolist())
    return Inputs(CARRIED / MODEL_FOLDER, CARRIED / MODEL_FOLDER, texts)


def made_up_inputs(folder: Path) -> Inputs:
    """Write a tokenizer to an existing folder, and draw texts, the same in each call."""
    words = _made_up_words(N_PIECES - len(SPECIAL_TOKENS) - N_ENDINGS)
    endings = [str(number) for number in range(N_ENDINGS)]
    pieces = [*SPECIAL_TOKENS, *words, *(f"##{ending}" for ending in endings)]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    texts = {kind: made_up_texts(kind, words, endings) for kind in SOURCES}
    return Inputs(folder, None, texts)


def _made_up_words(n_words: int) -> list[str]:
    syllables = [a + b for a in "bcdfghjklmnprstvwxyz" for b in "aeiou"]
    combined = itertools.chain(
        itertools.product(syllables, repeat=2), itertools.product(syllables, repeat=3)
    )
    return ["".join(parts) for parts in itertools.islice(combined, n_words)]


def made_up_texts(kind: str, words: list[str], endings: list[str]) -> LabelledTexts:
    """Draw texts whose lengths in tokens are distributed as in `LENGTHS`.

    The frequency of a word is about inversely proportional to its rank, as in real texts.
    """
    rng = np.random.default_rng(0)
    quantiles = np.array(LENGTHS[kind].split(), dtype=float)
    n_texts = N_TEXTS[kind]
    places = rng.uniform(0, len(quantiles) - 1, n_texts)
    lengths = np.interp(places, np.arange(len(quantiles)), quantiles).round().astype(int) - 2
    frequencies = 1 / (np.arange(len(words)) + 3)
    drawn = rng.choice(len(words), lengths.sum(), p=frequencies / frequencies.sum())
    is_ending = rng.random(lengths.sum()) < SHARE_OF_ENDINGS
    is_ending &= np.r_[False, ~is_ending[:-1]]  # no word has two endings
    is_ending[np.cumsum(lengths)[:-1]] = is_ending[0] = False  # a text begins with a word
    numbers = rng.integers(len(endings), size=lengths.sum())
    parts = [
        endings[number] if ends else f" {words[word]}"
        for word, number, ends in zip(drawn, numbers, is_ending, strict=True)
    ]
    starts = [0, *np.cumsum(lengths)]
    texts = ["".join(parts[a:b]).strip() for a, b in itertools.pairwise(starts)]
    return LabelledTexts(texts, rng.integers(2, size=n_texts).tolist())
