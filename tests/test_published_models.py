"""Classifiers that transformers wrote, used as they are; and what transformers reads again."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from skbert import BertSentimentClassifier
from skbert.contract.prepare_finetuning import state_of
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model import families
from skbert.engine.model.families import FAMILIES
from skbert.engine.model.heads import DenseHead, head_logits
from skbert.engine.text.packing import pack
from skbert.engine.training.loop import Trainer
from tests.family_folders import save_family

LABELS = ["positive", "negative", "neutral"]
TEXTS = [
    "a film",
    "",
    "this film is not good",
    *(f"movie {'very ' * n}dull" for n in range(0, 40, 7)),
    "great fun and love it",
]
PAIRS = [["a film", "so dull"], ["it was fun", "very good"], ["", "not bad"], ["a", "a film " * 9]]


def save_published(folder, name, tokenizer_from, **settings):
    """Write a classifier of a family with random weights, as transformers does."""
    folder = save_family(folder, name, tokenizer_from, "classifier_class")
    path = f"{folder}/config.json"
    with open(path) as file:
        config = json.load(file)
    config |= {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {n: i for i, n in enumerate(LABELS)},
    }
    config = type(transformers.AutoConfig.from_pretrained(folder))(**config | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        build = getattr(transformers, FAMILIES[name].classifier_class)
        model = build(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_bert):
    return {
        name: save_published(tmp_path_factory.mktemp("published") / name, name, tiny_bert)
        for name in FAMILIES
    }


@pytest.fixture(params=FAMILIES)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of the BERT, to damage."""
    return shutil.copytree(folders["bert"], tmp_path / "copied")


