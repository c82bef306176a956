"""The process around us: forks, and torch's default device and dtype that the caller has set."""

import ast
import inspect
import os
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._device import _device_constructors

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from tests.offline import ROOT, run_offline

FILES = sorted((ROOT / "skbert").rglob("*.py"), key=str)

# A fork ------------------------------------------------------------------------------------------

FORK = """
import os, signal, threading
import torch
from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.engine.files import pretrained
from skbert.engine.prediction.cache import shared_memory_cache

X = ["good film", "dull bad plot", "it is the best film ever", "boring"] * 8
torch.set_num_threads(2)
model = sys.argv[1]
clf = BertSentimentClassifier(model, max_length=16, max_epochs=1, batch_size=32, random_state=0)
clf.fit(X, [0, 1] * 16)
clf.decision_function(X)
encoder = BertEmbeddingTransformer(model, max_length=16).fit(X)
encoder.transform(X)
torch.ones(10**6).exp_().sum()  # what the caller does starts the pool of threads, too

def work(task):
    torch.ones(10**6).exp_()
    if task == "predict":
        result = clf.decision_function(X)
    elif task == "transform":
        result = encoder.transform(X)
    else:
        result = clf.fit(X, [0, 1] * 16).decision_function(X)
    assert len(result) == len(X)
    os._exit(7 if torch.get_num_threads() == 1 else 8)

def in_thread(task):
    thread = threading.Thread(target=work, args=[task])
    thread.start()
    thread.join()

def wait_for_locks():
    embed = BertEmbeddingTransformer(model, max_length=16, cache="memory")
    embed.fit(["good"]).transform(["good"])
    os._exit(7 if shared_memory_cache.claim([b"of a thread"]) else 8)

def forked(work, *arguments):
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)  # ends a process that hangs
            work(*arguments)
        finally:
            os._exit(9)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(work.__name__, *arguments, code, torch.get_num_threads())

for task in ("predict", "transform", "fit"):
    forked(work, task)
forked(in_thread, "predict")

shared_memory_cache.claim([b"of a thread"])
held, done = threading.Event(), threading.Event()

def hold():
    with pretrained._CACHE._lock, pretrained._CACHE._reading, shared_memory_cache._lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
forked(wait_for_locks)
done.set()
"""


@pytest.fixture(scope="module")
def forks(tiny_bert, tmp_path_factory) -> str:
    """What forks of one process report; each has the state that the first has."""
    folder = tmp_path_factory.mktemp("forks") / "run"
    return run_offline(FORK, tiny_bert, folder=folder, OMP_NUM_THREADS="2").stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize(
    "task", ["work predict", "work transform", "work fit", "in_thread predict"]
)
def test_a_forked_process_computes_on_one_thread(forks, task):
    assert f"{task} 7 2\n" in forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent(forks):
    assert "wait_for_locks 7 2\n" in forks


# Default device and dtype ------------------------------------------------------------------------


def constructors_without_device_and_dtype(source: str) -> list[int]:
    """Find the lines that create a tensor or a layer, and leave its device or dtype to torch."""
    functions = {function.__name__ for function in _device_constructors()}
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, module = node.func.attr, ast.unparse(node.func.value)
        layer = getattr(torch.nn, name, None) if module in ("nn", "torch.nn") else None
        is_layer = inspect.isclass(layer) and "device" in inspect.signature(layer).parameters
        if is_layer or (module == "torch" and name in functions):
            lines += [node.lineno] * (not {"device", "dtype"} <= {k.arg for k in node.keywords})
    return lines


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("torch.zeros(2)", [1]),
        ("torch.arange(3, device=device)", [1]),
        ("torch.tensor([1.0], dtype=torch.float32)", [1]),
        ("nn.Linear(2, 3, device='meta')", [1]),
        ("torch.nn.Embedding(2, 3)", [1]),
        ("torch.full((2,), 3.0, device='cpu', dtype=torch.float32)", []),
        ("nn.Linear(2, 3, device='meta', dtype=torch.float32)", []),
        ("x.new_zeros(2); nn.Parameter(x); np.zeros(2); torch.from_numpy(x)", []),
    ],
)
def test_the_search_for_constructors(line, found):
    assert constructors_without_device_and_dtype(line) == found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_new_tensor_names_its_device_and_dtype(file):
    assert constructors_without_device_and_dtype(file.read_text(encoding="utf-8")) == []


@contextmanager
def device_meta():
    torch.set_default_device("meta")  # stands for "cuda", which the tests do not have
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def dtype_float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def fit(model, X, y, folder):
    clf = BertSentimentClassifier(model, max_length=16, max_epochs=1, random_state=0, device="cpu")
    return clf.fit(X[:40], y[:40], X_val=X[40:60], y_val=y[40:60]).decision_function(X)


def fit_with_frozen_layers(model, X, y, folder):
    clf = BertSentimentClassifier(
        model, max_length=16, max_epochs=1, random_state=0, device="cpu", n_frozen_layers=2,
        pooling="mean", checkpoint_dir=folder / "checkpoints",
    )  # fmt: skip
    return clf.partial_fit(X, y, classes=["bad", "good"]).decision_function(X)


def predict(model, X, y, folder):
    return CLASSIFIERS[model].decision_function(X)


def embed(model, X, y, folder):
    encoder = BertEmbeddingTransformer(model, max_length=16, pooling="max", device="cpu")
    return encoder.fit(X).transform(X)


def pretrain(model, X, y, folder):
    pretrainer = BertPretrainer(
        model, max_length=16, max_epochs=1, random_state=0, device="cpu", next_sentence=True
    ).fit([f"{a}. {b}." for a, b in zip(X[::2], X[1::2], strict=True)])
    pretrainer.save_pretrained(folder / "pretrained")
    clf = BertSentimentClassifier(
        str(folder / "pretrained"), max_length=16, max_epochs=1, random_state=0, device="cpu"
    )
    return clf.fit(X, y).decision_function(X)


def save_and_load(model, X, y, folder):
    CLASSIFIERS[model].save_pretrained(folder / "saved")
    content = (folder / "saved" / "model.safetensors").read_bytes()
    loaded = BertSentimentClassifier.from_pretrained(folder / "saved").decision_function(X)
    return np.append(loaded.ravel(), np.frombuffer(content, np.uint8).astype(float).sum())


def pickle_and_unpickle(model, X, y, folder):
    return pickle.loads(pickle.dumps(CLASSIFIERS[model])).decision_function(X)


CLASSIFIERS: dict[str, BertSentimentClassifier] = {}


@pytest.mark.filterwarnings("ignore:max_epochs=1:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("defaults", [device_meta, dtype_float64])
@pytest.mark.parametrize(
    "task",
    [fit, fit_with_frozen_layers, predict, embed, pretrain, save_and_load, pickle_and_unpickle],
)
def test_defaults_of_the_caller_change_nothing(tiny_bert, toy_reviews, tmp_path, task, defaults):
    X, y = toy_reviews
    if tiny_bert not in CLASSIFIERS:
        clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
        CLASSIFIERS[tiny_bert] = clf.fit(X, y)
    expected = task(tiny_bert, X, y, tmp_path / "before")
    with defaults():
        result = task(tiny_bert, X, y, tmp_path / "after")
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)
