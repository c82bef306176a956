"""The path of CUDA devices, run on the CPU with the same functions.

What only a CUDA device has is replaced: the attention kernel by its definition, page-locked memory
by ordinary memory, and the capture of a graph by a call that is repeated.
"""

import gc
import threading
import warnings
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skbert import BertPretrainer, BertSentimentClassifier, free_pretrained
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model import batch, capture, device, encoder, recompute, varlen
from skbert.engine.model.batch import DeviceBatch, host_batch, stage
from skbert.engine.model.dropout import SlicedDropout, no_dropout, seeded_dropout
from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.parts import Pieces, compute_parts
from skbert.engine.text.packing import Filling, PackedBatch, fill, pack
from skbert.engine.training import graphs, loop, optimizer, step_log
from skbert.engine.training.ahead import ahead
from skbert.engine.training.classification import Classification
from skbert.engine.training.loop import DivergenceError, Trainer, TrainingOptions
from skbert.engine.training.optimizer import clip_and_step, gradient_norm, new_adamw
from skbert.engine.training.step_log import StepLog
from tests.objectives import classifier_and_tokens, equally_weighted

CPU = torch.device("cpu")
TEXTS = ["a good film", "", "dull", "not very good, not good", "i love my film", "bad"] * 6
LABELS = np.array([1, 0, 0, 0, 1, 0] * 6)
OPTIONS = TrainingOptions(
    max_epochs=3,
    batch_size=8,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup_fraction=0.1,
    dropout=0.0,
)
SETTINGS = {"max_length": 32, "max_epochs": 3, "learning_rate": 5e-3, "random_state": 0}


def kernel(query, key, value, cu_queries, cu_keys, longest_query, longest_key):
    """What `varlen_attn` computes, text by text."""
    contexts = []
    queries, keys = cu_queries.tolist(), cu_keys.tolist()
    assert max(np.diff(queries)) <= longest_query and max(np.diff(keys)) <= longest_key
    for start, stop, first, last in zip(queries, queries[1:], keys, keys[1:], strict=False):
        parts = (query[start:stop], key[first:last], value[first:last])
        q, k, v = (part.transpose(0, 1) for part in parts)
        contexts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(contexts)


@pytest.fixture
def like_cuda(monkeypatch):
    """Treat the CPU as a device that the host does not wait for; returns what was captured."""
    captured = []

    def captured_call(call, device, generator, memory):
        captured.append(memory)
        return call

    for module in (device, batch, loop, optimizer, step_log):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)
    for module in (batch, step_log):
        monkeypatch.setattr(module, "page_locked", lambda n, dtype: torch.empty(n, dtype=dtype))
    monkeypatch.setattr(step_log, "event_now", lambda device: SimpleNamespace(query=lambda: True))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(encoder, "is_usable", lambda device, d_head: True)
    monkeypatch.setattr(varlen, "_kernel", lambda: kernel)
    monkeypatch.setattr(graphs, "capture", captured_call)
    monkeypatch.setattr(capture, "GraphMemory", object)
    monkeypatch.setattr(capture, "_idle", defaultdict(list))
    return captured


def new_classifier(folder, pooling="cls"):
    return classifier_and_tokens(folder, TEXTS, pooling)


def labelled(tokens):
    return equally_weighted(tokens, LABELS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"device": "cpu"}, False),
        ({"is_lower": False}, False),  # float32
        ({"kernel": None}, False),  # a torch without it
        ({"is_recent": False}, False),
        ({"d_head": 12}, False),
        ({"d_head": 264}, False),
    ],
)
def test_where_the_kernel_can_be_used(monkeypatch, change, expected):
    given = {"device": "cuda", "is_lower": True, "kernel": kernel, "is_recent": True, "d_head": 64}
    given |= change
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: given["is_lower"])
    monkeypatch.setattr(varlen, "_kernel", lambda: given["kernel"])
    monkeypatch.setattr(varlen, "_is_recent", lambda device: given["is_recent"])
    assert varlen.is_usable(torch.device(given["device"]), given["d_head"]) is expected


