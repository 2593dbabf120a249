"""`tidewire doctor`: checks a deployment from outside (shared/tidewire/tools/doctor)."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from tidewire.tools.cli.output import FAILED, as_json, console, is_terminal, json_option, plain
from tidewire.tools.cli.server import key_option, token_option, url_option

if TYPE_CHECKING:
    from tidewire.tools.doctor import Deployment, Finding

    Report = Callable[[Finding], None]

_WORDS = {"ok": "ok", "warn": "WARN", "fail": "FAIL", "skip": "skip"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


@click.command(
    epilog="""\b
Examples:
  tidewire doctor
  tidewire doctor --url https://app.example.com --origin https://app.example.com
  tidewire doctor --json | jq 'select(.verdict == "fail")'"""
)
@click.option("--origin", callback=lambda *given: _origin(given[2]), help="The origin of the page that subscribes.")
@click.option(
    "--samples", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Events of the latency check."
)
@click.option(
    "--timeout", type=click.FloatRange(0.1, 60), default=10, show_default=True, help="Seconds to wait for a response."
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(0.1, 60),
    default=15,
    show_default=True,
    help="The deployment's REALTIME_HEARTBEAT, in seconds.",
)
@url_option
@key_option
@token_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    origin: str | None,
    samples: int,
    timeout: float,
    heartbeat: float,
    url: str,
    key: str | None,
    token: str | None,
    as_json_: bool,
) -> int:
    """Check a deployment from outside: settings, reachability, clock, credentials, CORS, delivery, resume, latency.

    It publishes a few dozen events of the type `tidewire.doctor` for a user of its own. The exit code is 1 if a check
    failed; warnings do not count.
    """
    from tidewire.tools.doctor import Deployment, Limits

    limits = Limits(answer=timeout, heartbeat=heartbeat, samples=samples)
    given = context.get_parameter_source("url") is not click.core.ParameterSource.DEFAULT
    deployment = Deployment(url, key or None, token or None, origin, limits, url_given=given)
    with ExitStack() as stack:
        report = as_json if as_json_ else _terminal(stack) if is_terminal() else _line
        verdicts = asyncio.run(_check(deployment, report))
    if not as_json_:
        click.echo(", ".join(f"{verdicts[verdict]} {word}" for verdict, word in _WORDS.items() if verdicts[verdict]))
    return FAILED if verdicts["fail"] else 0


async def _check(deployment: "Deployment", report: "Report") -> Counter[str]:
    from tidewire.tools.doctor import run_checks

    verdicts: Counter[str] = Counter()
    async with deployment:
        async for finding in run_checks(deployment):
            verdicts[finding.verdict] += 1
            report(finding)
    return verdicts


def _line(finding: "Finding") -> None:
    click.echo(plain(f"{_WORDS[finding.verdict]:4}  {finding.check:17}  {finding.reason}"))
    if finding.advice:
        click.echo(plain(f"{'':4}  {'':17}  > {finding.advice}"))


def _terminal(stack: ExitStack) -> "Report":
    """Return a function that prints a finding in columns. A spinner runs until the stack is closed."""
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    stack.enter_context(terminal.status("checking"))

    def report(finding: "Finding") -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=4)
        grid.add_column(width=17)
        grid.add_column(overflow="fold")
        style = _STYLES[finding.verdict]
        grid.add_row(Text(_WORDS[finding.verdict], style), Text(finding.check), Text(plain(finding.reason)))
        if finding.advice:
            grid.add_row("", "", Text(plain(f"> {finding.advice}"), "dim"))
        terminal.print(grid)

    return report


def _origin(value: str | None) -> str | None:
    import httpx

    if value is None:
        return None
    try:
        parts = httpx.URL(value)
        is_exact = bool(parts.host) and value in (f"{scheme}://{parts.netloc.decode()}" for scheme in ("http", "https"))
    except httpx.InvalidURL:
        is_exact = False
    if not is_exact:
        raise click.BadParameter("must be an exact origin, such as https://app.example.com")
    return value
