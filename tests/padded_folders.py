"""Small checkpoints with random weights of the padded families, in the files of transformers."""

import shutil
from pathlib import Path

import torch
import transformers

from skbert.engine.model import families
from skbert.engine.model.families import PADDED_FAMILIES

SIZES = {
    "vocab_size": 143,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}

_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}

#: Settings that tests need, or that switch parts on that some checkpoints have.
OWN = {
    "modernbert": {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2, **_SPECIAL},
    "deberta": {"type_vocab_size": 2, **_RELATIVE},
    "deberta-v2": {
        **_RELATIVE,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "conv_kernel_size": 3,
        "position_biased_input": False,
    },
    "convbert": {"embedding_size": 8, "conv_kernel_size": 3, **_SPECIAL},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2},
    "rembert": {"input_embedding_size": 8, **_SPECIAL},
    "roformer": {"embedding_size": 8},
    "squeezebert": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 1, "mask_token_id": 4, **_SPECIAL},
}


def small_config(name: str) -> transformers.PretrainedConfig:
    """Make the configuration of a family with 2 layers of 16 and 64 positions."""
    return families.new_config(PADDED_FAMILIES[name], **SIZES, **OWN.get(name, {}))


def save_padded(folder: Path, name: str, tokenizer_from: str) -> str:
    """Write a checkpoint of a family, with the tokenizer of another folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = small_config(name)
        build = getattr(transformers, PADDED_FAMILIES[name].encoder_class)
        build(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer_from) / file, folder)
    return str(folder)
