"""A pool of connections to Redis, for commands that are answered at once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.circuit_breaker import CircuitBreaker
from tidewire.transports import errors
from tidewire.transports.errors import ConnectionClosed, ConnectionLost, NotServing, ReadTimeout, is_not_serving
from tidewire.transports.redis.address import Address, Command, Servers
from tidewire.transports.redis.connection import Connection

TIMEOUT = 5.0  # seconds for any command but the tail's; a publisher gets its 503 after it, not after minutes

CONNECTIONS = 16
"""For everything but the tail; more callers wait for their turn. Without a limit, an instance whose subscribers all
reconnect at once would take the server's last connection."""

_TRIES = 3  # after a lost connection; a command that is sent again repeats nothing, since every event has an id


class Locator(Protocol):
    """Knows which server the commands go to."""

    @property
    def known(self) -> Address | None:
        """The server that was located last; None before."""

    async def locate(self) -> Address:
        """Return the address for a new connection. Raises StoreError."""
        ...

    async def aclose(self) -> None:
        """Close what it has opened; `locate` raises ConnectionClosed from now on."""
        ...


class FixedAddress:
    """A `Locator` for a URL that names the one server."""

    def __init__(self, address: Address) -> None:
        self.known = address

    async def locate(self) -> Address:
        """Return the address."""
        return self.known

    async def aclose(self) -> None:
        """Do nothing."""


def make_locator(url: str, on_moved: Callable[[], None] = lambda: None) -> Locator:
    """Return a locator for a URL of one server, or of sentinels; `on_moved` is called when they name another primary.

    Raises SettingsError.
    """
    servers = Servers.parse(url)
    if servers.kind != "sentinel":
        return FixedAddress(Address.parse(url))
    from tidewire.transports.redis.sentinel import Sentinels  # a process with one server starts without it

    return Sentinels(servers, on_moved)


class ConnectionPool:
    """Sends commands, several in one round trip, each time on a connection that no other call uses.

    After a lost connection they are sent again; not after a time-out, or a silent server would hold a publisher for
    several of them.

    A connection that is lost, silent, or leads to a server that is not the primary evicts all others: a restart, a NAT
    or a failover has done the same to every connection opened before. `on_evicted` is called if the connection had
    worked before, for connections that are not in this pool.

    With `returns_redirections`, a refusal that names another node of a cluster (MOVED) is a reply, and evicts nothing.
    """

    def __init__(
        self,
        server: "Address | Locator",
        on_evicted: Callable[[], None] = lambda: None,
        *,
        returns_redirections: bool = False,
    ) -> None:
        self._locator = FixedAddress(server) if isinstance(server, Address) else server
        self._on_evicted = on_evicted
        self._returns_redirections = returns_redirections
        self._timeout = TIMEOUT
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []  # a stack: the connection used last is used next
        self._open: set[Connection] = set()
        self._reusable: set[Connection] = set()  # opened since the last eviction
        self._closed = False

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, raw; the reply of a refused command is a CommandError.

        Raises StoreError: ConnectionClosed once `aclose` was called. A cancelled call closes its connection, since
        part of its replies may still arrive there.
        """
        if not commands:  # a tail whose last subscriber has just left reads the heads of nothing
            return []
        backoff = Backoff(base=0.02)
        for _ in range(_TRIES - 1):
            try:
                return await self._send(commands)
            except ConnectionLost:
                await asyncio.sleep(backoff.next())
        return await self._send(commands)

    def evict(self) -> None:
        """Close idle connections now, and those in use when they become free."""
        self._reusable.clear()
        while self._idle:
            self._drop(self._idle.pop())

    def reset(self) -> None:
        """Close every connection now: the primary is another server. Calls under way are made again there."""
        self.evict()
        for connection in tuple(self._open):
            self._drop(connection)

    async def aclose(self) -> None:
        """Close every connection, also those in use and those that are being opened; no other one is opened."""
        self._closed = True
        self._idle.clear()
        for connection in tuple(self._open):
            self._drop(connection)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        await self._wait_for_turn()
        try:
            self._check_open()  # the pool may have been closed while this call waited
            until = asyncio.get_running_loop().time() + self._timeout  # a caller waits for one time-out
            connection = self._take()
            if connection is None:
                connection = Connection(await self._locator.locate())
                self._check_open()
                self._open.add(connection)
                self._reusable.add(connection)
            return await self._send_on(connection, commands, until)
        finally:
            self._turns.release()

    async def _wait_for_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise ReadTimeout("no connection became free in time") from None

    def _take(self) -> Connection | None:
        """Return an open connection that no call uses, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._drop(connection)
        return None

    async def _send_on(self, connection: Connection, commands: Sequence[Command], until: float) -> list[Any]:
        """Send on a connection, opened if it is new; the first byte must come by `until` on the loop's clock."""
        clock = asyncio.get_running_loop().time
        worked_before = connection.usable
        try:
            if not worked_before:
                await connection.connect(until - clock())
                self._check_open()  # `aclose` could not close it before it was connected
            replies = await connection.call(commands, self._timeout, first=until - clock())
            for reply in replies:
                if is_not_serving(reply) and not (self._returns_redirections and reply.redirection is not None):
                    raise NotServing(reply.code)
        except BaseException as error:
            if isinstance(error, ConnectionLost | ReadTimeout) and connection in self._reusable and not self._closed:
                self.evict()
                if worked_before:  # a connection that cannot be opened proves nothing about open ones
                    self._on_evicted()
            self._drop(connection)
            if self._closed and isinstance(error, Exception):
                raise _closed() from error
            raise
        if connection in self._reusable:  # neither closed nor evicted since
            self._idle.append(connection)
        else:
            self._drop(connection)
        return replies

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._reusable.discard(connection)
        connection.close()


def make_circuit_breaker() -> CircuitBreaker:
    """Return the circuit breaker of one transport."""
    return CircuitBreaker((ConnectionLost, ReadTimeout), unavailable)


def unavailable(error: Exception) -> TransportUnavailable:
    """Return the error for the caller."""
    return errors.unavailable("Redis", error)


def _closed() -> ConnectionClosed:
    return ConnectionClosed("the connections to Redis were closed")
