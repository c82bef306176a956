"""What may come in: texts, labels, fitted or not. Checks and conversions, no learning.

The one place that leans on scikit-learn's private helpers. Every error says what came, what
is allowed and what to do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names, column_or_1d

from skbert.engine.text.tokens import Tokens
from skbert.engine.training.loop import DivergenceError, Trainer

MAX_CLASSES = 1000

#: What `check_texts` notes of X in `fit`.
_NOTED = ("_n_columns", "n_features_in_", "feature_names_in_")

#: What scikit-learn's callbacks leave on an estimator until after its fit.
_TORN_DOWN_LATER = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")

#: Page of an estimator in the documentation, for the links of its HTML representation.
DOC_LINK_TEMPLATE = "https://skbert.readthedocs.io/en/latest/generated/skbert.{estimator_name}.html"


class TruncationWarning(UserWarning):
    """Some texts were longer than `max_length` tokens and were cut."""


@dataclass(frozen=True)
class Texts:
    """What came in as X.

    Attributes
    ----------
    first : list of str
        The texts, or the first text of each pair.
    second : list of str or None
        The second text of each pair.
    """

    first: list[str]
    second: list[str] | None

    def __len__(self) -> int:
        return len(self.first)

    def parts(self, n_texts: int) -> Iterator[Texts]:
        """Cut them into parts of `n_texts`."""
        for start in range(0, len(self), n_texts):
            rows = slice(start, start + n_texts)
            yield Texts(self.first[rows], self.second[rows] if self.second else None)


def check_texts(estimator: Any, X: Any, *, reset: bool) -> Texts:
    """Turn the accepted containers into lists of str.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` where X is two-dimensional, as
        scikit-learn does; or is asked whether X agrees with them.
    X : list, tuple, array, Series or frame
        n_texts texts, each a str; or as many pairs of texts, as two columns or as a list of
        tuples. Empty texts are allowed, missing ones are not.
    reset : bool
        True in `fit`.

    Returns
    -------
    Texts

    Raises
    ------
    TypeError
        If X is a single string, is not a sequence, or holds anything but str.
    ValueError
        If X is empty, has more than two columns, misses a text, or if the estimator was
        fitted to pairs and X holds single texts, or the other way round.
    """
    columns = _checked_columns(X)
    _check_columns(estimator, X, len(columns), reset=reset)
    first, *second = ([str.__str__(text) for text in column] for column in columns)
    return Texts(first, second[0] if second else None)


def check_pairs(X: Any) -> Texts:
    """Turn two columns, or a list of pairs, into two lists of str; no estimator is asked."""
    columns = _checked_columns(X)
    if len(columns) != 2:
        raise ValueError(
            "X holds single texts; pairs of texts are expected. Give two columns, or a list of "
            "(first, second)."
        )
    first, second = ([str.__str__(text) for text in column] for column in columns)
    return Texts(first, second)


def _checked_columns(X: Any) -> list[list[Any]]:
    """Get one or two columns of str, as `check_texts` allows them."""
    if isinstance(X, (str, bytes)):
        raise TypeError(
            f"X is one {type(X).__name__}, {_shown(X)}; a sequence of texts is expected, such "
            "as a list or a pandas Series of str. Put a single text into a list: [text]."
        )
    if not hasattr(X, "__len__") or isinstance(X, (dict, set, frozenset)):
        raise TypeError(
            f"X is a {type(X).__name__}; a sequence of texts is expected, such as a list or a "
            "pandas Series of str. Turn it into a list of texts."
        )
    columns = _columns(X)
    if len(columns[0]) == 0:
        raise ValueError(
            f"X holds 0 texts ({type(X).__name__}); a minimum of 1 is required. Check the "
            "filter or file it came from."
        )
    for number, column in enumerate(columns):
        for row, text in enumerate(column):
            if not isinstance(text, str):
                place = f"X[{row}]" if len(columns) == 1 else f"X[{row}][{number}]"
                raise _not_a_text(place, text)
    return columns


@dataclass(frozen=True)
class Documents:
    """What came in as X where texts may also be given as lists of sentences.

    Attributes
    ----------
    texts : list of str
        The sentences of a document joined by spaces.
    sentences : list of list of str or None
        None where X held texts.
    """

    texts: list[str]
    sentences: list[list[str]] | None


def check_documents(estimator: Any, X: Any, *, reset: bool) -> Documents:
    """Turn texts, or documents as lists of sentences, into lists of str.

    Parameters
    ----------
    estimator, reset
        As in `check_texts`.
    X : list, tuple, array, Series or frame
        As in `check_texts`, but one column only; or a sequence whose elements are lists or
        tuples of str, which may have different lengths, at least 1.
    """
    if not _holds_lists(X):
        texts = check_texts(estimator, X, reset=reset)
        if texts.second is not None:
            raise ValueError(
                f"X has two columns ({len(X)} rows); {type(estimator).__name__} expects "
                "one column of texts, or documents as a list of lists of sentences. Choose a "
                "column, or convert the rows to lists."
            )
        return Documents(texts.first, None)
    documents = list(X)
    for row, document in enumerate(documents):
        if not isinstance(document, (list, tuple)):
            raise ValueError(
                f"X[{row}] is {_shown(document)} ({type(document).__name__}), but X[0] is a list; "
                "either all elements must be str, or all lists of sentences. Put a single text "
                "into a list of its own."
            )
        if not document:
            raise ValueError(
                f"X[{row}] is an empty {type(document).__name__}; a document is a list of at least "
                "one sentence. Leave it out, or write [''] for one without words."
            )
        for number, sentence in enumerate(document):
            if not isinstance(sentence, str):
                raise _not_a_text(f"X[{row}][{number}]", sentence)
    _check_columns(estimator, documents, 1, reset=reset)
    sentences = [[str.__str__(sentence) for sentence in document] for document in documents]
    return Documents([" ".join(document) for document in sentences], sentences)


def _holds_lists(X: Any) -> bool:
    """Whether the first element of a flat container is a list or tuple."""
    if isinstance(X, (str, bytes, dict, set, frozenset)) or not hasattr(X, "__len__"):
        return False
    if len(getattr(X, "shape", (0,))) != 1 or not len(X):
        return False
    return isinstance(next(iter(X)), (list, tuple))


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[list[Callable[[], None]]]:
    """Give the estimator back all attributes it had if the fit fails or is interrupted.

    In one assignment, which no second interruption can cut in two. What scikit-learn has yet to
    tear down stays.

    Yields
    ------
    list of callable
        To add to: each is called before, to undo what was changed inside an attribute.
    """
    before = dict(vars(estimator))
    undo: list[Callable[[], None]] = []
    try:
        yield undo
    except BaseException:
        for call in undo:
            call()
        now = vars(estimator)
        unfinished = {name: now[name] for name in _TORN_DOWN_LATER if name in now}
        estimator.__dict__ = before | unfinished
        raise


def _check_columns(estimator: Any, X: Any, n_columns: int, *, reset: bool) -> None:
    """Remember, or compare, how many texts a row has and what their columns are called."""
    kinds = {1: "single texts", 2: "pairs of texts"}
    if reset:
        estimator._n_columns = n_columns
    elif not hasattr(estimator, "_n_columns"):
        return  # a stateless estimator, used without fit
    elif n_columns != estimator._n_columns:
        raise ValueError(
            f"X holds {kinds[n_columns]}, but {type(estimator).__name__} was fitted to "
            f"{kinds[estimator._n_columns]}. Give the same columns as to fit."
        )
    if len(getattr(X, "shape", ())) == 2:
        _check_feature_names(estimator, X, reset=reset)
        if reset:
            estimator.n_features_in_ = n_columns
    elif reset:
        for name in _NOTED[1:]:
            estimator.__dict__.pop(name, None)


def _columns(X: Any) -> list[list[Any]]:
    """Get the one or two columns of texts as flat lists."""
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 2:
        return _columns_of_table(X)
    for to_list in ("tolist", "to_list", "to_pylist"):  # pandas and numpy, polars, pyarrow
        if hasattr(X, to_list):
            texts = getattr(X, to_list)()
            break
    else:
        texts = list(X)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"X has shape {tuple(shape)}; one or two columns of texts are expected. Reshape it, "
            "for example with X.ravel()."
        )
    if len(texts) and isinstance(texts[0], (list, tuple)):
        return _columns_of_pairs(texts)
    return [texts]


def _columns_of_table(X: Any) -> list[list[Any]]:
    n_columns = X.shape[1]
    names = list(getattr(X, "column_names", getattr(X, "columns", [])))
    if n_columns not in (1, 2):
        shown = f", columns {names}" if names else ""
        raise ValueError(
            f"X has shape {tuple(X.shape)}{shown}; one column of texts, or two columns of pairs, "
            "are expected. Choose them, for example X['text'] of a frame or X[:, 0] of an array."
        )
    if hasattr(X, "iloc"):
        return [X.iloc[:, i].tolist() for i in range(n_columns)]
    if hasattr(X, "column_names"):  # pyarrow
        return [X.column(i).to_pylist() for i in range(n_columns)]
    if names:  # polars
        return [X[name].to_list() for name in names]
    return [np.asarray(X)[:, i].tolist() for i in range(n_columns)]


def _columns_of_pairs(rows: Sequence[Any]) -> list[list[Any]]:
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) not in (1, 2) or len(row) != len(rows[0]):
            raise ValueError(
                f"X[{i}] is {_shown(row)} ({type(row).__name__}), after X[0] of {len(rows[0])} "
                "text(s); rows must all be one str, or all be pairs of str. Give pairs as "
                "[(first, second), ...]."
            )
    return [list(column) for column in zip(*rows, strict=True)]


def _not_a_text(place: str, text: Any) -> Exception:
    if _is_missing(text):
        return ValueError(
            f"{place} is {text!r} ({type(text).__name__}); every text must be a str. Replace "
            'missing texts, for example with "".'
        )
    return TypeError(
        f"{place} is {_shown(text)} ({type(text).__name__}); every text must be a str. Convert "
        "X to strings, or choose the column that holds the texts."
    )


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT and pandas.NA: all that does not equal itself, and None."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return np.isscalar(value) and value != value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def check_labels(y: Any, n_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the classes and turn labels into class numbers.

    Parameters
    ----------
    y : array-like of shape (n_texts,)
        Strings, integers or booleans.
    n_texts : int

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted, in the type of `y`.
    numbers : ndarray of shape (n_texts,), int64
        ``classes[numbers] == y``.
    """
    labels = _labels(y, n_texts)
    classes, numbers = np.unique(labels, return_inverse=True)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(
            f"y has {len(classes)} class{'es' if len(classes) > 1 else ''}"
            f"{f': {classes.tolist()[0]!r}' if len(classes) == 1 else ''}; 2 to {MAX_CLASSES} "
            "classes are allowed. Check that y is the column of sentiments and that no filter "
            "took one away."
        )
    return classes, numbers.astype(np.int64)


def _labels(y: Any, n_texts: int) -> np.ndarray:
    """Get `y` as one label a text, none of them missing, all of one kind."""
    if y is None:
        raise ValueError(
            "y is None, but this estimator requires y to be passed, but the target y is None: "
            "one label for each text. Call fit(X, y)."
        )
    given = y.tolist() if hasattr(y, "tolist") else y
    if isinstance(given, (list, tuple)):
        _check_label_values(given)
    _check_one_label_a_text(y, given)
    kind = getattr(getattr(y, "dtype", None), "kind", "")
    if (hasattr(y, "iloc") and kind in "biu") or kind == "T":
        y = np.asarray(given)  # pandas' nullable numbers, numpy's strings of variable width
    labels = column_or_1d(y, warn=True)
    if len(labels) != n_texts:
        raise ValueError(
            f"X has {n_texts} texts and y has {len(labels)} labels; they must be as many. Check "
            "that both come from the same rows."
        )
    with np.errstate(invalid="ignore"):  # it casts 1e19 to an integer, to see that it is none
        check_classification_targets(labels)
    return labels


def _check_one_label_a_text(y: Any, given: Any) -> None:
    """Refuse several columns, such as the indicators of a multilabel problem."""
    shape = getattr(y, "shape", ())
    n_columns = shape[1] if len(shape) == 2 else 1
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], (list, tuple)):
        n_columns = len(given[0])
    if n_columns > 1:
        raise ValueError(
            f"y has {n_columns} columns; one label for each text is expected. For texts with "
            "several labels each, train a classifier for each column: "
            "OneVsRestClassifier(BertSentimentClassifier())."
        )


def _check_label_values(labels: Sequence[Any]) -> None:
    """Refuse missing labels, bytes, and strings beside numbers, of which numpy makes strings."""
    for row, label in enumerate(labels):
        if _is_missing(label):
            raise ValueError(
                f"y[{row}] is {label!r} ({type(label).__name__}); every text needs a label: a "
                "str, an int or a bool. Leave out the rows without one."
            )
        if isinstance(label, bytes):
            raise TypeError(
                f"y[{row}] is {_shown(label)} (bytes); a label is a str, an int or a bool. Decode "
                "the labels, for example with label.decode()."
            )
    if len({isinstance(label, str) for label in labels}) > 1:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"y mixes labels of types {kinds}, which have no common order; all must be of one "
            "type: str, int or bool. Convert them, for example with y.astype(str)."
        )


def check_classes(classes: Any, known: np.ndarray | None) -> np.ndarray:
    """Find all labels that may ever come to partial_fit: said now, or known from before."""
    if classes is None and known is None:
        raise ValueError(
            "classes is None in the first call of partial_fit; it must list all labels that "
            "will ever come. Call partial_fit(X, y, classes=[...])."
        )
    if classes is None:
        return known
    found, _ = check_labels(classes, len(classes))
    if known is not None and not np.array_equal(found, known):
        raise ValueError(
            f"classes={found.tolist()} differs from the classes of earlier calls, "
            f"{known.tolist()}; they cannot change. Leave classes out, or make a new estimator."
        )
    return found


def class_numbers(y: Any, n_texts: int, classes: np.ndarray) -> np.ndarray:
    """Turn labels into numbers of given classes; see `check_labels`."""
    labels = _labels(y, n_texts)
    known = np.isin(labels, classes)
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        raise ValueError(
            f"y[{row}] is {labels.tolist()[row]!r}, which is not one of the classes "
            f"{_shown(classes.tolist())}. Leave out such rows, or fit with all classes."
        )
    return np.searchsorted(classes, labels).astype(np.int64)


def check_weights(
    sample_weight: Any, class_weight: Any, classes: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """How much each text counts in the loss.

    Parameters
    ----------
    sample_weight : array-like of shape (n_texts,) or None
    class_weight : dict, "balanced" or None
        "balanced" gives each class the same total weight.
    classes : ndarray of shape (n_classes,)
    numbers : ndarray of shape (n_texts,)
        The class number of each text.

    Returns
    -------
    ndarray of shape (n_texts,), float64
        Their products, the largest being 1: only the proportions count in training.
    """
    weights = np.ones(len(numbers))
    if sample_weight is not None:
        weights = np.array(sample_weight, dtype=np.float64)
        if weights.ndim == 0:
            weights = np.full(len(numbers), float(weights))
        if weights.shape != numbers.shape:
            raise ValueError(
                f"sample_weight has shape {weights.shape}; expected is {numbers.shape}, one "
                "number for each text. Give as many weights as there are texts."
            )
        row = _first_not_allowed(weights)
        if row is not None:
            raise ValueError(
                f"sample_weight[{row}] is {weights[row]}; every weight must be a finite number, "
                "0 or larger. Correct it, or give 0 to leave the text out."
            )
        weights = _over_largest(weights)  # lest the products below are beyond what a number holds
    if class_weight is not None:
        present = np.unique(numbers)
        of_class = np.ones(len(classes))
        of_class[present] = compute_class_weight(
            class_weight, classes=classes[present], y=classes[numbers]
        )
        wrong = _first_not_allowed(of_class)
        if wrong is not None:
            raise ValueError(
                f"class_weight[{classes.tolist()[wrong]!r}] is {of_class[wrong]}; every weight "
                "must be a finite number, 0 or larger. Correct it, or give 0 to leave the class "
                "out."
            )
        weights = weights * of_class[numbers]
    if not weights.any():
        raise ValueError(
            "All weights are zero, so no text counts; at least one must be larger than 0. Check "
            "sample_weight and class_weight."
        )
    return _over_largest(weights)


def _first_not_allowed(weights: np.ndarray) -> int | None:
    """Find the first weight that is negative, infinite or NaN."""
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    return int(wrong[0]) if len(wrong) else None


def _over_largest(weights: np.ndarray) -> np.ndarray:
    """Divide by the largest, so that neither huge nor tiny ones leave the range of float32."""
    largest = weights.max()
    return weights / largest if largest > 0 else weights


def check_max_length(
    max_length: int,
    n_positions: int,
    smallest: int = 3,
    advice: str = "truncation='head+tail' keeps both ends of a long text.",
) -> None:
    """Refuse texts longer than the model has positions for."""
    if max_length > n_positions:
        raise ValueError(
            f"max_length={max_length}, but the model has {n_positions} positions; allowed are "
            f"{smallest} to {n_positions} tokens, special ones included. Lower max_length; {advice}"
        )


def check_segments(config: Any) -> None:
    """Refuse pairs where the model tells no segments apart."""
    if config.type_vocab_size < 2:
        raise ValueError(
            f"The model has type_vocab_size={config.type_vocab_size}, but pairs of texts need 2 "
            "segments. Choose a model that has them, or join the two texts of each pair."
        )


def check_logits(logits: np.ndarray) -> np.ndarray:
    """Refuse to name the class of a text for which the model has no finite score."""
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"The logits of X[{row}] are {_shown(logits[row].tolist())}, which name no class: the "
            "weights of this model are too large, or damaged. Fit it again, with a lower learning "
            "rate, or load it from a good copy."
        )
    return logits


def check_layer(layer: int, n_layers: int) -> int:
    """Count a layer from the first, 0 being the embeddings; refuse what is not there."""
    if not -n_layers - 1 <= layer <= n_layers:
        raise ValueError(
            f"layer={layer}, but the model has {n_layers} layers; allowed are {-n_layers - 1} to "
            f"{n_layers}. 1 is the first layer, {n_layers} or -1 the last, and 0 the embeddings "
            "below them."
        )
    return layer if layer >= 0 else n_layers + 1 + layer


def check_n_frozen_layers(n_frozen_layers: int, n_layers: int) -> None:
    """Refuse to freeze all layers."""
    if n_frozen_layers >= n_layers:
        raise ValueError(
            f"n_frozen_layers={n_frozen_layers}, but the model has {n_layers} layers; allowed "
            f"are 0 to {n_layers - 1}. At least one layer must be left to train."
        )


_CUT_ADVICE = "Raise max_length, or choose with `truncation` which part is kept."


def warn_truncated(tokens: Tokens, max_length: int, advice: str = _CUT_ADVICE) -> None:
    """Say once how much was cut off, if anything was."""
    warn_cut(tokens.n_lost, len(tokens.ids), max_length, advice)


def warn_cut(n_lost: np.ndarray, n_kept: int, max_length: int, advice: str = _CUT_ADVICE) -> None:
    """Say once how much of some texts was cut off, if anything was.

    Parameters
    ----------
    n_lost : ndarray of shape (n_texts,)
        Tokens of each text that were left out.
    n_kept : int
        Tokens of all texts that were not.
    max_length : int
    advice : str
        What to do.
    """
    n_truncated = np.count_nonzero(n_lost)
    if n_truncated:
        share = n_lost.sum() / (n_lost.sum() + n_kept)
        warnings.warn(
            f"{n_truncated} of {len(n_lost)} texts are longer than max_length={max_length} "
            f"tokens and were cut; {n_lost.sum()} tokens were left out, {share:.1%} of all. "
            f"{advice}",
            TruncationWarning,
            stacklevel=4,
        )


def stop_diverged(error: DivergenceError, trainer: Trainer) -> None:
    """Keep what was learned before the step, if anything was."""
    if trainer.n_steps == 0:
        raise error
    warnings.warn(
        f"{error} Training ended there; the weights are those before that step.",
        ConvergenceWarning,
        stacklevel=4,
    )


def wants_tensors(estimator: Any) -> bool:
    """Whether a transformer's output is to stay a tensor on its device.

    So it is when scikit-learn's array API dispatch is on and no frame is asked for.
    """
    container = _get_output_config("transform", estimator)["dense"]
    return get_config()["array_api_dispatch"] and container == "default"


def with_index_of(X: Any, vectors: np.ndarray, estimator: Any) -> Any:
    """Put vectors into a frame with the index of a Series, if frames are asked for.

    scikit-learn names the columns. It keeps the index of a frame, but 1.6 not that of a Series.
    """
    container = _get_output_config("transform", estimator)["dense"]
    if container == "pandas" and isinstance(X, pd.Series):
        return pd.DataFrame(vectors, index=X.index)
    return vectors


def seed_of(random_state: Any) -> np.random.SeedSequence:
    """Make a seed for the engine from a scikit-learn `random_state`.

    None gives fresh entropy of the operating system, not numpy's global random state: fitting
    leaves that as it was.
    """
    if random_state is None:
        return np.random.SeedSequence()
    if isinstance(random_state, Integral):
        return np.random.SeedSequence(int(random_state))
    drawn = check_random_state(random_state).randint(2**31, size=4)
    return np.random.SeedSequence(drawn.tolist())


def child_seed(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """Give the same child of a seed, however often it is asked for."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(number,))
