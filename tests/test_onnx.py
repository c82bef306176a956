"""Graphs of ONNX: what a program without skbert and torch computes from the files of to_onnx."""

import copy
import json
import logging
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
import torch
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from torch import nn

import skbert
from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.contract.prepare_finetuning import state_of
from skbert.engine.files import onnx as onnx_files
from skbert.engine.model.families import FAMILIES
from skbert.engine.model.onnx_graph import Classes, build_onnx
from skbert.engine.prediction.predict import predict_logits
from tests.family_folders import save_family
from tests.offline import run_offline
from tests.padded_folders import save_padded

TEXTS = [
    "a film",
    "",
    "this film is not good",
    *(f"movie {'very ' * n}dull" for n in range(0, 40, 7)),
    "great fun and love it",
]
PAIRS = [
    ("a film", "so dull"),
    ("it was fun", "very good"),
    ("", "not bad"),
    ("a", "a film " * 9),
    ("good " * 30, "the film was awful " * 6),
    ("good " * 8, "bad " * 9),
]

pytestmark = pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")


def served(path, texts):
    """Compute the output for one padded batch, as docs/guide/onnx.md shows it."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = tokenizer.encode_batch(texts)
    arrays = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    names = [given.name for given in session.get_inputs()]
    return session.run(None, {name: np.array(arrays[name], dtype=np.int64) for name in names})[0]


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def assert_serves(estimator, expected, path, texts):
    """Compare a padded batch, and each text alone, with skbert."""
    for batch in (slice(None), *(slice(row, row + 1) for row in range(3))):
        found = served(path, texts[batch])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[batch], rtol=0, atol=1e-5)


def fitted(model, toy_reviews, **parameters):
    settings = {"max_epochs": 1, "learning_rate": 5e-3, "random_state": 0, "max_length": 24}
    clf = BertSentimentClassifier(model, precision="float32", **settings | parameters)
    return clf.fit(*toy_reviews)


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return fitted(tiny_bert, toy_reviews)


@pytest.fixture(scope="module")
def paired(tiny_bert):
    labels = ["same", "other"] * 3
    clf = BertSentimentClassifier(
        tiny_bert, max_epochs=1, max_length=24, truncation="head", precision="float32"
    )
    return clf.fit(PAIRS, labels)


# Equal to skbert ------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_probabilities_of_each_family(family_folders, toy_reviews, tmp_path, name, pooling):
    clf = fitted(family_folders[name], toy_reviews, pooling=pooling)
    clf.to_onnx(tmp_path / "model.onnx")
    expected = clf.predict_proba(TEXTS)
    assert np.ptp(expected[:, 0]) > 0.01  # the texts differ
    assert_serves(clf, expected, tmp_path / "model.onnx", TEXTS)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_a_published_classifier(tiny_bert, tmp_path, name):
    folder = save_family(tmp_path / name, name, tiny_bert, "classifier_class")
    clf = BertSentimentClassifier.from_pretrained(folder, precision="float32")
    for weight in clf.head_.parameters():
        nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))
    clf.to_onnx(tmp_path / "model.onnx")
    assert_serves(clf, clf.predict_proba(TEXTS), tmp_path / "model.onnx", TEXTS)
    clf.to_onnx(tmp_path / "model.onnx", pairs=True)
    short = PAIRS[:4]
    assert_serves(clf, clf.predict_proba(short), tmp_path / "model.onnx", short)


@pytest.mark.parametrize("truncation", ["head", "tail", "head+tail"])
def test_the_graph_cuts_long_texts_as_skbert_does(clf, tmp_path, truncation):
    for max_length in (3, 4, 11, 64):
        clf = copy.deepcopy(clf).set_params(max_length=max_length, truncation=truncation)
        clf.to_onnx(tmp_path / "model.onnx")
        texts = [*TEXTS, "good " * 70 + "bad " * 70]
        expected = clf.predict_proba(texts)
        np.testing.assert_allclose(served(tmp_path / "model.onnx", texts), expected, atol=1e-5)


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_the_tokenizer_cuts_long_pairs_as_skbert_does(paired, tmp_path, truncation):
    clf = copy.deepcopy(paired).set_params(truncation=truncation)
    clf.to_onnx(tmp_path / "model.onnx")
    assert_serves(clf, clf.predict_proba(PAIRS), tmp_path / "model.onnx", PAIRS)


def test_of_short_pairs_nothing_is_cut(paired, tmp_path):
    clf = copy.deepcopy(paired).set_params(truncation="head+tail")
    with pytest.warns(UserWarning) as caught:
        clf.to_onnx(tmp_path / "model.onnx")
    assert [str(warning.message) for warning in caught] == [
        "A tokenizer.json has no truncation='head+tail', so the exported tokenizer keeps the first "
        "tokens of longer pairs, as with truncation='head'. Pairs of at most max_length tokens are "
        "not affected. Set truncation to 'head' or 'tail' for the same result."
    ]
    assert metadata_of(tmp_path / "model.onnx")["truncation"] == "head"
    short = PAIRS[:4]
    assert_serves(clf, clf.predict_proba(short), tmp_path / "model.onnx", short)


def test_a_padding_token_within_a_text(family_folders, toy_reviews, tmp_path):
    """RoBERTa gives it the position of padding, and does not count it."""
    clf = fitted(family_folders["roberta"], toy_reviews)
    clf.to_onnx(tmp_path / "model.onnx")
    texts = ["a [PAD] film [PAD] is good", "[PAD]", "a film"]
    assert_serves(clf, clf.predict_proba(texts), tmp_path / "model.onnx", texts)


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "max"},
        {"pooling": "pooler"},
        {"pooling": "cls", "layer": 0},
        {"pooling": "cls", "layer": 1, "normalize": True},
        {"pooling": "mean", "layer": -2},
        {"pooling": "pooler", "normalize": True, "truncation": "tail"},
    ],
    ids=lambda parameters: "-".join(map(str, parameters.values())),
)
def test_the_vectors(tiny_bert, tmp_path, parameters):
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=24, precision="float32", **parameters)
    embedder.to_onnx(tmp_path / "model.onnx")  # without fit, like transform
    vectors = embedder.transform(TEXTS)
    assert_serves(embedder, vectors, tmp_path / "model.onnx", TEXTS)
    assert np.abs(vectors).max() > 0.1


def test_the_vectors_of_pairs(family_folders, tmp_path):
    embedder = BertEmbeddingTransformer(
        family_folders["mpnet"], max_length=24, truncation="tail", precision="float32"
    ).fit(PAIRS)
    embedder.to_onnx(tmp_path / "model.onnx")
    assert_serves(embedder, embedder.transform(PAIRS), tmp_path / "model.onnx", PAIRS)


@pytest.mark.parametrize("act", ["gelu_new", "relu", "silu", "tanh"])
def test_other_activations(tiny_bert, tmp_path, act):
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": act}))
    embedder = BertEmbeddingTransformer(folder, max_length=24, precision="float32")
    embedder.to_onnx(tmp_path / "model.onnx")
    assert_serves(embedder, embedder.transform(TEXTS), tmp_path / "model.onnx", TEXTS)


def test_several_labels_have_sigmoids(clf):
    model = build_onnx(clf.model_, "cls", Classes(clf.head_, "sigmoid"), "scores")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    tokens = clf._subword_tokenizer(["a film"], max_length=24, truncation="head")
    ids = tokens.ids[None].astype(np.int64)
    found = session.run(["scores"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    logits = predict_logits(state_of(clf, "float32").network, tokens)
    np.testing.assert_allclose(found, expit(logits), atol=1e-5)


# What the files say ---------------------------------------------------------------------------


def test_the_inputs_outputs_and_metadata(clf, paired, tmp_path):
    clf.to_onnx(tmp_path / "one" / "model.onnx")
    paired.to_onnx(tmp_path / "two" / "model.onnx")
    single, pair = (
        onnxruntime.InferenceSession(tmp_path / n / "model.onnx") for n in ("one", "two")
    )
    assert [(i.name, i.type, i.shape) for i in single.get_inputs()] == [
        ("input_ids", "tensor(int64)", ["n_texts", "length"]),
        ("attention_mask", "tensor(int64)", ["n_texts", "length"]),
    ]
    assert [i.name for i in pair.get_inputs()][2:] == ["token_type_ids"]
    assert [(o.name, o.type, o.shape) for o in single.get_outputs()] == [
        ("probabilities", "tensor(float)", ["n_texts", 2])
    ]
    about = single.get_modelmeta().custom_metadata_map
    assert len(about.pop("tokenizer_sha256")) == 64
    assert about == {
        "labels": '["bad", "good"]',
        "multilabel": "false",
        "pooling": "cls",
        "max_length": "24",
        "truncation": "head+tail",
        "emoji_names": "true",
        "skbert_version": skbert.__version__,
    }


def test_the_metadata_of_a_transformer(tiny_bert, tmp_path):
    BertEmbeddingTransformer(tiny_bert, layer=-2, max_length=24).to_onnx(tmp_path / "model.onnx")
    about = metadata_of(tmp_path / "model.onnx")
    assert "labels" not in about
    assert (about["layer"], about["normalize"], about["pooling"]) == ("2", "false", "cls")


def test_labels_that_are_numbers(tiny_bert, tmp_path):
    clf = fitted(tiny_bert, (TEXTS[:4], np.array([3, 1, 2, 1])))
    clf.to_onnx(tmp_path / "model.onnx")
    assert json.loads(metadata_of(tmp_path / "model.onnx")["labels"]) == [1, 2, 3]


def test_the_graph_is_valid(clf, paired, tmp_path):
    for estimator in (clf, paired):
        estimator.to_onnx(tmp_path / "model.onnx")
        onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)


def test_layers_that_share_weights_store_them_once(family_folders, toy_reviews, tmp_path):
    clf = fitted(family_folders["albert"], toy_reviews, pooling="mean")
    clf.to_onnx(tmp_path / "model.onnx")
    weights = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert len([w for w in weights if [*w.dims] == [16, 24]]) == 1  # of two layers


def test_the_tokenizer_pads_and_the_graph_cuts(clf, tmp_path):
    clf.to_onnx(tmp_path / "model.onnx")
    settings = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert settings["truncation"] is None
    assert settings["padding"] | {"pad_to_multiple_of": None} == {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }


def test_a_tokenizer_without_special_tokens_gets_them(clf, tmp_path):
    clf = copy.deepcopy(clf)
    backend = clf.tokenizer_.backend_tokenizer
    backend.post_processor = tokenizers.processors.TemplateProcessing("$A", "$A $B", [])
    clf.to_onnx(tmp_path / "model.onnx")
    assert_serves(clf, clf.predict_proba(TEXTS), tmp_path / "model.onnx", TEXTS)


def test_nothing_changes_in_the_estimator(clf, tmp_path):
    clf = copy.deepcopy(clf)
    before, tokenizer = clf.predict_proba(TEXTS), clf.tokenizer_.backend_tokenizer.to_str()
    clf.to_onnx(tmp_path / "model.onnx", quantize=True)
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), before)
    assert clf.tokenizer_.backend_tokenizer.to_str() == tokenizer


# int8 -----------------------------------------------------------------------------------------


def test_quantized_weights(clf, tmp_path):
    clf.to_onnx(tmp_path / "model.onnx")
    clf.to_onnx(tmp_path / "int8.onnx", quantize=True)
    found, expected = served(tmp_path / "int8.onnx", TEXTS), clf.predict_proba(TEXTS)
    difference = np.abs(found - expected).max()
    assert 0 < difference < 0.1
    assert metadata_of(tmp_path / "int8.onnx") == metadata_of(tmp_path / "model.onnx")
    kinds = {
        name: [
            w.data_type for w in onnx.load(tmp_path / name).graph.initializer if len(w.dims) == 2
        ]
        for name in ("model.onnx", "int8.onnx")
    }
    float32 = onnx.TensorProto.FLOAT
    assert set(kinds["model.onnx"]) == {float32}
    assert kinds["int8.onnx"].count(float32) == 1  # the head
    assert len(kinds["int8.onnx"]) > 18  # the linear layers of three blocks


def test_quantizing_configures_no_logging(clf, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    clf.to_onnx(tmp_path / "model.onnx", quantize=True)
    assert logging.root.handlers == []


# Files ----------------------------------------------------------------------------------------


def test_the_files_are_replaced(clf, paired, tmp_path):
    """The tokenizer of the graph that is replaced may differ, because it is ours."""
    path = tmp_path / "new" / "model.onnx"
    paired.to_onnx(path)
    clf.to_onnx(path)
    assert_serves(clf, clf.predict_proba(TEXTS), path, TEXTS)
    clf.to_onnx(path.with_name("again.onnx"))
    assert {p.name for p in path.parent.iterdir()} == {"model.onnx", "again.onnx", "tokenizer.json"}


def test_a_foreign_tokenizer_is_not_replaced(clf, tmp_path):
    clf.save_pretrained(tmp_path / "saved")
    before = {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir()}
    path = tmp_path / "saved" / "model.onnx"
    with pytest.raises(FileExistsError) as caught:
        clf.to_onnx(path)
    assert str(caught.value) == (
        f"to_onnx writes {str(path.with_name('tokenizer.json'))!r} beside the graph, but another "
        "tokenizer is there, or the graph has its name. Choose a path in a new folder, or delete "
        "the file."
    )
    path.write_bytes(b"no graph")
    with pytest.raises(FileExistsError, match="another tokenizer is there"):
        clf.to_onnx(path)
    path.unlink()
    assert {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir()} == before


def test_the_graph_must_not_have_the_name_of_the_tokenizer(clf, tmp_path):
    with pytest.raises(FileExistsError, match="or the graph has its name"):
        clf.to_onnx(tmp_path / "tokenizer.json")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_is_refused(clf, tmp_path):
    with pytest.raises(FileExistsError) as caught:
        clf.to_onnx(tmp_path)
    assert str(caught.value) == (
        f"{str(tmp_path)!r} is a folder, but to_onnx writes a file. Pass the name of a file, for "
        f"example {str(tmp_path / 'model.onnx')!r}."
    )


def test_a_failed_write_changes_nothing(clf, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    clf.to_onnx(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(onnx_files, "sync", full)
    with pytest.raises(OSError, match=r"Could not save to .*No space left on device"):
        copy.deepcopy(clf).set_params(max_length=11).to_onnx(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("quantize", [False, True])
def test_large_weights_have_a_file_of_their_own(clf, tmp_path, monkeypatch, quantize):
    monkeypatch.setattr(onnx_files, "_LARGEST_FILE", 1000)
    clf.to_onnx(tmp_path / "model.onnx", quantize=quantize)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "tokenizer.json"}
    found, expected = served(tmp_path / "model.onnx", TEXTS), clf.predict_proba(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 if quantize else 1e-5)
    clf.to_onnx(tmp_path / "model.onnx")  # over itself


PROGRAM = """
import json

