"""Everything that users may call: what the tests of docstrings read."""

import inspect
from importlib import import_module

#: The modules whose names are public.
MODULES = ("skbert", "skbert.datasets", "skbert.inspection")


def _names_of(module):
    public = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return sorted(name for name in public if callable(getattr(module, name)))


def _members_of(cls):
    """Names of the public methods and properties that skbert itself defines."""
    for name in dir(cls):
        if name.startswith("_"):
            continue
        value = inspect.getattr_static(cls, name)
        value = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if inspect.isfunction(value) and value.__module__.startswith("skbert"):
            yield name


#: Dotted name -> class or function.
PUBLIC = {
    f"{module}.{name}": getattr(import_module(module), name)
    for module in MODULES
    for name in _names_of(import_module(module))
}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
#: The same with the methods and properties of the classes.
CALLABLES = PUBLIC | {
    f"{name}.{member}": getattr(cls, member)
    for name, cls in CLASSES.items()
    for member in _members_of(cls)
}
