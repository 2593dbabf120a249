"""Reading the log for one reader: from its place to the head, in batches to its outlet.

A replay writes the gaps that `start_place` and the log (`tidewire.transports.log_base`) have found.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from tidewire.delivery.fanout import cursor_text
from tidewire.delivery.groups import Sink
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, encode_one
from tidewire.model.record import Gap, GapReason, Record
from tidewire.model.record_page import RecordPage
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.protocol.sse import DataFormat, Format
from tidewire.transports.base import Log

logger = logging.getLogger(__name__)
warnings = ThrottledLog(logger)  # of all readers: each tries again by itself

BATCH_BYTES = 64 * 1024  # of replayed frames per write; more would only fill the server's buffer
BATCH_ITEMS = 200  # records read before other tasks have their turn: a log in memory never waits by itself
SILENT = 1.0  # seconds in which all records may be for others; then the client is sent a heartbeat


class Stats(msgspec.Struct):
    """Counts of a hub's readers since its start."""

    replays: int = 0
    replayed: int = 0
    filtered: int = 0
    gaps: dict[GapReason, int] = {}
    slow: int = 0
    back_to_log: int = 0


class NotWritableError(Exception):
    """The outlet takes no more for now; it has taken everything that was written before."""

    def __init__(self, writable: Awaitable[None]) -> None:
        super().__init__()
        self.writable = writable


class Outlet(Protocol):
    """Where a replay writes to."""

    async def write(self, chunk: bytes, *, held: bool = False) -> None:
        """Take the bytes, and return once more may follow.

        `held`: a page of the log is in memory meanwhile; raises NotWritableError if the wait is long.
        """

    async def wait_until_writable(self, writable: Awaitable[None]) -> None:
        """Return once more may be written after a NotWritableError."""

    async def pause(self, seconds: float) -> None:
        """Return after so long, before the next try while the log is unavailable."""


class SinkIsFullError(Exception):
    """The sink takes no more, for good."""


