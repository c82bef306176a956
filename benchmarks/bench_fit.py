"""How long does fine-tuning take, compared with the usual ways with transformers?

All contenders start from the same files and train on the same sentences, with the same batch
size, number of epochs and highest learning rate; README.md lists the differences. Before timing,
the losses of skbert and of an ordinary padded loop must agree step by step.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from typing import Any

import _common as common
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score
from sklearn.pipeline import Pipeline
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from skorch.hf import HuggingfacePretrainedTokenizer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from transformers import (
    AutoTokenizer,
    BertModel,
    get_linear_schedule_with_warmup,
)

from skbert import BertSentimentClassifier
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.training.optimizer import learning_rate_factor

TUTORIAL_LENGTH = 64  # tokens; each sentence is padded to it
LOSS_TOLERANCE = 1e-4
N_FROZEN_LAYERS = 4
LONG_EPOCHS = 3


# Equal mathematics --------------------------------------------------------------------------


def check_loss_curves(data: common.Split, batch_size: int) -> dict[str, Any]:
    """Compare skbert's losses without dropout, step by step, with a padded loop's."""
    estimator = skbert_classifier(batch_size, dropout=0.0)
    with common.recorded_logits() as calls:
        estimator.fit(data.train_texts, data.train_labels)
    batches = joined_steps(calls, batch_size, len(data.train_texts))
    labels = torch.tensor(data.train_labels)
    ours = [
        F.cross_entropy(torch.cat([c.logits for c in step]), labels[np.concatenate(rows)]).item()
        for step in batches
        for rows in [[c.rows for c in step]]
    ]
    theirs = padded_losses(
        estimator, data, [np.concatenate([c.rows for c in step]) for step in batches], calls[0].head
    )
    difference = float(np.abs(np.subtract(ours, theirs)).max())
    assert len(ours) == math.ceil(len(data.train_texts) / batch_size), "steps were not all seen"
    assert difference < LOSS_TOLERANCE, f"losses differ by {difference:.2e}: {ours} {theirs}"
    print(f"losses agree in all {len(ours)} steps: largest difference {difference:.1e}\n")
    return {"skbert": ours, "padded_reference": theirs, "largest_difference": difference}


def joined_steps(
    calls: list[common.LogitsCall], batch_size: int, n_texts: int
) -> list[list[common.LogitsCall]]:
    """Join the parts of each optimizer step of one epoch."""
    steps: list[list[common.LogitsCall]] = [[]]
    for call in calls:
        n_before = sum(len(part.rows) for part in steps[-1])
        if n_before == batch_size:
            steps.append([])
        steps[-1].append(call)
    assert sum(len(call.rows) for call in calls) == n_texts, "more than one epoch was seen"
    return steps


def padded_losses(
    estimator: BertSentimentClassifier, data: common.Split, batches: list[np.ndarray], head: Any
) -> list[float]:
    """Train with transformers' own padded forward, unfused attention and unfused AdamW."""
    tokenizer = AutoTokenizer.from_pretrained(common.model_folder())
    encoder = BertModel.from_pretrained(
        common.model_folder(), add_pooling_layer=False, attn_implementation="eager"
    ).eval()  # evaluation mode is dropout 0
    parameters = [*encoder.parameters(), *head.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": estimator.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    losses = []
    for step, rows in enumerate(batches):
        factor = learning_rate_factor(step, len(batches), estimator.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = estimator.learning_rate * factor
        texts = [data.train_texts[row] for row in rows]
        labels = torch.tensor([data.train_labels[row] for row in rows])
        encoded = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=estimator.max_length,
            return_tensors="pt",
        )
        loss = F.cross_entropy(head(encoder(**encoded).last_hidden_state[:, 0]), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# Contenders ---------------------------------------------------------------------------------


def skbert_classifier(batch_size: int, **parameters: Any) -> BertSentimentClassifier:
    settings = {
        "max_epochs": 1,
        "batch_size": batch_size,
        "learning_rate": common.LEARNING_RATE,
        "pooling": "cls",
        "device": "cpu",
        "random_state": 0,
    }
    return BertSentimentClassifier(common.MODEL, **settings | parameters)


def skbert_fit(
    data: common.Split, batch_size: int, name: str, **parameters: Any
) -> common.Contender:
    seeds = itertools.count()

    def prepare() -> Any:
        common.forget_words()
        estimator = skbert_classifier(batch_size, random_state=next(seeds), **parameters)
        return lambda: estimator.fit(data.train_texts, data.train_labels)

    settings = ", ".join(
        f"{key}={value}" for key, value in ({"max_epochs": 1} | parameters).items()
    )
    return common.Contender(
        name,
        prepare,
        f"pooling='cls', {settings}: dropout 0.1, no attention dropout, warm-up over 10 % of steps",
        lambda fitted: fitted.score(data.test_texts, data.test_labels),
        len(data.train_texts),
    )


def trainer_fit(data: common.Split, batch_size: int, name: str, sampling: str) -> common.Contender:
    def prepare() -> Any:
        tokenizer = AutoTokenizer.from_pretrained(common.model_folder())
        model = common.load_sequence_classifier()

        def run() -> Any:
            common.fit_with_trainer(
                model,
                tokenizer,
                data.train_texts,
                data.train_labels,
                batch_size=batch_size,
                sampling=sampling,
            )
            return model

        return run

    return common.Contender(
        name,
        prepare,
        f"TrainingArguments defaults, train_sampling_strategy={sampling!r}; padded to each "
        "batch's longest; attention dropout 0.1; no warm-up; no evaluation, saving or logging",
        lambda model: module_accuracy(model, data),
        len(data.train_texts),
    )


class LogitsModule(nn.Module):
    """The wrapper of skorch's notebook: a transformers model that returns logits."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = common.load_sequence_classifier()

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.bert(**inputs).logits


def skorch_fit(data: common.Split, batch_size: int) -> common.Contender:
    n_steps = math.ceil(len(data.train_texts) / batch_size)

    def prepare() -> Any:
        network = NeuralNetClassifier(
            LogitsModule,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            lr=common.LEARNING_RATE,
            max_epochs=1,
            batch_size=batch_size,
            iterator_train__shuffle=True,
            train_split=None,  # its default would train on 80 % of the texts
            warm_start=True,  # keeps the weights that are loaded here, before the clock starts
            callbacks=[LRScheduler(LambdaLR, lr_lambda=decay, step_every="batch")],
            verbose=0,
        ).initialize()
        tokenizer = HuggingfacePretrainedTokenizer(
            common.model_folder(), max_length=common.MAX_LENGTH
        )
        pipeline = Pipeline([("tokenizer", tokenizer), ("net", network)])
        return lambda: pipeline.fit(data.train_texts, np.array(data.train_labels))

    def decay(step: int) -> float:
        return (n_steps - step) / n_steps

    return common.Contender(
        "skorch + transformers",
        prepare,
        "as in skorch's notebook: HuggingfacePretrainedTokenizer pads to max_length (128 here, "
        "256 by default), AdamW, linear decay; train_split=None; attention dropout 0.1",
        lambda pipeline: module_accuracy(pipeline["net"].module_.bert, data),
        len(data.train_texts),
    )


def tutorial_fit(data: common.Split, batch_size: int) -> common.Contender:
    def prepare() -> Any:
        tokenizer = AutoTokenizer.from_pretrained(common.model_folder())
        model = common.load_sequence_classifier()

        def run() -> Any:
            encoded = tokenizer(
                data.train_texts,
                padding="max_length",
                truncation=True,
                max_length=TUTORIAL_LENGTH,
                return_tensors="pt",
            )
            dataset = TensorDataset(
                encoded["input_ids"], encoded["attention_mask"], torch.tensor(data.train_labels)
            )
            loader = DataLoader(dataset, sampler=RandomSampler(dataset), batch_size=batch_size)
            train_as_in_tutorials(model, loader)
            return model

        return run

    return common.Contender(
        "padded tutorial loop",
        prepare,
        f"padded to {TUTORIAL_LENGTH} tokens, torch AdamW, get_linear_schedule_with_warmup "
        "without warm-up; attention dropout 0.1",
        lambda model: module_accuracy(model, data),
        len(data.train_texts),
    )


def train_as_in_tutorials(model: Any, loader: DataLoader) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=common.LEARNING_RATE, eps=1e-8)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, len(loader))
    model.train()
    for ids, mask, labels in loader:
        model.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


def module_accuracy(model: Any, data: common.Split) -> float:
    """Held-out accuracy of a transformers classifier."""
    tokenizer = AutoTokenizer.from_pretrained(common.model_folder())
    model.eval()
    predicted = []
    with torch.inference_mode():
        for start in range(0, len(data.test_texts), 32):
            encoded = tokenizer(
                data.test_texts[start : start + 32],
                padding=True,
                truncation=True,
                max_length=common.MAX_LENGTH,
                return_tensors="pt",
            )
            predicted += model(**encoded).logits.argmax(1).tolist()
    return accuracy_score(data.test_labels, predicted)


def frozen_contenders(data: common.Split, batch_size: int) -> list[common.Contender]:
    if "n_frozen_layers" not in inspect.signature(BertSentimentClassifier).parameters:
        return []
    return [
        skbert_fit(data, batch_size, f"skbert, {LONG_EPOCHS} epochs", max_epochs=LONG_EPOCHS),
        skbert_fit(
            data,
            batch_size,
            f"skbert, {LONG_EPOCHS} epochs, {N_FROZEN_LAYERS} frozen layers",
            max_epochs=LONG_EPOCHS,
            n_frozen_layers=N_FROZEN_LAYERS,
        ),
    ]


def all_contenders(data: common.Split, batch_size: int) -> list[common.Contender]:
    return [
        skbert_fit(data, batch_size, "skbert"),
        trainer_fit(data, batch_size, "Trainer", "random"),
        trainer_fit(data, batch_size, "Trainer, length-grouped", "group_by_length"),
        skorch_fit(data, batch_size),
        tutorial_fit(data, batch_size),
        *frozen_contenders(data, batch_size),
    ]


# Report -------------------------------------------------------------------------------------


def matrix_limit(data: common.Split, arguments: Any) -> tuple[common.MatrixLimit, float]:
    """Limit for the batches that skbert really computes, and the operations of its fit."""
    with common.recorded_logits() as calls:
        skbert_classifier(arguments.batch_size).fit(data.train_texts, data.train_labels)
    sizes = common.Sizes.of(load_pretrained(common.MODEL).config, n_classes=2)
    n_tokens, n_texts = common.typical_batch(calls)
    products = common.linear_products(sizes, n_tokens, n_texts, training=True)
    lengths = np.concatenate([call.lengths for call in calls])
    limit = common.MatrixLimit(products, seconds=0.1 if arguments.smoke else 3.0)
    return limit, common.needed_flops(sizes, lengths, training=True)


def bounds(timings: common.Timings, share: float) -> list[common.Bound]:
    names = {
        "Trainer": 2.8,
        "Trainer, length-grouped": 1.5,
        "skorch + transformers": 9.0,
    }
    found = [
        common.Bound(f"fit, times as fast as {name}", timings.speedup("skbert", name), limit)
        for name, limit in names.items()
    ]
    found.append(common.Bound("fit, share of the matrix-product limit", share, 0.75))
    whole = f"skbert, {LONG_EPOCHS} epochs"
    frozen = f"{whole}, {N_FROZEN_LAYERS} frozen layers"
    if frozen in timings.seconds:
        speedup = timings.speedup(frozen, whole)
        found.append(common.Bound("n_frozen_layers=4, times as fast as all layers", speedup, 2.5))
    best_rival = max(timings.mean_score(name) for name in (*names, "padded tutorial loop"))
    difference = timings.mean_score("skbert") - best_rival
    found.append(common.Bound("accuracy after 1 epoch, minus the best rival's", difference, -0.05))
    return found


def main() -> int:
    arguments = common.parse_arguments(__doc__, rounds=5, n_texts=512)
    data = common.load_split(arguments.n_texts, n_test=8 if arguments.smoke else 512)
    torch.manual_seed(0)  # for heads, dropout and order of the other contenders
    curves = check_loss_curves(data, arguments.batch_size)
    limit, flops = matrix_limit(data, arguments)
    if not arguments.smoke:
        few = common.load_split(64, 16)
        common.run_rounds(all_contenders(few, arguments.batch_size), rounds=1)
    contenders = [*all_contenders(data, arguments.batch_size), limit.contender()]
    timings = common.run_rounds(contenders, arguments.rounds)

    share = limit.share(timings, "skbert", flops)
    common.print_timings(timings, contenders, "skbert")
    print(
        f"\nmatrix products alone: {np.median(limit.rates(timings)) / 1e9:.1f} GFLOP/s; a fit "
        f"needs {flops / 1e9:.0f} GFLOP of them; skbert reaches {share:.0%} of that limit"
    )
    results = {
        "contenders": common.describe_timings(timings, contenders, "skbert"),
        "loss_curves": curves,
        "needed_flops": flops,
        "limit_flops_per_second": limit.rates(timings).tolist(),
        "share_of_limit": share,
    }
    return common.finish("fit", arguments, results, bounds(timings, share))


if __name__ == "__main__":
    sys.exit(main())
