"""redis-py's connections, as Pub/Sub uses them, and what their failures are called."""

import tidewire.transports.redis.lean_redis  # isort: skip  # before anything that imports redis  # noqa: F401
import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tidewire.errors import TransportUnavailable
from tidewire.primitives.circuit_breaker import Circuit
from tidewire.transports import keepalive
from tidewire.transports.redis import refusals

TIMEOUT = 5.0  # seconds for any command but a subscription's; a publisher hears 503 after it, not after minutes

CONNECTIONS = 16  # for everything but the subscription: a crowd waits for its turn

FAILURES = (RedisError, OSError, RuntimeError)
"""What a command raises where Redis is away. uvloop answers a write to a connection that the server has just closed
with a RuntimeError, and redis-py hands it on as it is."""

_LOST = (RedisConnectionError, RedisTimeoutError, OSError, RuntimeError)
"""Those of `FAILURES` that say that Redis is away; the others are answers."""

ELSEWHERE = (ReadOnlyError, MasterDownError, BusyLoadingError)
"""Refusals of a server that does not do its work now, or not any more: see `refusals.ELSEWHERE`."""

_CODES: dict[type[Exception], str] = {
    ReadOnlyError: "READONLY",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    AuthenticationError: "WRONGPASS",
}
_KEEPALIVE = {"socket_keepalive": True, "socket_keepalive_options": keepalive.TCP_OPTIONS}


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
        **({} if url.startswith("unix:") else _KEEPALIVE),
    )
    return redis.Redis.from_pool(pool)


def make_circuit() -> Circuit:
    """Return the circuit before one client."""
    return Circuit((*_LOST, *ELSEWHERE), unavailable)


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
            **({} if url.startswith("unix:") else _KEEPALIVE),
        )

    def make(self) -> AbstractConnection:
        """Return a new one; the caller connects and disconnects it."""
        connection: AbstractConnection = self._pool.make_connection()
        return connection


def unavailable(error: Exception) -> TransportUnavailable:
    """Return the error for the caller, without anything of the driver's text."""
    code = _CODES.get(type(error)) or (refusals.code_of(f"ERR {error}") if isinstance(error, RedisError) else None)
    return refusals.unavailable("Redis", safe(error), code)


def safe(error: Exception) -> str:
    """Name the error without its text: a driver's text may hold a host or a URL with its password."""
    cause = error.__cause__ if isinstance(error, TransportUnavailable) and error.__cause__ else error
    return type(cause).__name__
