"""docs/security.md: every row names at least one test, and every named test exists."""

import ast
import re

from tests.support.processes import ROOT

DOCUMENT = ROOT / "docs" / "security.md"
ROW = re.compile(r"^\| (?P<threat>[^|]+) \| (?P<answer>[^|]+) \| (?P<tests>[^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str]]:
    """Threat and tests of each row."""
    found = [(row["threat"].strip(), row["tests"]) for row in ROW.finditer(DOCUMENT.read_text())]
    return [row for row in found if row[0] != "Threat" and not set(row[0]) <= set("-: ")]


def test_every_row_names_tests_that_exist() -> None:
    assert len(rows()) >= 25
    for threat, tests in rows():
        named = NAMED.findall(tests)
        assert named, f"no test is named for: {threat}"
        assert NAMED.sub("", tests).replace(",", "").strip() == "", f"unexpected text: {tests}"
        for path, name in named:
            file = ROOT / path
            assert file.is_file(), f"{path} is named for: {threat}"
            functions = {
                node.name
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in functions, f"{path} has no {name}, which is named for: {threat}"


def test_every_category_of_owasp_has_a_row() -> None:
    text = DOCUMENT.read_text()
    for number in range(1, 11):
        assert f"API{number}:2023" in text