def pipeline_probabilities(folder, texts, classes):
    """Compute probabilities with transformers, in the order of `classes`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    # The class that transformers chooses for these files depends on its version.
    segments = [] if families.n_segments(model.config) is None else ["token_type_ids"]
    tokenizer.model_input_names = ["input_ids", "attention_mask", *segments]
    classify = transformers.pipeline(
        "text-classification", model, tokenizer=tokenizer, device="cpu", top_k=None
    )
    if not isinstance(texts[0], str):
        texts = [{"text": first, "text_pair": second} for first, second in texts]
    rows = [{s["label"]: s["score"] for s in scores} for scores in classify(texts)]
    return np.array([[row[str(label)] for label in classes] for row in rows])


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_the_probabilities_are_those_of_the_pipeline(folder, texts):
    clf = BertSentimentClassifier.from_pretrained(folder)
    assert clf.classes_.tolist() == sorted(LABELS) and isinstance(clf.head_, DenseHead)
    expected = pipeline_probabilities(folder, texts, clf.classes_)
    assert np.ptp(expected, axis=0).min() > 0.003  # the texts differ
    np.testing.assert_allclose(clf.predict_proba(texts), expected, rtol=0, atol=1e-5)
    assert clf.predict(texts).tolist() == clf.classes_[expected.argmax(axis=1)].tolist()


def test_the_parameters_make_it_compute_as_published(folder):
    clf = BertSentimentClassifier.from_pretrained(folder, device="cpu")
    assert (
        clf.get_params()
        == BertSentimentClassifier(
            folder, pooling="cls", truncation="head", emoji_names=False, max_length=64, device="cpu"
        ).get_params()
    )
    assert (clf.history_, clf.n_epochs_, clf.best_epoch_) == ([], 0, 0)
    assert clf.pooling_ == "cls" and clf.device_ == "cpu"


def test_another_pooling_is_refused(folder):
    with pytest.raises(ValueError, match=r"^pooling='mean', but the head was trained with"):
        BertSentimentClassifier.from_pretrained(folder, pooling="mean")


def test_saved_again_it_is_the_same_for_skbert_and_for_transformers(folder, tmp_path):
    clf = BertSentimentClassifier.from_pretrained(folder)
    clf.save_pretrained(tmp_path / "again")
    again = BertSentimentClassifier.from_pretrained(tmp_path / "again")
    assert isinstance(again.head_, DenseHead)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    found = pipeline_probabilities(tmp_path / "again", TEXTS, clf.classes_)
    np.testing.assert_allclose(found, clf.predict_proba(TEXTS), rtol=0, atol=1e-5)


def test_a_pickle_keeps_the_head(folder):
    clf = BertSentimentClassifier.from_pretrained(folder)
    again = pickle.loads(pickle.dumps(clf))
    assert again.head_.activation == clf.head_.activation
    assert again.head_.drops_input is clf.head_.drops_input
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))


@pytest.mark.parametrize("kind", ["shards", "float16", "bfloat16", "wrapped"])
def test_other_files_of_the_weights(copied, kind):
    """The expected probabilities are those of transformers in float32."""
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    model = load(copied, dtype=getattr(torch, kind, torch.float32))
    (copied / "model.safetensors").unlink()
    model.save_pretrained(copied, max_shard_size="4KB" if kind == "shards" else "1GB")
    assert (copied / "model.safetensors").exists() == (kind != "shards")
    load(copied, dtype=torch.float32).save_pretrained(copied / "float32")
    transformers.AutoTokenizer.from_pretrained(copied).save_pretrained(copied / "float32")
    expected = pipeline_probabilities(copied / "float32", TEXTS, sorted(LABELS))
    if kind == "wrapped":  # as DataParallel names them
        weights = load_file(copied / "model.safetensors")
        weights = {f"module.{name}": weight for name, weight in weights.items()}
        save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    found = BertSentimentClassifier.from_pretrained(copied).predict_proba(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A function that puts a folder into the cache of the hub, in which files are links."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(folder, revision="main"):
        cache = tmp_path / "hub" / "models--owner--name"
        snapshot = cache / "snapshots" / ("0" * 40)
        for place in (cache / "refs", cache / "blobs", snapshot):
            place.mkdir(parents=True)
        (cache / "refs" / revision).write_text("0" * 40)
        for path in Path(folder).iterdir():
            shutil.copy(path, cache / "blobs" / f"blob-{path.name}")
            (snapshot / path.name).symlink_to(Path("..", "..", "blobs", f"blob-{path.name}"))
        return snapshot

    return put


@pytest.mark.parametrize("name", ["owner/name", "owner/name@v1"])
def test_a_name_on_the_hub(folders, hub_cache, name):
    hub_cache(folders["bert"], name.partition("@")[2] or "main")
    clf = BertSentimentClassifier.from_pretrained(name)
    expected = BertSentimentClassifier.from_pretrained(folders["bert"]).predict_proba(TEXTS)
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), expected)
    assert clf.model == name


def saved_with_mean(folders, training, folder):
    clf = BertSentimentClassifier(folders["bert"], pooling="mean", max_epochs=1, batch_size=16)
    clf.set_params(learning_rate=5e-3, max_length=64, random_state=0).fit(*training)
    with pytest.warns(UserWarning, match="does not support pooling='mean'"):
        clf.save_pretrained(folder)
    return clf


def test_a_classifier_of_skbert_on_the_hub_keeps_its_settings(
    folders, training, hub_cache, tmp_path
):
    clf = saved_with_mean(folders, training, tmp_path / "saved")
    hub_cache(tmp_path / "saved")
    loaded = BertSentimentClassifier.from_pretrained("owner/name")
    assert (loaded.pooling_, loaded.max_length) == ("mean", 64)
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert load_pretrained("owner/name").pooling == "mean"


def test_links_of_a_snapshot_lead_only_to_its_blobs(folders, training, hub_cache, tmp_path):
    saved_with_mean(folders, training, tmp_path / "saved")
    blobs = hub_cache(tmp_path / "saved").parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of"):
        BertSentimentClassifier.from_pretrained("owner/name")


def test_what_transformers_saved_again_needs_no_settings_of_skbert(folders, training, tmp_path):
    saved_with_mean(folders, training, tmp_path / "saved")
    for kind in ("AutoModelForSequenceClassification", "AutoTokenizer"):
        getattr(transformers, kind).from_pretrained(tmp_path / "saved").save_pretrained(
            tmp_path / "again"
        )
    clf = BertSentimentClassifier.from_pretrained(tmp_path / "again")
    expected = pipeline_probabilities(tmp_path / "again", TEXTS, clf.classes_)
    np.testing.assert_allclose(clf.predict_proba(TEXTS), expected, rtol=0, atol=1e-5)


def test_a_path_is_a_folder_and_no_name_on_the_hub(folders, hub_cache):
    hub_cache(folders["bert"])
    with pytest.raises(OSError, match="a path is never looked up on the Hugging Face Hub"):
        BertSentimentClassifier.from_pretrained(Path("owner/name"))


def test_the_home_folder(copied, monkeypatch):
    monkeypatch.setenv("HOME", str(copied.parent))
    expected = BertSentimentClassifier.from_pretrained(copied)
    expected.save_pretrained(copied.parent / "saved")
    for name in ("~/copied", "~/saved"):
        found = BertSentimentClassifier.from_pretrained(name).predict_proba(TEXTS)
        np.testing.assert_array_equal(found, expected.predict_proba(TEXTS))


def test_the_tokenizer_limits_the_number_of_tokens(copied):
    path = copied / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 32}))
    assert BertSentimentClassifier.from_pretrained(copied).max_length == 32


@pytest.fixture
def training(toy_reviews):
    texts, labels = toy_reviews
    return texts, [{"good": "positive", "bad": "negative"}[label] for label in labels[:-1]] + [
        "neutral"
    ]


def test_a_warm_start_trains_the_whole_head(folder, training):
    clf = BertSentimentClassifier.from_pretrained(folder, warm_start=True, random_state=0)
    clf.set_params(max_epochs=3, batch_size=16, learning_rate=5e-3)
    before = {name: weight.clone() for name, weight in clf.head_.named_parameters()}
    clf.fit(*training)
    assert clf.history_[-1]["train_loss"] < clf.history_[0]["train_loss"]
    for name, weight in clf.head_.named_parameters():
        assert not torch.equal(weight, before[name]), name
    clf.partial_fit(*training)
    assert len(clf.history_) == 4
    with pytest.raises(ValueError, match="must be those of the last fit"):
        clf.fit(training[0][:4], ["positive", "negative"] * 2)


def test_frozen_layers_stay_below_the_whole_head(folders, training):
    clf = BertSentimentClassifier.from_pretrained(folders["roberta"], warm_start=True)
    clf.set_params(max_epochs=1, batch_size=16, learning_rate=5e-3, n_frozen_layers=1)
    before = copy.deepcopy(clf)
    clf.fit(*training)
    for name, weight in clf.head_.named_parameters():
        assert not torch.equal(weight, before.head_.get_parameter(name)), name
    first, last = (families.block_modules(clf.model_)[layer].state_dict() for layer in (0, 1))
    old = [block.state_dict() for block in families.block_modules(before.model_)]
    assert all(torch.equal(weight, old[0][name]) for name, weight in first.items())
    assert not all(torch.equal(weight, old[1][name]) for name, weight in last.items())


def test_partial_fit_takes_some_of_the_labels(folders):
    clf = BertSentimentClassifier.from_pretrained(folders["bert"], learning_rate=1e-3)
    clf.partial_fit(["a film", "so dull"], ["positive", "negative"])
    assert clf.classes_.tolist() == sorted(LABELS) and clf.n_epochs_ == 1
    with pytest.raises(ValueError, match="not one of the classes"):
        clf.partial_fit(["a film"], ["good"])


def test_a_run_with_another_head_is_not_resumed(copied, training, tmp_path, monkeypatch):
    """The encoders are equal, and neither classifier was trained in skbert."""
    settings = {"warm_start": True, "max_epochs": 2, "batch_size": 16, "learning_rate": 5e-3}
    settings |= {"random_state": 0, "checkpoint_dir": str(tmp_path / "runs"), "model": str(copied)}

    def interrupted(self, *arguments):
        if self.n_steps > 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    whole = BertSentimentClassifier.from_pretrained(copied, **settings).fit(*training)
    one = BertSentimentClassifier.from_pretrained(copied, **settings)
    weights = load_file(copied / "model.safetensors")
    weights["classifier.bias"] += 1.0 + torch.arange(3)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    other = BertSentimentClassifier.from_pretrained(copied, **settings)
    step = Trainer.step
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", interrupted)
        one.fit(*training)
    with pytest.warns(UserWarning, match="but not this run"):
        other.fit(*training)
    one.fit(*training)  # resumed
    np.testing.assert_array_equal(one.predict_proba(TEXTS), whole.predict_proba(TEXTS))


def test_fit_without_warm_start_makes_a_new_linear_layer(folder, training):
    clf = BertSentimentClassifier.from_pretrained(folder, max_epochs=1, batch_size=16)
    clf.set_params(learning_rate=1e-3).fit(training[0], [0, 1] * 40)
    assert type(clf.head_) is torch.nn.Linear and clf.classes_.tolist() == [0, 1]


def test_the_gradients_are_those_of_transformers(folder):
    """The loss of all texts, without dropout."""
    clf = BertSentimentClassifier.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = clf.tokenizer_(TEXTS, padding=True, return_tensors="pt")
    if families.n_segments(model.config) is None:
        inputs.pop("token_type_ids", None)
    labels = torch.arange(len(TEXTS)) % 3
    model(**inputs, labels=labels).loss.backward()
    family = FAMILIES[model.config.model_type]
    dense, output = (
        model.get_submodule(path) for path in (family.classifier_dense, family.classifier)
    )
    tokens = clf._subword_tokenizer(TEXTS, max_length=64, truncation="head")
    batch = pack(tokens, np.arange(len(TEXTS)))
    logits = state_of(clf, "float32").network.logits(batch)
    order = [LABELS.index(label) for label in clf.classes_]
    own = torch.tensor([order.index(int(labels[row])) for row in batch.rows])
    torch.nn.functional.cross_entropy(logits, own).backward()
    pairs = [(clf.head_.dense, dense.weight.grad), (clf.head_.output, output.weight.grad[order])]
    for layer, expected in pairs:
        torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-4, atol=1e-6)
    word = families.word_embeddings(clf.model_).weight.grad
    expected = families.word_embeddings(model.base_model).weight.grad
    torch.testing.assert_close(word, expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_where_transformers_has_it(folder):
    clf = BertSentimentClassifier.from_pretrained(folder)
    calls = []

    def counting(states):
        calls.append(states)
        return states

    head_logits(clf.head_, torch.ones(2, 16), counting)
    once = clf.model_.config.model_type in ("bert", "distilbert", "albert")
    assert len(calls) == (1 if once else 2)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_fitted_linear_layer_is_saved_exactly(folder, toy_reviews, tmp_path, pooling):
    clf = BertSentimentClassifier(folder, max_epochs=1, batch_size=16, pooling=pooling)
    clf.set_params(learning_rate=5e-3, max_length=64, random_state=0).fit(*toy_reviews)
    if pooling == "mean":
        with pytest.warns(UserWarning, match="does not support pooling='mean'"):
            clf.save_pretrained(tmp_path / "saved")
    else:
        clf.save_pretrained(tmp_path / "saved")
        found = pipeline_probabilities(tmp_path / "saved", TEXTS[:4], clf.classes_)
        np.testing.assert_allclose(found, clf.predict_proba(TEXTS[:4]), rtol=0, atol=1e-5)
    again = BertSentimentClassifier.from_pretrained(tmp_path / "saved")
    assert type(again.head_) is torch.nn.Linear
    for name, weight in clf.head_.named_parameters():
        assert torch.equal(weight, again.head_.get_parameter(name)), name
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))


# Errors


def change_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


NO_LABELS = (
    "The model {folder!r} has 3 outputs and id2label={labels!r} in its config.json, but each "
    "output of a classifier needs a label of its own. Correct id2label, or choose another model."
)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "a", "1": "b"},
        {"0": "a", "1": "b", "2": "a"},
        ["a", "b", "c"],
        {"0": 1, "1": 2, "2": 3},
    ],
    ids=["too_few", "twice", "list", "numbers"],
)
def test_labels_that_do_not_fit_are_refused(copied, labels):
    change_config(copied, id2label=labels)
    with pytest.raises(ValueError) as caught:
        BertSentimentClassifier.from_pretrained(copied)
    assert str(caught.value) == NO_LABELS.format(folder=str(copied), labels=labels)


def test_without_labels_they_have_the_names_of_transformers(copied):
    change_config(copied, id2label=None)
    clf = BertSentimentClassifier.from_pretrained(copied)
    assert clf.classes_.tolist() == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("task", "what", "estimator"),
    [
        ("regression", "It predicts a number for each text", "BertSentimentRegressor"),
        (
            "multi_label_classification",
            "It gives several labels to a text",
            "BertSentimentClassifier",
        ),
    ],
)
def test_other_tasks_are_refused(copied, task, what, estimator):
    change_config(copied, problem_type=task)
    with pytest.raises(ValueError) as caught:
        BertSentimentClassifier.from_pretrained(copied)
    assert str(caught.value) == (
        f"The model {str(copied)!r} has problem_type={task!r}. {what}, but from_pretrained reads "
        "published classifiers that give one label to each. Choose another model, or pass "
        f"model={str(copied)!r} to {estimator} and call fit, which trains a new head."
    )


def test_a_single_output_is_refused(copied):
    """transformers reads it as regression, whatever problem_type is."""
    weights = load_file(copied / "model.safetensors")
    weights |= {name: weights[name][:1] for name in ("classifier.weight", "classifier.bias")}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    change_config(copied, id2label={"0": "LABEL_0"})
    with pytest.raises(ValueError) as caught:
        BertSentimentClassifier.from_pretrained(copied)
    assert str(caught.value).startswith(
        f"The model {str(copied)!r} has a single output. It predicts a number for each text, but "
    )


@pytest.mark.parametrize("classes", [["BertForTokenClassification"], ["BertModel", "x"]])
def test_the_head_of_another_class_is_refused(copied, classes):
    """Older checkpoints for tokens have a pooler, so their weights look like a classifier's."""
    change_config(copied, architectures=classes)
    with pytest.raises(ValueError) as caught:
        BertSentimentClassifier.from_pretrained(copied)
    assert str(caught.value) == (
        f"The model {str(copied)!r} has architectures={classes} in its config.json, but "
        "from_pretrained needs the head of a classifier, as in BertForSequenceClassification. To "
        f"train a new head, pass model={str(copied)!r} to BertSentimentClassifier and call fit."
    )


