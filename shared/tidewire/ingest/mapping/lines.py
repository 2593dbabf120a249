"""Where each key of a TOML document stands: tomllib tells values, and no lines."""

import tomllib
from typing import Any

Path = tuple[str | int, ...]  # names of keys, and places in arrays


def lines_of(text: str) -> dict[Path, int]:
    """Return the line (from 1) on which the key or header of each path stands; `text` must be valid TOML.

    A statement (a header, or a key with its value) is the least number of lines that tomllib takes by themselves: no
    statement is complete at a line's end before its own, because an open string, array or inline table is an error.
    """
    found: dict[Path, int] = {(): 1}
    header: Path = ()
    tables: dict[Path, int] = {}  # arrays of tables, and how many tables each has so far
    statement, began = "", 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not statement:
            began = number
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        opening = statement.lstrip()
        statement = ""
        if opening.startswith("["):
            header = _header(content, tables, opening.startswith("[["))
            _mark(found, header, began)
        else:
            _add(found, header, content, began)
    return found


def _header(content: Any, tables: dict[Path, int], is_array: bool) -> Path:
    """Return the path that a header opens: `[[a.b]]` is the next table of b, and `[a.b.c]` is in the last one."""
    path: Path = ()
    while isinstance(content, dict) and content:
        [(name, content)] = content.items()
        path += (name,)
        last = not isinstance(content, dict) or not content
        if last and is_array:
            tables[path] = tables.get(path, 0) + 1
        if path in tables:
            path += (tables[path] - 1,)
    return path


def _add(found: dict[Path, int], path: Path, content: Any, line: int) -> None:
    """Note the keys of a statement, those of its inline tables included."""
    if isinstance(content, dict):
        for name, value in content.items():
            _mark(found, (*path, name), line)
            _add(found, (*path, name), value, line)
    elif isinstance(content, list):
        for place, value in enumerate(content):
            _mark(found, (*path, place), line)
            _add(found, (*path, place), value, line)


def _mark(found: dict[Path, int], path: Path, line: int) -> None:
    for length in range(1, len(path) + 1):  # `[a.b]` is where a stands too, unless it stood before
        found.setdefault(path[:length], line)
