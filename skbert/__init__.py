"""Sentiment analysis with BERT as ordinary scikit-learn estimators."""

from skbert.classifier import BertSentimentClassifier
from skbert.validation import TruncationWarning

__version__ = "0.1.0.dev0"

__all__ = ["BertSentimentClassifier", "TruncationWarning", "__version__"]
