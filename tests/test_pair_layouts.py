"""Texts and pairs are laid out as the post-processor of the tokenizer says, or refused in words."""

import pickle
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.contract.lost_tokens import LostTokens
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.tokenizer_files import subword_tokenizer_of, vocabulary_of
from skbert.engine.text.masking import may_be_masked
from tests.conftest import WORDS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {piece: number for number, piece in enumerate([*SPECIAL, *WORDS])}
CLS, SEP, MASK = (VOCABULARY[piece] for piece in ("[CLS]", "[SEP]", "[MASK]"))
SEPARATORS = [("[CLS]", CLS), ("[SEP]", SEP), ("[MASK]", MASK)]


def template(single, pair=None):
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=SEPARATORS)


BERT = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
ROBERTA = processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS))
DOUBLE = {
    "id": "[SEP]",
    "ids": [SEP, MASK],
    "tokens": ["[SEP]", "[MASK]"],
}
LAYOUTS = {
    "bert": BERT,
    "bert template": template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ROBERTA,
    "roberta template": template("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
    "bytes and roberta": processors.Sequence([processors.ByteLevel(), ROBERTA]),
    "other segments": template("[CLS]:2 $A:1 [SEP]:0", "[CLS]:1 $A:2 [SEP]:0 $B:1 [SEP]:2"),
    "second text first": template("[CLS] $A [SEP]", "$B:1 [SEP]:1 [CLS] $A"),
    "only at the end": template("$A [SEP]", "$A [SEP] $B [SEP]"),
    "many": template(
        "[CLS] [MASK] $A [SEP] [SEP]", "[CLS] [CLS] [MASK] $A [SEP] $B:1 [MASK] [CLS]"
    ),
    "a special token of two ids": processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[DOUBLE]
    ),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)

FIRST = ["a good film", "", "good", "so very very bad it was", "not [SEP] dull", "a b [MASK] c", ""]
SECOND = ["bad", "a great joy", "", "i hate my best app ever", "[CLS] fun", "the the the", ""]


def tokenizer_of(post_processor):
    backend = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(SPECIAL)
    if post_processor is not None:
        backend.post_processor = post_processor
    names = {f"{piece[1:-1].lower()}_token": piece for piece in SPECIAL}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]  # BERT's
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)


def save(folder, post_processor, **sizes):
    """Save a BERT with both heads and a tokenizer with this post-processor."""
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "type_vocab_size": 3,
        "initializer_range": 0.5,
        "vocab_size": len(VOCABULARY),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForPreTraining(BertConfig(**settings | sizes)).eval()
    model.save_pretrained(folder)
    tokenizer_of(post_processor).save_pretrained(folder)
    return model


def rows_of(tokens, array):
    ends = zip(tokens.offsets, tokens.offsets[1:], strict=False)
    return [array[start:stop].tolist() for start, stop in ends]


# like the tokenizer's own -------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("pairs", [False, True])
def test_ids_and_segments_are_those_of_transformers(layout, pairs):
    tokenizer = tokenizer_of(LAYOUTS[layout])
    subword_tokenizer = subword_tokenizer_of(tokenizer)
    texts = [FIRST, SECOND] if pairs else [FIRST]
    n_special = subword_tokenizer.layout.n_special(len(texts))
    for max_length in [*range(n_special + 1, n_special + 9), 99]:
        ours = subword_tokenizer(*texts, max_length=max_length, truncation="head")
        theirs = tokenizer(
            *texts, truncation="longest_first", max_length=max_length, return_token_type_ids=True
        )
        assert rows_of(ours, ours.ids) == theirs["input_ids"]
        assert rows_of(ours, ours.segment_ids) == theirs["token_type_ids"]
        whole = tokenizer(*texts)["input_ids"]
        n_lost = [len(a) - len(b) for a, b in zip(whole, theirs["input_ids"], strict=True)]
        assert ours.n_lost.tolist() == n_lost
        assert set(np.add.reduceat(ours.is_special, ours.offsets[:-1], dtype=int)) == {n_special}