def test_this_torch_has_the_kernel():
    assert varlen._kernel() is torch.nn.attention.varlen.varlen_attn


# a whole fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "mean", "class_weight": "balanced"},
        {"n_frozen_layers": 1, "label_smoothing": 0.1},
        {"pretraining_epochs": 1},
        {"early_stopping": True},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_a_fit_gives_the_losses_and_probabilities_of_the_cpu(
    tiny_bert, toy_reviews, request, settings
):
    X, y = toy_reviews

    def fitted():
        clf = BertSentimentClassifier(tiny_bert, dropout=0.0, batch_size=8, **SETTINGS, **settings)
        return clf.fit(X, y)

    expected = fitted()
    captured = request.getfixturevalue("like_cuda")
    found = fitted()
    assert len(captured) > 0  # steps were replayed
    for name in ("train_loss", "learning_rate"):
        ours, theirs = ([record[name] for record in c.history_] for c in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-3)


def test_pretraining_gives_the_losses_of_the_cpu(tiny_bert, toy_reviews, request):
    X, _ = toy_reviews
    documents = [X[start : start + 4] for start in range(0, len(X), 4)]

    def fitted():
        return BertPretrainer(tiny_bert, dropout=0.0, batch_size=8, **SETTINGS).fit(documents)

    expected = fitted().history_
    captured = request.getfixturevalue("like_cuda")
    found = fitted().history_
    assert len(captured) > 0
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("masked_loss", "next_sentence_loss", "next_sentence_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name


@pytest.mark.usefixtures("like_cuda")
def test_partial_fit_replays_only_the_steps_of_its_own_texts(tiny_bert, toy_reviews):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, dropout=0.0, n_frozen_layers=1, **SETTINGS)
    for _ in range(12):  # the same shapes with other texts, and other stored states
        clf.partial_fit(X[:40], y[:40], classes=["bad", "good"])
        clf.partial_fit(X[40:], y[40:])
    assert clf.score(X, y) > 0.9


# steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tokens", [1, 255, 256, 511, 853, 1024, 5000, 16384])
@pytest.mark.parametrize("longest", [12, 300])
def test_sizes_are_rounded_up_a_little(n_tokens, longest):
    filling = Filling.of(n_tokens, longest)
    assert 0 < filling.n_tokens - n_tokens <= max(256, n_tokens / 4)
    assert filling.longest >= max(longest, filling.n_tokens - n_tokens)  # the filler is a text
    assert Filling.of(filling.n_tokens - 1, longest) == filling
    assert 0 < Filling.of(n_tokens, longest, 64).n_tokens - n_tokens <= 64


def test_there_are_few_sizes():
    assert {Filling.of(n, 60) for n in range(700, 1100)} == {
        Filling(768, 256),
        Filling(1024, 256),
        Filling(1280, 256),
    }
    sizes = {Filling.of(n, 512).n_tokens for n in range(6700, 8700)}
    assert sizes == {7168, 8192, 10240}


def test_a_filler_changes_neither_logits_nor_gradients(tiny_bert, monkeypatch):
    monkeypatch.setattr(encoder, "is_usable", lambda device, d_head: True)
    monkeypatch.setattr(varlen, "_kernel", lambda: kernel)
    classifier, tokens = new_classifier(tiny_bert, "mean")
    objective = Classification(classifier, labelled(tokens), OPTIONS)
    rows, found = np.arange(7), []
    for filling in (None, Filling(192, 64)):
        host = objective.prepare(rows, rows, filling)
        objective.loss(stage(host, CPU).copy(CPU), no_dropout).part.backward()
        gradients = [p.grad.clone() for p in classifier.parameters() if p.grad is not None]
        found.append((len(host.packed.ids), gradients))
        classifier.encoder.zero_grad()
        classifier.head.zero_grad()
    (n_tokens, expected), (n_filled, gradients) = found
    assert n_filled == 192 > n_tokens
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_one_copy_has_all_arrays(like_cuda, tiny_bert):
    classifier, tokens = new_classifier(tiny_bert)
    weights = np.array([0.5, -2.0], dtype=np.float32)
    host = host_batch(classifier.encoder, pack(tokens, np.arange(3)), weights=weights)
    staged = stage(host, CPU)
    found = staged.copy(CPU)
    assert staged.flat.dtype == torch.int32 and isinstance(found, DeviceBatch)
    assert found.tensors.keys() == host.arrays.keys()
    for name, array in host.arrays.items():
        np.testing.assert_array_equal(found.tensors[name].numpy(), array)


