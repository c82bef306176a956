"""New tokenizers, random weights, and the heads that a checkpoint lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from torch import nn

from skbert.engine.files.config import config_of
from skbert.engine.files.folders import temporary_folder
from skbert.engine.files.pretrained import Pretrained
from skbert.engine.files.tokenizer_files import subword_tokenizer_of
from skbert.engine.files.weights import HeadWeights, head_shapes, pooler_shapes, shapes_of
from skbert.engine.model.families import empty_encoder, family_of, n_segments
from skbert.engine.text.subword_tokenizer import readable

if TYPE_CHECKING:
    from transformers import BertConfig, PreTrainedTokenizerBase

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def random_weights(
    shapes: Mapping[str, torch.Size], std: float, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Create the weights that BERT starts with: matrices N(0, std^2), LayerNorms 1, biases 0."""
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            weights[name] = torch.from_numpy(rng.normal(0, std, shape).astype(np.float32))
        else:
            weights[name] = torch.full(
                shape, float(name.endswith("weight")), device="cpu", dtype=torch.float32
            )
    return weights


def train_tokenizer(texts: Sequence[str], n_pieces: int) -> PreTrainedTokenizerBase:
    """Train a lower-case WordPiece tokenizer on texts.

    The vocabulary has at most `n_pieces` pieces, but contains all characters in any case. The same
    texts always give the same vocabulary. The trainer of tokenizers alone does not guarantee this:
    it numbers the characters that continue words in the order of a hash table, and breaks ties
    between merges by these numbers. Therefore all characters are passed to it in sorted order.
    """
    from transformers import BertTokenizerFast

    backend = BertWordPieceTokenizer(lowercase=True)
    texts = [readable(text) for text in texts]
    words = {
        piece
        for text in texts
        for word in backend.normalizer.normalize_str(text).split()
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(word)
    }
    characters = {word[0] for word in words} | {f"##{c}" for word in words for c in word[1:]}
    backend.train_from_iterator(
        texts,
        vocab_size=n_pieces,
        special_tokens=[*_SPECIAL_TOKENS, *sorted(characters)],
        show_progress=False,
    )
    by_id = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    with temporary_folder() as folder:
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(piece for piece, _ in by_id), encoding="utf-8")
        return BertTokenizerFast.from_pretrained(folder, local_files_only=True)


def new_pretrained(
    config: BertConfig, texts: Sequence[str], rng: np.random.Generator
) -> Pretrained:
    """Create a checkpoint with a vocabulary learned from `texts`, and random weights.

    The `vocab_size` of `config` is the maximum number of word pieces. `config` is not changed.
    """
    if not config.tie_word_embeddings:
        raise ValueError(
            "model=BertConfig(...) has tie_word_embeddings=False. skbert ties the "
            "masked-language-model head to the word embeddings, as BERT does. Set "
            "tie_word_embeddings=True."
        )
    config = config_of(config.to_dict(), Path("model=BertConfig(...)"))
    tokenizer = train_tokenizer(texts, config.vocab_size)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    weights = random_weights(shapes_of(empty_encoder(config)), config.initializer_range, rng)
    weights[family_of(config).word_table][tokenizer.pad_token_id] = 0
    subword_tokenizer = subword_tokenizer_of(tokenizer, type_vocab_size=n_segments(config))
    return Pretrained(config, weights, {}, tokenizer, subword_tokenizer)


def head_weights(pretrained: Pretrained, rng: np.random.Generator) -> HeadWeights:
    """Copy the heads that a checkpoint has, and create the others with random weights.

    The decoder of a new masked-language-model head is tied to the word embeddings, and the linear
    layer before it starts as the identity, if it keeps the width. So from the first step, the head
    uses the similarity between a hidden state and the embedding of its word.
    """
    config, family = pretrained.config, family_of(pretrained.config)
    names = family.head_parts
    if not pretrained.is_tied:
        raise ValueError(
            "The decoder of the checkpoint's masked-language-model head, "
            f"'{names['decoder']}.weight', differs from the word embeddings; skbert ties the two, "
            "as BERT does. To train a new head, save the checkpoint without its "
            f"'{family.word_head[0]}.' weights, for example as a "
            f"transformers.{family.encoder_class}."
        )
    shapes = head_shapes(config)
    drawn = random_weights(shapes, config.initializer_range, rng)
    drawn_pooler = random_weights(pooler_shapes(config), config.initializer_range, rng)
    dense = f"{names['dense']}.weight"
    if shapes[dense] == (config.hidden_size, config.hidden_size):
        drawn[dense] = torch.eye(config.hidden_size, device="cpu", dtype=torch.float32)
    paths = {"words": family.word_head, "next_sentence": (names.get("next_sentence", ""),)}
    of_task = {
        task: [n for n in shapes if n.startswith(tuple(f"{path}." for path in paths[task]))]
        for task in paths
    }
    known = {task: all(n in pretrained.heads for n in of_task[task]) for task in of_task}
    known["next_sentence"] &= bool(pretrained.pooler) and family.has_next_sentence
    kept = {n: pretrained.heads[n].clone() for task in known if known[task] for n in of_task[task]}
    for name, weight in kept.items():
        if weight.shape != shapes[name]:
            raise ValueError(
                f"{name!r} in the checkpoint has shape {tuple(weight.shape)}, but "
                f"the configuration requires {tuple(shapes[name])}. Use the config.json that "
                "belongs to the weights."
            )
    kept_pooler = {
        name: weight.clone() for name, weight in pretrained.pooler.items() if name in drawn_pooler
    }
    return HeadWeights(
        heads=drawn | kept,
        pooler=drawn_pooler | kept_pooler,
        knows_words=known["words"],
        knows_next_sentence=known["next_sentence"],
        knows_pooler=bool(kept_pooler),
    )


def random_head(d_model: int, n_classes: int, std: float, rng: np.random.Generator) -> nn.Linear:
    """Create a linear head as BERT does, with weights from N(0, std^2) and zero biases."""
    head = nn.Linear(d_model, n_classes, device="meta", dtype=torch.float32).to_empty(device="cpu")
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rng.normal(0, std, (n_classes, d_model))))
        head.bias.zero_()
    return head