class SinkOutlet:
    """The outlet of one read that ends once its sink is full."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def write(self, chunk: bytes, *, held: bool = False) -> None:
        """Take the bytes. Raises SinkIsFullError once nothing more is taken."""
        if self._sink.write(chunk) is not None:
            raise SinkIsFullError

    async def wait_until_writable(self, writable: Awaitable[None]) -> None:
        """Return once `writable` is done."""
        await writable

    async def pause(self, seconds: float) -> None:
        """Wait before the next try."""
        await asyncio.sleep(seconds)


class Place(msgspec.Struct):
    """Where a reader begins: `positions` of its `partitions`, and `until` where to read first.

    `gaps` are announced before anything else. `partitions` may hold more than the tail follows for the reader: those of
    a scheme that is no longer in use are read to their head, and then no more.
    """

    partitions: tuple[str, ...]
    positions: dict[str, Position]
    until: Cursor | None = None  # None: the heads have yet to be read
    gaps: Sequence[Gap] = ()


class Replay:
    """One reader's place in the log, and its way to the head.

    `positions` is the place up to which everything has been matched. No cursor is written before the events that it
    covers.
    """

    __slots__ = (
        "_format",
        "_interest",
        "_is_repetition",
        "_log",
        "_outlet",
        "_read_heads",
        "_stats",
        "events",
        "partitions",
        "positions",
        "recovered",
    )

    def __init__(
        self,
        log: Log | None,
        place: Place,
        outlet: Outlet,
        interest: Interest,
        format: Format,
        stats: Stats,
        read_heads: Callable[[Sequence[str]], Awaitable[Cursor]],
        is_repetition: Callable[[Record], bool] | None = None,
    ) -> None:
        """`read_heads` is where to read to after an interruption; it may raise TransportUnavailable.

        `is_repetition` is None unless an event can also reach the reader early, before the log holds it.
        """
        self.partitions = place.partitions
        self.positions = place.positions
        self.events = 0  # that were matched
        self.recovered = True  # no gap was announced
        self._log = log
        self._outlet = outlet
        self._interest = interest
        self._format = format
        self._stats = stats
        self._read_heads = read_heads
        self._is_repetition = is_repetition

    @property
    def cursor(self) -> str:
        """The place as cursor text."""
        return cursor_text(self.positions, self.partitions)

    async def run(self, until: Cursor | None = None) -> None:
        """Write everything from the place to the head, however long the log is unavailable meanwhile.

        The stream stays open: an EventSource gives up for good when a reconnection is refused, but it waits on a silent
        stream. While a client does not read, no page of the log is held for it: a thousand such clients would hold a
        thousand.
        """
        assert self._log is not None
        backoff = Backoff()
        while True:
            writable: Awaitable[None] | None
            try:
                if until is None:
                    until = await self._read_heads(self.partitions)
                await self._read(self._log, until)
                return
            except NotWritableError as full:
                writable = full.writable
            except TransportUnavailable as error:
                until = writable = None
                warnings.warn(f"replay interrupted, trying again: {error.detail}")
            # Not in an `except` clause: the traceback holds the frames of the read, and with them its page.
            if writable is not None:
                await self._outlet.wait_until_writable(writable)
            else:
                await self._outlet.pause(backoff.next())
                await self._outlet.write(self._format.heartbeat(self.cursor))

    def narrow_to(self, partitions: tuple[str, ...]) -> None:
        """Read only these partitions from now on."""
        if self.partitions != partitions:
            self.partitions = partitions
            self.positions = {name: at for name, at in self.positions.items() if name in partitions}

    def match(self, record: Record, frames: list[bytes]) -> int:
        """Move the place over a record, and add its frame if it is for the reader; a record from before is dropped.

        Returns the bytes added.
        """
        event, partition, position = record
        if position is not None:
            place = self.positions[partition]
            if (position.epoch == place.epoch and position.offset <= place.offset) or position.epoch < place.epoch:
                return 0
            self.positions[partition] = position
        if not self._interest.matches(event):
            self._stats.filtered += 1
            return 0
        if self._is_repetition is not None and self._is_repetition(record):
            return 0
        cursor = encode_one(partition, position) if position is not None and len(self.partitions) == 1 else self.cursor
        frame = self._format.record(cursor, record)
        frames.append(frame)
        self.events += 1
        self._stats.replayed += 1
        return len(frame)

    async def announce(self, gap: Gap) -> None:
        """Write a gap."""
        self.recovered = False
        self._stats.gaps[gap.reason] = self._stats.gaps.get(gap.reason, 0) + 1
        await self._outlet.write(self._format.gap(self.cursor, gap))

    async def flush(self, frames: list[bytes], *, held: bool = False) -> None:
        """Write the frames, and empty the list."""
        chunk = b"".join(frames)
        frames.clear()
        if chunk:
            await self._outlet.write(chunk, held=held)

    async def _read(self, log: Log, until: Cursor) -> None:
        self._stats.replays += 1
        async with aclosing(log.replay_pages(Cursor(self.positions), until)) as pages:
            await self._write_pages(pages)

    async def _write_pages(self, pages: AsyncIterator[Sequence[Record | Gap]]) -> None:
        frames: list[bytes] = []
        read = size = 0
        clock = asyncio.get_running_loop().time
        written_at = clock()
        async for page in pages:
            written = False
            if isinstance(page, RecordPage) and isinstance(self._format, DataFormat) and self._continues(page):
                written = await self._write_stored(page, self._format)
                await asyncio.sleep(0)
            else:
                for item in page:
                    if isinstance(item, Gap):
                        await self.flush(frames, held=True)
                        if item.position is not None:
                            self.positions[item.partition] = item.position
                        await self.announce(item)
                        continue
                    size += self.match(item, frames)
                    read += 1
                    if read == BATCH_ITEMS or size >= BATCH_BYTES:
                        await self._write_batch(frames)
                        read = size = 0
                        written = True
            if frames:  # the next page may be long in coming, or never come: the place is after them
                await self.flush(frames, held=True)
                read = size = 0
                written = True
            elif not written and clock() - written_at > SILENT:
                await self._write_batch(frames)
                written = True
            if written:
                written_at = clock()

    def _continues(self, page: RecordPage) -> bool:
        """Return whether a page may be written as it is stored: it begins at the place, and the cursor needs no more
        than its partition.
        """
        place = self.positions[page.partition]
        at_place = (page.epoch, page.first) == (place.epoch, place.offset + 1)
        return at_place and len(self.partitions) == 1 and self._is_repetition is None

    async def _write_stored(self, page: RecordPage, format: DataFormat) -> bool:
        """Write a page without making records of it; return whether there was anything for the reader."""
        indexes = page.matching(self._interest)
        self._stats.filtered += len(page) - len(indexes)
        batch = max(1, min(BATCH_ITEMS, len(page) * BATCH_BYTES // page.size))
        for start in range(0, len(indexes), batch):
            part = indexes[start : start + batch]
            self.positions[page.partition] = page.position(part[-1])
            self.events += len(part)
            self._stats.replayed += len(part)
            await self._outlet.write(b"".join(format.records(page, part)), held=True)
            await asyncio.sleep(0)
        self.positions[page.partition] = page.position(len(page) - 1)
        return bool(indexes)

    async def _write_batch(self, frames: list[bytes]) -> None:
        if not frames:  # all records were for others: the cursor moves, and the connection is not silent
            frames.append(self._format.heartbeat(self.cursor))
        await self.flush(frames, held=True)
        await asyncio.sleep(0)
