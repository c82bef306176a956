"""Searches on a Dask cluster and on Ray, with real workers on this machine."""

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV

from skbert import BertSentimentClassifier
from tests.cluster_tasks import device_with_gpus, set_visible, threads_of_a_fit

distributed = pytest.importorskip("distributed", reason="needs the package distributed")

pytestmark = pytest.mark.slow  # each worker process imports torch and transformers

GRID = {"learning_rate": [1e-5, 5e-3]}


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory):
    """Two worker processes of one thread each."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def dask(dask_cluster):
    with distributed.Client(dask_cluster) as client:
        yield client


@pytest.fixture(scope="module")
def ray():
    """Two worker processes, and two GPUs that Ray believes to have."""
    ray = pytest.importorskip("ray", reason="needs the package ray, which has no wheel for all")
    from ray.util.joblib import register_ray

    register_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # tests connect to nobody
        ray.init(
            num_cpus=2,
            num_gpus=2,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            object_store_memory=100_000_000,
        )
        yield ray
        ray.shutdown()


def search(model, **parameters):
    clf = BertSentimentClassifier(
        model, max_length=32, max_epochs=1, batch_size=32, n_threads=1, random_state=0
    )
    return GridSearchCV(clf.set_params(**parameters), GRID, cv=2)


@pytest.fixture(scope="module")
def sequential(tiny_bert, toy_reviews):
    """The search in one process."""
    return search(tiny_bert).fit(*toy_reviews)


def assert_same_search(found, sequential, texts):
    assert found.best_params_ == sequential.best_params_
    for name in ("split0_test_score", "split1_test_score", "rank_test_score"):
        assert found.cv_results_[name].tolist() == sequential.cv_results_[name].tolist()
    expected = sequential.predict_proba(texts)
    np.testing.assert_array_equal(found.predict_proba(texts), expected)


def test_a_search_on_dask_finds_the_same(dask, tiny_bert, toy_reviews, sequential):
    with joblib.parallel_config("dask"):
        found = search(tiny_bert).fit(*toy_reviews)
    assert_same_search(found, sequential, toy_reviews[0])
    ran = dask.run(lambda: "skbert.classifier" in __import__("sys").modules)
    assert list(ran.values()) == [True, True]


def test_a_search_on_ray_finds_the_same(ray, tiny_bert, toy_reviews, sequential):
    with joblib.parallel_config("ray", n_jobs=2):
        found = search(tiny_bert).fit(*toy_reviews)
    assert_same_search(found, sequential, toy_reviews[0])


# Threads ------------------------------------------------------------------------------------------


def on_each_worker(client, function, *arguments):
    """Run a function as a task of each worker of Dask, all at the same time."""
    return client.gather(
        [
            client.submit(function, *arguments, workers=[worker], pure=False)
            for worker in client.nthreads()
        ]
    )


@pytest.fixture
def many_threads(monkeypatch):
    """A process whose new threads compute on 4 threads each, because nobody said otherwise."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_workers_that_a_nanny_started_compute_on_one_thread(dask, tiny_bert, toy_reviews):
    assert on_each_worker(dask, threads_of_a_fit, tiny_bert, *toy_reviews, {}) == [[1], [1]]


@pytest.mark.parametrize(("n_workers", "n_threads"), [(2, 1), (1, 2)])
def test_workers_without_a_nanny_compute_on_one_thread(
    many_threads, tiny_bert, toy_reviews, n_workers, n_threads
):
    with (
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=n_threads,
            processes=False,
            dashboard_address=":0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(torch.get_num_threads).result() == 4  # what a fit would use
        arguments = (tiny_bert, *toy_reviews)
        found = on_each_worker(client, threads_of_a_fit, *arguments, {})
        assert found == [[1]] * n_workers
        chosen = on_each_worker(client, threads_of_a_fit, *arguments, {"n_threads": 3})
        assert chosen == [[3]] * n_workers
        for said, expected in (("4", 4), ("2", 2), ("8", 4), ("1", 1)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OMP_NUM_THREADS", said)
                kept = on_each_worker(client, threads_of_a_fit, *arguments, {})
            assert kept == [[expected]] * n_workers
    assert torch.get_num_threads() == 4


def test_a_worker_of_ray_computes_on_one_thread(ray, tiny_bert, toy_reviews):
    count = ray.remote(threads_of_a_fit)
    assert ray.get(count.remote(tiny_bert, *toy_reviews, {})) == [1]


# GPUs ---------------------------------------------------------------------------------------------


def test_the_workers_of_dask_take_the_devices_in_turn(dask):
    found = on_each_worker(dask, device_with_gpus, 2)
    assert sorted(f["device"] for f in found) == ["cuda:0", "cuda:1"]
    assert [f["warnings"] for f in found] == [[], []]


def test_more_workers_of_dask_than_devices_warn_once(dask):
    message = (
        "Dask runs 2 tasks at a time on the CUDA device that this worker calls 'cuda:0'. Fits that "
        "share a device share its memory and its time. Start one worker per device, with "
        "threads_per_worker=1. Or name the device, as in device='cuda:0', to share it without this "
        "warning."
    )
    found = on_each_worker(dask, device_with_gpus, 1)
    assert found == [{"device": "cuda:0", "warnings": [message]}] * 2
    named = on_each_worker(dask, device_with_gpus, 1, None, "cuda:0")
    assert named == [{"device": "cuda:0", "warnings": []}] * 2


def test_workers_of_dask_with_devices_of_their_own_keep_them(dask):
    # dask-cuda puts the device of a worker first: "0,1" and "1,0"
    workers = list(dask.nthreads())
    try:
        for number, worker in enumerate(workers):
            dask.run(set_visible, ("0,1", "1,0")[number], workers=[worker])
        found = on_each_worker(dask, device_with_gpus, 2)
    finally:
        dask.run(set_visible, None)
    assert found == [{"device": "cuda:0", "warnings": []}] * 2


def test_a_worker_of_ray_takes_the_device_that_ray_assigned(ray):
    resolve = ray.remote(device_with_gpus).options(num_gpus=1)
    assert ray.get(resolve.remote(1)) == {"device": "cuda", "warnings": []}


def test_a_worker_of_ray_without_a_device_warns_once(ray):
    resolve = ray.remote(device_with_gpus)
    advice = "joblib.parallel_config('ray', ray_remote_args={'num_gpus': 1})"
    shared = (
        "Ray has assigned no GPU to this worker, so it computes on 'cuda:0', as do all workers "
        "without one. Fits that share a device share its memory and its time. Ask for one: "
        f"{advice}. Or name the device, as in device='cuda:0', to share it without this warning."
    )
    assert ray.get(resolve.remote(2)) == {"device": "cuda", "warnings": [shared]}
    hidden = (
        "Ray has assigned no GPU to this worker and hides them from it, so device='auto' is the "
        "CPU, although the cluster has 2 GPU(s). Ask for one: "
        f"{advice}. Or set device='cpu'."
    )
    assert ray.get(resolve.remote(0, "")) == {"device": "cpu", "warnings": [hidden]}
    assert ray.get(resolve.remote(0, "", "cpu")) == {"device": "cpu", "warnings": []}
