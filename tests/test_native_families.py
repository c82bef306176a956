"""`BertPretrainer` and `BertEmbeddingTransformer` on each native family, against transformers."""

import json
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files.pretrained import load_config, load_pretrained
from skbert.engine.files.tokenizer_files import vocabulary_of
from skbert.engine.model import families
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.text.masking import NOT_MASKED
from skbert.engine.training.loop import Trainer
from skbert.engine.training.masked_lm import Masking, Pretraining
from tests.family_folders import SIZES, save_family
from tests.objectives import loss_of

WITH_PAIRS = [name for name, family in FAMILIES.items() if family.has_next_sentence]
WITHOUT_PAIRS = [name for name in FAMILIES if name not in WITH_PAIRS]
WITH_POOLER = [name for name, family in FAMILIES.items() if family.pooler]
WITHOUT_POOLER = [name for name in FAMILIES if name not in WITH_POOLER]

#: Where transformers keeps the bias of the decoder a second time, under another name.
SECOND_BIAS = {
    name: f"{family.head_parts['decoder']}.bias"
    for name, family in FAMILIES.items()
    if family.head_parts["bias"] != f"{family.head_parts['decoder']}.bias"
}

TEXTS = [
    "what a joy , i loved this film",
    "boring and very bad",
    "great",
    "the best film ever and nothing but fun and joy and love",
] * 4
MASKED = ["a [MASK] film", "[MASK] was very, very [MASK]", "so[MASK]"]


def masked_lm(family):
    return f"{family.class_prefix}ForMaskedLM"