def test_only_the_second_step_of_a_shape_is_captured(like_cuda):
    taken = []
    owner = graphs.StepGraphs(test_only_the_second_step_of_a_shape_is_captured, no_dropout, CPU)
    for n in (3, 4, 3, 3, 4, 5):
        host = SimpleNamespace(shape=n)
        flat = torch.full((n,), len(taken), dtype=torch.int32)
        staged = SimpleNamespace(
            host=host, flat=flat, copy=lambda device, flat=flat: flat, view=lambda flat: flat
        )
        owner.take(lambda flat: taken.append(flat.tolist()), staged)
    assert len(like_cuda) == 2
    assert taken == [[i] * n for i, n in enumerate((3, 4, 3, 3, 4, 5))]


def test_the_memory_of_graphs_is_used_again_but_not_by_two_trainers(like_cuda, tiny_bert):
    def fitted():
        clf = BertSentimentClassifier(tiny_bert, batch_size=8, **SETTINGS)
        return clf.partial_fit(TEXTS, LABELS, classes=[0, 1]).partial_fit(TEXTS, LABELS)

    gc.collect()  # estimators of other tests return their memory, too
    capture._idle.clear()
    for _ in range(3):
        fitted()
        gc.collect()
    assert len(set(like_cuda)) == 1
    alive = [fitted(), fitted()]
    assert len(set(like_cuda)) == 2
    del alive
    gc.collect()
    assert [len(idle) for idle in capture._idle.values()] == [2]
    free_pretrained()
    assert not capture._idle


@pytest.mark.parametrize("n_failures", [1, 2])
def test_a_capture_without_memory(like_cuda, tiny_bert, toy_reviews, monkeypatch, n_failures):
    """It is tried a second time. Then the fit goes on without graphs, and with the same masks."""

    def losses():
        settings = {**SETTINGS, "batch_size": 8, "dropout": 0.1}
        clf = BertSentimentClassifier(tiny_bert, **settings).fit(*toy_reviews)
        return [record["train_loss"] for record in clf.history_]

    expected, plain, tries = losses(), graphs.capture, []

    def capture_of_little(call, *arguments):
        tries.append(1)
        if len(tries) > n_failures:
            return plain(call, *arguments)
        if len(tries) == 2:  # as far as memory lasts, masks are drawn
            call.args[0].func.__self__._dropout(torch.ones(3, 4))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graphs, "capture", capture_of_little)
    assert losses() == pytest.approx(expected, abs=1e-4)
    assert len(tries) == 2


def test_cheap_steps_take_a_known_size():
    small, large = [torch.empty(384, 384)], [torch.empty(2048, 1024)]
    known = set()
    assert graphs.choose_filling(900, 60, small, known) == Filling(1024, 512)
    assert graphs.choose_filling(700, 60, small, known) == Filling(1024, 512)
    assert graphs.choose_filling(600, 60, small, known) == Filling(768, 512)
    assert graphs.choose_filling(700, 60, small, known) == Filling(768, 512)
    assert graphs.choose_filling(1024, 60, small, known) == Filling(1280, 768)
    assert graphs.choose_filling(900, 600, small, known) == Filling(1280, 768)
    assert graphs.choose_filling(700, 60, large, {Filling(1024, 256)}) == Filling(768, 256)


