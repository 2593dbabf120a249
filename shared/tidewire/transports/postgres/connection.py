"""Connections to Postgres: a small pool, and one that listens; a pooler in front of the server is detected."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.primitives.circuit_breaker import CircuitBreaker
from tidewire.settings.postgres_url import Host, parse_address
from tidewire.transports.postgres.errors import (
    CONFLICTS,
    FAILURES,
    POOLER,
    READ_ONLY,
    SHARED_SESSION,
    is_lost,
    unavailable,
)
from tidewire.transports.sockets import KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, keep_alive

log = logging.getLogger(__name__)

Row = Sequence[Any]


class Fetch(Protocol):
    """Runs one statement and returns its rows; raises TransportUnavailable."""

    def __call__(self, sql: str, *arguments: object) -> Awaitable[list[Row]]: ...


TIMEOUT = 5.0  # seconds for a statement, waiting for a turn included; a publisher gets its 503 after it
_CONNECT_TIMEOUT = 4.0  # for all hosts together; shorter, so that the error names the connection
_CLOSE_TIMEOUT = 1.0

CONNECTIONS = 4
"""Opened when they are needed: a function that handles one request at a time never opens a second."""

_ATTEMPTS = 3

POOLED_HOST = (
    "its host is a connection pooler's (-pooler), behind which a LISTEN ends at once: streams need the direct"
    " host (on Neon the same name without -pooler, on Netlify NETLIFY_DATABASE_URL_UNPOOLED)"
)

_SETTINGS = {
    "default_transaction_isolation": "read committed",  # a snapshot older than the lock would conflict each time
    "enable_seqscan": "off",  # plans are cached while tables grow from empty
    "jit": "off",  # it takes 0.1 s, and enable_seqscan=off raises the estimated costs above its threshold
    # The server too must notice a dead peer: a backend whose client has vanished may hold a lock.
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL),
    "tcp_keepalives_count": str(KEEPALIVE_COUNT),
}


class Server:
    """The server of a URL: the first of its hosts that takes writes, behind a pooler or not."""

    def __init__(self, url: str) -> None:
        self._address = parse_address(url)
        self._is_plain = self._address.pooled  # no session settings, and no named prepared statements

    async def connect(self, name: str = "tidewire") -> Any:
        """Return a new connection, with `name` in pg_stat_activity; raises asyncpg's errors.

        A standby is not used: it may lack acknowledged events, and it accepts none.
        """
        failure: Exception | None = None
        hosts = self._address.hosts
        for host in hosts:  # asyncpg has one time-out for all of them, which a silent one would use up
            try:
                return await self._connect(host, name, _CONNECT_TIMEOUT / len(hosts))
            except FAILURES as error:
                if failure is None or isinstance(failure, OSError):
                    failure = error  # a server's error says more than another one's silence
        assert failure is not None
        raise failure

    def note_pooler(self) -> None:
        """Stop preparing statements by name: the session changed between two statements."""
        if not self._is_plain:
            self._is_plain = True
            log.warning("DATABASE_URL: %s", POOLER)

    async def _connect(self, host: Host, name: str, seconds: float) -> Any:
        try:
            return await self._open(host, name, seconds)
        except asyncpg.ProtocolViolationError:  # a pooler that refuses session settings
            if self._is_plain:
                raise
            self._is_plain = True
            log.info("DATABASE_URL leads to a pooler, which refuses session settings")
            return await self._open(host, name, seconds)

    async def _open(self, host: Host, name: str, seconds: float) -> Any:
        connection = await asyncpg.connect(
            self._address.url,
            host=host[0],
            port=host[1],
            timeout=seconds,
            target_session_attrs="read-write",  # part of the handshake: no additional round trip
            # Behind a pooler the next statement may run in a session that has not prepared it.
            statement_cache_size=0 if self._is_plain else 100,
            max_cached_statement_lifetime=0,  # no limit: preparing again would be a second round trip
            server_settings={"application_name": name, **({} if self._is_plain else _SETTINGS)},
        )
        keep_alive(connection._transport)  # noqa: SLF001 — asyncpg has no setting for this
        return connection


async def close(connection: Any) -> None:
    """Close a connection in order, or at once if the server does not answer."""
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except FAILURES:
        connection.terminate()


class Pool:
    """At most `size` connections. asyncpg's own pool would add a round trip per statement, to reset the session.

    `on_silence` is called if the server did not answer in time.
    """

    def __init__(self, server: Server, size: int = CONNECTIONS, on_silence: Callable[[], None] = lambda: None) -> None:
        self._server = server
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Any] = []
        # For connecting alone: a statement may be late because an application holds a lock, while others are not.
        self._breaker = CircuitBreaker(FAILURES, unavailable)
        self._on_silence = on_silence
        self._closed = False

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement that may run twice: if its answer is lost, it is sent again. Raises TransportUnavailable."""
        clock = asyncio.get_running_loop().time
        sent_at = math.inf
        try:
            async with asyncio.timeout(TIMEOUT), self._slots:
                for _ in range(_ATTEMPTS - 1):
                    connection, was_idle = await self._take()
                    sent_at = clock()
                    try:
                        return await self._run(connection, sql, arguments)
                    except FAILURES as error:
                        if not self._is_worth_another_try(error, died_idle=was_idle and connection.is_closed()):
                            raise
                connection, _ = await self._take()
                sent_at = clock()
                return await self._run(connection, sql, arguments)
        except TimeoutError as error:
            if clock() - sent_at > TIMEOUT / 2:  # else the time was spent waiting for a turn
                self.evict()  # or each of them would cost another caller the same time
                self._on_silence()
            raise unavailable(error) from error
        except FAILURES as error:
            raise unavailable(error) from error

    @property
    def is_unavailable(self) -> bool:
        """Whether no connection could be opened the last times."""
        return self._breaker.is_open

    def evict(self) -> None:
        """Close idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    async def aclose(self) -> None:
        """Close all connections; nothing can be fetched afterwards."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(close(connection) for connection in idle))

    def _is_worth_another_try(self, error: Exception, *, died_idle: bool) -> bool:
        """Return whether a new connection may succeed. An idle one may have died long ago, while Lambda was frozen."""
        if isinstance(error, SHARED_SESSION):
            self._server.note_pooler()
        if isinstance(error, SHARED_SESSION + READ_ONLY):
            self.evict()  # they lead to the same session, or to the same server, which has become a standby
            return True
        return died_idle or isinstance(error, CONFLICTS)

    async def _take(self) -> tuple[Any, bool]:
        """Return a connection, and whether it was idle in the pool."""
        if self._closed:
            raise TransportUnavailable("The transport is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection, True
        return await self._breaker.run(self._server.connect), False

    async def _run(self, connection: Any, sql: str, arguments: Sequence[object]) -> list[Row]:
        try:
            rows: list[Row] = await connection.fetch(sql, *arguments)
        except BaseException as error:
            # After anything but an error of the server the connection is in the middle of an answer that may never end.
            if self._closed or is_lost(error):
                connection.terminate()
            else:
                self._idle.append(connection)
            raise
        if self._closed:
            await close(connection)
        else:
            self._idle.append(connection)
        return rows


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Any]:
    """Open a connection of asyncpg's until the context ends.

    Raises TransportUnavailable, and SettingsError with the server's own text if it refuses a statement.
    """
    try:
        connection = await Server(url).connect()
    except FAILURES as error:
        raise unavailable(error) from error
    try:
        yield connection
    except asyncpg.PostgresError as error:
        raise SettingsError("DATABASE_URL", f"the server refuses: {error}") from None
    except FAILURES as error:
        raise unavailable(error) from error
    finally:
        await close(connection)


@asynccontextmanager
async def listen(
    server: Server, channel: str, on_notification: Callable[[str], None], on_lost: Callable[[], None]
) -> AsyncIterator[Fetch]:
    """Open a connection that listens to a channel until the context ends; yields what runs statements on it.

    Raises TransportUnavailable. `on_lost` is called if the connection ends by itself.
    """
    try:
        connection = await server.connect("tidewire-tail")
    except FAILURES as error:
        raise unavailable(error) from error

    async def fetch(sql: str, *arguments: object) -> list[Row]:
        try:
            async with asyncio.timeout(TIMEOUT):
                rows: list[Row] = await connection.fetch(sql, *arguments)
        except FAILURES as error:
            if isinstance(error, SHARED_SESSION):
                server.note_pooler()
            raise unavailable(error) from error
        return rows

    try:
        connection.add_termination_listener(lambda _: on_lost())
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.add_listener(
                    channel, lambda _connection, _pid, _channel, payload: on_notification(payload)
                )
        except FAILURES as error:
            raise unavailable(error) from error
        yield fetch
    except TransportUnavailable:
        connection.terminate()
        raise
    finally:
        await close(connection)
