"""The estimators on a CUDA device against the same estimators on the CPU.

Skipped on machines without such a device; `benchmarks/gpu.sh` runs them there. What can run on a
CPU with the same functions is in test_device_path.py.
"""

import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import BertConfig

from skbert import (
    BertEmbeddingTransformer,
    BertPretrainer,
    BertSentimentClassifier,
    BertSentimentRegressor,
)
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.scratch import random_head
from skbert.engine.model.attention import self_attention, text_groups
from skbert.engine.model.batch import stage
from skbert.engine.model.capture import GraphMemory, capture
from skbert.engine.model.dropout import no_dropout, seeded_dropout
from skbert.engine.model.networks import TextClassifier
from skbert.engine.model.varlen import VarlenTexts, varlen_attention
from skbert.engine.text.packing import Filling
from skbert.engine.training import graphs
from skbert.engine.training.classification import Classification, LabelledTexts
from skbert.engine.training.loop import Trainer, TrainingOptions
from tests.conftest import save_bert

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

CUDA = torch.device("cuda", 0)

# Without dropout, whose masks differ between devices.
SETTINGS = {
    "max_length": 32,
    "max_epochs": 3,
    "learning_rate": 5e-3,
    "dropout": 0.0,
    "random_state": 0,
}


def losses_of(clf):
    return [record["train_loss"] for record in clf.history_]


@pytest.fixture(scope="module")
def on_cpu(tiny_bert, toy_reviews):
    return BertSentimentClassifier(tiny_bert, device="cpu", **SETTINGS).fit(*toy_reviews)


def test_float32_gives_the_losses_and_probabilities_of_the_cpu(tiny_bert, toy_reviews, on_cpu):
    clf = BertSentimentClassifier(tiny_bert, precision="float32", **SETTINGS).fit(*toy_reviews)
    assert clf.device_.startswith("cuda") and clf.head_.weight.is_cuda
    assert losses_of(clf)[0] == pytest.approx(losses_of(on_cpu)[0], abs=1e-4)
    # Later epochs differ more: rounding changes the weights, and these the next gradients.
    np.testing.assert_allclose(losses_of(clf), losses_of(on_cpu), rtol=0, atol=1e-3)
    X, _ = toy_reviews
    np.testing.assert_allclose(clf.predict_proba(X), on_cpu.predict_proba(X), rtol=0, atol=1e-2)


KINDS_OF_Y = {
    "several labels": (BertSentimentClassifier, {"class_weight": "balanced"}),
    "numbers": (BertSentimentRegressor, {}),
    "levels": (BertSentimentRegressor, {"loss": "ordinal"}),
    "windows": (BertSentimentClassifier, {"truncation": "windows", "max_length": 8}),
}


def texts_and_y(toy_reviews, kind):
    """Reviews with a y of some kind; those for windows are long."""
    X, y = toy_reviews
    is_good, is_long = y == "good", np.array([len(text) for text in X]) > 25
    if kind == "several labels":
        return X, np.column_stack([is_good, is_long]).astype(int)
    if kind == "windows":
        return [f"{text} {text} {text}" for text in X], y
    return X, 1 + 3 * is_good + is_long


