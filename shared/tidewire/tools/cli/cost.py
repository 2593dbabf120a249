"""`tidewire cost`: the estimated monthly cost per mode, line by line, and when another mode is cheaper."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tidewire.tools.cli.output import CANNOT_START, Failed, as_json, console, is_terminal, json_option

try:
    from tidewire.tools.cost.break_even import AXES, Axis, Crossover, Range, Search, cheapest, compare
    from tidewire.tools.cost.modes import MODES, Estimate, Mode
    from tidewire.tools.cost.prices import TABLE, Prices, load
    from tidewire.tools.cost.workload import LIMITS, MAX_REQUEST_BYTES, TRANSPORTS, Workload
except ModuleNotFoundError as error:  # scripts/bundle.py leaves the model out
    if not (error.name or "").startswith("tidewire.tools.cost"):
        raise
    raise Failed("the bundle has no prices: run `tidewire cost` in the project's folder", CANNOT_START) from None

_Function = TypeVar("_Function", bound=Callable[..., Any])

NUMBERS: Mapping[str, str] = {
    "hours": "Connected hours of one user.",
    "sessions": "Times that one user opens the application.",
    "event_bytes": "Bytes of an event's data.",
    "batch": "Events of one publish request.",
    "memory": "MB of memory of a Lambda function.",
    "stream_seconds": "Lifetime of a stream on Lambda, in seconds (REALTIME_STREAM_SECONDS).",
    "request_ms": "Billed milliseconds of one short request.",
    "poll_every": "poll: seconds between a response and the next poll.",
    "poll_wait": "poll: seconds that a poll waits for an event.",
    "peak": "Connected users in the busiest hour, divided by the average.",
    "processes": "container: minimum number of tasks.",
    "streams": "container, managed: streams per process.",
    "partitions": "Event types with a partition of their own (REALTIME_PARTITIONS).",
    "shards": "User shards (REALTIME_USER_SHARDS).",
    "retention_hours": "Hours that the log keeps an event (REALTIME_RETENTION).",
    "nodes": "redis-cluster: nodes, half of them replicas.",
}
"""The help of the number options with a default."""


class Number(click.ParamType[float]):
    """A finite number within the limits of its field."""

    name = "number"

    def __init__(self, field: str, whole: bool) -> None:
        self._minimum, self._maximum = LIMITS[field]
        self._whole = whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; fails outside the limits."""
        try:
            number = int(value) if self._whole else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not self._minimum <= number <= self._maximum:
            kind = "a whole number" if self._whole else "a number"
            self.fail(f"must be {kind} from {self._minimum:,g} to {self._maximum:,.0f}", param, ctx)
        return number


def numbers(function: _Function) -> _Function:
    """Add an option for each of `NUMBERS`, with the default of `Workload`."""
    defaults = Workload(0, 0)
    for field, text in reversed(list(NUMBERS.items())):
        default = getattr(defaults, field)
        option = click.option(
            f"--{field.replace('_', '-')}",
            type=Number(field, isinstance(default, int)),
            default=f"{default:g}",
            show_default=True,
            help=text,
        )
        function = option(function)
    return function


@click.command(
    epilog="""\b
Examples:
  tidewire cost --users 1000 --events 1000000
  tidewire cost --users 1000 --events 1000000 --mode lambda --shards 256 --transport upstash-rest
  tidewire cost --users 1000 --events 1000000 --prices our-prices.toml --json"""
)
@click.option("--users", type=Number("users", True), required=True, help="Users per month.")
@click.option("--events", type=Number("events", True), required=True, help="Events published in a month.")
@click.option("--mode", type=click.Choice(MODES), help="The mode to show line by line.  [default: the cheapest]")
@click.option(
    "--delivered",
    type=Number("delivered", False),
    help="Events per month that one user receives.  [default: each event is for one user]",
)
@numbers
@click.option("--transport", type=click.Choice(TRANSPORTS), default="redis-tcp", show_default=True, help="The log.")
@click.option("--rate-limited", is_flag=True, help="Publish keys have a rate (REALTIME_PUBLISH_RATE).")
@click.option("--bus", is_flag=True, help="Publishers use EventBridge.")
@click.option("--netlify", is_flag=True, help="Publishers and polls go through Netlify.")
@click.option("--no-free-tier", is_flag=True, help="Ignore the free tiers: the account uses them elsewhere.")
@click.option("--prices", type=click.Path(path_type=Path), default=TABLE, help="Your own price table.")
@click.option("--region", help="Fail if the price table is for another region.")
@json_option
def command(
    users: int,
    events: int,
    mode: Mode | None,
    delivered: float | None,
    no_free_tier: bool,
    prices: Path,
    region: str | None,
    as_json_: bool,
    **options: Any,
) -> None:
    """Estimate the monthly cost of each mode, and find the cheapest.

    lambda: one function environment per stream. managed: Lambda Managed Instances, many streams per process.
    container: Fargate or similar. poll: short functions, no streams.
    """
    if delivered is None:
        delivered = events / users if users else 0.0
    elif delivered > events:
        raise click.BadParameter(f"must be at most --events, {events:,}", param_hint="--delivered")
    workload = Workload(users, events, delivered, **options)
    if workload.poll_every + workload.poll_wait < 1:
        raise click.BadParameter("must be at least 1, added to --poll-wait", param_hint="--poll-every")
    if workload.batch * workload.event_bytes > MAX_REQUEST_BYTES:
        raise click.BadParameter(
            f"must be at most {MAX_REQUEST_BYTES // workload.event_bytes:,}: a request has at most 1 MiB, and an event"
            f" {workload.event_bytes:,} bytes (--event-bytes)",
            param_hint="--batch",
        )
    table = load(prices, free_tiers=not no_free_tier)
    if region is not None and region != table.region:
        raise click.BadParameter(
            f"must be {table.region}, the region of the prices; for another region use your own table with --prices",
            param_hint="--region",
        )
    found = compare(workload, table)
    minimum = cheapest({name: estimate.total for name, estimate in found.items()})
    searches = {axis: Search(workload, table, axis) for axis in AXES}
    changes = {axis: (search.ranges(), search.crossovers()) for axis, search in searches.items()}
    if as_json_:
        as_json(_fields(workload, table, found, mode or minimum, minimum, changes))
    else:
        _show(workload, table, found, mode or minimum, minimum, changes)