import numpy as np
import onnxruntime
import tokenizers

tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("model.onnx")
rows = tokenizer.encode_batch(["a film", "so very dull"])
inputs = {
    "input_ids": np.array([row.ids for row in rows]),
    "attention_mask": np.array([row.attention_mask for row in rows]),
}
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
print(json.dumps([labels, session.run(None, inputs)[0].tolist()]))
print(json.dumps([name for name in ("torch", "transformers", "skbert") if name in sys.modules]))
"""


def test_a_program_without_skbert_and_torch(clf, tmp_path):
    clf.to_onnx(tmp_path / "served" / "model.onnx")
    done = run_offline(PROGRAM, folder=tmp_path / "served")
    (labels, proba), modules = map(json.loads, done.stdout.splitlines())
    assert labels == clf.classes_.tolist() and modules == []
    np.testing.assert_allclose(proba, clf.predict_proba(["a film", "so very dull"]), atol=1e-5)


# Errors ---------------------------------------------------------------------------------------


def test_padded_families_are_refused(tiny_bert, tmp_path):
    folder = save_padded(tmp_path / "padded", "modernbert", tiny_bert)
    with pytest.raises(ValueError) as caught:
        BertEmbeddingTransformer(folder, max_length=24).to_onnx(tmp_path / "model.onnx")
    assert str(caught.value) == (
        "The model has model_type='modernbert', which runs through the padded forward of "
        f"transformers, but to_onnx writes encoders with model_type in {[*FAMILIES]}. Choose such "
        "a model."
    )


def test_unknown_activations_are_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "mish"}))
    with pytest.raises(ValueError) as caught:
        BertEmbeddingTransformer(folder, max_length=24).to_onnx(tmp_path / "model.onnx")
    assert str(caught.value) == (
        "The model has the activation 'mish', but to_onnx writes ['gelu', 'gelu_python', "
        "'gelu_new', 'gelu_fast', 'gelu_accurate', 'gelu_python_tanh', 'gelu_pytorch_tanh', "
        "'relu', 'silu', 'swish', 'tanh']. Choose another model."
    )


def test_arguments_are_checked(clf, paired, tmp_path):
    for estimator, arguments, message in [
        (clf, {"quantize": "int8"}, "quantize='int8'; it must be True or False. Pass one of them."),
        (clf, {"pairs": 2}, "pairs=2; it must be True, False or None. Use None for what fit got."),
        (
            paired,
            {"pairs": False},
            "pairs=False, but BertSentimentClassifier was fitted to pairs of texts. Leave pairs at "
            "None.",
        ),
    ]:
        with pytest.raises(ValueError) as caught:
            estimator.to_onnx(tmp_path / "model.onnx", **arguments)
        assert str(caught.value) == message
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("missing", "quantize"), [("onnx", False), ("onnxruntime", True)])
def test_a_missing_package_is_named(clf, tmp_path, monkeypatch, missing, quantize):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        clf.to_onnx(tmp_path / "model.onnx", quantize=quantize)
    assert str(caught.value) == (
        f"to_onnx needs the package {missing}, which is not installed. Run `pip install "
        '"skbert[onnx]"`.'
    )


def test_an_unfitted_classifier(tiny_bert, tmp_path):
    with pytest.raises(NotFittedError):
        BertSentimentClassifier(tiny_bert).to_onnx(tmp_path / "model.onnx")


def test_several_labels_and_windows(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    Y = np.column_stack([y == "good", y == "bad", [len(text) > 20 for text in X]]).astype(int)
    settings = {"max_length": 24, "max_epochs": 2, "batch_size": 16, "precision": "float32"}
    clf = BertSentimentClassifier(tiny_bert, truncation="head", random_state=0, **settings)
    clf.fit(X, Y).to_onnx(tmp_path / "model.onnx")
    found = served(tmp_path / "model.onnx", TEXTS)
    np.testing.assert_allclose(found, clf.predict_proba(TEXTS), rtol=0, atol=1e-5)
    assert metadata_of(tmp_path / "model.onnx")["multilabel"] == "true"
    with pytest.raises(ValueError, match="an ONNX graph reads one window of each text"):
        clf.set_params(truncation="windows").to_onnx(tmp_path / "model.onnx")


def test_a_tokenizer_that_another_graph_reads_stays(clf, tmp_path, monkeypatch):
    clf.to_onnx(tmp_path / "first.onnx")
    clf.to_onnx(tmp_path / "second.onnx")  # the same tokenizer
    other = copy.copy(clf).set_params(max_length=8, truncation="head")
    monkeypatch.setattr(other, "_n_columns", 2)  # pairs are cut by the tokenizer
    with pytest.raises(FileExistsError, match="but another tokenizer is there"):
        other.to_onnx(tmp_path / "second.onnx")
    (tmp_path / "first.onnx").unlink()
    other.to_onnx(tmp_path / "second.onnx")  # nobody else reads the old one
