"""Links to the pages of other libraries: each name in docs/inventories/ exists there."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString

from tests.public_names import PUBLIC

pytest.importorskip(
    "sybil", reason="the names are those of the pinned versions, which the extra dev installs"
)
importlib.import_module("sklearn.experimental.enable_halving_search_cv")

INVENTORIES = Path(__file__).parents[1] / "docs" / "inventories"
LINES = {
    path.stem: path.read_text(encoding="utf-8").splitlines()
    for path in sorted(INVENTORIES.glob("*.inv"))
}
NAMES = [tuple(line.split()) for lines in LINES.values() for line in lines[3:]]
LIBRARIES = "sklearn|numpy|pandas|joblib|matplotlib|torch|transformers"


def find(name):
    """The object of a dotted name, in the installed library."""
    parts = name.split(".") if "." in name else ["builtins", name]
    for n in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("project", LINES)
def test_an_inventory_is_sorted_and_of_version_1(project):
    """Version 1 is plain text, which people can read and correct."""
    head, names = LINES[project][:3], LINES[project][3:]
    assert head == ["# Sphinx inventory version 1", f"# Project: {project}", "# Version: stable"]
    assert names == sorted(set(names))


@pytest.mark.parametrize(("name", "kind", "location"), NAMES)
def test_a_name_exists_in_its_library(name, kind, location):
    """A link to a name that does not exist would be dead."""
    found = find(name)
    if kind in ("class", "exception"):
        assert inspect.isclass(found) and issubclass(found, BaseException) is (kind == "exception")
    else:
        assert kind == "data" or callable(found)
    assert re.fullmatch(r"[\w./-]+", location)


def names_in(text):
    """Names of other libraries in the roles of a text, and under See Also."""
    return re.findall(rf"(?::\w+:|\{{\w+\}})`[^`]*?((?:{LIBRARIES})\.[\w.]+)>?`", text)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_names_of_see_also_are_links(name):
    seen = NumpyDocString(inspect.getdoc(PUBLIC[name]))["See Also"]
    named = {n for entries, _ in seen for n, _ in entries if re.match(rf"({LIBRARIES})\.", n)}
    assert named | {*names_in(inspect.getdoc(PUBLIC[name]))} <= {name for name, _, _ in NAMES}


def test_the_roles_of_pages_are_links():
    docs = INVENTORIES.parent
    pages = [path for path in docs.glob("**/*.md") if "_build" not in path.parts]
    found = {name for page in pages for name in names_in(page.read_text(encoding="utf-8"))}
    assert found <= {name for name, _, _ in NAMES}


def test_names_in_roles_are_found():
    text = (
        "{class}`sklearn.pipeline.Pipeline`, {func}`a <numpy.abs>`, :class:`~torch.Tensor`, `a.b`"
    )
    assert {*names_in(text)} == {"sklearn.pipeline.Pipeline", "numpy.abs", "torch.Tensor"}
