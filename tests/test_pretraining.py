"""BertPretrainer: both tasks on small texts, folders for transformers, pickles, errors."""

import copy
import pickle
import re
import shutil
import warnings
from unittest import mock

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, BertModel, pipeline

from skbert import (
    BertEmbeddingTransformer,
    BertPretrainer,
    BertSentimentClassifier,
    TruncationWarning,
)
from skbert.engine.files.pretrained import load_config, load_pretrained
from skbert.engine.files.tokenizer_files import fill_masks
from skbert.engine.files.weights import pretraining_weights
from skbert.engine.training.loop import Trainer
from skbert.engine.training.masked_lm import draw_texts
from tests.conftest import save_bert

DOCUMENTS = [
    ["a good film", "it was great fun", "i loved it"],
    ["boring", "the best nap of my life"],
    ["i hate this movie", "very bad", "waste"],
    ["not dull at all"],
] * 4
TEXTS = [". ".join(document) + "." for document in DOCUMENTS]
SINGLE = ["so dull", "what a joy", "", "not very good and not very bad"] * 4


def pretrainer(model, **parameters):
    defaults = {"max_length": 32, "max_epochs": 2, "batch_size": 8, "random_state": 0}
    return BertPretrainer(model, **(defaults | {"learning_rate": 1e-3} | parameters))


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return pretrainer(tiny_bert).fit(DOCUMENTS)


def clone_fitted(fitted):
    return pickle.loads(pickle.dumps(fitted))


def config(**sizes):
    defaults = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = {"vocab_size": 80, "intermediate_size": 64, "max_position_embeddings": 64}
    return BertConfig(**(defaults | settings | sizes))


def state_hash(fitted):
    weights = pretraining_weights(fitted.model_)
    return joblib.hash({name: weight.detach().numpy() for name, weight in weights.items()})


# fit ----------------------------------------------------------------------------------------------


def test_history_by_hand(fitted):
    assert fitted.n_epochs_ == len(fitted.history_) == 2
    for number, record in enumerate(fitted.history_, start=1):
        assert record["epoch"] == number
        assert record["perplexity"] == pytest.approx(np.exp(record["masked_loss"]))
        both = record["masked_loss"] + record["next_sentence_loss"]
        assert record["train_loss"] == pytest.approx(both)
        assert 0 <= record["next_sentence_accuracy"] <= 1
        assert {type(value) for value in record.values()} <= {int, float}


def test_an_epoch_has_a_pair_for_each_sentence_that_has_a_successor(tiny_bert):
    words = ["good", "bad", "fun"]
    documents = [[words[i % 3]] * (i % 4 + 1) for i in range(8)]  # 1, 2, 3, 4 sentences of 1 token
    clf = pretrainer(tiny_bert, max_epochs=1).fit(documents)
    # pairs of two words and three special tokens, and two words alone
    assert clf.history_[0]["n_tokens"] == 2 * (1 + 2 + 3) * 5 + 2 * 3


def test_texts_are_split_into_sentences(tiny_bert, fitted):
    again = pretrainer(tiny_bert).fit([f"{'. '.join(document)}." for document in DOCUMENTS])
    assert "next_sentence_loss" in again.history_[0]
    lists = pretrainer(tiny_bert).fit([[f"{s}." for s in document] for document in DOCUMENTS])
    assert state_hash(again) == state_hash(lists)


def test_without_next_sentence_the_pairs_head_is_left_alone(tiny_bert):
    clf = pretrainer(tiny_bert, next_sentence=False).fit(TEXTS)
    assert "next_sentence_loss" not in clf.history_[0]
    untrained = pretrainer(tiny_bert, next_sentence=False, max_epochs=0).fit(TEXTS)
    trained, drawn = clf.model_.state_dict(), untrained.model_.state_dict()
    for name in ("cls.seq_relationship.weight", "bert.pooler.dense.weight"):
        assert torch.equal(trained[name], drawn[name])
    assert not torch.equal(trained["cls.predictions.bias"], drawn["cls.predictions.bias"])


