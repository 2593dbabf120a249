"""How commands answer: JSON for programs, rich's tables and bars on a terminal, plain lines elsewhere."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tidewire.tools.cli.exits import CANNOT_START, Failed

if TYPE_CHECKING:
    from rich.console import Console

_Function = TypeVar("_Function", bound=Callable[..., Any])

# C0, DEL, C1, line separators, and marks that turn the direction of text around: what came from elsewhere
# must not move the cursor, set the title or disguise itself.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def json_option(function: _Function) -> _Function:
    """Add `--json`, which the command gets as `as_json_`."""
    option = click.option("--json", "as_json_", is_flag=True, help="Answer in JSON, one object a line.")
    return option(function)


def as_json(answer: object) -> None:
    """Write one answer as a line of JSON, and at once: a program may wait for it."""
    import msgspec

    click.echo(msgspec.json.encode(answer))


def plain(text: str) -> str:
    """Return the text without what a terminal would obey."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def note(text: str) -> None:
    """Tell the reader, not the program that reads the output."""
    click.echo(plain(text), err=True)


def is_terminal() -> bool:
    """Whether somebody looks at the output as it comes."""
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> "Console":
    """Return rich's console. Raises Failed where it is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        raise Failed(
            "rich is not installed: pip install -r requirements-cli.txt, or use --json", CANNOT_START
        ) from None
    return Console(stderr=stderr, highlight=False, markup=False)
