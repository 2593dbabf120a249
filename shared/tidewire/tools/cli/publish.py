"""`tidewire publish`: one event from the command line, or a file of events."""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from tidewire.client.retry import backoff, retry_after
from tidewire.model.event import new_id
from tidewire.tools.cli.output import UNREACHABLE, Failed, as_json, console, json_option
from tidewire.tools.cli.server import connect, expect, key_option, request, url_option

PATH = "/api/publish"
MAX_BATCH = 100  # events of one request, the protocol's maximum
MAX_BATCH_BYTES = 900 * 1024  # of the 1 MiB that a request may have
TRIES = 6  # of one batch, while the server is unavailable


@click.command(
    epilog="""\b
Examples:
  tidewire publish task-updated '{"id": 7}' --user u1 --user u2
  echo '{"id": 7}' | tidewire publish task-updated -
  tidewire publish --lines events.ndjson"""
)
@click.argument("type_", metavar="[TYPE]", required=False)
@click.argument("data", metavar="[DATA]", required=False)
@click.option("--user", "users", multiple=True, help="A user who receives it; repeatable. Default: everyone.")
@click.option("--id", "id_", help="The idempotency key: an id is appended once.")
@click.option("--text", is_flag=True, help="DATA is a string, not JSON.")
@click.option("--lines", type=click.File("rb"), help="Publish a file with one event in JSON per line; - is stdin.")
@url_option
@key_option
@json_option
def command(
    type_: str | None,
    data: str | None,
    users: tuple[str, ...],
    id_: str | None,
    text: bool,
    lines: IO[bytes] | None,
    url: str,
    key: str | None,
    as_json_: bool,
) -> None:
    """Publish an event of TYPE with DATA (JSON; - reads it from stdin), or a file of events with --lines."""
    with connect(url, key) as http:
        if lines is not None:
            if type_ is not None:
                raise click.UsageError("--lines takes neither TYPE nor DATA: each line has its own")
            _publish_lines(http, lines, as_json_)
            return
        if type_ is None or data is None:
            raise click.UsageError("give TYPE and DATA, or --lines FILE")
        if data == "-":
            data = sys.stdin.read()
        event: dict[str, Any] = {"type": type_, "data": _raw(data, text)}
        event.update({"userIds": users} if users else {}, **({"id": id_} if id_ else {}))
        response = expect(request(http, "POST", PATH, content=msgspec.json.encode(event), headers=_JSON), 202)
    for receipt in response.json()["events"]:
        if as_json_:
            as_json(receipt)
        else:
            duplicate = " (duplicate, not appended)" if receipt["duplicate"] else ""
            click.echo(f"published {receipt['id']}{duplicate}, cursor {receipt['cursor']}")


_JSON = {"content-type": "application/json"}


def _raw(data: str, text: bool) -> msgspec.Raw:
    """Return DATA as JSON text, with the digits of its numbers."""
    if text:
        return msgspec.Raw(msgspec.json.encode(data))
    try:
        # Invalid JSON could end the `data` field and start another field of the event.
        msgspec.json.decode(data, type=msgspec.Raw)
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise click.UsageError("DATA is not JSON: quote it for the shell, or use --text") from None
    return msgspec.Raw(data.strip().encode())


def _publish_lines(http: Any, lines: IO[bytes], as_json_: bool) -> None:
    """Publish in batches. Each event gets an id before it is sent, so that a retry appends nothing twice."""
    published = duplicates = 0
    name = getattr(lines, "name", "")
    size = Path(name).stat().st_size if Path(name).is_file() else None
    with _progress(size) as progress:
        for batch, read in _batches(lines):
            for receipt in _send(http, b"[" + b",".join(batch) + b"]"):
                published += 1
                duplicates += receipt["duplicate"]
            if progress is not None:
                progress.update(progress.task_ids[0], completed=read)
    if as_json_:
        as_json({"published": published, "duplicates": duplicates})
    else:
        click.echo(f"published {published:,} events, {duplicates:,} of them duplicates")


def _progress(size: int | None) -> Any:
    terminal = console(stderr=True) if sys.stderr.isatty() else None
    if terminal is None:
        return nullcontext(None)
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    bar = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=terminal, transient=True)
    bar.add_task("publishing", total=size)
    return bar


def _batches(lines: IO[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Yield batches within the server's limits, each with the bytes read so far. Raises Failed with the line."""
    batch: list[bytes] = []
    size = read = 0
    for number, line in enumerate(lines, 1):
        read += len(line)
        if not line.strip():
            continue
        try:
            fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError:
            raise Failed(f"line {number} is not an event in JSON; the batches before it are published") from None
        if bytes(fields.get("id", msgspec.Raw(b"null"))) == b"null":
            fields["id"] = msgspec.Raw(msgspec.json.encode(new_id()))
        event = msgspec.json.encode(fields)
        if batch and (len(batch) == MAX_BATCH or size + len(event) > MAX_BATCH_BYTES):
            yield batch, read
            batch, size = [], 0
        batch.append(event)
        size += len(event)
    if batch:
        yield batch, read


def _send(http: Any, body: bytes) -> list[dict[str, Any]]:
    """Return the receipts of a batch; retries while the server is unavailable."""
    for failures in range(TRIES):
        floor, last = 0.0, failures == TRIES - 1
        try:
            response = request(http, "POST", PATH, content=body, headers=_JSON)
        except Failed:
            if last:
                raise
        else:
            if last or response.status_code not in (429, 503):
                receipts: list[dict[str, Any]] = expect(response, 202).json()["events"]
                return receipts
            floor = retry_after(response.headers.get("retry-after"), time.time())
        time.sleep(backoff(failures, floor))
    raise Failed("the server is unavailable", UNREACHABLE)  # not reached: the last try returned or raised
