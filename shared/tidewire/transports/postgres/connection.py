"""Connections to Postgres: a small pool, one that listens, and what was learned of a pooler in front of the server."""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.primitives.circuit_breaker import Circuit
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

log = logging.getLogger(__name__)

Row = Sequence[Any]


class Fetch(Protocol):
    """Runs one statement and returns its rows; raises TransportUnavailable."""

    def __call__(self, sql: str, *arguments: object) -> Awaitable[list[Row]]: ...


TIMEOUT = 5.0  # seconds for a statement, a turn in the pool included; a publisher hears 503 after it
_CONNECT_TIMEOUT = 4.0  # of all hosts together; less, so that the time-out of a connection is told as that
_CLOSE_TIMEOUT = 1.0

CONNECTIONS = 4
"""At most so many, opened when they are needed: a function that answers one request at a time never opens a second."""

_ATTEMPTS = 3

POOLED_HOST = (
    "its host is a connection pooler's (-pooler), behind which LISTEN is forgotten at once: streams need the direct"
    " host (on Neon the same name without -pooler, on Netlify NETLIFY_DATABASE_URL_UNPOOLED)"
)

# One dead peer is noticed within 15 + 3 * 5 s, by both sides: a backend whose client has vanished may hold a lock.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 15, 5, 3
_SETTINGS = {
    "default_transaction_isolation": "read committed",  # a snapshot from before the lock would be a conflict each time
    "enable_seqscan": "off",  # plans are kept while tables grow from nothing
    "jit": "off",  # it takes 0.1 s, and the price that forbids a scan calls for it
    "tcp_keepalives_idle": str(_KEEPALIVE_IDLE),
    "tcp_keepalives_interval": str(_KEEPALIVE_INTERVAL),
    "tcp_keepalives_count": str(_KEEPALIVE_COUNT),
}


class Server:
    """What answers at a URL: the first of its hosts that takes writes, behind a pooler or not."""

    def __init__(self, url: str) -> None:
        self._address = parse_address(url)
        self._is_plain = self._address.pooled  # no settings of the session, and no statements that are prepared by name

    async def connect(self, name: str = "tidewire") -> Any:
        """Return a new connection, which pg_stat_activity tells by `name`; raises what asyncpg does.

        A standby is no answer: what it holds may be behind what was acknowledged, and it takes no event.
        """
        failure: Exception | None = None
        hosts = self._address.hosts
        for host in hosts:  # asyncpg gives all of them one time-out, and a silent one would take it whole
            try:
                return await self._connect(host, name, _CONNECT_TIMEOUT / len(hosts))
            except FAILURES as error:
                if failure is None or isinstance(failure, OSError):
                    failure = error  # what a server says is worth more than that another does not answer
        assert failure is not None
        raise failure

    def note_pooler(self) -> None:
        """Prepare no more statements by name: the session has changed between two statements."""
        if not self._is_plain:
            self._is_plain = True
            log.warning("DATABASE_URL: %s", POOLER)

    async def _connect(self, host: Host, name: str, seconds: float) -> Any:
        try:
            return await self._open(host, name, seconds)
        except asyncpg.ProtocolViolationError:  # a pooler that takes no settings, whatever it does with sessions
            if self._is_plain:
                raise
            self._is_plain = True
            log.info("a pooler answers at DATABASE_URL: its connections take no settings of ours")
            return await self._open(host, name, seconds)

    async def _open(self, host: Host, name: str, seconds: float) -> Any:
        connection = await asyncpg.connect(
            self._address.url,
            host=host[0],
            port=host[1],
            timeout=seconds,
            target_session_attrs="read-write",  # Postgres says so as it greets: no round trip more
            # Behind a pooler the next statement may meet a session that has not prepared it.
            statement_cache_size=0 if self._is_plain else 100,
            max_cached_statement_lifetime=0,  # for ever: preparing again would be a second round trip
            server_settings={"application_name": name, **({} if self._is_plain else _SETTINGS)},
        )
        _keep_alive(connection)
        return connection


async def close(connection: Any) -> None:
    """Close a connection in order, or at once where the server does not answer."""
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except FAILURES:
        connection.terminate()


