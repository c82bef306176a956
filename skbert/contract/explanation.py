"""A fitted classifier and texts -> which words speak for a class, and which against it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skbert.contract.containers import shorten
from skbert.contract.lost_tokens import LostTokens
from skbert.contract.parameters import check_max_length
from skbert.contract.prepare_finetuning import state_of, tokenize
from skbert.contract.progress import show_texts
from skbert.contract.texts import Texts, check_texts
from skbert.engine.model.families import longest_text
from skbert.engine.prediction.attribute import (
    INCOMPLETE,
    MOST_STEPS,
    NEGLIGIBLE,
    STEPS,
    integrated_gradients,
    occlusion,
)
from skbert.engine.prediction.parts import with_progress
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.spans import TextPieces
from skbert.engine.text.subword_tokenizer import SubwordTokenizer
from skbert.engine.warn import warn_user

#: How `explain` can attribute a logit to words.
METHODS = ("integrated_gradients", "occlusion")

# Number of texts that are explained at once, so that the memory is bounded.
_TEXTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class TextAttribution:
    """How much each word of a text contributes to the logit of a class.

    `BertSentimentClassifier.explain` returns one for each text. Words that truncation cuts are
    missing.

    Attributes
    ----------
    text : str or tuple of (str, str)
        The text, or the pair of texts.
    target : label
        The class, one of `classes_`.
    method : {"integrated_gradients", "occlusion"}
        How the scores were computed.
    words : list of str
        The words, as they stand in the text. The tokenizer of the model decides what a word is:
        that of BERT separates punctuation. An emoji that is read as its name is one word.
    word_scores : ndarray of shape (n_words,), float64
        Contribution of each word to the logit. Positive scores speak for `target`.
    word_spans : ndarray of shape (n_words, 2), int64
        Start and stop of each word: ``text[start:stop]``, or ``text[number][start:stop]`` with the
        number in `word_texts` for a pair.
    word_texts : ndarray of shape (n_words,), int64
        0 if the word is in a single text or the first text of a pair, 1 if it is in the second.
    pieces : list of str
        The tokens that the model reads, without special tokens, such as "##ing".
    piece_scores : ndarray of shape (n_pieces,), float64
        Contribution of each token. Those of a word add up to its score. With "occlusion", they are
        equal.
    piece_spans : ndarray of shape (n_pieces, 2), int64
        Start and stop of each token, as in `word_spans`.
    piece_words : ndarray of shape (n_pieces,), int64
        The position in `words` of the word of each token.
    logit : float
        The logit of `target` for the text.
    baseline_logit : float
        The same for the text with all tokens hidden, which means replaced by the mask token. With
        "integrated_gradients", the scores add up to ``logit - baseline_logit``, to within 1% or
        0.001.

    Examples
    --------
    >>> from skbert import BertSentimentClassifier
    >>> clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
    >>> (found,) = clf.explain(["so dull"], target="negative")
    >>> found.words, found.word_spans.tolist()
    (['so', 'dull'], [[0, 2], [3, 7]])
    """

    text: str | tuple[str, str]
    target: Any
    method: str
    words: list[str]
    word_scores: np.ndarray
    word_spans: np.ndarray
    word_texts: np.ndarray
    pieces: list[str]
    piece_scores: np.ndarray
    piece_spans: np.ndarray
    piece_words: np.ndarray
    logit: float
    baseline_logit: float


class ExplainMixin:
    """`explain` of the classifier."""

    def explain(
        self,
        X: Any,
        target: Any = None,
        method: Literal["integrated_gradients", "occlusion"] = "integrated_gradients",
        n_steps: int | Literal["auto"] = "auto",
    ) -> list[TextAttribution]:
        """Attribute the logit of a class to the words of each text.

        Parameters
        ----------
        X : sequence of str, of length n_texts
            As in `fit`.
        target : label, default=None
            The class to explain, one of `classes_`. None explains the predicted class of each
            text; with several labels, the one with the largest logit.
        method : {"integrated_gradients", "occlusion"}, default="integrated_gradients"
            "integrated_gradients" integrates the gradient of the logit on the way from a text of
            mask tokens to the text [1]_. The scores add up to the difference of the two logits, to
            within 1% or 0.001. "occlusion" replaces one word at a time by mask tokens and takes
            the fall of the logit [2]_. It asks directly what the model does without the word, but
            words that say the same hide each other.
        n_steps : int or "auto", default="auto"
            Number of points at which integrated gradients compute the gradient, from 1 to 1,000.
            "auto" takes 32, and then 128 and 512 for texts whose scores do not add up. Only for
            "integrated_gradients".

        Returns
        -------
        list of TextAttribution
            One for each text, with its words, pieces, positions and scores.

        Raises
        ------
        ValueError
            If `target` is not in `classes_`, or another argument is not allowed. Also if a text
            has several windows; see `truncation`.
        NotFittedError
            If the classifier is not fitted.

        Warns
        -----
        ConvergenceWarning
            If the scores of a text do not add up to the difference of the logits within 1% or
            0.001.
        TruncationWarning, UnknownTokenWarning
            As in `predict`.

        See Also
        --------
        skbert.inspection.TokenAttributionDisplay : Show the words in colours.

        Notes
        -----
        Scores are computed in float32, whatever `precision` is, in batches of bounded size.
        Integrated gradients of a text cost about as much as training on it for `n_steps` epochs,
        occlusion about as much as predicting it once for each word. The scores describe the model,
        not the world: a word can have a high score for a reason that is not in the text.

        References
        ----------
        .. [1] M. Sundararajan, A. Taly and Q. Yan, "Axiomatic attribution for deep networks",
           ICML 2017, arXiv:1703.01365.
        .. [2] M. D. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks",
           ECCV 2014, arXiv:1311.2901.

        Examples
        --------
        >>> from skbert import BertSentimentClassifier
        >>> clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment")
        >>> (found,) = clf.explain(["A dull story, but a wonderful cast."])
        >>> found.target, found.words[found.word_scores.argmax()]
        ('positive', 'wonderful')
        """
        check_is_fitted(self)
        self._validate_params()
        _check_arguments(method, n_steps)
        column = None if target is None else _column_of(self.classes_, target)
        found: list[TextAttribution] = []
        lost, n_incomplete = [], 0
        given = check_texts(self, X, reset=False)
        with show_texts("explaining", len(given), self.verbose) as part:
            for texts in with_progress([*given.parts(_TEXTS_AT_ONCE)], part(len(given))):
                done = _explain(self, texts, column, method, n_steps)
                found += done.texts
                lost.append(done.lost)
                n_incomplete += done.n_incomplete
        LostTokens.total(lost).warn(self, self.model_.config)
        if n_incomplete:
            _warn_of_incomplete(n_incomplete, len(found), n_steps)
        return found


@dataclass(frozen=True)
class _Explained:
    """Some texts, what was lost of them, and how many have scores that do not add up."""

    texts: list[TextAttribution]
    lost: LostTokens
    n_incomplete: int


def _explain(
    estimator: Any,
    texts: Texts,
    column: int | None,
    method: str,
    n_steps: int | Literal["auto"],
) -> _Explained:
    """Explain some texts; `column` is that of the target, or None for the predicted class."""
    check_max_length(estimator.max_length, longest_text(estimator.model_.config))
    state = state_of(estimator, "float32")
    tokens = tokenize(estimator, texts, state.subword_tokenizer)
    if tokens.windows is not None:
        raise ValueError(
            f"X contains texts of more than max_length={estimator.max_length} tokens, which "
            "truncation='windows' reads in several windows, but explain reads one window of each "
            "text. Explain the part of the text that matters, or use "
            "set_params(truncation='head+tail') first."
        )
    rows = [*zip(texts.first, texts.second, strict=True)] if texts.second else [*zip(texts.first)]
    read = [_Reading.of(estimator, row, state.subword_tokenizer) for row in rows]
    targets = np.full(len(rows), column)
    if column is None:
        predicting = state_of(estimator, estimator.precision_).network
        targets = predict_logits(predicting, tokens).argmax(axis=1)
    neutral_id = _neutral_id(estimator.tokenizer_)
    n_incomplete = 0
    if method == "occlusion":
        words = np.full(len(tokens.ids), -1)
        words[~tokens.is_special] = np.concatenate([reading.piece_words for reading in read])
        found = occlusion(state.network, tokens, targets, neutral_id, words)
    else:
        steps = None if n_steps == "auto" else int(n_steps)
        found = integrated_gradients(state.network, tokens, targets, neutral_id, steps)
        n_incomplete = int(np.count_nonzero(~found.is_complete(tokens)))
    ends = np.cumsum([len(reading.piece_words) for reading in read])[:-1]
    scores = np.split(found.scores[~tokens.is_special], ends)
    labels = estimator.classes_.tolist()
    explained = [
        TextAttribution(
            text=row if len(row) == 2 else row[0],
            target=labels[targets[i]],
            method=method,
            logit=float(found.logits[i]),
            baseline_logit=float(found.baseline_logits[i]),
            **reading.fields(row, scores[i]),
        )
        for i, (row, reading) in enumerate(zip(rows, read, strict=True))
    ]
    return _Explained(explained, LostTokens.of(tokens, state.subword_tokenizer), n_incomplete)


@dataclass(frozen=True)
class _Reading:
    """What the model reads of a row of one or two texts.

    Attributes
    ----------
    parts : list of TextPieces
        The pieces of each text, in the order in which the model reads the texts.
    texts : list of int
        0 for a single text or the first text of a pair, 1 for the second.
    """

    parts: list[TextPieces]
    texts: list[int]

    @classmethod
    def of(
        cls, estimator: Any, row: tuple[str, ...], subword_tokenizer: SubwordTokenizer
    ) -> _Reading:
        parts = subword_tokenizer.kept_pieces(
            row, max_length=estimator.max_length, truncation=estimator.truncation
        )  # with truncation="windows", nothing is cut here
        return cls(parts, subword_tokenizer.layout.order(len(row)))

    @property
    def piece_words(self) -> np.ndarray:
        """The word of each piece, numbered through all parts; shape (n_pieces,), int64."""
        n_before = np.cumsum([0, *(len(part.word_spans) for part in self.parts)])
        return np.concatenate([p.words + n for p, n in zip(self.parts, n_before, strict=False)])

    def fields(self, row: tuple[str, ...], scores: np.ndarray) -> dict[str, Any]:
        """Name the fields of `TextAttribution` that describe words and pieces."""
        spans = np.concatenate([part.word_spans for part in self.parts])
        n_words = [len(part.word_spans) for part in self.parts]
        texts = np.repeat(np.array(self.texts, dtype=np.int64), n_words)
        places = zip(texts.tolist(), spans.tolist(), strict=True)
        return {
            "words": [row[text][start:stop] for text, (start, stop) in places],
            "word_scores": np.bincount(self.piece_words, scores, minlength=len(spans)),
            "word_spans": spans,
            "word_texts": texts,
            "pieces": [name for part in self.parts for name in part.names],
            "piece_scores": scores,
            "piece_spans": np.concatenate([part.spans for part in self.parts]),
            "piece_words": self.piece_words,
        }


def _check_arguments(method: Any, n_steps: Any) -> None:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"method={shorten(method)}; allowed are {METHODS[0]!r} and {METHODS[1]!r}. Choose one "
            "of them."
        )
    if isinstance(n_steps, str) and n_steps == "auto":
        return
    is_number = isinstance(n_steps, Integral) and not isinstance(n_steps, bool)
    if not is_number or not 1 <= n_steps <= MOST_STEPS:
        raise ValueError(
            f"n_steps={shorten(n_steps)}; it must be 'auto' or an int from 1 to {MOST_STEPS}. Use "
            "'auto' if in doubt."
        )
    if method == "occlusion":
        raise ValueError(
            f"n_steps={n_steps!r} with method='occlusion', which takes no steps. Leave n_steps at "
            "'auto', or use method='integrated_gradients'."
        )


def _column_of(classes: np.ndarray, target: Any) -> int:
    """Find the column of the logits of a class."""
    labels = classes.tolist()
    for column, label in enumerate(labels):
        if _is_same(target, label):
            return column
    raise ValueError(
        f"target={shorten(target)} is not a class of the classifier; allowed are {labels}. Pass "
        "one of them, or None for the predicted class of each text."
    )


def _is_same(target: Any, label: Any) -> bool:
    """Compare a target with a label; 1 is 1.0, but not True."""
    if isinstance(label, str):
        return isinstance(target, str) and target == label
    kinds = (bool, np.bool_)
    is_number = isinstance(target, (Real, np.bool_))
    return is_number and isinstance(target, kinds) == isinstance(label, kinds) and target == label


def _neutral_id(tokenizer: Any) -> int:
    """Choose the token that stands for no information: mask, or unknown, or padding."""
    for name in ("mask_token_id", "unk_token_id", "pad_token_id"):
        token_id = getattr(tokenizer, name, None)
        if token_id is not None:
            return int(token_id)
    raise ValueError(
        "The tokenizer has no mask token, no unknown token and no padding token; explain needs "
        "one of them to hide words. Use the tokenizer files that belong to the model."
    )


def _warn_of_incomplete(n_incomplete: int, n_texts: int, n_steps: int | Literal["auto"]) -> None:
    steps = STEPS[-1] if n_steps == "auto" else n_steps
    advice = "Use method='occlusion' for them"
    if steps < STEPS[-1]:
        advice = f"Increase n_steps, or use n_steps='auto', which takes up to {STEPS[-1]}"
    warn_user(
        f"The scores of {n_incomplete} of {n_texts} texts do not add up to the difference of the "
        f"logits within {INCOMPLETE:.0%} or {NEGLIGIBLE} with {steps} steps. {advice}.",
        ConvergenceWarning,
    )
