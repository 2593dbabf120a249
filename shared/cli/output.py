"""How commands answer: JSON for programs, rich's tables and bars on a terminal, plain lines elsewhere."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(function: _Function) -> _Function:
    """Add `--json`, which the command gets as `as_json_`."""
    option = click.option("--json", "as_json_", is_flag=True, help="Answer in JSON, one object a line.")
    return option(function)


def as_json(answer: object) -> None:
    """Write one answer as a line of JSON, and at once: a program may wait for it."""
    click.echo(msgspec.json.encode(answer))