_Changes = Mapping[Axis, tuple[list[Range], list[Crossover]]]


def _fields(
    workload: Workload, table: Prices, found: Mapping[Mode, Estimate], mode: Mode, minimum: Mode, changes: _Changes
) -> dict[str, Any]:
    """Return the fields of the JSON output."""
    lines = [
        {
            "price": line.key,
            "title": line.title,
            "quantity": line.quantity,
            "unit": line.unit,
            "cost": line.cost,
            "source": table.source(line.key),
        }
        for line in found[mode].lines
    ]
    return {
        "prices": {"date": table.date, "currency": table.currency, "region": table.region},
        "workload": workload,
        "mode": mode,
        "lines": lines,
        "total": found[mode].total,
        "notes": found[mode].notes,
        "totals": {name: estimate.total for name, estimate in found.items()},
        "cheapest": minimum,
        "tips": {axis: {"cheapest": ranges, "cheaper": crossovers} for axis, (ranges, crossovers) in changes.items()},
    }


def _show(
    workload: Workload, table: Prices, found: Mapping[Mode, Estimate], mode: Mode, minimum: Mode, changes: _Changes
) -> None:
    """Print the lines of a mode, the totals, and the points at which the cheapest mode changes."""
    estimate = found[mode]
    rows = [(line.title, _quantity(line.quantity), line.unit, f"{line.cost:,.2f}") for line in estimate.lines]
    _table(
        f"{mode}: {table.currency} per month, at the prices of {table.date} for {table.region}",
        ("", ">", "", ">"),
        [*rows, ("total", "", "", f"{estimate.total:,.2f}")],
    )
    for note in estimate.notes:
        click.echo(f"- {note}")
    click.echo()
    totals = [(name, f"{other.total:,.2f}", "cheapest" if name == minimum else "") for name, other in found.items()]
    _table("each mode", ("", ">", ""), totals)
    for axis, (ranges, crossovers) in changes.items():
        click.echo()
        rest = f"{workload.events:,} events" if axis == "users" else f"{workload.users:,} users"
        _table(f"break-even by {axis}, with {rest}", ("", ""), [_cheapest_row(ranges), *_crossover_rows(crossovers)])
    click.echo()
    click.echo("Check the prices before you rely on them: docs/cost.md names their sources.")


def _cheapest_row(ranges: list[Range]) -> tuple[str, str]:
    return "cheapest", ", ".join(f"{found.mode} from {found.start:,}" for found in ranges)


def _crossover_rows(crossovers: list[Crossover]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for mode in MODES:
        own = sorted((found for found in crossovers if found.mode == mode), key=lambda found: (found.at, found.other))
        cheaper = ", ".join(f"{found.other} from {found.at:,}{_to(found.until)}" for found in own)
        rows.append((mode, f"costs more than {cheaper}" if cheaper else "never costs more than another mode"))
    return rows


def _to(until: int | None) -> str:
    return "" if until is None else f" to {until:,}"


def _quantity(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:,.2f}"


def _table(title: str, sides: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns; `>` right-aligns a column."""
    if is_terminal():
        from rich.table import Table
        from rich.text import Text

        terminal = console()
        table = Table(title=title, title_justify="left", show_header=False)
        for side in sides:
            table.add_column(justify="right" if side else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        terminal.print(table)
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(sides))]
    click.echo(title)
    for row in rows:
        cells = [f"{cell:{side or '<'}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
        click.echo(f"  {'  '.join(cells)}".rstrip())
