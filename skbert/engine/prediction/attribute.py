"""Tokens and a target class -> how much each token contributes to the logit of the class.

Two methods, both on packed batches of a bounded number of tokens: integrated gradients, from the
derivatives of the logit, and occlusion, from logits alone. Both compare a text with the same text
whose tokens are replaced by a neutral one. All computations are in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from skbert.engine.model.device import gradients_on, to_device
from skbert.engine.model.encoder import WordVectors
from skbert.engine.model.families import word_embeddings
from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.parts import compute_parts, token_budget
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.packing import budgeted_batches, pack
from skbert.engine.text.tokens import Tokens

#: Maximum number of tokens in a batch with derivatives on a CPU, unless one text alone has more:
#: the activations of all layers are kept, which are about 84 MB for MiniLM.
TOKENS_WITH_GRADIENTS = 512

#: Numbers of steps that "auto" tries one after the other.
STEPS = (32, 128, 512)

#: The largest number of steps. The points of more are slow to find: their time grows as the cube.
MOST_STEPS = 1000

#: A sum of attributions is complete if it differs by at most this share of the difference of the
#: logits, or by `NEGLIGIBLE`, which is more than the rounding of logits in float32.
INCOMPLETE = 0.01
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Attributions:
    """How much each token contributes to the logit of the target class of its text.

    Attributes
    ----------
    scores : ndarray of shape (n_tokens,), float64
        In the order of the tokens. Special tokens have 0.
    logits, baseline_logits : ndarray of shape (n_texts,), float64
        Logit of the target for each text, and for the text of neutral tokens.
    """

    scores: np.ndarray
    logits: np.ndarray
    baseline_logits: np.ndarray

    def sums(self, tokens: Tokens) -> np.ndarray:
        """Add the scores of each text; shape (n_texts,)."""
        text = np.repeat(np.arange(len(tokens)), tokens.lengths)
        return np.bincount(text, self.scores, minlength=len(tokens))

    def is_complete(self, tokens: Tokens) -> np.ndarray:
        """Tell for which texts the scores add up to the difference of the logits: (n_texts,)."""
        difference = self.logits - self.baseline_logits
        error = np.abs(self.sums(tokens) - difference)
        return error <= np.maximum(INCOMPLETE * np.abs(difference), NEGLIGIBLE)


def integrated_gradients(
    classifier: TextClassifier,
    tokens: Tokens,
    targets: np.ndarray,
    neutral_id: int,
    n_steps: int | None = None,
) -> Attributions:
    """Integrate the gradient of the target's logit on the way from neutral tokens to the text.

    Sundararajan et al. (2017), "Axiomatic attribution for deep networks", with the word embeddings
    as input: from the vector of the neutral token to that of the token itself, in a straight line.
    Positions and segments stay. The scores of a text add up to the difference of the two logits,
    except for the error of the numerical integration (Gauss-Legendre).

    Parameters
    ----------
    classifier : TextClassifier
    tokens : Tokens
    targets : ndarray of shape (n_texts,), int64
        Column of the logits of each text.
    neutral_id : int
        Id of the token that stands for no information.
    n_steps : int or None
        Number of points of the way. None takes the first of `STEPS` for which the scores are
        complete, for each text.

    Returns
    -------
    Attributions
    """
    classifier = replace(classifier, precision=torch.float32)
    found = _without_scores(classifier, tokens, targets, neutral_id)
    rows = np.arange(len(tokens))
    for steps in STEPS if n_steps is None else (n_steps,):
        scores = _integrate(classifier, tokens.take(rows), targets[rows], neutral_id, steps)
        found.scores[tokens.places(rows)] = scores
        rows = rows[~found.is_complete(tokens)[rows]]
        if not len(rows):
            break
    return found


def occlusion(
    classifier: TextClassifier,
    tokens: Tokens,
    targets: np.ndarray,
    neutral_id: int,
    words: np.ndarray,
) -> Attributions:
    """Measure by how much the target's logit falls if one word is replaced by neutral tokens.

    Zeiler and Fergus (2014), "Visualizing and understanding convolutional networks", for words.
    The tokens of a word share its score equally. Scores do not add up to the difference of the
    logits, because words act together.

    Parameters
    ----------
    classifier, tokens, targets, neutral_id
        As in `integrated_gradients`.
    words : ndarray of shape (n_tokens,), int64
        The word of each token, from 0 in each text; -1 for special tokens.

    Returns
    -------
    Attributions
    """
    classifier = replace(classifier, precision=torch.float32)
    found = _without_scores(classifier, tokens, targets, neutral_id)
    text = np.repeat(np.arange(len(tokens)), tokens.lengths)
    is_piece = words >= 0
    n_words = np.zeros(len(tokens), dtype=np.int64)
    np.maximum.at(n_words, text, words + 1)
    first_word = np.cumsum(n_words) - n_words
    word_of_token = np.where(is_piece, first_word[text] + words, -1)
    text_of_word = np.repeat(np.arange(len(tokens)), n_words)
    falls = np.zeros(len(text_of_word))
    for part in budgeted_batches(tokens.lengths[text_of_word], _TOKENS_OF_OCCLUSION):
        rows = text_of_word[part]
        variants = tokens.take(rows)
        hidden = np.repeat(part, variants.lengths)
        is_hidden = word_of_token[tokens.places(rows)] == hidden
        ids = np.where(is_hidden, neutral_id, variants.ids)
        without = _logits_of_targets(
            classifier, replace(variants, ids=ids.astype(np.int32)), targets[rows]
        )
        falls[part] = found.logits[rows] - without
    n_pieces = np.bincount(word_of_token[is_piece], minlength=len(falls))
    found.scores[is_piece] = (falls / np.maximum(n_pieces, 1))[word_of_token[is_piece]]
    return found


# Number of tokens of the variants that exist at a time; prediction cuts them into batches.
_TOKENS_OF_OCCLUSION = 2**14


def _without_scores(
    classifier: TextClassifier, tokens: Tokens, targets: np.ndarray, neutral_id: int
) -> Attributions:
    """Compute both logits of each text; the scores are zeros."""
    logits = _logits_of_targets(classifier, tokens, targets)
    baseline_logits = _logits_of_targets(classifier, _neutral(tokens, neutral_id), targets)
    return Attributions(np.zeros(len(tokens.ids)), logits, baseline_logits)


def _logits_of_targets(
    classifier: TextClassifier, tokens: Tokens, targets: np.ndarray
) -> np.ndarray:
    logits = predict_logits(classifier, tokens)
    return logits[np.arange(len(tokens)), targets].astype(np.float64)


def _neutral(tokens: Tokens, neutral_id: int) -> Tokens:
    """Replace all tokens except special tokens."""
    ids = np.where(tokens.is_special, tokens.ids, neutral_id).astype(np.int32)
    return replace(tokens, ids=ids)


@lru_cache(maxsize=8)
def _points(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute where on the way from 0 to 1 the gradient is taken, and how much it counts."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    return (nodes + 1) / 2, weights / 2


@gradients_on()
def _integrate(
    classifier: TextClassifier,
    tokens: Tokens,
    targets: np.ndarray,
    neutral_id: int,
    n_steps: int,
) -> np.ndarray:
    """Compute the attributions with `n_steps` points for each text: (n_tokens,), float64."""
    nodes, weights = _points(n_steps)
    text_of_row = np.repeat(np.arange(len(tokens)), n_steps)
    step_of_row = np.tile(np.arange(n_steps), len(tokens))
    neutral_ids = _neutral(tokens, neutral_id).ids
    table = word_embeddings(classifier.encoder)
    scores = np.zeros(len(tokens.ids))

    def add_up(rows: np.ndarray) -> None:
        """Add the terms of some pairs of a text and a step."""
        texts, steps = text_of_row[rows], step_of_row[rows]
        batch = pack(tokens.take(texts), np.arange(len(rows)))
        source = tokens.places(texts[batch.rows])
        device = classifier.device
        with torch.no_grad():
            start = table(to_device(neutral_ids[source], device))
            way = table(to_device(tokens.ids[source], device)) - start
            share = np.repeat(nodes[steps[batch.rows]], np.diff(batch.cu_seqlens))
            vectors = start + to_device(share.astype(np.float32), device)[:, None] * way
        vectors.requires_grad_()
        logits = classifier.logits(batch, start=WordVectors(vectors))
        chosen = to_device(targets[texts[batch.rows]], device)
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), vectors)
        terms = (gradient * way).sum(dim=1).double().cpu().numpy()
        weight = np.repeat(weights[steps[batch.rows]], np.diff(batch.cu_seqlens))
        np.add.at(scores, source, weight * terms)

    is_cpu = classifier.device.type == "cpu"
    budget = TOKENS_WITH_GRADIENTS if is_cpu else token_budget(classifier.device) // 4
    parts = budgeted_batches(tokens.lengths[text_of_row], budget)
    for _ in compute_parts(parts, add_up):
        pass
    return scores
