"""`tidewire migrate`: applies the missing migrations to the database of DATABASE_URL."""

import asyncio
import os

import click

from tidewire.tools.cli.output import CANNOT_START, Failed, as_json, json_option


@click.command(
    epilog="""\b
Examples:
  DATABASE_URL=postgres://… tidewire migrate
  tidewire migrate --json"""
)
@json_option
def command(as_json_: bool) -> None:
    """Update the Postgres schema of the log.

    Reads DATABASE_URL (or Netlify's variables) and REALTIME_PREFIX. Safe to repeat and to run concurrently.
    """
    from tidewire.errors import TransportUnavailable
    from tidewire.transports.postgres import migrations

    try:
        done = asyncio.run(migrations.apply_to(os.environ))
    except TransportUnavailable as error:
        raise Failed(error.detail, CANNOT_START) from None
    if as_json_:
        as_json({"applied": done})
    else:
        click.echo(migrations.report(done))