@pytest.mark.parametrize("kind", KINDS_OF_Y)
def test_other_kinds_of_y_and_windows_are_those_of_the_cpu(tiny_bert, toy_reviews, kind):
    cls, parameters = KINDS_OF_Y[kind]
    X, y = texts_and_y(toy_reviews, kind)
    settings = SETTINGS | {"pooling": "mean"} | parameters
    theirs = cls(tiny_bert, device="cpu", **settings).fit(X, y)
    ours = cls(tiny_bert, precision="float32", **settings).fit(X, y)
    assert ours.device_.startswith("cuda")
    np.testing.assert_allclose(losses_of(ours), losses_of(theirs), rtol=0, atol=1e-3)
    compute = "predict" if cls is BertSentimentRegressor else "predict_proba"
    found, expected = getattr(ours, compute)(X), getattr(theirs, compute)(X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_allclose(getattr(again, compute)(X), found, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS_OF_Y)
def test_no_step_of_other_kinds_waits_for_the_device(tiny_bert, toy_reviews, monkeypatch, kind):
    plain = Trainer.step

    def step(self, *arguments):
        with no_waiting():
            plain(self, *arguments)

    cls, parameters = KINDS_OF_Y[kind]
    monkeypatch.setattr(Trainer, "step", step)
    with replayed() as captured:
        fitted = cls(tiny_bert, **SETTINGS | {"dropout": 0.1} | parameters)
        fitted.fit(*texts_and_y(toy_reviews, kind))
    assert captured and np.isfinite(losses_of(fitted)).all()


def test_bfloat16_is_the_default_where_the_device_supports_it(tiny_bert, toy_reviews, on_cpu):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the compute capability of this device is below 8.0")
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y)
    assert clf.precision_ == "bfloat16"
    assert losses_of(clf)[0] == pytest.approx(losses_of(on_cpu)[0], abs=0.02)
    assert losses_of(clf)[-1] < losses_of(clf)[0]


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "mean", "n_frozen_layers": 1},
        {"early_stopping": True, "n_iter_no_change": 20, "class_weight": "balanced"},
        {"pretraining_epochs": 1},
    ],
    ids=lambda parameters: "-".join(parameters),
)
def test_other_ways_to_fit_learn(tiny_bert, toy_reviews, parameters):
    settings = SETTINGS | {"dropout": 0.1, "max_epochs": 20} | parameters
    X, y = toy_reviews
    assert BertSentimentClassifier(tiny_bert, **settings).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights(tiny_bert, toy_reviews, precision, pooling):
    settings = SETTINGS | {"dropout": 0.1, "precision": precision, "pooling": pooling}
    a, b = (BertSentimentClassifier(tiny_bert, **settings).fit(*toy_reviews) for _ in range(2))
    for ours, theirs in zip(a.model_.parameters(), b.model_.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_pickles_and_folders_come_back_to_the_device(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(X, y)
    clf.save_pretrained(tmp_path / "model")
    for loaded in (
        pickle.loads(pickle.dumps(clf)),
        BertSentimentClassifier.from_pretrained(tmp_path / "model"),
    ):
        assert loaded.device_.startswith("cuda")
        np.testing.assert_allclose(loaded.predict_proba(X), clf.predict_proba(X), atol=1e-6)


def test_a_second_partial_fit_continues(tiny_bert, toy_reviews):
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS)
    for _ in range(3):
        clf.partial_fit(*toy_reviews, classes=["bad", "good"])
    first, *_, last = losses_of(clf)
    assert last < first


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "pooler"])
def test_float32_vectors_are_those_of_the_cpu(tiny_bert, toy_reviews, pooling):
    X, _ = toy_reviews
    expected, found = (
        BertEmbeddingTransformer(
            tiny_bert, pooling=pooling, max_length=32, device=device, precision="float32"
        ).transform(X)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_pretrainer_trains_and_predicts_with_both_heads(toy_reviews, tmp_path):
    X, _ = toy_reviews
    documents = [X[start : start + 5] for start in range(0, len(X), 5)]
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    pretrainer = BertPretrainer(
        config, max_length=32, max_epochs=20, learning_rate=5e-3, random_state=0
    ).fit(documents)
    assert pretrainer.device_.startswith("cuda")
    first, *_, last = (record["masked_loss"] for record in pretrainer.history_)
    assert last < first
    assert len(pretrainer.fill_mask("a [MASK] film", top_k=3).words[0]) == 3
    assert 0 < pretrainer.predict_next_sentence([(X[0], X[1])])[0] < 1
    assert np.isfinite(pretrainer.score(X)) and np.isfinite(pretrainer.transform(X)).all()


# the path of the device ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory):
    """Folder of a BERT with 4 layers of 128 and 4 heads, large enough for bfloat16."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512}
    folder = tmp_path_factory.mktemp("models") / "small"
    return str(save_bert(folder, **sizes, max_position_embeddings=512, initializer_range=0.05))


def long_reviews(toy_reviews, n_times):
    X, y = toy_reviews
    return [" ".join([text] * n_times) for text in X], y


@contextmanager
def replayed():
    """Count the captured steps."""
    plain, captured = graphs.capture, []

    def capture(*arguments):
        captured.append(1)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "capture", capture)
        yield captured


@contextmanager
def no_waiting():
    """Raise an error where the host would wait for the device."""

    def switch(mode):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "a prototype feature"
            torch.cuda.set_sync_debug_mode(mode)

    switch("error")
    try:
        yield
    finally:
        switch("default")


WAYS = {
    "default": {},
    "float32": {"precision": "float32"},
    "mean": {"pooling": "mean", "label_smoothing": 0.1},
    "frozen": {"n_frozen_layers": 1},
    "weighted": {"class_weight": "balanced", "batch_size": 7},
}


@pytest.mark.parametrize("way", WAYS)
def test_no_step_waits_for_the_device(tiny_bert, toy_reviews, monkeypatch, way):
    plain, n_steps = Trainer.step, []

    def step(self, *arguments):
        n_steps.append(1)
        with no_waiting():
            plain(self, *arguments)

    settings = SETTINGS | {"dropout": 0.1} | WAYS[way]
    with replayed() as captured:
        monkeypatch.setattr(Trainer, "step", step)
        BertSentimentClassifier(tiny_bert, **settings).fit(*toy_reviews)
    assert len(n_steps) > 5
    assert bool(captured) == (way != "float32")


def test_no_step_of_pretraining_waits_for_the_device(tiny_bert, toy_reviews, monkeypatch):
    plain = Trainer.step

    def step(self, *arguments):
        with no_waiting():
            plain(self, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    X, _ = toy_reviews
    documents = [X[start : start + 4] for start in range(0, len(X), 4)]
    with replayed() as captured:
        BertPretrainer(tiny_bert, **SETTINGS | {"dropout": 0.1}).fit(documents)
    assert captured


@pytest.mark.parametrize("way", ["default", "mean", "frozen", "weighted"])
def test_replayed_steps_are_the_steps(small_bert, toy_reviews, monkeypatch, way):
    settings = SETTINGS | {"learning_rate": 1e-3} | WAYS[way]
    X, y = toy_reviews
    with replayed() as captured:
        ours = BertSentimentClassifier(small_bert, **settings).fit(X, y)
    assert captured
    monkeypatch.setattr(graphs, "_MOST_WORK", 0)
    with replayed() as captured:
        theirs = BertSentimentClassifier(small_bert, **settings).fit(X, y)
    assert not captured
    np.testing.assert_allclose(losses_of(ours), losses_of(theirs), rtol=0, atol=5e-3)


def test_each_replay_draws_another_mask():
    dropout = seeded_dropout(0.25, np.random.SeedSequence(0), CUDA)
    ones, out = torch.ones(200, 64, device=CUDA), torch.empty(200, 64, device=CUDA)
    out.copy_(dropout(ones))  # the kernels are loaded before the capture
    memory = GraphMemory()
    replay = capture(lambda: out.copy_(dropout(ones)), CUDA, dropout.generator, memory)
    masks = []
    for _ in range(3):
        replay()
        masks.append(out.clone())
        assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])


@pytest.mark.parametrize("longest", [12, 100, 500])
def test_the_kernel_is_attention(longest):
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(1, longest, 20))[::-1]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    x = torch.randn(int(cu_seqlens[-1]), 3 * 128, device=CUDA, requires_grad=True)
    ends = torch.from_numpy(cu_seqlens).to(CUDA)
    firsts = torch.arange(21, device=CUDA, dtype=torch.int32)
    texts = VarlenTexts(ends, firsts, int(lengths.max()))
    with torch.autocast("cuda", torch.bfloat16):
        ours = varlen_attention(*(x.bfloat16().chunk(3, 1)), texts, 4)
    theirs = self_attention(x, text_groups(cu_seqlens, CUDA), 4)
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=0.03)
    gradients = [torch.autograd.grad(y.float().square().sum(), x)[0] for y in (ours, theirs)]
    assert relative_error(*gradients) < 0.02


def relative_error(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("filling", [None, Filling(1024, 64)], ids=["as it is", "filled"])
def test_gradients_in_bfloat16_are_those_of_float32(small_bert, toy_reviews, filling):
    X, y = long_reviews(toy_reviews, 2)
    pretrained = load_pretrained(small_bert)
    tokens = pretrained.subword_tokenizer(X, max_length=64, truncation="head")
    data = LabelledTexts(tokens, (y == "good").astype(np.int64), np.ones(len(y), np.float32))
    found = []
    for precision in (torch.float32, torch.bfloat16):
        head = random_head(128, 2, 0.02, np.random.default_rng(0))
        network = TextClassifier(pretrained.new_encoder(), head, "cls", precision).to(CUDA)
        options = TrainingOptions(1, 32, 1e-3, 0.0, 0.0, 0.0)
        objective, rows = Classification(network, data, options), np.arange(32)
        host = objective.prepare(rows, rows, filling)
        objective.loss(stage(host, CUDA).copy(CUDA), no_dropout).part.backward()
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        found.append(torch.cat(gradients))
    assert relative_error(found[1], found[0]) < 0.03


# memory, threads, other machines ------------------------------------------------------------------


@contextmanager
def memory_of(n_bytes):
    """Let this process reserve at most this number of bytes."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, n_bytes / total), 0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def peak(call):
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    return result, torch.cuda.max_memory_reserved()


def test_a_fit_with_too_little_memory_gives_the_same_losses(small_bert, toy_reviews):
    X, y = long_reviews(toy_reviews, 40)
    settings = SETTINGS | {"max_length": 400, "dropout": 0.1, "batch_size": 80, "max_epochs": 2}
    settings |= {"learning_rate": 1e-4, "pooling": "mean"}

    def fitted(**others):
        return BertSentimentClassifier(small_bert, **settings | others).fit(X, y)

    fitted()
    expected, most = peak(fitted)
    _, least = peak(lambda: fitted(batch_size=2))
    gc.collect()
    with memory_of(least + (most - least) // 3), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fitted()
    messages = [str(w.message) for w in caught if "Out of memory" in str(w.message)]
    assert messages and "micro-batches" in messages[0]
    # Its masks are the same; only the order of sums differs.
    np.testing.assert_allclose(losses_of(found), losses_of(expected), rtol=0, atol=5e-3)


def test_predictions_and_vectors_with_too_little_memory_are_the_same(small_bert, toy_reviews):
    X = [f"{text} {i}" for i, text in enumerate(long_reviews(toy_reviews, 40)[0] * 4)]
    vectors = BertEmbeddingTransformer(small_bert, max_length=400)
    vectors.transform(X[:4])
    expected, most = peak(lambda: vectors.transform(X))
    _, least = peak(lambda: vectors.transform(X[:4]))
    gc.collect()
    with (
        memory_of(least + (most - least) // 3),
        pytest.warns(UserWarning, match="Out of memory for a batch"),
    ):
        found = vectors.transform(X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


def test_fifty_fits_do_not_grow(tiny_bert, toy_reviews):
    sizes = []
    for _ in range(50):
        clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"dropout": 0.1}).fit(*toy_reviews)
        clf.predict(toy_reviews[0])
        del clf
        gc.collect()
        sizes.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    allocated, reserved = zip(*sizes, strict=True)
    assert allocated[-1] <= allocated[2] and reserved[-1] <= reserved[9]


def test_fits_in_several_threads_are_those_of_one(small_bert, toy_reviews):
    X, y = toy_reviews
    settings = SETTINGS | {"learning_rate": 1e-4, "dropout": 0.1}

    def fitted(seed):
        clf = BertSentimentClassifier(small_bert, **settings | {"random_state": seed})
        return losses_of(clf.fit(X, y))

    expected, found = [fitted(seed) for seed in range(4)], [None] * 4

    def fill(seed):
        found[seed] = fitted(seed)

    workers = [threading.Thread(target=fill, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_explanations_are_those_of_the_cpu(tiny_bert, toy_reviews, on_cpu, method):
    X, _ = toy_reviews
    on_device = pickle.loads(pickle.dumps(on_cpu)).set_params(device="cuda")
    on_device = pickle.loads(pickle.dumps(on_device))
    assert on_device.head_.weight.is_cuda
    for found, expected in zip(
        on_device.explain(X[:8], method=method), on_cpu.explain(X[:8], method=method), strict=True
    ):
        assert found.words == expected.words
        np.testing.assert_allclose(found.word_scores, expected.word_scores, rtol=0, atol=1e-3)


def test_a_progress_bar_changes_no_weight(tiny_bert, toy_reviews, capsys):
    quiet, shown = (
        BertSentimentClassifier(tiny_bert, **SETTINGS, verbose=verbose).fit(*toy_reviews)
        for verbose in (0, 1)
    )
    assert "epoch" in capsys.readouterr().err
    assert losses_of(quiet) == losses_of(shown)


def test_a_pickle_predicts_on_a_machine_without_a_gpu_and_comes_back(
    tiny_bert, toy_reviews, tmp_path
):
    X, y = toy_reviews
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"precision": "float32"}).fit(X, y)
    (tmp_path / "there.pkl").write_bytes(pickle.dumps(clf))
    script = (
        "import pickle, sys, numpy, torch; assert not torch.cuda.is_available();"
        "clf = pickle.load(open('there.pkl', 'rb')); assert clf.device_ == 'cpu', clf.device_;"
        "numpy.save('found.npy', clf.predict_proba(pickle.load(open('X.pkl', 'rb'))));"
        "pickle.dump(clf, open('back.pkl', 'wb'))"
    )
    (tmp_path / "X.pkl").write_bytes(pickle.dumps(X))
    here = {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    environment = os.environ | here | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    expected = clf.predict_proba(X)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=0, atol=1e-4)
    back = pickle.loads((tmp_path / "back.pkl").read_bytes())
    assert back.device_.startswith("cuda")
    np.testing.assert_allclose(back.predict_proba(X), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_an_interrupted_fit_goes_on(tiny_bert, toy_reviews, tmp_path, monkeypatch, precision):
    settings = SETTINGS | {"dropout": 0.1, "precision": precision, "batch_size": 16}
    whole = BertSentimentClassifier(tiny_bert, **settings).fit(*toy_reviews)
    plain, taken = Trainer.step, []

    def step(self, *arguments):
        taken.append(1)
        if len(taken) == 12:  # in the last of three epochs of 5 steps
            raise KeyboardInterrupt
        return plain(self, *arguments)

    clf = BertSentimentClassifier(tiny_bert, checkpoint_dir=tmp_path, **settings)
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*toy_reviews)
    clf.fit(*toy_reviews)
    assert len(taken) == 12 + 5  # two of three epochs were kept
    for ours, theirs in zip(clf.model_.parameters(), whole.model_.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_step_that_is_not_finite_ends_the_fit_with_the_weights_before(tiny_bert, toy_reviews):
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS | {"learning_rate": 1e20, "max_epochs": 5})
    with pytest.warns(match="not finite in step"):
        clf.fit(*toy_reviews)
    assert all(torch.isfinite(p).all() for p in clf.model_.parameters())
