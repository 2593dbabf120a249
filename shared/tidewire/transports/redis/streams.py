"""The log on Redis Streams over TCP: any Redis 6.2 or newer, Valkey, Upstash's TCP endpoint."""

import asyncio
import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import RESERVED_TYPES
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.appending import Answer, Part
from tidewire.transports.base import Handler, Retention, StoreNode
from tidewire.transports.errors import CommandError, StoreError, describe
from tidewire.transports.log_base import LogBase, PageSize, TailT, stop
from tidewire.transports.log_follower import UNKNOWN_FAILURE, FollowingTail, TailPageSize, control_first
from tidewire.transports.redis import pool
from tidewire.transports.redis.address import Command
from tidewire.transports.redis.connection import Connection
from tidewire.transports.redis.layout import (
    APPEND,
    RANGE,
    SEEK,
    TAKE,
    Call,
    Layout,
    Script,
    Send,
    parse_entries,
    parse_page,
    parse_position,
    take_call,
    write_check,
)
from tidewire.transports.redis.pool import CONNECTIONS, ConnectionPool, make_circuit_breaker, make_locator, unavailable

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

BLOCK = 30.0
"""Seconds that one XREAD waits: two commands per minute while idle. TCP keepalive finds a dead connection as early."""

UNINTERRUPTED_BLOCK = 1.0
"""The same on a server that refuses CLIENT UNBLOCK (Dragonfly, Google Memorystore): new partitions wait for its end."""

CHECK_HEADS = 60.0  # seconds between two checks of a silent tail: a demoted node may keep the connection open


