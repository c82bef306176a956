"""What a model, a name or a device may be, and for each cause of a failure its own message."""

import json
import pickle
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import joblib
import numpy as np
import pytest
import skops.io
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from transformers import BertModel

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files.find import find_model
from skbert.engine.files.pretrained import load_pooling, load_pretrained
from skbert.engine.model.device import resolve_device
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES
from tests.conftest import DEFAULT_MODEL

TEXTS, LABELS = ["a good film", "so dull"], [1, 0]


def fit_classifier(model, **parameters):
    return BertSentimentClassifier(model, max_length=16, **parameters).fit(TEXTS, LABELS)


def fit_transformer(model, **parameters):
    transformer = BertEmbeddingTransformer(model, max_length=16, **parameters).fit(TEXTS)
    transformer.transform(TEXTS)
    return transformer


def fit_pretrainer(model, **parameters):
    pretrainer = BertPretrainer(model, max_length=16, max_epochs=0, next_sentence=False)
    return pretrainer.set_params(**parameters).fit(TEXTS)


FITS = pytest.mark.parametrize("fit", [fit_classifier, fit_transformer, fit_pretrainer])


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT, which a test may change."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def change_json(path, *removed, **settings):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in removed} | settings))


def rename_weights(folder, rename):
    path = folder / "model.safetensors"
    save_file({rename(n): weight.clone() for n, weight in load_file(path).items()}, path)


def split_weights(folder):
    """Save the weights in several files, as transformers does."""
    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))


# Models that load -------------------------------------------------------------------------------


def wrapped(prefix):
    return lambda folder: rename_weights(folder, lambda name: prefix + name)


def without_type(**settings):
    def change(folder):
        change_json(folder / "config.json", "model_type", "architectures", **settings)

    return change


LOADED = {
    "shards": split_weights,
    "DataParallel": wrapped("module."),
    "torch.compile": wrapped("_orig_mod."),
    "both, with a head": wrapped("_orig_mod.module.bert."),
    "an attribute of a module": wrapped("encoder."),
    "an attribute named as in BERT": wrapped("bert.bert."),
    "no model_type": without_type(),
    "model_type null": without_type(model_type=None),
    "model_type empty": without_type(model_type="", architectures=["BertForMaskedLM"]),
}


@pytest.mark.parametrize("change", LOADED.values(), ids=LOADED)
def test_a_model_that_is_saved_in_another_way(tiny_bert, folder, change):
    change(folder)
    found, expected = load_pretrained(str(folder)).weights, load_pretrained(tiny_bert).weights
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@FITS
def test_each_estimator_takes_such_a_model(folder, fit):
    for name in ("shards", "no model_type"):
        LOADED[name](folder)
    assert fit(folder).model is folder


def test_weights_outside_the_wrapper_are_not_of_the_encoder(folder):
    path = folder / "model.safetensors"
    weights = {f"module.{n}": w.clone() for n, w in load_file(path).items()}
    save_file(weights | {"cls.predictions.bias": torch.zeros(3)}, path)
    assert load_pretrained(str(folder)).heads == {}


def test_each_shard_counts_for_the_version_of_a_model(folder):
    first, *_ = split_weights(folder)
    before, sha256 = load_pretrained(str(folder)), find_model(folder).weights_sha256()
    assert load_pretrained(str(folder)) is before
    save_file({n: w + 1.0 for n, w in load_file(first).items()}, first)
    assert load_pretrained(str(folder)) is not before
    assert find_model(folder).weights_sha256() != sha256


def older_layout(folder, type_of_module="Transformer"):
    """Move a model to 0_Transformer, as sentence-transformers did; its pooling is "mean"."""
    root = folder.with_name("older")
    shutil.copytree(folder, root / "0_Transformer")
    modules = [{"path": "0_Transformer", "type": f"sentence_transformers.models.{type_of_module}"}]
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return root


def test_the_subfolder_of_an_older_model_keeps_its_pooling(folder):
    root = older_layout(folder)
    assert load_pooling(root / "0_Transformer") == "mean"
    assert fit_classifier(root / "0_Transformer").pooling_ == "mean"
    (root / "modules.json").write_text("[]")
    assert load_pooling(root / "0_Transformer") == "cls"


# Folders that do not load -----------------------------------------------------------------------

