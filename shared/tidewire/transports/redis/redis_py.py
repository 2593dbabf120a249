"""redis-py, for Pub/Sub: its client and its subscription, which need more than single commands.

Its exceptions become those of `transports.errors` here: `FAILURES` are caught, and `translate` returns ours.
"""

import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tidewire.transports.errors import CommandError, ConnectionLost, NotServing, ReadTimeout, StoreError
from tidewire.transports.redis.pool import CONNECTIONS, TIMEOUT
from tidewire.transports.sockets import TCP_OPTIONS

FAILURES = (RedisError, OSError, RuntimeError)
"""Raised by a command if Redis is unavailable or refuses. uvloop answers a write to a connection that the server has
just closed with a RuntimeError, which redis-py passes on."""

_NOT_SERVING: dict[type[Exception], str] = {
    ReadOnlyError: "READONLY",
    MasterDownError: "MASTERDOWN",
    BusyLoadingError: "LOADING",
    AuthenticationError: "WRONGPASS",
}
_REFUSED: dict[type[Exception], str] = {
    NoScriptError: "NOSCRIPT",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
}
_KEEPALIVE = {"socket_keepalive": True, "socket_keepalive_options": TCP_OPTIONS}


def translate(error: Exception) -> StoreError:
    """Return our error for one of `FAILURES`, without redis-py's text, which may hold a host or a password."""
    if (code := _NOT_SERVING.get(type(error))) is not None:
        return NotServing(code)
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return ReadTimeout("no answer in time")
    if isinstance(error, RedisConnectionError) or not isinstance(error, RedisError):
        return ConnectionLost(type(error).__name__)
    return CommandError(_REFUSED.get(type(error)) or f"ERR {error}")


def make_client(url: str) -> redis.Redis:
    """Return a client for everything but the tail, not connected yet.

    It sends again after a lost connection, but not after a time-out, or a silent server would hold a publisher for
    several of them.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=TIMEOUT,
        protocol=2,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(ExponentialWithJitterBackoff(base=0.02), 2, (RedisConnectionError,)),
        driver_info=None,
        **({} if url.startswith("unix:") else _KEEPALIVE),
    )
    return redis.Redis.from_pool(pool)


class TailConnections:
    """Makes the tail's connections, which wait up to `seconds` without a byte; one at a time is open.

    By default a connection does not retry: redis-py's retries would repeat a blocked read for a minute.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=seconds + TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            driver_info=None,
            **({} if url.startswith("unix:") else _KEEPALIVE),
        )

    def make(self) -> AbstractConnection:
        """Return a new connection; the caller connects and disconnects it."""
        connection: AbstractConnection = self._pool.make_connection()
        return connection
