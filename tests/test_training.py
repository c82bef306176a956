"""Compare each optimization of the training loop with the plain loop that it replaces."""

import copy
import warnings

import numpy as np
import pytest
import torch

from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model.batch import host_batch
from skbert.engine.model.encoder import encode
from skbert.engine.model.networks import TextClassifier
from skbert.engine.text.packing import pack
from skbert.engine.training import frozen, micro_batches
from skbert.engine.training.classification import Classification, TrainingRun
from skbert.engine.training.loop import Trainer, TrainingOptions
from skbert.engine.training.optimizer import learning_rate_factor
from tests.objectives import classifier_and_tokens, equally_weighted, on_cpu

TEXTS = [
    "a good film",
    "",
    "dull",
    "not very good, not good",
    "i love my film",
    "boring and bad",
] * 3
LABELS = np.array([1, 0, 0, 0, 1, 0] * 3)
OPTIONS = TrainingOptions(
    max_epochs=3,
    batch_size=4,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup_fraction=0.1,
    dropout=0.0,
)


def new_classifier(folder, pooling="cls"):
    return classifier_and_tokens(folder, TEXTS, pooling)


def labelled(tokens):
    return equally_weighted(tokens, LABELS)


def weights_of(classifier):
    return {**classifier.encoder.state_dict(), **classifier.head.state_dict()}


def assert_same_weights(ours, theirs, atol):
    ours, theirs = weights_of(ours), weights_of(theirs)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=atol, msg=name)


def run(classifier, tokens, options=OPTIONS, seed=0):
    seed_sequence = np.random.SeedSequence(seed)
    training = TrainingRun(classifier, labelled(tokens), options, seed_sequence)
    return [training.epoch() for _ in range(options.max_epochs)]