SAVE = "Save the model and its tokenizer there with `save_pretrained`."
TABLE = "embeddings.word_embeddings.weight"
CODE = (
    "which skbert does not run. If you trust the code, load the tokenizer with transformers and "
    "trust_remote_code=True, and save it into a local copy of the model with `save_pretrained`; "
    "skbert reads the tokenizer.json that a fast tokenizer then has. Otherwise choose another "
    "model."
)
ALL_FILES = "config.json, model.safetensors, tokenizer.json or vocab.txt"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WHOLE_MODEL = (
    "Its model.safetensors.index.json lists all files of the weights. Copy or download the whole "
    "model."
)
CAUSES = {}


def cause(function):
    """Register a function: the folder of a model -> what to pass, and the message."""
    CAUSES[function.__name__] = function
    return function


def lacks(folder, missing, advice):
    return folder, f"The model folder {str(folder)!r} lacks {missing}. {advice}"


def with_file_instead(name, advice):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        return lacks(folder, "model.safetensors", advice)

    CAUSES[name] = damage


for pickled in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "last.ckpt"):
    with_file_instead(
        pickled,
        f"Its {pickled} is a pickle, which can run any code when it is loaded, so skbert does not "
        "open it. If you trust it, load it with transformers and save it as safetensors with "
        "`save_pretrained`.",
    )
for other, kind in {
    "tf_model.h5": "TensorFlow",
    "bert_model.ckpt.index": "TensorFlow",
    "flax_model.msgpack": "JAX",
    "model.onnx": "ONNX",
    "model.gguf": "llama.cpp",
}.items():
    with_file_instead(
        other,
        f"Its {other} contains weights for {kind}, but skbert reads only safetensors. Pass the "
        "model that it was converted from, or convert it to safetensors.",
    )
for part_of_a_training in ("training_args.bin", "optimizer.pt", "notes.txt"):
    with_file_instead(part_of_a_training, SAVE)
with_file_instead(
    "model.fp16.safetensors",
    "If its model.fp16.safetensors contains the weights, rename it to model.safetensors.",
)
with_file_instead(
    "model-00001-of-00002.safetensors",
    "Its weights are in several files. Copy or download their model.safetensors.index.json, too.",
)


@cause
def a_missing_shard(folder):
    _, second, *_ = split_weights(folder)
    second.unlink()
    return lacks(folder, second.name, WHOLE_MODEL)


@cause
def all_shards_missing(folder):
    first, second, third, *others = (path.name for path in split_weights(folder))
    for path in folder.glob("model-*"):
        path.unlink()
    missing = f"{first}, {second}, {third} and {len(others)} more"
    return lacks(folder, missing, WHOLE_MODEL)


def bad_index(content, shown):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps(content))
        return folder, (
            f"{str(index)!r} must name safetensors files beside it in its 'weight_map', but it "
            f"names {shown}. Save or download the model again."
        )

    CAUSES[f"an index that names {shown}"] = damage


bad_index({}, "None")
bad_index({"weight_map": {"a": 3}}, "3")
bad_index({"weight_map": {"a": "../model.safetensors"}}, "'../model.safetensors'")
bad_index({"weight_map": {"a": "pytorch_model.bin"}}, "'pytorch_model.bin'")


@cause
def an_adapter(folder):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    advice = (
        "It contains an adapter of PEFT, not a whole model. Load it with PEFT, call "
        "`merge_and_unload`, and save the result with `save_pretrained`."
    )
    return lacks(folder, "config.json, model.safetensors", advice)


@cause
def a_configuration_with_its_old_name(folder):
    (folder / "config.json").rename(folder / "bert_config.json")
    advice = "If its bert_config.json is the configuration, rename it to config.json."
    return lacks(folder, "config.json", advice)


@cause
def an_empty_folder(folder):
    empty = folder.with_name("empty")
    empty.mkdir()
    return lacks(empty, ALL_FILES, f"The folder is empty. {SAVE}")


@cause
def an_older_sentence_transformer(folder):
    root = older_layout(folder)
    place = str(root / "0_Transformer")
    advice = f"The model is in its subfolder '0_Transformer'. Pass model={place!r}."
    return lacks(root, ALL_FILES, advice)


@cause
def the_checkpoints_of_a_trainer(folder):
    root = folder.with_name("out")
    for step in (500, 1000, 60):
        shutil.copytree(folder, root / f"checkpoint-{step}")
    (root / "training_args.bin").write_bytes(b"")
    advice = (
        "Its subfolders 'checkpoint-60', 'checkpoint-500', 'checkpoint-1000' contain models. Pass "
        f"one of them, for example model={str(root / 'checkpoint-1000')!r}."
    )
    return lacks(root, ALL_FILES, advice)


