"""docs/troubleshooting.md has each message of skbert, and no other."""

import ast
import functools
import re
from pathlib import Path

import pytest

import skbert

PACKAGE = Path(skbert.__file__).parent
PAGE = PACKAGE.parent / "docs" / "troubleshooting.md"

#: Functions that make an error or a warning from a message.
MAKERS = re.compile(r"(\w*Error|type\(error\)|warn_user|Exception)$")

#: What differs from case to case, as in the page.
GAP = "..."


def text_of(node):
    """The text of an expression, with a gap for what is not known before it runs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    return GAP


def strings_and_messages(path):
    """All strings of a file, and those of them that an error or a warning is made from."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    strings = [text_of(n) for n in nodes if isinstance(n, (ast.Constant, ast.JoinedStr))]
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    messages = [text_of(c.args[0]) for c in calls if MAKERS.match(ast.unparse(c.func)) and c.args]
    return strings, [text for text in messages if any(len(part) > 12 for part in text.split(GAP))]


FILES = {
    path.relative_to(PACKAGE).as_posix(): strings_and_messages(path)
    for path in PACKAGE.rglob("*.py")
    if path.name != "lazy_names.py"  # its message about attributes is Python's own
}
STRINGS = sorted({string for strings, _ in FILES.values() for string in strings})
MESSAGES = sorted({(file, text) for file, (_, messages) in FILES.items() for text in messages})
ENTRIES = [
    entry
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "---" not in line and not line.startswith("| Message")
    for entry in re.findall(r"`([^`]+)`", line.split(" | ")[0])
]


#: Words that the page has as examples, where a message has a gap.
EXAMPLES = re.compile(
    r"\b(X_val|X|y|pairs|labels|str|None|1000|skbert\.json|config\.json|BertSentimentClassifier|"
    r"BertPretrainer)\b"
)


@functools.cache
def parts_of(text):
    parts = EXAMPLES.sub(GAP, text).split(GAP)
    return [part for part in (re.sub(r"^\W+|\W+$", "", part) for part in parts) if part]


def is_in(entry, message):
    """Whether the parts of an entry occur in a message, in their order."""
    pattern = ".*".join(re.escape(part) for part in parts_of(entry))
    return re.search(pattern, joined_parts_of(message), re.DOTALL) is not None


@functools.cache
def joined_parts_of(text):
    return GAP.join(parts_of(text))


def test_there_are_messages_and_entries():
    assert len(MESSAGES) > 100 and len(ENTRIES) > 100


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_is_a_message(entry):
    assert any(is_in(entry, string) for string in STRINGS)


@pytest.mark.parametrize(("file", "message"), MESSAGES, ids=lambda value: value[:60])
def test_each_message_has_an_entry(file, message):
    assert any(is_in(entry, message) for entry in ENTRIES)