@every_layout
@pytest.mark.parametrize("pairs", [False, True])
def test_vectors_are_those_of_transformers(layout, pairs, tmp_path):
    model = save(tmp_path, LAYOUTS[layout])
    tokenizer = tokenizer_of(LAYOUTS[layout])
    X = list(zip(FIRST, SECOND, strict=True)) if pairs else FIRST
    embedder = BertEmbeddingTransformer(str(tmp_path), max_length=24)
    with pytest.warns(UserWarning, match="longer than max_length=24 tokens"):
        long = ("good " * 20, "bad " * 9) if pairs else "fun " * 30
        ours = embedder.token_embeddings([*X, long])
    for text, vectors in zip(X, ours[:-1], strict=True):
        columns = [[part] for part in (text if pairs else [text])]  # "" alone would be no text
        inputs = tokenizer(*columns, return_tensors="pt", return_token_type_ids=True)
        with torch.no_grad():
            expected = model.bert(**inputs).last_hidden_state[0].numpy()
        assert vectors.tokens == tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        np.testing.assert_allclose(vectors.vectors, expected, rtol=0, atol=2e-5)
    assert len(ours[-1].tokens) == 24


def test_a_pair_of_roberta_by_hand():
    tokens = subword_tokenizer_of(tokenizer_of(ROBERTA))(
        ["a good film", "so"], ["bad [SEP]", ""], max_length=9, truncation=("tail", "head")
    )
    words = [VOCABULARY[word] for word in ("a", "good", "film", "bad")]
    assert rows_of(tokens, tokens.ids) == [
        [CLS, *words[:3], SEP, SEP, words[3], SEP, SEP],
        [CLS, VOCABULARY["[UNK]"], SEP, SEP, SEP],
    ]
    assert not tokens.segment_ids.any()
    special = [[1, 0, 0, 0, 1, 1, 0, 0, 1], [1, 0, 1, 1, 1]]  # one [SEP] is a word of the text
    assert rows_of(tokens, tokens.is_special.astype(int)) == special
    cut = subword_tokenizer_of(tokenizer_of(ROBERTA))(
        ["a good film"], ["bad"], max_length=7, truncation=("tail", "head")
    )
    assert cut.ids.tolist() == [CLS, words[1], words[2], SEP, SEP, words[3], SEP]
    assert cut.n_lost.tolist() == [1]


# masks, unknown words, training -------------------------------------------------------------------


@every_layout
def test_special_tokens_are_neither_masked_nor_words(layout):
    tokenizer = tokenizer_of(LAYOUTS[layout])
    subword_tokenizer = subword_tokenizer_of(tokenizer)
    tokens = subword_tokenizer(
        ["good film", ""], ["so bad", "joy"], max_length=32, truncation="head"
    )
    allowed = may_be_masked(tokens, vocabulary_of(tokenizer))
    assert sorted(tokens.ids[allowed]) == sorted(
        VOCABULARY[w] for w in ("good", "film", "bad", "joy")
    )
    counts = LostTokens.of(tokens, subword_tokenizer)
    assert (counts.n_unknown, counts.n_kept - counts.n_special) == (1, 5)


