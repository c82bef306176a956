"""An emoji that the vocabulary lacks is read as its name, and nothing else changes."""

import pickle

import joblib
import numpy as np
import pytest
from conftest import DEFAULT_MODEL
from sklearn.base import clone
from transformers import BertConfig

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.text.emoji_names import emoji_replacements
from skbert.engine.text.replacements import replace_all

LOVE, HATE = "the new update 😍", "the new update 😡"
TEXTS = [LOVE, HATE] * 4
LABELS = [1, 0] * 4
QUICK = {"pooling": "cls", "max_epochs": 1, "max_length": 16, "random_state": 0}

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def subword_tokenizer(real_weights):
    return load_pretrained(DEFAULT_MODEL).subword_tokenizer


def tokens_of(text, subword_tokenizer):
    ids = subword_tokenizer([text], max_length=64, truncation="head").ids
    return load_pretrained(DEFAULT_MODEL).tokenizer.convert_ids_to_tokens(ids.tolist())[1:-1]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("good 😡", ["good", "enraged", "face"]),
        ("good😡!", ["good", "enraged", "face", "!"]),
        ("😡😡", ["enraged", "face", "enraged", "face"]),
        ("ok ☺️", ["ok", "smiling", "face"]),  # with a variation selector
        ("👍🏽", ["thumbs", "up"]),  # with a skin tone
        ("🏽", ["medium", "skin", "tone"]),
        ("😶‍🌫️", ["face", "in", "clouds"]),  # two emoji and a joiner
        ("🇯🇵", ["japan"]),  # two letters
        ("1️⃣ 1", ["key", "##cap", "1", "1"]),
        ("a ♥ ©", ["a", "♥", "©"]),  # in the vocabulary
        ("\ud83d 😡", ["enraged", "face"]),  # after half of an emoji
        ("สวัสดี", ["[UNK]"]),  # no emoji
    ],
)
def test_what_is_read(subword_tokenizer, text, tokens):
    assert tokens_of(text, subword_tokenizer) == tokens


def test_switched_off_it_is_unknown(subword_tokenizer):
    assert tokens_of("good😡 👍", subword_tokenizer.naming_emoji(False)) == ["[UNK]", "[UNK]"]
    assert subword_tokenizer.naming_emoji(True) is subword_tokenizer


def test_texts_without_emoji_have_the_ids_of_transformers(subword_tokenizer):
    texts = ["plain", "café — “quoted”…", "日本語 テスト", "naïve ½ № ①", "a_b :smile: ;-)", "ﬁn"]
    expected = load_pretrained(DEFAULT_MODEL).tokenizer(texts)["input_ids"]
    assert [
        subword_tokenizer([t], max_length=64, truncation="head").ids.tolist() for t in texts
    ] == [ids[:64] for ids in expected]


def with_names(text, is_known):
    return replace_all(text, emoji_replacements(text, is_known))


def test_a_name_that_the_vocabulary_cannot_spell_is_no_help():
    assert with_names("好😡", lambda text: text == "好") == "好😡"
    assert with_names("😡", lambda text: text != "😡") == " enraged face "


def vectors_of_transformer(**parameters):
    return BertEmbeddingTransformer(DEFAULT_MODEL, **parameters).fit_transform(TEXTS)


def vectors_of_classifier(**parameters):
    clf = BertSentimentClassifier(DEFAULT_MODEL, **QUICK, **parameters).fit(TEXTS, LABELS)
    return clf.predict_proba(TEXTS)


def vectors_of_pretrainer(**parameters):
    config = {"max_epochs": 0, "next_sentence": False} | parameters
    return BertPretrainer(DEFAULT_MODEL, **config).fit(TEXTS).transform(TEXTS)


@pytest.mark.parametrize(
    "vectors_of", [vectors_of_transformer, vectors_of_classifier, vectors_of_pretrainer]
)
def test_all_estimators_tell_love_from_hate(real_weights, vectors_of):
    love, hate = vectors_of()[:2]
    assert np.abs(love - hate).max() > 0.01
    love, hate = vectors_of(emoji_names=False)[:2]
    np.testing.assert_array_equal(love, hate)


@pytest.mark.parametrize("emoji_names", [True, False])
def test_saved_classifiers_read_emoji_as_before(real_weights, tmp_path, emoji_names):
    clf = BertSentimentClassifier(DEFAULT_MODEL, **QUICK, emoji_names=emoji_names)
    expected = clf.fit(TEXTS, LABELS).predict_proba(TEXTS)
    assert clone(clf).emoji_names == emoji_names
    clf.save_pretrained(tmp_path / "folder")
    joblib.dump(clf, tmp_path / "file")
    for loaded in (
        BertSentimentClassifier.from_pretrained(tmp_path / "folder"),
        joblib.load(tmp_path / "file"),
    ):
        assert loaded.emoji_names == emoji_names
        np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected, atol=1e-6)


def test_estimators_from_before_the_parameter_keep_unknown_emoji(tiny_bert, tmp_path):
    for estimator in (BertSentimentClassifier(), BertEmbeddingTransformer(), BertPretrainer()):
        state = estimator.__getstate__()
        del state["emoji_names"]
        old = object.__new__(type(estimator))
        old.__setstate__(state)
        assert old.emoji_names is False
        assert pickle.loads(pickle.dumps(estimator)).emoji_names is True


def test_a_vocabulary_learned_from_texts_contains_their_emoji(tmp_path):
    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    pretrainer = BertPretrainer(config, next_sentence=False, max_epochs=1, random_state=0)
    pretrainer.fit(TEXTS * 4)
    assert "😍" in pretrainer.tokenizer_.tokenize(LOVE)
    assert tokens_of_fitted(pretrainer, LOVE)[-1] == "😍"


def tokens_of_fitted(pretrainer, text):
    ids = pretrainer._subword_tokenizer([text], max_length=64, truncation="head").ids
    return pretrainer.tokenizer_.convert_ids_to_tokens(ids.tolist())[1:-1]
