"""Makes pickles as earlier formats of skbert were, for the tests of reading them."""

import pickle
from unittest import mock

from skbert.contract import persistence
from skbert.engine.files.pretrained import load_pretrained


def format_0(estimator, without=()):
    """Before there was a stamp: the tokenizer as an object, and no parameters that came later."""

    def old(state):
        state = {name: value for name, value in state.items() if name not in without}
        return state | {"tokenizer_": estimator.tokenizer_}

    return _pickled(estimator, old)


def format_0_with_weights(transformer):
    """A transformer that was pickled with its weights: here, too, the tokenizer is an object."""

    def old(state):
        return state | {"_packed": state["_packed"] | {"tokenizer": pretrained.tokenizer}}

    pretrained = load_pretrained(transformer.model)
    return _pickled(transformer, old)


def from_the_future(estimator):
    """A format that does not exist yet."""
    stamp = {"format": persistence.PICKLE_FORMAT + 1, "versions": {"skbert": "99.0"}}
    return _pickled(estimator, lambda state: state | {"_skbert": stamp})


def _pickled(estimator, stamped):
    with mock.patch(f"{type(estimator).__module__}.stamped", stamped):
        return pickle.dumps(estimator)
