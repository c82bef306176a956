"""`push_to_hub`, and `from_pretrained` of what it pushed, against a hub on this machine."""

import json
import re
import warnings

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from sklearn.exceptions import NotFittedError

from skbert import BertPretrainer, BertSentimentClassifier
from skbert.engine.files.pretrained import free_pretrained
from tests.fake_hub import READER, WRITER, FakeHub

# huggingface_hub 2.4 uploads large files with an argument that its HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = {".gitattributes", "README.md", "config.json", "model.safetensors", "skbert.json"}
FILES |= {"tokenizer.json", "tokenizer_config.json"}
NAME = "owner/film-reviews"


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=2, random_state=0).fit(
        *toy_reviews
    )


@pytest.fixture(scope="module")
def other(tiny_bert, toy_reviews):
    return BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=2, random_state=1).fit(
        *toy_reviews
    )


@pytest.fixture(scope="module")
def pretrainer(tiny_bert, toy_reviews):
    return BertPretrainer(tiny_bert, max_length=16, next_sentence=False, random_state=0).fit(
        toy_reviews[0]
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub


def push(estimator, name=NAME, **options):
    return estimator.push_to_hub(name, **({"token": WRITER} | options))


def test_what_was_pushed_is_loaded_by_its_name(clf, toy_reviews, hub):
    X, _ = toy_reviews
    commit = push(clf, scores={"accuracy": 0.91})
    assert isinstance(commit, huggingface_hub.CommitInfo)
    assert commit.commit_url == f"{hub.endpoint}/{NAME}/commit/{commit.oid}"
    assert commit.oid == hub.repositories[NAME].sha("main")
    assert set(hub.files(NAME)) == FILES
    assert hub.repositories[NAME].titles == ["Upload BertSentimentClassifier with skbert"]
    assert not hub.repositories[NAME].private

    loaded = BertSentimentClassifier.from_pretrained(NAME)
    np.testing.assert_array_equal(loaded.decision_function(X), clf.decision_function(X))
    np.testing.assert_array_equal(loaded.class_count_, [40, 40])
    assert loaded.history_ == clf.history_

    card = ModelCard(hub.files(NAME)["README.md"].decode())
    assert f'from_pretrained("{NAME}")' in card.text
    assert card.data.eval_results[0].metric_value == 0.91


def test_what_was_pushed_is_a_model_to_train(clf, toy_reviews, hub):
    push(clf)
    again = BertSentimentClassifier(NAME, max_length=16, max_epochs=1).fit(*toy_reviews)
    push(again, "owner/second")
    assert ModelCard(hub.files("owner/second")["README.md"].decode()).data.base_model == NAME


def test_a_pretrainer(pretrainer, toy_reviews, hub):
    push(pretrainer)
    assert set(hub.files(NAME)) == FILES
    assert hub.repositories[NAME].titles == ["Upload BertPretrainer with skbert"]
    loaded = BertPretrainer.from_pretrained(NAME)
    np.testing.assert_array_equal(
        loaded.transform(toy_reviews[0]), pretrainer.transform(toy_reviews[0])
    )


def test_the_options_reach_the_hub(clf, other, toy_reviews, hub):
    X, _ = toy_reviews
    push(clf, private=True, commit_message="First")
    push(other, revision="next", commit_message="Second")
    push(other, revision="next", commit_message="Third", scores={"f1": 0.5})
    repository = hub.repositories[NAME]
    assert repository.private and repository.titles == ["First", "Second", "Third"]
    assert hub.files(NAME)["model.safetensors"] != hub.files(NAME, "next")["model.safetensors"]
    assert {token for method, _, token in hub.requests if method == "POST"} == {WRITER}
    assert f'from_pretrained("{NAME}@next")'.encode() in hub.files(NAME, "next")["README.md"]
    repository.private = False
    for name, expected in ((NAME, clf), (f"{NAME}@next", other)):
        loaded = BertSentimentClassifier.from_pretrained(name)
        np.testing.assert_array_equal(loaded.decision_function(X), expected.decision_function(X))


def test_the_stored_token_is_used(clf, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    push(clf, token=None)
    assert NAME in hub.repositories


def test_no_token_is_in_the_files(clf, hub):
    push(clf)
    assert not [name for name, content in hub.files(NAME).items() if WRITER.encode() in content]


def test_the_files_of_an_earlier_model_are_deleted_and_others_stay(clf, hub):
    push(clf)
    old = ["model-1-of-2.safetensors", "model.safetensors.index.json", "modules.json", "vocab.txt"]
    files = hub.files(NAME)
    files |= dict.fromkeys([*old, "data.csv", "LICENSE", "onnx/model.onnx"], b"x")
    push(clf, scores={"accuracy": 0.9})
    assert set(hub.files(NAME)) == {*FILES, "data.csv", "LICENSE", "onnx/model.onnx"}


# the card -----------------------------------------------------------------------------------------


def test_an_edited_card_on_the_hub_stays_and_the_model_loads(clf, other, toy_reviews, hub):
    X, _ = toy_reviews
    push(clf)
    edited = hub.files(NAME)["README.md"] + b"\n\nOne more word.\n"
    hub.files(NAME)["README.md"] = edited
    loaded = BertSentimentClassifier.from_pretrained(NAME)
    np.testing.assert_array_equal(loaded.decision_function(X), clf.decision_function(X))

    message = (
        f"'{NAME}' has a README.md that was written or edited on the Hugging Face Hub, so "
        "push_to_hub kept it. Pass replace_card=True to replace it by the new one."
    )
    for _ in range(2):  # it stays an edited one
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
            push(other)
        assert hub.files(NAME)["README.md"] == edited
    free_pretrained()
    loaded = BertSentimentClassifier.from_pretrained(f"{NAME}@{hub.repositories[NAME].sha('main')}")
    np.testing.assert_array_equal(loaded.decision_function(X), other.decision_function(X))

    push(other, replace_card=True)
    assert b"One more word" not in hub.files(NAME)["README.md"]
    push(clf)  # without a warning


def test_a_card_that_cannot_be_read_is_not_replaced(clf, other, hub, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    push(clf)
    edited = hub.files(NAME)["README.md"] + b"\n\nOne more word.\n"
    hub.files(NAME)["README.md"] = edited

    def no_answer(*args, **kwargs):
        raise LocalEntryNotFoundError("The hub does not answer.")

    monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", no_answer)
    with pytest.raises(OSError, match=r"^Could not push to .*The hub does not answer"):
        push(other)
    assert hub.files(NAME)["README.md"] == edited


@pytest.mark.parametrize("card", [b"---\nlicense: mit\n---\n", b"", b"\xff"])
def test_a_card_that_was_there_before_stays(clf, hub, card):
    huggingface_hub.HfApi(token=WRITER).create_repo(NAME)
    hub.files(NAME)["README.md"] = card
    with pytest.warns(UserWarning, match="so push_to_hub kept it"):
        push(clf)
    assert hub.files(NAME)["README.md"] == card
    assert set(hub.files(NAME)) == FILES
    BertSentimentClassifier.from_pretrained(NAME)


def test_the_licence_of_a_model_comes_with_its_download(clf, toy_reviews, hub, tmp_path):
    push(clf)
    card = b"---\nlicense: cc-by-4.0\nlanguage:\n- de\n---\nWords.\n"
    hub.files(NAME)["README.md"] = card
    again = BertSentimentClassifier(NAME, max_length=16, max_epochs=1).fit(*toy_reviews)
    again.save_pretrained(tmp_path / "saved")
    data = ModelCard.load(tmp_path / "saved" / "README.md").data
    assert (data.license, data.language, data.base_model) == ("cc-by-4.0", "de", NAME)


# errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["film-reviews", "owner/name@main", "a/b/c", "owner/", "", None])
def test_no_name_of_the_hub(clf, hub, name):
    message = (
        f"repo_id={name!r} is not a name on the Hugging Face Hub. Pass your user name or your "
        "organisation, and a name for the model, as in 'owner/name'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        push(clf, name)
    assert hub.requests == []


def test_nothing_is_created_for_wrong_scores_or_without_a_fit(clf, hub):
    with pytest.raises(ValueError, match="every score must be a finite number"):
        push(clf, scores={"accuracy": float("nan")})
    for cls in (BertSentimentClassifier, BertPretrainer):
        with pytest.raises(NotFittedError):
            push(cls())
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        (False, "Log in with `hf auth login`, or pass a token that may write."),
        ("hf_wrong", "Log in with `hf auth login`, or pass a token that may write."),
        (READER, "Pass a token that may write there, or a repo_id with your own user name."),
    ],
)
def test_a_token_that_may_not_write(clf, hub, token, advice):
    with pytest.raises(OSError) as caught:
        push(clf, token=token)
    assert str(caught.value).startswith(f"Could not push to '{NAME}' on the Hugging Face Hub (")
    assert str(caught.value).endswith(f"). {advice}")
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.HfHubHTTPError)
    assert str(token) not in str(caught.value) or token is False
    assert hub.repositories == {}


def test_offline(clf, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(OSError, match=r"\. Unset the environment variable HF_HUB_OFFLINE\.$"):
        push(clf)
    huggingface_hub.close_session()


def test_an_unreachable_hub(clf, tmp_path, monkeypatch):
    with FakeHub() as hub:
        hub.use(monkeypatch, tmp_path / "cache")
    with pytest.raises(
        OSError, match=r"\. Check the connection to the hub, and push again\.$"
    ) as caught:
        push(clf)
    assert str(caught.value).startswith(f"Could not push to '{NAME}' on the Hugging Face Hub (")


def test_a_damaged_upload_is_noticed(clf, hub):
    """The hashes of skbert.json hold for what comes from the hub, too."""
    push(clf)
    settings = json.loads(hub.files(NAME)["config.json"])
    hub.files(NAME)["config.json"] = json.dumps(settings | {"x": 1}).encode()
    with pytest.raises(ValueError, match="is not the file that was saved"):
        BertSentimentClassifier.from_pretrained(NAME)


def test_the_warnings_of_saving_come_once(toy_reviews, tiny_bert, hub):
    clf = BertSentimentClassifier(tiny_bert, pooling="mean", max_length=16, max_epochs=1)
    clf.fit(*toy_reviews)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        push(clf)
    ours = [w for w in caught if w.category is UserWarning]
    assert ["does not support pooling='mean'" in str(w.message) for w in ours] == [True]
    assert ours[0].filename == __file__
