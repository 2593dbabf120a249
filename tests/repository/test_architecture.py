"""docs/architecture.md: its table of floors is generated, and the modules and tests that it names exist.

`python -m tests.repository.test_architecture` writes the table.
"""

import ast
import re
from itertools import groupby

from tests.repository.test_layers import CORE, FLOORS
from tests.support.processes import ROOT

DOCUMENT = ROOT / "docs" / "architecture.md"
TABLE = re.compile(r"(?<=<!-- floors -->\n).*?(?=<!-- /floors -->)", re.DOTALL)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NAMED_MODULE = re.compile(r"`(\w+(?:/\w+)+\.(?:py|lua|sql))`")


def table() -> str:
    """Return the floors from the top down, each with its rooms and their one-line docstrings."""
    rows = ["| floor | room | content |", "|---|---|---|"]
    by_floor = sorted(FLOORS, key=lambda name: (-FLOORS[name], name))
    for floor, rooms in groupby(by_floor, FLOORS.__getitem__):
        rows += [f"| {floor} | `{room}` | {_purpose(room)} |" for room in rooms]
    return "\n".join(rows) + "\n"


def _purpose(room: str) -> str:
    described = ast.get_docstring(ast.parse(CORE[f"tidewire.{room}"].read_text()))
    assert described is not None, room
    return described.splitlines()[0]


def test_the_table_of_floors_is_generated() -> None:
    """A new room, floor or purpose changes the document too."""
    assert TABLE.findall(DOCUMENT.read_text()) == [table()], "run `python -m tests.repository.test_architecture`"


def test_named_modules_exist() -> None:
    """A module that was renamed or merged is renamed in the document too."""
    named = NAMED_MODULE.findall(DOCUMENT.read_text())
    assert len(named) > 10
    folders = (ROOT, ROOT / "shared" / "tidewire")
    assert [name for name in named if not any((folder / name).is_file() for folder in folders)] == []


def test_named_tests_exist() -> None:
    """Each bound names the test that measures it."""
    named = NAMED_TEST.findall(DOCUMENT.read_text())
    assert len(named) > 10
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or not re.search(rf"def {name}\b", (ROOT / path).read_text())
    ]
    assert missing == []


if __name__ == "__main__":
    DOCUMENT.write_text(TABLE.sub(lambda _: table(), DOCUMENT.read_text()))
