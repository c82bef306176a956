"""The weights that a process shares: read once, and freed with their encoders."""

import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch

from skbert import BertEmbeddingTransformer, BertSentimentClassifier
from skbert.engine.files import pretrained as module
from skbert.engine.files.find import find_model
from skbert.engine.files.pretrained import PretrainedCache, free_pretrained, load_pretrained
from tests.conftest import save_bert

CPU, OTHER = torch.device("cpu"), torch.device("meta")
TEXTS = ["a good film", "so dull"]


@pytest.fixture(autouse=True)
def nothing_in_memory():
    free_pretrained()
    yield
    free_pretrained()


@pytest.fixture
def folder(tmp_path):
    return str(save_bert(tmp_path / "model"))


@pytest.fixture
def readings(monkeypatch):
    """The list of weights files that skbert has read."""
    read = []
    read_safetensors = module.read_safetensors

    def counting(path, *others):
        read.append(path)
        return read_safetensors(path, *others)

    monkeypatch.setattr(module, "read_safetensors", counting)
    return read


def is_gone(reference):
    gc.collect()
    return reference() is None


def weight_of(pretrained):
    return pretrained.weights["embeddings.word_embeddings.weight"]


def test_a_model_is_read_once_until_it_is_freed(folder, readings):
    assert load_pretrained(folder) is load_pretrained(folder)
    assert len(readings) == 1
    free_pretrained()
    load_pretrained(folder)
    assert len(readings) == 2


def test_freed_weights_are_collected(folder):
    found = load_pretrained(folder)
    references = [weakref.ref(found), weakref.ref(weight_of(found))]
    del found
    assert not any(is_gone(reference) for reference in references)
    free_pretrained()
    assert all(is_gone(reference) for reference in references)


def test_encoders_are_shared_and_live_as_long_as_their_weights(folder):
    found = load_pretrained(folder)
    assert found.frozen_encoder(CPU) is found.frozen_encoder(CPU)
    assert found.frozen_encoder(OTHER).device == OTHER
    table = found.frozen_encoder(CPU).get_input_embeddings().weight
    assert table.data_ptr() == weight_of(found).data_ptr()  # on the CPU there is no copy
    del table
    references = [weakref.ref(found.frozen_encoder(device)) for device in (CPU, OTHER)]
    del found
    assert not any(is_gone(reference) for reference in references)
    free_pretrained()
    assert all(is_gone(reference) for reference in references)


def test_encoders_go_even_if_somebody_holds_the_weights(folder):
    found = load_pretrained(folder)
    reference = weakref.ref(found.frozen_encoder(OTHER))
    free_pretrained()
    assert is_gone(reference)
    assert found.frozen_encoder(OTHER).device == OTHER  # built again


def test_the_model_that_was_not_used_for_longest_makes_room(tmp_path, readings):
    a, b, c = (str(save_bert(tmp_path / name, seed=n)) for n, name in enumerate("abc"))
    first, second = weakref.ref(load_pretrained(a)), weakref.ref(load_pretrained(b))
    reference = weakref.ref(first().frozen_encoder(OTHER))
    load_pretrained(a)
    load_pretrained(c)
    assert (is_gone(first), is_gone(second)) == (False, True)
    load_pretrained(c)
    load_pretrained(b)
    assert is_gone(first) and is_gone(reference)
    assert len(readings) == 4


def test_weights_of_a_changed_file_go_before_the_new_ones_come(tmp_path, folder, monkeypatch):
    old = weakref.ref(load_pretrained(folder))
    read_safetensors = module.read_safetensors

    def checking(*arguments):
        assert is_gone(old)
        return read_safetensors(*arguments)

    monkeypatch.setattr(module, "read_safetensors", checking)
    save_bert(tmp_path / "model", seed=1)
    new = load_pretrained(folder)
    assert new is load_pretrained(folder)


def test_what_cannot_be_read_is_not_kept(folder, monkeypatch):
    def fails(*arguments):
        raise ValueError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_safetensors", fails)
        with pytest.raises(ValueError, match=r"^damaged$"):
            load_pretrained(folder)
    assert load_pretrained(folder) is load_pretrained(folder)


def test_of_many_threads_one_reads_and_one_builds(folder, readings):
    cache, begin = PretrainedCache(n_models=1), threading.Barrier(8)
    found, encoders = [], []

    def work():
        begin.wait()
        found.append(cache.get(find_model(folder)))
        encoders.append(cache.encoder_on(found[-1], OTHER))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == len({id(one) for one in encoders}) == 1
    assert (len(found), len(encoders), len(readings)) == (8, 8, 1)


def test_weights_of_a_pickle_go_with_their_transformer(folder):
    transformer = BertEmbeddingTransformer(folder, max_length=16, store_weights=True).fit(TEXTS)
    loaded = pickle.loads(pickle.dumps(transformer))
    vectors = loaded.transform(TEXTS)
    stored = loaded._stored[folder]
    references = [weakref.ref(stored), weakref.ref(stored.frozen_encoder(CPU))]
    del stored
    free_pretrained()
    np.testing.assert_array_equal(loaded.transform(TEXTS), vectors)
    assert not is_gone(references[0])
    del loaded
    assert all(is_gone(reference) for reference in references)


def test_estimators_work_after_the_weights_are_freed(folder):
    clf = BertSentimentClassifier(folder, max_length=16, max_epochs=1).fit(TEXTS, [1, 0])
    transformer = BertEmbeddingTransformer(folder, max_length=16).fit(TEXTS)
    margins, vectors = clf.decision_function(TEXTS), transformer.transform(TEXTS)
    free_pretrained()
    np.testing.assert_array_equal(clf.decision_function(TEXTS), margins)
    np.testing.assert_array_equal(transformer.transform(TEXTS), vectors)
