"""EventBridge: a way to the log, for publishers that must not know where it is.

`publish` puts the events on a bus. A rule of the bus hands them to functions/receive.py, and that appends them to the
log that streams read. So this is no `Log`, and nothing can be read from it: a process with streams names its log.
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

MAX_ENTRIES = 10  # of one PutEvents
MAX_REQUEST_BYTES = 1024 * 1024 - 1
"""Of all entries of one PutEvents: less than 1 MB (EventBridge API reference, PutEvents; before 2026 it was 256 KB)."""

ROUNDS = 4  # an entry that the bus could not take is sent so often in all
RETRYABLE = frozenset({"InternalFailure", "InternalException", "ThrottlingException", "ServiceUnavailable"})
"""What the bus may say of one entry and not mean for good (API reference of PutEventsResultEntry)."""

Entry = Mapping[str, str]


class EventBridge:
    """A `Transport` that carries events to a bus, and from there on cannot see them."""

    def __init__(self, bus_name: str, source: str, region: str | None = None) -> None:
        self._bus = bus_name
        self._source = source
        self._region = region
        self._client: Any = None
        self._making = asyncio.Lock()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Put all events on the bus; `positions` is None, for the log is not here.

        An entry that the bus could not take is sent again. Where some are left in the end, TransportUnavailable says
        of each why; all others are on the bus. Raises ContentTooLarge before anything is sent.
        """
        entries = [self._entry(event) for event in events]
        for index, entry in enumerate(entries):
            if size_of(entry) > MAX_REQUEST_BYTES:
                raise ContentTooLarge(
                    "EventBridge takes less than 1 MB at once, the users and attributes of an event included",
                    [(_pointer(index, events), f"has {size_of(entry):,} bytes on the bus")],
                )
        failed = await self._put_all(entries)
        if failed:
            codes = ", ".join(sorted(set(failed.values())))
            raise TransportUnavailable(
                f"EventBridge has not taken {len(failed)} of {len(events)} events ({codes})",
                errors=[(_pointer(index, events), code) for index, code in sorted(failed.items())],
            )
        return [Receipt(event.id, None) for event in events]

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_Deaf"]:
        """Open a tail that hears nothing: to read, name the log that functions/receive.py writes."""
        yield _Deaf()

    async def ping(self) -> None:
        """Return if the bus is there; raises TransportUnavailable."""
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
        """Put the entries; return by its index AWS's code for each that the bus has not taken."""
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
                except TransportUnavailable as error:  # after retries of its own: the next request would fare no better
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
        results = zip(batch, answer["Entries"], strict=True)  # as many, and in the same order
        return {index: result["ErrorCode"] for index, result in results if result.get("ErrorCode")}

    async def _call(self, operation: str, **arguments: Any) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(aws_clients.client, "events", self._region)
        try:
            return await asyncio.to_thread(getattr(self._client, operation), **arguments)
        except aws_clients.failures() as error:
            raise TransportUnavailable(f"EventBridge cannot be used now ({aws_clients.code(error)})") from error


class _Deaf:
    """The tail of a bus that this process is no target of."""

    running = False

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None]:
        """Refuse: whatever is published would never arrive."""
        return _refuse()

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Nothing was followed."""


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
    raise TransportUnavailable("Events leave here by EventBridge and cannot be read: streams read the log behind it")


def _code(error: TransportUnavailable) -> str:
    return aws_clients.code(error.__cause__ if isinstance(error.__cause__, Exception) else error)


def _pointer(index: int, events: Sequence[Event]) -> str:
    return f"/{index}" if len(events) > 1 else ""
