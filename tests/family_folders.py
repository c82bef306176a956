"""Small checkpoints with random weights, one for each family, in the files of transformers."""

import shutil
from pathlib import Path

import torch
import transformers

from skbert.engine.model import families
from skbert.engine.model.families import FAMILIES

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.2,
}


def save_family(
    folder: Path,
    name: str,
    tokenizer_from: str,
    kind: str = "encoder_class",
    *,
    n_positions: int = 64,
) -> str:
    """Write a checkpoint of a family that reads 64 tokens, and the tokenizer of another folder."""
    family, tokenizer = FAMILIES[name], transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    own = {setting: 8 for setting in family.own_settings if setting == "embedding_size"}
    if "segments" in family.embedding_parts:
        own["type_vocab_size"] = 2
    first = tokenizer.pad_token_id + 1 if family.first_position is None else family.first_position
    config = families.new_config(
        family,
        **SIZES,
        **own,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=n_positions + first,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, getattr(family, kind))(config).save_pretrained(folder)
    shutil.copy(Path(tokenizer_from) / "tokenizer.json", folder)
    shutil.copy(Path(tokenizer_from) / "tokenizer_config.json", folder)
    return str(folder)
