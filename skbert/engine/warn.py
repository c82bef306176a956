"""Warnings that name the user's line instead of the line in skbert that noticed the problem."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

#: Packages and modules that call skbert on the user's behalf. They fit, copy or load estimators,
#: decorate methods, or run workers.
_GO_BETWEENS = (
    *("skbert", "sklearn", "joblib", "pandas", "skops", "torch", "dask", "distributed", "ray"),
    *("concurrent", "contextlib", "copy", "functools", "multiprocessing", "pickle", "threading"),
)

#: Whether another process gives the warnings of this thread.
_is_quiet: ContextVar[bool] = ContextVar("skbert_is_quiet", default=False)


@contextmanager
def left_to_another(quiet: bool) -> Iterator[None]:
    """Give no warnings in this block if `quiet`, because another process gives the same."""
    before = _is_quiet.set(quiet or _is_quiet.get())
    try:
        yield
    finally:
        _is_quiet.reset(before)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning at the line of the user's code that led to it.

    That line is in the innermost frame outside skbert and outside the packages that call it on the
    user's behalf, such as scikit-learn and joblib. If there is no such frame, as in a joblib
    worker, the warning names the outermost frame. The action "default" shows the warning once for
    each line of the user.

    Parameters
    ----------
    message : str
    category : type of Warning, default=UserWarning
    """
    if _is_quiet.get():
        return
    frame = _user_frame(sys._getframe(1))
    # `warn_explicit`, because a `stacklevel` does not count the frames of importlib.
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__") or "<string>",  # Python shows nothing for None
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _user_frame(frame: FrameType) -> FrameType:
    """Walk outwards from `frame` to the user's code, or to the outermost frame."""
    places = _places()
    while frame.f_code.co_filename.startswith(places) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _places() -> tuple[str, ...]:
    """Find how the file names of go-betweens start: with their folder, or all of the name.

    A package that is not imported has no frames, so it is not imported here either.
    """
    modules = [sys.modules[name] for name in _GO_BETWEENS if name in sys.modules]
    folders = [folder for module in modules for folder in getattr(module, "__path__", [])]
    files = [getattr(module, "__file__", None) for module in modules]
    return ("<frozen ", *(f"{folder}{os.sep}" for folder in folders), *filter(None, files))
