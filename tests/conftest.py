"""A BERT small enough for tests, with a vocabulary of its own, made on the spot."""

import os
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model import onednn
from skbert.engine.model.families import FAMILIES
from tests.family_folders import save_family
from tests.prepared import PreparedProcesses

#: mypy reads the folder, and nobody runs it. pages.py has no tests, and needs sybil, which only the
#: extra dev has.
collect_ignore = ["typing", "pages.py"]

WORDS = (
    "the a this that was is it film movie not very good great fun joy love loved bad dull awful "
    "boring waste hate hated and but i my your app best ever nothing everything"
).split()
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def save_bert(folder: Path, *, seed: int = 0, words: list[str] = WORDS, **sizes: int) -> Path:
    """Save a BERT with random weights and a small WordPiece vocabulary."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary += [*characters, *(f"##{c}" for c in string.ascii_lowercase + string.digits)]
    # Of a word that is also a character, the last counts; another name for the first leaves no hole
    vocabulary = [
        f"[unused{i}]" if token in vocabulary[i + 1 :] else token
        for i, token in enumerate(vocabulary)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    } | sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(BertConfig(vocab_size=len(vocabulary), **settings))
        for parameter in model.parameters():  # biases and LayerNorms too, lest errors hide
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if parameter.mean() == 1 else 0.0, 0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """Folder of a BERT with 3 layers of 32 and 4 heads, 64 positions, 140 word pieces."""
    return str(save_bert(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory, tiny_bert) -> dict[str, str]:
    """Folder of a small encoder of each packed family, with the tokenizer of `tiny_bert`."""
    place = tmp_path_factory.mktemp("families")
    return {name: save_family(place / name, name, tiny_bert) for name in FAMILIES}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Iterator[PreparedProcesses]:
    """Start processes that have imported skbert and computed nothing."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork on this system")
    with PreparedProcesses(tmp_path_factory.mktemp("prepared")) as processes:
        yield processes


@pytest.fixture(scope="session")
def real_weights() -> str:
    """Name of the default model, whose files the [offline] extra has put on this machine."""
    load_pretrained(DEFAULT_MODEL)  # fails, and says how to install them
    return DEFAULT_MODEL


@pytest.fixture(scope="session")
def toy_reviews() -> tuple[list[str], np.ndarray]:
    """80 texts whose sentiment one word decides, of 3 to 12 tokens."""
    rng = np.random.default_rng(0)
    kind = {"good": "good great fun joy love".split(), "bad": "bad dull awful boring waste".split()}
    fillers = "the a this that was is it film movie and i my".split()
    labels = np.array(["good", "bad"] * 40)
    texts = []
    for label in labels:
        words = [*rng.choice(fillers, rng.integers(0, 9)), rng.choice(kind[label])]
        texts.append(" ".join(rng.permutation(words)))
    return texts, labels


@pytest.fixture
def onednn_products(monkeypatch) -> list[torch.Size]:
    """Shapes of the weights that oneDNN has multiplied by, one for each product."""
    if not onednn.is_available():
        pytest.skip("this build of torch has no oneDNN, or another one")
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    shapes: list[torch.Size] = []
    reorder = onednn._reorder

    def counting(x, *weights):
        weight = reorder(x, *weights)
        if weight is not None:
            shapes.append(weight.shape)
        return weight

    monkeypatch.setattr(onednn, "_reorder", counting)
    return shapes


@pytest.fixture
def full_disk():
    """Give a context in which no file grows beyond so many bytes, as if the disk were full."""
    import resource  # not there on Windows

    @contextmanager
    def limited(n_bytes):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