@pytest.mark.parametrize("mean", [4, 27, 60, 250])
def test_batches_with_one_filling_have_one_shape(tiny_bert, mean):
    encoder, rng = load_pretrained(tiny_bert).new_encoder(), np.random.default_rng(0)
    weights, known, shapes = [torch.empty(384, 384)], set(), {}
    for _ in range(60):
        lengths = np.clip(rng.gamma(3, mean / 3, 32).astype(int), 2, 60)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        n = int(ends[-1])
        zeros = np.zeros(n, dtype=np.int32)
        packed = PackedBatch(zeros, zeros, zeros, ends, np.arange(32))
        filling = graphs.choose_filling(n, 60, weights, known)
        shapes.setdefault(filling, set()).add(host_batch(encoder, packed, filling).shape)
    assert all(len(found) == 1 for found in shapes.values()) and len(shapes) <= 3


def test_large_steps_are_not_replayed():
    small, large = [torch.empty(384, 384)] * 100, [torch.empty(1024, 4096)] * 100
    assert graphs.pays(1000, small) and not graphs.pays(16000, large)


# a loss that is not finite ------------------------------------------------------------------------


def test_a_failed_step_and_all_later_ones_change_nothing(like_cuda, tiny_bert):
    classifier, tokens = new_classifier(tiny_bert)
    trainer = Trainer(classifier, OPTIONS, lambda _: 1.0, np.random.SeedSequence(0))
    objective = Classification(classifier, labelled(tokens), OPTIONS)
    plain, after, calls = Trainer._update, [], []

    def update(self, objective, sums):
        calls.append(1)
        plain(self, objective, sums * (torch.nan if len(calls) == 3 else 1))
        after.append(classifier.head.weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", update)
        patch.setattr(StepLog, "failure", late(StepLog.failure, n_calls=5))
        with pytest.raises(DivergenceError, match=r"not finite in step 3 \(loss nan, learning"):
            trainer.epoch(objective)
    assert trainer.n_steps == 2 and len(calls) > 3
    assert not torch.equal(after[0], after[1])
    assert all(torch.equal(weight, after[1]) for weight in after[2:])


def late(plain, n_calls):
    """The host learns of a failure only after some steps."""
    calls = []

    def failure(self, wait=False):
        calls.append(1)
        return plain(self, wait) if wait or len(calls) > n_calls else None

    return failure


def test_sums_of_steps_before_a_failure(like_cuda):
    log, one = StepLog(CPU), torch.tensor(1.0)
    for value, norm in ((1.0, one), (2.0, one), (4.0, one * torch.inf), (8.0, one)):
        log.record(torch.tensor([value, 1.0], dtype=torch.float64), norm)
    assert log.totals().tolist() == [3.0, 2.0]
    failed = log.failure(wait=True)
    assert failed.n_before == 2 and failed.sums.tolist() == [4.0, 1.0]
    assert float(log.failed) == 1
    log.begin_epoch()
    log.record(torch.tensor([16.0, 1.0], dtype=torch.float64), one)
    assert log.failure(wait=True) is None and log.totals().tolist() == [16.0, 1.0]


def test_the_host_learns_of_a_failure_from_an_earlier_copy(like_cuda, monkeypatch):
    events = []

    def event_now(device):
        events.append(SimpleNamespace(is_over=False, query=lambda: events[-1].is_over))
        return events[-1]

    monkeypatch.setattr(step_log, "event_now", event_now)
    log, one = StepLog(CPU), torch.tensor(1.0)
    log.record(torch.tensor([torch.nan, 1.0], dtype=torch.float64), one)
    assert log.failure() is None and len(events) == 1  # the copy has begun
    assert log.failure() is None and len(events) == 1  # and is under way
    events[0].is_over = True
    assert log.failure().n_before == 0


def test_the_host_knows_finished_steps_without_waiting(like_cuda, monkeypatch):
    events = []

    def event_now(device):
        events.append(SimpleNamespace(is_over=False, query=lambda: events[-1].is_over))
        return events[-1]

    def record(*sums):
        log.record(torch.tensor(sums, dtype=torch.float64), torch.tensor(1.0))
        assert log.failure() is None

    monkeypatch.setattr(step_log, "event_now", event_now)
    log = StepLog(CPU)
    record(3.0, 1.0)  # a copy begins
    record(4.0, 1.0)  # while it is under way
    assert log.finished is None
    events[0].is_over = True
    record(5.0, 1.0)  # the host reads the first copy, and begins another one
    assert log.finished.n == 1 and log.finished.sums.tolist() == [3.0, 1.0]
    events[1].is_over = True
    record(6.0, 1.0)
    assert log.finished.n == 3 and log.finished.sums.tolist() == [12.0, 3.0]
    assert log.totals().tolist() == [18.0, 4.0]
    log.begin_epoch()
    assert log.finished is None


def test_progress_of_finished_steps(like_cuda, tiny_bert):
    classifier, tokens = new_classifier(tiny_bert)
    trainer = Trainer(classifier, OPTIONS, lambda _: 1.0, np.random.SeedSequence(0))
    objective, seen = Classification(classifier, labelled(tokens), OPTIONS), []
    record = trainer.epoch(objective, lambda n, mean_loss: seen.append((n, mean_loss())))
    n_steps = trainer.n_steps
    assert [n for n, _ in seen] == [*range(1, n_steps)]  # each is known one step later
    assert n_steps > 2 and record.train_loss == pytest.approx(seen[-1][1], rel=0.5)


def test_clipping_without_reading_the_norm_is_clipping(like_cuda):
    for scale in (1e-3, 1e3):
        found = []
        for failed in (None, torch.tensor(0.0)):
            weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
            adamw = new_adamw([weight], 0.1)
            for group in adamw.param_groups:
                group["lr"] = torch.tensor(0.1)
            weight.grad = weight.detach() * scale
            norm = gradient_norm([weight])
            clip_and_step(adamw, norm, 1.0, failed)
            found.append(weight.detach())
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-7)


# memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("budget", [24, 40, 64])
def test_a_repeated_step_has_the_masks_of_the_first_try(tiny_bert, monkeypatch, pooling, budget):
    gradients = []
    for most_tokens in (10**6, budget):
        classifier, tokens = new_classifier(tiny_bert, pooling)
        options = TrainingOptions(**(vars(OPTIONS) | {"dropout": 0.3, "batch_size": 36}))
        objective = Classification(classifier, labelled(tokens), options)
        trainer = Trainer(classifier, options, lambda _: 1.0, np.random.SeedSequence(0))
        plain = TextClassifier.logits

        def small_memory(self, batch, *args, most_tokens=most_tokens, plain=plain):
            logits = plain(self, batch, *args)  # draws masks before it fails
            if len(batch.ids) > most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return logits

        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(TextClassifier, "logits", small_memory)
            step = trainer._prepare(objective, np.arange(36))
            trainer._accumulate_gradients(objective, step)
        gradients.append([p.grad for p in classifier.parameters() if p.grad is not None])
        after = trainer._dropout.state
        assert (trainer._micro_batches.token_budget <= budget) == (most_tokens == budget)
        gradients[-1].append(torch.tensor(np.array(after, dtype=np.uint64).astype(np.float64)))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_slices_of_masks():
    whole, parts = (seeded_dropout(0.5, np.random.SeedSequence(0), CPU) for _ in range(2))
    ones = torch.ones(10, 4)
    expected = [whole(ones), whole(ones[:3])]
    sliced = SlicedDropout(parts, n_texts=3, n_sequences=3, n_tokens=10)
    first = sliced.of(np.arange(1), np.arange(1), np.arange(6))
    second = sliced.of(np.arange(1, 3), np.arange(1, 3), np.arange(6, 10))
    found = [(drop(ones[:n]), drop(ones[:m])) for drop, n, m in ((first, 6, 1), (second, 4, 2))]
    for place in (0, 1):
        assert torch.equal(torch.cat([found[0][place], found[1][place]]), expected[place])
    assert parts.state == whole.state


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_blocks_that_are_computed_again_give_the_same_gradients(tiny_bert, pooling):
    gradients = []
    for enabled in (False, True):
        classifier, tokens = new_classifier(tiny_bert, pooling)
        objective = Classification(classifier, labelled(tokens), OPTIONS)
        dropout = seeded_dropout(0.3, np.random.SeedSequence(0), CPU)
        rows = np.arange(12)
        with recompute.recomputing_blocks(enabled):
            staged = stage(objective.prepare(rows, rows), CPU)
            objective.loss(staged.copy(CPU), dropout).part.backward()
        gradients.append([p.grad for p in classifier.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_gradient_checkpointing_is_the_last_resort(tiny_bert, monkeypatch):
    classifier, tokens = new_classifier(tiny_bert)
    trainer = Trainer(classifier, OPTIONS, lambda _: 1.0, np.random.SeedSequence(0))
    plain = TextClassifier.logits

    def small_memory(self, *args):
        if not recompute._is_on.get():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args)

    monkeypatch.setattr(TextClassifier, "logits", small_memory)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.epoch(Classification(classifier, labelled(tokens), OPTIONS))
    messages = [str(warning.message) for warning in caught]
    assert "with gradient checkpointing" in messages[-1]
    assert all("in micro-batches of" in message for message in messages[:-1])


def test_prediction_halves_batches_once_and_remembers(tiny_bert):
    sizes = []

    def compute(rows):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows * 2

    pieces = Pieces()
    with pytest.warns(UserWarning, match="Out of memory for a batch of 8 texts") as caught:
        found = list(compute_parts([np.arange(8), np.arange(8, 20)], compute, pieces))
        found += compute_parts([np.arange(20, 28)], compute, pieces)
    assert len(caught) == 1 and pieces.n == 4
    assert sizes == [8, 4, *[2] * 4, *[3] * 4, *[2] * 4]
    assert np.concatenate([rows for rows, _ in found]).tolist() == [*range(28)]
    assert all((result == rows * 2).all() for rows, result in found)


def test_one_text_without_memory_is_an_error():
    def compute(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        pytest.warns(UserWarning, match="Out of memory"),
        pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"),
    ):
        list(compute_parts([np.arange(4)], compute))


# another thread -----------------------------------------------------------------------------------


def test_results_come_in_order_and_only_a_few_ahead():
    begun = []

    def compute(i):
        begun.append(i)
        return i * i

    results = ahead(compute, range(10), n_ahead=2)
    assert next(results) == 0 and max(begun) <= 2
    assert list(results) == [i * i for i in range(1, 10)]


@pytest.mark.parametrize("how", ["used up", "closed", "failed"])
def test_the_thread_ends(how):
    def compute(i):
        if how == "failed" and i == 2:
            raise ValueError("of item 2")
        return i

    results = ahead(compute, range(5))
    assert next(results) == 0
    if how == "failed":
        assert next(results) == 1
        with pytest.raises(ValueError, match="of item 2"):
            next(results)
    elif how == "closed":
        results.close()
    else:
        list(results)
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("skbert-batches") for name in names)


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_fit_that_fails_leaves_no_thread(tiny_bert, toy_reviews, monkeypatch, error):
    def step(self, *arguments):
        assert any(thread.name.startswith("skbert-batches") for thread in threading.enumerate())
        raise error

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(error):
        BertSentimentClassifier(tiny_bert, **SETTINGS).fit(*toy_reviews)
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("skbert-batches") for name in names)


def test_a_filler_is_one_more_text(tiny_bert):
    _, tokens = new_classifier(tiny_bert)
    packed = pack(tokens, np.arange(3))
    filled = fill(packed, 64)
    assert len(filled.ids) == len(filled.positions) == len(filled.segment_ids) == 64
    assert filled.cu_seqlens.tolist() == [*packed.cu_seqlens.tolist(), 64]
    assert filled.rows.tolist() == [*packed.rows.tolist(), -1]
