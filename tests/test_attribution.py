"""`explain`: scores of words that add up, equal captum's, and find what a model looks at."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from skbert import BertSentimentClassifier, TruncationWarning
from skbert.contract.explanation import _is_same
from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES, n_segments, word_embeddings
from skbert.engine.prediction import attribute
from skbert.engine.text.spans import TextPieces
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.text.tokens import Tokens
from tests.padded_folders import save_padded

TEXTS = [
    "this film is not good",
    "so dull",
    "a joy , but my favourite movie ever was not boring",
    "love love love",
]


def fitted(model, reviews, **parameters):
    texts, labels = reviews
    settings = {"max_length": 32, "max_epochs": 4, "batch_size": 16, "learning_rate": 3e-3}
    settings |= {"device": "cpu", "random_state": 0, "pooling": "mean"} | parameters
    return BertSentimentClassifier(model, **settings).fit(texts, labels)


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    return fitted(tiny_bert, toy_reviews, max_epochs=8)


# Words, pieces and their places.


def test_words_of_a_text_by_hand(clf):
    (found,) = clf.explain(["Not good!  xy\n😡"])
    assert found.words == ["Not", "good", "!", "xy", "😡"]
    assert found.word_spans.tolist() == [[0, 3], [4, 8], [8, 9], [11, 13], [14, 15]]
    assert found.pieces[:5] == ["not", "good", "!", "x", "##y"]
    assert found.piece_spans[:5].tolist() == [[0, 3], [4, 8], [8, 9], [11, 12], [12, 13]]
    assert found.piece_words.tolist() == [0, 1, 2, 3, 3, *[4] * (len(found.pieces) - 5)]
    assert len(found.pieces) > 12  # the name of the emoji, letter by letter
    assert {*map(tuple, found.piece_spans[5:].tolist())} == {(14, 15)}
    assert found.word_texts.tolist() == [0] * 5
    assert found.text == "Not good!  xy\n😡" and found.method == "integrated_gradients"


def test_a_word_never_contains_a_space():
    spans = [(0, 2), (2, 5), (5, 6), (6, 6)]
    pieces = TextPieces.of("ab cd,", [3, 4, 5, 6], ["ab", "Ġcd", ",", ""], spans, [0, 0, 0, 0])
    assert pieces.words.tolist() == [0, 1, 1, 1]
    assert pieces.spans.tolist() == [[0, 2], [3, 5], [5, 6], [6, 6]]
    assert pieces.word_spans.tolist() == [[0, 2], [3, 6]]
    kept = pieces.take([2, 3])
    assert kept.words.tolist() == [0, 0] and kept.word_spans.tolist() == [[5, 6]]


def test_white_space_and_shared_characters_make_no_words():
    spans = [(0, 1), (1, 3), (3, 4), (4, 5), (4, 5), (5, 6)]
    names = ["Ġ", "Ġa", "Ġ", "x", "y", "Ċ"]
    pieces = TextPieces.of("  a 👍\n", range(6), names, spans, range(6))
    assert pieces.words.tolist() == [0, 0, 1, 1, 1, 1]
    assert pieces.word_spans.tolist() == [[2, 3], [4, 5]]
    assert pieces.take([3]).word_spans.tolist() == [[4, 5]]
    blank = TextPieces.of("  ", [1], ["ĠĠ"], [(0, 2)], [0])
    assert blank.words.tolist() == [0] and blank.word_spans.tolist() == [[0, 2]]


def test_surrogates_keep_the_places_of_words(clf):
    (found,) = clf.explain(["\ud83d\ude00\ud83d\ude00 good 😡\ud83d bad"], method="occlusion")
    assert found.words[-1] == "bad" and "good" in found.words
    for word, (start, stop) in zip(found.words, found.word_spans.tolist(), strict=True):
        assert found.text[start:stop] == word and word.strip() == word


@pytest.mark.parametrize("kind", ["byte_level", "unigram"])
def test_words_of_other_tokenizers(kind):
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE() if kind == "byte_level" else tokenizers.models.Unigram()
    )
    text = "  good  film\n\nbad 👍👍 好\u3000x \t"
    if kind == "byte_level":
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            special_tokens=["[CLS]", "[SEP]"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        trainer = tokenizers.trainers.UnigramTrainer(
            special_tokens=["[CLS]", "[SEP]", "<unk>"], unk_token="<unk>", show_progress=False
        )
    backend.train_from_iterator([text, "good bad film x"], trainer)
    pieces = SubwordTokenizer(backend.to_str(), "[CLS]", "[SEP]").pieces(text)
    words = [text[start:stop] for start, stop in pieces.word_spans.tolist()]
    assert all(word and not any(char.isspace() for char in word) for word in words)
    assert pieces.words.tolist() == sorted(pieces.words.tolist())
    assert np.all(pieces.word_spans[1:, 0] >= pieces.word_spans[:-1, 1])
    assert "".join(words) == "".join(text.split())


STRANGE = [
    "",
    " ",
    "plain text",
    "naïve café — “so” dull…",
    "好 film 很 good",
    "😡😡 👍🏽 ok",
    "1️⃣ [MASK] [SEP] ©",
    "a\ud800b",
    "\u00a0x\u2003y",
    "e\u0301clair",
]


def test_pieces_have_the_ids_that_the_model_reads(clf):
    for names_emoji in (True, False):
        tokenizer = clf._subword_tokenizer.naming_emoji(names_emoji)
        for text in STRANGE:
            pieces = tokenizer.pieces(text)
            assert pieces.ids.tolist() == tokenizer.tokenize_bare([text]).ids.tolist(), text
            assert np.all(pieces.spans >= 0) and np.all(pieces.spans <= len(text))
            assert np.all(pieces.spans[:, 0] <= pieces.spans[:, 1])


def test_texts_without_pieces(clf):
    for method in ("integrated_gradients", "occlusion"):
        empty, full = clf.explain(["", "dull"], method=method)
        assert empty.words == [] and empty.pieces == [] and empty.word_scores.shape == (0,)
        assert empty.word_spans.shape == (0, 2) and empty.logit == empty.baseline_logit
        assert full.words == ["dull"]


def test_pairs_name_the_text_of_each_word(tiny_bert):
    pairs = [("a film", "so dull"), ("not bad", "a joy")] * 4
    clf = fitted(tiny_bert, (pairs, ["bad", "good"] * 4))
    found = clf.explain(pairs[:2], method="occlusion")[1]
    assert found.text == ("not bad", "a joy")
    assert found.words == ["not", "bad", "a", "joy"] and found.word_texts.tolist() == [0, 0, 1, 1]
    assert found.word_spans.tolist() == [[0, 3], [4, 7], [0, 1], [2, 5]]


def test_words_that_are_cut_are_missing(clf):
    text = " ".join(["good"] * 4 + ["my"] * 40 + ["bad"] * 2)
    with pytest.warns(TruncationWarning, match=re.escape("1 of 1 texts are longer than")):
        (found,) = clf.explain([text], method="occlusion")
    assert len(found.words) == 30 and found.words[:8] == ["good"] * 4 + ["my"] * 3 + ["my"]
    assert found.words[-2:] == ["bad"] * 2 and found.word_spans[-1].tolist() == [144, 147]


# Values.


@pytest.mark.parametrize("target", ["good", "bad"])
def test_scores_add_up_to_the_difference_of_the_logits(clf, target):
    for found in clf.explain(TEXTS, target):
        assert found.target == target
        difference = found.logit - found.baseline_logit
        assert abs(difference) > 0.1
        assert found.word_scores.sum() == pytest.approx(difference, rel=0.01)
        assert found.piece_scores.sum() == pytest.approx(found.word_scores.sum(), rel=1e-12)


def test_logits_are_those_of_the_classifier(clf):
    good, bad = clf.explain(TEXTS, "good"), clf.explain(TEXTS, "bad", "occlusion")
    margins = [g.logit - b.logit for g, b in zip(good, bad, strict=True)]
    np.testing.assert_allclose(margins, clf.decision_function(TEXTS), rtol=0, atol=1e-5)
    hidden = [" ".join(["[MASK]"] * len(found.pieces)) for found in good]
    margins = [g.baseline_logit - b.baseline_logit for g, b in zip(good, bad, strict=True)]
    np.testing.assert_allclose(margins, clf.decision_function(hidden), rtol=0, atol=1e-5)


def captum_scores(clf, text, column, n_steps):
    """Attribute with captum and the module of transformers: (n_tokens,)."""
    from captum.attr import LayerIntegratedGradients

    inputs = clf.tokenizer_([text], return_tensors="pt", return_special_tokens_mask=True)
    ids, special = inputs["input_ids"], inputs["special_tokens_mask"].bool()
    segments = {k: v for k, v in inputs.items() if k == "token_type_ids"}
    if n_segments(clf.model_.config) is None:
        segments = {}

    def logits(ids):
        n = len(ids)
        more = {name: value.expand(n, -1) for name, value in segments.items()}
        states = clf.model_(ids, attention_mask=torch.ones_like(ids), **more).last_hidden_state
        return clf.head_(states[:, 0] if clf.pooling_ == "cls" else states.mean(1))

    neutral = torch.where(special, ids, clf.tokenizer_.mask_token_id)
    method = LayerIntegratedGradients(logits, word_embeddings(clf.model_))
    scores = method.attribute(ids, neutral, target=column, n_steps=n_steps)
    return scores.sum(-1)[0][~special[0]].numpy()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_captum_for_every_packed_family(family_folders, toy_reviews, name, pooling):
    clf = fitted(family_folders[name], toy_reviews, pooling=pooling, max_epochs=1)
    for found in clf.explain(TEXTS[:2], "good", n_steps=20):
        expected = captum_scores(clf, found.text, 1, n_steps=20)
        np.testing.assert_allclose(found.piece_scores, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", PADDED_FAMILIES)
def test_it_is_captum_for_every_padded_family(tmp_path, tiny_bert, toy_reviews, name):
    clf = fitted(save_padded(tmp_path / name, name, tiny_bert), toy_reviews, max_epochs=1)
    for found in clf.explain(TEXTS[:2], "good", n_steps=20):
        expected = captum_scores(clf, found.text, 1, n_steps=20)
        np.testing.assert_allclose(found.piece_scores, expected, rtol=0, atol=1e-4)


@pytest.mark.weights
def test_it_is_captum_for_the_default_model():
    clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment", device="cpu")
    text = "The jokes are tired, but the two leads are a joy to watch."
    (found,) = clf.explain([text], "positive", n_steps=50)
    expected = captum_scores(clf, text, 1, n_steps=50)
    np.testing.assert_allclose(found.piece_scores, expected, rtol=0, atol=1e-3)
    assert found.words[found.word_scores.argmax()] == "joy"


@pytest.mark.weights
def test_the_planted_word_comes_first(real_weights):
    rng = np.random.default_rng(0)
    fillers = "the a this that was is it film movie and i my app good bad".split()
    labels = np.array([0, 1] * 28)
    texts = []
    for label in labels:
        words = rng.choice(fillers, rng.integers(3, 9)).tolist()
        words.insert(rng.integers(0, len(words)), ("blue", "green")[label])
        texts.append(" ".join(words))
    planted = fitted(
        real_weights, (texts[:48], labels[:48]), max_epochs=4, batch_size=8, learning_rate=1e-4
    )
    assert planted.score(texts[48:], labels[48:]) == 1.0
    for method in ("integrated_gradients", "occlusion"):
        found = planted.explain(texts[48:], method=method)
        first = [text.words[text.word_scores.argmax()] for text in found]
        assert first == ["blue", "green"] * 4


def test_occlusion_is_the_prediction_without_the_word(clf):
    (found,) = clf.explain(["not xy boring"], "good", "occlusion")
    variants = ["[MASK] xy boring", "not [MASK] [MASK] boring", "not xy [MASK]"]
    without = [text.logit for text in clf.explain(variants, "good", "occlusion")]
    np.testing.assert_allclose(found.word_scores, found.logit - np.array(without), atol=1e-5)
    assert found.piece_scores[1] == found.piece_scores[2] == found.word_scores[1] / 2


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_a_text_is_explained_by_itself(clf, method, monkeypatch):
    together = clf.explain(TEXTS, method=method)
    alone = [clf.explain([text], method=method)[0] for text in TEXTS]
    monkeypatch.setattr("skbert.contract.explanation._TEXTS_AT_ONCE", 3)
    monkeypatch.setattr(attribute, "TOKENS_WITH_GRADIENTS", 20)
    monkeypatch.setattr(attribute, "_TOKENS_OF_OCCLUSION", 20)
    for one, other, small in zip(together, alone, clf.explain(TEXTS, method=method), strict=True):
        np.testing.assert_allclose(one.piece_scores, other.piece_scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(one.piece_scores, small.piece_scores, rtol=0, atol=1e-5)
        assert one.target == other.target == small.target


def test_batches_with_gradients_are_bounded(clf, monkeypatch):
    sizes = []

    def noting(tokens, rows, pack=attribute.pack):
        batch = pack(tokens, rows)
        sizes.append(len(batch.ids))
        return batch

    monkeypatch.setattr(attribute, "pack", noting)
    clf.explain(["a film " * n for n in range(1, 14)], n_steps=48)
    assert max(sizes) <= attribute.TOKENS_WITH_GRADIENTS and len(sizes) > 15


def test_the_estimator_and_its_weights_stay_as_they_are(clf):
    before = {name: value.clone() for name, value in clf.model_.state_dict().items()}
    gradients = [parameter.grad for parameter in clf.model_.parameters()]
    attributes = {*vars(clf)}
    with torch.inference_mode():
        clf.explain(TEXTS)
    assert {*vars(clf)} == attributes
    assert all(torch.equal(value, before[name]) for name, value in clf.model_.state_dict().items())
    after = [parameter.grad for parameter in clf.model_.parameters()]
    assert all(old is new for old, new in zip(gradients, after, strict=True))


def test_auto_takes_more_steps_where_scores_do_not_add_up(clf, monkeypatch):
    taken = []

    def noting(classifier, tokens, *arguments, integrate=attribute._integrate):
        taken.append((len(tokens), arguments[-1]))
        return integrate(classifier, tokens, *arguments)

    monkeypatch.setattr(attribute, "_integrate", noting)
    monkeypatch.setattr(attribute, "STEPS", (1, 64))
    found = clf.explain(TEXTS)
    assert taken[0] == (4, 1) and taken[1][1] == 64 and taken[1][0] >= 1
    for text in found:
        assert text.word_scores.sum() == pytest.approx(text.logit - text.baseline_logit, rel=0.01)


def test_scores_that_do_not_add_up_are_reported(clf):
    message = (
        "The scores of 4 of 4 texts do not add up to the difference of the logits within 1% or "
        "0.001 with 1 steps. Increase n_steps, or use n_steps='auto', which takes up to 512."
    )
    with pytest.warns(ConvergenceWarning, match=f"^{re.escape(message)}$"):
        clf.explain(TEXTS, n_steps=1)


def test_what_counts_as_complete():
    tokens = Tokens(*(np.zeros(8, dtype=np.int32),) * 3, np.arange(0, 9, 2), np.zeros(4))
    scores = np.array([0.4, 0.595, 0.4, 0.61, 0.011, 0.0, 0.012, 0.0])
    found = attribute.Attributions(
        scores, np.array([1.5, 2.0, 0.0, 0.0]), np.array([0.5, 1.02, -0.01, -0.01])
    )
    assert found.sums(tokens).tolist() == pytest.approx([0.995, 1.01, 0.011, 0.012])
    assert found.is_complete(tokens).tolist() == [True, False, True, False]


def test_it_explains_in_float32(tiny_bert, toy_reviews, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    rough = fitted(tiny_bert, toy_reviews, precision="bfloat16", max_epochs=1)
    exact = rough.explain(TEXTS, "good")
    rough.precision_ = "float32"
    for one, other in zip(exact, rough.explain(TEXTS, "good"), strict=True):
        np.testing.assert_array_equal(one.piece_scores, other.piece_scores)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target": "fine"},
            "target='fine' is not a class of the classifier; allowed are ['bad', 'good']. Pass one "
            "of them, or None for the predicted class of each text.",
        ),
        (
            {"target": 1},
            "target=1 is not a class of the classifier; allowed are ['bad', 'good']. Pass one of "
            "them, or None for the predicted class of each text.",
        ),
        (
            {"method": "gradients"},
            "method='gradients'; allowed are 'integrated_gradients' and 'occlusion'. Choose one of "
            "them.",
        ),
        (
            {"n_steps": 0},
            "n_steps=0; it must be 'auto' or an int from 1 to 1000. Use 'auto' if in doubt.",
        ),
        (
            {"n_steps": np.array([1, 2])},
            "n_steps=array([1, 2]); it must be 'auto' or an int from 1 to 1000. Use 'auto' if in "
            "doubt.",
        ),
        (
            {"method": np.array(["occlusion", "x"])},
            "method=array(['occlusion', 'x'], dtype='<U9'); allowed are 'integrated_gradients' and "
            "'occlusion'. Choose one of them.",
        ),
        (
            {"method": "occlusion", "n_steps": 9},
            "n_steps=9 with method='occlusion', which takes no steps. Leave n_steps at 'auto', or "
            "use method='integrated_gradients'.",
        ),
    ],
)
def test_arguments_that_are_refused(clf, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clf.explain(TEXTS, **arguments)


def test_a_tokenizer_without_neutral_token_is_refused(clf, monkeypatch):
    monkeypatch.setattr(clf, "tokenizer_", SimpleNamespace(mask_token_id=None))
    message = (
        "The tokenizer has no mask token, no unknown token and no padding token; explain needs one "
        "of them to hide words. Use the tokenizer files that belong to the model."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clf.explain(TEXTS)


def test_labels_of_other_types(tiny_bert, toy_reviews):
    texts, labels = toy_reviews
    for values in ((0, 1), (False, True)):
        clf = fitted(tiny_bert, (texts, np.array(values)[(labels == "good").astype(int)]))
        for target in (values[1], clf.classes_[1]):
            (found,) = clf.explain(["so dull"], target, "occlusion")
            assert found.target == values[1] and type(found.target) is type(values[1])
        for target in ("1", None if values[1] is True else True, [1]):
            with pytest.raises(ValueError, match="is not a class of the classifier"):
                clf.explain(["so dull"], target if target is not None else 1)
    assert _is_same(1.0, 1) and _is_same(np.float32(2), 2) and not _is_same(1, True)


def test_it_needs_a_fit():
    with pytest.raises(NotFittedError):
        BertSentimentClassifier().explain(["a"])
