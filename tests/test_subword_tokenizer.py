"""Ids of texts: worked examples, and exactly the ids of transformers for arbitrary texts."""
# ruff: noqa: RUF001, E501 - the awkward characters are the point

import json
import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import skbert.engine.text.subword_tokenizer as tokenizer_module
from skbert import BertSentimentClassifier
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.tokenizer_files import subword_tokenizer_of
from skbert.engine.text.subword_tokenizer import SubwordTokenizer

LONG = 10**6  # tokens; nothing is cut
TRICKY = [
    "",
    " ",
    " \t\n\r ",
    "a good film",
    "A  GOOD\tFILM\n",
    " leading and trailing ",
    "good-film, isn't it?!...",
    "naïve café Ärger ŒUVRE ǅ İstanbul ß ﬁlm",
    "e\u0301 e \u0301 \u0301e film \u0300\u0301good",  # combining marks, also after spaces
    "\u0344 \u1e9b\u0323 \u212b",  # decompose into several characters
    "good\u00a0film\u2009fun\u3000joy\u202fbad\u205fdull\u1680hate",  # spaces of all sorts
    "good\u2028film\u2029fun",  # line and paragraph separators
    "good\x0bfilm good\x0cfilm good\x1cfilm good\x1dfilm good\x1efilm good\x1ffilm",
    "good\x85film good\x85 film good \x85 film",
    "good\x00film \x00 \x00good\x00",
    "good\u200bfilm good\u200dfilm good\ufefffilm good\u00adfilm good\u180efilm",
    "\ufffd good \ufffdfilm\ufffd",
    "好电影 good电影film 映画はとても良い 영화 좋아요",
    "\U00020000\u2f00\u31c0 豈更",  # rare and compatibility ideographs
    "ภาพยนตร์ดี फ़िल्म अच्छी فيلم جيد סרט טוב",
    "👍 good👍film 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 1️⃣ ☹️",
    "½ Ⅷ ① ² ﷺ ⁉ ™ 𝔤𝔬𝔬𝔡",
    "[SEP]",
    "a film [SEP] good [MASK] [CLS] [PAD] [UNK]",
    "good[SEP]film[MASK]fun [MASK]ing un[MASK]able",
    "[sep] [Mask] [ SEP ] [SEP[SEP]] [MASK][MASK]",
    "[SEP]\u00a0[MASK]\x85[CLS]\u0301 \u0301[SEP]",
    "##good ##s # # ## good##film",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "x" * 300,
    "好" * 300,
    "a" * 64 + " " + "a" * 65 + " " + "a" * 64 + " " + "a" * 65,
    "!" * 300,
    "https://example.org/a?b=c&d=%20#e someone@example.org",
    "1,234.56 $9.99 50% 3/4 2001-01-01T00:00",
    "ﬀﬁﬂ ſt ŉ K Å",
    "\u0130\u0131 ΑΣ ας",
    "a\u0338b \u0338 a \u20e3",
    "tail spaces \u2003\u2003",
    "good " * 50 + "film",
    "\x7f \x80 \x9f \u2060 \U000e0001 \ue000 \U0010ffff",
    "\r\ngood\r\nfilm\r\n",
]
#: Characters that one of the stages treats in a way of its own.
ODD = "aAéß \t\n\r\x00\x0b\x1c\x1f\x85\u00a0\u00ad\u0301\u0338\u200b\u200d\u2028\u3000\ufffd字가👍.,#'["
FRAGMENTS = ["[SEP]", "[MASK]", "[PAD]", "##", "good", "film", "é", " \u0301", "\x85", "字", " "]


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=pytest.mark.weights)])
def pretrained(request):
    name = {"tiny": "tiny_bert", "real": "real_weights"}[request.param]
    return load_pretrained(request.getfixturevalue(name)).naming_emoji(False)


@pytest.fixture(scope="module")
def reference(pretrained):
    """Ids of one text by a tokenizer of transformers, without truncation and padding."""
    tokenizer = AutoTokenizer.from_pretrained(pretrained.tokenizer.name_or_path)
    tokenizer.model_max_length = LONG  # no log line about long texts
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()

    def ids(text, pair=None):
        encoded = tokenizer(text, pair, add_special_tokens=True, truncation=False, padding=False)
        return encoded["input_ids"]

    return ids


def texts_of(found):
    """Compute the ids of each text, as a list."""
    return [ids.tolist() for ids in np.split(found.ids, found.offsets[1:-1])]


def ids_of(subword_tokenizer, *texts, max_length=LONG, truncation="head"):
    return texts_of(subword_tokenizer(texts, max_length=max_length, truncation=truncation))


@pytest.fixture
def words(tiny_bert):
    """The tiny vocabulary, and the pieces of each text by name."""
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    vocabulary = (Path(tiny_bert) / "vocab.txt").read_text(encoding="utf-8").split("\n")

    def pieces(*texts, max_length=LONG, truncation="head"):
        found = ids_of(subword_tokenizer, *texts, max_length=max_length, truncation=truncation)
        return [" ".join(vocabulary[i] for i in ids) for ids in found]

    return pieces


