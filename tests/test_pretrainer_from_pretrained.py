"""`BertPretrainer.from_pretrained`: folders of skbert and of transformers, and what is refused."""

import copy
import json
import pickle
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from transformers import BertConfig, BertForPreTraining

from skbert import BertPretrainer, BertSentimentClassifier
from tests.conftest import save_bert
from tests.saved_folders import sign_again

DOCUMENTS = [
    ["a good film", "it was great fun", "i loved it"],
    ["boring", "the best nap of my life"],
    ["i hate this movie", "very bad", "waste"],
]
TEXTS = [". ".join(document) for document in DOCUMENTS]
MASKED = ["a [MASK] film", "[MASK] was [MASK]"]
PAIRS = [("a good film", "it was fun"), ("boring", ""), ("so bad", "i hate it")]
SETTINGS = {"max_length": 32, "batch_size": 4, "learning_rate": 1e-3, "random_state": 0}


def pretrainer(model, **parameters):
    return BertPretrainer(model, **(SETTINGS | parameters))


def new_config():
    return BertConfig(
        vocab_size=80,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="module")
def with_heads(tiny_bert, tmp_path_factory):
    """Save a model of transformers by the name of its class, in the precision of a checkpoint."""

    def save(name, dtype=torch.float32):
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(tiny_bert, folder, dirs_exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(transformers, name)(BertConfig.from_pretrained(tiny_bert)).eval()
        for head in (n for n in ("cls",) if hasattr(model, n)):
            for parameter in getattr(model, head).parameters():
                torch.nn.init.normal_(parameter, 0.0, 0.3)
        model.to(dtype).save_pretrained(folder)
        return str(folder), model.float()

    return save


FITS = {
    "both tasks": {},
    "words only": {"next_sentence": False},
    "nothing": {"max_epochs": 0},
    "nothing, words only": {"max_epochs": 0, "next_sentence": False},
    "other parameters": {
        "mask_fraction": 0.3,
        "whole_words": True,
        "emoji_names": False,
        "weight_decay": 0.0,
        "warmup_fraction": 0.5,
        "dropout": 0.0,
        "precision": "float32",
        "device": "cpu",
        "max_epochs": 2,
    },
}


@pytest.fixture(scope="module", params=[*FITS, "from scratch"])
def fitted(request, tiny_bert):
    if request.param == "from scratch":
        return pretrainer(new_config(), next_sentence=False).fit(TEXTS)
    return pretrainer(tiny_bert, **FITS[request.param]).fit(DOCUMENTS)


def knowledge(fitted):
    return [getattr(fitted, f"_knows_{what}") for what in ("words", "next_sentence", "pooler")] + [
        fitted._made_with
    ]


def assert_same(loaded, fitted):
    """Everything that two pretrainers compute is equal, bit by bit."""
    ours, theirs = loaded.model_.state_dict(), fitted.model_.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokenizer = copy.deepcopy(fitted.tokenizer_)  # padding would change it
    inputs = tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours, theirs = loaded.model_(**inputs), fitted.model_(**inputs)
    assert torch.equal(ours.prediction_logits, theirs.prediction_logits)
    assert torch.equal(ours.seq_relationship_logits, theirs.seq_relationship_logits)
    for mine, other in zip(loaded.fill_mask(MASKED), fitted.fill_mask(MASKED), strict=True):
        assert (mine.text, mine.words) == (other.text, other.words)
        assert np.array_equal(mine.probabilities, other.probabilities)
    assert loaded.score(TEXTS) == fitted.score(TEXTS)
    assert np.array_equal(loaded.transform(TEXTS), fitted.transform(TEXTS))
    assert knowledge(loaded) == knowledge(fitted)
    if fitted._knows_next_sentence:
        probabilities = [model.predict_next_sentence(PAIRS) for model in (loaded, fitted)]
        assert np.array_equal(*probabilities)


def plain(parameters):
    return {n: v if not hasattr(v, "to_dict") else v.to_dict() for n, v in parameters.items()}


# what skbert saved --------------------------------------------------------------------------------


def test_a_saved_pretrainer_is_the_same(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "one")
    loaded = BertPretrainer.from_pretrained(tmp_path / "one")
    assert type(loaded) is BertPretrainer
    assert_same(loaded, fitted)
    for name in ("history_", "n_epochs_", "device_", "precision_", "_n_features_out"):
        assert getattr(loaded, name) == getattr(fitted, name), name
    ours, theirs = (model.get_params() for model in (loaded, fitted))
    if not isinstance(fitted.model, str):
        ours["model"], theirs["model"] = (
            {name: getattr(model, name) for name in ("vocab_size", "hidden_size", "model_type")}
            for model in (loaded.model, fitted.model)
        )
    assert ours == theirs

    loaded.save_pretrained(tmp_path / "two")  # the same bytes
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert {"model.safetensors", "config.json", "tokenizer.json", "skbert.json"} <= set(one)
    if not isinstance(fitted.model, str):  # of a BertConfig, skbert keeps the sizes only
        one.pop("skbert.json"), two.pop("skbert.json")
    assert one == two

    shutil.rmtree(tmp_path / "one")  # which the loaded one no longer needs
    assert_same(pickle.loads(pickle.dumps(loaded)), fitted)
    assert not hasattr(clone(loaded), "model_")


@pytest.mark.parametrize("parameters", [{}, {"next_sentence": False}])
def test_a_fit_starts_from_the_saved_model(tiny_bert, tmp_path, parameters):
    fitted = pretrainer(tiny_bert, **parameters).fit(DOCUMENTS)
    fitted.save_pretrained(tmp_path / "model")
    assert_same(BertPretrainer.from_pretrained(str(tmp_path / "model")).fit(DOCUMENTS), fitted)


def test_a_fit_continues_if_the_folder_is_the_model(tiny_bert, tmp_path):
    first = pretrainer(tiny_bert).fit(DOCUMENTS)
    first.save_pretrained(tmp_path / "model")
    loaded = BertPretrainer.from_pretrained(tmp_path / "model", model=str(tmp_path / "model"))
    by_hand = pretrainer(str(tmp_path / "model")).fit(DOCUMENTS)
    assert_same(loaded.fit(DOCUMENTS), by_hand)
    assert loaded.history_[-1]["masked_loss"] < first.history_[-1]["masked_loss"]


def test_names_of_columns_are_kept(tiny_bert, tmp_path):
    X = pd.DataFrame({"review": TEXTS})
    fitted = pretrainer(tiny_bert, next_sentence=False).fit(X)
    fitted.save_pretrained(tmp_path / "model")
    loaded = BertPretrainer.from_pretrained(tmp_path / "model")
    assert loaded.n_features_in_ == 1 and loaded.feature_names_in_.tolist() == ["review"]
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.transform(X.rename(columns={"review": "text"}))
    assert loaded.get_feature_names_out().tolist() == fitted.get_feature_names_out().tolist()


def test_parameters_replace_the_saved_ones(tiny_bert, tmp_path):
    pretrainer(tiny_bert).fit(DOCUMENTS).save_pretrained(tmp_path / "model")
    loaded = BertPretrainer.from_pretrained(tmp_path / "model", max_length=16, max_epochs=3)
    assert (loaded.max_length, loaded.max_epochs, loaded.batch_size) == (16, 3, 4)
    with pytest.warns(UserWarning, match="longer than max_length=16 tokens"):
        loaded.transform(["good " * 20])


def test_a_random_state_instance_is_saved_as_none(tiny_bert, tmp_path):
    fitted = pretrainer(tiny_bert, random_state=np.random.RandomState(0)).fit(DOCUMENTS)
    message = (
        "random_state is a RandomState instance, which cannot be saved; the folder stores None. "
        "Set random_state to an int to save it."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        fitted.save_pretrained(tmp_path / "model")
    loaded = BertPretrainer.from_pretrained(tmp_path / "model")
    assert loaded.random_state is None
    assert_same(loaded, fitted)


def test_folders_without_parameters(tiny_bert, tmp_path):
    """As older versions of skbert wrote them."""
    fitted = pretrainer(tiny_bert).fit(DOCUMENTS)
    fitted.save_pretrained(tmp_path / "model")
    versions = {"versions": {}, "history": fitted.history_}
    sign_again(tmp_path / "model", lambda content: content.update(settings=versions))
    loaded = BertPretrainer.from_pretrained(tmp_path / "model", max_length=32)
    assert (
        loaded.get_params() == BertPretrainer(str(tmp_path / "model"), max_length=32).get_params()
    )
    assert_same(loaded, fitted)


def test_a_device_that_is_not_there(tiny_bert, tmp_path):
    fitted = pretrainer(tiny_bert).fit(DOCUMENTS).set_params(device="cuda:17")
    fitted.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="'cuda:17'.*Until then, the loaded model uses 'cpu'"):
        loaded = BertPretrainer.from_pretrained(tmp_path / "model")
    assert loaded.device_ == "cpu"
    with pytest.raises(ValueError, match="'cuda:17'"):  # asked for, not saved
        BertPretrainer.from_pretrained(tmp_path / "model", device="cuda:17")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BertPretrainer.from_pretrained(tmp_path / "model", device="cpu").device_ == "cpu"


# what transformers saved --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM"])
def test_a_model_of_transformers_with_heads(with_heads, name, dtype):
    folder, model = with_heads(name, dtype)
    loaded = BertPretrainer.from_pretrained(folder)
    expected = BertPretrainer(folder, max_length=64).get_params()
    assert loaded.get_params() == expected  # the model has 64 positions
    assert (loaded.history_, loaded.n_epochs_, loaded.device_) == ([], 0, "cpu")
    inputs = loaded.tokenizer_(MASKED[0], return_tensors="pt")
    with torch.no_grad():
        logits = getattr(model(**inputs), "prediction_logits", None)
        logits = model(**inputs).logits if logits is None else logits
        assert torch.equal(loaded.model_(**inputs).prediction_logits, logits)
    at_mask = logits[0, inputs["input_ids"][0].tolist().index(loaded.tokenizer_.mask_token_id)]
    best = at_mask.softmax(0).topk(5)
    filled = loaded.fill_mask(MASKED[0])
    assert filled.words == [loaded.tokenizer_.convert_ids_to_tokens(best.indices.tolist())]
    np.testing.assert_allclose(filled.probabilities[0], best.values, rtol=0, atol=1e-5)
    assert loaded.score(TEXTS) < 0


def test_the_head_for_the_next_sentence(with_heads):
    folder, model = with_heads("BertForPreTraining")
    loaded = BertPretrainer.from_pretrained(folder)
    first, second = zip(*PAIRS, strict=True)
    inputs = loaded.tokenizer_([*first], [*second], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).seq_relationship_logits.softmax(1)[:, 0]
    np.testing.assert_allclose(loaded.predict_next_sentence(PAIRS), expected, rtol=0, atol=1e-5)
    folder, _ = with_heads("BertForMaskedLM")
    message = (
        "Next sentence prediction is not trained: the checkpoint has no head for it, and fit had "
        "no pairs of sentences. Fit with next_sentence=True, max_epochs of at least 1, and "
        "documents of several sentences."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BertPretrainer.from_pretrained(folder).predict_next_sentence(PAIRS)


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM"])
def test_a_model_of_transformers_goes_through_a_folder_of_skbert(with_heads, name, tmp_path):
    folder, _ = with_heads(name)
    loaded = BertPretrainer.from_pretrained(folder, random_state=0)
    loaded.save_pretrained(tmp_path / "one")
    again = BertPretrainer.from_pretrained(tmp_path / "one")
    assert_same(again, loaded)
    again.save_pretrained(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    theirs, loading = BertForPreTraining.from_pretrained(tmp_path / "two", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert all(
        torch.equal(weight, loaded.model_.state_dict()[n])
        for n, weight in theirs.state_dict().items()
    )
    same_seed = BertPretrainer.from_pretrained(folder, random_state=0)
    assert_same(same_seed, loaded)  # the random weights of the missing head, too


def test_it_is_a_fit_without_epochs(with_heads):
    folder, _ = with_heads("BertForPreTraining")
    fit = pretrainer(folder, max_epochs=0).fit(DOCUMENTS)
    assert_same(BertPretrainer.from_pretrained(folder, **SETTINGS), fit)
    continued = BertPretrainer.from_pretrained(folder, **SETTINGS).fit(DOCUMENTS)
    assert_same(continued, pretrainer(folder).fit(DOCUMENTS))


def test_a_loaded_model_shares_no_weights(with_heads):
    folder, _ = with_heads("BertForPreTraining")
    one, two = (BertPretrainer.from_pretrained(folder) for _ in range(2))
    with torch.no_grad():
        for parameter in one.model_.parameters():
            parameter.zero_()
    assert_same(BertPretrainer.from_pretrained(folder), two)


# refused ------------------------------------------------------------------------------------------


def refused(folder, error, message, **parameters):
    with pytest.raises(error) as caught:
        BertPretrainer.from_pretrained(folder, **parameters)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["BertModel", "BertForSequenceClassification"])
def test_a_model_without_a_head_for_words(with_heads, name):
    folder, _ = with_heads(name)
    refused(
        folder,
        ValueError,
        f"The model {folder!r} has no head for words ('cls.predictions.'), but from_pretrained "
        "needs one, as in BertForPreTraining and BertForMaskedLM. To train a new head, pass "
        f"model={folder!r} to BertPretrainer and call fit.",
    )


def test_a_classifier_of_skbert(tiny_bert, tmp_path):
    folder = str(tmp_path / "clf")
    clf = BertSentimentClassifier(tiny_bert, max_length=16, pooling="cls")
    clf.fit(["good", "bad"], ["a", "b"])
    clf.save_pretrained(folder)
    refused(
        folder,
        ValueError,
        f"{folder!r} contains a classifier, not a pretraining model. Load it with "
        f"BertSentimentClassifier.from_pretrained, or pass model={folder!r} to BertPretrainer and "
        "call fit.",
    )


def test_the_classifier_names_the_pretrainer(saved):
    message = (
        f"{str(saved)!r} contains a pretraining model, not a classifier. Load it with "
        f"BertPretrainer.from_pretrained, or pass model={str(saved)!r} to BertSentimentClassifier "
        "and call fit."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BertSentimentClassifier.from_pretrained(saved)


def test_a_folder_that_is_not_there(tmp_path):
    folder = tmp_path / "nothing"
    message = (
        f"Could not find the model {str(folder)!r}. There is no such folder, and it is not a name "
        "on the Hugging Face Hub, such as 'owner/name'. Check the path."
    )
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        BertPretrainer.from_pretrained(str(folder))


def test_a_parameter_that_does_not_exist(tiny_bert):
    allowed = ", ".join(BertPretrainer().get_params(deep=False))
    names = [name for name in BertPretrainer.__init__.__code__.co_varnames if name in allowed]
    refused(
        tiny_bert,
        TypeError,
        "from_pretrained got the parameter 'epochs'; allowed are the parameters of BertPretrainer: "
        f"{', '.join(names)}. Correct the name.",
        epochs=3,
    )


@pytest.mark.parametrize("saved_by_skbert", [True, False])
def test_a_parameter_that_is_not_allowed(with_heads, saved_by_skbert, tmp_path):
    folder, _ = with_heads("BertForPreTraining")
    if saved_by_skbert:
        BertPretrainer.from_pretrained(folder).save_pretrained(tmp_path / "model")
        folder = str(tmp_path / "model")
    with pytest.raises(ValueError, match="The 'max_epochs' parameter of BertPretrainer must be"):
        BertPretrainer.from_pretrained(folder, max_epochs=-1)


@pytest.fixture
def saved(tiny_bert, tmp_path):
    pretrainer(tiny_bert).fit(DOCUMENTS).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "skbert.json"])
def test_a_file_that_is_damaged_or_missing(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' is not the file that was saved: "):
        BertPretrainer.from_pretrained(saved)
    if name != "skbert.json":
        (saved / name).unlink()
        refused(
            saved,
            FileNotFoundError,
            f"{str(saved)!r} lacks {name}. Copy the whole folder, or save the model again.",
        )


def change_weights(saved, change):
    weights = load_file(saved / "model.safetensors")
    change(weights)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    sign_again(saved)


TRANSFORM, SEQUENCE = "cls.predictions.transform.dense.weight", "cls.seq_relationship.weight"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w.pop(TRANSFORM), f"it has no {TRANSFORM!r}"),
        (lambda w: w.pop("bert.pooler.dense.bias"), "it has no 'pooler.dense.bias'"),
        (
            lambda w: w.update({SEQUENCE: torch.zeros(3, 32)}),
            f"{SEQUENCE!r} is torch.float32 of shape (3, 32), not a float of shape (2, 32)",
        ),
        (
            lambda w: w.update({SEQUENCE: torch.zeros(2, 32, dtype=torch.int64)}),
            f"{SEQUENCE!r} is torch.int64 of shape (2, 32), not a float of shape (2, 32)",
        ),
    ],
)
def test_heads_that_do_not_fit(saved, change, why):
    change_weights(saved, change)
    refused(
        saved,
        ValueError,
        f"{str(saved / 'model.safetensors')!r} is not the file that was saved: {why}. Copy the "
        "folder again, or save the model again.",
    )


