"""Families that run through the padded forward of their own module of transformers."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files.arrays import pack_encoder, unpack_encoder
from skbert.engine.files.config import config_of
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.weights import build_encoder
from skbert.engine.model import families
from skbert.engine.model.device import computing_in
from skbert.engine.model.dropout import seeded_dropout
from skbert.engine.model.encoder import encode, encode_first_token
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES
from skbert.engine.text.packing import PackedBatch
from tests.padded_folders import OWN, save_padded, small_config
from tests.reference_states import random_batch, transformers_states

#: Numbers of tokens of the texts of a batch.
LENGTHS = (40, 33, 9, 9, 4, 1)

NAMES = [*PADDED_FAMILIES]

#: For tests of what does not differ between these families.
SOME = ["modernbert", "deberta-v2", "data2vec-text"]


def new_encoder(name, seed=0):
    """Build an encoder of transformers with random weights: biases, norms and padding, too."""
    family, config = PADDED_FAMILIES[name], small_config(name)
    options = {"add_pooling_layer": False} if family.pooler else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = getattr(transformers, family.encoder_class)(config, **options).eval()
        with torch.no_grad():
            for weight in encoder.parameters():
                if weight.ndim == 1:
                    weight.add_(0.2 * torch.randn_like(weight))
            encoder.get_input_embeddings().weight[0].normal_()
    return encoder


@pytest.fixture(scope="module", params=NAMES)
def encoder(request):
    return new_encoder(request.param)


def firsts_of(batch):
    return torch.from_numpy(batch.cu_seqlens[:-1]).long()


# The encoder --------------------------------------------------------------------------------------


def test_no_family_is_native_and_padded():
    assert not {*FAMILIES} & {*PADDED_FAMILIES}


def test_the_classes_are_those_that_transformers_itself_finds(encoder):
    family = families.family_of(encoder)
    assert type(transformers.AutoConfig.for_model(family.model_type)) is type(encoder.config)
    empty = transformers.AutoModel.from_config(encoder.config)
    assert type(empty) is type(encoder) and empty.base_model_prefix == family.encoder
    assert encoder.get_input_embeddings() is families.word_embeddings(encoder)
    assert len(families.block_modules(encoder)) == 2
    assert family.word_table in encoder.state_dict()


@pytest.mark.parametrize("with_gradients", [False, True])
def test_the_hidden_states_are_those_of_transformers(encoder, with_gradients):
    batch = random_batch(encoder.config, LENGTHS)
    with torch.set_grad_enabled(with_gradients):
        expected = transformers_states(encoder, batch)
        for layer in range(3):
            found = encode(encoder, batch, n_layers=layer)
            torch.testing.assert_close(found, expected[layer], rtol=0, atol=1e-5)
        first = encode_first_token(encoder, batch)
    torch.testing.assert_close(first, expected[-1][firsts_of(batch)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("only_first", [False, True])
def test_all_gradients_are_those_of_transformers(encoder, only_first):
    batch = random_batch(encoder.config, LENGTHS)
    shape = (len(batch.rows) if only_first else len(batch.ids), 16)
    loss_weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def gradients(states):
        encoder.zero_grad()
        (states * loss_weights).sum().backward()
        return {name: w.grad for name, w in encoder.named_parameters() if w.grad is not None}

    expected_states = transformers_states(encoder, batch)[-1]
    expected = gradients(expected_states[firsts_of(batch)] if only_first else expected_states)
    found = gradients((encode_first_token if only_first else encode)(encoder, batch))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1.0)
        assert (found[name] - gradient).abs().max().item() < 1e-4 * scale, name


def test_more_texts_than_a_group_do_not_change_each_other(encoder):
    batch = random_batch(encoder.config, tuple(range(20, 0, -1)))
    alone = random_batch(encoder.config, (20,))
    assert np.array_equal(alone.ids, batch.ids[:20])
    alone = replace(alone, segment_ids=batch.segment_ids[:20])
    found, expected = encode(encoder, batch)[:20], encode(encoder, alone)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_states_of_a_filled_batch_are_those_of_the_batch(encoder):
    batch = random_batch(encoder.config, (9, 4))
    zeros = np.zeros(200, dtype=np.int32)  # longer than the model allows
    filled = PackedBatch(
        ids=np.concatenate([batch.ids, zeros]),
        positions=np.concatenate([batch.positions, zeros]),
        segment_ids=np.concatenate([batch.segment_ids, zeros]),
        cu_seqlens=np.append(batch.cu_seqlens, np.int32(213)),
        rows=np.append(batch.rows, -1),
    )
    with torch.no_grad():
        found = encode(encoder, filled)
        torch.testing.assert_close(found[:13], encode(encoder, batch), rtol=0, atol=0)
        assert found.shape == (213, 16) and not found[13:].any()
        assert encode_first_token(encoder, filled).shape == (3, 16)


def test_dropout_acts_on_hidden_states_only(encoder):
    batch, shapes = random_batch(encoder.config, (5, 5)), []
    drop = seeded_dropout(0.5, np.random.SeedSequence(0), torch.device("cpu"))

    def dropout(hidden):
        shapes.append(hidden.shape)
        return drop(hidden)

    def count_hooks():  # transformers has some of its own
        return sum(len(module._forward_hooks) for module in encoder.modules())

    plain = encode(encoder, batch)
    before, n_hooks = torch.get_rng_state(), count_hooks()
    found = encode(encoder, batch, dropout)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(shape[-2:] == (5, 5) for shape in shapes)
    if encoder.config.model_type == "eurobert":  # has no dropout of hidden states
        assert not shapes and torch.equal(found, plain)
    else:
        assert shapes and not torch.allclose(found, plain)
    assert torch.equal(encode(encoder, batch), plain)
    assert count_hooks() == n_hooks


def test_lower_precision_gives_similar_states_and_gradients(encoder):
    batch = random_batch(encoder.config, LENGTHS)
    with torch.no_grad():
        expected = encode(encoder, batch)
    with computing_in(torch.bfloat16, torch.device("cpu")):
        found = encode(encoder, batch).float()
        found.sum().backward()
    assert (found - expected).abs().mean() < 0.02
    gradients = [w.grad for w in encoder.parameters() if w.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_rebuilt_encoder_is_equal_and_takes_no_random_numbers(encoder):
    before = torch.get_rng_state()
    packed = pickle.loads(pickle.dumps(pack_encoder(encoder)))
    rebuilt = unpack_encoder(packed)
    assert torch.equal(torch.get_rng_state(), before)
    batch = random_batch(encoder.config, LENGTHS)
    with torch.no_grad():
        torch.testing.assert_close(encode(rebuilt, batch), encode(encoder, batch), rtol=0, atol=0)
    tensors = [*rebuilt.parameters(), *rebuilt.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    flags = [[w.requires_grad for w in module.parameters()] for module in (encoder, rebuilt)]
    assert flags[0] == flags[1]


def test_the_settings_of_a_file_make_an_equal_configuration(encoder):
    again = config_of(json.loads(encoder.config.to_json_string(use_diff=False)), Path("file"))
    assert type(again) is type(encoder.config)
    assert again.to_dict() == encoder.config.to_dict() | {"architectures": None}
    for name in OWN.get(encoder.config.model_type, {}):
        assert getattr(again, name) == getattr(encoder.config, name), name


def test_older_names_of_settings_count(tmp_path):
    old = {"model_type": "modernbert", "global_rope_theta": 5e4, "global_attn_every_n_layers": 2}
    config = config_of(old, tmp_path)
    assert config.rope_parameters["full_attention"]["rope_theta"] == 5e4
    assert config.layer_types[:3] == ["full_attention", "sliding_attention", "full_attention"]


def test_settings_that_define_no_encoder_are_ignored():
    settings = small_config("deberta-v2").to_dict()
    forged = {
        "auto_map": {"AutoModel": "code.Model"},
        "_name_or_path": "elsewhere",
        "to_dict": 1,
        "is_causal": True,
        "quantization_config": {"quant_method": "gptq"},
        "_attn_implementation": "flash_attention_2",
    }
    config = config_of(settings | forged, Path("file"))
    assert config.to_dict() == config_of(settings, Path("file")).to_dict()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("roformer", {"max_position_embeddings": 10**7}, "max_position_embeddings=10000000, but"),
        ("mobilebert", {"num_feedforward_networks": 10**6}, "an integer from 1 to 100"),
        ("modernbert", {"local_attention": 10**9}, "a number from -100000000 to 100000000"),
        ("modernbert", {"norm_eps": float("nan")}, "a number from -100000000 to 100000000"),
        ("modernbert", {"hidden_activation": "no"}, "does not describe a modernbert encoder"),
        ("deberta", {"num_attention_heads": 3}, "does not describe a deberta encoder"),
        ("deberta", {"pad_token_id": 143}, "null or an integer from 0 to 142"),
        ("data2vec-text", {"pad_token_id": None}, "must be an integer from 0 to 142"),
        ("data2vec-text", {"max_position_embeddings": 1}, "must be more than 1"),
    ],
)
def test_impossible_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        config_of(small_config(name).to_dict() | settings, Path("file"))


@pytest.mark.parametrize("name", ["gpt2", "t5", "clip", "xlnet", "longformer", "nystromformer"])
def test_other_families_are_refused(name):
    with pytest.raises(ValueError, match=r"'bert', .*through the padded forward.*'modernbert', "):
        config_of({"model_type": name}, Path("file"))


# The estimators -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_bert):
    """Folder of each family."""
    return {n: save_padded(tmp_path_factory.mktemp("padded") / n, n, tiny_bert) for n in NAMES}


@pytest.fixture(params=NAMES)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(params=SOME)
def some_folder(request, folders):
    return folders[request.param]


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
    return BertSentimentClassifier(model, device="cpu", random_state=0, **(settings | parameters))


def few(toy_reviews):
    X, y = toy_reviews
    return X[:12], y[:12]


def weights_of(clf):
    return {**clf.model_.state_dict(), **clf.head_.state_dict()}


def assert_equal_weights(a, b):
    for name, weight in weights_of(a).items():
        assert torch.equal(weight, weights_of(b)[name]), name


@pytest.mark.filterwarnings("ignore:skbert saves the head")
def test_fit_predict_pickle_and_save(folder, toy_reviews, tmp_path):
    X, y = few(toy_reviews)
    before = torch.get_rng_state()
    clf = classifier(folder, max_epochs=1).fit(X, y)
    again = classifier(folder, max_epochs=1).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal_weights(clf, again)
    expected = clf.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), expected)
    clf.save_pretrained(tmp_path / "saved")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "saved")
    assert np.array_equal(loaded.predict_proba(X), expected)
    assert_equal_weights(clf, loaded)
    assert np.abs(clf.predict_proba(X[:1]) - expected[:1]).max() < 1e-5


def test_fit_learns(some_folder, toy_reviews):
    clf = classifier(
        some_folder, max_epochs=5, batch_size=16, pooling="mean", learning_rate=1e-2
    ).fit(*toy_reviews)
    assert clf.score(*toy_reviews) > 0.9


@pytest.mark.filterwarnings("ignore:skbert saves the head")
def test_transformers_loads_the_encoder_of_a_saved_folder(some_folder, toy_reviews, tmp_path):
    clf = classifier(some_folder, max_epochs=1).fit(*few(toy_reviews))
    clf.save_pretrained(tmp_path / "saved")
    model = transformers.AutoModel.from_pretrained(tmp_path / "saved").eval()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [
        type(model).__name__
    ]
    batch = random_batch(clf.model_.config, LENGTHS)
    with torch.no_grad():
        expected = transformers_states(model, batch)[-1]
        torch.testing.assert_close(encode(clf.model_, batch), expected, rtol=0, atol=1e-5)
    assert classifier(tmp_path / "saved").fit(*few(toy_reviews)).n_epochs_ == 2


def test_dropout_changes_the_weights_that_fit_learns(some_folder, toy_reviews):
    X, y = few(toy_reviews)
    with_dropout, without = (
        classifier(some_folder, dropout=p, max_epochs=1).fit(X, y).model_.state_dict()
        for p in (0.5, 0.0)
    )
    assert any(not torch.equal(with_dropout[n], without[n]) for n in without)


def test_only_words_that_occur_are_trained(some_folder, toy_reviews):
    X, y = few(toy_reviews)
    before = load_pretrained(some_folder).new_encoder()
    clf = classifier(some_folder, max_epochs=1, weight_decay=0.0).fit(X, y)
    tables = [families.word_embeddings(model).weight for model in (before, clf.model_)]
    has_changed = (tables[0] != tables[1]).any(dim=1)
    ids = clf.tokenizer_(X)["input_ids"]
    assert {*has_changed.nonzero().flatten().tolist()} == {i for text in ids for i in text}


def test_training_computes_what_prediction_does(some_folder, toy_reviews):
    """Positions may depend on the ids, so training must not renumber them."""
    X, y = few(toy_reviews)
    clf = classifier(some_folder, max_epochs=1, learning_rate=1e-12, dropout=0.0).fit(X, y)
    right = clf.predict_log_proba(X)[np.arange(12), np.searchsorted(clf.classes_, y)]
    assert clf.history_[0]["train_loss"] == pytest.approx(-right.mean(), abs=1e-5)


def test_partial_fit_warm_start_and_early_stopping(some_folder, toy_reviews):
    X, y = few(toy_reviews)
    clf = classifier(some_folder).partial_fit(X, y, classes=["bad", "good"]).partial_fit(X, y)
    assert clf.n_epochs_ == 2
    assert clf.set_params(warm_start=True, early_stopping=True).fit(X, y).n_epochs_ >= 3


def test_a_killed_fit_resumes(some_folder, toy_reviews, tmp_path, monkeypatch):
    X, y = few(toy_reviews)
    whole = classifier(some_folder, max_epochs=3).fit(X, y)
    clf = classifier(some_folder, max_epochs=3, checkpoint_dir=tmp_path / "runs")
    step, n_steps = torch.optim.AdamW.step, []

    def killed(*args, **kwargs):
        n_steps.append(1)
        if len(n_steps) == 4:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", killed)
        clf.fit(X, y)
    assert [*(tmp_path / "runs").iterdir()]
    assert_equal_weights(whole, clf.fit(X, y))


def test_vectors(folder, toy_reviews, tmp_path):
    X = toy_reviews[0][:4]
    embed = BertEmbeddingTransformer(folder, pooling="mean", max_length=32, device="cpu")
    vectors = embed.fit_transform(X)
    for i, text in enumerate(X):
        np.testing.assert_allclose(embed.transform([text])[0], vectors[i], rtol=0, atol=1e-5)
    first_layer = BertEmbeddingTransformer(folder, layer=1, max_length=32).fit_transform(X)
    assert first_layer.shape == (4, 16) and not np.allclose(first_layer, vectors)
    stored = BertEmbeddingTransformer(
        folder, pooling="mean", max_length=32, store_weights=True, cache=tmp_path / "cache"
    ).fit(X)
    loaded = pickle.loads(pickle.dumps(stored))
    np.testing.assert_allclose(loaded.transform(X), vectors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(loaded.transform(X), vectors, rtol=0, atol=1e-6)
    assert loaded.cache_info_.hits >= 4


def test_the_pooler_of_a_checkpoint_is_found(folders, toy_reviews):
    X = toy_reviews[0][:4]
    found = BertEmbeddingTransformer(folders["ernie"], pooling="pooler", max_length=32)
    vectors = found.fit_transform(X)
    model = transformers.AutoModel.from_pretrained(folders["ernie"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["ernie"])
    with torch.no_grad():
        expected = model(**tokenizer(X, padding=True, return_tensors="pt")).pooler_output
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=0, atol=1e-5)


def test_the_caches_of_two_configurations_differ():
    config, other = small_config("deberta-v2"), small_config("deberta-v2")
    other.position_buckets = 16
    settings = families.result_settings
    assert settings(config) == settings(small_config("deberta-v2"))
    assert settings(config) != settings(other)


def test_pairs(some_folder):
    pairs = [["a film", "so dull"], ["it was fun", "very good"], ["", "not bad"]] * 4
    clf = classifier(some_folder, max_epochs=1).fit(pairs, ["bad", "good", "good"] * 4)
    single = clf.predict_proba(pairs[:1])
    np.testing.assert_allclose(clf.predict_proba(pairs)[:1], single, rtol=0, atol=1e-5)


# Files --------------------------------------------------------------------------------------------


def test_heads_and_wrappers_around_the_encoder_are_ignored(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["deberta-v2"], folder)
    weights = load_file(folder / "model.safetensors")
    inside = {f"deberta.{name}": weight for name, weight in weights.items()}
    save_file(inside | {"classifier.weight": torch.ones(2, 16)}, folder / "model.safetensors")
    found, expected = load_pretrained(str(folder)).weights, load_pretrained(folders["deberta-v2"])
    assert {*found} == {*expected.weights}
    assert all(torch.equal(found[name], expected.weights[name]) for name in found)


def test_a_missing_weight_is_refused_and_not_random(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["modernbert"], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.mlp.Wo.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 of the \d+ weights of a modernbert encoder"):
        load_pretrained(str(folder))


def test_a_configuration_larger_than_the_weights_takes_no_memory(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["modernbert"], folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"vocab_size": 10**8, "hidden_size": 10**5}  # 40 TB
    settings["max_position_embeddings"] = 1000
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="has shape"):
        load_pretrained(str(folder))


@pytest.mark.filterwarnings("ignore:skbert saves the head")
def test_weights_that_are_not_finite_are_refused(folders, toy_reviews, tmp_path):
    clf = classifier(folders["modernbert"], max_epochs=1).fit(*few(toy_reviews))
    with torch.no_grad():
        clf.model_.final_norm.weight[0] = torch.nan
    clf.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="not finite"):
        BertSentimentClassifier.from_pretrained(tmp_path / "saved")


def test_the_code_of_a_folder_does_not_run(folders, toy_reviews, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["modernbert"], folder)
    (folder / "code.py").write_text("raise RuntimeError('executed')")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "code.Code")
    (folder / "config.json").write_text(json.dumps(settings))
    clf = classifier(folder, max_epochs=1).fit(*few(toy_reviews))
    assert type(clf.model_) is transformers.ModernBertModel


# Refusals and notes -------------------------------------------------------------------------------


def test_frozen_layers_are_refused(some_folder, toy_reviews):
    message = r"n_frozen_layers=1, but the model, '.*', runs through the padded forward"
    with pytest.raises(ValueError, match=message):
        classifier(some_folder, n_frozen_layers=1).fit(*few(toy_reviews))


def test_pretraining_is_refused(some_folder, toy_reviews):
    X, y = few(toy_reviews)
    message = "but skbert pre-trains encoders with model_type in "
    with pytest.raises(ValueError, match=message):
        BertPretrainer(some_folder, max_length=32).fit(X)
    with pytest.raises(ValueError, match=message):
        BertPretrainer.from_pretrained(some_folder)
    with pytest.raises(ValueError, match=message):
        classifier(some_folder, pretraining_epochs=1).fit(X, y)


def test_a_published_classifier_is_refused(some_folder):
    message = "but from_pretrained reads published classifiers with model_type in "
    with pytest.raises(ValueError, match=message):
        BertSentimentClassifier.from_pretrained(some_folder)


def test_the_repr_of_a_fitted_estimator_says_so(folders, tiny_bert, toy_reviews):
    model = folders["deberta-v2"]
    clf = classifier(model, max_epochs=1)
    plain = repr(clf)
    assert plain == BaseEstimator.__repr__(clf)
    note = "  # deberta-v2: padded forward of transformers"
    assert repr(clf.fit(*few(toy_reviews))) == str(clf) == plain + note
    embed = BertEmbeddingTransformer(model, max_length=32)
    before = repr(embed)
    assert repr(embed.fit(["a"])) == before + note
    assert repr(pickle.loads(pickle.dumps(embed))) == before + note
    native = BertEmbeddingTransformer(tiny_bert, max_length=32)
    assert repr(native.fit(["a"])) == BaseEstimator.__repr__(native)
    assert "#" not in repr(make_pipeline(clf, clf))


def test_the_printer_of_scikit_learn_still_breaks_lines(tiny_bert):
    long = BertSentimentClassifier(tiny_bert * 3, max_length=31, max_epochs=9, batch_size=17)
    lines = repr(make_pipeline("passthrough", long)).splitlines()
    assert len(lines) > 3 and max(len(line) for line in lines[1:]) < 400 + len(tiny_bert * 3)


def test_weights_are_not_copied():
    encoder = new_encoder("modernbert")
    weights = {name: w.clone() for name, w in encoder.state_dict().items()}
    rebuilt = build_encoder(encoder.config, weights)
    for name, weight in rebuilt.state_dict().items():
        assert weight.data_ptr() == weights[name].data_ptr()
