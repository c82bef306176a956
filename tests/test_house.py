"""The rules of the house: who imports whom, and docstrings that tell the truth."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import skbert
from tests.offline import run_offline

PACKAGE = Path(skbert.__file__).parent

#: The floors of the package from the ground up. A file imports only from its own folder, where
#: no circle is allowed, and from folders on floors below; folders of one floor are strangers.
FLOORS = [
    {"engine"},
    {"engine/text"},
    {"engine/model"},
    {"engine/files", "engine/prediction"},
    {"engine/training"},
    {"contract"},
    {"inspection"},
    {""},  # the estimators and the data sets
]


def name_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


FILES = {name_of(p): p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}


def folder_of(module):
    return "/".join(module.split(".")[1:-1])


def imports_of(module):
    path = FILES[module]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports_of(module):
    return {name for name in imports_of(module) if name in FILES}


def floor_of(module):
    (floor,) = (n for n, folders in enumerate(FLOORS) if folder_of(module) in folders)
    return floor


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_from_folders_below(module):
    for other in own_imports_of(module):
        same_folder = folder_of(other) == folder_of(module)
        assert same_folder or floor_of(other) < floor_of(module), f"{module} imports {other}"


def test_no_import_circle():
    waiting = {module: own_imports_of(module) for module in FILES}
    while free := {module for module, others in waiting.items() if not others}:
        waiting = {m: others - free for m, others in waiting.items() if m not in free}
    assert not waiting


@pytest.mark.parametrize("module", [name for name in FILES if ".engine." in name])
def test_the_engine_knows_no_scikit_learn(module):
    assert not {name.split(".")[0] for name in imports_of(module)} & {"sklearn", "pandas"}


@pytest.mark.parametrize("module", [name for name in FILES if ".text." in name])
def test_texts_and_packing_know_no_torch(module):
    assert not {name.split(".")[0] for name in imports_of(module)} & {"torch", "transformers"}


def size_without_docstrings(node):
    lines = set(range(node.lineno, node.end_lineno + 1))
    for inner in ast.walk(node):
        if isinstance(inner, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(inner):
            text = inner.body[0]
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("module", FILES)
def test_no_file_and_no_class_is_too_large(module):
    source = FILES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 620
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            assert size_without_docstrings(node) <= 450, node.name


def test_the_way_of_a_text_in_contributing_exists():
    """Each hop from `fit` to the optimizer names a definition in the file that it names."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## One text, from `fit` to the optimizer")[2].partition("\n## ")[0]
    hops = re.findall(r"^\d+\. (.+?) \(`(.+?\.py)`\)", section, flags=re.MULTILINE)
    assert 15 < len(hops) < 25
    assert len(hops) == len(re.findall(r"^\d+\. ", section, flags=re.MULTILINE))
    for names, file in hops:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
        for name in re.findall(r"`(.+?)`", names):
            assert set(name.split(".")) <= defined, f"{name} is not in {file}"


ESTIMATORS = [
    skbert.BertSentimentClassifier,
    skbert.BertSentimentRegressor,
    skbert.BertEmbeddingTransformer,
    skbert.BertPretrainer,
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_has_a_constraint(estimator):
    assert set(estimator._parameter_constraints) == set(estimator().get_params())


@pytest.mark.slow
def test_public_names_are_imported_when_they_are_used(tmp_path):
    done = run_offline(
        "import skbert\n"
        "assert not {'torch', 'transformers', 'sklearn', 'numpy'} & {*sys.modules}\n"
        "assert dir(skbert) == sorted(skbert.__all__)\n"
        "from skbert import BertSentimentClassifier\n"
        "assert 'torch' in sys.modules and 'transformers' not in sys.modules\n"
        "assert all(getattr(skbert, name) is not None for name in skbert.__all__)\n"
        "assert 'transformers' not in sys.modules and not attempts\n"
        "try:\n    skbert.no_such_name\n"
        "except AttributeError as error:\n    print(error)\n",
        folder=tmp_path / "run",
    )
    assert done.stdout == "module 'skbert' has no attribute 'no_such_name'\n"


@pytest.mark.slow
def test_displays_import_matplotlib_when_they_plot(tmp_path):
    done = run_offline(
        "import skbert.inspection as inspection\n"
        "assert not {'torch', 'transformers', 'sklearn', 'numpy', 'matplotlib'} & {*sys.modules}\n"
        "assert dir(inspection) == sorted(inspection.__all__) == sorted(inspection._MODULE_OF)\n"
        "assert all(getattr(inspection, name) is not None for name in inspection.__all__)\n"
        "assert not {'transformers', 'matplotlib'} & {*sys.modules} and not attempts\n"
        "try:\n    inspection.no_such_name\n"
        "except AttributeError as error:\n    print(error)\n",
        folder=tmp_path / "run",
    )
    assert done.stdout == "module 'skbert.inspection' has no attribute 'no_such_name'\n"


@pytest.mark.slow
def test_importing_leaves_the_process_as_it_was(tmp_path):
    # What skbert imports is imported first: what that changes is not skbert's doing.
    done = run_offline(
        "import logging, os, warnings, torch, pandas, safetensors.torch, scipy.special\n"
        "import huggingface_hub, sklearn.model_selection, tqdm.auto\n"
        "from transformers import AutoTokenizer, BertModel\n"
        "def state():\n"
        "    root = logging.getLogger()\n"
        "    return (dict(os.environ), root.level, list(root.handlers), list(warnings.filters),\n"
        "            torch.get_num_threads(), torch.get_rng_state().tolist())\n"
        "before = state()\n"
        "import skbert\n"
        "for name in skbert.__all__:\n"
        "    getattr(skbert, name)\n"
        "assert state() == before and not attempts\n",
        folder=tmp_path / "run",
    )
    assert done.stdout == "" and done.stderr == ""
    assert list((tmp_path / "run").iterdir()) == []


def test_importing_the_engine_leaves_transformers_for_later(tmp_path):
    # Its import takes longer than that of torch, and a grid search starts many processes.
    engine = [name for name in FILES if name.startswith("skbert.engine.")]
    done = run_offline(
        "import importlib, types\n"
        "skbert = sys.modules['skbert'] = types.ModuleType('skbert')  # without the estimators\n"
        f"skbert.__path__ = [{str(PACKAGE)!r}]\n"
        f"for name in {engine!r}:\n"
        "    importlib.import_module(name)\n"
        "assert not {'transformers', 'huggingface_hub.errors'} & {*sys.modules}\n",
        folder=tmp_path / "run",
    )
    assert done.stdout == "" and done.stderr == ""


def calls_of(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_unpickled_or_evaluated(module):
    refused = {"eval", "exec", "compile", "__import__", "torch.load", "joblib.load", "load_module"}
    assert not set(calls_of(module)) & refused
    assert not {name.split(".")[0] for name in imports_of(module)} & {"pickle", "marshal", "shelve"}


def test_code_of_a_model_is_never_trusted():
    uses = [
        ast.unparse(keyword.value)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code"
    ]
    assert uses and set(uses) == {"False"}
    assert "trust_remote_code" not in inspect.signature(ESTIMATORS[0]).parameters