def test_a_head_of_transformers_that_does_not_fit(with_heads):
    folder, _ = with_heads("BertForPreTraining")
    path = f"{folder}/model.safetensors"
    weights = load_file(path)
    weights[SEQUENCE] = torch.zeros(3, 32)
    save_file(weights, path, metadata={"format": "pt"})
    message = (
        f"{SEQUENCE!r} in the checkpoint has shape (3, 32), but the configuration requires "
        "(2, 32). Use the config.json that belongs to the weights."
    )
    refused(folder, ValueError, message)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pretrainer(folder).fit(DOCUMENTS)


@pytest.mark.parametrize("saved_by_skbert", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(saved, value, saved_by_skbert):
    change_weights(saved, lambda w: w[TRANSFORM][3, 4:5].fill_(value))
    folder, path = str(saved), str(saved / "model.safetensors")
    if not saved_by_skbert:
        (saved / "skbert.json").unlink()
        path = folder
    refused(
        folder,
        ValueError,
        f"{TRANSFORM!r} in {path!r} contains numbers that are not finite. Save or download the "
        "model again.",
    )


def test_a_tokenizer_without_a_mask(tmp_path):
    folder = save_bert(tmp_path / "model")
    with torch.random.fork_rng(devices=[]):
        BertForPreTraining(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"mask_token": None, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    refused(
        folder,
        ValueError,
        "The tokenizer has no mask token, but masked language modelling needs one. Use the "
        "tokenizer files of a BERT.",
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"parameters": {"modell": "x"}}, "KeyError('model')"),
        ({"parameters": {"model": {"model_type": "gpt2"}}}, "gpt2"),
        ({"parameters": 3}, "TypeError"),
        ({"history": [3]}, "TypeError"),
        ({"history": None}, "TypeError"),
        ({"n_features_in": "many"}, "ValueError"),
    ],
)
def test_settings_that_skbert_cannot_have_written(saved, change, error):
    sign_again(saved, lambda content: content["settings"].update(change))
    with pytest.raises(ValueError) as caught:
        BertPretrainer.from_pretrained(saved)
    start, end = str(caught.value).split(" (", 1)[0], str(caught.value).rsplit("). ", 1)[-1]
    assert start == "The settings of the saved BertPretrainer are invalid"
    assert error in str(caught.value)
    assert end == "Save the model again with the installed skbert."


def test_a_newer_folder(saved):
    sign_again(saved, lambda content: content.update(format=99))
    refused(
        saved,
        ValueError,
        f"{str(saved)!r} was saved in format 99 by a newer skbert; the installed skbert reads "
        "formats up to 1. Update skbert.",
    )