@cause
def a_checkpoint_of_a_trainer_without_tokenizer(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    (folder / "trainer_state.json").write_text("{}")
    advice = (
        "transformers.Trainer saves the tokenizer only if it has it as `processing_class`. Save "
        "the tokenizer there with `tokenizer.save_pretrained`."
    )
    return lacks(folder, "tokenizer.json or vocab.txt", advice)


@cause
def a_tokenizer_in_the_folder_above(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").rename(folder.parent / "vocab.txt")
    advice = "The folder above it contains vocab.txt. Copy the tokenizer files from there."
    return lacks(folder, "tokenizer.json or vocab.txt", advice)


@cause
def a_folder_of_the_hub_cache(folder):
    root = folder.with_name("models--owner--name")
    shutil.copytree(folder, root / "snapshots" / "0123")
    place = str(root / "snapshots" / "0123")
    advice = f"The model is in its subfolder 'snapshots/0123'. Pass model={place!r}."
    return lacks(root, ALL_FILES, advice)


@cause
def the_pooling_of_a_sentence_transformer(folder):
    below = folder / "1_Pooling"
    below.mkdir()
    (below / "config.json").write_text('{"word_embedding_dimension": 32}')
    advice = f"The folder above it contains a whole model. Pass model={str(folder)!r}."
    return lacks(below, "model.safetensors, tokenizer.json or vocab.txt", advice)


@cause
def a_file(folder):
    path = folder / "model.safetensors"
    return path, (
        f"model={str(path)!r} is a file, but a model is a folder with config.json, "
        "model.safetensors and the files of a tokenizer. Pass the folder that contains it, "
        f"model={str(folder)!r}."
    )


@cause
def a_saved_estimator(folder):
    path = folder / "clf.joblib"
    path.write_bytes(b"")
    return path, (
        f"model={str(path)!r} is a file, but a model is a folder with config.json, "
        "model.safetensors and the files of a tokenizer. Load a saved estimator with joblib.load."
    )


@cause
def a_path_that_does_not_exist(folder):
    return str(folder / "none"), (
        f"Could not find the model {str(folder / 'none')!r}. There is no such folder, and it is "
        "not a name on the Hugging Face Hub, such as 'owner/name'. Check the path."
    )


@cause
def a_path_with_a_typing_error(folder):
    wrong = str(folder.with_name("modell"))
    return wrong, (
        f"Could not find the model {wrong!r}. There is no such folder, and it is not a name on the "
        f"Hugging Face Hub, such as 'owner/name'. Did you mean {str(folder)!r}? Check the path."
    )


@cause
def a_path_object_that_does_not_exist(folder):
    return folder / "none", (
        f"Could not find the model {str(folder / 'none')!r}. There is no such folder, and a path "
        "is never looked up on the Hugging Face Hub. Check the path."
    )


@cause
def a_path_object_for_a_name(folder):
    return Path("owner/name"), (
        "Could not find the model 'owner/name'. There is no such folder, and a path is never "
        "looked up on the Hugging Face Hub. Check the path, or pass a name as a str, "
        "model='owner/name'."
    )


def no_name(name):
    def damage(folder):
        return name, (
            f"Could not find the model {name!r}. There is no such folder, and it is not a name on "
            "the Hugging Face Hub, such as 'owner/name'. Check the path."
        )

    CAUSES[f"the name {name!r}"] = damage


for bad_name in ("", "a b", "a/b/c", "./none", "~/none", "@v1", "a\0b"):
    no_name(bad_name)


@cause
def no_revision(folder):
    return "owner/name@", (
        "model='owner/name@' names no revision after its '@'. Pass a branch, a tag or a commit, as "
        "in model='owner/name@main', or model='owner/name'."
    )


@cause
def a_revision_of_what_skbert_contains(folder):
    return "skbert/minilm-sentiment@v1", (
        "model='skbert/minilm-sentiment@v1' names a revision, but skbert itself contains this "
        "model, and no other revision. Pass model='skbert/minilm-sentiment'."
    )


# Files that are not those of a BERT


def other_family(folder, *files):
    change_json(folder / "config.json", model_type="gpt2")
    for name in files:
        (folder / name).unlink()
    return (
        f"{str(folder / 'config.json')!r} has model_type='gpt2'. skbert trains encoders with "
        f"model_type in {[*FAMILIES]}, or, through the padded forward of transformers, in "
        f"{[*PADDED_FAMILIES]}; and with position_embedding_type='absolute' and is_decoder=False. "
        "Choose another model."
    )


@cause
def another_family(folder):
    return folder, other_family(folder)


@cause
def another_family_whose_files_are_others(folder):
    return folder, other_family(folder, "model.safetensors", "tokenizer.json", "vocab.txt")


@cause
def another_family_in_the_subfolder(folder):
    root = older_layout(folder)
    return root, other_family(root / "0_Transformer")


def no_type_but(setting, value):
    def damage(folder):
        without_type(**{setting: value})(folder)
        return folder, (
            f"{str(folder / 'config.json')!r} has no model_type, but {setting}={value!r}, which a "
            'BERT does not have. If the model is a BERT, add "model_type": "bert" to it; otherwise '
            "choose another model."
        )

    CAUSES[f"no model_type but {setting}"] = damage


no_type_but("architectures", ["RobertaForMaskedLM"])
no_type_but("pad_token_id", 1)
no_type_but("embedding_size", 16)


@cause
def no_type_and_weights_of_another_family(folder):
    without_type()(folder)
    wrapped("module.roberta.")(folder)
    path = str(folder / "model.safetensors")
    return folder, (
        f"{path!r} has 'module.roberta.{TABLE}', which is no weight of the model_type 'bert'. "
        "Correct the model_type in config.json, or choose another model."
    )


@cause
def two_encoders(folder):
    path = folder / "model.safetensors"
    weights = load_file(path).items()
    save_file({start + n: w.clone() for start in ("query.", "doc.") for n, w in weights}, path)
    return folder, (
        f"{str(path)!r} has the weights of 2 encoders: 'doc.{TABLE}', 'query.{TABLE}'. Save the "
        "one to use with `save_pretrained`."
    )


@cause
def names_of_another_library(folder):
    path = folder / "model.safetensors"
    save_file({"a/kernel": torch.zeros(1), "b/kernel": torch.zeros(1)}, path)
    return folder, (
        f"{str(path)!r} has no weights of a bert encoder: no name ends with {TABLE!r}. It contains "
        "'a/kernel', 'b/kernel'. Use the weights that belong to the config.json, with the names of "
        "transformers."
    )


@cause
def other_names_of_the_layers(folder):
    rename_weights(folder, lambda name: name.replace("encoder.layer.", "encoder.blocks."))
    path, output = str(folder / "model.safetensors"), "'encoder.blocks.0.attention.output."
    return folder, (
        f"{path!r} lacks 48 of the 53 weights of a bert encoder with this configuration; the first "
        f"is 'encoder.layer.0.attention.self.query.weight'. It contains {output}LayerNorm.bias', "
        f"{output}LayerNorm.weight', {output}dense.bias' and 45 more instead. Use the config.json "
        "that belongs to the weights."
    )


@cause
def weights_that_git_lfs_has_not_fetched(folder):
    path = folder / "model.safetensors"
    path.write_text(LFS)
    return folder, (
        f"{str(path)!r} is a pointer of Git LFS, not the file itself. Run `git lfs pull` in its "
        "folder."
    )


@cause
def a_tokenizer_that_git_lfs_has_not_fetched(folder):
    path = folder / "tokenizer.json"
    path.write_text(LFS)
    return folder, (
        f"{str(path)!r} is a pointer of Git LFS, not the file itself. Run `git lfs pull` in its "
        "folder."
    )


# Tokenizers


@cause
def a_tokenizer_that_is_code(folder):
    (folder / "tokenizer.json").unlink()
    auto_map = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    change_json(folder / "tokenizer_config.json", auto_map=auto_map)
    code = "'tokenization_own.OwnTokenizer'"
    return folder, f"The tokenizer of {str(folder)!r} is code, {code}, {CODE}"


def no_vocabulary(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()


@cause
def a_tokenizer_that_is_code_without_vocabulary(folder):
    no_vocabulary(folder)
    auto_map = {"AutoTokenizer": [None, "tokenization_own.OwnFast"]}
    change_json(folder / "tokenizer_config.json", auto_map=auto_map)
    advice = f"Its tokenizer is code, 'tokenization_own.OwnFast', {CODE}"
    return lacks(folder, "tokenizer.json or vocab.txt", advice)


@cause
def code_without_a_setting(folder):
    no_vocabulary(folder)
    (folder / "tokenization_own.py").write_text("raise AssertionError")
    advice = f"Its tokenizer is code, tokenization_own.py, {CODE}"
    return lacks(folder, "tokenizer.json or vocab.txt", advice)


@cause
def a_vocabulary_of_sentencepiece(folder):
    no_vocabulary(folder)
    (folder / "tokenizer.model").write_bytes(b"")
    advice = (
        "skbert does not read the vocabulary in its tokenizer.model. Load the tokenizer with "
        "transformers.AutoTokenizer, and save it into a local copy of the model with "
        "`save_pretrained`; a fast tokenizer then has a tokenizer.json."
    )
    return lacks(folder, "tokenizer.json or vocab.txt", advice)


@cause
def a_tokenizer_in_python(folder):
    (folder / "tokenizer.json").unlink()  # which transformers 5.3 would read instead
    change_json(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer")
    return folder, (
        f"The tokenizer of {str(folder)!r} is a BertJapaneseTokenizer, which splits texts in "
        "Python, but skbert needs a fast tokenizer. Choose another model, or one whose "
        "tokenizer_class has a fast version in transformers."
    )


@cause
def a_class_that_needs_more_than_a_vocabulary(folder):
    (folder / "tokenizer.json").unlink()
    change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    return folder, (
        f"The tokenizer of {str(folder)!r} is a 'PreTrainedTokenizerFast', which a vocab.txt alone "
        "does not define. Save or download its tokenizer.json, too. If the class is code that "
        "belongs to the model, choose another model: skbert does not run it."
    )


@FITS
@pytest.mark.parametrize("damage", CAUSES.values(), ids=CAUSES)
def test_each_cause_has_its_message(folder, damage, fit):
    model, message = damage(folder)
    with pytest.raises((OSError, ValueError)) as caught:
        fit(model)
    assert str(caught.value) == message


# Names ------------------------------------------------------------------------------------------


class Hub:
    """A hub with one repository, whose files are those of a folder.

    Attributes
    ----------
    error : Exception or None
        What a download raises.
    downloaded : Path
        Its content is what has been downloaded.
    asked : list of tuple
        Repository, revision, and whether only the cache was asked.
    """

    def __init__(self, files, downloaded):
        self.files, self.downloaded, self.error, self.asked = files, downloaded, None, []

    def snapshot_download(
        self, name, *, allow_patterns, revision=None, local_files_only=False, etag_timeout=None
    ):
        self.asked.append((name, revision, local_files_only))
        if local_files_only:
            raise errors.LocalEntryNotFoundError("it says to pass local_files_only=False")
        if self.error:
            raise self.error
        for path in self.files.rglob("*"):
            name = path.relative_to(self.files).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (self.downloaded / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.downloaded / name)
        return str(self.downloaded)

    def model_info(self, name, *, revision, timeout):
        names = [path.relative_to(self.files).as_posix() for path in self.files.rglob("*")]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    made = Hub(folder, tmp_path / "downloaded")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "model_info", made.model_info)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return made


def client_error(cls):
    """Create an error of the hub's client, whose constructors need a response."""
    return cls.__new__(cls, "many words\nand lines")


def not_found(name, *causes, advice):
    where = "; ".join(["It is not a local folder", *causes])
    return f"Could not find the model {name!r}. {where}. {advice}"


NOT_CACHED = "the Hugging Face cache does not contain it"
CONNECT = "Pass a local folder, or connect to the internet."


@FITS
def test_shards_are_downloaded(hub, fit):
    split_weights(hub.files)
    fit("owner/name")
    expected = load_pretrained(str(hub.files)).weights
    found = load_pretrained("owner/name").weights
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@FITS
def test_another_family_is_refused_before_its_weights_are_downloaded(hub, fit):
    message = other_family(hub.files, "vocab.txt").replace(str(hub.files), str(hub.downloaded))
    with pytest.raises(ValueError) as caught:
        fit("owner/name")
    assert str(caught.value) == message
    assert [path.name for path in hub.downloaded.iterdir()] == ["config.json"]


@FITS
@pytest.mark.parametrize(
    "revision", ["v1", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567"]
)
def test_a_revision_goes_to_the_cache_and_to_the_hub(hub, fit, revision):
    estimator = fit(f"owner/name@{revision}")
    assert estimator.model == clone(estimator).model == f"owner/name@{revision}"
    assert set(hub.asked) == {("owner/name", revision, True), ("owner/name", revision, False)}


@FITS
def test_a_revision_in_the_cache_needs_no_network(hub, fit, monkeypatch, tiny_bert):
    """With the real client of the hub, and what it stores."""
    monkeypatch.undo()
    cache = hub.downloaded / "models--owner--name"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub.downloaded))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "v1").write_text("0" * 40)
    shutil.copytree(tiny_bert, cache / "snapshots" / ("0" * 40))
    fit("owner/name@v1")
    advice = "Pass a local folder, or unset the environment variable HF_HUB_OFFLINE."
    causes = (
        "the Hugging Face cache does not contain its revision 'v2'",
        "HF_HUB_OFFLINE=1 forbids its download",
    )
    with pytest.raises(OSError) as caught:
        fit("owner/name@v2")
    assert str(caught.value) == not_found("owner/name@v2", *causes, advice=advice)


def test_a_folder_whose_name_contains_an_at_sign(folder, hub):
    folder.rename(folder.with_name("model@v1"))
    fit_transformer("model@v1")
    assert hub.asked == []


def test_the_package_serves_no_revision(hub):
    fit_transformer(f"{DEFAULT_MODEL}@v1")
    assert hub.asked[0] == (DEFAULT_MODEL, "v1", True)


HUB_ERRORS = {
    "unreachable": (
        OSError("no route to host"),
        "the download from the Hugging Face Hub failed (no route to host)",
        CONNECT,
    ),
    "an error without words": (
        RuntimeError(),
        "the download from the Hugging Face Hub failed (RuntimeError)",
        CONNECT,
    ),
    "off": (
        errors.OfflineModeIsEnabled(),
        "HF_HUB_OFFLINE=1 forbids its download",
        "Pass a local folder, or unset the environment variable HF_HUB_OFFLINE.",
    ),
    "no such repository": (
        client_error(errors.RepositoryNotFoundError),
        "the Hugging Face Hub has no public model of this name",
        "Check the name. If the model is private, log in with `hf auth login`.",
    ),
    "gated": (
        client_error(errors.GatedRepoError),
        "the Hugging Face Hub gives it only to users who accepted its terms",
        "Accept them on https://huggingface.co/owner/name, and log in with `hf auth login`.",
    ),
}


@FITS
@pytest.mark.parametrize(("error", "words", "advice"), HUB_ERRORS.values(), ids=HUB_ERRORS)
def test_each_error_of_the_hub_has_its_message(hub, fit, error, words, advice):
    hub.error = error
    with pytest.raises(OSError) as caught:
        fit("owner/name")
    assert str(caught.value) == not_found("owner/name", NOT_CACHED, words, advice=advice)


@FITS
def test_the_hub_has_no_such_revision(hub, fit):
    hub.error = client_error(errors.RevisionNotFoundError)
    causes = (
        "the Hugging Face cache does not contain its revision 'v9'",
        "it has no revision 'v9' on the Hugging Face Hub",
    )
    advice = "Choose a branch, a tag or a commit from https://huggingface.co/owner/name/tree/main."
    with pytest.raises(OSError) as caught:
        fit("owner/name@v9")
    assert str(caught.value) == not_found("owner/name@v9", *causes, advice=advice)


@FITS
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("all-MiniLM-L6-v2", "Did you mean 'sentence-transformers/all-MiniLM-L6-v2'? "),
        ("all-minilm-l6-v2", "Did you mean 'sentence-transformers/all-MiniLM-L6-v2'? "),
        ("minilm-sentiment", "Did you mean 'skbert/minilm-sentiment'? "),
        ("bert-base-uncased", "Did you mean 'google-bert/bert-base-uncased'? "),
        ("skbert/minilm-sentimnt", "Did you mean 'skbert/minilm-sentiment'? "),
        ("google-bert/bert-base-uncase", "Did you mean 'google-bert/bert-base-uncased'? "),
        ("in-the-cache", "Did you mean 'owner/in-the-cache'? "),
        ("a-bert", "Most names have an owner, as in 'owner/name'. "),
        ("models/tiny-bert", "Did you mean 'models/tiny_bert'? "),
        ("owner/a-bert", ""),
    ],
)
def test_a_similar_name_is_suggested(hub, fit, name, hint, tmp_path):
    (tmp_path / "cache" / "models--owner--in-the-cache").mkdir(parents=True)
    (tmp_path / "models" / "tiny_bert").mkdir(parents=True)
    hub.error = OSError("no route to host")
    words = "the download from the Hugging Face Hub failed (no route to host)"
    with pytest.raises(OSError) as caught:
        fit(name)
    assert str(caught.value) == not_found(name, NOT_CACHED, words, advice=hint + CONNECT)


