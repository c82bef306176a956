"""Makes pickles as earlier formats of skbert were, for the tests of reading them."""

import pickle
from unittest import mock

from skbert import persistence


def format_0(estimator):
    """Before there was a stamp: the same attributes, and nothing that says which format."""
    return _pickled(estimator, dict)


def from_the_future(estimator):
    """A format that does not exist yet."""
    stamp = {"format": persistence.PICKLE_FORMAT + 1, "versions": {"skbert": "99.0"}}
    return _pickled(estimator, lambda state: state | {"_skbert": stamp})


def _pickled(estimator, stamped):
    with mock.patch(f"{type(estimator).__module__}.stamped", stamped):
        return pickle.dumps(estimator)