def test_texts_of_one_sentence_switch_it_off_and_say_so_once(tiny_bert):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf = pretrainer(tiny_bert).fit(SINGLE)
    (warning,) = caught
    assert str(warning.message) == (
        "next_sentence=True, but none of the 16 texts has several sentences. fit trains masked "
        "language modelling alone. Pass documents of several sentences, or set "
        "next_sentence=False."
    )
    with pytest.raises(ValueError, match=r"Next sentence prediction is not trained: .* Fit with"):
        clf.predict_next_sentence([("a", "b")])


@pytest.mark.parametrize("others", [[], [["good"]], [["good", ""], ["bad", "\t", ""]]])
def test_one_document_of_several_sentences_switches_it_off(tiny_bert, others):
    n = 1 + len(others)
    with pytest.warns(UserWarning, match=f"only 1 of the {n} texts has several sentences, and fal"):
        clf = pretrainer(tiny_bert).fit([["a good film", "so dull", "fun"], *others])
    assert "next_sentence_loss" not in clf.history_[0]


def test_all_words_of_documents_are_read_in_each_epoch(tiny_bert):
    documents = [["good " * 40, "bad"], ["so dull", "fun " * 70, "a good film"], ["bad"]] * 3
    seen = []

    def spy(texts, *args, draw=draw_texts):
        seen.append(draw(texts, *args))
        return seen[-1]

    with mock.patch("skbert.engine.training.masked_lm.draw_texts", spy):
        clf = pretrainer(tiny_bert, max_epochs=3, random_state=0).fit(documents)
    words = clf.tokenizer_.get_vocab()
    n_words = {"good": 41 * 3, "fun": 70 * 3, "bad": 2 * 3, "dull": 3}
    for texts in seen:
        masked = texts.masked
        ids = np.where(masked.targets >= 0, masked.targets, masked.tokens.ids)
        counts = np.bincount(ids, minlength=len(words))
        assert all(counts[words[word]] >= n for word, n in n_words.items())
        assert texts.lengths.max() <= clf.max_length
    assert len({len(texts.labels) for texts in seen}) == 1
    # one draw to plan the steps, and another in each epoch
    assert len({texts.masked.targets.tobytes() for texts in seen}) == len(seen) == 4


def test_nothing_is_left_out_of_long_texts(tiny_bert):
    long = " ".join(["good"] * 100)  # 30 word pieces fit in each part: 4 parts of 25
    clf = pretrainer(tiny_bert, next_sentence=False, max_epochs=1).fit([long, "bad"])
    assert clf.history_[0]["n_tokens"] == 100 + 4 * 2 + 3


def test_fit_leaves_global_random_states_alone(tiny_bert):
    before = torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    pretrainer(config(), max_epochs=1).fit(DOCUMENTS)
    after = torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    assert before == after


def test_it_learns_the_words_and_the_order(tiny_bert):
    rng = np.random.default_rng(0)
    topics = [["good", "great", "fun"], ["bad", "dull", "awful"], ["hate", "hated", "waste"]]
    documents = [[" ".join(rng.choice(topics[i % 3], 4)) for _ in range(3)] for i in range(90)]
    settings = {"max_epochs": 12, "learning_rate": 3e-3, "dropout": 0.0}
    clf = pretrainer(tiny_bert, **settings).fit(documents)
    first, last = clf.history_[0], clf.history_[-1]
    assert last["masked_loss"] < 1.5 < first["masked_loss"]  # of 3 equal words: 1.1
    pairs = [("good fun great good", "fun fun great good"), ("good fun great good", "bad dull bad")]
    is_next, not_next = clf.predict_next_sentence(pairs)
    assert is_next > 0.7 and not_next < 0.2
    guessed = clf.fill_mask("good [MASK] fun great", top_k=3)
    assert {*guessed.words[0]} == {*topics[0]}
    unseen = [" ".join(rng.choice(topics[i % 3], 4)) for i in range(30)]
    assert clf.score(unseen) > pretrainer(tiny_bert, max_epochs=0).fit(documents).score(unseen)


def test_whole_words_and_the_share_change_what_is_learned(tiny_bert, fitted):
    hashes = {
        state_hash(pretrainer(tiny_bert, **p).fit(DOCUMENTS))
        for p in ({"whole_words": True}, {"mask_fraction": 0.4})
    }
    assert len(hashes | {state_hash(fitted)}) == 3


