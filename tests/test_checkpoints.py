"""Checkpoints of every family as they lie around: shards, half precision, other heads."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.engine.files.pretrained import load_pooling, load_pretrained
from skbert.engine.model.families import FAMILIES

TEXTS = ["a film", "", "this film is not good", f"movie {'very ' * 20}dull"]

#: Heads that transformers puts on an encoder, by the ends of their classes' names.
HEADS = [
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
]


@pytest.fixture(params=FAMILIES)
def original(request, family_folders):
    return family_folders[request.param]


@pytest.fixture
def copied(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copied")


@pytest.fixture
def bert(family_folders, tmp_path):
    return shutil.copytree(family_folders["bert"], tmp_path / "bert")


def vectors(model, **parameters):
    settings = {"pooling": "mean", "max_length": 64, "device": "cpu"} | parameters
    return BertEmbeddingTransformer(str(model), **settings).transform(TEXTS)


def encoder_of(folder):
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)


def test_shards(original, copied):
    (copied / "model.safetensors").unlink()
    encoder_of(original).save_pretrained(copied, max_shard_size="4KB")
    assert len([*copied.glob("model-*.safetensors")]) > 2
    np.testing.assert_array_equal(vectors(copied), vectors(original))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_becomes_float32(original, copied, dtype):
    path = copied / "model.safetensors"
    half = {name: weight.to(dtype) for name, weight in load_file(path).items()}
    save_file(half, path, metadata={"format": "pt"})
    found = load_pretrained(str(copied)).weights
    for name, weight in load_pretrained(original).weights.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], weight.to(dtype).float()), name
    assert np.abs(vectors(copied) - vectors(original)).max() < 0.2


@pytest.mark.parametrize("head", HEADS)
def test_other_heads_are_ignored(original, copied, head):
    prefix = FAMILIES[encoder_of(original).config.model_type].class_prefix
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, prefix + head)(encoder_of(original).config)
    # Some of these classes drop the pooler, which the mean over the tokens does not need.
    model.base_model.load_state_dict(encoder_of(original).state_dict(), strict=False)
    model.save_pretrained(copied)
    np.testing.assert_array_equal(vectors(copied), vectors(original))


@pytest.mark.parametrize("revision", [None, "v1"], ids=["main", "revision"])
def test_the_hub_cache_needs_no_network(original, tmp_path, monkeypatch, revision):
    """With the real client of the hub, and what it stores."""
    cache = tmp_path / "models--owner--name"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / (revision or "main")).write_text("0" * 40)
    shutil.copytree(original, cache / "snapshots" / ("0" * 40))
    name = f"owner/name@{revision}" if revision else "owner/name"
    np.testing.assert_array_equal(vectors(name), vectors(original))


def test_a_vocabulary_alone(bert, family_folders):
    vocabulary = load_pretrained(family_folders["bert"]).tokenizer.get_vocab()
    (bert / "tokenizer.json").unlink()
    (bert / "tokenizer_config.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    np.testing.assert_array_equal(vectors(bert), vectors(family_folders["bert"]))


# sentence-transformers

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
}


def list_modules(folder, kinds):
    """Write the list of modules as sentence-transformers does."""
    names = [kind.rpartition(".")[2] for kind in kinds]
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": kind}
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("named", [lambda n: OLD + n, NEW.get], ids=["old_names", "new_names"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_model_of_sentence_transformers(copied, named, pooling, toy_reviews):
    """ "cls" and a Normalize are what the bge models have; "mean" and a Normalize all-MiniLM."""
    list_modules(copied, [named("Transformer"), named("Pooling"), named("Normalize")])
    (copied / "1_Pooling").mkdir()
    settings = {"pooling_mode_cls_token": pooling == "cls"}
    settings |= {"pooling_mode_mean_tokens": pooling == "mean", "word_embedding_dimension": 16}
    (copied / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert load_pooling(str(copied)) == pooling
    clf = BertSentimentClassifier(str(copied), max_epochs=1, max_length=32, batch_size=16)
    assert clf.set_params(learning_rate=1e-3).fit(*toy_reviews).pooling_ == pooling
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="an extra of the benchmarks, for comparison only"
    )
    # Old versions do not know the new names, and new ones know both.
    list_modules(copied, [OLD + name for name in ("Transformer", "Pooling", "Normalize")])
    expected = sentence_transformers.SentenceTransformer(str(copied), device="cpu").encode(TEXTS)
    found = vectors(copied, pooling="auto", normalize=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def message(folder, kind, reason):
    return (
        f"{str(Path(folder) / 'modules.json')!r} names the module {kind!r}, {reason}. skbert "
        "computes the modules ['Transformer', 'Pooling', 'Normalize', 'Dropout'] of "
        "sentence_transformers. Choose another model, or delete modules.json in a local copy to "
        "use the encoder alone."
    )


def fit(model):
    return BertSentimentClassifier(str(model), max_length=64).fit(TEXTS, [0, 1, 0, 1])


DENSE = "which skbert does not compute, so the vectors would not be the model's"
CODE = "which is code that skbert does not run"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OLD + "Dense", DENSE),
        (NEW["Dense"], DENSE),
        (OLD + "WordWeights", DENSE),
        ("custom_code.Pooling", CODE),
        ("", CODE),
    ],
)
@pytest.mark.parametrize("is_above", [False, True], ids=["own", "above"])
def test_other_modules_are_refused_by_name(bert, tmp_path, kind, reason, is_above):
    folder, listed = bert, bert
    if is_above:
        listed = tmp_path / "root"
        folder = shutil.copytree(bert, listed / "0_Transformer")
    list_modules(listed, [OLD + "Transformer", OLD + "Pooling", kind])
    if is_above:
        entries = json.loads((listed / "modules.json").read_text())
        entries[0]["path"] = "0_Transformer"
        (listed / "modules.json").write_text(json.dumps(entries))
    for use in (vectors, fit):
        with pytest.raises(ValueError) as caught:
            use(folder)
        assert str(caught.value) == message(listed, kind, reason)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", ""])
def test_a_damaged_list_of_modules_is_ignored(bert, family_folders, content):
    """It only says what comes after the encoder, and names no file that skbert needs."""
    (bert / "modules.json").write_text(content)
    np.testing.assert_array_equal(vectors(bert), vectors(family_folders["bert"]))
