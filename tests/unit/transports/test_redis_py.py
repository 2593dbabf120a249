"""redis-py as Pub/Sub uses it: its settings, and its exceptions as ours."""

import asyncio

import pytest
import redis.asyncio as redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tidewire.transports.errors import CommandError, ConnectionLost, NotServing, ReadTimeout
from tidewire.transports.redis import redis_py
from tidewire.transports.redis.pool import CONNECTIONS
from tidewire.transports.redis.redis_py import TailConnections, make_client, translate
from tidewire.transports.sockets import TCP_OPTIONS

from tests.support.clocks import virtual_time

TIMEOUT = 7.5


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ReadOnlyError("hunter2"), NotServing, "READONLY"),
        (MasterDownError("hunter2"), NotServing, "MASTERDOWN"),
        (BusyLoadingError("hunter2"), NotServing, "LOADING"),
        (AuthenticationError("hunter2"), NotServing, "WRONGPASS"),
        (RedisTimeoutError("hunter2"), ReadTimeout, "no answer in time"),
        (TimeoutError("hunter2"), ReadTimeout, "no answer in time"),
        (RedisConnectionError("hunter2"), ConnectionLost, "ConnectionError"),
        (ConnectionResetError("hunter2"), ConnectionLost, "ConnectionResetError"),
        (RuntimeError("hunter2"), ConnectionLost, "RuntimeError"),
        (NoScriptError("hunter2"), CommandError, "NOSCRIPT"),
        (NoPermissionError("hunter2"), CommandError, "NOPERM"),
        (OutOfMemoryError("hunter2"), CommandError, "OOM"),
        (ResponseError("hunter2 was wrong"), CommandError, "ERR"),
        (ResponseError("Error running script: MISCONF Redis is hunter2"), CommandError, "MISCONF"),
        (RedisError("hunter2"), CommandError, "ERR"),
    ],
)
def test_exceptions_become_ours_without_their_text(error: Exception, kind: type[Exception], text: str) -> None:
    """It may hold a host or a password."""
    ours = translate(error)
    assert type(ours) is kind
    assert str(ours) == text


@pytest.fixture(autouse=True)
def _own_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give our time-out another value than redis-py's default."""
    monkeypatch.setattr(redis_py, "TIMEOUT", TIMEOUT)


async def test_the_client_waits_for_a_connection_and_a_reply() -> None:
    client = make_client("redis://h:7/3")
    pool = client.connection_pool
    assert isinstance(pool, redis.BlockingConnectionPool)
    assert (pool.max_connections, pool.timeout) == (CONNECTIONS, TIMEOUT)
    settings = pool.connection_kwargs
    assert (settings["host"], settings["port"], settings["db"], settings["protocol"]) == ("h", 7, 3, 2)
    assert (settings["socket_timeout"], settings["socket_connect_timeout"]) == (TIMEOUT, TIMEOUT)
    assert (settings["socket_keepalive"], settings["socket_keepalive_options"]) == (True, TCP_OPTIONS)
    assert settings["driver_info"] is None, "else each connection sends two commands more"
    await client.aclose()


async def tries(error: type[Exception]) -> int:
    """Return how often the client sends a command that fails each time."""
    retry = make_client("redis://h").connection_pool.connection_kwargs["retry"]
    made = 0

    async def fail() -> None:
        nonlocal made
        made += 1
        raise error

    async def note(_: Exception) -> None: ...

    with pytest.raises(error):
        await retry.call_with_retry(fail, note)
    return made


@virtual_time
async def test_the_client_tries_again_but_not_after_a_timeout() -> None:
    """After short pauses, of which each is drawn anew."""
    assert await tries(RedisTimeoutError) == 1
    assert now() == 0
    pauses = []
    for _ in range(50):
        started = now()
        assert await tries(RedisConnectionError) == 3
        pauses.append(now() - started)
    assert 0.05 < max(pauses) <= 0.12


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_unix_socket_has_no_keepalive() -> None:
    for settings in (
        make_client("unix:///s").connection_pool.connection_kwargs,
        vars(TailConnections("unix:///s", 1).make()),
    ):
        assert "socket_keepalive" not in settings
        assert settings["path"] == "/s"


async def test_connections_of_the_tail_wait_longer_and_never_retry() -> None:
    connection = TailConnections("redis://h:7/3", 20).make()
    assert isinstance(connection, redis.Connection)
    assert (connection.host, connection.port, connection.db, connection.protocol) == ("h", 7, 3, 2)
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (20 + TIMEOUT, TIMEOUT)
    assert (connection.socket_keepalive, connection.socket_keepalive_options) == (True, TCP_OPTIONS)
    assert connection.retry.get_retries() == 0
    assert connection.driver_info is None
    assert not connection.is_connected


async def test_connections_of_the_tail_are_not_shared() -> None:
    connections = TailConnections("redis://h", 20)
    assert connections.make() is not connections.make()
