"""docs/encoders.md: every cell of its table is a test of that family."""

import re
from pathlib import Path

import pytest

from skbert.engine.model.families import FAMILIES, PADDED_FAMILIES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")


def rows_of(heading):
    """Read the table whose header starts with these cells."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


FEATURES, _, *CELLS = rows_of("| | states")
LEGEND = {row[0]: re.findall(r"`(test_\w+\.py::\w+)`", row[2]) for row in rows_of("| Column")[2:]}
FILES = sorted({test.split("::")[0] for tests in LEGEND.values() for test in tests})


COLLECT = """
import pytest
assert pytest.main(sys.argv[1:]) == 0
"""


@pytest.fixture(scope="module")
def known_tests(prepared, tmp_path_factory):
    """For each test function of the page, the names of the families in its parameters."""
    # Assertions stay as they are written: pytest cannot rewrite what the process has imported.
    options = ["--collect-only", "-q", "--assert=plain", "-p", "no:cacheprovider"]
    options += ["--rootdir", str(ROOT)]
    files = [f"{ROOT}/tests/{name}" for name in FILES]
    done = prepared.run(COLLECT, *options, *files, folder=tmp_path_factory.mktemp("collect"))
    names = done.stdout.splitlines()
    found = (re.match(r"tests/(test_\w+\.py::\w+)\[(.*)\]$", name) for name in names)
    return [match.groups() for match in found if match]


def test_each_family_has_a_row():
    assert [re.search(r"`(.*)`", row[0]).group(1) for row in CELLS] == [*FAMILIES]
    assert FEATURES[1:] == [*LEGEND]
    assert all(f"`{name}`" in PAGE for name in PADDED_FAMILIES)


def test_each_cell_is_a_test_of_that_family(known_tests):
    for row in CELLS:
        family = re.search(r"`(.*)`", row[0]).group(1)
        for feature, cell in zip(FEATURES[1:], row[1:], strict=True):
            test, *refusal = LEGEND[feature]
            wanted = {"yes": test, "no": refusal[0] if refusal else None}[cell]
            parameters = [ids for name, ids in known_tests if name == wanted]
            own = [ids for ids in parameters if re.search(rf"(^|-){family}($|-)", ids)]
            assert own, (family, feature, wanted)
