"""A log that a test can make unavailable, and hubs with a fallback on it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from tidewire.delivery.hub import Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.errors import AppendRefused, EventRefused, TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Handler, Log, Receipt, Tail
from tidewire.transports.fallback.fallback import MAX_BYTES, MAX_EVENTS, Fallback

from tests.contract.acts import read
from tests.contract.staged import StagedLog
from tests.contract.stores import MemoryStore


class UnavailableLog(StagedLog):
    """Forwards everything to a real log; while it is unavailable, each call fails and the tail delivers nothing."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.is_unavailable = False
        self.seconds = 0.0  # of an append
        self.answers_lost = 0  # the number of next appends whose response is lost
        self.batches: list[list[str]] = []  # ids of each attempted append
        self.poison: set[str] = set()  # ids of events that are refused for good, with an error that names the event
        self.barred: set[str] = set()  # ids that are refused with an error that could concern all events
        self.bars_all = False
        self.is_broken = False  # an append raises an unexpected error

    def leave(self) -> None:
        """Be unavailable from now on."""
        self.is_unavailable = True
        self.hold_tail()

    def come_back(self) -> None:
        """Answer again; the tail delivers what it has held."""
        self.is_unavailable = False
        self.release_tail()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        self.batches.append([event.id for event in events])
        self._check()
        if self.is_broken:
            raise ValueError("broken")
        if self.seconds:
            await asyncio.sleep(self.seconds)
            self._check()
        ids = {event.id for event in events}
        if ids & self.poison:
            raise EventRefused("poison")
        if ids & self.barred or self.bars_all:
            raise AppendRefused("barred")
        receipts = await super().publish(events)
        if self.answers_lost:
            self.answers_lost -= 1
            raise TransportUnavailable("the answer was lost")
        self._check()
        return receipts

    async def head(self, partitions: Sequence[str]) -> Cursor:
        self._check()
        return await super().head(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        self._check()
        return await super().seek(partitions, time)

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        self._check()
        async for item in super().replay(after, until):
            self._check()
            yield item

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[Tail]:
        opened: AbstractAsyncContextManager[Tail] = super().on_message(handler)
        async with opened as tail:
            yield _HeldTail(self, tail)

    def forget(self, partitions: Sequence[str]) -> None:
        """Drop the held records of these partitions."""
        self._held = [item for item in self._held if item.partition not in partitions]

    async def ping(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.is_unavailable:
            raise TransportUnavailable("the log is unavailable")


class _HeldTail:
    """The tail of such a log; an unfollow drops the held records."""

    def __init__(self, log: UnavailableLog, tail: Tail) -> None:
        self._log = log
        self._tail = tail

    @property
    def running(self) -> bool:
        return not self._log.is_unavailable

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        return self._tail.follow(positions)

    def unfollow(self, partitions: Sequence[str]) -> None:
        self._tail.unfollow(partitions)
        self._log.forget(partitions)


async def ids_in_log(store: MemoryStore, partition: str = ALL) -> list[str]:
    """Return the ids of the events in one partition, in its order."""
    log = store.open()
    found = await read(log, await log.seek((partition,), None))
    return [item.event.id for item in found if isinstance(item, Record)]


class Instance:
    """One process: a hub over a fallback over a log that can be unavailable."""

    def __init__(
        self,
        store: MemoryStore,
        scheme: Partitions = Partitions(),
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        ring: Ring | None = None,
        window: float = 86_400.0,
    ) -> None:
        self.log = UnavailableLog(store.open(scheme))
        self.fallback = Fallback(self.log, scheme, max_events=max_events, max_bytes=max_bytes)
        self.hub = Hub(self.fallback, scheme, ring=ring, window=window)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.aclose()
