"""`tidewire history`: what the log holds, page by page, and an end."""

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from tidewire.client.items import Gap, Item
from tidewire.tools.cli.exits import FAILED, Failed
from tidewire.tools.cli.following import filter_options, row, show
from tidewire.tools.cli.output import console, is_terminal, json_option
from tidewire.tools.cli.server import ask, connect, expect, token_option, url_option


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
    "--limit", type=click.IntRange(0), default=1_000, show_default=True, help="Most events; 0: all there are."
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
    """Show what the log holds for this subscriber, oldest first, and end."""
    query = {"format": "cloudevents", "types": types, "userId": user or "", "from": start}
    with connect(url, token) as http:
        items = _limited(_pages(http, {name: value for name, value in query.items() if value}, cursor), limit)
        if is_terminal() and not as_json_:
            _show_table(items)
        else:
            for item in items:
                show(item, as_json_)


def _pages(http: Any, query: dict[str, str], cursor: str) -> Iterator[Item]:
    """Yield what is there, up to the head of now. Raises Failed."""
    from tidewire.client.answers import Page, event_of

    while True:
        place = {"last_event_id": cursor} if cursor else {}
        headers = {"accept": "application/json"}
        response = expect(ask(http, "GET", "/api/events", params={**query, **place}, headers=headers), 200)
        try:
            page = msgspec.json.decode(response.content, type=Page)
            last = len(page.events) - 1  # only a page's end has a cursor; within it, its start loses nothing
            events = [
                event_of(bytes(text), page.cursor if index == last else cursor, True)
                for index, text in enumerate(page.events)
            ]
        except msgspec.DecodeError:
            raise Failed("the answer is no page of events; is --url right?", FAILED) from None
        if page.gap is not None:
            yield Gap(page.gap.reason, cursor)
        cursor = page.cursor
        yield from events
        if not events and page.gap is None and page.complete:
            return


def _limited(items: Iterator[Item], limit: int) -> Iterator[Item]:
    seen = 0
    for item in items:
        yield item
        seen += not isinstance(item, Gap)
        if limit and seen == limit:
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
