"""Repair the state of a forked process, which has all memory of its parent but only one thread."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork(repair: Callable[[], None]) -> None:
    """Call a function in each process that is forked from this one, before anything else runs."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=repair)
