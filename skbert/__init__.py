"""Sentiment analysis with BERT as ordinary scikit-learn estimators."""

from skbert.classifier import BertSentimentClassifier
from skbert.contract.texts import TruncationWarning
from skbert.embedding import BertEmbeddingTransformer, TokenEmbeddings
from skbert.engine.prediction.cache import CacheInfo
from skbert.pretraining import BertPretrainer, FilledText

__version__ = "0.1.0.dev0"

__all__ = [
    "BertEmbeddingTransformer",
    "BertPretrainer",
    "BertSentimentClassifier",
    "CacheInfo",
    "FilledText",
    "TokenEmbeddings",
    "TruncationWarning",
    "__version__",
]
