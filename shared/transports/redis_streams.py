"""The log on Redis Streams over TCP: any Redis 6.2 or newer, Valkey, Upstash's TCP endpoint."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from shared.backoff import Backoff
from shared.counters import RECONNECTS
from shared.cursor import Cursor, Position
from shared.errors import TransportUnavailable
from shared.event import Event
from shared.partitions import Partitions
from shared.record import Gap, Record
from shared.transports import reading, redis_pool
from shared.transports.base import Handler, Receipt, Retention
from shared.transports.following import Following, stop
from shared.transports.redis_layout import (
    APPEND,
    SEEK,
    TAKE,
    Call,
    Layout,
    Script,
    parse_entries,
    parse_page,
    parse_position,
    taking,
)
from shared.transports.redis_pool import CONNECTIONS, Connections, make_circuit, safe, unavailable
from shared.transports.resp import Address, Command, Connection, RedisFailure, RefusedError
from shared.transports.sharing import SharedHead, SharedPages

log = logging.getLogger(__name__)

BLOCK = 20.0
"""Seconds that one XREAD waits: three commands a minute while idle, and a dead connection is noticed."""


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
        self._page_size = reading.PageSize()
        self.layout = Layout(prefix, partitions, retention)
        self._block = block
        self.timeout = redis_pool.TIMEOUT  # of an answer that nothing is waited for
        self.address = Address.parse(url)
        self._connections = Connections(self.address)
        self.circuit = make_circuit()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events, each partition's in one atomic script, all scripts in one round trip."""
        appending = self.layout.append(events)
        return appending.receipts(await self._run(APPEND, appending.calls))

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_RedisTail"]:
        """Open the tail: one connection, one blocking read, whatever the number of subscribers."""
        tail = _RedisTail(self, handler)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
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
        return reading.replay(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket of all processes, in one round trip; see `Buckets.take`."""
        (wait,) = await self._run(TAKE, [taking(self.layout.prefix, bucket, cost, capacity, seconds)])
        return int(wait) / 1000

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `PagedLog`."""
        return reading.pages(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def ping(self) -> None:
        """Return if Redis answers."""
        try:
            await self.circuit.run(lambda: self._ask("PING"), ask=True)
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

    async def _places(self, partitions: Sequence[str], where: str) -> Cursor:
        calls: list[Call] = [(self.layout.keys(partition), [where]) for partition in partitions]
        replies = await self._run(SEEK, calls)  # one for each: in a cluster they may be on several nodes
        return Cursor({name: parse_position(place) for name, (place,) in zip(partitions, replies, strict=True)})

    async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        start, end = f"{after.epoch}-{after.offset + 1}", f"{after.epoch}-{until}"
        command = ("XRANGE", self.layout.stream(partition), start, end, "COUNT", self._page_size.records)
        try:
            entries = await self.circuit.run(lambda: self._ask(*command))
        except RedisFailure as error:
            raise unavailable(error) from error
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
    """Reads all followed streams with one XREAD on one connection."""

    def __init__(self, redis: RedisStreams, handler: Handler) -> None:
        self.running = False
        self._redis = redis
        self._following = Following(handler)
        self._wanted = 0  # counts changes of what is followed; a read that began before the last one is stale
        self._reading = 0
        self._client_id: int | None = None
        self._interrupting: asyncio.Task[None] | None = None

    def follow(self, positions: Mapping[str, Position | None]) -> None:
        """Read these partitions too, also while a read is blocked on the others."""
        if not self._following.follow(positions):
            return
        self._wanted += 1
        if self._interrupting is None or self._interrupting.done():
            self._interrupting = asyncio.create_task(self._interrupt())

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions, from the next read on."""
        self._following.unfollow(partitions)

    async def run(self) -> None:
        """Read until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            connection = Connection(self._redis.address)
            try:
                await self._following.wanted()
                await connection.connect(self._redis.timeout)
                self._client_id = int(await _ask(connection, self._redis.timeout, "CLIENT", "ID"))
                self._redis.circuit.close()  # or our look at the heads would not be let through
                await self._following.verify(self._redis.head)
                self.running = True
                backoff.reset()
                while True:
                    await self._read(connection)
            except (RedisFailure, TransportUnavailable) as error:
                log.warning("tail lost, reconnecting: %s", safe(error))
            except Exception:
                log.exception("tail failed, reconnecting")
            finally:
                self.running = False
                self._client_id = None
                connection.close()
            RECONNECTS.add()
            await asyncio.sleep(backoff.next())

    async def _read(self, connection: Connection) -> None:
        await self._following.wanted()
        self._reading = self._wanted
        names = {self._redis.layout.stream(name).encode(): name for name in self._following.at}
        places = [f"{at.epoch}-{at.offset}" for at in self._following.at.values()]
        block = self._redis.block
        limits: Command = ("COUNT", reading.PAGE, "BLOCK", int(block * 1000))
        reply = await _ask(connection, block + self._redis.timeout, "XREAD", *limits, "STREAMS", *names, *places)
        self._reading = self._wanted
        for stream, entries in reply or ():
            self._following.deliver(names[stream], parse_entries(names[stream], entries))
            epoch, _, offset = entries[-1][0].partition(b"-")
            self._following.step_over(names[stream], int(epoch), int(offset))

    async def aclose(self) -> None:
        """End what `run` leaves behind."""
        if self._interrupting is not None:
            await stop(self._interrupting)

    async def _interrupt(self) -> None:
        """End a blocked read that began before the last `follow`, so that the next one covers it.

        The read may be on its way to the server, not blocked yet: then UNBLOCK answers 0 and is tried again. And
        while an answer is on its way here, `follow` may have been called once more.
        """
        while self._client_id is not None and self._reading < self._wanted:
            try:
                await self._redis.unblock(self._client_id)
            except RedisFailure as error:
                log.warning("cannot interrupt the tail's read: %s", safe(error))
            await asyncio.sleep(0.005)


async def _ask(connection: Connection, silence: float, *command: str | bytes | int) -> Any:
    (reply,) = await connection.call((command,), silence)
    if isinstance(reply, RefusedError):
        raise reply
    return reply


def _is_unknown(reply: Any) -> bool:
    return isinstance(reply, RefusedError) and reply.code == "NOSCRIPT"
