"""A service: many short calls, from many threads, and the example with FastAPI."""

import asyncio
import copy
import gc
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from skbert import BertSentimentClassifier

EXAMPLE = Path(__file__).parents[1] / "examples" / "serve_fastapi.py"
TEXTS = ["good movie", "bad movie", "a great joy", "a dull waste"]
LABELS = ["pos", "neg", "pos", "neg"]


@pytest.fixture(scope="module")
def clf(tiny_bert):
    settings = {"max_length": 16, "max_epochs": 1, "batch_size": 4, "random_state": 0}
    return BertSentimentClassifier(tiny_bert, **settings).fit(TEXTS, LABELS)


# Memory -----------------------------------------------------------------------------------------


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def predict_in_new_threads(clf, n_threads, expected):
    """Predict once in each of `n_threads` threads that live only for that."""
    results = []
    for i in range(n_threads):
        text = TEXTS[i % 4]
        thread = threading.Thread(target=lambda text=text: results.append(clf.predict([text])[0]))
        thread.start()
        thread.join()
    assert results == [expected[i % 4] for i in range(n_threads)]


@pytest.fixture
def two_threads():
    """Torch computes on two threads if a call does not say otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def check_growth(clf):
    expected = clf.predict(TEXTS).tolist()
    predict_in_new_threads(clf, 300, expected)  # fills the pools of all allocators
    gc.collect()
    objects, memory, n_before = len(gc.get_objects()), resident_mib(), threading.active_count()
    predict_in_new_threads(clf, 1000, expected)
    gc.collect()
    assert threading.active_count() == n_before
    assert len(gc.get_objects()) - objects < 500  # one object per call would be 1,000
    # 10 KiB per call: less than one buffer of a library or one set of activations
    assert resident_mib() - memory < 10


@pytest.mark.slow
def test_short_lived_threads_leave_nothing(clf):
    check_growth(clf)


@pytest.mark.slow
def test_short_lived_threads_with_a_limit_leave_nothing(clf, two_threads):
    check_growth(copy.copy(clf).set_params(n_threads=1))


# The example ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("serve_fastapi", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # loads no model: the service does when it starts
    return module


@pytest.fixture
def client(example, clf):
    from fastapi.testclient import TestClient

    with TestClient(example.create_app(lambda: clf)) as client:
        yield client


class Recorder:
    """Predicts the length of each text, and keeps the texts of each call."""

    def __init__(self):
        self.calls, self.threads = [], set()

    def __call__(self, texts):
        self.calls.append(texts)
        self.threads.add(threading.get_ident())
        if "bad" in texts:
            raise ValueError("the model is broken")
        return np.array([[len(text)] for text in texts])


def ask(example, predict, requests, **settings):
    """Answer requests that arrive at the same time."""

    async def main():
        batcher = example.Batcher(predict, **settings)
        task = asyncio.create_task(batcher.run())
        answers = await asyncio.gather(
            *(batcher.answer(texts) for texts in requests), return_exceptions=True
        )
        task.cancel()
        return answers

    return asyncio.run(main())


def test_requests_at_the_same_time_are_one_call(example):
    predict = Recorder()
    requests = [["a", "bb"], ["ccc"], ["dddd", "e", "ff"]]
    answers = ask(example, predict, requests, most_texts=6, wait_seconds=60)
    assert [answer.tolist() for answer in answers] == [[[1], [2]], [[3]], [[4], [1], [2]]]
    assert predict.calls == [["a", "bb", "ccc", "dddd", "e", "ff"]]
    assert predict.threads.isdisjoint({threading.get_ident()})


def test_a_full_batch_does_not_wait(example):
    predict = Recorder()
    requests = [[str(i)] for i in range(12)]
    answers = ask(example, predict, requests, most_texts=4, wait_seconds=60)
    assert [len(call) for call in predict.calls] == [4, 4, 4]
    assert [answer.tolist() for answer in answers] == [[[len(str(i))]] for i in range(12)]
    assert len(predict.threads) == 1


def test_a_single_request_waits_only_a_little(example):
    predict = Recorder()
    (answer,) = ask(example, predict, [["abc"]], most_texts=64, wait_seconds=0.001)
    assert answer.tolist() == [[3]]


def test_an_error_reaches_the_requests_of_its_batch_only(example):
    predict = Recorder()
    answers = ask(example, predict, [["bad"], ["a"], ["bb"], ["c"]], most_texts=2, wait_seconds=60)
    assert [str(answer) for answer in answers[:2]] == ["the model is broken"] * 2
    assert [answer.tolist() for answer in answers[2:]] == [[[2]], [[1]]]


def test_a_client_that_goes_disturbs_nobody(example):
    predict = Recorder()

    async def main():
        batcher = example.Batcher(predict, most_texts=2, wait_seconds=60)
        gone = asyncio.create_task(batcher.answer(["a"]))
        await asyncio.sleep(0)  # it is in the queue now
        gone.cancel()
        task = asyncio.create_task(batcher.run())
        answer = await batcher.answer(["bb"])
        task.cancel()
        return gone.cancelled(), answer.tolist()

    assert asyncio.run(main()) == (True, [[2]])


def test_the_service_answers_as_the_classifier(client, clf):
    assert client.get("/health").json() == {"status": "ready"}
    response = client.post("/predict", json={"texts": TEXTS})
    assert response.status_code == 200
    expected = clf.predict_proba(TEXTS)
    assert [row["label"] for row in response.json()] == clf.predict(TEXTS).tolist()
    found = [row["probability"] for row in response.json()]
    np.testing.assert_allclose(found, expected.max(axis=1), atol=1e-6)


def test_many_clients_get_their_own_answers(client, clf):
    def post(i):
        return client.post("/predict", json={"texts": TEXTS[: 1 + i % 4]}).json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(24)))
    labels = clf.predict(TEXTS).tolist()
    assert [[row["label"] for row in a] for a in answers] == [
        labels[: 1 + i % 4] for i in range(24)
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"texts": []},
        {"texts": "a single text"},
        {"texts": ["good", None]},
        {"texts": ["x" * 10_001]},
        {"texts": ["x"] * 257},
        {},
    ],
    ids=["empty", "str", "None", "long", "many", "no texts"],
)
def test_the_service_refuses_a_wrong_body(client, body):
    assert client.post("/predict", json=body).status_code == 422
    assert client.post("/predict", json={"texts": ["good"]}).status_code == 200


@pytest.mark.weights
def test_the_service_of_the_example_starts(example):
    from fastapi.testclient import TestClient

    with TestClient(example.app) as client:
        (answer,) = client.post("/predict", json={"texts": ["a wonderful, moving film"]}).json()
    assert answer["label"] == "positive"
    assert answer["probability"] > 0.9