def randomized(model, seed=0):
    """Replace zeros and ones, which would hide a bias or a norm that is left out."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def saved(model, folder, tokenizer_from):
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer_from) / name, folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_bert):
    """Folders of each family, written by transformers: encoder with pooler, and masked LM."""
    found = {}
    for name, family in FAMILIES.items():
        place = tmp_path_factory.mktemp(name)
        folder = save_family(place / "encoder", name, tiny_bert)
        config = load_config(folder)
        config.tie_word_embeddings = True  # transformers 5.3 does not tie those of a CamemBERT
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            encoder = getattr(transformers, family.encoder_class)(config)
            words = getattr(transformers, masked_lm(family))(config)
        saved(randomized(encoder), folder, tiny_bert)
        found[name] = {"encoder": folder, "words": saved(randomized(words), place / "w", tiny_bert)}
    return found


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted_models(folders):
    """A pretrainer of each family, trained from an encoder without heads."""
    return {name: pretrainer(folders[name]["encoder"]).fit(TEXTS) for name in FAMILIES}


@pytest.fixture
def fitted(fitted_models, name):
    return pickle.loads(pickle.dumps(fitted_models[name]))


def pretrainer(model, **parameters):
    settings = {"next_sentence": False, "max_length": 32, "max_epochs": 2, "batch_size": 8}
    settings |= {"learning_rate": 5e-3, "random_state": 0, "device": "cpu"}
    return BertPretrainer(model, **(settings | parameters))


def padded(model, tokenizer, texts):
    """Inputs of transformers, with padding."""
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    if families.n_segments(model.config) is None:
        inputs.pop("token_type_ids", None)
    return inputs


def logits_of(model, texts, folder):
    """Scores of all pieces at all tokens, by transformers: (n_texts, n_tokens, n_words)."""
    with torch.no_grad():
        return model(**padded(model, AutoTokenizer.from_pretrained(folder), texts))[0]


def assert_same_predictions(ours, theirs):
    for mine, other in zip(ours.fill_mask(MASKED), theirs.fill_mask(MASKED), strict=True):
        assert (mine.text, mine.words) == (other.text, other.words)
        np.testing.assert_array_equal(mine.probabilities, other.probabilities)
    np.testing.assert_array_equal(ours.transform(TEXTS), theirs.transform(TEXTS))
    assert ours.score(TEXTS) == theirs.score(TEXTS)


# the objective ------------------------------------------------------------------------------------


def padded_targets(texts, padding):
    """The same masked texts as a padded batch of transformers, with its names."""
    length = texts.lengths.max()
    inside = np.arange(length) < texts.lengths[:, None]
    tokens, targets = texts.masked.tokens, texts.masked.targets
    blocks = {
        "input_ids": (tokens.ids, padding),
        "labels": (np.where(targets == NOT_MASKED, -100, targets), -100),
    }
    found = {"attention_mask": torch.from_numpy(inside.astype(int))}
    for key, (values, filler) in blocks.items():
        block = np.full(inside.shape, filler)
        block[inside] = values
        found[key] = torch.from_numpy(block)
    return found


def gradients(model):
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_transformers(name, folders):
    folder = folders[name]["words"]
    model = AutoModelForMaskedLM.from_pretrained(folder)
    pretrained = load_pretrained(folder)
    tokens = pretrained.subword_tokenizer(TEXTS[:4], max_length=32, truncation="head")
    masking = Masking(vocabulary_of(pretrained.tokenizer), mask_fraction=0.4)
    heads = families.pretraining_heads(model) if name in WITHOUT_PAIRS else None
    network = PretrainingNetwork(model.base_model, heads or _heads_of_bert(model))
    objective = Pretraining(network, tokens, masking, np.random.default_rng(0))
    rows = np.arange(4)
    loss = loss_of(objective, rows, rows)
    loss.part.backward()
    ours = gradients(model)
    model.zero_grad()
    theirs = model(**padded_targets(objective._texts, pretrained.config.pad_token_id)).loss
    theirs.backward()
    assert loss.part.item() == pytest.approx(theirs.item(), abs=1e-5)
    reference = gradients(model)
    assert ours.keys() == reference.keys()
    assert ours.keys() == {key for key, p in model.named_parameters() if p.requires_grad}
    for key, gradient in reference.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(ours[key], gradient, rtol=0, atol=1e-4 * scale + 1e-7, msg=key)


def _heads_of_bert(model):
    """The head of a BertForMaskedLM, and an unused one for the next sentence."""
    model.cls.seq_relationship = torch.nn.Linear(model.config.hidden_size, 2)
    heads = families.pretraining_heads(model)
    model.cls.seq_relationship.requires_grad_(False)
    return heads


# reading a checkpoint -----------------------------------------------------------------------------


def assert_logits(fitted, expected, folder):
    """The logits at all masked places are those of a model of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = logits_of(expected, MASKED, folder)
    ids = tokenizer(MASKED, padding=True, return_tensors="pt")["input_ids"]
    theirs = logits[ids == tokenizer.mask_token_id].softmax(-1)
    n_pieces = len(tokenizer)
    ours = [filled.probabilities for filled in fitted.fill_mask(MASKED, top_k=n_pieces)]
    best = theirs.topk(n_pieces).values.numpy()
    np.testing.assert_allclose(np.concatenate(ours), best, rtol=0, atol=1e-5)


def test_the_head_of_the_checkpoint_predicts(name, folders):
    folder = folders[name]["words"]
    expected = AutoModelForMaskedLM.from_pretrained(folder)
    loaded = BertPretrainer.from_pretrained(folder, max_length=32, device="cpu")
    assert_logits(loaded, expected, folder)
    assert_logits(pretrainer(folder, max_epochs=0).fit(TEXTS), expected, folder)


def test_logits_by_the_parts_of_the_head(name, folders):
    """dense -> GELU -> norm -> decoder; ALBERT approximates GELU by a hyperbolic tangent."""
    folder = folders[name]["words"]
    fitted = BertPretrainer.from_pretrained(folder, max_length=32, device="cpu")
    network = PretrainingNetwork.of(fitted.model_)
    heads = network._head_modules
    (norm,) = (m for m in network.heads.modules() if isinstance(m, torch.nn.LayerNorm))
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        approximate = "tanh" if name == "albert" else "none"
        states = norm(torch.nn.functional.gelu(heads.dense(hidden), approximate=approximate))
        expected = states @ families.word_embeddings(network.encoder).weight.T + heads.bias
        torch.testing.assert_close(network.word_logits(hidden), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SECOND_BIAS)