def plain_loop(classifier, options, seed=0):
    """The loop of a tutorial: padded batches, transformers' forward, torch's AdamW and clipping."""
    tokenizer = load_pretrained(classifier.encoder.name_or_path).new_tokenizer()
    encoder, head = classifier.encoder, classifier.head
    order = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[0])
    parameters = [*encoder.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    n_batches = -(-len(TEXTS) // options.batch_size)
    losses, step = [], 0
    for _ in range(options.max_epochs):
        rows = order.permutation(len(TEXTS))
        for i in range(0, len(TEXTS), options.batch_size):
            batch = rows[i : i + options.batch_size]
            inputs = tokenizer([TEXTS[row] for row in batch], padding=True, return_tensors="pt")
            hidden = encoder(**inputs).last_hidden_state
            if classifier.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = inputs["attention_mask"][..., None]
                pooled = (hidden * mask).sum(1) / mask.sum(1)
            loss = torch.nn.functional.cross_entropy(head(pooled), torch.from_numpy(LABELS[batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            factor = learning_rate_factor(
                step, n_batches * options.max_epochs, options.warmup_fraction
            )
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * factor
            optimizer.step()
            step += 1
            losses.append(loss.item() * len(batch))
    return np.array(losses).reshape(options.max_epochs, n_batches).sum(1) / len(TEXTS)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_training_is_that_of_the_plain_padded_loop(tiny_bert, pooling):
    ours, tokens = new_classifier(tiny_bert, pooling)
    theirs, _ = new_classifier(tiny_bert, pooling)
    theirs.encoder.name_or_path = tiny_bert
    records = run(ours, tokens)
    losses = plain_loop(theirs, OPTIONS)
    np.testing.assert_allclose([r.train_loss for r in records], losses, rtol=0, atol=1e-5)
    # skbert decays rows of the embedding table that never occur in closed form: 1e-6 apart.
    ours_table = ours.encoder.embeddings.word_embeddings.weight
    theirs_table = theirs.encoder.embeddings.word_embeddings.weight
    absent = np.setdiff1d(np.arange(len(ours_table)), tokens.ids)
    assert len(absent) > 50
    torch.testing.assert_close(ours_table[absent], theirs_table[absent], rtol=0, atol=1e-6)
    # Adam divides by the root of the gradient's square. If a gradient is only rounding noise (keys'
    # biases), the sign of a step is noise, too: bounded by the learning rates, 18 steps.
    noise = {f"encoder.layer.{i}.attention.self.key.bias" for i in range(3)}
    ours_weights, theirs_weights = weights_of(ours), weights_of(theirs)
    for name in ours_weights.keys() - noise:
        torch.testing.assert_close(
            ours_weights[name], theirs_weights[name], rtol=0, atol=1e-4, msg=name
        )


def test_records_by_hand(tiny_bert):
    classifier, tokens = new_classifier(tiny_bert)
    records = run(classifier, tokens)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [record.n_tokens for record in records] == [len(tokens.ids)] * 3
    # 18 texts in batches of 4: 5 steps an epoch, 15 in all, of which 2 are warm-up
    expected = [1e-3 * 11 / 13, 1e-3 * 6 / 13, 1e-3 * 1 / 13]
    assert [record.learning_rate for record in records] == pytest.approx(expected)


def test_micro_batches_give_the_gradients_of_the_whole_batch(tiny_bert, monkeypatch):
    whole, tokens = new_classifier(tiny_bert)
    parts = copy.deepcopy(whole)
    data, seed = labelled(tokens), np.random.SeedSequence(0)
    at_once = Trainer(whole, OPTIONS, lambda _: 1.0, seed)
    monkeypatch.setattr(micro_batches, "_MICRO_BATCH_TOKENS", 9)
    in_parts = Trainer(parts, OPTIONS, lambda _: 1.0, seed)
    rows = np.arange(8)
    sums = []
    for trainer, classifier in ((at_once, whole), (in_parts, parts)):
        objective = Classification(classifier, data, OPTIONS)
        step = trainer._prepare(objective, rows)
        sums.append(trainer._accumulate_gradients(objective, step).numpy())
        assert (len(step.parts) == 1) == (trainer is at_once)
    np.testing.assert_allclose(sums[1], sums[0], rtol=0, atol=1e-5)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6)


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(tiny_bert, monkeypatch):
    reference, tokens = new_classifier(tiny_bert)
    classifier = copy.deepcopy(reference)
    options = OPTIONS
    monkeypatch.setattr(micro_batches, "_MICRO_BATCH_TOKENS", 64)
    plain = TextClassifier.logits

    def small_memory(self, batch, *args):
        if self is classifier and len(batch.ids) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, *args)

    run(reference, tokens, options)
    monkeypatch.setattr(TextClassifier, "logits", small_memory)
    with pytest.warns(UserWarning) as caught:
        run(classifier, tokens, options)
    assert [str(w.message) for w in caught] == [
        f"Out of memory on cpu. skbert repeats the step in micro-batches of {n} tokens, which "
        "gives the same gradients more slowly. Lower max_length or choose a smaller model to avoid "
        "this."
        for n in (13,)
    ]
    # Skip the keys' biases: their true gradient is zero, and Adam amplifies the rounding.
    for name, weight in weights_of(reference).items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(
                weights_of(classifier)[name], weight, rtol=0, atol=1e-4, msg=name
            )


def test_out_of_memory_for_one_text_is_raised(tiny_bert, monkeypatch):
    classifier, tokens = new_classifier(tiny_bert)

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TextClassifier, "logits", no_memory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            run(classifier, tokens)


@pytest.mark.parametrize("n_frozen_layers", [1, 2])
@pytest.mark.parametrize("cached", [True, False])
def test_frozen_layers_stay_and_the_others_train_as_without_a_cache(
    tiny_bert, monkeypatch, n_frozen_layers, cached
):
    options = TrainingOptions(**{**OPTIONS.__dict__, "n_frozen_layers": n_frozen_layers})
    if not cached:
        monkeypatch.setattr(frozen, "_LARGEST_CACHE", 0)
    before, tokens = new_classifier(tiny_bert)
    ours, theirs = copy.deepcopy(before), copy.deepcopy(before)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(ours, tokens, options)
    assert bool(caught) is not cached

    # The plain loop computes all layers in every step and freezes the lower ones.
    theirs.encoder.name_or_path = tiny_bert
    theirs.encoder.embeddings.requires_grad_(False)
    theirs.encoder.encoder.layer[:n_frozen_layers].requires_grad_(False)
    plain_loop(theirs, options)

    lower = tuple(f"encoder.layer.{i}." for i in range(n_frozen_layers))
    for name, weight in ours.encoder.state_dict().items():
        if name.startswith(("embeddings", *lower)):
            assert torch.equal(weight, before.encoder.state_dict()[name]), name
        elif not name.endswith("key.bias"):
            torch.testing.assert_close(
                weight, theirs.encoder.state_dict()[name], rtol=0, atol=1e-4, msg=name
            )
    assert not torch.equal(ours.head.weight, before.head.weight)


def test_frozen_layers_are_computed_once_and_without_dropout(tiny_bert, monkeypatch):
    options = TrainingOptions(**{**OPTIONS.__dict__, "n_frozen_layers": 2, "dropout": 0.5})
    classifier, tokens = new_classifier(tiny_bert)
    n_computed, starts = [], []
    compute, logits = frozen.FrozenLayers._compute, TextClassifier.logits

    def counting(self, batch):
        n_computed.append(len(batch.rows))
        return compute(self, batch)

    def noting(self, batch, dropout, start):
        starts.append((batch, start))
        return logits(self, batch, dropout, start)

    monkeypatch.setattr(frozen.FrozenLayers, "_compute", counting)
    monkeypatch.setattr(TextClassifier, "logits", noting)
    run(classifier, tokens, options)
    assert sum(n_computed) == len(TEXTS)
    assert len(starts) == 3 * 5  # steps
    for batch, start in starts:
        with torch.no_grad():
            plain = encode(classifier.encoder, batch, n_layers=2)
        assert start.layer == 2
        torch.testing.assert_close(start.states, plain, rtol=0, atol=1e-5)


def test_recomputing_frozen_layers_is_said(tiny_bert, monkeypatch):
    monkeypatch.setattr(frozen, "_LARGEST_CACHE", 0)
    classifier, tokens = new_classifier(tiny_bert)
    with pytest.warns(UserWarning) as caught:
        frozen.FrozenLayers(classifier.encoder, 2, tokens)
    assert str(caught[0].message) == (
        f"The hidden states of 2 frozen layers for {len(tokens.ids)} tokens need 0.0 GiB; skbert "
        "stores at most 0 GiB, so skbert computes them again in each epoch, which is slower. Lower "
        "max_length, or train on fewer texts."
    )


def test_states_for_which_memory_is_too_short_are_computed_again(tiny_bert, monkeypatch):
    def no_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    classifier, tokens = new_classifier(tiny_bert)
    stored = frozen.FrozenLayers(classifier.encoder, 2, tokens)
    monkeypatch.setattr(frozen.FrozenLayers, "_all_states", no_memory)
    with pytest.warns(UserWarning, match="the memory does not suffice, so skbert computes them"):
        computed = frozen.FrozenLayers(classifier.encoder, 2, tokens)
    packed = pack(tokens, np.arange(len(TEXTS)))
    states = [
        layers.states(on_cpu(host_batch(classifier.encoder, packed, **layers.index(packed)))).states
        for layers in (stored, computed)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=1e-6)


def test_dropout_makes_a_difference_and_the_seed_decides_it(tiny_bert):
    options = TrainingOptions(**{**OPTIONS.__dict__, "dropout": 0.3})
    first, tokens = new_classifier(tiny_bert)
    again, other, without = (copy.deepcopy(first) for _ in range(3))
    run(first, tokens, options, seed=1)
    run(again, tokens, options, seed=1)
    run(other, tokens, options, seed=2)
    run(without, tokens, OPTIONS, seed=1)
    assert_same_weights(first, again, atol=0)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.head.weight, without.head.weight)