@pytest.mark.parametrize("classes", [None, [], "x"], ids=["null", "empty", "text"])
def test_a_model_that_names_no_class_is_known_by_its_weights(copied, folders, classes):
    change_config(copied, architectures=classes)
    found = BertSentimentClassifier.from_pretrained(copied).predict_proba(TEXTS)
    expected = BertSentimentClassifier.from_pretrained(folders["bert"]).predict_proba(TEXTS)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w.to(torch.int32), "the dtypes of its classifier are"),
        (lambda w: w[0], "the shapes of its classifier are"),
    ],
    ids=["integers", "no_dimension"],
)
def test_a_strange_bias_is_refused(copied, change, why):
    weights = load_file(copied / "model.safetensors")
    weights["classifier.bias"] = change(weights["classifier.bias"]).clone()
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=why):
        BertSentimentClassifier.from_pretrained(copied)


@pytest.mark.parametrize("missing", ["bert.pooler.dense.weight", "classifier.weight"])
def test_a_model_without_its_head_is_refused(copied, missing):
    path = copied / "model.safetensors"
    weights = load_file(path)
    del weights[missing]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError) as caught:
        BertSentimentClassifier.from_pretrained(copied)
    assert str(caught.value) == (
        f"The model {str(copied)!r} has no {missing!r}, but from_pretrained needs the head of a "
        "classifier, as in BertForSequenceClassification. To train a new head, pass "
        f"model={str(copied)!r} to BertSentimentClassifier and call fit."
    )


def test_numbers_that_are_not_finite_are_refused(copied):
    path = copied / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"][0, 0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"'output\.weight' contains numbers that are not finite"):
        BertSentimentClassifier.from_pretrained(copied)


def test_an_unknown_parameter_is_refused(copied):
    with pytest.raises(TypeError, match="from_pretrained got the parameter 'n_labels'"):
        BertSentimentClassifier.from_pretrained(copied, n_labels=3)


def test_a_parameter_replaces_that_of_a_saved_folder(copied, tmp_path):
    BertSentimentClassifier.from_pretrained(copied).save_pretrained(tmp_path / "saved")
    clf = BertSentimentClassifier.from_pretrained(tmp_path / "saved", max_length=9, device="cpu")
    assert (clf.max_length, clf.device) == (9, "cpu")
