"""How fast are sentence vectors, compared with sentence-transformers and the same weights?

The benchmark computes normalised vectors of all-MiniLM-L6-v2: with pooling "cls", skbert's default,
for which it computes the last layer for one token per text; and with pooling "mean", for which the
model was trained. Before timing, both sides must return the same vectors, within 1e-5. Sentences
profit most from packing, long documents of equal length least, so the benchmark measures both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import _common as common
import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from skbert import BertEmbeddingTransformer
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.prediction.parts import TOKEN_BUDGET

TOLERANCE = 1e-5
MAX_LENGTH = 256  # tokens, as in the settings of the model

Embed = Callable[[], np.ndarray]


def skbert_embed(texts: list[str], pooling: str) -> Embed:
    common.forget_words()
    transformer = BertEmbeddingTransformer(
        common.MODEL,
        pooling=pooling,
        normalize=True,
        max_length=MAX_LENGTH,
        truncation="head",
        device="cpu",
    ).fit(texts[:1])
    return lambda: transformer.transform(texts)


def sentence_transformers_embed(texts: list[str], pooling: str) -> Embed:
    transformer = Transformer(common.model_folder(), max_seq_length=MAX_LENGTH)
    pooled = Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
    model = SentenceTransformer(modules=[transformer, pooled, Normalize()], device="cpu")
    return lambda: model.encode(texts, show_progress_bar=False)


def all_contenders(kind: str, texts: list[str], pooling: str) -> list[common.Contender]:
    return [
        common.Contender(
            f"skbert, {kind}",
            lambda: skbert_embed(texts, pooling),
            f"pooling={pooling!r}",
            n_texts=len(texts),
        ),
        common.Contender(
            f"sentence-transformers, {kind}",
            lambda: sentence_transformers_embed(texts, pooling),
            "encode with its defaults: longest first, batch_size=32",
            n_texts=len(texts),
        ),
    ]


def check_equal(contenders: list[common.Contender]) -> float:
    """Run each contender once, as a warm-up, and check that the vectors are equal."""
    ours, theirs = (contender.prepare()() for contender in contenders)
    difference = float(np.abs(ours - theirs).max())
    assert difference < TOLERANCE, f"vectors differ by {difference:.1e}"
    return difference


def matrix_limit(texts: list[str], pooling: str, smoke: bool) -> tuple[common.MatrixLimit, float]:
    """Limit for batches of the token budget, and the operations that the texts need."""
    pretrained = load_pretrained(common.MODEL)
    tokens = pretrained.subword_tokenizer(texts, max_length=MAX_LENGTH, truncation="head")
    sizes = common.Sizes.of(pretrained.config, n_classes=0)
    n_tokens = min(TOKEN_BUDGET, int(tokens.lengths.sum()))
    n_texts = max(1, n_tokens * len(texts) // int(tokens.lengths.sum()))
    products = common.linear_products(sizes, n_tokens, n_texts, training=False, pooling=pooling)
    limit = common.MatrixLimit(products, seconds=0.1 if smoke else 2.0)
    flops = common.needed_flops(sizes, tokens.lengths, training=False, pooling=pooling)
    return limit, flops


def measure(kind: str, texts: list[str], pooling: str, arguments: Any) -> dict[str, Any]:
    contenders = all_contenders(kind, texts, pooling)
    difference = check_equal(contenders)
    print(f"{len(texts)} {kind}: vectors agree, largest difference {difference:.1e}\n")
    limit, flops = matrix_limit(texts, pooling, arguments.smoke)
    contenders.append(limit.contender())
    timings = common.run_rounds(contenders, arguments.rounds)
    ours = contenders[0].name
    share = limit.share(timings, ours, flops)
    common.print_timings(timings, contenders, ours)
    print(f"\nskbert reaches {share:.0%} of the limit of the matrix products alone\n")
    return {
        "contenders": common.describe_timings(timings, contenders, ours),
        "largest_difference": difference,
        "times_as_fast": timings.speedup(ours, contenders[1].name),
        "needed_flops": flops,
        "limit_flops_per_second": limit.rates(timings).tolist(),
        "share_of_limit": share,
    }


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=7, n_texts=1024)
    sentences = common.load_split(2, arguments.n_texts).test_texts
    documents, _ = common.long_texts(4 if arguments.smoke else max(arguments.n_texts // 8, 1))
    cases = {
        "[CLS] of sentences": (sentences, "cls"),
        "mean of sentences": (sentences, "mean"),
        "mean of documents of 256 tokens": (documents, "mean"),
    }
    results = {
        kind: measure(kind, texts, pooling, arguments) for kind, (texts, pooling) in cases.items()
    }
    # Documents of equal length have no padding to save, so the report makes no claim for them.
    bounds = [
        common.Bound(
            f"embed, {kind}, times as fast as sentence-transformers",
            results[kind]["times_as_fast"],
            1.5,
        )
        for kind in ("[CLS] of sentences", "mean of sentences")
    ]
    return common.finish("embed", arguments, results, bounds)


if __name__ == "__main__":
    sys.exit(main())