def only_pickles(files):
    (files / "model.safetensors").rename(files / "pytorch_model.bin")
    return "model.safetensors", (
        "Its pytorch_model.bin is a pickle, which can run any code when it is loaded, so skbert "
        "does not open it. If you trust it, load it with transformers and save it as safetensors "
        "with `save_pretrained`. Or choose a revision with model.safetensors on the page of the "
        "model, as in model='owner/name@refs/pr/1'."
    )


def a_subfolder(files):
    moved = files / "0_Transformer"
    shutil.copytree(files, moved)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt"):
        (files / name).unlink()
    return ALL_FILES, (
        "The model is in its subfolder '0_Transformer'. Pass the path of '0_Transformer' in the "
        "folder that `huggingface_hub.snapshot_download('owner/name')` returns."
    )


def an_adapter_alone(files):
    (files / "config.json").rename(files / "adapter_config.json")
    (files / "model.safetensors").rename(files / "adapter_model.safetensors")
    return "config.json, model.safetensors", (
        "It contains an adapter of PEFT, not a whole model. Load it with PEFT, call "
        "`merge_and_unload`, and save the result with `save_pretrained`."
    )


def other_vocabulary(files):
    (files / "tokenizer.json").unlink()
    (files / "vocab.txt").rename(files / "tokenizer.model")
    return "tokenizer.json or vocab.txt", (
        "skbert does not read the vocabulary in its tokenizer.model. Load the tokenizer with "
        "transformers.AutoTokenizer, and save it into a local copy of the model with "
        "`save_pretrained`; a fast tokenizer then has a tokenizer.json."
    )


