"""What `tail` and `history` share: which events, and how one looks."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tidewire.client.items import Event, Gap, Item
from tidewire.tools.cli.output import as_json, plain

_Function = TypeVar("_Function", bound=Callable[..., Any])


def filter_options(function: _Function) -> _Function:
    """Add `--types`, `--user` and `--cursor`."""
    for option in (
        click.option("--cursor", default="", help="Go on after this cursor."),
        click.option("--user", help="See what this user sees; only where authentication is off."),
        click.option("--types", default="", help="Event types, with commas between; without: all."),
    ):
        function = option(function)
    return function


def show(item: Item, as_json_: bool) -> None:
    """Write an item as one line."""
    if as_json_:
        as_json(fields(item))
    elif isinstance(item, Gap):
        click.echo(f"gap: {plain(item.reason)}: events are lost; what they would have changed may be stale")
    else:
        click.echo(plain(f"{item.time or '-'}  {item.type}  {item.raw}"))


def fields(item: Item) -> dict[str, Any]:
    """Return an item as JSON tells it, its data untouched."""
    import msgspec

    if isinstance(item, Gap):
        return {"gap": item.reason, "cursor": item.cursor}
    told = {"id": item.id, "type": item.type, "time": item.time, "source": item.source, **item.attributes}
    return {**told, "data": msgspec.Raw(item.raw.encode()), "cursor": item.cursor}


def row(item: Item) -> tuple[str, str, str]:
    """Return an item as a table's row: time, type, data."""
    if isinstance(item, Event):
        return plain((item.time or "")[11:23]), plain(item.type), plain(item.raw)
    return "", "gap", f"events are lost: {plain(item.reason)}"
