"""skbert counts the tokens that a vocabulary does not contain, and warns if they are many."""

import warnings

import pytest
from conftest import DEFAULT_MODEL

from skbert import (
    BertEmbeddingTransformer,
    BertPretrainer,
    BertSentimentClassifier,
    UnknownTokenWarning,
)

pytestmark = pytest.mark.weights

THAI = ["ดีมาก", "แย่มาก", "so good", "so bad"] * 4
FEW = ["so good ดีมาก"] + ["a rather good film, if you ask me"] * 7
MESSAGE = (
    "8 of 24 tokens (33.3%) are not in the vocabulary of the model, which reads all of them as "
    "the same unknown token. Choose with `model` a model for the language of the texts."
)
CLASSIFIER = BertSentimentClassifier(
    DEFAULT_MODEL, pooling="cls", max_epochs=1, batch_size=1, random_state=0
)


def fit_classifier(X):
    return CLASSIFIER.fit(X, [0, 1] * (len(X) // 2))


def predict_with_start(X):
    return BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment").predict(X)


def embed(X):
    return BertEmbeddingTransformer(DEFAULT_MODEL).fit_transform(X)


def token_vectors(X):
    return BertEmbeddingTransformer(DEFAULT_MODEL).token_embeddings(X)


def pretrain(X):
    return BertPretrainer(DEFAULT_MODEL, next_sentence=False, max_epochs=0).fit(X)


CALLS = [fit_classifier, predict_with_start, embed, token_vectors, pretrain]


@pytest.mark.parametrize("call", CALLS)
def test_one_warning_for_all_texts(real_weights, call):
    with pytest.warns(UnknownTokenWarning) as caught:
        call(THAI)
    found = [str(w.message) for w in caught if w.category is UnknownTokenWarning]
    assert found == [MESSAGE]


@pytest.mark.parametrize("call", CALLS)
def test_a_few_are_no_reason_to_warn(real_weights, call):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownTokenWarning)
        call(FEW)


def test_the_classifier_counts_them(real_weights, tmp_path):
    clf = fit_classifier(THAI)
    assert clf.n_unknown_tokens_ == 8
    clf.save_pretrained(tmp_path)
    assert BertSentimentClassifier.from_pretrained(tmp_path).n_unknown_tokens_ == 8
    assert fit_classifier(FEW).n_unknown_tokens_ == 1
    clf = BertSentimentClassifier(DEFAULT_MODEL).partial_fit(THAI, [0, 1] * 8, classes=[0, 1])
    assert clf.n_unknown_tokens_ == 8
