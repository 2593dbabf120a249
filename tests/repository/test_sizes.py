"""Sizes: no module that is too large to read, or too small without a reason, and test names that fit in a report."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

CORE = ROOT / "shared" / "tidewire"
TESTS = ROOT / "tests"
MINIMUM_LINES, MAXIMUM_LINES = 50, 400
MAXIMUM_NAME = 60  # characters; the story of a test is in its docstring

SMALL = {
    "__main__": "`python -m tidewire`",
    "delivery/ring_buffer": "the one bounded buffer of the delivery core, tested alone",
    "ingest/dead_letters": "the only module that sends to SQS",
    "ingest/webhooks/github": "one provider per file",
    "ingest/webhooks/netlify": "one provider per file",
    "ingest/webhooks/qstash": "one provider per file",
    "ingest/webhooks/slack": "one provider per file",
    "ingest/webhooks/stripe": "one provider per file",
    "model/audience": "the one predicate that decides who receives an event, for model, security and delivery",
    "monitoring/prometheus": "the only module that imports prometheus-client",
    "primitives/aws_clients": "boto3 for three rooms, imported on first use",
    "primitives/backoff": "one concept, used by three rooms",
    "primitives/throttled_log": "one concept, used by three rooms",
    "primitives/token_bucket": "one concept, used by delivery and a transport",
    "security/publish_keys": "the comparison of publish keys in constant time, for two functions",
    "security/signed_rewrites": "one credential per file",
    "tools/cli/migrate": "one command per file; the only command that imports an adapter",
    "tools/cli/webhook": "one command per file",
}
"""The modules of the core below `MINIMUM_LINES`, each with its reason."""


def python_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.py") if "node_modules" not in path.parts)


def lines(path: Path) -> int:
    return path.read_text().count("\n")


@pytest.mark.parametrize("folder", [CORE, TESTS], ids=["core", "tests"])
def test_no_file_is_too_long(folder: Path) -> None:
    assert [str(path.relative_to(ROOT)) for path in python_files(folder) if lines(path) > MAXIMUM_LINES] == []


def test_each_small_module_has_a_reason() -> None:
    """A package's `__init__` is not counted: it holds a docstring, or the names that the package exports."""
    small = {
        path.relative_to(CORE).with_suffix("").as_posix()
        for path in python_files(CORE)
        if path.name != "__init__.py" and lines(path) < MINIMUM_LINES
    }
    assert small == SMALL.keys()


def test_no_test_name_is_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in python_files(TESTS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > MAXIMUM_NAME
    ]
    assert long == []
