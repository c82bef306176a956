"""An estimator warns once of what a model does not see of texts, and advises only what can be."""

import copy
import warnings

import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from skbert import (
    BertEmbeddingTransformer,
    BertPretrainer,
    BertSentimentClassifier,
    TruncationWarning,
    UnknownTokenWarning,
)

# Of 34 tokens, of which two are special tokens, 2 are cut off.
LONG = ["good film " * 16] * 8
SHORT = ["good film"] * 8
LABELS = [0, 1] * 4


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 1, "batch_size": 4, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


def messages(call, category=TruncationWarning):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if w.category is category]


def test_one_warning_for_all_texts_of_a_fit(tiny_bert):
    pairs = [("good film " * 16, "good dull"), *[("good", "good dull")] * 7]
    clf = classifier(tiny_bert, pretraining_epochs=1)
    fit = clf.fit
    (message,) = messages(lambda: fit(pairs, LABELS, None, pairs, LABELS, X_unlabelled=pairs[:1]))
    # 32 + 2 + 3 tokens: 5 too many, three times
    assert message.startswith("3 of 17 texts are longer than max_length=32 tokens")
    assert "; 15 tokens were cut off" in message


@pytest.mark.parametrize("n_folds", [2, 4])
def test_one_warning_for_each_fit_of_a_cross_validation(tiny_bert, n_folds):
    clf = classifier(tiny_bert)
    found = messages(lambda: cross_validate(clf, LONG, LABELS, cv=n_folds, return_train_score=True))
    assert len(found) == n_folds


def test_one_warning_for_each_fit_of_a_search(tiny_bert):
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=32)
    pipeline = make_pipeline(embedder, LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1.0]}, cv=2)
    assert len(messages(lambda: search.fit(LONG, LABELS).predict(LONG))) == 3


def test_a_prediction_repeats_a_warning_only_if_far_more_is_lost(tiny_bert):
    clf = classifier(tiny_bert)
    some = LONG[:2] + SHORT[:6]  # 4 of 92 tokens are cut off, 4.3%
    assert len(messages(lambda: clf.fit(some, LABELS))) == 1
    assert not messages(lambda: clf.predict(some))
    assert not messages(lambda: clf.predict(LONG[:1] + SHORT[:1]))  # 2 of 38, 5.3%
    (message,) = messages(lambda: clf.predict(["good film " * 32]))  # 34 of 66
    assert message.startswith("1 of 1 texts are longer than max_length=32 tokens")
    assert not messages(lambda: clf.predict(LONG))


@pytest.mark.parametrize("renew", [clone, copy.deepcopy, lambda clf: clf.fit(LONG, LABELS)])
def test_a_new_estimator_or_fit_warns_again(tiny_bert, renew):
    clf = classifier(tiny_bert)
    assert len(messages(lambda: clf.fit(LONG, LABELS))) == 1

    def renew_and_use():
        new = renew(clf)
        if hasattr(new, "classes_"):
            new.predict(LONG)
        else:
            new.fit(LONG, LABELS)

    assert len(messages(renew_and_use)) == 1


def test_a_new_max_length_is_news(tiny_bert):
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=32).fit(LONG)
    assert len(messages(lambda: embedder.transform(LONG))) == 1
    assert not messages(lambda: embedder.transform(LONG))
    embedder.set_params(max_length=33)
    assert len(messages(lambda: embedder.transform(LONG))) == 1


def test_partial_fit_warns_once(tiny_bert):
    clf = classifier(tiny_bert)
    found = messages(lambda: [clf.partial_fit(LONG, LABELS, classes=[0, 1]) for _ in range(3)])
    assert len(found) == 1


def test_unknown_tokens_are_said_once_too(tiny_bert):
    clf = classifier(tiny_bert)
    texts = ["good ดีมาก"] * 8
    found = messages(lambda: clf.fit(texts, LABELS).predict(texts), UnknownTokenWarning)
    assert found == [
        "8 of 16 tokens (50.0%) are not in the vocabulary of the model, which reads all of them as "
        "the same unknown token. Choose with `model` a model for the language of the texts."
    ]


# What the warning advises -------------------------------------------------------------------------


def fit_classifier(model, max_length):
    classifier(model, max_length=max_length).fit(["good film " * 40] * 8, LABELS)


def embed(model, max_length):
    BertEmbeddingTransformer(model, max_length=max_length).fit_transform(["good film " * 40] * 8)


def complete_sentences(model, max_length):
    pretrainer = BertPretrainer(model, max_length=max_length, next_sentence=False, max_epochs=0)
    pretrainer.fit(SHORT).transform(["good film " * 40] * 8)


@pytest.mark.parametrize(
    ("call", "max_length", "advice"),
    [
        (call, max_length, text)
        for call, other in [
            (fit_classifier, "choose with `truncation` which part to keep"),
            (embed, "choose with `truncation` which part to keep"),
            (complete_sentences, "pass shorter texts"),
        ]
        for max_length, text in [
            (63, f"Increase max_length, or {other}."),
            (64, f"The model reads at most 64 tokens: {other}."),  # tiny_bert has 64 positions
        ]
    ],
)
def test_the_advice_is_possible(tiny_bert, call, max_length, advice):
    n_cut = 82 - max_length
    expected = (
        f"8 of 8 texts are longer than max_length={max_length} tokens and were truncated; "
        f"{8 * n_cut} tokens were cut off, {n_cut / 82:.1%} of all. {advice}"
    )
    assert messages(lambda: call(tiny_bert, max_length)) == [expected]
