"""`tidewire history`: the events in the log, page by page up to its head."""

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from tidewire.client.items import Gap, Item
from tidewire.tools.cli.output import FAILED, Failed, console, is_terminal, json_option, row, show
from tidewire.tools.cli.server import connect, expect, filter_options, request, token_option, url_option


@click.command(
    epilog="""\b
Examples:
  tidewire history
  tidewire history --from 2026-11-23T10:00:00Z --types task-updated --limit 20
  tidewire history --limit 0 --json > events.ndjson"""
)
@filter_options
@click.option("--from", "start", default="earliest", show_default=True, help="earliest, or an RFC 3339 time.")
@click.option(
    "--limit", type=click.IntRange(0), default=1_000, show_default=True, help="Maximum number of events; 0: all."
)
@url_option
@token_option
@json_option
def command(
    types: str,
    user: str | None,
    cursor: str,
    start: str,
    limit: int,
    url: str,
    token: str | None,
    as_json_: bool,
) -> None:
    """Print the events in the log for this subscriber, oldest first."""
    query = {"format": "cloudevents", "types": types, "userId": user or "", "from": start}
    with connect(url, token) as http:
        items = _limited(_pages(http, {name: value for name, value in query.items() if value}, cursor), limit)
        if is_terminal() and not as_json_:
            _show_table(items)
        else:
            for item in items:
                show(item, as_json_)


def _pages(http: Any, query: dict[str, str], cursor: str) -> Iterator[Item]:
    """Yield the events and gaps up to the current head. Raises Failed."""
    from tidewire.client.responses import Page, event_of

    while True:
        after = {"last_event_id": cursor} if cursor else {}
        headers = {"accept": "application/json"}
        response = expect(request(http, "GET", "/api/events", params={**query, **after}, headers=headers), 200)
        try:
            page = msgspec.json.decode(response.content, type=Page)
            last = len(page.events) - 1  # a page has one cursor, its end; an event within it gets the page's start
            events = [
                event_of(bytes(text), page.cursor if index == last else cursor, True)
                for index, text in enumerate(page.events)
            ]
        except msgspec.DecodeError:
            raise Failed("the response is not a page of events; is --url right?", FAILED) from None
        if page.gap is not None:
            yield Gap(page.gap.reason, cursor)
        cursor = page.cursor
        yield from events
        if not events and page.gap is None and page.complete:
            return


def _limited(items: Iterator[Item], limit: int) -> Iterator[Item]:
    count = 0
    for item in items:
        yield item
        count += not isinstance(item, Gap)
        if limit and count == limit:
            return


def _show_table(items: Iterator[Item]) -> None:
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    table = Table()
    for name in ("time (UTC)", "type", "data"):
        table.add_column(name, overflow="fold")
    with console(stderr=True).status("reading the log"):
        for item in items:
            table.add_row(*map(Text, row(item)))
    terminal.print(table)
