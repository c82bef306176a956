"""Hidden states as transformers computes them for each text alone, without padding."""

from itertools import pairwise

import numpy as np
import torch

from skbert.engine.model import families
from skbert.engine.text.packing import PackedBatch


def random_batch(config, lengths, seed=0):
    """Create texts of random ids, padding included, with segment ids even where none are read."""
    rng = np.random.default_rng(seed)
    n_tokens = sum(lengths)
    return PackedBatch(
        ids=rng.integers(0, config.vocab_size, n_tokens).astype(np.int32),
        positions=np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        segment_ids=rng.integers(0, families.n_segments(config) or 2, n_tokens).astype(np.int32),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        rows=np.arange(len(lengths)),
    )


def transformers_states(encoder, batch):
    """Compute all texts with transformers, one by one: (n_layers + 1, n_tokens, d_model)."""
    texts = []
    for start, stop in pairwise(batch.cu_seqlens.tolist()):
        ids = torch.tensor(batch.ids[None, start:stop]).long()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if families.n_segments(encoder.config):
            inputs["token_type_ids"] = torch.tensor(batch.segment_ids[None, start:stop]).long()
        found = encoder(**inputs, output_hidden_states=True)
        states = [*found.hidden_states[:-1], found.last_hidden_state]
        texts.append(torch.stack([layer[0] for layer in states]))
    return torch.cat(texts, dim=1)