def test_layout_by_hand(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    found = subword_tokenizer(["a film", "", "very good film"], max_length=64, truncation="head")
    assert found.offsets.tolist() == [0, 4, 6, 11]
    assert found.lengths.tolist() == [4, 2, 5]
    assert found.segment_ids.tolist() == [0] * 11
    assert (len(found), found.n_truncated, found.n_lost.tolist()) == (3, 0, [0, 0, 0])
    assert [found.ids.dtype, found.segment_ids.dtype] == [np.int32] * 2
    assert [found.offsets.dtype, found.n_lost.dtype] == [np.int64] * 2


def test_pairs_by_hand(tiny_bert, words):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    found = subword_tokenizer(
        ["a film", ""], ["good", "bad film"], max_length=64, truncation="head"
    )
    expected = words("a film [SEP] good", "[SEP] bad film")  # the text "[SEP]" is that token
    assert texts_of(found) == ids_of(subword_tokenizer, "a film [SEP] good", "[SEP] bad film")
    assert expected == ["[CLS] a film [SEP] good [SEP]", "[CLS] [SEP] bad film [SEP]"]
    assert found.segment_ids.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1]


def test_take_by_hand(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    found = subword_tokenizer(["a film", "", "very very good"], max_length=4, truncation="tail")
    taken = found.take(np.array([2, 0, 2]))
    a_film, _, very_good = texts_of(found)
    assert texts_of(taken) == [very_good, a_film, very_good]
    assert taken.n_lost.tolist() == [1, 0, 1]
    assert found.take(np.array([], dtype=np.int64)).offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("truncation", "shortest", "longer"),
    [
        ("head", "[CLS] a [SEP]", "[CLS] a very good film but [SEP]"),
        ("tail", "[CLS] boring [SEP]", "[CLS] good film but very boring [SEP]"),
        ("head+tail", "[CLS] boring [SEP]", "[CLS] a film but very boring [SEP]"),
    ],
)
def test_cut_texts_by_hand(words, truncation, shortest, longer):
    text = "a very good film but very boring"
    assert words(text, max_length=3, truncation=truncation) == [shortest]
    assert words(text, max_length=7, truncation=truncation) == [longer]


def test_counts_by_hand(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    texts = ["a film", "a good film", "a very very good film", ""]
    found = subword_tokenizer(texts, max_length=5, truncation="head")
    assert (found.n_truncated, found.n_lost.tolist()) == (1, [0, 0, 2, 0])
    found = subword_tokenizer(texts, max_length=3, truncation="head+tail")
    assert (found.n_truncated, found.n_lost.tolist()) == (3, [1, 2, 4, 0])


@pytest.mark.parametrize("text", TRICKY, ids=ascii)
def test_ids_are_those_of_transformers(pretrained, reference, text):
    assert ids_of(pretrained.subword_tokenizer, text) == [reference(text)]


def test_all_together_and_from_the_memo(pretrained, reference):
    subword_tokenizer = subword_tokenizer_of(pretrained.tokenizer).naming_emoji(False)
    expected = [reference(text) for text in TRICKY]
    assert ids_of(subword_tokenizer, *TRICKY) == expected
    assert ids_of(subword_tokenizer, *TRICKY) == expected
    assert ids_of(subword_tokenizer, *reversed(TRICKY)) == expected[::-1]


@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.text(ODD, max_size=40),
        st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=2))).map("".join),
    )
)
def test_ids_of_any_text_are_those_of_transformers(pretrained, reference, text):
    assert ids_of(pretrained.subword_tokenizer, text) == [reference(text)]


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("\ud800", "\ufffd"),
        ("good \udc00 film", "good \ufffd film"),
        ("good\udfff film", "good\ufffd film"),
        ("a\ud83d\ude00b", "a😀b"),  # two halves of one character
        ("\ude00\ud83d \ud83d \ude00", "\ufffd\ufffd \ufffd \ufffd"),
    ],
    ids=ascii,
)
def test_lone_surrogates_are_read_as_the_replacement_character(
    pretrained, reference, text, read_as
):
    assert ids_of(pretrained.subword_tokenizer, text, text) == [reference(read_as)] * 2


