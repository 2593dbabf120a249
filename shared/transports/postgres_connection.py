"""Connections to Postgres: what a URL says, a small pool, one that listens, and errors that tell no secret."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from shared.errors import SettingsError, TransportUnavailable
from shared.transports.circuit import Circuit

Row = Sequence[Any]


class Fetch(Protocol):
    """Runs one statement and returns its rows; raises TransportUnavailable."""

    def __call__(self, sql: str, *arguments: object) -> Awaitable[list[Row]]: ...


TIMEOUT = 5.0  # seconds for a statement, a turn in the pool included; a publisher hears 503 after it
_CONNECT_TIMEOUT = 4.0  # less, so that the time-out of a connection is told as that
_CLOSE_TIMEOUT = 1.0

CONNECTIONS = 4
"""At most so many, opened when they are needed: a function that answers one request at a time never opens a second."""

_ATTEMPTS = 3

_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, RuntimeError)
"""What asyncpg raises where Postgres is away. uvloop answers a write to a connection that the server has just closed
with a RuntimeError."""

_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_NO_SCHEMA = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedTableError,
)

MIGRATE = "run: python -m shared migrate"
POOLED_HOST = (
    "its host is a connection pooler's (-pooler), behind which LISTEN is forgotten at once: streams need the direct"
    " host (on Neon the same name without -pooler, on Netlify NETLIFY_DATABASE_URL_UNPOOLED)"
)

# Parameters of libpq and of other drivers that asyncpg would send to the server as settings of its.
_CLIENT_ONLY = frozenset(
    (
        *("channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle"),
        *("keepalives_interval", "load_balance_hosts", "require_auth", "requirepeer", "sslcompression", "sslsni"),
        *("tcp_user_timeout", "connection_limit", "pgbouncer", "pool_timeout", "schema", "statement_cache_size"),
    )
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


def is_pooled(url: str) -> bool:
    """Tell whether a transaction pooler answers at this URL: Neon's `-pooler` hosts, or one marked `pgbouncer=true`.

    A pooler gives each transaction another session: LISTEN would be forgotten at once.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    hosts = f"{parts.netloc.rpartition('@')[2]},{query.get('host', '')}"
    return "-pooler" in hosts or query.get("pgbouncer") == "true"


async def connect(url: str, name: str = "tidemark") -> Any:
    """Return a new connection, which pg_stat_activity tells by `name`; raises what asyncpg does."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _CLIENT_ONLY]
    pooled = is_pooled(url)
    connection = await asyncpg.connect(
        urlunsplit(parts._replace(query=urlencode(query))),
        timeout=_CONNECT_TIMEOUT,
        # Behind a pooler the next statement may meet a session that has not prepared it.
        statement_cache_size=0 if pooled else 100,
        max_cached_statement_lifetime=0,  # for ever: preparing again would be a second round trip
        server_settings={"application_name": name, **({} if pooled else _SETTINGS)},
    )
    _keep_alive(connection)
    return connection


async def close(connection: Any) -> None:
    """Close a connection in order, or at once where the server does not answer."""
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except _FAILURES:
        connection.terminate()


def unavailable(error: Exception) -> TransportUnavailable:
    """Return what a caller is told; never the driver's own text, which may hold a host or a URL with its password."""
    if isinstance(error, _NO_SCHEMA):
        return TransportUnavailable(f"The database lacks Tidemark's tables or functions; {MIGRATE}")
    if isinstance(error, asyncpg.ProtocolViolationError):
        return TransportUnavailable(
            "A pooler answers that takes no session settings: mark its URL with ?pgbouncer=true"
        )
    if isinstance(error, asyncpg.LockNotAvailableError):
        return TransportUnavailable("A transaction of the application has published, and does not end")
    return TransportUnavailable(f"Postgres cannot be used now ({type(error).__name__})")


class Pool:
    """At most `size` connections. asyncpg's own pool would add a round trip that resets what we never set."""

    def __init__(self, url: str, size: int = CONNECTIONS) -> None:
        self._url = url
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Any] = []
        # Before connecting only: a statement may also be late because an application holds a lock, and others are not.
        self._circuit = Circuit(_FAILURES, unavailable)
        self._closed = False

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement that is safe to run twice: it is, where the first run's answer is lost."""
        try:
            async with asyncio.timeout(TIMEOUT), self._slots:
                for _ in range(_ATTEMPTS - 1):
                    connection, used_before = await self._take()
                    try:
                        return await self._run(connection, sql, arguments)
                    except _FAILURES as error:
                        # An idle connection may have died long ago: Lambda froze, the server restarted.
                        stale = used_before and connection.is_closed()
                        if not (stale or isinstance(error, _CONFLICTS)):
                            raise
                connection, _ = await self._take()
                return await self._run(connection, sql, arguments)
        except _FAILURES as error:
            raise unavailable(error) from error

    @property
    def is_away(self) -> bool:
        """Whether no connection could be opened the last times."""
        return self._circuit.is_open

    async def aclose(self) -> None:
        """Close all connections; nothing can be fetched afterwards."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(close(connection) for connection in idle))

    async def _take(self) -> tuple[Any, bool]:
        """Return a connection, and whether it was used before."""
        if self._closed:
            raise TransportUnavailable("The transport is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection, True
        return await self._circuit.run(lambda: connect(self._url)), False

    async def _run(self, connection: Any, sql: str, arguments: Sequence[object]) -> list[Row]:
        try:
            rows: list[Row] = await connection.fetch(sql, *arguments)
        except BaseException as error:
            # The server's own "no" leaves the connection as good as it was; anything else leaves it in the middle of
            # an answer, and to wait for that could take for ever.
            if isinstance(error, asyncpg.PostgresError) and error.sqlstate[:2] not in ("08", "57") and not self._closed:
                self._idle.append(connection)
            else:
                connection.terminate()
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
        connection = await connect(url)
    except _FAILURES as error:
        raise unavailable(error) from error
    try:
        yield connection
    except asyncpg.PostgresError as error:
        raise SettingsError("DATABASE_URL", f"the server refuses: {error}") from None
    except _FAILURES as error:
        raise unavailable(error) from error
    finally:
        await close(connection)


@asynccontextmanager
async def listen(
    url: str, channel: str, on_doorbell: Callable[[str], None], on_lost: Callable[[], None]
) -> AsyncIterator[Fetch]:
    """Open a connection that hears a channel until the context ends; statements run on it by what is yielded.

    Raises TransportUnavailable. `on_lost` is called where the connection ends by itself.
    """
    try:
        connection = await connect(url, "tidemark-tail")
    except _FAILURES as error:
        raise unavailable(error) from error

    async def fetch(sql: str, *arguments: object) -> list[Row]:
        try:
            async with asyncio.timeout(TIMEOUT):
                rows: list[Row] = await connection.fetch(sql, *arguments)
        except _FAILURES as error:
            raise unavailable(error) from error
        return rows

    try:
        connection.add_termination_listener(lambda _: on_lost())
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.add_listener(
                    channel, lambda _connection, _pid, _channel, payload: on_doorbell(payload)
                )
        except _FAILURES as error:
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
