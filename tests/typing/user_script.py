"""What a type checker sees of skbert in a user's script; `make types` checks it.

Each `type: ignore` marks an error that must be found: mypy complains if it is not needed.
"""

from typing import Any, assert_type

import numpy as np

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.embedding import TokenEmbeddings
from skbert.pretraining import FilledText

texts, labels = ["so good", "so bad"], ["good", "bad"]

clf = BertSentimentClassifier(pooling="mean", max_epochs=3, learning_rate=1e-5, random_state=0)
assert_type(clf.fit(texts, labels), BertSentimentClassifier)
assert_type(clf.fit(texts, labels).predict_proba(texts), np.ndarray)
assert_type(clf.partial_fit(texts, labels), BertSentimentClassifier)
assert_type(clf.predict(texts), np.ndarray)
assert_type(clf.classes_, np.ndarray)
assert_type(clf.history_, list[dict[str, Any]])
assert_type(clf.n_epochs_, int)
assert_type(BertSentimentClassifier.from_pretrained("folder"), BertSentimentClassifier)

transformer = BertEmbeddingTransformer(pooling="max", cache="memory")
assert_type(transformer.fit(texts), BertEmbeddingTransformer)
assert_type(transformer.token_embeddings(texts), list[TokenEmbeddings])

pretrainer = BertPretrainer(next_sentence=False).fit(texts)
assert_type(pretrainer, BertPretrainer)
assert_type(BertPretrainer.from_pretrained("folder"), BertPretrainer)
assert_type(pretrainer.score(texts), float)
assert_type(pretrainer.fill_mask(["so [MASK]"]), list[FilledText])
assert_type(pretrainer.fill_mask("so [MASK]"), FilledText)

BertSentimentClassifier(pooling="max")  # type: ignore[arg-type]
BertSentimentClassifier(truncation="middle")  # type: ignore[arg-type]
BertSentimentClassifier(max_epochs="many")  # type: ignore[arg-type]
BertSentimentClassifier(precision="float16")  # type: ignore[arg-type]
BertSentimentClassifier(epochs=3)  # type: ignore[call-arg]
BertEmbeddingTransformer(pooling="average")  # type: ignore[arg-type]
clf.fit(texts)  # type: ignore[call-arg]
clf.classes_ = labels  # type: ignore[assignment]