def test_a_learning_rate_that_is_too_high_keeps_the_last_good_weights(tiny_bert):
    with pytest.warns(ConvergenceWarning, match=r"not finite in step \d+"):
        clf = pretrainer(tiny_bert, learning_rate=1e30).fit(DOCUMENTS)
    assert all(np.isfinite(w.detach().numpy()).all() for w in clf.model_.parameters())


# where it starts ----------------------------------------------------------------------------------


def test_a_new_head_starts_from_the_embeddings_and_the_frequencies(tiny_bert):
    clf = pretrainer(tiny_bert, max_epochs=0, next_sentence=False).fit(["good bad good", "fun"])
    predictions = clf.model_.cls.predictions
    assert torch.equal(predictions.transform.dense.weight, torch.eye(32))
    table = clf.model_.bert.embeddings.word_embeddings.weight
    assert predictions.decoder.weight is table
    good, bad, fun, dull, cls = clf.tokenizer_.convert_tokens_to_ids(
        ["good", "bad", "fun", "dull", "[CLS]"]
    )
    n_pieces = len(predictions.bias)
    shares = predictions.bias.detach().exp()
    assert shares[[good, bad, fun, dull, cls]].numpy() == pytest.approx(
        np.array([2.1, 1.1, 1.1, 0.1, 0.1]) / (4 + 0.1 * n_pieces), rel=1e-5
    )


def saved_pretraining_model(folder, source, prefixes=("cls.", "bert.")):
    """A checkpoint with (some of) the heads, written by transformers."""
    module = BertForPreTraining(load_config(source))
    module.save_pretrained(
        folder,
        state_dict={
            name: weight
            for name, weight in module.state_dict().items()
            if name.startswith(prefixes)
        },
    )
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return module.eval()


def test_the_heads_of_a_checkpoint_are_used(tiny_bert, tmp_path):
    module = saved_pretraining_model(tmp_path, tiny_bert)
    clf = pretrainer(str(tmp_path), max_epochs=0, next_sentence=False).fit(["fun"])
    ours, theirs = clf.model_.state_dict(), module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(["good fun"], ["so dull"], return_tensors="pt")
    with torch.no_grad():
        logits = module(**inputs).seq_relationship_logits
    (probability,) = clf.predict_next_sentence([("good fun", "so dull")])
    assert probability == pytest.approx(logits.softmax(1)[0, 0].item(), abs=1e-5)


def test_a_checkpoint_that_has_only_the_head_for_words(tiny_bert, tmp_path):
    module = saved_pretraining_model(tmp_path, tiny_bert, ("cls.predictions.", "bert."))
    clf = pretrainer(str(tmp_path), max_epochs=0, next_sentence=False).fit(["fun"])
    for name, weight in module.cls.predictions.state_dict().items():
        assert torch.equal(clf.model_.cls.predictions.state_dict()[name], weight), name
    with pytest.raises(ValueError, match="the checkpoint has no head for it"):
        clf.predict_next_sentence([("good fun", "so dull")])


@pytest.mark.parametrize("pooler", ["bert.pooler.", "no pooler"])
def test_a_checkpoint_that_has_only_the_head_for_pairs(tiny_bert, tmp_path, pooler):
    parts = ("cls.seq_relationship.", "bert.embeddings.", "bert.encoder.", pooler)
    module = saved_pretraining_model(tmp_path, tiny_bert, parts)
    clf = pretrainer(str(tmp_path), max_epochs=0, next_sentence=False).fit(["fun"])
    ours = clf.model_.cls
    assert torch.equal(ours.predictions.transform.dense.weight, torch.eye(32))  # a new one
    kept = torch.equal(ours.seq_relationship.weight, module.cls.seq_relationship.weight)
    assert kept is (pooler != "no pooler")  # without what it reads, the head is of no use
    if kept:
        assert 0 < clf.predict_next_sentence([("good fun", "so dull")])[0] < 1


