"""Public names of a package that are imported when they are first used (SPEC 1).

Every package can use this: it imports nothing but the standard library.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, module_of: Mapping[str, str], public: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    module_of : mapping of str to str
        For each name, the module that defines it.
    public : sequence of str
        Its ``__all__``.

    Returns
    -------
    getattr : callable
        Imports a name, and sets it in the package.
    dir : callable
        Lists the public names, sorted.
    """

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(public)

    return __getattr__, __dir__