@FITS
@pytest.mark.parametrize("change", [only_pickles, a_subfolder, an_adapter_alone, other_vocabulary])
def test_a_repository_without_the_files_says_what_it_has(hub, fit, change):
    missing, advice = change(hub.files)
    words = f"the download from the Hugging Face Hub did not provide {missing}"
    with pytest.raises(OSError) as caught:
        fit("owner/name")
    assert str(caught.value) == not_found("owner/name", NOT_CACHED, words, advice=advice)
    assert not (hub.downloaded / "pytorch_model.bin").exists()


def test_what_the_hub_lists_but_does_not_send_is_missing(hub, monkeypatch):
    """As if the connection broke between the configuration and the weights."""
    plain = hub.snapshot_download

    def configuration_alone(*arguments, **options):
        return plain(*arguments, **options | {"allow_patterns": ["config.json"]})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", configuration_alone)
    missing = "model.safetensors, tokenizer.json or vocab.txt"
    words = f"the download from the Hugging Face Hub did not provide {missing}"
    with pytest.raises(OSError) as caught:
        fit_transformer("owner/name")
    assert str(caught.value) == not_found("owner/name", NOT_CACHED, words, advice=CONNECT)


def test_pickles_that_are_in_the_cache_alone(hub, monkeypatch):
    """What transformers has downloaded, and no network."""
    (hub.files / "model.safetensors").rename(hub.files / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(hub.files))
    advice = (
        "Its pytorch_model.bin is a pickle, which can run any code when it is loaded, so skbert "
        "does not open it. If you trust it, load it with transformers and save it as safetensors "
        "with `save_pretrained`. Or choose a revision with model.safetensors on the page of the "
        "model, as in model='owner/name@refs/pr/1'."
    )
    causes = (
        "its copy in the Hugging Face cache lacks model.safetensors",
        "HF_HUB_OFFLINE=1 forbids its download",
    )
    with pytest.raises(OSError) as caught:
        fit_transformer("owner/name")
    assert str(caught.value) == not_found("owner/name", *causes, advice=advice)