def test_fill_mask_is_that_of_transformers(tiny_bert, tmp_path):
    saved_pretraining_model(tmp_path, tiny_bert)
    clf = pretrainer(str(tmp_path), max_epochs=0, next_sentence=False).fit(["fun"])
    texts = ["a [MASK] film", "that's [MASK] she [MASK], not very good"]
    reference = pipeline("fill-mask", str(tmp_path), device="cpu")(texts, top_k=4)
    ours = clf.fill_mask(texts, top_k=4)
    places = [reference[0], *reference[1]]
    words = [words for filled in ours for words in filled.words]
    probabilities = np.concatenate([filled.probabilities for filled in ours])
    assert words == [[guess["token_str"] for guess in guesses] for guesses in places]
    np.testing.assert_allclose(
        probabilities, [[guess["score"] for guess in guesses] for guesses in places], atol=1e-6
    )


def test_a_vocabulary_and_a_model_from_nothing():
    given = config(vocab_size=50)
    clf = pretrainer(given, max_epochs=1).fit(DOCUMENTS)
    assert given.vocab_size == 50 and clf.model is given
    pieces = clf.tokenizer_.get_vocab()
    assert clf.model_.config.vocab_size == len(pieces) <= 50 and "[MASK]" in pieces
    table = clf.model_.bert.embeddings.word_embeddings.weight
    assert table.shape == (len(pieces), 32)
    assert 0.015 < table.std().item() < 0.025
    again = pretrainer(given, max_epochs=1).fit(DOCUMENTS)
    assert again.tokenizer_.get_vocab() == pieces and state_hash(again) == state_hash(clf)
    assert clone(clf).model.to_dict() == given.to_dict()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tie_word_embeddings": False}, "has tie_word_embeddings=False. skbert ties the masked-"),
        ({"hidden_act": "no such"}, "has hidden_act='no such', but it must be the name of an act"),
        ({"num_attention_heads": 5}, "has num_attention_heads=5, but it must be a divisor of hid"),
    ],
)
def test_sizes_that_no_bert_has_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        pretrainer(config(**setting)).fit(DOCUMENTS)


def test_words_without_utf8_are_read_as_elsewhere():
    texts = ["good \ud800 film", "a good day"] * 3
    clf = pretrainer(config(), next_sentence=False, max_epochs=1).fit(texts)
    assert "good" in clf.tokenizer_.get_vocab() and np.isfinite(clf.score(texts))


def test_a_decoder_is_refused():
    with pytest.raises(ValueError, match=r"'model=BertConfig\(...\)' has is_decoder=True"):
        pretrainer(config(is_decoder=True)).fit(DOCUMENTS)


# fill_mask, predict_next_sentence, score, transform -----------------------------------------------


def test_fill_mask_of_one_text_and_of_several(fitted):
    alone = fitted.fill_mask("a [MASK] film, not [MASK]", top_k=3)
    assert [len(words) for words in alone.words] == [3, 3]
    assert alone.probabilities.shape == (2, 3)
    assert (np.diff(alone.probabilities, axis=1) <= 0).all()
    together = fitted.fill_mask(["[MASK]", "a [MASK] film, not [MASK]", "fun [MASK]"], top_k=3)
    assert [len(filled.words) for filled in together] == [1, 2, 1]
    assert together[1].text == alone.text and together[1].words == alone.words
    np.testing.assert_allclose(together[1].probabilities, alone.probabilities, atol=1e-6)
    first, second = (words[0] for words in alone.words)
    expected = f"a {first} film, not {second}".replace(" ##", "")
    assert alone.text == expected


def test_a_piece_joins_the_word_before_it(fitted):
    filled = fill_masks(fitted.tokenizer_, "play [MASK] is [MASK]!", ["##ing", "fun"])
    assert filled == "playing is fun!"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no gap", r"Text 1 has 0 '\[MASK\]', of which 0 are within max_length=32"),
        ("good " * 12 + "[MASK]" + " bad" * 60, r"Text 1 has 1 '\[MASK\]', of which 0 .* max_len"),
    ],
)
@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_a_mask_must_be_there_and_be_read(fitted, text, message):
    with pytest.raises(ValueError, match=message):
        fitted.fill_mask(["[MASK]", text])


@pytest.mark.parametrize("top_k", [0, 10**6, 2.5, True])
def test_top_k_must_be_possible(fitted, top_k):
    with pytest.raises(ValueError, match=re.escape(f"top_k={top_k!r}; allowed are integers")):
        fitted.fill_mask("[MASK]", top_k=top_k)


