"""The code in README.md and docs/ runs; `tests/pages.py` says what that means."""

import re
from pathlib import Path

import huggingface_hub
import joblib
import pytest
import sklearn

from skbert.engine.files.find import find_model
from tests.conftest import DEFAULT_MODEL
from tests.offline import block_network

pytest.importorskip(
    "sybil", reason="the pages show the pinned versions, which the extra dev installs in .venv"
)
from tests import pages

ROOT = Path(__file__).parents[1]
_BUILT = {"_build", "generated", "auto_examples"}
PAGES = {
    name: path
    for folder in ("*.md", "benchmarks/*.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(folder))
    if not _BUILT.intersection((name := path.relative_to(ROOT).as_posix()).split("/"))
}
#: Pages whose code runs for more than five seconds.
SLOW = {
    "docs/coming_from.md",
    "docs/guide/long_reviews.md",
    "docs/guide/onnx.md",
    "docs/guide/search_on_a_cluster.md",
    "docs/interoperability.md",
}
assert PAGES.keys() >= SLOW


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Fill a cache of the hub, which is not reachable; it has the default model."""
    attempts = block_network(monkeypatch.setattr)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = find_model(DEFAULT_MODEL).folder
    stand_ins = pages.StandIns(tmp_path / "hub", folder)
    stand_ins.link(DEFAULT_MODEL, folder)
    monkeypatch.setattr("skbert.contract.push.push_folder", stand_ins.push)
    yield stand_ins
    assert attempts == []


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Run in an empty folder, and close the figures."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    # mlflow tracks into a folder, because a new data base takes ten seconds, and sends nothing.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "cwd" / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield tmp_path / "cwd"
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PAGES]
)
def test_the_code_of_a_page_runs(name, stand_in, own_folder, monkeypatch):
    given = {"stand_in": stand_in, "set_defaults": pages.default_setter(monkeypatch)}
    # Processes for n_jobs take seconds to start; other tests have them.
    with sklearn.config_context(), joblib.parallel_config(backend="sequential"):
        pages.Page(PAGES[name], **given).run()


@pytest.mark.parametrize("name", PAGES)
def test_each_block_of_a_page_names_its_language(name):
    """A block of another language would never run."""
    text = PAGES[name].read_text(encoding="utf-8")
    fences = re.findall(r"^[ \t]*(?:`{3,}|~{3,})(.*)$", text, re.MULTILINE)
    opening = fences[::2]
    assert len(fences) % 2 == 0 and not any(fences[1::2]), "a block is not closed, or in another"
    directives = re.compile(
        r"\{(include|literalinclude|toctree|eval-rst|image|figure|note|tip|warning|grid\S*|card\S*)\}.*"
    )
    for language in opening:
        known = language in {"python", "output", "bash", *pages.SHOWN}
        assert known or directives.fullmatch(language), f"a block of {language!r} does not run"


@pytest.mark.parametrize("name", PAGES)
def test_each_verb_of_make_in_a_page_exists(name):
    for command in re.findall(r"`(make [^`]*)`", PAGES[name].read_text(encoding="utf-8")):
        pages.check_shell(command)


def write(folder, text):
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


RIGHT = """
<!-- invisible-code-block: python
texts = ["a", "b"]
-->

Text with `code`.

```python
import numpy as np

n = len(texts)
n  # 2
np.array(["good"])  # array(['good'], dtype='<U4')
np.array(['b'])  # array(['b'])
np.array(['b'])[0]  # 'b'
list(range(9))  # [0, ..., 8]
n + 1  # labels
n + 1  # more than 5
print(f"{n} texts")
n / 2
```

```output
2 texts
1.0
```

- ```python
  m = n
  ```

<!-- skip: next "needs a CUDA device" -->
```python
nowhere
```

```python
assert m == 2 and __name__ == "__main__"
```

```bash
pip install "skbert[offline]"  # the weights too
python -m pip install \\
    -e ".[dev]"
OMP_NUM_THREADS=1 make test ARGS="-k pages"
python benchmarks/bench_fit.py --smoke
```
"""


def test_a_right_page_runs(tmp_path):
    pages.Page(write(tmp_path, RIGHT)).run()


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("n = len(texts)", "n = 2  # 2", r"^The comment of line 11 is a value, 2, but the line is"),
        ("n + 1  # labels", "if n:\n    n + 1  # 3", r"^The comment of line 18 is a value, 3, but"),
        ("list(range(9))", "list(  # [0]\n    range(9))", r"^The comment of line 16 is a value, "),
        ("n  # 2", "n  # 3", r"^The page shows\n3\nand its code gives\n2\n"),
        ("array(['good'], dtype='<U4')", "array(['bad'])", "and its code gives\narray"),
        ("\n1.0\n", "\n1.5\n", r"and its code gives\n2 texts\n1.0\n"),
        ("\n1.0\n", "\n", r"and its code gives\n2 texts\n1.0\n"),
        ("len(texts)", "len(textes)", "name 'textes' is not defined"),
        ("nowhere", "no where", "invalid syntax"),
        ("a CUDA device", "no reason", "no reason to skip a block: 'needs no reason'"),
        ("\nnowhere\n```", "\nnowhere\n```\n\n```python\nnowhere\n```", "'nowhere' is not defined"),
        ("[offline]", "[ofline]", re.escape("skbert[ofline]: no such extra")),
        (".[dev]", ".[def]", re.escape(".[def]: no such extra")),
        ("make test", "make tests", r"the Makefile has no \{'tests'\}"),
        ("bench_fit.py", "bench_fits.py", "no script .*bench_fits.py"),
        ("--smoke", "--smoky", "--smoky"),
        ("pip install", "pipp install", "unknown command in 'pipp install"),
    ],
)
def test_a_wrong_page_fails(right, wrong, error, tmp_path):
    assert RIGHT.count(right) == 1 or right == "pip install"
    page = pages.Page(write(tmp_path, RIGHT.replace(right, wrong, 1)))
    with pytest.raises(Exception, match=error) as caught:
        page.run()
    assert re.fullmatch(r"In the block of .*page\.md, line \d+\.", caught.value.__notes__[0])


def test_an_error_names_the_line_of_the_page(tmp_path):
    page = pages.Page(write(tmp_path, "one\n\n```python\na = 1\n\nnowhere\n```\n"))
    with pytest.raises(NameError) as caught:
        page.run()
    assert caught.traceback[-1].lineno + 1 == 6
    assert str(caught.traceback[-1].path) == str(page.path)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("2", True),
        ("-0.5", True),
        ("'good'", True),
        ("['1 star', '2 stars', ...]", True),
        ("array(['positive'])", True),
        ("{'a': 1}", True),
        ("labels", False),
        ("labels of the texts", False),
        ("len(labels)", False),
        ("its labels: ['1 star']", False),
    ],
)
def test_which_comment_is_a_value(text, is_one):
    assert pages.is_value(text) is is_one


def test_a_stand_in_is_found_under_its_name(stand_in, own_folder):
    from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier

    stand_in("google-bert/bert-base-uncased", "pretraining")
    stand_in("FacebookAI/roberta-base", family="roberta")
    stand_in("someone/stars", "classifier", labels=("1 star", "2 stars"))
    filled = BertPretrainer.from_pretrained("google-bert/bert-base-uncased").fill_mask("a [MASK]")
    assert len(filled.words) == 1
    assert BertEmbeddingTransformer("FacebookAI/roberta-base").fit_transform(["a"]).shape == (1, 16)
    clf = BertSentimentClassifier.from_pretrained("someone/stars")
    assert clf.classes_.tolist() == ["1 star", "2 stars"]
    with pytest.raises(OSError, match="Could not find the model 'someone/else'"):
        BertSentimentClassifier.from_pretrained("someone/else")


def test_smaller_defaults_end_with_the_test(monkeypatch):
    from skbert import BertSentimentClassifier

    before = BertSentimentClassifier().get_params()
    with monkeypatch.context() as context:
        pages.default_setter(context)(BertSentimentClassifier, model="someone/small", max_epochs=1)
        changed = {"model": "someone/small", "max_epochs": 1}
        assert BertSentimentClassifier().get_params() == before | changed
    assert BertSentimentClassifier().get_params() == before
