"""The log on Redis Streams over TCP: any Redis 6.2 or newer, Valkey, Upstash's TCP endpoint."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from shared.backoff import Backoff
from shared.cursor import Cursor, Position
from shared.errors import TransportUnavailable
from shared.event import Event
from shared.partitions import Partitions
from shared.record import Gap, Record
from shared.transports import reading
from shared.transports.base import Handler, Receipt, Retention
from shared.transports.following import Following, stop
from shared.transports.redis_layout import (
    APPEND,
    SEEK,
    Arguments,
    Call,
    Layout,
    Script,
    parse_entries,
    parse_position,
)
from shared.transports.sharing import SharedHead, SharedPages

log = logging.getLogger(__name__)

BLOCK = 20.0
"""Seconds that one XREAD waits: three commands a minute while idle, and a dead connection is noticed."""

_READ_SIZE = 256 * 1024  # bytes asked of a socket at once: a page of a replay is rarely less
_TIMEOUT = 5.0  # seconds for any other command; a publisher hears 503 after it, not after minutes

_CONNECTIONS = 16
"""For everything but the tail. A crowd waits for its turn: without a limit, an instance whose subscribers all come back
at once would take the server's last connection; redis-py's own limit, 100, turns the 101st away."""

_FAILURES = (RedisError, OSError, RuntimeError)
"""What a command raises where Redis is away. uvloop answers a write to a connection that the server has just closed
with a RuntimeError, and redis-py hands it on as it is."""


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
        self._pages = SharedPages(self._read_page)
        self._page_size = reading.PageSize()
        self.layout = Layout(prefix, partitions, retention)
        self._block = block
        # A retry after a lost connection cannot append twice: every event has an id before it gets here. A
        # time-out is not retried, or a silent server would hold a publisher for several of them.
        retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 2, (RedisConnectionError,))
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT,
            protocol=2,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            socket_read_size=_READ_SIZE,
            retry=retry,
        )
        self._client = redis.Redis.from_pool(pool)
        self._client.set_response_callback("XRANGE", _unparsed)  # parsed here, once
        # redis-py's own time-out and retries would repeat a blocked XREAD silently for a minute.
        self._tail_pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=block + _TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(ExponentialWithJitterBackoff(), 0),
        )

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

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition, in one round trip."""
        return await self._heads(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before the first record at or after `time`, in one round trip."""
        return await self._places(partitions, str(time or 0))

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]`; see `Log.replay`."""
        return reading.replay(after, until, read_page=self._pages, seek=self.seek)

    async def ping(self) -> None:
        """Return if Redis answers."""
        try:
            await self._client.ping()
        except _FAILURES as error:
            raise _unavailable(error) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._tail_pool.aclose()

    async def unblock(self, client_id: int) -> bool:
        """End the blocking read of another connection; False where it was not blocked."""
        return bool(await self._client.execute_command("CLIENT", "UNBLOCK", client_id))

    def tail_connection(self) -> AbstractConnection:
        """Return a new connection for blocking reads; the caller connects and disconnects it."""
        connection: AbstractConnection = self._tail_pool.make_connection()
        return connection

    @property
    def block(self) -> float:
        """Seconds that one blocking read waits."""
        return self._block

    async def _places(self, partitions: Sequence[str], where: str) -> Cursor:
        calls: list[Call] = [(self.layout.keys(partition), [where]) for partition in partitions]
        replies = await self._run(SEEK, calls)
        return Cursor({name: parse_position(reply) for name, reply in zip(partitions, replies, strict=True)})

    async def _read_page(self, partition: str, after: Position, until: int) -> list[Record]:
        start, end = f"{after.epoch}-{after.offset + 1}", f"{after.epoch}-{until}"
        try:
            entries = await self._client.execute_command(
                "XRANGE", self.layout.stream(partition), start, end, "COUNT", self._page_size.records
            )
        except _FAILURES as error:
            raise _unavailable(error) from error
        fitting = self._page_size.fit([len(fields[1]) for _, fields in entries])
        return parse_entries(partition, entries[:fitting])

    async def _run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run one script for each (keys, arguments), all in one round trip; a script is sent whole only once."""
        try:
            replies = await script.run(calls, self._pipeline, lambda reply: isinstance(reply, NoScriptError))
        except _FAILURES as error:
            raise _unavailable(error) from error
        for reply in replies:
            if isinstance(reply, RedisError):
                raise _unavailable(reply) from reply
        return replies

    async def _pipeline(self, commands: Sequence[Arguments]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))


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
            connection = self._redis.tail_connection()
            try:
                await self._following.wanted()
                await connection.connect()
                await connection.send_command("CLIENT", "ID")
                self._client_id = int(await connection.read_response())
                await self._following.verify(self._redis.head)
                self.running = True
                backoff.reset()
                while True:
                    await self._read(connection)
            except (*_FAILURES, TransportUnavailable) as error:
                log.warning("tail lost, reconnecting: %s", _safe(error))
            except Exception:
                log.exception("tail failed, reconnecting")
            finally:
                self.running = False
                self._client_id = None
                await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff.next())

    async def _read(self, connection: AbstractConnection) -> None:
        await self._following.wanted()
        self._reading = self._wanted
        names = {self._redis.layout.stream(name).encode(): name for name in self._following.at}
        places = [f"{at.epoch}-{at.offset}" for at in self._following.at.values()]
        await connection.send_command(
            "XREAD", "COUNT", reading.PAGE, "BLOCK", int(self._redis.block * 1000), "STREAMS", *names, *places
        )
        reply = await connection.read_response(disable_decoding=True)
        self._reading = self._wanted
        for stream, entries in reply or ():
            self._following.deliver(names[stream], parse_entries(names[stream], entries))
            epoch, _, offset = entries[-1][0].partition(b"-")
            self._following.step_over(names[stream], int(epoch), int(offset))

    async def _interrupt(self) -> None:
        """End a blocked read that began before the last `follow`, so that the next one covers it.

        The read may be on its way to the server, not blocked yet: then UNBLOCK answers 0 and is tried again. And
        while an answer is on its way here, `follow` may have been called once more.
        """
        while self._client_id is not None and self._reading < self._wanted:
            try:
                await self._redis.unblock(self._client_id)
            except _FAILURES as error:
                log.warning("cannot interrupt the tail's read: %s", _safe(error))
            await asyncio.sleep(0.005)


def _unparsed(response: Any, **_: Any) -> Any:
    return response


def _unavailable(error: Exception) -> TransportUnavailable:
    return TransportUnavailable(f"Redis cannot be used now ({_safe(error)})")


def _safe(error: Exception) -> str:
    """Name the error without its text: a driver's text may hold a host or a URL with its password."""
    cause = error.__cause__ if isinstance(error, TransportUnavailable) and error.__cause__ else error
    return type(cause).__name__
