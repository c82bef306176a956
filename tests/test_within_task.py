"""Masked-LM pre-training inside the classifier's fit."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV, cross_val_score

from skbert import BertSentimentClassifier, TruncationWarning
from skbert.engine.training.loop import Trainer
from skbert.engine.training.masked_lm import PretrainingRun

UNLABELLED = ["what a great film", "so dull", "joy and fun and love", "waste of a movie"] * 5


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 1, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


def weights_of(clf):
    return {**clf.model_.state_dict(), **clf.head_.state_dict()}


def same_weights(a, b):
    a, b = weights_of(a), weights_of(b)
    return a.keys() == b.keys() and all(torch.equal(weight, b[name]) for name, weight in a.items())


@pytest.fixture
def seen(monkeypatch):
    """The texts of each pre-training, as lists of tuples of ids."""
    runs = []
    plain = PretrainingRun.__init__

    def noting(self, network, texts, *arguments):
        bounds = zip(texts.offsets, texts.offsets[1:], strict=False)
        runs.append([tuple(texts.ids[start:stop].tolist()) for start, stop in bounds])
        plain(self, network, texts, *arguments)

    monkeypatch.setattr(PretrainingRun, "__init__", noting)
    return runs


def test_history_by_hand(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = classifier(tiny_bert, pretraining_epochs=3).fit(X, y, X_unlabelled=UNLABELLED)
    assert [record["epoch"] for record in clf.pretraining_history_] == [1, 2, 3]
    assert clf.n_epochs_ == len(clf.history_) == 1
    losses = [record["masked_loss"] for record in clf.pretraining_history_]
    assert losses[-1] < losses[0]
    assert "next_sentence_loss" not in clf.pretraining_history_[0]
    without = classifier(tiny_bert, pretraining_epochs=3).fit(X, y)
    n_tokens = [c.pretraining_history_[0]["n_tokens"] for c in (clf, without)]
    assert n_tokens[0] - n_tokens[1] == 5 * (9 + 5 + 7 + 7)  # "what" has four pieces


def test_none_is_the_default_and_then_nothing_is_read(tiny_bert, toy_reviews):
    X, y = toy_reviews
    plain = classifier(tiny_bert).fit(X, y)
    given = classifier(tiny_bert, pretraining_epochs=0).fit(X, y, X_unlabelled=UNLABELLED)
    assert plain.pretraining_history_ == given.pretraining_history_ == []
    assert same_weights(plain, given)


def test_it_changes_the_encoder_and_the_seed_decides_how(tiny_bert, toy_reviews):
    X, y = toy_reviews
    first, again, other, without = (
        classifier(tiny_bert, pretraining_epochs=k, random_state=seed).fit(X, y)
        for k, seed in ((2, 0), (2, 0), (2, 1), (0, 0))
    )
    assert same_weights(first, again)
    assert not same_weights(first, other) and not same_weights(first, without)
    assert {type(first.model_).__name__, type(without.model_).__name__} == {"BertModel"}
    assert weights_of(first).keys() == weights_of(without).keys()


def test_cross_validation_does_not_leak(tiny_bert, toy_reviews, seen):
    X = [f"{text} {'abcdefghijklmnopqrst'[i // 4]}{i % 4}" for i, text in enumerate(toy_reviews[0])]
    clf = classifier(tiny_bert, pretraining_epochs=1)
    cross_val_score(clf, X, toy_reviews[1], cv=4)
    assert [len(run) for run in seen] == [60] * 4
    everything = {text for run in seen for text in run}
    assert len(everything) == 80
    assert all(len(everything - {*run}) == 20 for run in seen)


def test_validation_texts_have_no_part_in_it(tiny_bert, toy_reviews, seen):
    X, y = toy_reviews
    clf = classifier(tiny_bert, pretraining_epochs=1, early_stopping=True, validation_fraction=0.25)
    clf.fit(X, y)
    clf.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:])
    assert [len(run) for run in seen] == [60, 40]


def test_a_search_over_k(tiny_bert, toy_reviews, seen):
    search = GridSearchCV(classifier(tiny_bert), {"pretraining_epochs": [0, 1, 2]}, cv=2)
    search.fit(*toy_reviews, X_unlabelled=UNLABELLED)
    scores = search.cv_results_["mean_test_score"]
    best = search.best_params_["pretraining_epochs"]
    assert best == np.argmax(scores) and len(search.best_estimator_.pretraining_history_) == best
    assert len(seen) == 4 + (best > 0) and {len(run) for run in seen[:4]} == {40 + 20}


def test_pairs(tiny_bert, toy_reviews, seen):
    X, y = toy_reviews
    pairs = pd.DataFrame({"a": X, "b": X[::-1]})
    clf = classifier(tiny_bert, pretraining_epochs=1).fit(pairs, y, X_unlabelled=pairs[:10])
    assert len(seen[0]) == 90 and clf.predict(pairs).shape == (80,)
    message = "^X_unlabelled contains single texts, but X contains pairs of texts. Pass X_unl"
    with pytest.raises(ValueError, match=message):
        clf.fit(pairs, y, X_unlabelled=UNLABELLED)


@pytest.mark.filterwarnings("ignore:.* were truncated:skbert.TruncationWarning")
def test_texts_are_read_whole(tiny_bert, toy_reviews, seen):
    X, y = toy_reviews
    longer = [f"{text} {'good ' * 40}" for text in X]
    rest = ["dull " * 70, "fun"]
    words = " ".join([*longer, *rest]).split()
    clf = classifier(tiny_bert, pretraining_epochs=1).fit(longer, y, X_unlabelled=rest)
    (texts,) = seen
    assert max(map(len, texts)) <= 32
    good, dull = clf.tokenizer_.convert_tokens_to_ids(["good", "dull"])
    ids = [i for text in texts for i in text]
    assert [ids.count(dull), ids.count(good)] == [words.count("dull"), words.count("good")]
    n_long = len(texts)
    clf.set_params(early_stopping=True, validation_fraction=0.5).fit(longer, y, X_unlabelled=rest)
    assert len(seen[1]) < 0.6 * n_long  # no pieces of validation texts


def test_cut_pairs_are_said(tiny_bert, toy_reviews):
    X, y = toy_reviews
    pairs = list(zip(X, X[::-1], strict=True))
    with pytest.warns(TruncationWarning, match="^1 of [0-9]+ texts are longer than max_length=32"):
        classifier(tiny_bert, pretraining_epochs=1).fit(
            pairs, y, X_unlabelled=[("good " * 50, "bad")]
        )


def test_with_frozen_layers_all_are_pretrained_and_then_some_frozen(tiny_bert, toy_reviews):
    frozen = classifier(tiny_bert, pretraining_epochs=1, n_frozen_layers=2).fit(*toy_reviews)
    plain = classifier(tiny_bert, n_frozen_layers=2).fit(*toy_reviews)
    other = classifier(tiny_bert, pretraining_epochs=1, n_frozen_layers=2, max_epochs=2)
    other.fit(*toy_reviews)
    name = "encoder.layer.0.attention.self.query.weight"
    after = [clf.model_.state_dict()[name] for clf in (frozen, plain, other)]
    assert not torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])


def test_a_warm_start_does_not_pretrain_again(tiny_bert, toy_reviews, seen):
    clf = classifier(tiny_bert, pretraining_epochs=1, warm_start=True)
    clf.fit(*toy_reviews).fit(*toy_reviews)
    assert len(seen) == 1


def test_diverging_is_an_error(tiny_bert, toy_reviews):
    with pytest.raises(ArithmeticError, match=r"not finite in step \d+ \(loss"):
        classifier(tiny_bert, pretraining_epochs=1, learning_rate=1e30).fit(*toy_reviews)


@pytest.mark.parametrize("n_steps", [2, 5, 8])
def test_an_interrupted_fit_goes_on(tiny_bert, toy_reviews, tmp_path, monkeypatch, n_steps):
    # 4 steps of pre-training with 100 texts, 3 steps per epoch of fine-tuning with 80 texts
    X, y = toy_reviews
    settings = {"pretraining_epochs": 1, "max_epochs": 2, "batch_size": 32}
    whole = classifier(tiny_bert, **settings).fit(X, y, X_unlabelled=UNLABELLED)
    plain, taken = Trainer.step, []

    def step(self, *arguments):
        taken.append(1)
        if len(taken) == n_steps + 1:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    clf = classifier(tiny_bert, checkpoint_dir=tmp_path, **settings)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y, X_unlabelled=UNLABELLED)
    taken[:] = [0] * 100
    clf.fit(X, y, X_unlabelled=UNLABELLED)
    assert len(taken) - 100 == (3 if n_steps == 8 else 10)  # the checkpoint has one epoch
    assert same_weights(clf, whole)
    assert len(clf.pretraining_history_) == 1 and list(tmp_path.iterdir()) == []
    if n_steps < 8:  # the rest, once: other unlabelled texts make another run
        return
    taken.clear()
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y, X_unlabelled=UNLABELLED)
    taken[:] = [0] * 100
    with pytest.warns(
        UserWarning, match=r"holds 1 run\(s\) with other data, parameters or versions"
    ):
        clf.fit(X, y, X_unlabelled=UNLABELLED[:-1])


def test_folders_and_pickles_keep_it(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = classifier(tiny_bert, pretraining_epochs=1).fit(X, y, X_unlabelled=UNLABELLED)
    clf.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    for again in (loaded, pickle.loads(pickle.dumps(clf))):
        assert again.get_params() == clf.get_params()
        assert again.pretraining_history_ == clf.pretraining_history_
        np.testing.assert_allclose(again.predict_proba(X), clf.predict_proba(X), atol=1e-6)


def test_texts_without_words_are_refused(tiny_bert):
    with pytest.raises(ValueError, match="The texts contain only special tokens"):
        classifier(tiny_bert, pretraining_epochs=1).fit(["", ""], [0, 1])
