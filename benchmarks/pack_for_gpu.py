"""Writes the folder .gpu with the default model and real reviews, for `gpu.sh` without a network.

Run it where `skbert[examples]` is installed, and copy the folder to the checkout on the machine
with the GPU. git ignores the folder, because the reviews are not ours to publish. The weights are
float16, which halves the size of the folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import _common as common
import pandas as pd
import torch
from _gpu_inputs import CARRIED, MODEL_FOLDER, N_TEXTS, SOURCES, TEXTS_FILE
from safetensors.torch import load_file, save_file

from skbert.datasets import load_movie_reviews

MOST_BYTES = 60e6
# Without modules of sentence-transformers, pooling="auto" is "cls", as for every other shape.
COPIED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


def pack_model(folder: Path) -> None:
    """Copy the tokenizer and configuration, and convert the weights."""
    source = Path(common.model_folder())
    folder.mkdir()
    for name in COPIED_FILES:
        shutil.copy(source / name, folder)
    weights = load_file(source / "model.safetensors")
    halved = {
        name: weight.to(torch.float16) if weight.is_floating_point() else weight
        for name, weight in weights.items()
    }
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})


def needs_emoji(text: str) -> bool:
    """Whether skbert would import the package emoji to read a text."""
    return max(text, default="") >= "\u203c" or "\u00a9" in text or "\u00ae" in text


def sample_reviews() -> pd.DataFrame:
    """Draw shuffled reviews of each kind, half of them positive."""
    samples = []
    for kind, source in SOURCES.items():
        reviews = load_movie_reviews(source)
        reviews = reviews[~reviews["text"].map(needs_emoji)]
        drawn = reviews.groupby("sentiment").sample(N_TEXTS[kind] // 2, random_state=0)
        drawn = drawn.sample(frac=1, random_state=0)
        label = (drawn["sentiment"] == "positive").astype(int)
        samples.append(pd.DataFrame({"source": source, "text": drawn["text"], "label": label}))
    return pd.concat(samples)


def main() -> int:
    shutil.rmtree(CARRIED, ignore_errors=True)
    CARRIED.mkdir()
    pack_model(CARRIED / MODEL_FOLDER)
    sample_reviews().to_csv(CARRIED / TEXTS_FILE, index=False)
    files = [path for path in sorted(CARRIED.rglob("*")) if path.is_file()]
    for path in files:
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.relative_to(CARRIED.parent)}")
    n_bytes = sum(path.stat().st_size for path in files)
    print(f"{n_bytes / 1e6:6.2f} MB  in all")
    return int(n_bytes > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