def test_pairs_in_any_container_and_any_order(fitted):
    pairs = [("a good film", "it was fun"), ("boring", "very bad"), ("", "a"), ("fun", "")]
    expected = fitted.predict_next_sentence(pairs)
    assert expected.shape == (4,) and ((0 < expected) & (expected < 1)).all()
    for container in (pd.DataFrame(pairs), np.array(pairs, dtype=object), [*map(list, pairs)]):
        np.testing.assert_array_equal(fitted.predict_next_sentence(container), expected)
    np.testing.assert_allclose(fitted.predict_next_sentence(pairs[::-1]), expected[::-1], atol=1e-6)
    message = (
        "pairs contains single texts, but pairs of texts are expected. Pass two columns, or a list "
        "of (first, second)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fitted.predict_next_sentence(["a", "b"])


def test_ids_that_are_no_word_pieces_are_never_guessed(tmp_path):
    """Some checkpoints have more rows than pieces, to make their number a round one."""
    source = save_bert(tmp_path / "plain")
    module = BertModel.from_pretrained(source)
    n_pieces = module.config.vocab_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.resize_token_embeddings(n_pieces + 21, mean_resizing=False)
        module.embeddings.word_embeddings.weight.data[n_pieces:] *= 20  # the likeliest by far
    module.save_pretrained(source)
    clf = pretrainer(str(source), max_epochs=0, next_sentence=False).fit(["so dull"])
    assert clf.model_.config.vocab_size == n_pieces + 21
    filled = clf.fill_mask("so [MASK]", top_k=n_pieces)
    assert {*filled.words[0]} == {*clf.tokenizer_.get_vocab()}
    assert filled.probabilities.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(
        ValueError, match=f"allowed are integers from 1 to {n_pieces}, the number of word"
    ):
        clf.fill_mask("so [MASK]", top_k=n_pieces + 1)


def test_scores_can_be_compared_whatever_was_masked_in_training(fitted):
    score = fitted.score(TEXTS)
    for parameters in ({"mask_fraction": 0.4}, {"whole_words": True}):
        assert clone_fitted(fitted).set_params(**parameters).score(TEXTS) == score


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_long_pairs_are_read_where_they_meet(fitted):
    end, begin = "good " * 14, "bad " * 15  # with three special tokens 32
    (expected,) = fitted.predict_next_sentence([(end, begin)])
    (found,) = fitted.predict_next_sentence([("fun " * 20 + end, begin + "dull " * 20)])
    assert found == pytest.approx(expected, abs=1e-6)
    (other,) = fitted.predict_next_sentence([("fun " * 20, begin)])
    assert abs(other - expected) > 1e-5


def test_score_is_the_same_each_time_and_of_documents_or_texts(fitted):
    score = fitted.score(SINGLE)
    assert score < 0 and fitted.score(SINGLE) == score
    documents = [[" ".join(document)] for document in DOCUMENTS]
    assert fitted.score(DOCUMENTS) == fitted.score(documents)


def test_vectors_are_those_of_the_saved_model(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    vectors = fitted.transform(SINGLE)
    assert vectors.shape == (16, 32) and vectors.dtype == np.float32
    other = BertEmbeddingTransformer(str(tmp_path / "model"), pooling="mean", max_length=32)
    np.testing.assert_allclose(vectors, other.fit_transform(SINGLE), atol=1e-6)
    frame = fitted.set_output(transform="pandas").transform(SINGLE)
    fitted.set_output(transform="default")
    assert [*frame.columns[:2]] == ["bertpretrainer0", "bertpretrainer1"]
    with pytest.warns(TruncationWarning, match="1 of 1 texts are longer than max_length=32"):
        copy.deepcopy(fitted).transform(["good " * 50])


def test_a_search_by_score(tiny_bert):
    search = GridSearchCV(
        pretrainer(tiny_bert, next_sentence=False), {"learning_rate": [1e-5, 1e-2]}, cv=2
    )
    search.fit(TEXTS)
    assert search.best_params_ == {"learning_rate": 1e-2}


def test_a_search_over_documents(tiny_bert):
    search = GridSearchCV(pretrainer(tiny_bert), {"max_epochs": [0, 8]}, cv=2)
    search.fit(DOCUMENTS)
    assert search.best_params_ == {"max_epochs": 8}
    assert "next_sentence_loss" in search.best_estimator_.history_[0]


def test_it_is_a_step_of_a_pipeline(tiny_bert, toy_reviews):
    X, y = toy_reviews
    step = pretrainer(tiny_bert, next_sentence=False)
    pipe = make_pipeline(step, LogisticRegression()).fit(X, y)
    alone = clone(step).fit(X)
    expected = LogisticRegression().fit(alone.transform(X), y).predict_proba(alone.transform(X))
    np.testing.assert_allclose(pipe.predict_proba(X), expected, atol=1e-6)


def test_an_interrupted_fit_leaves_the_estimator_as_it_was(tiny_bert, monkeypatch):
    clf = pretrainer(tiny_bert).fit(DOCUMENTS)
    before, history = state_hash(clf), clf.history_
    plain, taken = Trainer.step, []

    def step(self, *arguments):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(DOCUMENTS[::-1])
    assert state_hash(clf) == before and clf.history_ is history


# saved --------------------------------------------------------------------------------------------


def test_the_folder_is_that_of_transformers(fitted, tmp_path):
    folder = tmp_path / "model"
    fitted.save_pretrained(folder)
    module, loading = BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    module.eval()
    inputs = AutoTokenizer.from_pretrained(folder)(
        ["a [MASK] film", "so dull"], ["it was [MASK] fun", ""], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        theirs, ours = module(**inputs), fitted.model_(**inputs)
    for name in ("prediction_logits", "seq_relationship_logits"):
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=0)
    (probability,) = fitted.predict_next_sentence([("a [MASK] film", "it was [MASK] fun")])
    expected = theirs.seq_relationship_logits.softmax(1)[0, 0].item()
    assert probability == pytest.approx(expected, abs=1e-6)
    single = AutoTokenizer.from_pretrained(folder)("a [MASK] film", return_tensors="pt")
    with torch.no_grad():
        logits = module(**single).prediction_logits
    expected = logits[single["input_ids"] == fitted.tokenizer_.mask_token_id].softmax(1).topk(5)
    filled = fitted.fill_mask("a [MASK] film")
    np.testing.assert_allclose(filled.probabilities, expected.values, rtol=0, atol=1e-6)
    words = fitted.tokenizer_.convert_ids_to_tokens(expected.indices[0].tolist())
    assert filled.words == [words]


def test_random_heads_are_not_used_as_trained_ones(tmp_path):
    folder = str(tmp_path / "model")
    pretrainer(config(), next_sentence=False).fit(TEXTS).save_pretrained(folder)
    words_only = pretrainer(folder, max_epochs=0, next_sentence=False).fit(TEXTS)
    with pytest.raises(ValueError, match="Next sentence prediction is not trained"):
        words_only.predict_next_sentence([("a", "b")])
    embedder = BertEmbeddingTransformer(folder, pooling="pooler", max_length=32)
    with pytest.raises(ValueError, match="pooler"):
        embedder.fit_transform(["a"])
    # transformers finds all that its module has
    _, loading = BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]

    pretrainer(folder).fit(DOCUMENTS).save_pretrained(folder)  # now with pairs
    both = pretrainer(folder, next_sentence=False, max_epochs=1).fit(TEXTS)
    both.save_pretrained(folder)  # what is known stays known
    again = pretrainer(folder, next_sentence=False, max_epochs=0).fit(TEXTS)
    assert again.predict_next_sentence([("a", "b")]) == both.predict_next_sentence([("a", "b")])
    assert embedder.fit_transform(["a"]).shape == (1, 32)


def test_a_pooler_without_a_head_is_kept(tiny_bert, tmp_path):
    clf = pretrainer(tiny_bert, next_sentence=False).fit(TEXTS)
    clf.save_pretrained(tmp_path / "model")
    found = load_pretrained(str(tmp_path / "model"))
    assert torch.equal(found.pooler["weight"], clf.model_.bert.pooler.dense.weight)
    assert not any("seq_relationship" in name for name in found.heads)


def test_a_random_head_for_words_starts_from_the_embeddings_again(tiny_bert, tmp_path):
    folder = str(tmp_path / "model")
    pretrainer(tiny_bert, next_sentence=False, max_epochs=0).fit(["good"]).save_pretrained(folder)
    again = pretrainer(folder, next_sentence=False, max_epochs=0).fit(["bad"])
    good, bad = again.tokenizer_.convert_tokens_to_ids(["good", "bad"])
    bias = again.model_.cls.predictions.bias
    assert bias[bad] > bias[good]  # the frequencies of its own texts
    again.set_params(max_epochs=1).fit(["bad"]).save_pretrained(folder)
    trained = pretrainer(folder, next_sentence=False, max_epochs=0).fit(["good"])
    assert torch.equal(trained.model_.cls.predictions.bias, again.model_.cls.predictions.bias)


def test_what_was_only_drawn_is_known_without_the_manifest_too(tmp_path):
    """As where a folder comes by way of the hub, from which `skbert.json` is not taken."""
    folder = tmp_path / "model"
    pretrainer(config(), next_sentence=False).fit(TEXTS).save_pretrained(folder)
    (folder / "skbert.json").unlink()
    found = load_pretrained(str(folder))
    assert not found.pooler and not any("seq_relationship" in name for name in found.heads)
    assert any("predictions" in name for name in found.heads)


def test_a_decoder_of_its_own_is_refused(tiny_bert, tmp_path, toy_reviews):
    module = BertForPreTraining(load_config(tiny_bert))
    weights = {name: weight.clone() for name, weight in module.state_dict().items()}
    weights["cls.predictions.decoder.weight"] += 1
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = r"decoder\.weight', differs from the word embeddings; .* transformers\.BertModel"
    with pytest.raises(ValueError, match=message):
        pretrainer(str(tmp_path)).fit(DOCUMENTS)
    X, y = toy_reviews
    clf = BertSentimentClassifier(str(tmp_path), max_length=32, max_epochs=1)
    assert clf.fit(X, y).predict(X).shape == (80,)  # which has no use for that head
    table = weights["bert.embeddings.word_embeddings.weight"]
    weights["cls.predictions.decoder.weight"] = table.clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert pretrainer(str(tmp_path), max_epochs=0).fit(DOCUMENTS).score(TEXTS) < 0


def test_the_folder_is_a_model_for_the_other_estimators(fitted, tmp_path, toy_reviews):
    folder = str(tmp_path / "model")
    fitted.save_pretrained(folder)
    settings = {"max_length": 32, "max_epochs": 1, "random_state": 0, "learning_rate": 1e-12}
    clf = BertSentimentClassifier(folder, dropout=0.0, **settings).fit(*toy_reviews)
    for name, weight in clf.model_.state_dict().items():
        torch.testing.assert_close(
            weight, fitted.model_.bert.state_dict()[name], rtol=0, atol=1e-8, msg=name
        )
    embedder = BertEmbeddingTransformer(folder, pooling="pooler", max_length=32)
    assert embedder.transform(["fun"]).shape == (1, 32)
    again = pretrainer(folder, max_epochs=0, next_sentence=False).fit(["fun"])
    assert state_hash(again) == state_hash(fitted)
    assert again.predict_next_sentence([("a", "b")]) == fitted.predict_next_sentence([("a", "b")])
    with pytest.raises(ValueError, match="contains a pretraining model, not a classifier"):
        BertSentimentClassifier.from_pretrained(folder)
    fitted.save_pretrained(folder)  # replaces its own
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"contains 'notes\.txt'"):
        fitted.save_pretrained(folder)


