"""The table of families: every name in it exists, and it is all that the encoder needs to know."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from skbert import BertSentimentClassifier
from skbert.engine.files.config import config_of
from skbert.engine.files.weights import build_encoder, shapes_of
from skbert.engine.model import families
from skbert.engine.model.encoder import HiddenStates, encode, encode_first_token
from skbert.engine.model.families import BERT, FAMILIES
from skbert.engine.model.networks import PretrainingNetwork
from tests.family_folders import save_family
from tests.reference_states import random_batch, transformers_states

#: Numbers of tokens of the texts of a batch.
LENGTHS = (150, 30, 4, 4, 1)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 200,
    "initializer_range": 0.2,
}


def small_config(name):
    family = FAMILIES[name]
    own = {setting: 8 for setting in family.own_settings if setting == "embedding_size"}
    return families.new_config(family, **SIZES, **own)


@pytest.fixture(params=FAMILIES)
def config(request):
    return small_config(request.param)


def new_encoder(config, seed=0):
    """Build an encoder of transformers with random weights and biases."""
    build = getattr(transformers, families.family_of(config).encoder_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build(config).eval()
        with torch.no_grad():
            for weight in encoder.parameters():
                if weight.ndim == 1:  # zeros and ones would hide a bias or a norm that is left out
                    weight.add_(0.2 * torch.randn_like(weight))
    return encoder


def test_the_classes_are_those_of_transformers(config):
    family = families.family_of(config)
    assert family.model_type == config.model_type == type(config).model_type
    assert type(config) is getattr(transformers, family.config_class)
    encoder = families.empty_encoder(config)
    assert type(encoder) is getattr(transformers, family.encoder_class)
    assert families.family_of(encoder) is family
    classifier = getattr(transformers, family.classifier_class)(config)
    assert classifier.base_model is classifier.get_submodule(family.encoder)
    assert type(classifier.get_submodule(family.classifier)) is torch.nn.Linear
    assert type(transformers.AutoConfig.for_model(family.model_type)) is type(config)


def test_the_names_are_those_of_the_weights(config):
    family, encoder = families.family_of(config), new_encoder(config)
    names = {*encoder.state_dict()}
    assert family.word_table in names
    if family.pooler is None:
        assert not [name for name in names if "pooler" in name]
    else:
        pooler = {family.pooler_weight("weight"), family.pooler_weight("bias")}
        assert pooler == {name for name in names if name.startswith(family.pooler_module)}
    rest = {name for name in names if not family.pooler or family.pooler_module not in name}
    assert rest == {*shapes_of(families.empty_encoder(config))}
    assert {name.split(".")[0] for name in rest} == family.first_names


def test_the_parts_are_found(config):
    encoder = families.empty_encoder(config)
    n_words, width = families.word_embeddings(encoder).weight.shape
    assert (n_words, width) == (40, getattr(config, "embedding_size", 16))
    assert len(families.block_modules(encoder)) == 4
    for block in families.blocks_of(encoder):
        assert (block.query.weight.shape, block.n_heads) == ((16, 16), 2)
        assert (block.inner.weight.shape, block.output.weight.shape) == ((24, 16), (16, 24))


def test_the_pretraining_heads_are_found(config):
    family, model = families.family_of(config), families.empty_pretraining_model(config)
    assert type(model) is getattr(transformers, family.pretraining_class)
    network = PretrainingNetwork.of(model)
    assert network.encoder is model.base_model
    width = getattr(config, "embedding_size", 16)
    heads = families.heads_of(network.encoder, network.heads)
    assert network.word_bias is heads.bias and heads.bias.shape == (40,)
    assert (heads.dense.weight.shape, heads.decoder.weight.shape) == ((width, 16), (40, width))
    names = {name for name, child in model.named_children() if [*child.parameters()]}
    assert names | {*family.heads} == {family.encoder, *family.heads}
    assert family.has_next_sentence is (config.model_type == "bert")
    if family.has_next_sentence:
        assert type(network.pooler) is type(families.empty_pooler(config))
        assert heads.next_sentence.weight.shape == (2, 16)
    else:
        assert network.pooler is None and heads.next_sentence is None


def test_empty_modules_take_no_memory_and_no_random_numbers(config):
    before = torch.get_rng_state()
    builds = [families.empty_encoder, families.empty_heads, families.empty_pretraining_model]
    if families.family_of(config).has_next_sentence:
        builds.append(families.empty_pooler)
    for build in builds:
        assert {weight.device.type for weight in build(config).parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


def test_the_settings_of_a_file_make_an_equal_configuration(config, tmp_path):
    again = config_of(config.to_dict(), tmp_path)
    assert type(again) is type(config) and again.to_dict() == config.to_dict()


def test_the_hidden_states_are_those_of_transformers(config):
    encoder, batch = new_encoder(config), random_batch(config, LENGTHS)
    with torch.no_grad():
        expected = transformers_states(encoder, batch)
        for layer in range(5):
            found = encode(encoder, batch, n_layers=layer)
            if layer == 0 and families.embeddings_of(encoder).projection is not None:
                assert found.shape == expected[0].shape
            torch.testing.assert_close(found, expected[layer], rtol=0, atol=1e-5)
        first = encode_first_token(encoder, batch)
    firsts = torch.from_numpy(batch.cu_seqlens[:-1]).long()
    torch.testing.assert_close(first, expected[-1][firsts], rtol=0, atol=1e-5)


@pytest.mark.parametrize("only_first", [False, True])
def test_all_gradients_are_those_of_transformers(config, only_first):
    encoder, batch = new_encoder(config), random_batch(config, LENGTHS)
    firsts = torch.from_numpy(batch.cu_seqlens[:-1]).long()
    shape = (len(firsts) if only_first else len(batch.ids), 16)
    loss_weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def gradients(states):
        encoder.zero_grad()
        (states * loss_weights).sum().backward()
        return {name: w.grad for name, w in encoder.named_parameters() if w.grad is not None}

    expected_states = transformers_states(encoder, batch)[-1]
    expected = gradients(expected_states[firsts] if only_first else expected_states)
    found = gradients((encode_first_token if only_first else encode)(encoder, batch))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # The bias of the keys has a gradient of zero, up to rounding, so compare with the others.
        scale = max(gradient.abs().max().item(), 1.0)
        assert (found[name] - gradient).abs().max().item() < 1e-4 * scale, name


def test_a_start_above_the_embeddings_continues(config):
    encoder, batch = new_encoder(config), random_batch(config, LENGTHS)
    with torch.no_grad():
        start = HiddenStates(encode(encoder, batch, n_layers=2), 2)
        torch.testing.assert_close(
            encode(encoder, batch, start=start), encode(encoder, batch), rtol=0, atol=1e-5
        )


def test_a_rebuilt_encoder_works_in_transformers(config):
    encoder, batch = new_encoder(config), random_batch(config, LENGTHS)
    weights = {n: encoder.state_dict()[n] for n in shapes_of(families.empty_encoder(config))}
    rebuilt = build_encoder(config, weights)
    assert all(buffer.device.type == "cpu" for buffer in rebuilt.buffers())
    with torch.no_grad():
        expected = transformers_states(encoder, batch)
        torch.testing.assert_close(transformers_states(rebuilt, batch), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize("padding", [0, 3])
def test_roberta_starts_after_the_position_of_padding(name, padding):
    config = small_config(name)
    config.pad_token_id = padding
    assert families.longest_text(config) == 200 - padding - 1
    encoder, batch = new_encoder(config), random_batch(config, (9, 3))
    batch.ids[[2, 3, 8, 9]] = padding  # a text may spell it out
    with torch.no_grad():
        expected = transformers_states(encoder, batch)[-1]
        torch.testing.assert_close(encode(encoder, batch), expected, rtol=0, atol=1e-5)


def test_layers_of_albert_share_groups_of_weights():
    config = small_config("albert")
    config.num_hidden_groups = 2
    encoder, batch = new_encoder(config), random_batch(config, (9, 3))
    first, second, third, fourth = families.block_modules(encoder)
    assert first is second and third is fourth and first is not third
    with torch.no_grad():
        expected = transformers_states(encoder, batch)[-1]
        torch.testing.assert_close(encode(encoder, batch), expected, rtol=0, atol=1e-5)


def test_a_new_family_is_one_entry(monkeypatch, tmp_path, tiny_bert, toy_reviews):
    """ERNIE is a BERT with other names of classes; skbert does not compute it itself."""
    ernie = replace(BERT, model_type="ernie", class_prefix="Ernie", encoder="ernie")
    monkeypatch.setitem(FAMILIES, "ernie", ernie)
    folder = save_family(tmp_path, "ernie", tiny_bert)
    config = families.new_config(ernie, **SIZES)
    encoder, batch = new_encoder(config), random_batch(config, LENGTHS)
    with torch.no_grad():
        expected = transformers_states(encoder, batch)[-1]
        torch.testing.assert_close(encode(encoder, batch), expected, rtol=0, atol=1e-5)
    clf = BertSentimentClassifier(folder, max_length=32, learning_rate=5e-3, random_state=0)
    assert clf.fit(*toy_reviews).score(*toy_reviews) > 0.9
    assert type(clf.model_) is transformers.ErnieModel


def test_no_entry_has_60_lines():
    source = ast.parse(Path(families.__file__).read_text())
    entries = [node for node in source.body if isinstance(node, ast.Assign)]
    lines = {node.targets[0].id: node.end_lineno - node.lineno + 1 for node in entries}
    assert {family.model_type.upper().replace("-", "_") for family in FAMILIES.values()} <= {*lines}
    assert max(lines.values()) < 60
    assert lines["CAMEMBERT"] == 1
