"""Docstrings of everything public: their form, the defaults they name, and their examples."""

import ast
import doctest
import inspect
import re

import pytest
from numpydoc.docscrape import FunctionDoc, NumpyDocString
from numpydoc.validate import validate

from tests.public_names import CALLABLES, CLASSES, PUBLIC

#: Rules of numpydoc that skbert does not follow, and why.
IGNORED = {
    "SA01": "not every name has relatives",
    "ES01": "a summary that says everything needs no second paragraph",
    "EX01": "methods are shown in the example of their class; a test below asks for that one",
    "RT02": "`self : object`, as in scikit-learn, names what is returned",
    "GL02": "texts that all estimators share are filled in, which strips the last line",
}
#: What users get and never make: its fields are under Attributes. A warning has no parameters.
RESULTS = [
    name
    for name, cls in CLASSES.items()
    if hasattr(cls, "__dataclass_fields__") or issubclass(cls, Warning)
]
MADE = {name: value for name, value in CALLABLES.items() if name not in RESULTS}


def errors_of(name):
    return validate(name)["errors"]


@pytest.mark.parametrize("name", CALLABLES)
def test_numpydoc_finds_nothing_wrong(name):
    allowed = {*IGNORED, *(["PR01"] if name in RESULTS else [])}
    assert [error for error in errors_of(name) if error[0] not in allowed] == []


def test_each_ignored_rule_would_find_something():
    assert {*IGNORED} <= {code for name in CALLABLES for code, _ in errors_of(name)}


def documented_and_actual(value):
    """Types of the documented parameters, and defaults of those of the signature."""
    doc = NumpyDocString(inspect.getdoc(value)) if inspect.isclass(value) else FunctionDoc(value)
    documented = {name: p.type for p in doc["Parameters"] for name in p.name.split(", ")}
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(value).parameters.values()
    actual = {stars.get(p.kind, "") + p.name: p.default for p in parameters if p.name != "self"}
    return documented, actual


@pytest.mark.parametrize("name", [name for name, value in MADE.items() if callable(value)])
def test_documented_parameters_and_defaults_are_those_of_the_signature(name):
    documented, actual = documented_and_actual(MADE[name])
    assert list(documented) == list(actual)
    for parameter, default in actual.items():
        found = re.search(r"default=(.+)$", documented[parameter])
        if default is inspect.Parameter.empty:
            assert found is None, parameter
        else:
            assert found is not None, parameter
            assert ast.literal_eval(found.group(1)) == default, parameter


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example_that_runs(name):
    """`make test` runs the examples of docstrings (pytest --doctest-modules)."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(PUBLIC[name]))
    if name not in RESULTS:
        assert any(name.rpartition(".")[2] in example.source for example in examples)
    assert any(example.want for example in examples)
    assert not any(doctest.SKIP in example.options for example in examples)


def test_the_examples_of_public_names_are_collected(request):
    """The module that defines a name is one of those whose docstrings pytest reads."""
    assert "--doctest-modules" in request.config.getini("addopts")
    assert "skbert" in request.config.getini("testpaths")
    assert {value.__module__.partition(".")[0] for value in PUBLIC.values()} == {"skbert"}
