"""`n_threads`: what a call computes on, and that nothing of it is left afterwards."""

import copy
import multiprocessing
import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController, threadpool_info

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.contract import threads
from skbert.contract.threads import limited_threads

TEXTS = ["good movie", "bad movie", "a great joy", "a dull waste"]
LABELS = ["pos", "neg", "pos", "neg"]
SETTINGS = {"max_length": 16, "max_epochs": 1, "batch_size": 4, "random_state": 0}


def numbers() -> dict[str, int]:
    """All numbers of threads that this thread sees."""
    found = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
    return found | {"torch": torch.get_num_threads()}


def number_in_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


class Watched(list):
    """Texts that note, whenever they are read, what `look` returns."""

    def __init__(self, texts, look=numbers):
        super().__init__(texts)
        self.look, self.seen = look, []

    def __iter__(self):
        self.seen.append(self.look())
        return super().__iter__()

    def tolist(self):
        return list(self)


@pytest.fixture(autouse=True)
def same_numbers_after_the_test():
    before, in_new = numbers(), number_in_a_new_thread()
    yield
    after = numbers()  # a test may have loaded more libraries
    assert {name: after[name] for name in before} == before
    assert number_in_a_new_thread() == in_new


@pytest.fixture
def clf(tiny_bert):
    return BertSentimentClassifier(tiny_bert, **SETTINGS).fit(TEXTS, LABELS)


def calls_of(tiny_bert, clf):
    """Each kind of call of each estimator with texts."""
    embedding = BertEmbeddingTransformer(tiny_bert, max_length=16, n_threads=2)
    pretrainer = BertPretrainer(tiny_bert, next_sentence=False, n_threads=2, **SETTINGS)
    new = BertSentimentClassifier(tiny_bert, n_threads=2, **SETTINGS)
    pretrained = copy.copy(pretrainer).fit(TEXTS)
    clf.set_params(n_threads=2)
    return {
        "fit": lambda texts: new.fit(texts, LABELS),
        "partial_fit": lambda texts: copy.copy(clf).partial_fit(texts, LABELS, clf.classes_),
        "predict": clf.predict,
        "predict_proba": clf.predict_proba,
        "predict_log_proba": clf.predict_log_proba,
        "decision_function": clf.decision_function,
        "score": lambda texts: clf.score(texts, LABELS),
        "explain": lambda texts: clf.explain(texts, method="occlusion"),
        "embedding.transform": embedding.transform,
        "embedding.fit_transform": embedding.fit_transform,
        "token_embeddings": embedding.token_embeddings,
        "pretrainer.fit": pretrainer.fit,
        "pretrainer.transform": pretrained.transform,
        "pretrainer.score": pretrained.score,
        "fill_mask": lambda texts: pretrained.fill_mask([f"{t} [MASK]" for t in texts]),
    }


