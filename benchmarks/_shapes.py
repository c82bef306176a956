"""Checkpoints with the shapes of published models and random weights, to time them.

The time of a forward pass depends on the shape of a model, not on its weights. All shapes get the
same tokenizer, in most benchmarks that of the default model, so they read the same tokens.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from skbert.engine.model.families import FAMILIES, longest_text, new_config


@dataclass(frozen=True)
class Shape:
    """A published model's family and settings, by BERT's names of settings."""

    model_type: str
    n_layers: int
    d_model: int
    n_heads: int
    n_words: int
    others: dict[str, Any] = field(default_factory=dict)

    def config(self) -> Any:
        """Build the configuration, for 512 tokens."""
        family = FAMILIES[self.model_type]
        settings = {
            "num_hidden_layers": self.n_layers,
            "hidden_size": self.d_model,
            "num_attention_heads": self.n_heads,
            "intermediate_size": 4 * self.d_model,
            "vocab_size": self.n_words,
            "pad_token_id": 0,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,  # so that the probabilities of texts differ
            **self.others,
        }
        config = new_config(family, **settings)
        config.max_position_embeddings += 512 - longest_text(config)
        return config


#: By the name that `--family` takes; the models of each shape are in docs/choosing_a_model.md.
SHAPES = {
    "minilm": Shape("bert", 6, 384, 12, 30522),
    "minilm-l12": Shape("bert", 12, 384, 12, 30522),
    "electra-small": Shape("electra", 12, 256, 4, 30522, {"embedding_size": 128}),
    "distilbert": Shape("distilbert", 6, 768, 12, 30522),
    "bert": Shape("bert", 12, 768, 12, 30522),
    "roberta": Shape("roberta", 12, 768, 12, 50265, {"type_vocab_size": 1}),
    "xlm-roberta": Shape("xlm-roberta", 12, 768, 12, 250002, {"type_vocab_size": 1}),
    "mpnet": Shape("mpnet", 12, 768, 12, 30527),
    "albert": Shape("albert", 12, 768, 12, 30522, {"embedding_size": 128}),
    "bert-large": Shape("bert", 24, 1024, 16, 30522),
}


def save_shape(
    shape: Shape, folder: Path, tokenizer_folder: Path, device: torch.device | str = "cpu"
) -> int:
    """Write a checkpoint with random weights, drawn on a device; return its parameters' number."""
    config = shape.config()
    build = getattr(transformers, FAMILIES[config.model_type].encoder_class)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        encoder = build(config)
    encoder.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_folder / file, folder)
    return sum(weight.numel() for weight in encoder.parameters())
