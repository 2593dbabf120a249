"""What the contract suite is run on: one small class for each transport.

A store is the thing that transports of several processes share. To add a transport, write its store here and add
it to LOGS or, where it remembers nothing, to CARRIERS, with the fixture that its server comes from.
"""

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis

from shared.errors import TransportUnavailable
from shared.event import Event
from shared.partitions import ALL, Partitions
from shared.record import Record
from shared.transports.base import Handler, Log, Receipt, Retention, Tail, Transport
from shared.transports.memory import MemoryLog
from shared.transports.redis_layout import Arguments
from shared.transports.redis_streams import RedisStreams
from tests.clocks import Clock

NO_SCHEME = Partitions()
KEEP_ALL = Retention()


class Store(ABC):
    """An empty store; each `open` is what one process sees of it."""

    def __init__(self) -> None:
        self._opened: list[Transport] = []

    def open(self, partitions: Partitions = NO_SCHEME, retention: Retention = KEEP_ALL) -> Transport:
        """Return one more transport on this store."""
        transport = self._make(partitions, retention)
        self._opened.append(transport)
        return transport

    async def aclose(self) -> None:
        """Close all that was opened; what the test has closed is closed twice."""
        for transport in self._opened:
            await transport.aclose()

    @abstractmethod
    def _make(self, partitions: Partitions, retention: Retention) -> Transport: ...


class LogStore(Store):
    """A store that remembers, and that a test can damage."""

    def open(self, partitions: Partitions = NO_SCHEME, retention: Retention = KEEP_ALL) -> Log:
        """Return one more log on this store."""
        log = super().open(partitions, retention)
        assert isinstance(log, Log)
        return log

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Return when so much time has passed for the store."""

    @abstractmethod
    async def wipe(self) -> None:
        """Lose everything, and keep running."""

    @abstractmethod
    async def back_up(self) -> Callable[[], Awaitable[None]]:
        """Return what brings the store back to the state it has now, as a stale replica would."""


class MemoryStore(LogStore):
    """Memory yields at each point where another log would do I/O; one that never does would hide races."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._partitions: dict[str, Any] = {}
        self._tails: set[Any] = set()

    def _make(self, partitions: Partitions, retention: Retention) -> "_SharedMemoryLog":
        log = _SharedMemoryLog(partitions, retention, clock=self.clock, pause=yield_once)
        log._partitions, log._tails = self._partitions, self._tails
        return log

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def wipe(self) -> None:
        self.clock.advance(0.001)
        self._partitions.clear()

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        kept = copy.deepcopy(self._partitions)

        async def restore() -> None:
            self._partitions.clear()
            self._partitions.update(copy.deepcopy(kept))

        return restore


class _SharedMemoryLog(MemoryLog):
    """A log that outlives the process which closes it."""

    async def aclose(self) -> None:
        """Leave the records to the others."""


async def yield_once() -> None:
    """Let everything else run that can."""
    await asyncio.sleep(0)


class RedisStore(LogStore):
    """A real Redis, emptied for the test."""

    BLOCK = 5.0  # seconds of one blocking read: far more than a test waits, so that none lives from its end

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.client = redis.Redis.from_url(url, protocol=2)

    def _make(self, partitions: Partitions, retention: Retention) -> RedisStreams:
        return RedisStreams(
            self.url, partitions=partitions, retention=retention, block=self.BLOCK
        )

    async def aclose(self) -> None:
        await super().aclose()
        await self.client.aclose()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wipe(self) -> None:
        await asyncio.sleep(0.002)  # the epoch is a time in ms: two logs of one millisecond would share it
        await self.client.flushall()

    async def back_up(self) -> "Backup":
        return Backup(self.client, {key: await self.client.dump(key) for key in await self.client.keys()})


class Backup:
    """The keys as they were; calling it makes them so again, and runs more commands with it."""

    def __init__(self, client: redis.Redis, kept: dict[bytes, bytes]) -> None:
        self._client = client
        self._kept = kept

    async def __call__(self, *more: Arguments) -> None:
        # In one transaction, as a failover is: nobody sees a half of it.
        async with self._client.pipeline() as pipeline:
            for key in await self._client.keys():
                pipeline.unlink(key)
            for key, value in self._kept.items():
                pipeline.restore(key, 0, value)
            for command in more:
                pipeline.execute_command(*command)
            await pipeline.execute()


class CarrierStore(Store):
    """A transport that remembers nothing: whoever is not listening misses what is published."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict["_Carrier", Handler] = {}

    def _make(self, partitions: Partitions, retention: Retention) -> "_Carrier":
        return _Carrier(self.handlers, partitions)


class _Carrier:
    """The least that a Transport can be; it does not bring back to a process what that process published."""

    running = True

    def __init__(self, handlers: dict["_Carrier", Handler], partitions: Partitions) -> None:
        self._handlers = handlers
        self._scheme = partitions
        self._closed = False

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        await self.ping()
        for event in events:
            for carrier, handler in self._handlers.items():
                for partition, part in self._scheme.route(event) if carrier is not self else ():
                    handler(Record(part, partition, None))
        await asyncio.sleep(0)
        return [Receipt(event.id, None) for event in events]

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[Tail]:
        self._handlers[self] = handler
        try:
            yield self
        finally:
            del self._handlers[self]

    def follow(self, positions: object) -> None: ...

    def unfollow(self, partitions: object) -> None: ...

    async def ping(self) -> None:
        if self._closed:
            raise TransportUnavailable("closed")

    async def aclose(self) -> None:
        self._closed = True


LOGS: dict[str, tuple[type[LogStore], tuple[str, ...]]] = {
    "memory": (MemoryStore, ()),
    "redis": (RedisStore, ("redis_url",)),
}
"""For each log its store, and the fixtures that its store is made from."""

CARRIERS: dict[str, tuple[type[Store], tuple[str, ...]]] = {
    "carrier": (CarrierStore, ()),
}
"""The same for transports without a log."""

__all__ = ["ALL", "CARRIERS", "LOGS", "CarrierStore", "LogStore", "MemoryStore", "RedisStore", "Store"]
