"""Connections to Redis for commands that are answered at once, and what their failures are told as."""

import asyncio
from collections.abc import Sequence
from typing import Any

from shared.backoff import Backoff
from shared.errors import TransportUnavailable
from shared.transports.circuit import Circuit
from shared.transports.resp import Address, Command, Connection, LostError, RedisFailure, RefusedError, SilentError

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
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._timeout = TIMEOUT
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []  # the last one used is the next: the others may rest
        self._open: set[Connection] = set()
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
                self._drop_idle()  # a restarted server has cut them all
                await asyncio.sleep(backoff.next())
        return await self._send(commands)

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
        return connection

    async def _send_on(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        try:
            if not connection.usable:
                await connection.connect(self._timeout)
                self._check_open()  # what was closed before it was connected is open now
            replies = await connection.call(commands, self._timeout)
        except BaseException as error:
            self._drop(connection)
            if self._closed and isinstance(error, Exception):
                raise _closed() from error
            raise
        for reply in replies:
            if isinstance(reply, RefusedError) and reply.code == "LOADING":  # started, and not ready yet
                self._drop(connection)
                raise LostError(reply.code)
        if connection in self._open:  # not closed meanwhile
            self._idle.append(connection)
        return replies

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _drop_idle(self) -> None:
        while self._idle:
            self._drop(self._idle.pop())

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()


def make_circuit() -> Circuit:
    """Return the circuit before one store."""
    return Circuit((LostError, SilentError), unavailable)


def unavailable(error: Exception) -> TransportUnavailable:
    """Return the error for the caller, with our own words and Redis' codes alone."""
    return TransportUnavailable(f"Redis cannot be used now ({safe(error)})")


def safe(error: Exception) -> str:
    """Say what went wrong without what came over the wire."""
    cause = error.__cause__ if isinstance(error, TransportUnavailable) and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, RedisFailure) else type(cause).__name__


def _closed() -> ClosedError:
    return ClosedError("the connections to Redis were closed")