def test_the_memo_is_emptied_when_it_is_full(pretrained, reference, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_MEMO_SIZE", 3)
    subword_tokenizer = subword_tokenizer_of(pretrained.tokenizer).naming_emoji(False)
    assert ids_of(subword_tokenizer, *TRICKY, *TRICKY) == [reference(text) for text in TRICKY] * 2
    assert len(subword_tokenizer._memo) <= 3


def test_words_that_hardly_recur_are_not_remembered(tiny_bert):
    subword_tokenizer = subword_tokenizer_of(load_pretrained(tiny_bert).tokenizer)
    ids_of(subword_tokenizer, "a " + "b" * 64 + " " + "c" * 65)
    assert set(subword_tokenizer._memo) == {"a", "b" * 64}


def test_threads_may_share_it(pretrained, reference, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_MEMO_SIZE", 20)
    subword_tokenizer = subword_tokenizer_of(pretrained.tokenizer).naming_emoji(False)
    expected = [reference(text) for text in TRICKY]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: ids_of(subword_tokenizer, *TRICKY), range(12)):
            assert found == expected


@pytest.mark.weights
def test_the_saved_padding_and_truncation_of_all_minilm_are_not_used(real_weights):
    pretrained = load_pretrained(real_weights)
    saved = json.loads(
        (Path(pretrained.tokenizer.name_or_path) / "tokenizer.json").read_text(encoding="utf-8")
    )
    assert saved["padding"]["strategy"] == {"Fixed": 128}  # the file does contain padding
    assert saved["truncation"]["max_length"] == 128
    found = pretrained.subword_tokenizer(
        ["a film", "good " * 300], max_length=LONG, truncation="head"
    )
    assert found.lengths.tolist() == [4, 302]
    assert texts_of(found)[0] == [101, 1037, 2143, 102]


def test_a_backend_with_padding_and_truncation(tiny_bert):
    tokenizer = load_pretrained(tiny_bert).new_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.backend_tokenizer.enable_truncation(max_length=5)
    found = ids_of(subword_tokenizer_of(tokenizer), "a film", "good " * 9)
    assert [len(ids) for ids in found] == [4, 11]


@pytest.mark.parametrize(
    "model", ["tiny_bert", pytest.param("real_weights", marks=pytest.mark.weights)]
)
def test_what_the_user_does_with_the_tokenizer_changes_nothing(request, model):
    model = request.getfixturevalue(model)
    texts = ["a good film", "so dull", "very very " * 5 + "bad", ""] * 2
    clf = BertSentimentClassifier(model, max_length=64, max_epochs=1, random_state=0)
    before = clf.fit(texts, ["good", "bad"] * 4).predict_proba(texts)
    clf.tokenizer_(texts, truncation=True, padding="max_length", max_length=4)
    np.testing.assert_array_equal(clf.predict_proba(texts), before)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(texts), before)
    np.testing.assert_array_equal(clf.fit(texts, ["good", "bad"] * 4).predict_proba(texts), before)


def byte_pair_tokenizer():
    """A tokenizer whose words depend on the spaces around them."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a good film a good film", "so dull so bad"] * 20, trainer)
    return backend


def test_another_kind_of_tokenizer_is_given_whole_texts():
    backend = byte_pair_tokenizer()
    subword_tokenizer = SubwordTokenizer(backend.to_str(), "[CLS]", "[SEP]")
    for text in [text for text in TRICKY if text] + ["a good  film"]:
        expected = [2, *backend.encode(text, add_special_tokens=False).ids, 3]
        assert ids_of(subword_tokenizer, text, text) == [expected] * 2
    # word by word, the ids would differ
    glued = [i for word in ("good", "film") for i in backend.encode(word).ids]
    assert ids_of(subword_tokenizer, "good film") != [[2, *glued, 3]]


def test_a_vocabulary_with_a_token_across_a_space(tiny_bert):
    backend = tokenizers.Tokenizer.from_file(str(Path(tiny_bert) / "tokenizer.json"))
    backend.add_tokens(["good film"])
    subword_tokenizer = SubwordTokenizer(backend.to_str(), "[CLS]", "[SEP]")
    expected = backend.encode("a good film").ids
    assert len(expected) == 4
    assert ids_of(subword_tokenizer, "a good film") == [expected]


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]"])
def test_a_vocabulary_without_special_tokens_is_refused(missing):
    vocabulary = {"a": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    del vocabulary[missing]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    message = (
        f"The vocabulary of the tokenizer does not contain '{missing}', but BERT needs its special "
        "tokens. Use the tokenizer files that belong to the model."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SubwordTokenizer(backend.to_str(), "[CLS]", "[SEP]")


def test_pickling_keeps_the_ids_and_not_the_memo(pretrained, reference):
    subword_tokenizer = subword_tokenizer_of(pretrained.tokenizer).naming_emoji(False)
    ids_of(subword_tokenizer, *TRICKY)
    copy = pickle.loads(pickle.dumps(subword_tokenizer))
    assert (len(subword_tokenizer._memo) > 0, len(copy._memo)) == (True, 0)
    assert ids_of(copy, *TRICKY) == [reference(text) for text in TRICKY]


def test_no_texts(tiny_bert):
    found = load_pretrained(tiny_bert).subword_tokenizer([], max_length=9, truncation="head")
    assert (len(found), found.ids.tolist(), found.offsets.tolist()) == (0, [], [0])


def test_nothing_is_said_about_long_texts(tiny_bert, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids_of(load_pretrained(tiny_bert).subword_tokenizer, "good " * 2000, max_length=9)
    assert capfd.readouterr() == ("", "")
