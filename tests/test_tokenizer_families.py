"""Tokenizers of all families: ids, segments and special tokens are those of transformers."""
# ruff: noqa: RUF001 - the awkward characters are the point

import json
import pickle
import re
import shutil
import warnings

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from skbert import BertEmbeddingTransformer
from skbert.contract.lost_tokens import LostTokens
from skbert.engine.files.contents import HUB_PATTERNS, advice_for_folder, missing_files
from skbert.engine.files.tokenizer_files import (
    SENTENCEPIECE_FILES,
    TOKENIZER_FILES,
    fill_masks,
    pack_tokenizer,
    read_tokenizer,
    subword_tokenizer_of,
    unpack_tokenizer,
    vocabulary_of,
)
from skbert.engine.model.families import FAMILIES, new_config
from skbert.engine.text.masking import NOT_MASKED, mask_tokens
from skbert.engine.text.subword_tokenizer import readable
from tests.test_subword_tokenizer import TRICKY

WORDS = "the film was so good bad not great café naïve über straße".split()
LETTERS = sorted({*"abcdefghijklmnopqrstuvwxyzäéüß0123456789.,!?'’-", "好", "电", "影", "片", "👍"})
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÉÜ"
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>"]

TEXTS = [
    *TRICKY,
    "<s> the film </s> was <mask> <pad> <unk>",
    "good<mask>film <mask>\n<mask>  <mask>\u00a0<mask>good \t<mask>",
    "<s>NOTUSED </s>NOTUSED <S> <Mask> < mask > <<s>>",
    "\u2581good \u2581 \u2581\u2581film good\u2581film",
    "\u0120good \u0120 \u010a\u0120 good\u0120film",
    "  the   film\t\twas\r\n\r\ngood \u00a0 bad\u3000great  ",
    "\u202ethe\u202c \u200fسيئ\u200e جدًا \u05d8\u05d5\u05d1",
    "``good'' film ''bad``",
    "ﬁlm ① ½ ｆｉｌｍ ㎏ Ⅷ ﷺ",
    "the film \ud83d was \udc4d good",  # lone surrogates
    "🏳️‍🌈👩🏽‍🚀👍🏿 👍👍 good👍",
    "\u0301the \u0301 film\u0301\u0301 \u0300<mask>\u0301",
    "the" * 400,
    "的" * 50 + "好" * 50,
]


# tokenizers of the families -----------------------------------------------------------------------


def subword_tokenizer(special, letters=LETTERS):
    pieces = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def unigram(special, letters=LETTERS):
    """Pieces and scores: longer pieces are more probable."""
    marked = [f"\u2581{word}" for word in WORDS]
    pieces = dict.fromkeys([*marked, *WORDS, "\u2581", "电影", *letters])
    return [*((piece, 0.0) for piece in special), *((piece, -9.0 / len(piece)) for piece in pieces)]


