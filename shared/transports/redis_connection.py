"""Connections to Redis over TCP, and what their failures are called."""

import asyncio
from collections.abc import Sequence
from typing import Any

import shared.transports.lean_redis  # isort: skip  # before anything that imports redis  # noqa: F401
import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.backoff import Backoff
from shared.errors import TransportUnavailable
from shared.transports.circuit import Circuit

TIMEOUT = 5.0  # seconds for any command but the tail's; a publisher hears 503 after it, not after minutes

CONNECTIONS = 16
"""For everything but the tail. A crowd waits for its turn: without a limit, an instance whose subscribers all come back
at once would take the server's last connection; redis-py's own limit, 100, turns the 101st away."""

FAILURES = (RedisError, OSError, RuntimeError)
"""What a command raises where Redis is away. uvloop answers a write to a connection that the server has just closed
with a RuntimeError, and redis-py hands it on as it is."""

_LOST = (RedisConnectionError, RedisTimeoutError, OSError, RuntimeError)
"""Those of `FAILURES` that say that Redis is away; the others are answers."""

_TRIES = 3  # after a lost connection: to send again repeats nothing, every event has an id

_READ_SIZE = 256 * 1024  # bytes asked of a socket at once: a page of a replay is rarely less


def make_client(url: str) -> redis.Redis:
    """Return a client for everything but the tail, not connected yet.

    It tries again after a lost connection, which is safe: every event has an id before it gets here. It does not
    after a time-out, or a silent server would hold a publisher for several of them.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=TIMEOUT,
        protocol=2,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 2, (RedisConnectionError,)),
        driver_info=None,
    )
    return redis.Redis.from_pool(pool)


def make_circuit() -> Circuit:
    """Return the circuit before one client."""
    return Circuit(_LOST, unavailable)


class ClosedError(RedisError):
    """The transport was closed, and sends nothing more: an answer, for to try again does not help."""

    def __init__(self) -> None:
        super().__init__("the connections to Redis were closed")


class Connections:
    """Sends commands, several in one round trip, each time on a connection that nobody else uses.

    These are redis-py's connections without its client, whose layers cost each command 0.1 ms: more than a script
    or a page takes in Redis. Lost connections and silence are met as `make_client` does.
    """

    def __init__(self, url: str) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            socket_read_size=_READ_SIZE,
            retry=Retry(ExponentialWithJitterBackoff(), 0),
            driver_info=None,  # to tell it, redis-py reads its package's metadata at every cold start
        )
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[AbstractConnection] = []  # the last one used is the next: the others may rest
        self._open: set[AbstractConnection] = set()
        self._closed = False

    async def send(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the replies, raw; a command that Redis refuses answers a ResponseError.

        Raises `FAILURES`: of these a ClosedError once `aclose` was called. A cancelled call, of which nobody knows
        what was sent and read, takes its connection with it.
        """
        backoff = Backoff(base=0.02, cap=0.2)
        for _ in range(_TRIES - 1):
            try:
                return await self._send(commands)
            except (RedisTimeoutError, TimeoutError):
                raise
            except (RedisConnectionError, OSError, RuntimeError):
                await self._drop_idle()  # a restarted server has cut them all
                await asyncio.sleep(backoff.next())
        return await self._send(commands)

    async def aclose(self) -> None:
        """Close every connection, also those in use and those that are being opened; no other is opened."""
        self._closed = True
        self._idle.clear()
        for connection in tuple(self._open):
            await self._drop(connection)

    async def _send(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._turns.acquire()
        except TimeoutError:
            raise RedisTimeoutError("no connection became free in time") from None
        try:
            self._check_open()  # it may have waited long for its turn
            return await self._send_on(self._idle.pop() if self._idle else self._pool.make_connection(), commands)
        finally:
            self._turns.release()

    async def _send_on(self, connection: AbstractConnection, commands: Sequence[Sequence[Any]]) -> list[Any]:
        self._open.add(connection)
        replies: list[Any] = []
        try:
            await connection.connect()  # returns at once where it is
            self._check_open()  # what was closed before it was connected is open now
            await connection.send_packed_command(connection.pack_commands(commands))
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except ResponseError as refusal:
                    replies.append(refusal)
        except BaseException as error:  # cancelled too: the next one to use it would read the rest of our replies
            await self._drop(connection)
            if self._closed and isinstance(error, Exception):  # redis-py has other words for it at every step
                raise ClosedError from error
            raise
        if connection in self._open:  # not closed meanwhile
            self._idle.append(connection)
        return replies

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await self._drop(connection)

    async def _drop(self, connection: AbstractConnection) -> None:
        self._open.discard(connection)
        await connection.disconnect(nowait=True)


class TailConnections:
    """Makes the connections that a tail waits on, up to `silence` seconds without a byte; one at a time is open."""

    def __init__(self, url: str, silence: float) -> None:
        # redis-py's own time-out and retries would repeat a blocked read silently for a minute.
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=silence + TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(ExponentialWithJitterBackoff(), 0),
            driver_info=None,
        )

    def make(self) -> AbstractConnection:
        """Return a new one; the caller connects and disconnects it."""
        connection: AbstractConnection = self._pool.make_connection()
        return connection


def unavailable(error: Exception) -> TransportUnavailable:
    """Return the error for the caller, without anything of the driver's text."""
    return TransportUnavailable(f"Redis cannot be used now ({safe(error)})")


def safe(error: Exception) -> str:
    """Name the error without its text: a driver's text may hold a host or a URL with its password."""
    cause = error.__cause__ if isinstance(error, TransportUnavailable) and error.__cause__ else error
    return type(cause).__name__
