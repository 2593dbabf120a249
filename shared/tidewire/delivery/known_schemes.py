"""The partition schemes in use, as a process with subscribers follows them in the log."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from tidewire.errors import TransportRefused, TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partition_schemes import (
    LEARNED,
    MAX_ANNOUNCEMENTS,
    TOO_MANY,
    Announcement,
    Registry,
    fit_cursor,
    read_announcement,
)
from tidewire.model.partitions import ALL, SCHEMES, Partitions
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Log, Transport

logger = logging.getLogger(__name__)
warnings = ThrottledLog(logger)


class KnownSchemes:
    """What the log says of the schemes in use; `changed` is called once it says something else."""

    def __init__(self, transport: Transport, own: Partitions, changed: Callable[[], None]) -> None:
        self._log = transport if isinstance(transport, Log) else None
        self._own = own
        self._changed = changed
        self._registry = Registry()
        self._at: Position | None = None  # all up to here is known; None: nothing was read yet
        self._until: Position | None = None  # what lies before it is still to be read
        self._reading = asyncio.Lock()
        self._learning: asyncio.Task[None] | None = None

    def partitions_for(self, interest: Interest) -> tuple[str, ...]:
        """Return the partitions that can hold an event matching `interest`."""
        return (
            self._own.partitions_for(interest)
            if self._log is None
            else self._registry.partitions_for(self._own, interest)
        )

    def starts(self, interest: Interest, missing: Iterable[str], time: int) -> Mapping[int, list[str]]:
        """Return from which times to read partitions that a cursor of this time does not name.

        A process that has not learned of a scheme yet may have moved the cursor past the time at which it began.
        """
        begins = self._registry.begins(interest)
        starts: dict[int, list[str]] = {}
        for name in missing:
            began = begins.get(name, time)
            starts.setdefault(began if began < time < began + LEARNED else time, []).append(name)
        return starts

    def left_over(self, interest: Interest, cursor: Cursor) -> tuple[list[str], list[str]]:
        """Return what else a cursor names that may hold events for `interest`: readable partitions, and lost ones.

        They are of a scheme that is no longer in use, or that was never announced. Reading starts a partition's log:
        a made-up cursor must not start one of any name, so only names that a scheme could have had are readable.
        """
        readable: list[str] = []
        lost: list[str] = []
        if not cursor.time:  # a receipt's: it names the partitions of one event, other users' included
            return readable, lost
        needed, types = self.partitions_for(interest), self._registry.types(self._own)
        for name in cursor.positions:
            base, colon, shard = name.partition(":")
            may_hold = (base == ALL or interest.allows_type(base)) and not base.startswith("realtime.")
            if name in needed or not may_hold or (colon and interest.user_id is None):
                continue
            if (base == ALL or base in types) and (not colon or _is_shard(shard)):
                readable.append(name)
            elif cursor.positions[name].offset:  # else of an instance that reads under a scheme of which nobody writes
                lost.append(name)
        return readable, lost

    def hear(self, item: Record | Gap) -> None:
        """Take what the tail brings of the control partition; if something of it was lost, all is read again."""
        if isinstance(item, Record) and item.position is not None and self._until is None:
            epoch, offset, check, time = item.position
            if self._at is not None and self._at[:2] == (epoch, offset - 1):
                self._at = item.position
                announcement = read_announcement(item.event)
                self._set(self._registry.extended([(announcement, time)] if announcement else [], check))
                return
        self._until = item.position
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn())

    def close(self) -> None:
        """Read no further."""
        if self._learning is not None:
            self._learning.cancel()

    async def _learn(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.catch_up()
                return
            except TransportUnavailable as error:
                warnings.warn(f"the partition schemes cannot be read, trying again: {error.detail}")
                await asyncio.sleep(backoff.next())

    async def catch_up(self, head: Position | None = None) -> None:
        """Know the schemes up to `head`, or up to where a read before has failed. Raises TransportUnavailable."""
        if self._log is None:
            return
        if head is not None and (self._at is None or self._at[:3] != head[:3]):
            self._until = head
        if self._until is None:
            return
        async with self._reading:
            while (until := self._until) is not None:
                announced = await self._read(self._log, until) if until.offset else []
                self._at = until
                if self._until is until:
                    self._until = None
                self._set(Registry(until.check, announced))

    async def _read(self, log: Log, until: Position) -> list[tuple[Announcement, int]]:
        start = until._replace(offset=max(0, until.offset - MAX_ANNOUNCEMENTS), check="")  # older ones are not kept
        announced: list[tuple[Announcement, int]] = []
        async for item in log.replay(Cursor({SCHEMES: start}), Cursor({SCHEMES: until})):
            if isinstance(item, Record) and item.position is not None:
                announcement = read_announcement(item.event)
                if announcement is not None:
                    announced.append((announcement, item.position.time))
        return announced

    def _set(self, registry: Registry) -> None:
        before, self._registry = self._registry, registry
        if registry.schemes(self._own) != before.schemes(self._own):
            self._changed()

    def check(self) -> None:
        """Raise TransportRefused if no cursor could name all that has to be read."""
        if not fit_cursor(self._registry.schemes(self._own)):
            raise TransportRefused(TOO_MANY)


def _is_shard(text: str) -> bool:
    return text[:1] == "u" and text[1:].isascii() and text[1:].isdigit() and int(text[1:]) < 4_096