# Paths and devices ------------------------------------------------------------------------------

CPUS = pytest.mark.parametrize("device", [torch.device("cpu", 0), "cpu"])


@FITS
@CPUS
def test_paths_and_devices_are_kept_as_they_are(folder, tmp_path, fit, device):
    estimator = fit(folder, device=device)
    copies = [estimator, clone(estimator), pickle.loads(pickle.dumps(estimator))]
    joblib.dump(estimator, tmp_path / "estimator.joblib")
    copies.append(joblib.load(tmp_path / "estimator.joblib"))
    for copied in copies:
        parameters = copied.get_params()
        assert parameters["model"] == folder and isinstance(parameters["model"], Path)
        assert parameters["device"] == device and type(parameters["device"]) is type(device)
    assert estimator.get_params()["model"] is folder
    assert estimator.get_params()["device"] is device


def test_a_pickle_of_paths_and_devices_needs_no_class_but_the_estimator(folder, tmp_path):
    clf = fit_classifier(folder, device=torch.device("cpu"), random_state=0)
    skops.io.dump(clf, tmp_path / "clf.skops")
    trusted = skops.io.get_untrusted_types(file=tmp_path / "clf.skops")
    assert trusted == ["skbert.classifier.BertSentimentClassifier"]
    loaded = skops.io.load(tmp_path / "clf.skops", trusted=trusted)
    assert loaded.get_params() == clf.get_params()
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))


