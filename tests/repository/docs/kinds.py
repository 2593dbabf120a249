"""The kind of a block, from its language or its content. The kind selects the test that runs it."""

import functools
import re
import tomllib

from tests.repository.docs.commands import begins_with_command
from tests.repository.docs.markdown import Block, blocks

LANGUAGES = {
    "sh": "shell",
    "bash": "shell",
    "shell": "shell",
    "console": "transcript",
    "js": "javascript",
    "javascript": "javascript",
    "ts": "typescript",
    "tsx": "typescript",
    "py": "python",
    "python": "python",
    "json": "json",
    "toml": "toml",
    "yaml": "yaml",
    "yml": "yaml",
    "sql": "sql",
}

RUN_BY = {
    # kind → the test that runs all blocks of that kind
    "shell": "tests/repository/docs/test_shell.py",
    "python": "tests/repository/docs/test_shell.py",
    "shown": "tests/repository/docs/test_shell.py",
    "transcript": "tests/repository/docs/test_cli.py",
    "javascript": "tests/browser/test_documents.py",
    "typescript": "tests/browser/test_types.py",
    "sql": "tests/integration/postgres/test_transactions.py",
    "event": "tests/functions/test_webhooks.py",
    "settings": "tests/repository/docs/test_files.py",
    "json": "tests/repository/docs/test_files.py",
    "toml": "tests/repository/docs/test_files.py",
    "yaml": "tests/repository/docs/test_files.py",
    "usage": "tests/repository/docs/test_files.py",
    "picture": "tests/repository/docs/test_files.py",
    "spans": "tests/repository/docs/test_files.py",
    "log": "tests/repository/docs/test_files.py",
    "log line": "tests/repository/docs/test_files.py",
    "insights": "tests/repository/docs/test_files.py",
}

USAGE = re.compile(r"^(scripts/\w+\b[^#]*?) {2,}[^#\s]")  # a command and its description
_ASSIGNMENT = re.compile(r"^[A-Z][A-Z0-9_]*=\S*\s*(#.*)?$")


def kind_of(block: Block) -> str | None:
    """Return one of RUN_BY, or None for an unknown kind."""
    if block.role == "shows":
        return "shown"
    if block.role == "event":
        return "event"
    if block.language:
        return LANGUAGES.get(block.language)
    return _guess(block)


def _guess(block: Block) -> str | None:
    text = block.text
    lines = [line for line in text.splitlines() if line.strip()]
    if all(_ASSIGNMENT.match(line) for line in lines):
        return "settings"
    if all(USAGE.match(line) for line in lines):
        return "usage"
    if begins_with_command(text) or re.split(r"\W", text)[0] in _functions(block.document):
        return "shell"
    if re.match(r"(?i)(begin|select|insert|create|grant)\b", text):
        return "sql"
    if text.startswith('{"time"'):
        return "log line"
    if all(re.match(r"(DEBUG|INFO|WARNING|ERROR) [\w.]+: ", line) for line in lines):
        return "log"
    if "└─ " in text:
        return "spans"
    if "──" in text:
        return "picture"
    if text.startswith("fields @"):
        return "insights"
    return "toml" if _is_toml(text) else None


@functools.cache
def _functions(document: str) -> frozenset[str]:
    """Return the shell functions that a document defines for later blocks."""
    texts = (block.text for block in blocks() if block.document == document)
    return frozenset(name for text in texts for name in re.findall(r"^(\w+)\(\) *\{", text, re.MULTILINE))


def _is_toml(text: str) -> bool:
    try:
        return bool(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return False


def of_kind(*kinds: str) -> list[Block]:
    """Return every block of these kinds in every document."""
    return [block for block in blocks() if kind_of(block) in kinds]


def shown_after(block: Block) -> Block | None:
    """Return the next block if it shows this one's output."""
    following = [other for other in blocks() if other.document == block.document and other.line > block.line]
    return following[0] if following and kind_of(following[0]) == "shown" else None
