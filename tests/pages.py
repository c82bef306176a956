"""Run the code of a Markdown page as a reader would: block after block, in one namespace.

- A block of ``python`` runs. A comment that is itself a value must be the value of the expression
  before it: ``clf.predict(texts)  # array(['good'])``. Elsewhere in the block, and not on a line of
  its own, a value is an error. Other comments are free.
- A block of ``output`` must be what the block before it prints. As in a notebook, the value of its
  last line counts as printed. ``...`` stands for anything.
- ``<!-- invisible-code-block: python ... -->`` runs, and the reader does not see it.
- ``<!-- skip: next "reason" -->`` lets the next block be compiled only, for one of `SKIP_REASONS`.
- A block of ``bash`` does not run: `check_shell` looks up its commands, scripts and options.
- Any other language is only shown, and is one of `SHOWN`.
"""

import ast
import doctest
import inspect
import io
import re
import shlex
import shutil
import tokenize
import tomllib
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import CommitInfo
from sybil import Document, Example, Region
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer
from sybil.parsers.myst import CodeBlockParser

from skbert.engine.files.push import Pushed
from tests.family_folders import save_family

ROOT = Path(__file__).parents[1]
#: Why a block may not run.
SKIP_REASONS = {"needs a CUDA device", "needs a Dask cluster", "needs Spark"}

#: What is shown to the reader and nothing else. Names in braces are directives of MyST.
SHOWN = {"text", "json", "toml", "yaml", "csv", "html", "bibtex"}

_EQUAL = doctest.OutputChecker()
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_VERBS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


class Page:
    """A page, its blocks and what they printed so far.

    Parameters
    ----------
    path : Path
    **namespace : object
        What the blocks find in their namespace.
    """

    def __init__(self, path: Path, **namespace: Any) -> None:
        self.path = path
        self.skipped = ""
        self.printed = ""
        parsers = [
            CodeBlockParser("python", self._run),
            CodeBlockParser("output", self._compare),
            CodeBlockParser("bash", lambda block: check_shell(block.parsed)),
            self._find_skips,
        ]
        self._document = Document.parse(str(path), *parsers)
        self._document.namespace.update(namespace, __name__="__main__")

    def run(self) -> None:
        """Run and compare all blocks; an error names the line of its block."""
        for block in self._document.examples():
            try:
                block.evaluate()
            except Exception as error:
                error.add_note(f"In the block of {self.path}, line {block.line}.")
                raise

    def _find_skips(self, document: Document) -> Iterable[Region]:
        for region in DirectiveInHTMLCommentLexer("skip", "next .*?")(document):
            reason = region.lexemes["arguments"].removeprefix("next ").strip("\"' ")
            yield Region(region.start, region.end, reason, self._skip_next)

    def _skip_next(self, example: Example) -> None:
        assert example.parsed in SKIP_REASONS, f"no reason to skip a block: {example.parsed!r}"
        self.skipped = example.parsed

    def _run(self, block: Example) -> None:
        skipped, self.skipped = self.skipped, ""
        first_line = block.line + block.parsed.line_offset
        tree = ast.parse("\n" * first_line + block.parsed, self.path)
        if skipped:
            return
        values = values_in_comments(block.parsed, first_line)
        compared = {node.end_lineno for node in tree.body if isinstance(node, ast.Expr)}
        for line in values.keys() - compared:
            raise AssertionError(
                f"The comment of line {line} is a value, {values[line]}, but the line is not the "
                "end of an expression whose value it could be."
            )
        out = io.StringIO()
        with redirect_stdout(out):
            for node in tree.body:
                value = self._execute(node, block.namespace)
                if isinstance(node, ast.Expr) and node.end_lineno in values:
                    check_equal(values[node.end_lineno], repr(value))
        if tree.body and value is not None:
            out.write(f"{value!r}\n")
        self.printed = out.getvalue()

    def _execute(self, node: ast.stmt, namespace: dict) -> Any:
        if isinstance(node, ast.Expr):
            return eval(compile(ast.Expression(node.value), self.path, "eval"), namespace)
        exec(compile(ast.Module([node], []), self.path, "exec"), namespace)
        return None

    def _compare(self, block: Example) -> None:
        check_equal(block.parsed, self.printed)


def check_equal(shown: str, found: str) -> None:
    """Raise an error if a page shows something else than its code gives.

    A page may leave out types: ``array(['good'])`` and ``'good'`` instead of ``np.str_('good')``.
    """
    if "np." not in shown:
        found = re.sub(r"np\.\w+\(([^()]*)\)", r"\1", found)
    if "dtype=" not in shown:
        found = re.sub(r", dtype=(object|'<U\d+')\)", ")", found)
    # Two ends of line, lest an empty text equal "..."
    if not _EQUAL.check_output(f"{shown.strip()}\n", f"{found.strip()}\n", _OPTIONS):
        raise AssertionError(f"The page shows\n{shown}\nand its code gives\n{found}")


