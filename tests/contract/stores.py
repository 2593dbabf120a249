"""The stores of the contract suite: one small class per transport.

A store is the thing that transports of several processes share. To add a transport, write its store here and add
it to LOGS or, if it has no log, to CARRIERS, with the fixtures that start its server.
"""

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
import redis as sync_redis
import redis.asyncio as redis
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Record
from tidewire.transports.base import Handler, Log, Receipt, Retention, Tail, Transport
from tidewire.transports.fallback.fallback import Fallback
from tidewire.transports.memory import MemoryLog
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.redis.cluster import ClusterStreams
from tidewire.transports.redis.layout import Arguments
from tidewire.transports.redis.pubsub import RedisPubSub
from tidewire.transports.redis.streams import RedisStreams
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.support.clocks import Clock
from tests.support.processes import HOST
from tests.support.redis_cluster import RedisCluster
from tests.support.upstash_stand_in import StandIn

NO_SCHEME = Partitions()
KEEP_ALL = Retention()


class Store(ABC):
    """An empty store; each `open` makes the transport of one process."""

    def __init__(self) -> None:
        self._opened: list[Transport] = []

    def open(self, partitions: Partitions = NO_SCHEME, retention: Retention = KEEP_ALL) -> Transport:
        """Return one more transport on this store."""
        transport = self._make(partitions, retention)
        self._opened.append(transport)
        return transport

    async def aclose(self) -> None:
        """Close each transport, also those that the test has closed."""
        for transport in self._opened:
            await transport.aclose()

    @abstractmethod
    def _make(self, partitions: Partitions, retention: Retention) -> Transport: ...


class LogStore(Store):
    """A store with a log, which a test can damage."""

    def open(self, partitions: Partitions = NO_SCHEME, retention: Retention = KEEP_ALL) -> Log:
        """Return one more log on this store."""
        log = super().open(partitions, retention)
        assert isinstance(log, Log)
        return log

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Let this much time pass for the store."""

    @abstractmethod
    async def wipe(self) -> None:
        """Delete everything, and keep running."""

    @abstractmethod
    async def back_up(self) -> Callable[[], Awaitable[None]]:
        """Return a function that restores the present state, as a promoted replica that was behind would."""


class MemoryStore(LogStore):
    """A memory log that yields wherever another log does I/O, so that it does not hide races."""

    def __init__(self, pause: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__()
        self.clock = Clock()
        self._pause = pause or yield_once
        self._first = SharedMemoryLog(clock=self.clock, pause=self._pause)

    def _make(self, partitions: Partitions, retention: Retention) -> "SharedMemoryLog":
        return SharedMemoryLog(partitions, retention, clock=self.clock, pause=self._pause, records=self._first.records)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def wipe(self) -> None:
        self.clock.advance(0.002)  # the epoch is a time in ms, and the clock a float
        self._first.wipe()

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        return self._first.back_up()


class SharedMemoryLog(MemoryLog):
    """A log that shares the records and tails of another, as two processes on one store do."""

    def __init__(
        self,
        partitions: Partitions = NO_SCHEME,
        retention: Retention = KEEP_ALL,
        *,
        clock: Clock,
        pause: Callable[[], Awaitable[None]],
        records: tuple[Any, Any] | None = None,
    ) -> None:
        super().__init__(partitions, retention, clock=clock, pause=pause)
        if records is not None:
            self._partitions, self._tails = records

    @property
    def records(self) -> tuple[Any, Any]:
        """The records and tails, for one more log on this store."""
        return self._partitions, self._tails

    def wipe(self) -> None:
        """Delete everything."""
        self._partitions.clear()

    def back_up(self) -> Callable[[], Awaitable[None]]:
        """Return a function that restores the present records."""
        kept = copy.deepcopy(self._partitions)

        async def restore() -> None:
            self._partitions.clear()
            self._partitions.update(copy.deepcopy(kept))

        return restore

    async def aclose(self) -> None:
        """Keep the records for the other logs."""


async def yield_once() -> None:
    """Let all other tasks run."""
    await asyncio.sleep(0)


class RedisStore(LogStore):
    """A real Redis, emptied for the test."""

    BLOCK = 5.0  # seconds of one blocking read: longer than a test waits, so that none depends on its end

    def __init__(self, url: str, server: str | None = None) -> None:
        super().__init__()
        self.url = url
        self.client = redis.Redis.from_url(server or url, protocol=2)

    def _make(self, partitions: Partitions, retention: Retention) -> Log:
        return RedisStreams(self.url, partitions=partitions, retention=retention, block=self.BLOCK)

    async def aclose(self) -> None:
        await super().aclose()
        await self.client.aclose()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wipe(self) -> None:
        await asyncio.sleep(0.002)  # the epoch is a time in ms: two logs of one millisecond would share it
        await self.client.flushall()

    async def back_up(self) -> "Backup":
        kept = [["RESTORE", key, 0, await self.client.dump(key)] for key in await self.client.keys()]
        return Backup(self.client, kept)


class Backup:
    """A copy of all keys. Calling it restores them, and runs further commands in the same transaction."""

    def __init__(self, client: redis.Redis, kept: list[list[Any]]) -> None:
        self._client = client
        self._kept = kept

    async def __call__(self, *more: Arguments) -> None:
        # In one transaction, as in a failover: no reader sees a part of it.
        async with self._client.pipeline() as pipeline:
            emptied = [["UNLINK", key] for key in await self._client.keys()]
            for command in (*emptied, *self._kept, *more):
                pipeline.execute_command(*command)
            await pipeline.execute()


class ClusterStore(LogStore):
    """A real Redis Cluster, emptied for the test."""

    def __init__(self, cluster: RedisCluster) -> None:
        super().__init__()
        self.cluster = cluster

    def _make(self, partitions: Partitions, retention: Retention) -> ClusterStreams:
        return ClusterStreams(self.cluster.url, partitions=partitions, retention=retention)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wipe(self) -> None:
        await asyncio.sleep(0.002)  # the epoch is a time in ms: two logs of one millisecond would share it
        await asyncio.to_thread(self.cluster.flush)

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        return partial(asyncio.to_thread, await asyncio.to_thread(self._back_up))

    def _back_up(self) -> Callable[[], None]:
        kept = []
        for node in self.cluster.primaries():
            with sync_redis.Redis(host=HOST, port=node.port, protocol=2) as client:
                kept.append((node.port, [part for key in client.scan_iter() for part in (key, client.dump(key))]))

        def restore() -> None:
            for port, dumps in kept:
                with sync_redis.Redis(host=HOST, port=port, protocol=2) as client:
                    client.eval(RESTORE, 0, *dumps)

        return restore


RESTORE = """
for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('UNLINK', key) end
for i = 1, #ARGV, 2 do redis.call('RESTORE', ARGV[i], 0, ARGV[i + 1]) end
"""
"""Replaces all keys of a node in one step, as a failover does. A transaction could not: its keys must share a slot."""


class FallbackStore(RedisStore):
    """The same Redis behind a fallback to memory, which changes nothing while Redis answers."""

    def _make(self, partitions: Partitions, retention: Retention) -> Fallback:
        inner = RedisStreams(self.url, partitions=partitions, retention=retention, block=self.BLOCK)
        return Fallback(inner, partitions)


class PostgresStore(LogStore):
    """A real Postgres with an empty log."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def _make(self, partitions: Partitions, retention: Retention) -> PostgresLog:
        return PostgresLog(self.url, partitions=partitions, retention=retention)

    async def execute(self, sql: str) -> None:
        """Run statements in one transaction."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wipe(self) -> None:
        await asyncio.sleep(0.002)  # the epoch is a time in ms: two logs of one millisecond would share it
        await self.execute("delete from rt.partitions; delete from rt.records; delete from rt.ids")

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        tables = ("partitions", "records", "ids")
        await self.execute("drop schema if exists backup cascade; create schema backup")
        copies = ";".join(f"create table backup.{name} as table rt.{name}" for name in tables)
        await self.execute(f"begin isolation level repeatable read; {copies}; commit")  # a consistent copy, as a dump

        async def restore() -> None:
            swap = "delete from rt.{0}; insert into rt.{0} table backup.{0}"
            await self.execute(";".join(swap.format(name) for name in tables))

        return restore


class UpstashStore(RedisStore):
    """The same Redis, reached over a stand-in of Upstash's REST API."""

    POLL = (0.01, 0.1)  # seconds, fastest and slowest

    def __init__(self, url: str, upstash: StandIn) -> None:
        super().__init__(url)
        self.upstash = upstash

    def _make(self, partitions: Partitions, retention: Retention) -> UpstashRest:
        poll_min, poll_max = self.POLL
        return UpstashRest(
            self.upstash.url,
            self.upstash.token,
            partitions=partitions,
            retention=retention,
            poll_min=poll_min,
            poll_max=poll_max,
        )


