"""Sentiment analysis with BERT as ordinary scikit-learn estimators.

`import skbert` imports neither torch nor transformers: a public name is imported when it is first
used (SPEC 1, https://scientific-python.org/specs/spec-0001/). transformers follows when an
estimator first builds a model.
"""

from typing import TYPE_CHECKING

from skbert.engine.lazy_names import lazy_names

if TYPE_CHECKING:
    from skbert.classifier import BertSentimentClassifier
    from skbert.contract.explanation import TextAttribution
    from skbert.contract.lost_tokens import TruncationWarning, UnknownTokenWarning
    from skbert.embedding import BertEmbeddingTransformer, TokenEmbeddings
    from skbert.engine.files.pretrained import free_pretrained
    from skbert.engine.prediction.cache import CacheInfo
    from skbert.pretraining import BertPretrainer, FilledText
    from skbert.regressor import BertSentimentRegressor

__version__ = "0.1.0.dev0"

_MODULE_OF = {
    "BertEmbeddingTransformer": "skbert.embedding",
    "BertPretrainer": "skbert.pretraining",
    "BertSentimentClassifier": "skbert.classifier",
    "BertSentimentRegressor": "skbert.regressor",
    "CacheInfo": "skbert.engine.prediction.cache",
    "FilledText": "skbert.pretraining",
    "TextAttribution": "skbert.contract.explanation",
    "TokenEmbeddings": "skbert.embedding",
    "TruncationWarning": "skbert.contract.lost_tokens",
    "UnknownTokenWarning": "skbert.contract.lost_tokens",
    "free_pretrained": "skbert.engine.files.pretrained",
}

__all__ = [
    "BertEmbeddingTransformer",
    "BertPretrainer",
    "BertSentimentClassifier",
    "BertSentimentRegressor",
    "CacheInfo",
    "FilledText",
    "TextAttribution",
    "TokenEmbeddings",
    "TruncationWarning",
    "UnknownTokenWarning",
    "__version__",
    "free_pretrained",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF, __all__)
