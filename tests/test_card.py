"""The model card that `save_pretrained` writes: what it says, and who may edit it."""

import pickle
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from sklearn.base import clone

from skbert import BertPretrainer, BertSentimentClassifier
from skbert.contract.card import model_card
from skbert.contract.persistence import versions
from skbert.engine.files.base_model import describe_base, read_front_matter
from skbert.engine.files.card_file import is_unedited, write_card
from tests.conftest import save_bert
from tests.padded_folders import save_padded
from tests.saved_folders import sign_again

TEXTS = ["good film", "bad film"] * 10
LABELS = ["good", "bad"] * 10
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def classifier(model, **parameters):
    settings = {"max_length": 16, "max_epochs": 2, "random_state": 0} | parameters
    return BertSentimentClassifier(model, **settings)


def exactly(message):
    return f"^{re.escape(message)}$"


@pytest.fixture(scope="module")
def clf(tiny_bert):
    return classifier(tiny_bert).fit(TEXTS, LABELS)


@pytest.fixture
def saved(clf, tmp_path):
    clf.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def base(tiny_bert, tmp_path):
    """A copy of the tiny BERT, which may get a card."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "base"))


def read(folder):
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


# what it says -------------------------------------------------------------------------------------


def test_the_whole_card(base, tmp_path):
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n", encoding="utf-8")
    clf = classifier(str(base), early_stopping=True, validation_fraction=0.2, n_iter_no_change=5)
    clf.fit(TEXTS, LABELS)
    clf.save_pretrained(tmp_path / "saved", scores={"accuracy": 0.91, "f1": np.float32(0.5)})
    text = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    score = clf.history_[clf.best_epoch_ - 1]["val_score"]
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    assert text.rpartition("\n\n<!-- ")[0] == (
        "---\n"
        "language: en\n"
        "library_name: skbert\n"
        "license: mit\n"
        "metrics:\n- accuracy\n- f1\n"
        "pipeline_tag: text-classification\n"
        "tags:\n- skbert\n- scikit-learn\n- bert\n"
        "model-index:\n"
        "- name: BertSentimentClassifier\n"
        "  results:\n"
        "  - task:\n      type: text-classification\n"
        "    dataset:\n      name: Unknown\n      type: unknown\n"
        "    metrics:\n"
        "    - type: accuracy\n      value: 0.91\n"
        "    - type: f1\n      value: 0.5\n"
        "---\n\n"
        "# Text classifier: `bad`, `good`\n\n"
        "This model gives a label to each text. It was fine-tuned from the local folder `'base'`, "
        "with [skbert](https://skbert.readthedocs.io)'s `BertSentimentClassifier`.\n\n"
        "## Use\n\n"
        "```python\n"
        "from skbert import BertSentimentClassifier\n\n"
        'model = BertSentimentClassifier.from_pretrained("path/of/this/folder")\n'
        'model.predict(["a text", "another text"])\n'
        "```\n\n"
        "`transformers.AutoModelForSequenceClassification` reads the same files.\n\n"
        "## Labels and texts\n\n"
        "| Label | Training texts |\n| --- | --- |\n| `'bad'` | 8 |\n| `'good'` | 8 |\n\n"
        "Training texts: 16. Validation texts: 4.\n\n"
        "## Scores\n\n"
        "| Score | Value | Texts |\n| --- | --- | --- |\n"
        "| `accuracy` | 0.91 | test texts |\n"
        "| `f1` | 0.5 | test texts |\n"
        f"| `accuracy` | {score:.4g} | validation texts, after epoch {clf.best_epoch_} |\n\n"
        "## Parameters\n\n"
        "| Parameter | Value |\n| --- | --- |\n"
        "| `early_stopping` | `True` |\n"
        "| `max_epochs` | `2` |\n"
        "| `max_length` | `16` |\n"
        "| `model` | `'base'` |\n"
        "| `n_iter_no_change` | `5` |\n"
        "| `random_state` | `0` |\n"
        "| `validation_fraction` | `0.2` |\n\n"
        "All other parameters have their defaults.\n\n"
        f"## Versions\n\n{made_with}\n\n"
        "## Licence\n\nThe model below this one has the licence `mit`."
    )


def test_the_code_of_the_card_runs(clf, saved, tmp_path):
    code = re.search(r"```python\n(.+?)```", read(saved).text, re.DOTALL)[1]
    namespace = {}
    exec(code.replace("path/of/this/folder", saved.as_posix()), namespace)
    np.testing.assert_array_equal(
        namespace["model"].predict(["a text", "another text"]),
        clf.predict(["a text", "another text"]),
    )


def test_a_card_without_scores_has_no_results(saved):
    data = read(saved).data
    assert data.eval_results is None and data.metrics is None
    assert "## Scores" not in read(saved).text


def test_a_pretrainer(tiny_bert, tmp_path):
    model = BertPretrainer(tiny_bert, max_length=16, next_sentence=False).fit(TEXTS)
    model.save_pretrained(tmp_path / "saved", scores={"perplexity": 5})
    card = read(tmp_path / "saved")
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.eval_results[0].metric_value == 5.0
    assert "It was pre-trained further from the local folder `'tiny'`, on texts" in card.text
    code = re.search(r"```python\n(.+?)```", card.text, re.DOTALL)[1]
    exec(code.replace("path/of/this/folder", (tmp_path / "saved").as_posix()), {})


def test_a_pretrainer_from_scratch(tmp_path):
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=80, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    model = BertPretrainer(config, max_length=16, next_sentence=False).fit(TEXTS)
    model.save_pretrained(tmp_path / "saved")
    card = read(tmp_path / "saved")
    assert "It was pre-trained on texts without labels with" in card.text
    assert "| `model` | `'BertConfig'` |" in card.text
    assert "No published model is below this one." in card.text
    assert card.data.base_model is None and card.data.license is None


@pytest.mark.weights
def test_the_default_model_and_its_licence(real_weights):
    clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
    card = ModelCard(model_card(clf, name="owner/name"))
    assert card.data.base_model == MINILM
    assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    assert "`fit` has not trained it on any text." in card.text
    assert "Only skbert reads its head, not transformers." in card.text
    assert 'from_pretrained("owner/name")' in card.text
    assert "has the licence `apache-2.0`. The change of its weights has that of skbert" in card.text
    card = ModelCard(model_card(clf.set_params(model=MINILM)))
    assert (card.data.base_model, card.data.license) == (MINILM, "apache-2.0")
    assert "change of its weights" not in card.text


def test_a_padded_family(tiny_bert, tmp_path):
    folder = save_padded(tmp_path / "padded", "modernbert", tiny_bert)
    card = ModelCard(model_card(classifier(folder).fit(TEXTS, LABELS)))
    assert card.data.tags == ["skbert", "scikit-learn", "modernbert"]
    assert "Only skbert reads its head, not transformers." in card.text


def test_pairs(tiny_bert):
    clf = classifier(tiny_bert).fit([(text, "film") for text in TEXTS], LABELS)
    text = model_card(clf)
    assert "gives a label to each pair of texts" in text
    assert 'model.predict([("first text", "second text")])' in text


def test_many_labels(tiny_bert):
    clf = classifier(tiny_bert, max_epochs=1).fit(["good"] * 240, [*range(120)] * 2)
    text = model_card(clf)
    assert "# Text classifier with 120 labels\n" in text
    assert "| `99` | 2 |\n| and 20 more | |\n\nTraining texts: 240." in text


def test_the_class_of_skbert_is_named_for_a_class_that_extends_it(tiny_bert):
    class Mine(BertSentimentClassifier):
        pass

    clf = Mine(tiny_bert, max_length=16, max_epochs=1).fit(TEXTS, LABELS)
    assert "from skbert import BertSentimentClassifier" in model_card(clf)


STRANGE = [
    "a|b", "`code`", "**bold**", "<script>", "two\nlines", "\x1b[31m", "\udc80", "&amp;", "\\", "é",
]  # fmt: skip


def test_no_label_breaks_the_table(tiny_bert, tmp_path):
    clf = classifier(tiny_bert, max_epochs=1, class_weight=dict.fromkeys(STRANGE, 2.0))
    clf.fit(["good"] * 20, STRANGE * 2).save_pretrained(tmp_path / "saved", scores={"\udc80|": 1.0})
    lines = read(tmp_path / "saved").text.splitlines()
    rows = [line for line in lines if line.startswith("|") and line.endswith("| 2 |")]
    assert len(rows) == len(STRANGE)
    assert all(line.count("|") == 3 and line.isprintable() for line in rows)
    for line in lines:
        if line.startswith("|"):
            plain = re.sub(r"`[^`]*`", "", line)
            assert not set(plain) & set("`*") and "<script" not in plain
    assert any("&#60;script&#62;" in row for row in rows) and "| `'é'` | 2 |" in rows


def test_no_path_of_this_machine_is_in_the_card(base, tmp_path):
    clf = classifier(base, checkpoint_dir=tmp_path / "runs", device="cpu", verbose=0)
    clf.fit(TEXTS, LABELS).save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "checkpoint_dir" not in text and "device" not in text
    assert "| `model` | `'base'` |" in text


def test_the_same_model_gives_the_same_card(clf, saved, tmp_path):
    clf.save_pretrained(tmp_path / "again")
    loaded = BertSentimentClassifier.from_pretrained(saved)
    loaded.save_pretrained(tmp_path / "loaded")
    cards = {(tmp_path / name / "README.md").read_bytes() for name in ("saved", "again", "loaded")}
    assert len(cards) == 1
    instance = clone(clf).set_params(random_state=np.random.RandomState(0)).fit(TEXTS, LABELS)
    assert "| `random_state` | `'RandomState'` |" in model_card(instance)


# scores -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (
            0.91,
            TypeError,
            "scores is a float, but a dict from the name of a metric to a number is expected. "
            'Pass for example scores={"accuracy": 0.91}.',
        ),
        (
            {1: 0.91},
            TypeError,
            "scores has the key 1, but the name of a metric is expected. Pass for example "
            'scores={"accuracy": 0.91}.',
        ),
        (
            {"f1": float("inf")},
            ValueError,
            "scores['f1'] is inf; every score must be a finite number. Correct or remove it.",
        ),
        (
            {"f1": "0.9"},
            ValueError,
            "scores['f1'] is '0.9'; every score must be a finite number. Correct or remove it.",
        ),
        (
            {"f1": True},
            ValueError,
            "scores['f1'] is True; every score must be a finite number. Correct or remove it.",
        ),
    ],
)
def test_wrong_scores(clf, tmp_path, scores, error, message):
    with pytest.raises(error, match=exactly(message)):
        clf.save_pretrained(tmp_path / "saved", scores=scores)
    assert not (tmp_path / "saved").exists()


# the numbers of texts -----------------------------------------------------------------------------


def sizes(clf):
    return clf.class_count_.tolist(), clf.n_training_texts_, clf.n_validation_texts_


def test_the_numbers_of_texts(tiny_bert, clf, saved):
    assert sizes(clf) == ([10, 10], 20, 0)
    weights = np.r_[np.zeros(3), np.ones(17)]
    weighted = classifier(tiny_bert).fit(TEXTS, LABELS, weights, X_val=TEXTS[:5], y_val=LABELS[:5])
    assert sizes(weighted) == ([9, 8], 17, 5)
    for kept in (
        BertSentimentClassifier.from_pretrained(saved),
        pickle.loads(pickle.dumps(clf)),
    ):
        assert sizes(kept) == sizes(clf)


def test_partial_fit_adds_its_texts(tiny_bert):
    clf = classifier(tiny_bert)
    clf.partial_fit(["good"], ["good"], classes=["bad", "good"])
    assert sizes(clf) == ([0, 1], 1, 0)
    clf.partial_fit(["bad", "good", "dull"], ["bad", "good", "bad"], sample_weight=[1, 1, 0])
    assert sizes(clf) == ([1, 2], 3, 0)


def test_a_published_classifier_has_no_texts_of_skbert(saved, tmp_path):
    published = tmp_path / "published"
    published.mkdir()
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(saved).save_pretrained(published)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved / name, published)
    clf = BertSentimentClassifier.from_pretrained(published)
    assert sizes(clf) == ([0, 0], 0, 0)
    clf.partial_fit(["good"], ["good"])
    assert sizes(clf) == ([0, 1], 1, 0)


def test_a_folder_of_an_older_skbert_does_not_know_the_numbers(saved):
    def forget(content):
        del content["settings"]["class_count"]
        del content["settings"]["numbers"]["n_training_texts"]
        del content["settings"]["numbers"]["n_validation_texts"]

    sign_again(saved, forget)
    clf = BertSentimentClassifier.from_pretrained(saved)
    assert not hasattr(clf, "class_count_") and not hasattr(clf, "n_training_texts_")
    assert "The number of training texts is unknown." in model_card(clf)
    clf.partial_fit(["good"], ["good"])
    assert not hasattr(clf, "class_count_")


@pytest.mark.parametrize("count", [[1], [1, -1], ["x", 1], [1e400, 1], 3, [None, 1]])
def test_numbers_that_skbert_cannot_have_saved(saved, count):
    sign_again(saved, lambda content: content["settings"].update(class_count=count))
    with pytest.raises(ValueError, match="The settings of the saved"):
        BertSentimentClassifier.from_pretrained(saved)


# edits --------------------------------------------------------------------------------------------


def test_saving_replaces_an_unedited_card(clf, saved):
    clf.save_pretrained(saved, scores={"accuracy": 0.5})
    assert "0.5" in read(saved).text
    (saved / "README.md").unlink()
    clf.save_pretrained(saved)
    assert is_unedited(saved)


EDITS = {
    "a word more": lambda text: text.replace("This model", "My model"),
    "at the end": lambda text: text + "\nMore words.\n",
    "without the last line": lambda text: text.rpartition("<!--")[0],
    "another card": lambda text: "# Mine\n",
    "empty": lambda text: "",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_card_is_neither_lost_nor_in_the_way(clf, saved, edit):
    path = saved / "README.md"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    message = (
        f"{str(saved)!r} contains a README.md that somebody wrote or edited, and save_pretrained "
        "would replace it. Move or delete it, or choose a new folder."
    )
    with pytest.raises(FileExistsError, match=exactly(message)):
        clf.save_pretrained(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before

    loaded = BertSentimentClassifier.from_pretrained(saved)
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    classifier(str(saved)).fit(TEXTS, LABELS)  # as a model, too


def test_a_folder_without_its_card_loads(clf, saved):
    (saved / "README.md").unlink()
    loaded = BertSentimentClassifier.from_pretrained(saved)
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))


def test_ends_of_line_are_no_edit(tmp_path):
    write_card(tmp_path, "# Title\n\nText")
    path = tmp_path / "README.md"
    assert is_unedited(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert is_unedited(tmp_path)
    path.write_bytes(path.read_bytes().rstrip())
    assert is_unedited(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"Text", b"text"))
    assert not is_unedited(tmp_path)


# the model below ----------------------------------------------------------------------------------


def card_of(front_matter, body="Words.\n"):
    return f"---\n{front_matter}\n---\n{body}"


CARDS = {
    "plain": (card_of("license: mit\nlanguage: de\nbase_model: a/b"), (("a/b",), "de", "mit")),
    "lists": (card_of("language:\n- en\nbase_model:\n- a/b\n- c/d"), (("a/b", "c/d"), "en", None)),
    "several languages": (card_of("language: [en, de]\nlicense: mit"), ((), None, "mit")),
    "no is no language": (card_of("language: no"), ((), None, None)),
    "after many results": (
        card_of("model-index:\n" + "- name: x\n  results: []\n" * 9 + "license: mit"),
        ((), None, "mit"),
    ),
    "ends of line": (
        card_of("license: mit\nlanguage: de").replace("\n", "\r\n"),
        ((), "de", "mit"),
    ),
    "no front matter": ("license: mit\n", ((), None, None)),
    "no end": ("---\nlicense: mit\n", ((), None, "mit")),
    "no YAML": (card_of("license: [mit"), ((), None, None)),
    "no text": ("\udcff", ((), None, None)),
    "other types": (card_of("license: {a: b}\nlanguage: 3\nbase_model: {a: b}"), ((), None, None)),
    "no names": (
        card_of("license: 'two words'\nlanguage: 'a|b'\nbase_model: '../../etc'"),
        ((), None, None),
    ),
    "markup": (card_of("license: '`x`|<b>'\nbase_model: '[x](y)'"), ((), None, None)),
    "nested": (card_of("license: " + "[" * 5000), ((), None, None)),
    "aliases": (card_of("license: &a mit\nlanguage: &b [*a, *a]"), ((), None, "mit")),
    "code": (card_of("license: !!python/object/apply:os.getcwd []"), ((), None, None)),
    "empty": ("", ((), None, None)),
}


@pytest.mark.parametrize(("text", "expected"), CARDS.values(), ids=CARDS)
def test_what_is_known_of_a_folder(tmp_path, text, expected):
    (tmp_path / "README.md").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = describe_base(tmp_path)
    assert (found.names, found.language, found.license.get("license")) == expected


def test_a_licence_with_a_name_and_a_link(base):
    front = "license: other\nlicense_name: my-terms\nlicense_link: https://example.com/terms"
    (base / "README.md").write_text(card_of(front), encoding="utf-8")
    card = ModelCard(model_card(classifier(str(base)).fit(TEXTS, LABELS)))
    assert card.data.license_name == "my-terms"
    assert "has the licence `my-terms` (https://example.com/terms)." in card.text


def test_the_card_of_skbert_passes_on_what_is_below(base, tmp_path):
    (base / "README.md").write_text(
        card_of("license: mit\nlanguage: de\nbase_model: owner/bert"), encoding="utf-8"
    )
    further = BertPretrainer(str(base), max_length=16, next_sentence=False).fit(TEXTS)
    further.save_pretrained(tmp_path / "further")
    classifier(str(tmp_path / "further")).fit(TEXTS, LABELS).save_pretrained(tmp_path / "saved")
    data = read(tmp_path / "saved").data
    assert (data.base_model, data.license, data.language) == ("owner/bert", "mit", "de")


def test_a_name_of_the_hub_with_its_card_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--owner--name"
    for branch, commit, licence in (("main", "0" * 40, "mit"), ("v1", "1" * 40, "cc0-1.0")):
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / branch).write_text(commit)
        save_bert(place / "snapshots" / commit)
        card = place / "snapshots" / commit / "README.md"
        card.write_text(card_of(f"license: {licence}\nbase_model: a/b"), encoding="utf-8")
    assert describe_base("owner/name").names == ("owner/name",)
    assert describe_base("owner/name").license == {"license": "mit"}
    assert describe_base("owner/name@v1").names == ("owner/name",)
    assert describe_base("owner/name@v1").license == {"license": "cc0-1.0"}
    assert describe_base("owner/other").license == {}


def test_only_the_wanted_lines_of_a_large_card_are_parsed(tmp_path):
    results = "".join(f"- name: {number}\n  results: [{{a: b}}]\n" for number in range(40_000))
    text = card_of(f"model-index:\n{results}license: mit")
    assert len(text) > 10**6
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    assert read_front_matter(path) == {"license": "mit"}
    assert read_front_matter(tmp_path / "none.md") == read_front_matter(None) == {}