def byte_pairs(special):
    """Make each word, with a space before it, of its bytes from left to right."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = dict.fromkeys([*special, *alphabet]), {}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in (f" {word}" for word in WORDS):
        signs = splitter.pre_tokenize_str(word)[0][0]
        for stop in range(1, len(signs)):
            merges[signs[:stop], signs[stop]] = vocabulary[signs[: stop + 1]] = None
    return {piece: number for number, piece in enumerate(vocabulary)}, [*merges]


def bert(special=BRACKETS, letters=LETTERS, name="BertTokenizer", **settings):
    return getattr(transformers, name)(vocab=subword_tokenizer(special, letters), **settings)


def chinese(**settings):
    return bert(letters=[*LETTERS, "是", "很", "\u3002", "，"], **settings)


def multilingual():
    letters = [*LETTERS, *CAPITALS, "é", "\u0301", "я", "Я", "ـ", "的"]
    return bert(letters=letters, do_lower_case=False, strip_accents=None)


def roberta(**settings):
    vocabulary, merges = byte_pairs([*ANGLES, "<mask>"])
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    return transformers.RobertaTokenizer(
        vocab=vocabulary, merges=merges, mask_token=mask, **settings
    )


def xlm_roberta():
    return transformers.XLMRobertaTokenizer(vocab=[*unigram(ANGLES), ("<mask>", 0.0)])


def camembert():
    special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    return transformers.CamembertTokenizer(vocab=[*unigram(special), ("<mask>", 0.0)])


def albert(**settings):
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    return transformers.AlbertTokenizer(vocab=unigram(special, [*LETTERS, *CAPITALS]), **settings)


def mpnet():
    return bert([*ANGLES, "[UNK]", "<mask>"], name="MPNetTokenizer")


def generic(model, pre_tokenizer, normalizer=None):
    """A tokenizer of no class of its own, like those of ModernBERT."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens([*ANGLES, "<mask>"])
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def bytes_of_unknown():
    """Byte-pair encoding of characters, where the bytes of unknown ones are pieces."""
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*ANGLES, "<mask>", "\u2581", *LETTERS, *in_bytes, "th", "the"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(
        vocabulary, [("t", "h"), ("th", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    return generic(model, pre_tokenizers.Metaspace())


def multilingual_minilm():
    model = models.Unigram([*unigram(ANGLES), ("<mask>", 0.0)], unk_id=3)
    return generic(model, pre_tokenizers.Metaspace(), normalizers.NFKC())


def modernbert():
    model = models.BPE(*byte_pairs([*ANGLES, "<mask>"]))
    return generic(model, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())


#: The type of a model, and how to make its tokenizer.
KINDS = {
    "bert": ("bert", bert),
    "bert-chinese": ("bert", chinese),
    "bert-chinese-cased": ("bert", lambda: chinese(do_lower_case=False)),
    "bert-multilingual": ("bert", multilingual),
    "bert-japanese": ("bert", lambda: chinese(tokenize_chinese_chars=False, strip_accents=False)),
    "bert-split": ("bert", lambda: bert(split_special_tokens=True)),
    "distilbert": ("distilbert", lambda: bert(name="DistilBertTokenizer")),
    "electra": ("electra", lambda: bert(name="ElectraTokenizer")),
    "roberta": ("roberta", roberta),
    "roberta-prefix": ("roberta", lambda: roberta(add_prefix_space=True)),
    "xlm-roberta": ("xlm-roberta", xlm_roberta),
    "camembert": ("camembert", camembert),
    "albert": ("albert", albert),
    "albert-cased": ("albert", lambda: albert(do_lower_case=False, keep_accents=True)),
    "mpnet": ("mpnet", mpnet),
    "multilingual-minilm": ("bert", multilingual_minilm),
    "byte-fallback": ("bert", bytes_of_unknown),
    "modernbert": ("modernbert", modernbert),
}
every_kind = pytest.mark.parametrize("kind", KINDS)

#: Kinds without an unknown token: each character is one of the bytes that the vocabulary has.
WITHOUT_UNKNOWN = ["roberta", "roberta-prefix", "modernbert"]


def save(folder, model_type, tokenizer, **settings):
    """Save a tokenizer beside the configuration of its model."""
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **settings}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("tokenizers")
    return {name: save(place / name, kind, make()) for name, (kind, make) in KINDS.items()}


@pytest.fixture
def folder(folders, kind, tmp_path):
    return shutil.copytree(folders[kind], tmp_path / kind)


def read(folder, **sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # albert has pieces with capital letters
        return subword_tokenizer_of(read_tokenizer(folder), **sizes).naming_emoji(False)


def rows_of(tokens, array):
    ends = zip(tokens.offsets, tokens.offsets[1:], strict=False)
    return [array[start:stop].tolist() for start, stop in ends]


# ids and segments ---------------------------------------------------------------------------------


def agree(ours, theirs, texts, pairs=None, max_length=10**6):
    """Assert that rows of texts have the ids and segments of transformers."""
    tokens = ours(texts, pairs, max_length=max_length, truncation="head")
    columns = [[readable(text) for text in column] for column in (texts, pairs) if column]
    expected = theirs(
        *columns, truncation="longest_first", max_length=max_length, return_token_type_ids=True
    )
    assert rows_of(tokens, tokens.ids) == expected["input_ids"]
    assert rows_of(tokens, tokens.segment_ids) == expected["token_type_ids"]


@every_kind
def test_texts_and_pairs_have_the_ids_of_transformers(kind, folder):
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    for pairs in (None, TEXTS[::-1], [""] * len(TEXTS)):
        for max_length in (7, 20, 10**6):
            agree(ours, theirs, TEXTS, pairs, max_length)


@every_kind
def test_random_texts_have_the_ids_of_transformers(kind, folder):
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    parts = [
        " ",
        "  ",
        "\t",
        "\n",
        "\u00a0",
        "\u3000",
        "\x85",
        "\x00",
        "\u200b",
        "\u0301",
        "\ufe0f",
    ]
    parts += [
        *WORDS,
        *LETTERS,
        "A",
        "Straße",
        "[MASK]",
        "<mask>",
        "<s>",
        "\u2581",
        "\u0120",
        "👩‍👩‍👧",
    ]
    texts = ["".join(rng.choice(parts, rng.integers(1, 12))) for _ in range(300)]
    agree(ours, theirs, texts)
    agree(ours, theirs, texts, texts[1:] + texts[:1])
    agree(ours, theirs, texts)  # from memory, if it remembers words


def test_a_pair_by_hand(folders):
    """Special tokens and segments of each family, as its paper has them."""
    expected = {
        "bert": ("[CLS] good [SEP] bad [SEP]", [0, 0, 0, 1, 1]),
        "electra": ("[CLS] good [SEP] bad [SEP]", [0, 0, 0, 1, 1]),
        "albert": ("[CLS] \u2581good [SEP] \u2581bad [SEP]", [0, 0, 0, 1, 1]),
        "roberta": ("<s> \u0120good </s> </s> \u0120bad </s>", [0] * 6),
        "xlm-roberta": ("<s> \u2581good </s> </s> \u2581bad </s>", [0] * 6),
        "camembert": ("<s> \u2581good </s> </s> \u2581bad </s>", [0] * 6),
    }
    for kind, (pieces, segment_ids) in expected.items():
        ours, theirs = read(folders[kind]), AutoTokenizer.from_pretrained(folders[kind])
        tokens = ours([" good"], [" bad"], max_length=9, truncation="head")
        assert " ".join(theirs.convert_ids_to_tokens(tokens.ids)) == pieces
        assert tokens.segment_ids.tolist() == segment_ids
        assert tokens.is_special.sum() == len(segment_ids) - 2


@every_kind
def test_a_pickle_has_the_same_tokenizer(kind, folder):
    model_type, _ = KINDS[kind]
    read_one = (
        read_tokenizer(folder) if "albert" not in kind else AutoTokenizer.from_pretrained(folder)
    )
    packed = pack_tokenizer(read_one)
    assert {*packed} <= {"tokenizer.json", "tokenizer_config.json"}
    for unpacked in (unpack_tokenizer(packed), unpack_tokenizer(packed, model_type=model_type)):
        assert unpacked.special_tokens_map == read_one.special_tokens_map
        assert unpacked.all_special_ids == read_one.all_special_ids
        assert unpacked.mask_token_id == read_one.mask_token_id
        agree(subword_tokenizer_of(unpacked).naming_emoji(False), read_one, TEXTS, TEXTS[::-1])


# models without segments --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert"])
def test_pairs_need_no_second_segment(kind, folder):
    ours = read(folder, type_vocab_size=1)
    ours.layout.check(n_segments=2)
    agree(ours, AutoTokenizer.from_pretrained(folder), TEXTS, TEXTS[::-1])


@pytest.mark.parametrize("kind", ["distilbert", "mpnet"])
def test_a_model_without_segments_ignores_their_ids(kind, folder):
    ours = read(folder, type_vocab_size=None)
    ours.layout.check(n_segments=2)
    agree(ours, AutoTokenizer.from_pretrained(folder), TEXTS, TEXTS[::-1])


def test_ids_that_transformers_would_not_feed_are_zero():
    """The class names no segment ids, so the model gets zeros; it has no others."""
    ours = subword_tokenizer_of(modernbert(), type_vocab_size=1)
    tokens = ours(["good"], ["bad"], max_length=9, truncation="head")
    assert not tokens.segment_ids.any()
    assert subword_tokenizer_of(modernbert(), type_vocab_size=2).layout.pair[-1].segment_id == 1
    with pytest.raises(ValueError, match=r"^The model has type_vocab_size=1, but pairs of texts "):
        subword_tokenizer_of(bert(), type_vocab_size=1).layout.check(n_segments=2)


def test_other_names_of_special_tokens(folders):
    """The post-processor adds <s>, but the settings name neither a cls_token nor a sep_token."""
    tokenizer = AutoTokenizer.from_pretrained(folders["modernbert"])
    expected = tokenizer("good film")["input_ids"]
    tokenizer.cls_token = tokenizer.sep_token = None
    tokens = subword_tokenizer_of(tokenizer)(["good film"], max_length=9, truncation="head")
    assert tokens.ids.tolist() == expected


# unknown tokens and emoji -------------------------------------------------------------------------


@every_kind
def test_the_unknown_token(kind, folder):
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    expected = None if kind in WITHOUT_UNKNOWN else theirs.unk_token_id
    assert ours.unknown_id == expected
    tokens = ours(["good 片 \U0001f47b", "bad"], max_length=99, truncation="head")
    n_unknown = LostTokens.of(tokens, ours).n_unknown
    assert n_unknown == (0 if expected is None or kind == "byte-fallback" else 1)


@pytest.mark.parametrize(("kind", "is_named"), [("xlm-roberta", True), ("roberta", False)])
def test_unknown_emoji_are_read_as_their_names(kind, is_named, folder):
    ours = read(folder).naming_emoji(True)
    texts = ["good \U0001f47b", "good  ghost "] if is_named else ["good \U0001f47b"] * 2
    found, expected = (ours([text], max_length=99, truncation="head") for text in texts)
    assert found.ids.tolist() == expected.ids.tolist()
    thumb = ours(["👍"], max_length=99, truncation="head").ids
    assert thumb.tolist() == AutoTokenizer.from_pretrained(folder)("👍")["input_ids"]


# warnings of capital letters ----------------------------------------------------------------------


def is_warned_of_capitals(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_tokenizer(folder)
    return any("lower-cases texts, but" in str(warning.message) for warning in caught)


@every_kind
def test_capital_letters(kind, folder):
    """The kinds with albert have pieces with capital letters; skbert warns if they never occur."""
    ids = AutoTokenizer.from_pretrained(folder)(["GOOD", "good"])["input_ids"]
    assert is_warned_of_capitals(folder) == ("albert" in kind and ids[0] == ids[1])
    assert is_warned_of_capitals(folder) or kind != "albert"


@pytest.mark.parametrize("word", ["ΓOOD", "good"])
def test_the_signs_of_bytes_are_no_capital_letters(word, tmp_path):
    vocabulary, merges = byte_pairs([*ANGLES, "<mask>"])
    for byte in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        vocabulary.pop(byte)
    if word != "good":
        vocabulary |= {f"\u0120{word}{number}": 900 + number for number in range(30)}
    tokenizer = generic(
        models.BPE(vocabulary, merges), pre_tokenizers.ByteLevel(), normalizers.Lowercase()
    )
    assert is_warned_of_capitals(save(tmp_path, "bert", tokenizer)) == (word != "good")


@pytest.mark.parametrize(
    ("letters", "ids"),
    [
        (LETTERS, "lower"),
        ([*LETTERS, "Ⅷ", "Ⓐ"], "lower"),  # symbols, which Chinese vocabularies have
        ([*LETTERS, *CAPITALS], "cased"),
    ],
)
def test_a_vocabulary_alone(letters, ids, tmp_path):
    vocabulary = subword_tokenizer(BRACKETS, letters)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "electra"}')
    tokens = read(tmp_path)(["Good 好 film"], max_length=99, truncation="head")
    expected = bert(letters=letters, do_lower_case=ids == "lower")("Good 好 film")["input_ids"]
    assert tokens.ids.tolist() == expected


# files --------------------------------------------------------------------------------------------


def write_byte_pairs(folder):
    vocabulary, merges = byte_pairs([*ANGLES, "<mask>"])
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


def test_byte_pairs_without_a_tokenizer_json(tmp_path):
    folder = write_byte_pairs(tmp_path)
    tokenizer = read_tokenizer(folder)
    assert type(tokenizer) is transformers.RobertaTokenizer
    assert len(tokenizer) == len(byte_pairs([*ANGLES, "<mask>"])[0])
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    agree(ours, theirs, TEXTS, TEXTS[::-1])
    agree(subword_tokenizer_of(unpack_tokenizer(pack_tokenizer(tokenizer))), theirs, TEXTS)
    assert missing_files(folder) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("own", "other"), [("merges.txt", "vocab.json"), ("vocab.json", "merges.txt")]
)
def test_half_of_a_vocabulary(own, other, tmp_path):
    (write_byte_pairs(tmp_path) / other).unlink()
    (tmp_path / "model.safetensors").write_bytes(b"")
    missing = missing_files(tmp_path)
    assert missing == ["tokenizer.json or vocab.txt"]
    assert advice_for_folder(tmp_path, missing) == (
        f"Its {own} is half of a vocabulary. Copy or download its {other}, too."
    )


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "mpnet"])
def test_a_vocab_txt_without_a_tokenizer_json(kind, folder):
    (folder / "tokenizer.json").unlink()
    vocabulary = subword_tokenizer([*ANGLES, "[UNK]", "<mask>"] if kind == "mpnet" else BRACKETS)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == len(vocabulary)
    agree(read(folder), theirs, TEXTS, TEXTS[::-1])
    (folder / "tokenizer_config.json").unlink()
    agree(read(folder), AutoTokenizer.from_pretrained(folder), TEXTS, TEXTS[::-1])