def test_the_bias_may_have_the_name_of_the_decoder(name, folders, tmp_path):
    folder = Path(shutil.copytree(folders[name]["words"], tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights.pop(SECOND_BIAS[name], None)
    weights[SECOND_BIAS[name]] = weights.pop(FAMILIES[name].head_parts["bias"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    expected = AutoModelForMaskedLM.from_pretrained(folders[name]["words"])
    assert_logits(BertPretrainer.from_pretrained(folder, max_length=32), expected, folder)


def test_a_decoder_of_its_own_is_refused(name, folders, tmp_path):
    folder = Path(shutil.copytree(folders[name]["words"], tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    family = FAMILIES[name]
    decoder = f"{family.head_parts['decoder']}.weight"
    table = weights[f"{family.encoder}.{family.word_table}"]
    save_file(weights | {decoder: table + 1}, folder / "model.safetensors")
    message = (
        f"The decoder of the checkpoint's masked-language-model head, '{decoder}', differs from "
        "the word embeddings; skbert ties the two, as BERT does. To train a new head, save the "
        f"checkpoint without its '{family.word_head[0]}.' weights, for example as a "
        f"transformers.{family.encoder_class}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pretrainer(str(folder)).fit(TEXTS)


def test_an_encoder_has_no_head_to_load(name, folders):
    folder, family = folders[name]["encoder"], FAMILIES[name]
    also = "BertForPreTraining and " if name in WITH_PAIRS else ""
    message = (
        f"The model {folder!r} has no head for words ('{family.word_head[0]}.'), but "
        f"from_pretrained needs one, as in {also}{masked_lm(family)}. To train a new head, pass "
        f"model={folder!r} to BertPretrainer and call fit."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BertPretrainer.from_pretrained(folder)


def test_a_new_head_starts_from_the_word_embeddings(name, folders):
    new = pretrainer(folders[name]["encoder"], max_epochs=0).fit(TEXTS)
    heads = families.heads_of(new.model_, families.pretraining_heads(new.model_))
    assert heads.decoder.weight is families.word_embeddings(new.model_.base_model).weight
    assert heads.decoder.bias is heads.bias
    width = heads.dense.weight.shape[0]
    if width == SIZES["hidden_size"]:
        assert torch.equal(heads.dense.weight, torch.eye(width))
    else:  # as transformers starts it
        assert heads.dense.weight.std().item() == pytest.approx(0.2, rel=0.3)
    assert not heads.dense.bias.any()
    frequencies = heads.bias.detach().exp()
    assert frequencies.sum().item() == pytest.approx(1, rel=1e-4)
    film, hate = new.tokenizer_.convert_tokens_to_ids(["film", "hate"])
    assert frequencies[film] > 10 * frequencies[hate]


# fit ----------------------------------------------------------------------------------------------


def test_whole_words_and_bfloat16(name, folders, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    exact, rounded = (
        pretrainer(folders[name]["words"], whole_words=True, dropout=0, precision=p).fit(TEXTS)
        for p in ("float32", "bfloat16")
    )
    difference = np.abs(exact.transform(TEXTS) - rounded.transform(TEXTS))
    assert 0 < difference.mean() < 0.1
    assert {weight.dtype for weight in rounded.model_.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", WITHOUT_PAIRS)
def test_next_sentence_is_refused_by_name(name, folders):
    message = (
        f"next_sentence=True, but the model has model_type={name!r}, which has no head for next "
        "sentence prediction; allowed is model_type in ['bert']. Set next_sentence=False to train "
        "masked language modelling alone."
    )
    exactly = f"^{re.escape(message)}$"
    with pytest.raises(ValueError, match=exactly):
        BertPretrainer(folders[name]["words"], max_length=32).fit(TEXTS)
    with pytest.raises(ValueError, match=exactly):
        BertPretrainer.from_pretrained(folders[name]["words"], next_sentence=True)


@pytest.mark.parametrize("name", WITHOUT_PAIRS)
def test_the_next_sentence_is_not_predicted(name, folders, fitted):
    loaded = BertPretrainer.from_pretrained(folders[name]["words"])
    assert loaded.next_sentence is False
    message = (
        f"The fitted model has model_type={name!r}, which has no head for next sentence "
        "prediction; allowed is model_type in ['bert']. Fit such a model with next_sentence=True."
    )
    for model in (loaded, fitted):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.predict_next_sentence([("a film", "it was bad")])


@pytest.mark.parametrize("name", WITH_PAIRS)
def test_next_sentence_is_trained_where_the_family_has_it(name, folders):
    documents = [["a film", "it was bad"], ["great", "i loved it", "a joy"]] * 4
    model = pretrainer(folders[name]["encoder"], next_sentence=True).fit(documents)
    assert model.history_[-1]["next_sentence_loss"] > 0
    assert model.predict_next_sentence([("a film", "it was bad")]).shape == (1,)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "bert"])
def test_only_a_bert_starts_from_scratch(name):
    config = families.new_config(FAMILIES[name], **SIZES)
    message = (
        f"model is a {type(config).__name__}, but only a transformers.BertConfig can start from "
        "scratch. Pass a BertConfig, or the folder or name of a pretrained model with model_type "
        f"in {[*FAMILIES]}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pretrainer(config).fit(TEXTS)


# saving -------------------------------------------------------------------------------------------


def test_transformers_loads_what_it_saves(fitted, name, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(model).__name__ == masked_lm(FAMILIES[name])
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert name in WITH_PAIRS or not info["unexpected_keys"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [FAMILIES[name].pretraining_class]
    assert_logits(fitted, model, tmp_path / "model")


def test_from_pretrained_and_pickle_keep_every_bit(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "one")
    loaded = BertPretrainer.from_pretrained(tmp_path / "one")
    assert_same_predictions(loaded, fitted)
    assert_same_predictions(pickle.loads(pickle.dumps(loaded)), fitted)
    assert loaded.history_ == fitted.history_
    loaded.save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_an_untrained_head_is_marked_as_such(name, folders, tmp_path):
    new = pretrainer(folders[name]["encoder"], max_epochs=0).fit(TEXTS)
    new.save_pretrained(tmp_path / "model")
    assert not BertPretrainer.from_pretrained(tmp_path / "model")._knows_words
    assert not load_pretrained(tmp_path / "model").heads
    again = pretrainer(str(tmp_path / "model"), max_epochs=0).fit(TEXTS)
    for key, weight in new.model_.state_dict().items():
        if "pooler" not in key and "seq_relationship" not in key:
            assert torch.equal(again.model_.state_dict()[key], weight), key


def test_a_fit_goes_on_from_the_folder_and_learns(fitted, name, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    start = pretrainer(str(tmp_path / "model"), max_epochs=0).fit(TEXTS)
    assert_same_predictions(start, fitted)
    parameters = {"max_epochs": 10, "batch_size": 4, "learning_rate": 1e-2, "mask_fraction": 0.4}
    again = pretrainer(str(tmp_path / "model"), dropout=0, **parameters).fit(TEXTS)
    assert type(again.model_).__name__ == FAMILIES[name].pretraining_class
    assert again.score(TEXTS) > fitted.score(TEXTS) + 0.2
    assert "next_sentence_loss" not in again.history_[-1]


def test_the_other_estimators_start_from_the_folder(fitted, toy_reviews, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    vectors = BertEmbeddingTransformer(folder, pooling="mean", max_length=32).fit_transform(TEXTS)
    np.testing.assert_allclose(vectors, fitted.transform(TEXTS), rtol=0, atol=1e-6)
    clf = BertSentimentClassifier(folder, max_length=32, max_epochs=1, random_state=0)
    start = clf.set_params(learning_rate=1e-12).fit(*toy_reviews)
    trained, before = start.model_.state_dict(), fitted.model_.base_model.state_dict()
    assert all(torch.allclose(trained[key], before[key], atol=1e-6) for key in trained)


def test_pretraining_in_a_classifier_resumes(name, folders, toy_reviews, tmp_path, monkeypatch):
    texts, labels = (values[:20] for values in toy_reviews)
    settings = {"max_length": 32, "max_epochs": 2, "batch_size": 10, "learning_rate": 5e-3}
    settings |= {"pretraining_epochs": 1, "random_state": 0, "device": "cpu"}
    folder = folders[name]["words"]
    whole = BertSentimentClassifier(folder, **settings).fit(texts, labels)
    assert len(whole.pretraining_history_) == 1
    plain, steps = Trainer.step, iter(range(100))

    def step(self, *arguments):
        if next(steps) == 5:  # of six, two of them for the masked language model
            raise KeyboardInterrupt
        return plain(self, *arguments)

    clf = BertSentimentClassifier(folder, checkpoint_dir=str(tmp_path), **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(texts, labels)
    assert [*tmp_path.iterdir()]
    clf.fit(texts, labels)
    for key, weight in whole.model_.state_dict().items():
        assert torch.equal(clf.model_.state_dict()[key], weight), key


# words --------------------------------------------------------------------------------------------


def pipeline_of(folder):
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")


def assert_equals_pipeline(fitted, pipe, texts, top_k=4):
    for text, filled in zip(texts, fitted.fill_mask(texts, top_k=top_k), strict=True):
        found = pipe(text, top_k=top_k)
        found = found if isinstance(found[0], list) else [found]  # of a single mask
        assert filled.words == [[guess["token_str"] for guess in one] for one in found]
        scores = [[guess["score"] for guess in one] for one in found]
        np.testing.assert_allclose(filled.probabilities, scores, rtol=0, atol=1e-5)


def test_fill_mask_is_the_pipeline_of_transformers(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    assert_equals_pipeline(fitted, pipeline_of(tmp_path / "model"), MASKED)


def bytes_tokenizer():
    """Byte-level pieces of RoBERTa, with a mask token that takes the space before it."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u0120a", "\u0120f", "fi", "lm"]
    pieces += ["\u0120fi", "\u0120film", "go", "od", "\u0120good"]
    merges = [("\u0120", "a"), ("f", "i"), ("l", "m"), ("\u0120", "fi"), ("\u0120fi", "lm")]
    merges += [("g", "o"), ("o", "d"), ("\u0120", "f")]
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    ids = {piece: number for number, piece in enumerate([*specials, *pieces, "<mask>"])}
    backend = Tokenizer(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.add_special_tokens([*specials, AddedToken("<mask>", lstrip=True, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


@pytest.fixture(scope="module")
def with_bytes(tmp_path_factory):
    """A RoBERTa with a vocabulary of bytes."""
    folder, tokenizer = tmp_path_factory.mktemp("bytes"), bytes_tokenizer()
    config = families.new_config(
        FAMILIES["roberta"],
        **SIZES,
        vocab_size=len(tokenizer),
        pad_token_id=1,
        type_vocab_size=1,
        max_position_embeddings=66,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.RobertaForMaskedLM(config)
    randomized(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_mask_of_roberta_takes_the_space_before_it(with_bytes):
    fitted = BertPretrainer.from_pretrained(with_bytes, max_length=32)
    texts = ["a <mask> film", "<mask> film", "a<mask>film<mask>", "good <mask>."]
    assert_equals_pipeline(fitted, pipeline_of(with_bytes), texts)
    with pytest.raises(ValueError, match=r"^Text 0 has 0 '<mask>', .* Write '<mask>' for each"):
        fitted.fill_mask("a [MASK] film")


@pytest.mark.parametrize(
    ("text", "best", "words", "expected"),
    [
        ("a <mask> film", ["\u0120good"], [" good"], "a good film"),
        ("a <mask> film", ["fi"], ["fi"], "afi film"),
        ("a<mask> <mask>", ["\u0120film", "\u0120good"], [" film", " good"], "a film good"),
        ("a <mask>.", ["\u00a9"], ["\ufffd"], "a\ufffd."),
    ],
)
def test_words_of_roberta_are_readable(with_bytes, monkeypatch, text, best, words, expected):
    fitted = BertPretrainer.from_pretrained(with_bytes, max_length=32)
    ids = iter(fitted.tokenizer_.convert_tokens_to_ids(best))

    def logits(self, hidden):
        scores = hidden.new_zeros(len(hidden), self.encoder.config.vocab_size)
        for row in scores:
            row[next(ids)] = 9.0
        return scores

    monkeypatch.setattr(PretrainingNetwork, "word_logits", logits)
    filled = fitted.fill_mask(text, top_k=1)
    assert [one for (one,) in filled.words] == words
    assert filled.text == expected


def test_a_pretrainer_with_bytes_learns_and_is_saved(with_bytes, tmp_path):
    texts = ["a good film", "film a good", "good film a good film"] * 6
    model = pretrainer(with_bytes, max_epochs=6, whole_words=True).fit(texts)
    start = pretrainer(with_bytes, max_epochs=0).fit(texts)
    assert model.score(texts) > start.score(texts) + 0.5
    model.save_pretrained(tmp_path / "model")
    assert_equals_pipeline(model, pipeline_of(tmp_path / "model"), ["a <mask> film"])
    loaded = BertPretrainer.from_pretrained(tmp_path / "model")
    assert loaded.fill_mask("a <mask> film").words == model.fill_mask("a <mask> film").words


# vectors ------------------------------------------------------------------------------------------


def embedder(model, **parameters):
    return BertEmbeddingTransformer(model, **({"max_length": 32, "device": "cpu"} | parameters))


def hidden_states(folder, texts):
    """All hidden states by transformers, and the mask: (n_layers + 1, n_texts, L, d_model)."""
    model = AutoModel.from_pretrained(folder).eval()
    inputs = padded(model, AutoTokenizer.from_pretrained(folder), texts)
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True)
    return torch.stack(found.hidden_states), inputs["attention_mask"][..., None], found


def pooled(states, mask, pooling):
    if pooling == "cls":
        return states[:, 0]
    if pooling == "mean":
        return (states * mask).sum(1) / mask.sum(1)
    return states.masked_fill(mask == 0, -torch.inf).amax(1)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_vectors_are_those_of_transformers(name, folders, pooling):
    folder = folders[name]["encoder"]
    states, mask, _ = hidden_states(folder, TEXTS[:4])
    for layer in (-1, 0, 1):
        expected = pooled(states[layer], mask, pooling).numpy()
        vectors = embedder(folder, pooling=pooling, layer=layer).fit_transform(TEXTS[:4])
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    unit = embedder(folder, pooling=pooling, layer=1, normalize=True).fit_transform(TEXTS[:4])
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected / lengths, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", WITH_POOLER)
def test_the_pooler_is_that_of_transformers(name, folders):
    folder = folders[name]["encoder"]
    *_, found = hidden_states(folder, TEXTS[:4])
    vectors = embedder(folder, pooling="pooler").fit_transform(TEXTS[:4])
    np.testing.assert_allclose(vectors, found.pooler_output.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", WITHOUT_POOLER)
def test_a_family_without_pooler_is_refused_by_name(name, folders):
    folder = folders[name]["encoder"]
    able = [*WITH_POOLER, *(n for n, family in PADDED_FAMILIES.items() if family.pooler)]
    message = (
        f"pooling='pooler', but model={folder!r} has model_type={name!r}, and its family has no "
        f"pooler; allowed is model_type in {able}. Choose pooling='cls', 'mean' or 'max', or such "
        "a model."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        embedder(folder, pooling="pooler").fit(TEXTS)


def test_each_token_has_its_vector(name, folders):
    folder = folders[name]["encoder"]
    states, mask, _ = hidden_states(folder, TEXTS[:4])
    found = embedder(folder, layer=1).fit(TEXTS).token_embeddings(TEXTS[:4])
    for text, own_states, own_mask in zip(found, states[1], mask[..., 0], strict=True):
        expected = own_states[own_mask.bool()].numpy()
        assert len(text.tokens) == len(expected)
        np.testing.assert_allclose(text.vectors, expected, rtol=0, atol=1e-5)


def test_pairs_have_vectors(name, folders):
    folder = folders[name]["encoder"]
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pairs = [["a film", "it was bad"], ["great", "i loved it , ever"]]
    inputs = tokenizer(
        *map(list, zip(*pairs, strict=True)),
        padding=True,
        return_tensors="pt",
        return_token_type_ids=families.n_segments(model.config) is not None,
    )
    with torch.no_grad():
        expected = model.eval()(**inputs).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(embedder(folder).fit_transform(pairs), expected, rtol=0, atol=1e-5)


def test_vectors_in_bfloat16_and_in_a_pickle(name, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    folder = shutil.copytree(folders[name]["encoder"], tmp_path / "model")
    exact = embedder(str(folder), store_weights=True)
    vectors = exact.fit_transform(TEXTS)
    rounded = embedder(str(folder), precision="bfloat16").fit_transform(TEXTS)
    assert 0 < np.abs(vectors - rounded).mean() < 0.1
    content = pickle.dumps(exact)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(pickle.loads(content).transform(TEXTS), vectors)


def test_a_folder_keeps_the_vectors_of_all_families_apart(folders, tmp_path):
    first = {}
    for pooling in ("mean", "cls", "mean"):
        for name in FAMILIES:
            model = embedder(folders[name]["encoder"], pooling=pooling, cache=str(tmp_path))
            vectors = model.fit_transform(TEXTS)
            np.testing.assert_array_equal(first.setdefault((name, pooling), vectors), vectors)
        assert model.cache_info_.misses == 4 * len(FAMILIES)
    for name in FAMILIES:
        expected = embedder(folders[name]["encoder"], pooling="cls").fit_transform(TEXTS)
        np.testing.assert_allclose(first[name, "cls"], expected, rtol=0, atol=1e-6)


def test_vectors_of_other_settings_are_not_mixed_up(name, folders, tmp_path):
    """Without another key for other settings, the cache would return the vectors of before."""
    folder = Path(shutil.copytree(folders[name]["encoder"], tmp_path / "model"))
    plain = json.loads((folder / "config.json").read_text())
    own_name = FAMILIES[name].setting
    changes = [{}, {own_name("hidden_act"): "relu"}]
    if "layer_norm_eps" in plain:  # a DistilBERT has always the same
        changes.append({"layer_norm_eps": 0.5})
    found = []
    for change in changes:
        (folder / "config.json").write_text(json.dumps(plain | change))
        model = embedder(str(folder), cache=str(tmp_path / "cache"))
        found.append(model.fit_transform(TEXTS[:4]))
    for vectors in found[1:]:
        assert np.abs(vectors - found[0]).max() > 1e-3
    np.testing.assert_allclose(embedder(str(folder)).fit_transform(TEXTS[:4]), found[-1], atol=1e-6)


def test_layers_that_share_groups_otherwise_have_other_vectors(folders, tiny_bert, tmp_path):
    """Layer 2 of four is in the first of two groups, and of two layers in the second."""
    config = load_config(folders["albert"]["encoder"])
    config.num_hidden_groups = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AlbertModel(config)
    folder = Path(saved(model, tmp_path / "model", tiny_bert))
    before = embedder(str(folder), layer=2, cache=str(tmp_path / "cache")).fit_transform(TEXTS)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 4}))
    after = embedder(str(folder), layer=2, cache=str(tmp_path / "cache")).fit_transform(TEXTS)
    assert np.abs(after - before).max() > 1e-3