def test_every_call_computes_on_n_threads(tiny_bert, clf, monkeypatch):
    # what torch sees where a call computes, at the bottom of all of them
    seen = []
    embedding = torch.nn.functional.embedding

    def look(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return embedding(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "embedding", look)
    for name, call in calls_of(tiny_bert, clf).items():
        seen.clear()
        call(TEXTS)
        assert seen, name
        assert set(seen) == {2}, name


def test_all_libraries_are_limited(clf):
    texts = Watched(TEXTS)
    clf.set_params(n_threads=3).predict(texts)
    assert texts.seen
    assert {n for seen in texts.seen for n in seen.values()} == {3}


def test_none_changes_nothing(clf):
    texts, before = Watched(TEXTS), numbers()
    clf.predict(texts)
    assert texts.seen
    assert all(seen == before for seen in texts.seen)


def test_an_error_restores_the_numbers(clf):
    with pytest.raises(ValueError, match="every text must be a str"):
        clf.set_params(n_threads=3).predict(["good", None])  # the fixture checks the rest


def test_a_wrong_number_is_named_by_each_method(clf):
    message = "The 'n_threads' parameter of BertSentimentClassifier must be an int in the range"
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises(ValueError, match=message):
            clf.set_params(n_threads=wrong).predict(TEXTS)


def test_results_and_pickles_do_not_depend_on_it(clf):
    expected = clf.predict_proba(TEXTS)
    limited = pickle.loads(pickle.dumps(clf.set_params(n_threads=1)))
    assert limited.n_threads == 1
    np.testing.assert_allclose(limited.predict_proba(TEXTS), expected, atol=1e-6)


def test_an_old_pickle_has_no_limit(clf):
    state = clf.__getstate__()
    del state["n_threads"]
    old = BertSentimentClassifier.__new__(BertSentimentClassifier)
    old.__setstate__(state)
    assert old.n_threads is None
    old.predict(TEXTS)


def test_the_innermost_call_counts(clf):
    outer, inner = clf.set_params(n_threads=2), copy.copy(clf).set_params(n_threads=3)
    texts = Watched(TEXTS)

    def look():
        before, own = numbers(), Watched(TEXTS)
        inner.predict(own)
        return before, own.seen, numbers()

    texts.look = look
    outer.predict(texts)
    for before, within, after in texts.seen:
        assert set(before.values()) == set(after.values()) == {2}
        assert {n for seen in within for n in seen.values()} == {3}


def test_threads_that_start_in_a_call_are_not_limited(clf):
    default = number_in_a_new_thread()
    texts = Watched(TEXTS, number_in_a_new_thread)
    clf.set_params(n_threads=3).predict(texts)
    assert set(texts.seen) == {default}


def test_a_thread_gets_its_own_number_back(clf):
    """Which need not be the one that torch has stored for new threads."""
    here, stored = torch.get_num_threads(), number_in_a_new_thread()

    def predict():
        torch.set_num_threads(4)  # also stored for new threads
        clf.set_params(n_threads=3).predict(TEXTS)
        return torch.get_num_threads()

    def predict_with_another_stored():
        torch.get_num_threads()  # from now on, this thread has its own number
        with ThreadPoolExecutor(1) as other:
            other.submit(torch.set_num_threads, 5).result()
        own = torch.get_num_threads()
        clf.predict(TEXTS)
        assert number_in_a_new_thread() == 5
        return torch.get_num_threads() - own  # 0

    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(predict).result() == 4
        assert number_in_a_new_thread() == 4
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(predict_with_another_stored).result() == 0
        assert torch.get_num_threads() == here
    finally:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(torch.set_num_threads, stored).result()


def test_a_new_thread_does_not_keep_the_limit_of_another_call(clf, monkeypatch):
    """Torch stores the number of the last switch, and the first use of a thread takes it."""
    default = number_in_a_new_thread()
    in_new_thread, new_threads = threads._in_new_thread, []
    seen = []

    def predict():
        clf.predict(TEXTS)
        seen.append(torch.get_num_threads())

    def restore_late(function):
        if function is not torch.get_num_threads:  # the stored number is the limit until this call
            new_threads.append(threading.Thread(target=predict))
            new_threads[-1].start()
            new_threads[-1].join(0.3)  # long enough for the whole call, if nothing stops it
        return in_new_thread(function)

    monkeypatch.setattr(threads, "_in_new_thread", restore_late)
    with limited_threads(default + 2):
        pass
    for thread in new_threads:
        thread.join(60)
    assert seen == [default]


def test_overlapping_calls():
    """Torch: each thread its own number. BLAS: the smallest, and all is restored at the end."""
    blas = ThreadpoolController().select(user_api="blas")
    assert blas.lib_controllers

    def of_blas():
        return {library.get_num_threads() for library in blas.lib_controllers}

    before = of_blas()
    long_began, short_ended = threading.Event(), threading.Event()
    seen = {}

    def long():
        with limited_threads(2):
            long_began.set()
            short_ended.wait(60)
            seen["long"] = torch.get_num_threads(), of_blas()
        seen["after"] = torch.get_num_threads(), of_blas()

    thread = threading.Thread(target=long)
    thread.start()
    assert long_began.wait(60)
    here = torch.get_num_threads()
    with limited_threads(3):
        seen["short"] = torch.get_num_threads(), of_blas()
    seen["between"] = torch.get_num_threads(), of_blas()
    short_ended.set()
    thread.join()
    assert seen["short"] == (3, {2})
    assert seen["between"] == (here, {2})
    assert seen["long"] == (2, {2})
    assert seen["after"][1] == before


def test_many_threads_with_different_numbers(clf):
    expected = clf.predict_proba(TEXTS)
    copies = [copy.copy(clf).set_params(n_threads=n) for n in (1, 2, 3, None)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: copies[i % 4].predict_proba(TEXTS), range(64)))
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_resumed_run_may_use_another_number(tiny_bert, tmp_path):
    """The number of threads is no part of what a checkpoint belongs to."""

    class StopError(Exception):
        pass

    def fit(n_threads, texts):
        clf = BertSentimentClassifier(
            tiny_bert, **SETTINGS | {"max_epochs": 2}, checkpoint_dir=tmp_path, n_threads=n_threads
        )
        return clf.fit(texts, LABELS)

    from skbert.engine.training.loop import Trainer

    epoch, n_epochs = Trainer.epoch, []

    def failing(self, *args, **kwargs):
        n_epochs.append(1)
        if len(n_epochs) == 2:
            raise StopError
        return epoch(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "epoch", failing)
        with pytest.raises(StopError):
            fit(None, TEXTS)
        assert len(n_epochs) == 2
        fit(1, TEXTS)
    assert len(n_epochs) == 3  # only the second epoch again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_forked_within_a_call_can_limit_again():
    """Also if the lock of the switch was held by another thread when the process was forked."""

    def predict_numbers(queue):
        with limited_threads(1):
            queue.put(torch.get_num_threads())

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with threads._switching, threads._blas._lock:
        child = context.Process(target=predict_numbers, args=(queue,))
        child.start()
    assert queue.get(timeout=60) == 1
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.skipif("mkl" not in torch.__config__.parallel_info(), reason="this torch has no MKL")
def test_mkl_is_limited_after_torch_set_num_threads():
    """A thread that has called `torch.set_num_threads` has a number of MKL's own."""

    def number_of_mkl():
        found = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
        return int(found[1])

    def watch():
        torch.set_num_threads(2)
        with limited_threads(1):
            inside = number_of_mkl()
        return inside, number_of_mkl()

    before = number_in_a_new_thread()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(watch).result() == (1, 2)
        pool.submit(torch.set_num_threads, before).result()  # also that of new threads
