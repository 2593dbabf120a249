"""`tidewire webhook try`: the events that the rules of realtime.toml make of a payload."""

import os
from typing import BinaryIO

import click

EXAMPLES = """\b
Examples:
  tidewire webhook try stripe tests/payloads/stripe/payment_intent.succeeded.json
  tidewire webhook try github delivery.json --header 'X-GitHub-Event: issues'"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Try the rules of realtime.toml on a webhook's payload."""


@command.command("try", epilog=EXAMPLES)
@click.argument("source")
@click.argument("file", type=click.File("rb"))
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the delivery.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False), help="A file to use instead of REALTIME_CONFIG."
)
def try_(source: str, file: BinaryIO, headers: tuple[str, ...], config: str | None) -> None:
    """Show the events that a delivery of SOURCE would append, one JSON object per line.

    FILE holds the payload as the provider sent it; `-` is stdin. The command needs no secret, checks no signature and
    sends nothing. If a rule fails, the error names its key in realtime.toml.
    """
    import msgspec

    from tidewire.ingest.webhooks.sources import preview

    sent = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter("must be written 'Name: value'", param_hint="--header")
        sent[name.strip()] = value.strip()
    events = preview(config or os.environ.get("REALTIME_CONFIG") or None, source, file.read(), sent)
    if not events:
        click.echo("No rule matches this delivery: the server would answer 202 and append nothing.", err=True)
    for event in events:
        audience = {} if event.user_ids is None else {"userIds": event.user_ids}
        shown = {"id": event.id, "type": event.type, **audience, "data": msgspec.Raw(event.data)}
        click.echo(msgspec.json.encode(shown))
