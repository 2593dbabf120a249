"""`tidewire tail`: live events."""

import asyncio
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import click

from tidewire.client.items import Item, State
from tidewire.tools.cli.output import console, is_terminal, json_option, note, plain, row, show
from tidewire.tools.cli.server import filter_options, token_option, url_option

MAX_ROWS = 200  # of a tall terminal


@click.command(
    epilog="""\b
Examples:
  tidewire tail
  tidewire tail --types task-updated,deploy-ready --from earliest
  tidewire tail --user u1 --json | jq .data
  tidewire tail --count 1 --json"""
)
@filter_options
@click.option("--from", "start", default="now", show_default=True, help="now, earliest, or an RFC 3339 time.")
@click.option("--count", type=click.IntRange(1), help="Stop after this many events.")
@url_option
@token_option
@json_option
def command(
    types: str,
    user: str | None,
    cursor: str,
    start: str,
    count: int | None,
    url: str,
    token: str | None,
    as_json_: bool,
) -> None:
    """Follow events live. A lost connection is resumed; lost events are shown as a gap.

    On a terminal, the events are shown in a table; otherwise, each event is one line. Connection states go to stderr.
    """
    view = _Table(url) if is_terminal() and not as_json_ else _Lines(as_json_)
    query = {"types": [name for name in types.split(",") if name], "user_id": user, "start": start, "cursor": cursor}
    with view:
        asyncio.run(_follow(f"{url}/api/events", token or "", view, count, query))


async def _follow(url: str, token: str, view: "_Lines | _Table", count: int | None, query: dict[str, Any]) -> None:
    from tidewire.client import Event, subscribe

    async with subscribe(url, token, on_state=view.state, **query) as subscription:
        received = 0
        async for item in subscription:
            view.item(item)
            received += isinstance(item, Event)
            if received == count:
                return


def describe(state: State) -> str:
    """Return a state as one line."""
    match state.name:
        case "live":
            what = f"live, {state.replayed:,} replayed" + (
                "" if state.mode == "stream" else ", polling: streams do not get through"
            )
        case "waiting":
            detail = f" ({state.detail})" if state.detail else ""
            what = f"{state.reason}{detail}; retrying in {state.delay:.1f} s"
        case name:
            what = name
    return plain(what)


class _Lines(AbstractContextManager["_Lines"]):
    """One line per event."""

    def __init__(self, as_json_: bool) -> None:
        self._as_json = as_json_

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def item(self, item: Item) -> None:
        show(item, self._as_json)

    def state(self, state: State) -> None:
        if state.name in ("live", "waiting"):
            note(f"tidewire: {describe(state)}")


class _Table(AbstractContextManager["_Table"]):
    """A live table of the latest events, as high as the terminal, with the connection state below."""

    def __init__(self, url: str) -> None:
        from rich.live import Live

        self._console = console()
        self._url = url
        self._rows: deque[tuple[str, str, str]] = deque(maxlen=MAX_ROWS)
        self._count = 0
        self._state = "connecting"
        self._live = Live(console=self._console, get_renderable=self._render, screen=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.refresh()  # shows the events since the last refresh
        self._live.__exit__(kind, error, trace)

    def item(self, item: Item) -> None:
        self._rows.append(row(item))
        self._count += 1

    def state(self, state: State) -> None:
        self._state = describe(state)

    def _render(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        height = max(1, self._console.height - 5)
        table = Table(
            expand=True, caption=Text(f"{self._url}  {self._state}  {self._count:,} received  Ctrl-C to stop")
        )
        table.add_column("time (UTC)", width=12, no_wrap=True)
        table.add_column("type", ratio=1, no_wrap=True)
        table.add_column("data", ratio=4, no_wrap=True, overflow="ellipsis")
        for time, type, data in list(self._rows)[-height:]:
            table.add_row(Text(time), Text(type), Text(data[:2_000]))
        return table