def values_in_comments(source: str, first_line: int = 0) -> dict[int, str]:
    """Find the comments that are the value of their line, by the number of the line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and source.splitlines()[token.start[0] - 1][0] != "#":
            text = token.string.lstrip("# ")
            if is_value(text):
                found[first_line + token.start[0]] = text
    return found


def is_value(text: str) -> bool:
    """Whether a text is a number, a string, a collection or an array, and not a word."""
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        return False
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "array"
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set))


def check_shell(source: str) -> None:
    """Raise an error if a command of a block of bash does not exist.

    Known are pip, make, python, the scripts of the repository, git, cd and export.
    """
    for line in source.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if not words:
            continue
        command, *arguments = words
        if command == "python" and arguments[:2] == ["-m", "pip"]:
            command, arguments = "pip", arguments[2:]
        elif command == "python" and arguments[0].endswith(".py"):
            command, *arguments = arguments
        if "/" in command:
            check_script(ROOT / command, arguments)
        elif command == "pip":
            check_pip(arguments)
        elif command == "make":
            verbs = {word for word in arguments if "=" not in word}
            assert verbs <= _VERBS, f"the Makefile has no {verbs - _VERBS}"
        else:
            assert command in {"cd", "export", "git"}, f"unknown command in {line!r}"


def check_pip(arguments: list[str]) -> None:
    """Raise an error if an extra of skbert that is installed does not exist."""
    assert arguments[0] == "install", arguments
    for word in arguments[1:]:
        match = re.match(r"(?:skbert|\.)\[(.+)\]", word)
        extras = set(match[1].split(",")) if match else set()
        assert extras <= set(_PROJECT["optional-dependencies"]), f"{word}: no such extra"


def check_script(path: Path, arguments: list[str]) -> None:
    """Raise an error if a script does not exist, or never names one of its options."""
    assert path.is_file(), f"no script {path}"
    text = path.read_text(encoding="utf-8")
    if path.parent.name == "benchmarks":
        text += (path.parent / "_common.py").read_text(encoding="utf-8")
        text += (path.parent / "bench_gpu.py").read_text(encoding="utf-8") * (path.suffix == ".sh")
    for word in arguments:
        assert not word.startswith("--") or f'"{word.partition("=")[0]}"' in text, (path, word)


class StandIns:
    """Small models with random weights under the names of published ones, in a cache of the hub.

    Parameters
    ----------
    cache : Path
        The folder for `huggingface_hub.constants.HF_HUB_CACHE`.
    tokenizer_from : Path
        A folder with a tokenizer.
    """

    def __init__(self, cache: Path, tokenizer_from: Path) -> None:
        self.cache = cache
        self.tokenizer_from = tokenizer_from

    def __call__(
        self, name: str, kind: str = "encoder", *, family: str = "bert", labels: tuple = ()
    ) -> None:
        """Put a model into the cache.

        Parameters
        ----------
        name : str
            The name on the hub.
        kind : {"encoder", "classifier", "pretraining"}
            "pretraining" has the heads of BERT's own two tasks.
        family : str
            One of `skbert.engine.model.families.FAMILIES`.
        labels : tuple of str
            The classes of a classifier.
        """
        folder = self.folder_for(name)
        save_family(folder, family, str(self.tokenizer_from), n_positions=512)
        config = transformers.AutoConfig.from_pretrained(folder)
        if kind == "encoder":
            return
        if kind == "classifier":
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: n for n, label in enumerate(labels)}
        build = {
            "classifier": transformers.AutoModelForSequenceClassification.from_config,
            "pretraining": transformers.AutoModelForPreTraining.from_config,
        }[kind]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build(config).save_pretrained(folder)

    def link(self, name: str, folder: Path) -> None:
        """Let a folder of this machine be the copy of a model in the cache."""
        shutil.copytree(
            folder, self.folder_for(name), copy_function=lambda a, b: Path(b).symlink_to(a)
        )

    def push(self, folder: Path, repo_id: str, **options: Any) -> Pushed:
        """Put a pushed folder into the cache, instead of uploading it."""
        shutil.copytree(folder, self.folder_for(repo_id))
        url = f"https://huggingface.co/{repo_id}/commit/{'0' * 40}"
        commit = CommitInfo(
            commit_url=url,
            commit_message=options["commit_message"],
            commit_description="",
            oid="0" * 40,
        )
        return Pushed(commit, kept_card=False)

    def folder_for(self, name: str) -> Path:
        """Where the client of the hub looks for a model."""
        commit = "0" * 40
        repository = self.cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots").mkdir()
        return repository / "snapshots" / commit


def default_setter(monkeypatch: Any) -> Callable[..., None]:
    """Make a function that gives parameters of an estimator other defaults, for one test."""

    def set_defaults(estimator: type, **values: Any) -> None:
        init = estimator.__init__
        positional = [p for p in inspect.signature(init).parameters.values() if p.kind.value == 1]
        names = [p.name for p in positional if p.default is not p.empty]
        defaults = dict(zip(names, init.__defaults__ or (), strict=True))
        assert values.keys() <= {*defaults, *init.__kwdefaults__}, values
        new = {name: values.get(name, default) for name, default in defaults.items()}
        monkeypatch.setattr(init, "__defaults__", tuple(new.values()))
        for name in values.keys() - new.keys():
            monkeypatch.setitem(init.__kwdefaults__, name, values[name])

    return set_defaults
