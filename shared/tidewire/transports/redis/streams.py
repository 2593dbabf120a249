"""The log on Redis Streams over TCP: any Redis 6.2 or newer, Valkey, Upstash's TCP endpoint."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import RESERVED_TYPES, Event
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports import log_base
from tidewire.transports.appending import Answer, Part, Writer
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_follower import BROKE, Following, TailPage, control_first, stop
from tidewire.transports.redis import pool
from tidewire.transports.redis.connection import Address, Command, Connection, RedisFailure, RefusedError
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
    taking,
    trial,
)
from tidewire.transports.redis.pool import CONNECTIONS, Connections, make_circuit, safe, unavailable
from tidewire.transports.single_flight import SharedHead, SharedPages

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

BLOCK = 30.0
"""Seconds that one XREAD waits: two commands a minute while idle. TCP keepalives notice a dead connection as early."""

LOOK = 60.0  # seconds between two looks of a silent tail at the heads; a demoted node may keep it without a word


class RedisStreams:
    """A `Log` on Redis Streams."""

    def __init__(
        self,
        url: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        block: float = BLOCK,
    ) -> None:
        self._heads = SharedHead(lambda names: self._places(names, "head"))
        self._pages = SharedPages(self._read_page, CONNECTIONS // 2)
        self._page_size = log_base.PageSize()
        self.layout = Layout(prefix, retention)
        self._writer = Writer(partitions, retention, self._append)
        self._block = block
        self.timeout = pool.TIMEOUT  # of an answer that nothing is waited for
        self.address = Address.parse(url)
        self._tails: set[_RedisTail] = set()
        self._connections = Connections(self.address, self._reconnect_tails)
        self.circuit = make_circuit()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events, each partition's in one atomic script, all scripts in one round trip."""
        return await self._writer.publish(events)

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_RedisTail"]:
        """Open the tail: one connection, one blocking read, whatever the number of subscribers."""
        tail = _RedisTail(self, handler)
        self._tails.add(tail)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            self._tails.discard(tail)
            await stop(task)
            await tail.aclose()

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition, in one round trip."""
        return await self._heads(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before the first record at or after `time`, in one round trip."""
        return await self._places(partitions, str(time or 0))

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]`; see `Log.replay`."""
        return log_base.replay(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket of all processes, in one round trip; see `Buckets.take`."""
        (wait,) = await self._run(TAKE, [taking(self.layout.prefix, bucket, cost, capacity, seconds)])
        return int(wait) / 1000

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `PagedLog`."""
        return log_base.pages(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def ping(self) -> None:
        """Return if Redis would take an append."""
        try:
            await self.circuit.run(lambda: self._ask(*trial(self.layout.prefix)), ask=True)
        except RedisFailure as error:
            raise unavailable(error) from error

    @property
    def is_away(self) -> bool:
        """Whether Redis is known to be away."""
        return self.circuit.is_open

    async def aclose(self) -> None:
        """Close every connection."""
        await self._heads.aclose()
        await self._pages.aclose()
        await self._connections.aclose()

    async def unblock(self, client_id: int) -> bool:
        """End the blocking read of another connection; False where it was not blocked."""
        return bool(await self._ask("CLIENT", "UNBLOCK", client_id))

    @property
    def block(self) -> float:
        """Seconds that one blocking read waits."""
        return self._block

    async def places_of(self, partitions: Sequence[str], where: str, send: Send) -> Cursor:
        """Return what `SEEK` finds for each partition by `send`, in one command. Raises RefusedError."""
        keys = [key for partition in partitions for key in self.layout.keys(partition)]
        ((places),) = await SEEK.run([(keys, [where])], send, _is_unknown)
        if isinstance(places, RefusedError):
            raise places
        return Cursor({name: parse_position(place) for name, place in zip(partitions, places, strict=True)})

    def condemn(self) -> None:
        """Use no connection again that is open now, but those of tails."""
        self._connections.condemn()

    def _reconnect_tails(self) -> None:
        for tail in self._tails:
            tail.reconnect()

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        appending = self.layout.append(expected, parts)
        return appending.answers(await self._run(APPEND, appending.calls))

    async def _places(self, partitions: Sequence[str], where: str) -> Cursor:
        # One for each partition: in a cluster they may be on several nodes. Control partitions go together.
        groups: dict[str, list[str]] = {}
        for name in partitions:
            groups.setdefault("" if name.startswith(RESERVED_TYPES) else name, []).append(name)
        calls: list[Call] = [
            ([key for name in group for key in self.layout.keys(name)], [where]) for group in groups.values()
        ]
        replies = await self._run(SEEK, calls)
        return Cursor(
            {
                name: parse_position(place)
                for group, reply in zip(groups.values(), replies, strict=True)
                for name, place in zip(group, reply, strict=True)
            }
        )

    async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        start, end = f"{after.epoch}-{after.offset + 1}", f"{after.epoch}-{until}"
        command = ("XRANGE", self.layout.stream(partition), start, end, "COUNT", self._page_size.records)
        asked = self._page_size.records
        try:
            entries = await self.circuit.run(lambda: self._ask(*command))
        except RedisFailure as error:
            raise unavailable(error) from error
        if len(entries) < asked and (entries[-1][0] if entries else b"") != end.encode():
            # Not all that the primary's head promised: a replica that is behind must not pass for a loss.
            (entries,) = await self._run(RANGE, [(self.layout.keys(partition), [start, end, asked])])
        fitting = self._page_size.fit([len(fields[1]) for _, fields in entries])
        return parse_page(partition, entries[:fitting])

    async def _run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run one script for each (keys, arguments), all in one round trip; a script is sent whole only once."""
        try:
            replies = await self.circuit.run(lambda: script.run(calls, self._connections.send, _is_unknown))
        except RedisFailure as error:
            raise unavailable(error) from error
        for reply in replies:
            if isinstance(reply, RefusedError):
                raise unavailable(reply) from reply
        return replies

    async def _ask(self, *command: Any) -> Any:
        (reply,) = await self._connections.send((command,))
        if isinstance(reply, RefusedError):
            raise reply
        return reply


class _RedisTail:
    """Reads all followed streams with one XREAD on one connection, which leads to the primary.

    A node that is demoted ends a blocked read (UNBLOCKED). It answers one that comes later like any replica, perhaps of
    a primary that it cannot reach: so a look at the heads, which a replica refuses, comes first, and once a minute.
    """

    def __init__(self, redis: RedisStreams, handler: Handler) -> None:
        self.running = False
        self.failure: str | None = None
        self._following = Following(handler)
        self._redis = redis
        self._page = TailPage()
        self._look_at = 0.0  # on the loop's clock
        self._wanted = 0  # counts changes of what is followed; a read that began before the last one is stale
        self._reading = 0
        self._covered = -1  # the count that the last answered read of this connection began with
        self._connection: Connection | None = None  # while it is blocked or soon will be
        self._client_id: int | None = None
        self._interrupting: asyncio.Task[None] | None = None

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        """Read these partitions too, also while a read is blocked on the others."""
        read = self._following.follow(positions)
        if read is not None:
            self._wanted += 1
            if self._interrupting is None or self._interrupting.done():
                self._interrupting = asyncio.create_task(self._interrupt())
        return read

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions, from the next read on."""
        self._following.unfollow(partitions)

    async def verify(self) -> None:
        """Read heads by new connections, and compare; see `Verifying`."""
        self._redis.condemn()
        await self._following.verify(self._redis.head)
        self.reconnect()  # a read that is blocked may be after a place that has gone back

    def reconnect(self) -> None:
        """Leave a connection that cannot be trusted: others as old are lost, silent or lead elsewhere."""
        if self._connection is not None:
            self._connection.close()

    async def run(self) -> None:
        """Read until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            connection = Connection(self._redis.address)
            try:
                await self._following.wanted()
                await connection.connect(self._redis.timeout)
                self._client_id = int(await _ask(connection, self._redis.timeout, "CLIENT", "ID"))
                await self._look(connection)
                await self._read(connection)
                self._connection = connection
                self._redis.circuit.close()  # nobody need wait until it lets one call through
                self.running = True
                backoff.reset()
                while True:
                    await self._read(connection)
            except (RedisFailure, TransportUnavailable) as error:
                told = error if isinstance(error, TransportUnavailable) else unavailable(error)
                self.failure = told.detail
                warnings.warn(f"tail lost, reconnecting: {told.detail}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = BROKE
                warnings.exception("tail failed, reconnecting")
            finally:
                self.running = False
                self._client_id = self._connection = None
                self._covered = -1
                connection.close()
            RECONNECTS.add()
            await asyncio.sleep(backoff.next())

    async def _look(self, connection: Connection) -> None:
        """See that the log still holds our places; raises RefusedError on a replica."""

        async def send(commands: Sequence[Command]) -> list[Any]:
            return await connection.call(commands, self._redis.timeout)

        async def heads(names: Sequence[str]) -> Cursor:
            return await self._redis.places_of(names, "head", send)

        await self._following.verify(heads)
        self._look_at = asyncio.get_running_loop().time() + LOOK

    async def _read(self, connection: Connection) -> None:
        """Read once: blocked where what is followed was read before, or the first answer could be long in coming."""
        await self._following.wanted()
        began = self._reading = self._wanted
        names = {self._redis.layout.stream(name).encode(): name for name in self._following.at}
        places = [f"{at.epoch}-{at.offset}" for at in self._following.at.values()]
        wait, count = 0.0, self._page.records
        limits: list[str | int] = ["COUNT", count]
        if self._covered == began:
            wait = self._redis.block
            limits += ["BLOCK", int(wait * 1000)]
        reply = await _ask(connection, wait + self._redis.timeout, "XREAD", *limits, "STREAMS", *names, *places)
        self._reading = self._wanted
        found = {names[stream]: entries for stream, entries in reply or ()}
        sizes = [len(fields[1]) for entries in found.values() for _, fields in entries]
        self._page.note(sizes, full=any(len(entries) >= count for entries in found.values()))
        for name in control_first(found):
            self._following.deliver(name, parse_entries(name, found[name]))
            epoch, _, offset = found[name][-1][0].partition(b"-")
            self._following.step_over(name, int(epoch), int(offset))
        self._covered = began
        self._following.answered(names.values())
        if not reply and asyncio.get_running_loop().time() >= self._look_at:
            await self._look(connection)

    async def aclose(self) -> None:
        """End what `run` leaves behind."""
        if self._interrupting is not None:
            await stop(self._interrupting)

    async def _interrupt(self) -> None:
        """End a blocked read that began before the last `follow`, so that the next one covers it.

        The read may be on its way to the server, not blocked yet: then UNBLOCK answers 0 and is tried again. And
        while an answer is on its way here, `follow` may have been called once more.
        """
        backoff = Backoff(base=0.01, cap=0.5)
        while self._client_id is not None and self._reading < self._wanted:
            try:
                await self._redis.unblock(self._client_id)
                pause = 0.005
            except RedisFailure as error:
                warnings.warn(f"cannot interrupt the tail's read, which ends by itself: {safe(error)}")
                pause = backoff.next()
            await asyncio.sleep(pause)


async def _ask(connection: Connection, silence: float, *command: str | bytes | int) -> Any:
    (reply,) = await connection.call((command,), silence)
    if isinstance(reply, RefusedError):
        raise reply
    return reply


def _is_unknown(reply: Any) -> bool:
    return isinstance(reply, RefusedError) and reply.code == "NOSCRIPT"