def test_a_saved_folder_contains_paths_and_devices_as_text(folder, tmp_path):
    clf = fit_classifier(folder, device=torch.device("cpu"), random_state=0)
    clf.save_pretrained(tmp_path / "saved")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "saved")
    assert (loaded.model, loaded.device) == (str(folder), "cpu")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))


def test_a_path_and_its_text_are_one_model_for_stored_weights(folder):
    transformer = fit_transformer(folder, store_weights=True)
    expected = transformer.transform(TEXTS)
    loaded = pickle.loads(pickle.dumps(transformer))
    shutil.rmtree(folder)
    for model in (folder, str(folder)):
        np.testing.assert_array_equal(loaded.set_params(model=model).transform(TEXTS), expected)


def test_a_pickle_keeps_the_number_of_a_device(folder, monkeypatch):
    clf = fit_classifier(folder).set_params(device=7)
    with pytest.warns(UserWarning, match=r"^device=7 is not available; .* model uses '\w+'"):
        assert pickle.loads(pickle.dumps(clf)).device == 7


@pytest.mark.parametrize("home", ["~", "~/"])
def test_the_home_folder(folder, monkeypatch, home):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert find_model(home).folder == folder.resolve()


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (0, "cuda:0"),
        (1, "cuda:1"),
        (np.int64(1), "cuda:1"),
        (torch.device("cuda"), "cuda"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.device("cpu"), "cpu"),
    ],
)
def test_numbers_and_torch_devices(device, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(device) == torch.device(expected)


KINDS = "is not a known device; 'auto', 'cpu', 'cuda', 'cuda:<number>' and 'mps' are allowed"
AUTO = "Use device='auto' for the best available device."
ABSENT = f"is not available; torch {torch.__version__} finds 0 cuda device(s)"
RANGE = (
    "must be an instance of 'str', an int in the range [0, inf) or an instance of "
    "'torch.device'. Got"
)


@FITS
@pytest.mark.parametrize(
    ("device", "message"),
    [
        (0, f"device=0 {ABSENT}. {AUTO}"),
        (torch.device("cuda", 3), f"device=torch.device(type='cuda', index=3) {ABSENT}. {AUTO}"),
        (torch.device("meta"), f"device=torch.device(type='meta') {KINDS}. {AUTO}"),
        (True, f"device=True {KINDS}. {AUTO}"),
        (-1, f"The 'device' parameter of {{}} {RANGE} -1 instead."),
        (0.0, f"The 'device' parameter of {{}} {RANGE} 0.0 instead."),
        (None, f"The 'device' parameter of {{}} {RANGE} None instead."),
    ],
)
def test_a_device_that_is_not_there(tiny_bert, fit, device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cls = {
        fit_classifier: BertSentimentClassifier,
        fit_transformer: BertEmbeddingTransformer,
        fit_pretrainer: BertPretrainer,
    }[fit]
    with pytest.raises(ValueError) as caught:
        fit(tiny_bert, device=device)
    assert str(caught.value) == message.replace("{}", cls.__name__)


@FITS
@pytest.mark.parametrize("model", [None, 3, b"bert"])
def test_a_model_of_another_type(fit, model):
    with pytest.raises(ValueError, match=r"^The 'model' parameter of \w+ must be an instance of"):
        fit(model)