def test_a_pickle_has_no_tensors_and_predicts_the_same(fitted):
    state = fitted.__getstate__()
    assert isinstance(state["model_"], dict) and "_subword_tokenizer" not in state
    assert all(isinstance(array, np.ndarray) for array in state["model_"]["weights"].values())
    assert not any("decoder" in name for name in state["model_"]["weights"])
    pickled = pickle.dumps(fitted)
    assert b"torch._utils" not in pickled and b"_rebuild_tensor" not in pickled
    again = pickle.loads(pickled)
    filled, expected = again.fill_mask("a [MASK] film"), fitted.fill_mask("a [MASK] film")
    assert filled.words == expected.words
    np.testing.assert_array_equal(again.transform(SINGLE), fitted.transform(SINGLE))
    predictions = again.model_.cls.predictions
    assert predictions.decoder.weight is again.model_.bert.embeddings.word_embeddings.weight


# bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("one text", TypeError, "X is a single str, 'one text'"),
        ([], ValueError, "X has 0 texts"),
        ([["a", "b"], "c"], ValueError, r"X\[1\] is 'c' \(str\), but X\[0\] is a list"),
        ([["a", "b"], []], ValueError, r"X\[1\] is an empty list; a document is a list of at"),
        ([[], ["a"]], ValueError, r"X\[0\] is an empty list; a document is a list of at least"),
        ([["a", None]], ValueError, r"X\[0\]\[1\] is None \(NoneType\); every text must be a str"),
        ([["a", 3]], TypeError, r"X\[0\]\[1\] is 3 \(int\); every text must be a str"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), ValueError, "X has two columns"),
        (["", ""], ValueError, "The texts contain only special tokens"),
    ],
)
@pytest.mark.filterwarnings("ignore:next_sentence=True, but none")
def test_bad_texts(tiny_bert, X, error, message):
    with pytest.raises(error, match=message):
        pretrainer(tiny_bert).fit(X)