class Pool:
    """At most `size` connections. asyncpg's own pool would add a round trip that resets what we never set.

    `on_silence` is called where the server did not answer in time.
    """

    def __init__(self, server: Server, size: int = CONNECTIONS, on_silence: Callable[[], None] = lambda: None) -> None:
        self._server = server
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Any] = []
        # Before connecting only: a statement may also be late because an application holds a lock, and others are not.
        self._circuit = Circuit(FAILURES, unavailable)
        self._on_silence = on_silence
        self._closed = False

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement that is safe to run twice: it is, where the first run's answer is lost."""
        clock = asyncio.get_running_loop().time
        asked_at = math.inf
        try:
            async with asyncio.timeout(TIMEOUT), self._slots:
                for _ in range(_ATTEMPTS - 1):
                    connection, used_before = await self._take()
                    asked_at = clock()
                    try:
                        return await self._run(connection, sql, arguments)
                    except FAILURES as error:
                        if not self._is_worth_another(error, used_before and connection.is_closed()):
                            raise
                connection, _ = await self._take()
                asked_at = clock()
                return await self._run(connection, sql, arguments)
        except TimeoutError as error:
            if clock() - asked_at > TIMEOUT / 2:  # else the time went by in line
                self.condemn()  # or each of them would cost another caller the same time
                self._on_silence()
            raise unavailable(error) from error
        except FAILURES as error:
            raise unavailable(error) from error

    @property
    def is_away(self) -> bool:
        """Whether no connection could be opened the last times."""
        return self._circuit.is_open

    def condemn(self) -> None:
        """Use no connection again that is idle now."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    async def aclose(self) -> None:
        """Close all connections; nothing can be fetched afterwards."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(close(connection) for connection in idle))

    def _is_worth_another(self, error: Exception, died_idle: bool) -> bool:
        """Return whether a fresh connection may do better. An idle one may have died long ago: Lambda froze."""
        if isinstance(error, SHARED_SESSION):
            self._server.note_pooler()
        if isinstance(error, SHARED_SESSION + READ_ONLY):
            self.condemn()  # they lead to the same session, or to the same server that has become a standby
            return True
        return died_idle or isinstance(error, CONFLICTS)

    async def _take(self) -> tuple[Any, bool]:
        """Return a connection, and whether it was used before."""
        if self._closed:
            raise TransportUnavailable("The transport is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection, True
        return await self._circuit.run(self._server.connect), False

    async def _run(self, connection: Any, sql: str, arguments: Sequence[object]) -> list[Row]:
        try:
            rows: list[Row] = await connection.fetch(sql, *arguments)
        except BaseException as error:
            # Anything but the server's own "no" leaves it in the middle of an answer, and to wait for that could take
            # for ever.
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

    Raises TransportUnavailable, and SettingsError with the server's own words where it refuses a statement.
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
    server: Server, channel: str, on_doorbell: Callable[[str], None], on_lost: Callable[[], None]
) -> AsyncIterator[Fetch]:
    """Open a connection that hears a channel until the context ends; statements run on it by what is yielded.

    Raises TransportUnavailable. `on_lost` is called where the connection ends by itself.
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
                    channel, lambda _connection, _pid, _channel, payload: on_doorbell(payload)
                )
        except FAILURES as error:
            raise unavailable(error) from error
        yield fetch
    except TransportUnavailable:
        connection.terminate()
        raise
    finally:
        await close(connection)


def _keep_alive(connection: Any) -> None:
    """Have the kernel notice a peer that has vanished without a word, as behind a NAT that forgot the connection."""
    peer = connection._transport.get_extra_info("socket")  # noqa: SLF001 — asyncpg has no setting for this
    if peer is None or peer.family == getattr(socket, "AF_UNIX", None):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # Linux, macOS
    for option, value in (
        (idle, _KEEPALIVE_IDLE),
        (getattr(socket, "TCP_KEEPINTVL", None), _KEEPALIVE_INTERVAL),
        (getattr(socket, "TCP_KEEPCNT", None), _KEEPALIVE_COUNT),
    ):
        if option is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, option, value)
