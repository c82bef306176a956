"""Functions that the workers of Dask and Ray run for test_clusters.py."""

import os
import warnings

import pytest
import torch

from skbert import BertSentimentClassifier
from skbert.engine.model import device
from tests.test_threads import Watched


def threads_of_a_fit(model, texts, labels, parameters) -> list[int]:
    """Find the number of threads on which torch computes inside a fit."""
    watched = Watched(texts, look=torch.get_num_threads)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "max_epochs=")  # too few steps, on purpose
        BertSentimentClassifier(
            model, max_length=32, max_epochs=1, batch_size=80, random_state=0, **parameters
        ).fit(watched, labels)
    return sorted(set(watched.seen))


def device_with_gpus(n_devices, visible=None, name="auto") -> dict:
    """Resolve a device where torch finds so many GPUs, and collect the warnings; in a worker."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(torch.cuda, "device_count", lambda: n_devices)
        patch.setattr(device, "_has_warned", False)
        if visible is not None:
            patch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = [str(device.resolve_device(name)) for _ in range(2)]  # as a fit does
    assert found[0] == found[1]
    return {"device": found[0], "warnings": [str(warning.message) for warning in caught]}


def set_visible(devices):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
