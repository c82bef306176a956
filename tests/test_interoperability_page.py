"""docs/interoperability.md: each row of its table is a test with a pinned version."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "interoperability.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("| Library |") :].split("\n\n")[0].splitlines()
HEADER, _, *ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE]
PINS = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@cache
def names_of_tests_in(file):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("test_")]


def test_the_table_is_read():
    assert HEADER == ["Library", "Version", "What is tested", "Test"] and len(ROWS) > 8


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[3].split('::')[1]}")
def test_each_row_names_a_test_and_the_pinned_version(row):
    library, version, _, test = row
    file, name = re.fullmatch(r"`(test_\w+\.py)::(\w+)`", test).groups()
    assert name in names_of_tests_in(file)
    assert version == PINS[library]


def test_versions_in_the_text_are_pinned():
    found = re.search(r"scikit-learn (\S+), pandas (\S+), NumPy (\S+) and", PAGE).groups()
    assert [*found] == [PINS[name] for name in ("scikit-learn", "pandas", "numpy")]


def test_the_extra_has_each_library_and_dev_has_the_extra():
    libraries = {row[0] for row in ROWS} - {"scikit-learn"}
    assert {re.match(r"[\w-]+", line)[0] for line in EXTRAS["neighbours"]} == libraries
    assert any("neighbours" in line for line in EXTRAS["dev"])


def test_the_number_of_parameters_in_the_page():
    tree = ast.parse((ROOT / "tests" / "test_interoperability.py").read_text(encoding="utf-8"))
    (values,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OTHER_VALUES"
    ]
    assert {int(number) for number in re.findall(r"varies (\d+) parameters", PAGE)} == {
        len(values.keys)
    }


def test_each_test_of_a_library_is_on_the_page_or_told_there():
    named = {row[3].strip("`").split("::")[1] for row in ROWS}
    told = {
        "test_cleanlab_wants_an_array_or_a_column",
        "test_hiclass_local_classifiers_want_numbers",
        "test_each_parameter_is_searched_or_has_a_reason",
    }
    assert {*names_of_tests_in("test_interoperability.py")} <= named | told
