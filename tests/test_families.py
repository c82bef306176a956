"""The table of families: every name in it exists, and it is all that the encoder needs to know."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from skbert.engine.files.weights import shapes_of
from skbert.engine.model import families
from skbert.engine.model.encoder import encode, encode_first_token
from skbert.engine.model.families import BERT, FAMILIES
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.text.packing import PackedBatch


@pytest.fixture(params=FAMILIES)
def config(request):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": 20}
    return families.new_config(FAMILIES[request.param], **sizes)


def test_the_classes_are_those_of_transformers(config):
    family = families.family_of(config)
    assert family.model_type == config.model_type == type(config).model_type
    assert type(config) is getattr(transformers, family.config_class)
    encoder = families.empty_encoder(config)
    assert type(encoder) is getattr(transformers, family.encoder_class)
    assert families.family_of(encoder) is family
    model = families.empty_pretraining_model(config)
    assert type(model) is getattr(transformers, family.pretraining_class)
    assert issubclass(getattr(transformers, family.classifier_class), type(model).__base__)


def test_the_parts_are_found_in_a_model_with_heads(config):
    family = families.family_of(config)
    model = families.empty_pretraining_model(config)
    network = PretrainingNetwork.of(model)
    assert network.encoder is model.base_model
    assert type(network.pooler) is type(families.empty_pooler(config))
    assert type(network.heads) is type(families.empty_heads(config))
    names = {*shapes_of(network.encoder)}
    assert {family.word_table, family.pooler_weight("weight"), family.pooler_weight("bias")} < names
    assert families.word_embeddings(network.encoder).weight.shape == (20, 8)
    assert len(families.block_modules(network.encoder)) == 2
    for block in families.blocks_of(network.encoder):
        assert (block.query.weight.shape, block.n_heads) == ((8, 8), 2)
        assert (block.inner.weight.shape, block.output.weight.shape) == ((16, 8), (8, 16))
    heads = families.heads_of(network.encoder, network.heads)
    assert network.word_bias is heads.bias and heads.bias.shape == (20,)
    assert (heads.dense.weight.shape, heads.decoder.weight.shape) == ((8, 8), (20, 8))
    assert heads.next_sentence.weight.shape == (2, 8)


def test_empty_modules_take_no_memory_and_no_random_numbers(config):
    before = torch.get_rng_state()
    for build in (
        families.empty_encoder,
        families.empty_pooler,
        families.empty_heads,
        families.empty_pretraining_model,
    ):
        assert {weight.device.type for weight in build(config).parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


# Two families that skbert does not read from files: one numbers positions from 2, the other has
# other names and no segments.
ROBERTA = replace(BERT, model_type="roberta", first_position=2)
DISTILBERT = replace(
    BERT,
    model_type="distilbert",
    embedding_parts={name: BERT.embedding_parts[name] for name in ("words", "positions", "norm")},
    blocks="transformer.layer",
    block_parts={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "n_heads": "attention.n_heads",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "inner": "ffn.lin1",
        "activation": "ffn.activation",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
)


def small_roberta():
    config = RobertaConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        initializer_range=0.5,
    )
    return RobertaModel(config, add_pooling_layer=False)


def small_distilbert():
    return DistilBertModel(
        DistilBertConfig(
            vocab_size=20,
            dim=8,
            n_layers=2,
            n_heads=2,
            hidden_dim=16,
            max_position_embeddings=8,
            initializer_range=0.5,
        )
    )


@pytest.mark.parametrize(
    ("family", "build"), [(ROBERTA, small_roberta), (DISTILBERT, small_distilbert)]
)
def test_an_entry_is_all_that_the_encoder_needs(monkeypatch, family, build):
    monkeypatch.setitem(FAMILIES, family.model_type, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    ids = [[5, 9, 7, 19], [11, 12]]
    batch = PackedBatch(
        ids=np.array([*ids[0], *ids[1]], dtype=np.int32),
        positions=np.array([0, 1, 2, 3, 0, 1], dtype=np.int32),
        segment_ids=np.zeros(6, dtype=np.int32),
        cu_seqlens=np.array([0, 4, 6], dtype=np.int32),
        rows=np.arange(2),
    )
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids]
        hidden, first = encode(model, batch), encode_first_token(model, batch)
    torch.testing.assert_close(hidden, torch.cat(states), rtol=0, atol=1e-5)
    torch.testing.assert_close(first, torch.stack([s[0] for s in states]), rtol=0, atol=1e-5)
