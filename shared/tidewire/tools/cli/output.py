"""Output and exit codes: JSON for programs, rich tables on a terminal, plain lines elsewhere."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from tidewire.client.items import Item

FAILED = 1  # the command ran and failed: a refusal, or a check that did not pass
CANNOT_START = 2  # wrong usage, a wrong or missing setting, or a database that `migrate` cannot use
UNREACHABLE = 3  # no response now: the same command may succeed later
INTERRUPTED = 130  # Ctrl-C, as in shells

_Function = TypeVar("_Function", bound=Callable[..., Any])

# C0, DEL, C1, line separators, and marks that change the direction of text: text from a server must not move the
# cursor, set the terminal's title or disguise itself.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Failed(click.ClickException):
    """Ends the command with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def json_option(function: _Function) -> _Function:
    """Add `--json`, passed to the command as `as_json_`."""
    option = click.option("--json", "as_json_", is_flag=True, help="Print JSON, one object per line.")
    return option(function)


def as_json(value: object) -> None:
    """Print a value as one line of JSON, unbuffered: a program may wait for it."""
    import msgspec

    click.echo(msgspec.json.encode(value))


def plain(text: str) -> str:
    """Return the text without control characters that a terminal would obey."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def note(text: str) -> None:
    """Print a note to stderr, away from the output that a program reads."""
    click.echo(plain(text), err=True)


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> "Console":
    """Return a rich console. Raises Failed if rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        raise Failed(
            "rich is not installed: pip install -r requirements-cli.txt, or use --json", CANNOT_START
        ) from None
    return Console(stderr=stderr, highlight=False, markup=False)


def show(item: "Item", as_json_: bool) -> None:
    """Print an event or a gap as one line."""
    from tidewire.client.items import Gap

    if as_json_:
        as_json(fields(item))
    elif isinstance(item, Gap):
        click.echo(f"gap: {plain(item.reason)}: events are lost; reload the state that they would have changed")
    else:
        click.echo(plain(f"{item.time or '-'}  {item.type}  {item.raw}"))


def fields(item: "Item") -> dict[str, Any]:
    """Return the JSON fields of an event, with its data unchanged, or of a gap."""
    import msgspec

    from tidewire.client.items import Gap

    if isinstance(item, Gap):
        return {"gap": item.reason, "cursor": item.cursor}
    event = {"id": item.id, "type": item.type, "time": item.time, "source": item.source, **item.attributes}
    return {**event, "data": msgspec.Raw(item.raw.encode()), "cursor": item.cursor}


def row(item: "Item") -> tuple[str, str, str]:
    """Return the table row of an event or a gap: time, type, data."""
    from tidewire.client.items import Event

    if isinstance(item, Event):
        return plain((item.time or "")[11:23]), plain(item.type), plain(item.raw)
    return "", "gap", f"events are lost: {plain(item.reason)}"
