"""A TOML document and its schema checks: collects every problem with the path of its key, never with a value."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tidewire.errors import SettingsError

MAX_PROBLEMS = 20  # in one error
MAX_KEY_CHARACTERS = 64  # of one key in an error

DEFAULT_FILE = Path("realtime.toml")  # in the working directory: the root of a checkout, an image or a bundle
VARIABLE = "REALTIME_CONFIG"
SECTIONS = ("sources", "eventbridge")  # the top-level tables; each function reads its own

KeyPath = tuple[str | int, ...]  # names of keys, and indexes of array items

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def open_document(config_file: str | None) -> "Document | None":
    """Return the document of `REALTIME_CONFIG`, or of `realtime.toml` in the working directory.

    None if the variable is unset and there is no such file. Raises SettingsError.
    """
    path = DEFAULT_FILE if config_file is None else Path(config_file)
    if config_file is None and not path.exists():
        return None
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise SettingsError(VARIABLE, f"names a file that cannot be read ({type(error).__name__})") from None
    except UnicodeDecodeError as error:
        raise SettingsError(VARIABLE, f"names a file that is not UTF-8 (at byte {error.start})") from None
    return Document(path.name, text)


class Document:
    """A named document. Read its tables from `root` or `section`, then call `finish` to raise the problems found."""

    def __init__(self, name: str, text: str) -> None:
        """Parse the text. Raises SettingsError if it is not TOML."""
        self.name = name
        self._problems: list[str] = []
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(name, f"is not valid TOML: {error}") from None  # its text ends with line and column
        except RecursionError:
            raise SettingsError(name, "is not valid TOML: nested too deeply") from None
        self.root = Table(self, (), content)

    def section(self, name: str) -> "Table | None":
        """Return one of SECTIONS, None if it is missing. Any other top-level key is a problem."""
        for known in SECTIONS:
            self.root.value(known)
        self.root.finish()
        return self.root.table(name)

    def problem(self, path: KeyPath, problem: str) -> None:
        """Record a problem of the key at `path`."""
        self._problems.append(f"{dotted(path)} {problem}")

    def finish(self) -> None:
        """Raise SettingsError with the problems recorded, one per line, in the order of the checks."""
        if self._problems:
            first, *others = self._problems[:MAX_PROBLEMS]
            raise SettingsError(self.name, "".join([first, *(f"\n{self.name}: {problem}" for problem in others)]))


class Table:
    """A table of a document. `finish` reports the keys that no check has read."""

    def __init__(self, document: Document, path: KeyPath, content: Mapping[str, Any]) -> None:
        self.document = document
        self.path = path
        self._content = content
        self._known: set[str] = set()

    @property
    def where(self) -> str:
        """The file and the path of this table: `realtime.toml: sources.github`."""
        return f"{self.document.name}: {dotted(self.path)}"

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def problem(self, key: str | None, problem: str) -> None:
        """Record a problem of a key, or of the table itself if `key` is None."""
        self.document.problem(self.path if key is None else (*self.path, key), problem)

    def value(self, key: str) -> Any:
        """Return the value of the key, None if it is missing."""
        self._known.add(key)
        return self._content.get(key)

    def text(self, key: str, default: str | None = None, *, pattern: str = r"(?s).*", rule: str = "") -> str | None:
        """Return a string that matches the whole `pattern`, which `rule` describes in words; None if it does not."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            self.problem(key, f"must be {rule or 'a string'}")
            return None
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
        """Return one of `choices`; None if the value is another one, or is missing and has no default."""
        value = self.value(key)
        if value is None and default is not None:
            return default
        if value not in choices:
            self.problem(key, f"{'is required:' if value is None else 'must be'} one of {', '.join(choices)}")
            return None
        return str(value)

    def texts(self, key: str, *, pattern: str, rule: str) -> tuple[str, ...]:
        """Return a list of one or more strings that match `pattern`; empty if it is anything else."""
        value = self.value(key)
        if value is None:
            self.problem(key, f"is required: {rule}")
        elif (
            not isinstance(value, list)
            or not value
            or not all(isinstance(item, str) and re.fullmatch(pattern, item, re.ASCII) for item in value)
        ):
            self.problem(key, f"must be {rule}")
        else:
            return tuple(value)
        return ()

    def table(self, key: str) -> "Table | None":
        """Return the table at this key, None if there is none."""
        value = self.value(key)
        if value is not None and not isinstance(value, dict):
            self.problem(key, "must be a table")
            return None
        return None if value is None else Table(self.document, (*self.path, key), value)

    def tables(self, key: str) -> list["Table"]:
        """Return the items of the array of tables at this key (`[[key]]`), empty if there is none."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem(key, f"must be an array of tables: [[{dotted((*self.path, key))}]]")
            return []
        return [Table(self.document, (*self.path, key, index), item) for index, item in enumerate(value)]

    def members(self) -> Iterator[tuple[str, "Table"]]:
        """Yield each key and its table, for a table whose keys are free names."""
        for name in self._content:
            if (table := self.table(name)) is not None:
                yield name, table

    def finish(self) -> None:
        """Report every key that no check has read: with a misspelt `userIds` the event would go to everyone."""
        for key in self._content:
            if key not in self._known:
                self.problem(key, f"is unknown; known keys: {', '.join(sorted(self._known))}")


def dotted(path: KeyPath) -> str:
    """Return a path as TOML writes it, with indexes from 0: `sources.github.events[0].type`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{_key(step)}" for step in path).removeprefix(".")


def _key(name: str) -> str:
    shown = _CONTROL.sub("?", name[:MAX_KEY_CHARACTERS])
    return shown if _BARE_KEY.fullmatch(shown) else f'"{shown}"'
