"""What builds the site: its files name things that exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from gallery_order import ORDER, by_order  # noqa: E402
from link_names import targets  # noqa: E402

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_read_the_docs_installs_the_pinned_versions():
    settings = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text(encoding="utf-8"))
    (install,) = settings["build"]["jobs"]["install"]
    (extra,) = re.findall(r"\.\[(\w+)\]", install)
    assert extra in EXTRAS and (ROOT / re.search(r"-c (\S+)", install)[1]).is_file()
    assert settings["build"]["tools"]["python"] == "3.11"  # as constraints.txt says
    assert (ROOT / settings["sphinx"]["configuration"]).is_file()
    assert settings["sphinx"]["fail_on_warning"] is True


def test_each_example_has_a_place_in_the_gallery():
    examples = {path.name for path in (ROOT / "examples").glob("plot_*.py")}
    assert sorted(examples, key=by_order)[0] == "plot_quickstart.py"
    assert examples <= {*ORDER}


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("BertSentimentClassifier", "skbert.BertSentimentClassifier"),
        ("BertPretrainer.fill_mask", "skbert.BertPretrainer.fill_mask"),
        ("TokenLengthDisplay", "skbert.inspection.TokenLengthDisplay"),
        ("GridSearchCV", "sklearn.model_selection.GridSearchCV"),
        ("cross_validate", "sklearn.model_selection.cross_validate"),
        ("joblib.dump", "joblib.dump"),
        ("load", None),
        ("fit", None),
        ("str", None),
        ("BertSentimentClassifier.get_params", None),
    ],
)
def test_which_inline_code_is_a_link(code, target):
    assert targets(DOCS / "inventories").get(code) == target


def test_the_script_of_screenshots_says_what_it_does():
    script = DOCS / "screenshots.sh"
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "docs/screenshots.sh [--help] [FOLDER [PAGE...]]" in done.stdout
    assert script.name in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    empty = subprocess.run(
        [script, DOCS / "_static"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "CHROMIUM": "true"},
    )
    assert empty.returncode == 1 and "Build them with make docs." in empty.stderr
