"""The examples: each has a title, ends in a figure and uses what a user can use."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

#: Modules of skbert that a user imports from.
PUBLIC_MODULES = {"skbert", "skbert.datasets", "skbert.inspection"}

#: What the gallery runs, and draws.
FIGURES = [path for path in EXAMPLES if path.name.startswith("plot_")]

each_figure = pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def title_of(path):
    """Return the title of the gallery, the line above a line of equal signs."""
    lines = (ast.get_docstring(tree_of(path)) or "").splitlines()
    assert len(lines) > 3, f"{path.name} has no title and text"
    title, underline, empty = lines[:3]
    assert underline == "=" * len(title), f"the line below the title of {path.name}"
    assert not empty
    return title


def imported_names(tree):
    """List all modules and names that are imported, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls_in(node):
    return [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]


def test_there_are_examples():
    assert len(EXAMPLES) >= 8


def test_the_gallery_runs_all_files_but_the_programs():
    # tests/test_serving.py runs the service, which would not end in the gallery, and
    # tests/test_score_parquet.py the other one, which needs arguments
    others = [path.name for path in EXAMPLES if path not in FIGURES]
    assert others == ["score_parquet.py", "serve_fastapi.py"]


@each_example
def test_an_example_has_a_title(path):
    assert len(title_of(path)) <= 40  # more does not fit below a thumbnail


def test_titles_differ():
    assert len({title_of(path) for path in EXAMPLES}) == len(EXAMPLES)


@each_figure
def test_an_example_ends_in_a_figure(path):
    *_, save, show = tree_of(path).body
    assert ast.unparse(show) == "plt.show()"
    name = path.stem.removeprefix("plot_")
    assert ast.unparse(save) == f"plt.savefig('{name}.png', dpi=150)"


@each_figure
def test_git_ignores_the_figure(path):
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert f"{path.stem.removeprefix('plot_')}.png" in ignored


@each_example
def test_an_example_imports_only_public_names(path):
    tree = tree_of(path)
    for name in imported_names(tree):
        assert not any(part.startswith("_") for part in name.split(".")), name
        if name.split(".")[0] == "skbert":
            assert name.rpartition(".")[0] in PUBLIC_MODULES, name
    private = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_(?!repr_html_$)", node.attr)
    ]
    assert private == []


@each_example
def test_an_example_sets_no_global_seed(path):
    tree = tree_of(path)
    seeds = [call for call in calls_in(tree) if re.search(r"\b(manual_)?seed(_all)?$", call)]
    assert seeds == []
    # What draws numbers without a seed differs each time.
    legacy = [call for call in calls_in(tree) if re.match(r"(np|numpy)\.random\.", call)]
    assert legacy == []


@each_example
def test_what_is_random_has_a_random_state(path):
    random = {"BertSentimentClassifier", "BertPretrainer", "train_test_split"}
    for call in [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func)
        if name in random and (call.args or call.keywords):
            states = [key.value for key in call.keywords if key.arg == "random_state"]
            assert [ast.unparse(state) for state in states] == ["0"], ast.unparse(call)


@each_figure
def test_an_example_chooses_a_thumbnail_that_exists(path):
    text = path.read_text(encoding="utf-8")
    n_figures = len(re.findall(r"^plt\.show\(\)$", text, flags=re.MULTILINE))
    numbers = re.findall(r"^# sphinx_gallery_thumbnail_number = (-?\d+)$", text, flags=re.MULTILINE)
    assert len(numbers) <= 1
    assert all(1 <= int(number) <= n_figures for number in numbers)
    assert n_figures == 1 or numbers, "several figures: choose one for the thumbnail"


def test_the_gallery_has_a_header():
    header = (ROOT / "examples" / "GALLERY_HEADER.rst").read_text(encoding="utf-8").splitlines()
    assert header[1] == "=" * len(header[0])