def test_the_configuration_may_name_the_class(folders, tmp_path):
    """As in a MiniLM with the vocabulary of XLM-RoBERTa."""
    folder = shutil.copytree(folders["xlm-roberta"], tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    settings = {"model_type": "bert", "tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert type(read_tokenizer(folder)) is type(AutoTokenizer.from_pretrained(folder))
    agree(read(folder), AutoTokenizer.from_pretrained(folder), TEXTS, TEXTS[::-1])


@pytest.mark.parametrize("model_type", ["no-such-family", None, 3, "../bert", "encoder-decoder"])
def test_other_model_types_count_as_bert(model_type, folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    agree(read(folder), AutoTokenizer.from_pretrained(folders["bert"]), TEXTS)


@pytest.mark.parametrize(
    ("model_type", "files", "name", "found"),
    [
        ("roberta", ["vocab.txt"], "RobertaTokenizer", "vocab.txt"),
        ("bert", ["vocab.json", "merges.txt"], "BertTokenizer", "vocab.json"),
        ("modernbert", ["vocab.txt"], "modernbert", "vocab.txt"),
    ],
)
def test_a_vocabulary_of_another_class(model_type, files, name, found, tmp_path):
    """transformers would make a tokenizer without words."""
    contents = {"vocab.txt": "\n".join(BRACKETS), "vocab.json": '{"a": 0}', "merges.txt": ""}
    message = (
        f"The tokenizer of {str(tmp_path)!r} is a {name!r}, which a {found} alone does not define. "
        "Save or download its tokenizer.json, too. If the class is code that belongs to the "
        "model, choose another model: skbert does not run it."
    )
    for file in files:
        (tmp_path / file).write_text(contents[file])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_tokenizer(tmp_path)


def test_a_class_that_reads_another_model(folders, tmp_path):
    folder = shutil.copytree(folders["multilingual-minilm"], tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    message = (
        f"The tokenizer.json of {str(folder)!r} has a vocabulary for Unigram, but its class in "
        'transformers, RobertaTokenizer, reads it as one for BPE. Set "tokenizer_class": '
        '"PreTrainedTokenizerFast" in its tokenizer_config.json.'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    agree(read(folder), AutoTokenizer.from_pretrained(folders["multilingual-minilm"]), TEXTS)


def test_all_files_are_downloaded_and_watched():
    assert {*TOKENIZER_FILES, *SENTENCEPIECE_FILES} <= {*HUB_PATTERNS}


SENTENCEPIECE = {
    "xlm-roberta": "sentencepiece.bpe.model",
    "camembert": "sentencepiece.bpe.model",
    "albert": "spiece.model",
    "deberta-v2": "spm.model",
}


@pytest.mark.parametrize("model_type", SENTENCEPIECE)
@pytest.mark.parametrize("lacking", ["sentencepiece", "protobuf"])
def test_sentencepiece_needs_packages(model_type, lacking, tmp_path, monkeypatch):
    for package in ("sentencepiece", "protobuf"):
        name = f"is_{package}_available"
        monkeypatch.setattr(transformers.utils, name, lambda has=package != lacking: has)
    file = SENTENCEPIECE[model_type]
    (tmp_path / file).write_bytes(b"\x0a\xff")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert missing_files(tmp_path) == ["model.safetensors"]
    message = (
        f"The vocabulary of {str(tmp_path)!r} is in its {file}, which transformers reads only with "
        'the packages sentencepiece and protobuf. Run `pip install "skbert[sentencepiece]"`, or '
        "save or download its tokenizer.json, too."
    )
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert", "albert-cased"])
def test_sentencepiece_is_not_needed_beside_a_tokenizer_json(kind, folder):
    (folder / SENTENCEPIECE[KINDS[kind][0]]).write_bytes(b"damaged")
    agree(read(folder), AutoTokenizer.from_pretrained(folder), TEXTS)


@pytest.mark.parametrize("model_type", ["xlm-roberta", "camembert", "albert"])
def test_sentencepiece_is_converted(model_type, tmp_path):
    special = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    special["user_defined_symbols"] = ["[CLS]", "[SEP]", "[MASK]"]
    file = tmp_path / SENTENCEPIECE[model_type]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS), "好电影", *WORDS] * 3),
        model_prefix=str(file.with_suffix("")),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **special if model_type == "albert" else {},
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert "\u2581good" in theirs.get_vocab()
    agree(read(tmp_path), theirs, TEXTS, TEXTS[::-1])
    packed = pack_tokenizer(theirs)
    assert {*packed} == {"tokenizer.json", "tokenizer_config.json"}
    ours = subword_tokenizer_of(unpack_tokenizer(packed, model_type=model_type))
    agree(ours.naming_emoji(False), theirs, TEXTS, TEXTS[::-1])


# masks --------------------------------------------------------------------------------------------


@every_kind
def test_masks_replace_words_by_words(kind, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary, ours = vocabulary_of(tokenizer), subword_tokenizer_of(tokenizer)
    assert vocabulary.mask_id == tokenizer.convert_tokens_to_ids(tokenizer.mask_token)
    special = {*tokenizer.all_special_ids}
    assert special and not special & {*vocabulary.word_ids.tolist()}
    assert len(special) + len(vocabulary.word_ids) == len(tokenizer)
    tokens = ours(["the film was so good"] * 400, max_length=99, truncation="head")
    masked = mask_tokens(tokens, vocabulary, 0.5, False, np.random.default_rng(0))
    new, chosen = masked.tokens.ids, masked.targets != NOT_MASKED
    assert not (chosen & tokens.is_special).any()
    assert (new == tokens.ids)[~chosen].all()
    shares = [
        np.mean(new[chosen] == vocabulary.mask_id),
        np.mean(new[chosen] == tokens.ids[chosen]),
    ]
    np.testing.assert_allclose(shares, [0.8, 0.1], atol=0.06)
    drawn = new[chosen & (new != vocabulary.mask_id) & (new != tokens.ids)]
    assert len(drawn) and np.isin(drawn, vocabulary.word_ids).all()


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "xlm-roberta", "camembert", "albert", "mpnet", "byte-fallback"]
)
def test_whole_words_are_masked(kind, folder):
    text = "xyz zzz yyy the"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = subword_tokenizer_of(tokenizer)([text], max_length=99, truncation="head")
    ids = tokens.ids[~tokens.is_special]
    starts = np.flatnonzero(~vocabulary_of(tokenizer).continues[ids])
    words = np.split(tokenizer.convert_ids_to_tokens(ids), starts[starts > 0])
    assert [re.sub("[#\u2581\u0120]", "", "".join(word)) for word in words] == text.split()


@pytest.mark.parametrize(
    ("kind", "text", "pieces", "expected"),
    [
        ("bert", "[MASK] film [MASK]!", ["good", "##s"], "good films!"),
        ("mpnet", "a <mask>, a<mask>", ["good", "good"], "a good, agood"),
        (
            "roberta",
            "<mask> film<mask> <mask>!",
            ["\u0120good", "\u0120was", "s"],
            "good film wass!",
        ),
        ("roberta", "a <mask> <mask>.", ["\u0120caf\u00c3\u00a9", "\u0120good"], "a café good."),
        ("xlm-roberta", "<mask> <mask> a<mask>", ["\u2581the", "s", "\u2581film"], "thes a film"),
        ("albert", "a [MASK] [MASK]", ["\u2581film", "电影"], "a film电影"),
    ],
)
def test_masks_are_filled(kind, text, pieces, expected, folder):
    assert fill_masks(AutoTokenizer.from_pretrained(folder), text, pieces) == expected


# in the estimators --------------------------------------------------------------------------------


def save_model(folder, kind):
    """Save a small encoder with random weights beside the tokenizer of its family."""
    family = FAMILIES[KINDS[kind][0]]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = {"embedding_size": 8} if "embedding_size" in family.own_settings else {}
    if "segments" in family.embedding_parts:
        sizes["type_vocab_size"] = 2 if kind in ("electra", "albert-cased") else 1
    config = new_config(
        family,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.5,
        max_position_embeddings=64,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, family.encoder_class)(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "kind",
    ["distilbert", "electra", "roberta", "xlm-roberta", "camembert", "albert-cased", "mpnet"],
)
def test_vectors_of_texts_and_pairs(kind, folder):
    model, tokenizer = save_model(folder, kind), AutoTokenizer.from_pretrained(folder)
    texts = ["good film", "", "  the café\u00a0was \t好 电影", "bad <mask>, not [MASK] great </s>"]
    has_segments = kind in ("electra", "albert-cased")
    embedder = BertEmbeddingTransformer(str(folder), pooling="cls", max_length=48)
    X_pairs = [*zip(texts, texts[::-1], strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # unknown tokens; albert's capital letters
        vectors = [embedder.fit_transform(X) for X in (texts, X_pairs)]
        copied = pickle.loads(pickle.dumps(embedder)).transform(X_pairs)
    np.testing.assert_array_equal(copied, vectors[1])
    for columns, found in zip(([texts], [texts, texts[::-1]]), vectors, strict=True):
        inputs = tokenizer(
            *columns, return_tensors="pt", padding=True, return_token_type_ids=has_segments
        )
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state[:, 0].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