def test_containers_of_documents(tiny_bert, fitted):
    series = pd.Series([tuple(document) for document in DOCUMENTS])
    assert state_hash(pretrainer(tiny_bert).fit(series)) == state_hash(fitted)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("mask_fraction", 0.0),
        ("mask_fraction", 1.0),
        ("whole_words", "yes"),
        ("next_sentence", 2),
        ("max_length", 4),
        ("max_epochs", -1),
        ("model", None),
    ],
)
def test_bad_parameters(tiny_bert, parameter, value):
    clf = pretrainer(tiny_bert).set_params(**{parameter: value})
    with pytest.raises(ValueError, match=f"The '{parameter}' parameter of BertPretrainer must be"):
        clf.fit(TEXTS)


def test_pairs_need_two_segments(tmp_path, toy_reviews):
    folder = str(save_bert(tmp_path / "model", type_vocab_size=1))
    X, y = toy_reviews
    pairs = list(zip(X, X, strict=True))
    settings = {"max_length": 32}
    words_only = pretrainer(folder, next_sentence=False).fit(TEXTS)
    for call in (
        lambda: pretrainer(folder).fit(TEXTS),
        lambda: BertSentimentClassifier(folder, **settings).fit(pairs, y),
        lambda: BertEmbeddingTransformer(folder, **settings).fit_transform(pairs),
    ):
        with pytest.raises(ValueError, match=r"type_vocab_size=1, but pairs .* need 2 segments"):
            call()
    assert words_only.fill_mask("so [MASK]").words
    assert BertSentimentClassifier(folder, **settings).fit(X, y).predict(X).shape == (80,)


