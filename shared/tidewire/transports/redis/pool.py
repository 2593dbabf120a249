"""Connections to Redis for commands that are answered at once, and what their failures are told as."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.circuit_breaker import Circuit
from tidewire.transports.redis import refusals
from tidewire.transports.redis.connection import (
    Address,
    Command,
    Connection,
    ElsewhereError,
    LostError,
    RedisFailure,
    RefusedError,
    SilentError,
)

TIMEOUT = 5.0  # seconds for any command but the tail's; a publisher hears 503 after it, not after minutes

CONNECTIONS = 16
"""For everything but the tail. A crowd waits for its turn: without a limit, an instance whose subscribers all come back
at once would take the server's last connection."""

_TRIES = 3  # after a lost connection: to send again repeats nothing, every event has an id


class ClosedError(RedisFailure):
    """The transport was closed, and sends nothing more: an answer, for to try again does not help."""


class Connections:
    """Sends commands, several in one round trip, each time on a connection that nobody else uses.

    After a lost connection they are sent again, which is safe: every event has an id before it gets here. After a
    time-out they are not, or a silent server would hold a publisher for several of them.

    A connection that is lost, silent, or leads to a server that is not the primary condemns all others that are open:
    what a restart, a NAT or a failover has done to one it has done to those that were opened before. `on_condemned` is
    called where it had worked before, for a connection that is not of this pool.
    """

    def __init__(self, address: Address, on_condemned: Callable[[], None] = lambda: None) -> None:
        self._address = address
        self._on_condemned = on_condemned
        self._timeout = TIMEOUT
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []  # the last one used is the next: the others may rest
        self._open: set[Connection] = set()
        self._trusted: set[Connection] = set()  # those that may be used again: opened since others were condemned
        self._closed = False

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, raw; that of a command which Redis refuses is a RefusedError.

        Raises RedisFailure: ClosedError once `aclose` was called. A cancelled call, of which nobody knows what was sent
        and read, takes its connection with it.
        """
        if not commands:  # a tail whose last subscriber has just left asks for the heads of nothing
            return []
        backoff = Backoff(base=0.02, cap=0.2)
        for _ in range(_TRIES - 1):
            try:
                return await self._send(commands)
            except LostError:
                await asyncio.sleep(backoff.next())
        return await self._send(commands)

    def condemn(self) -> None:
        """Use no connection again that is open now: idle ones are closed, those in use when they become free."""
        self._trusted.clear()
        while self._idle:
            self._drop(self._idle.pop())

    async def aclose(self) -> None:
        """Close every connection, also those in use and those that are being opened; no other is opened."""
        self._closed = True
        self._idle.clear()
        for connection in tuple(self._open):
            self._drop(connection)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        await self._wait_for_turn()
        try:
            self._check_open()  # it may have waited long for its turn
            return await self._send_on(self._take(), commands)
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
            raise SilentError("no connection became free in time") from None

    def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._drop(connection)
        connection = Connection(self._address)
        self._open.add(connection)
        self._trusted.add(connection)
        return connection

    async def _send_on(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        clock = asyncio.get_running_loop().time
        until = clock() + self._timeout  # to connect and to be answered: one time-out is what a caller waits
        worked_before = connection.usable
        try:
            if not worked_before:
                await connection.connect(self._timeout)
                self._check_open()  # what was closed before it was connected is open now
            replies = await connection.call(commands, self._timeout, first=until - clock())
            for reply in replies:
                if isinstance(reply, RefusedError) and reply.code in refusals.ELSEWHERE:
                    raise ElsewhereError(reply.code)
        except BaseException as error:
            if isinstance(error, LostError | SilentError) and connection in self._trusted and not self._closed:
                self.condemn()
                if worked_before:  # one that cannot be opened says nothing of one that is open
                    self._on_condemned()
            self._drop(connection)
            if self._closed and isinstance(error, Exception):
                raise _closed() from error
            raise
        if connection in self._trusted:  # neither closed nor condemned meanwhile
            self._idle.append(connection)
        else:
            self._drop(connection)
        return replies

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._trusted.discard(connection)
        connection.close()


def make_circuit() -> Circuit:
    """Return the circuit before one store."""
    return Circuit((LostError, SilentError), unavailable)


def unavailable(error: Exception) -> TransportUnavailable:
    """Return the error for the caller, with our own words and Redis' codes alone."""
    code = error.code if isinstance(error, RefusedError | ElsewhereError) else None
    return refusals.unavailable("Redis", safe(error), code)


def safe(error: Exception) -> str:
    """Say what went wrong without what came over the wire."""
    cause = error.__cause__ if isinstance(error, TransportUnavailable) and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, RedisFailure) else type(cause).__name__


def _closed() -> ClosedError:
    return ClosedError("the connections to Redis were closed")
