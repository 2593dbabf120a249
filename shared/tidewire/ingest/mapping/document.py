"""A TOML document, checked whole: every problem is told with its line and its key, and never with a value."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, NoReturn

from tidewire.errors import SettingsError
from tidewire.ingest.mapping.lines import Path, lines_of

MAX_PROBLEMS = 20  # told at once
MAX_TOLD_KEY = 64  # characters of one key


DEFAULT_FILE = FilePath("realtime.toml")  # in the working directory: the root of a checkout, an image or a bundle
VARIABLE = "REALTIME_CONFIG"
SECTIONS = ("sources", "eventbridge")  # the tables at the top; each is read by the function that it is for


def open_document(config_file: str | None) -> "Document | None":
    """Return the document of `REALTIME_CONFIG`, or of `realtime.toml` beside the code, None where there is neither.

    Raises SettingsError.
    """
    path = DEFAULT_FILE if config_file is None else FilePath(config_file)
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
    """A document by its name; `section` gives the tables to read, and `finish` is the last call."""

    def __init__(self, name: str, text: str) -> None:
        """Parse; raises SettingsError where the text is not TOML."""
        self.name = name
        self._text = text
        self._problems: list[tuple[Path, str]] = []
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._refuse_syntax(str(error))
        except RecursionError:
            raise SettingsError(name, "is not valid TOML: nested too deeply") from None
        self.root = Table(self, (), content)
        self._lines: dict[Path, int] | None = None

    def section(self, name: str) -> "Table | None":
        """Return one of SECTIONS, None where it is not there; what is none of them is noted."""
        for known in SECTIONS:
            self.root.value(known)
        self.root.finish()
        return self.root.table(name)

    def line(self, path: Path) -> int:
        """Return the line of a key, or of what it is missing in."""
        if self._lines is None:  # a start without problems never looks
            self._lines = lines_of(self._text)
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def problem(self, path: Path, what: str) -> None:
        """Note that something is wrong there."""
        self._problems.append((path, what))

    def finish(self) -> None:
        """Raise SettingsError with every problem noted, in the order of their lines, if there is one."""
        told = sorted((self.line(path), f"{dotted(path)} {what}" if path else what) for path, what in self._problems)
        if not told:
            return
        (line, first), *others = told[:MAX_PROBLEMS]
        text = "".join([first, *(f"\n{self.name} line {line}: {what}" for line, what in others)])
        raise SettingsError(f"{self.name} line {line}", text)

    def _refuse_syntax(self, problem: str) -> NoReturn:
        # "… (at line 3, column 7)", or "(at end of document)"
        what, _, place = problem.partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = int(found[1]) if found else self._text.count("\n") + 1
        raise SettingsError(f"{self.name} line {line}", f"is not valid TOML: {what}")


class Table:
    """One table of a document; a key that nobody asked for is a problem, found by `finish`."""

    def __init__(self, document: Document, path: Path, content: Mapping[str, Any]) -> None:
        self.document = document
        self.path = path
        self._content = content
        self._asked: set[str] = set()

    @property
    def line(self) -> int:
        """The line on which this table stands."""
        return self.document.line(self.path)

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def problem(self, key: str | None, what: str) -> None:
        """Note that a key of this table, or the table itself, is wrong."""
        self.document.problem(self.path if key is None else (*self.path, key), what)

    def value(self, key: str) -> Any:
        """Return what stands there, None where nothing does."""
        self._asked.add(key)
        return self._content.get(key)

    def text(self, key: str, default: str | None = None, *, pattern: str = r"(?s).*", rule: str = "") -> str | None:
        """Return a text that matches `pattern` whole; `rule` says in words what that is. None where it is wrong."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            self.problem(key, f"must be {rule or 'a text'}")
            return None
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
        """Return one of `choices`; None where it is another one, or missing without a default."""
        value = self.value(key)
        if value is None and default is not None:
            return default
        if value not in choices:
            self.problem(key, f"{'is required:' if value is None else 'must be'} one of {', '.join(choices)}")
            return None
        return str(value)

    def texts(self, key: str, *, pattern: str, rule: str) -> tuple[str, ...]:
        """Return a list of one or more texts that each match `pattern`; empty where it is wrong."""
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
        """Return the table at this key, None where there is none."""
        value = self.value(key)
        if value is not None and not isinstance(value, dict):
            self.problem(key, "must be a table")
            return None
        return None if value is None else Table(self.document, (*self.path, key), value)

    def tables(self, key: str) -> list["Table"]:
        """Return the tables of the array at this key (`[[key]]`); none where there is none."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem(key, f"must be tables: [[{dotted((*self.path, key))}]]")
            return []
        return [Table(self.document, (*self.path, key, place), item) for place, item in enumerate(value)]

    def members(self) -> Iterator[tuple[str, "Table"]]:
        """Yield each key with its table: for tables whose keys are names."""
        for name in self._content:
            if (table := self.table(name)) is not None:
                yield name, table

    def finish(self) -> None:
        """Note every key that nobody asked for: a misspelt `userIds` would otherwise tell everyone."""
        for key in self._content.keys() - self._asked:
            self.problem(key, f"is unknown; known here: {', '.join(sorted(self._asked))}")


def dotted(path: Path) -> str:
    """Return a path as people write it: `sources.github.events[0].type`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:MAX_TOLD_KEY]!s}"
    return re.sub(r"[\x00-\x1f\x7f]", "?", text.removeprefix("."))
