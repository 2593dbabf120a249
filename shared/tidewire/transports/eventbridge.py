"""EventBridge: a way to the log for publishers that have no access to it.

`publish` puts the events on a bus. A rule of the bus invokes functions/receive.py, which appends them to the log that
streams read. So this is not a `Log`, and nothing can be read from it: a process with streams needs the log itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tidewire.errors import ContentTooLarge, TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.primitives import aws_clients
from tidewire.primitives.backoff import Backoff
from tidewire.protocol import eventbridge_event
from tidewire.transports.base import Handler, Receipt

MAX_ENTRIES = 10  # per PutEvents
MAX_REQUEST_BYTES = 1024 * 1024 - 1
"""Of all entries of a PutEvents: less than 1 MB (EventBridge API reference, PutEvents; before 2026 it was 256 KB)."""

ROUNDS = 4  # how often an entry is sent that the bus does not accept
RETRYABLE = frozenset({"InternalFailure", "InternalException", "ThrottlingException", "ServiceUnavailable"})
"""Temporary error codes of one entry (API reference of PutEventsResultEntry)."""

Entry = Mapping[str, str]


class EventBridge:
    """A `Transport` that puts events on a bus, and does not see them again."""

    def __init__(self, bus_name: str, source: str, region: str | None = None) -> None:
        self._bus = bus_name
        self._source = source
        self._region = region
        self._client: Any = None
        self._making = asyncio.Lock()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Put all events on the bus; `positions` is None, since the log is elsewhere.

        An entry that the bus does not accept is sent again. If some are left in the end, TransportUnavailable names the
        code of each; all others are on the bus. Raises ContentTooLarge before anything is sent.
        """
        entries = [self._entry(event) for event in events]
        for index, entry in enumerate(entries):
            if size_of(entry) > MAX_REQUEST_BYTES:
                raise ContentTooLarge(
                    "EventBridge accepts less than 1 MB per request, including the users and attributes of an event",
                    [(_pointer(index, events), f"has {size_of(entry):,} bytes on the bus")],
                )
        failed = await self._put_all(entries)
        if failed:
            codes = ", ".join(sorted(set(failed.values())))
            raise TransportUnavailable(
                f"EventBridge did not accept {len(failed)} of {len(events)} events ({codes})",
                errors=[(_pointer(index, events), code) for index, code in sorted(failed.items())],
            )
        return [Receipt(event.id, None) for event in events]

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_NoTail"]:
        """Open a tail that follows nothing: streams read the log to which functions/receive.py appends."""
        yield _NoTail()

    async def ping(self) -> None:
        """Return if the bus exists; raises TransportUnavailable."""
        name = {} if self._bus == "default" else {"Name": self._bus}
        await self._call("describe_event_bus", **name)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._client is not None:
            self._client.close()

    def _entry(self, event: Event) -> Entry:
        return {
            "Source": self._source,
            "DetailType": event.type,
            "Detail": eventbridge_event.to_detail(event),
            "EventBusName": self._bus,
        }

    async def _put_all(self, entries: Sequence[Entry]) -> dict[int, str]:
        """Put the entries; return AWS' code by index for each that the bus has not accepted."""
        backoff = Backoff(base=0.1, cap=1.0)
        left = dict(enumerate(entries))
        codes: dict[int, str] = {}
        for again in range(ROUNDS):
            if again:
                await asyncio.sleep(backoff.next())
            unsent = dict(left)
            for batch in tuple(batches(left)):
                try:
                    failed = await self._put(batch)
                except TransportUnavailable as error:  # after botocore's own retries: another request would fail too
                    return codes | dict.fromkeys(unsent, _code(error))
                for index in batch:
                    del unsent[index]
                    codes.pop(index, None)
                codes |= failed
            left = {index: entry for index, entry in left.items() if codes.get(index) in RETRYABLE}
            if not left:
                break
        return codes

    async def _put(self, batch: Mapping[int, Entry]) -> dict[int, str]:
        answer = await self._call("put_events", Entries=list(batch.values()))
        results = zip(batch, answer["Entries"], strict=True)  # AWS returns one per entry, in the same order
        return {index: result["ErrorCode"] for index, result in results if result.get("ErrorCode")}

    async def _call(self, operation: str, **arguments: Any) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(aws_clients.client, "events", self._region)
        try:
            return await asyncio.to_thread(getattr(self._client, operation), **arguments)
        except aws_clients.failures() as error:
            raise TransportUnavailable(f"EventBridge cannot be used now ({aws_clients.code(error)})") from error


class _NoTail:
    """The tail of a bus that has no target in this process."""

    running = False

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None]:
        """Refuse: no event would ever arrive."""
        return _refuse()

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Do nothing: no partition is followed."""


def size_of(entry: Entry) -> int:
    """Return the bytes of an entry as AWS counts them: Source, DetailType and Detail in UTF-8.

    (EventBridge user guide, "Calculating PutEvents event entry size"; Time and Resources count too, and are not sent.)
    """
    return sum(len(entry[name].encode()) for name in ("Source", "DetailType", "Detail"))


def batches(entries: Mapping[int, Entry]) -> Iterator[dict[int, Entry]]:
    """Yield the entries in as few requests as their number and size allow, in order."""
    batch: dict[int, Entry] = {}
    size = 0
    for index, entry in entries.items():
        more = size_of(entry)
        if batch and (len(batch) == MAX_ENTRIES or size + more > MAX_REQUEST_BYTES):
            yield batch
            batch, size = {}, 0
        batch[index] = entry
        size += more
    if batch:
        yield batch


async def _refuse() -> None:
    raise TransportUnavailable("EventBridge only carries events to the log behind the bus: read that log instead")


def _code(error: TransportUnavailable) -> str:
    return aws_clients.code(error.__cause__ if isinstance(error.__cause__, Exception) else error)


def _pointer(index: int, events: Sequence[Event]) -> str:
    return f"/{index}" if len(events) > 1 else ""