class CarrierStore(Store):
    """A transport without a log: only subscribed processes receive an event."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[_Carrier, Handler] = {}

    def _make(self, partitions: Partitions, retention: Retention) -> "_Carrier":
        return _Carrier(self.handlers, partitions)


class _Carrier:
    """A minimal Transport. It does not return events to the process that published them."""

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


class PubSubStore(Store):
    """Pub/Sub on a real Redis, without a log."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def _make(self, partitions: Partitions, retention: Retention) -> RedisPubSub:
        return RedisPubSub(self.url, partitions=partitions, retention=retention)


LOGS: dict[str, tuple[type[LogStore], tuple[str, ...]]] = {
    "memory": (MemoryStore, ()),
    "redis": (RedisStore, ("redis_url",)),
    "cluster": (ClusterStore, ("redis_cluster",)),
    "sentinel": (RedisStore, ("sentinel_url", "sentinel_primary")),
    "valkey": (RedisStore, ("valkey_url",)),
    "upstash": (UpstashStore, ("redis_url", "upstash")),
    "fallback": (FallbackStore, ("redis_url",)),
    "postgres": (PostgresStore, ("postgres_url",)),
}
"""The store of each log, and the fixtures that make it."""

CARRIERS: dict[str, tuple[type[Store], tuple[str, ...]]] = {
    "carrier": (CarrierStore, ()),
    "redis-pubsub": (PubSubStore, ("redis_url",)),
}
"""The same for transports without a log."""

ONLY_IN_FULL = {"sentinel", "valkey"}
"""Stores that `scripts/test` leaves out: another server for a transport that it tests already."""


def each(*stores: Iterable[str]) -> list[Any]:
    """The names of stores, as parameters of a fixture."""
    return [
        pytest.param(name, marks=[pytest.mark.full] if name in ONLY_IN_FULL else [])
        for group in stores
        for name in group
    ]


__all__ = ["ALL", "CARRIERS", "LOGS", "CarrierStore", "LogStore", "MemoryStore", "RedisStore", "Store", "each"]