def test_a_mask_that_the_tokenizer_adds_is_not_filled(tmp_path):
    save(tmp_path, LAYOUTS["many"])
    pretrainer = BertPretrainer.from_pretrained(tmp_path)
    filled = pretrainer.fill_mask(["a [MASK] film", "[MASK]"], top_k=2)
    assert [len(text.words) for text in filled] == [1, 1]
    message = (
        "Text 0 has 0 '[MASK]', of which 0 are within max_length=32; at least 1 is required, and "
        "all must be within it. Write '[MASK]' for each word to predict, or increase max_length."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pretrainer.fill_mask("a film")


@every_layout
def test_next_sentences_are_laid_out_so_too(layout, tmp_path):
    save(tmp_path, LAYOUTS[layout])
    single, pair = (
        load_pretrained(str(tmp_path)).subword_tokenizer.layout.n_special(n) for n in (1, 2)
    )
    documents = [["good", "bad film"], ["a joy", "fun"], ["boring"]] * 2
    settings = {"max_length": 16, "random_state": 0, "dropout": 0.0}
    pretrainer = BertPretrainer(str(tmp_path), **settings).fit(documents)
    assert pretrainer.history_[0]["n_tokens"] == 4 * (pair + 3) + 2 * (single + 1)
    module, tokenizer = pretrainer.model_.eval(), tokenizer_of(LAYOUTS[layout])
    for text in [("good", "bad film"), ("", "joy")]:
        inputs = tokenizer(*text, return_tensors="pt", return_token_type_ids=True)
        with torch.no_grad():
            logits = module(**inputs).seq_relationship_logits
        (probability,) = pretrainer.predict_next_sentence([text])
        assert probability == pytest.approx(logits.softmax(1)[0, 0].item(), abs=1e-5)


@pytest.mark.parametrize("layout", ["roberta", "other segments", "second text first"])
def test_a_classifier_of_pairs_is_the_same_after_saving(layout, tmp_path):
    save(tmp_path / "bert", LAYOUTS[layout])
    X = [(f"good {word}", f"bad {word}") for word in WORDS[:10]]
    settings = {"max_length": 12, "max_epochs": 1, "batch_size": 4, "random_state": 0}
    clf = BertSentimentClassifier(str(tmp_path / "bert"), **settings, pooling="cls")
    expected = clf.fit(X, ["a", "b"] * 5).predict_proba(X)
    clf.save_pretrained(tmp_path / "saved")
    for again in (
        BertSentimentClassifier.from_pretrained(tmp_path / "saved"),
        pickle.loads(pickle.dumps(clf)),
    ):
        assert np.array_equal(again.predict_proba(X), expected)


def test_pairs_need_no_segments_if_the_tokenizer_gives_none(tmp_path):
    model = save(tmp_path, ROBERTA, type_vocab_size=1)
    (ours,) = BertEmbeddingTransformer(str(tmp_path), max_length=12).token_embeddings(
        [("good film", "bad")]
    )
    inputs = tokenizer_of(ROBERTA)("good film", "bad", return_tensors="pt")
    with torch.no_grad():
        expected = model.bert(**inputs).last_hidden_state[0].numpy()
    np.testing.assert_allclose(ours.vectors, expected, rtol=0, atol=2e-5)
    documents = [["good", "bad film"], ["a joy", "fun"]]
    assert BertPretrainer(str(tmp_path), max_length=16).fit(documents).n_epochs_ == 1


# refused ------------------------------------------------------------------------------------------

PAIR = [("good film", "bad")]
ADVICE = (
    "Set a post-processor that adds some, such as tokenizers.processors.BertProcessing, and save"
)


def embed(folder, X, **settings):
    return BertEmbeddingTransformer(str(folder), **({"max_length": 12} | settings)).transform(X)


@pytest.mark.parametrize(
    ("post_processor", "X", "sizes", "message"),
    [
        (
            template("[CLS] $A [SEP]"),
            PAIR,
            {},
            "The tokenizer adds no special tokens to pairs of texts, but skbert needs at least "
            f"one, because an empty text would have no token. {ADVICE} the tokenizer again.",
        ),
        (
            template("[CLS] $A $A [SEP]"),
            ["good"],
            {},
            "The post-processor of the tokenizer lays out single texts as 'special A A special', "
            "but each text (A) must occur exactly once. Correct the post_processor in "
            "tokenizer.json, or use another model.",
        ),
        (
            template("[CLS] $A [SEP]", "[CLS] $A $B $A [SEP]"),
            PAIR,
            {},
            "The post-processor of the tokenizer lays out pairs of texts as 'special A B A "
            "special', but each text (A and B) must occur exactly once. Correct the post_processor "
            "in tokenizer.json, or use another model.",
        ),
        (
            template("[CLS]"),
            ["good"],
            {},
            "The post-processor of the tokenizer lays out single texts as 'special', but each text "
            "(A) must occur exactly once. Correct the post_processor in tokenizer.json, or use "
            "another model.",
        ),
        (
            template("[CLS]:2 $A [SEP]"),
            ["good"],
            {"type_vocab_size": 2},
            "The model has type_vocab_size=2, but single texts need 3 segments. Choose a model "
            "with segments, or the tokenizer files that belong to the model.",
        ),
        (
            BERT,
            PAIR,
            {"type_vocab_size": 1},
            "The model has type_vocab_size=1, but pairs of texts need 2 segments. Choose a model "
            "with segments, or join the two texts of each pair.",
        ),
    ],
)
def test_layouts_that_cannot_be_packed(post_processor, X, sizes, message, tmp_path):
    save(tmp_path, post_processor, **sizes)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        embed(tmp_path, X)
    if X is PAIR:
        assert embed(tmp_path, ["good"]).shape == (1, 16)


@pytest.mark.parametrize("post_processor", [None, processors.ByteLevel(), template("$A")])
def test_a_tokenizer_without_special_tokens(post_processor, tmp_path):
    save(tmp_path, post_processor)
    message = (
        f"The tokenizer of {str(tmp_path)!r} adds no special tokens to texts, but BERT needs them, "
        "for example [CLS] and [SEP]. Set tokenizer.backend_tokenizer.post_processor, for example "
        "to a tokenizers.processors.BertProcessing, and save the tokenizer again."
    )
    for X in (["good"], PAIR):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            embed(tmp_path, X)


def test_a_special_token_without_an_embedding(tmp_path):
    n_words = len(VOCABULARY)
    save(
        tmp_path,
        processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", n_words)]
        ),
    )
    message = (
        f"The tokenizer of {str(tmp_path)!r} has ids up to {n_words}, but the model has only "
        f"{n_words} word embeddings. Use the tokenizer files that belong to the weights."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        embed(tmp_path, ["good"])


@pytest.mark.parametrize(
    ("layout", "n_special", "pairs"),
    [("bert", 3, True), ("roberta", 4, True), ("many", 4, False), ("many", 6, True)],
)
def test_special_tokens_that_leave_no_room(layout, n_special, pairs, tmp_path):
    save(tmp_path, LAYOUTS[layout])
    X, kind = (PAIR, "pairs of texts") if pairs else (["good film"], "single texts")
    message = (
        f"max_length=3, but the tokenizer of the model adds {n_special} special tokens to {kind}; "
        f"max_length must be at least {n_special + 1}, so that tokens of the texts are left. Raise "
        "max_length."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        embed(tmp_path, X, max_length=3)
    with pytest.warns(UserWarning, match=f"longer than max_length={n_special + 1} tokens"):
        assert embed(tmp_path, X, max_length=n_special + 1).shape == (1, 16)


def test_a_pretrainer_needs_a_token_of_each_sentence(tmp_path):
    save(tmp_path, ROBERTA)
    documents = [["good", "bad film"], ["a joy", "fun"]]
    message = (
        "max_length=5, but the tokenizer of the model adds 4 special tokens to pairs of texts; "
        "max_length must be at least 6, so that tokens of the texts are left. Raise max_length."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BertPretrainer(str(tmp_path), max_length=5).fit(documents)
    assert BertPretrainer(str(tmp_path), max_length=6).fit(documents).n_epochs_ == 1
    alone = BertPretrainer(str(tmp_path), max_length=5, next_sentence=False).fit(documents)
    assert alone.n_epochs_ == 1
