"""Create pickles in older and newer formats of skbert, to test how it loads them."""

import inspect
import pickle
from unittest import mock

from skbert.contract import persistence
from skbert.engine.files.pretrained import load_pretrained


def format_0(estimator, without=()):
    """Pickle without a stamp, with the tokenizer as an object, and without newer parameters."""

    def old(state):
        state = {name: value for name, value in state.items() if name not in without}
        return state | {"tokenizer_": estimator.tokenizer_}

    return _pickled(estimator, old)


def format_0_with_weights(transformer):
    """Pickle a transformer with its weights, and with the tokenizer as an object."""

    def old(state):
        return state | {"_packed": state["_packed"] | {"tokenizer": pretrained.tokenizer}}

    pretrained = load_pretrained(transformer.model)
    return _pickled(transformer, old)


def from_the_future(estimator):
    """Pickle in a format that does not exist yet."""
    stamp = {"format": persistence.PICKLE_FORMAT + 1, "versions": {"skbert": "99.0"}}
    return _pickled(estimator, lambda state: state | {"_skbert": stamp})


def _pickled(estimator, stamp_state):
    getstate = inspect.unwrap(type(estimator).__getstate__)
    with mock.patch.dict(getstate.__globals__, stamp_state=stamp_state):
        return pickle.dumps(estimator)