class StreamsLog(LogBase[TailT]):
    """A `Log` on Redis Streams, on the commands that `send` carries: to one server, or to the nodes of a cluster."""

    def __init__(
        self, layout: Layout, partitions: Partitions, retention: Retention, *, under_newest_scheme: bool = False
    ) -> None:
        super().__init__(partitions, retention, reads_at_once=CONNECTIONS // 2, under_newest_scheme=under_newest_scheme)
        self._page_size = PageSize()
        self.layout = layout
        self.timeout = pool.TIMEOUT  # seconds for a reply that does not wait for an append

    @abstractmethod
    async def send(self, commands: Sequence[Command], *, even_if_open: bool = False) -> list[Any]:
        """Return the replies, raw; the reply of a refused command is a CommandError. Raises TransportUnavailable.

        `even_if_open`: see `CircuitBreaker.run`.
        """

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket that all processes share, in one round trip; see `Buckets.take`."""
        (wait,) = await self._run(TAKE, [take_call(self.layout.prefix, bucket, cost, capacity, seconds)])
        return int(wait) / 1000

    async def _read_positions(self, partitions: Sequence[str], time: int | None) -> Cursor:
        wanted = "head" if time is None else str(time)
        groups = self._same_call(partitions)
        calls: list[Call] = [([key for name in group for key in self.layout.keys(name)], [wanted]) for group in groups]
        replies = await self._run(SEEK, calls)
        return Cursor(
            {
                name: parse_position(position)
                for group, reply in zip(groups, replies, strict=True)
                for name, position in zip(group, reply, strict=True)
            }
        )

    def _same_call(self, partitions: Sequence[str]) -> Sequence[Sequence[str]]:
        """Return groups of partitions whose positions one call of a script may read: by default one each."""
        return [(name,) for name in partitions]

    async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        start, end = f"{after.epoch}-{after.offset + 1}", f"{after.epoch}-{until}"
        count = self._page_size.records
        (entries,) = await self.send([["XRANGE", self.layout.stream(partition), start, end, "COUNT", count]])
        if isinstance(entries, CommandError):
            raise unavailable(entries) from entries
        if len(entries) < count and (entries[-1][0] if entries else b"") != end.encode():
            # Fewer than the primary's head promised: a replica that is behind must not pass for a loss.
            (entries,) = await self._run(RANGE, [(self.layout.keys(partition), [start, end, count])])
        fitting = self._page_size.fit([len(fields[1]) for _, fields in entries])
        return parse_page(partition, entries[:fitting])

    async def _run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Return the reply of each call of a script, all in one round trip. Raises TransportUnavailable."""
        replies = await script.run(calls, self.send)
        for reply in replies:
            if isinstance(reply, CommandError):
                raise unavailable(reply) from reply
        return replies


class RedisStreams(StreamsLog["_RedisTail"]):
    """A `Log` on Redis Streams on one server."""

    def __init__(
        self,
        url: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        block: float = BLOCK,
    ) -> None:
        super().__init__(Layout(prefix, retention), partitions, retention)
        self.block = block
        self._locator = make_locator(url, self._on_moved)
        self.locate = self._locator.locate
        self._pool = ConnectionPool(self._locator, self._reconnect_tails)
        self.breaker = make_circuit_breaker()

    async def send(self, commands: Sequence[Command], *, even_if_open: bool = False) -> list[Any]:
        """Return the replies, raw; see `StreamsLog.send`."""
        try:
            return await self.breaker.run(lambda: self._pool.send(commands), even_if_open=even_if_open)
        except StoreError as error:
            raise unavailable(error) from error

    async def ping(self) -> None:
        """Return if Redis would accept an append."""
        (reply,) = await self.send([write_check(self.layout.prefix)], even_if_open=True)
        if isinstance(reply, CommandError):
            raise unavailable(reply) from reply

    @property
    def is_unavailable(self) -> bool:
        """Whether Redis is known to be unavailable."""
        return self.breaker.is_open

    def store_nodes(self) -> Sequence[StoreNode]:
        """Return the server, or the primary that the sentinels named last; see `Nodes`."""
        at = self._locator.known
        if at is None:
            return ()
        followed = sum(len(tail.follower.positions) for tail in self._tails)
        is_read = all(tail.running or not tail.follower.positions for tail in self._tails)
        return (StoreNode(at.name, "primary", not self.is_unavailable, followed, is_read),)

    async def aclose(self) -> None:
        """Close every connection."""
        await super().aclose()
        await self._pool.aclose()
        await self._locator.aclose()

    async def unblock(self, client_id: int) -> bool:
        """End the blocking read of another connection; False if it was not blocked. Raises StoreError."""
        (reply,) = await self._pool.send([["CLIENT", "UNBLOCK", client_id]])
        if isinstance(reply, CommandError):
            raise reply
        return bool(reply)

    async def read_heads_by(self, send: Send, partitions: Sequence[str]) -> Cursor:
        """Return the heads that `send` reads, in one command. Raises StoreError."""
        keys = [key for partition in partitions for key in self.layout.keys(partition)]
        ((positions),) = await SEEK.run([(keys, ["head"])], send)
        if isinstance(positions, CommandError):
            raise positions
        return Cursor({name: parse_position(at) for name, at in zip(partitions, positions, strict=True)})

    def evict(self) -> None:
        """Close idle connections now, and those in use when they become free, but not those of tails."""
        self._pool.evict()

    def _on_moved(self) -> None:
        self._pool.reset()
        self._reconnect_tails()

    def _reconnect_tails(self) -> None:
        for tail in self._tails:
            tail.reconnect()

    def _make_tail(self, handler: Handler) -> "_RedisTail":
        return _RedisTail(self, handler)

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        calls = self.layout.append(expected, parts)
        return calls.answers(await self._run(APPEND, calls.calls))

    def _same_call(self, partitions: Sequence[str]) -> Sequence[Sequence[str]]:
        control = [name for name in partitions if name.startswith(RESERVED_TYPES)]
        rest = [(name,) for name in partitions if not name.startswith(RESERVED_TYPES)]
        return [control, *rest] if control else rest


class _RedisTail(FollowingTail):
    """Reads all followed streams with one XREAD on one connection, which leads to the primary.

    A node that is demoted ends a blocked read (UNBLOCKED). It answers a later one like any replica, perhaps of a
    primary that it cannot reach. So the heads, whose script a replica refuses, are read first, and then every minute.
    """

    def __init__(self, redis: RedisStreams, handler: Handler) -> None:
        super().__init__(handler)
        self._redis = redis
        self._page_size = TailPageSize()
        self._block = redis.block
        self._can_interrupt = True
        self._check_at = 0.0  # on the loop's clock
        self._wanted = 0  # counts changes of what is followed: a read that began before the last one is stale
        self._reading = math.inf  # the count at which the read that is under way began; infinity if there is none
        self._covered = -1  # the count at which this connection's last answered read began
        self._connection: Connection | None = None
        self._client_id = 0  # of the connection that reads
        self._interrupting: asyncio.Task[None] | None = None

    async def verify(self) -> None:
        """Compare the tail's positions with heads read over new connections; see `Verifying`."""
        self._redis.evict()
        await self.follower.verify(self._redis.head)
        self.reconnect()  # a blocked read may wait for records after a position that the log does not hold any more

    def reconnect(self) -> None:
        """Close the connection: others as old are lost, silent or lead to another node."""
        if self._connection is not None:
            self._connection.close()

    async def run(self) -> None:
        """Read until cancelled; a failure of any kind is logged and followed by another try."""
        try:
            await self._run()
        finally:
            if self._interrupting is not None:
                await stop(self._interrupting)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.follower.wait_for_partitions()
                connection = self._connection = Connection(await self._redis.locate())
                await connection.connect(self._redis.timeout)
                self._client_id = int(await _execute(connection, self._redis.timeout, "CLIENT", "ID"))
                await self._check_heads(connection)
                await self._read(connection)
                self._redis.breaker.close()  # other calls need not wait for its probe
                self.running = True
                backoff.reset()
                while True:
                    await self._read(connection)
            except StoreError as error:
                self.failure = unavailable(error).detail
                warnings.warn(f"tail lost, reconnecting: {self.failure}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = UNKNOWN_FAILURE
                warnings.exception("tail failed, reconnecting")
            finally:
                self.running = False
                self.reconnect()
                self._connection = None
                self._covered = -1
            RECONNECTS.add()
            await asyncio.sleep(backoff.next())

    async def _check_heads(self, connection: Connection) -> None:
        """Check that the log still holds our positions; raises CommandError on a replica."""

        async def send(commands: Sequence[Command]) -> list[Any]:
            return await connection.call(commands, self._redis.timeout)

        await self.follower.verify(lambda names: self._redis.read_heads_by(send, names))
        self._check_at = asyncio.get_running_loop().time() + CHECK_HEADS

    async def _read(self, connection: Connection) -> None:
        """Read once; blocking, if every followed partition was read before, or the first answer could take long."""
        await self.follower.wait_for_partitions()
        began = self._reading = self._wanted
        names = {self._redis.layout.stream(name).encode(): name for name in self.follower.positions}
        after = [f"{at.epoch}-{at.offset}" for at in self.follower.positions.values()]
        wait, count = 0.0, self._page_size.records
        limits: list[str | int] = ["COUNT", count]
        if self._covered == began:
            wait = self._block
            limits += ["BLOCK", int(wait * 1000)]
        try:
            reply = await _execute(connection, wait + self._redis.timeout, "XREAD", *limits, "STREAMS", *names, *after)
        finally:
            self._reading = math.inf
        found = {names[stream]: entries for stream, entries in reply or ()}
        sizes = [len(fields[1]) for entries in found.values() for _, fields in entries]
        self._page_size.adjust(sizes, full=any(len(entries) >= count for entries in found.values()))
        for name in control_first(found):
            self.follower.deliver(name, parse_entries(name, found[name]))
            epoch, _, offset = found[name][-1][0].partition(b"-")
            self.follower.skip_unreadable(name, int(epoch), int(offset))
        self._covered = began
        self.follower.mark_read(names.values())
        if not reply and asyncio.get_running_loop().time() >= self._check_at:
            await self._check_heads(connection)

    def _on_followed(self, partitions: Iterable[str]) -> None:
        self._wanted += 1
        if self._can_interrupt and (self._interrupting is None or self._interrupting.done()):
            self._interrupting = asyncio.create_task(self._interrupt())

    async def _interrupt(self) -> None:
        """End a blocked read that began before the last `follow`, so that the next one covers it.

        The read may be on its way to the server, not blocked yet: then UNBLOCK returns 0 and is sent again. And while
        its reply is on its way here, `follow` may have been called once more. If the server refuses UNBLOCK, this read
        is ended by a new connection, and later ones are short.
        """
        backoff = Backoff(base=0.01, cap=0.5)
        while self._reading < self._wanted:
            try:
                await self._redis.unblock(self._client_id)
                pause = 0.005
            except CommandError as error:
                self._can_interrupt = False
                self._block = min(self._block, UNINTERRUPTED_BLOCK)
                warnings.warn(f"cannot interrupt reads ({describe(error)}): the tail reads every {self._block:g} s")
                self.reconnect()
                return
            except StoreError as error:
                warnings.warn(f"cannot interrupt the tail's read, which ends by itself: {describe(error)}")
                pause = backoff.next()
            await asyncio.sleep(pause)


async def _execute(connection: Connection, read_timeout: float, *command: str | bytes | int) -> Any:
    (reply,) = await connection.call((command,), read_timeout)
    if isinstance(reply, CommandError):
        raise reply
    return reply