def test_max_length_must_fit_the_model(tiny_bert, fitted):
    message = (
        "max_length=65, but the model has 64 positions; allowed are 5 to 64 tokens, special "
        "tokens included. Lower max_length. fit splits a longer text into several."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pretrainer(tiny_bert, max_length=65).fit(TEXTS)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clone_fitted(fitted).set_params(max_length=65).score(TEXTS)


def test_what_was_cut_is_said_without_a_parameter_that_there_is_not(fitted):
    with pytest.warns(TruncationWarning) as caught:
        copy.deepcopy(fitted).predict_next_sentence([("good " * 50, "bad")])
    (message,) = (str(warning.message) for warning in caught)
    assert message.endswith("% of all. Increase max_length, or pass shorter texts.")


def test_unfitted(tiny_bert, tmp_path):
    clf = pretrainer(tiny_bert)
    for call in (
        lambda: clf.fill_mask("[MASK]"),
        lambda: clf.predict_next_sentence([("a", "b")]),
        lambda: clf.score(TEXTS),
        lambda: clf.transform(TEXTS),
        lambda: clf.save_pretrained(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path):
    folder = save_bert(tmp_path / "maskless")
    settings = folder / "tokenizer_config.json"
    settings.write_text(
        settings.read_text().replace('"mask_token": "[MASK]"', '"mask_token": null')
    )
    with pytest.raises(ValueError, match="The tokenizer has no mask token"):
        pretrainer(str(folder)).fit(TEXTS)
