"""One connection to Redis: hiredis packs commands and parses replies on a transport of the event loop.

redis-py adds a tenth of a millisecond to each command, more than a script takes in Redis, and its import costs a
function that starts cold as much as the import of all of Tidewire. The protocol is RESP2
(https://redis.io/docs/latest/develop/reference/protocol-spec/).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from tidewire.transports.errors import CommandError, ConnectionLost, NotServing, ReadTimeout
from tidewire.transports.redis.address import Address, Command
from tidewire.transports.sockets import keep_alive


class Connection(asyncio.Protocol):
    """A connection, used by one caller at a time."""

    def __init__(self, address: Address) -> None:
        """Make a connection that is not open yet."""
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(protocolError=ConnectionLost, replyError=CommandError)
        self._replies: list[Any] = []
        self._expected = 0
        self._answered: asyncio.Future[None] | None = None
        self._deadline: asyncio.Timeout | None = None
        self._read_timeout = 0.0
        self._on_reply: Callable[[Any], None] | None = None
        self._on_lost: Callable[[ConnectionLost], None] | None = None
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether it was open when the event loop last read from it."""
        return self._transport is not None and not self._transport.is_closing()

    async def connect(self, seconds: float) -> None:
        """Open the connection and authenticate within this time. Raises ConnectionLost and ReadTimeout."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        at = self._address
        try:
            async with asyncio.timeout(seconds):
                if at.path is not None:
                    await loop.create_unix_connection(lambda: self, at.path)
                else:
                    await loop.create_connection(lambda: self, at.host, at.port, ssl=at.tls)
        except TimeoutError:
            raise ReadTimeout("no connection in time") from None
        except OSError as error:
            raise ConnectionLost(type(error).__name__) from error
        if self._closed:  # while it was being opened
            self.close()
            raise ConnectionLost("closed")
        if at.handshake:
            replies = await self.call(at.handshake, seconds, first=until - loop.time())
            for command, reply in zip(at.handshake, replies, strict=True):
                if isinstance(reply, CommandError):
                    self.close()
                    if command[0] == "SELECT" and reply.code == "ERR":
                        raise ConnectionLost(f"the server has no database {int(command[1])}, which REDIS_URL names")
                    raise NotServing(reply.code)  # WRONGPASS, NOAUTH: tried again, since an operator may correct it

    async def call(self, commands: Sequence[Command], read_timeout: float, *, first: float | None = None) -> list[Any]:
        """Return the replies to `commands`, sent in one write; the reply of a refused one is a CommandError.

        Raises ConnectionLost, and ReadTimeout after `read_timeout` seconds without a byte, or `first` seconds without
        the first one. A cancelled call closes the connection: the next caller must not read the rest of its replies.
        """
        if self._transport is None or self._transport.is_closing():  # uvloop raises RuntimeError on a write to it
            raise ConnectionLost("closed")
        packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]  # any length
        self._replies, self._expected, self._read_timeout = [], len(commands), read_timeout
        self._answered = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(packed)
            async with asyncio.timeout(read_timeout if first is None else first) as self._deadline:
                await self._answered
        except TimeoutError:
            self.close()
            raise ReadTimeout("no answer in time") from None
        except BaseException:
            self.close()
            raise
        finally:
            self._answered = self._deadline = None
        return self._replies

    def listen(self, on_reply: Callable[[Any], None], on_lost: Callable[[ConnectionLost], None]) -> None:
        """Hand over every reply from now on, as an open connection with subscriptions needs it; `call` ends."""
        self._on_reply, self._on_lost = on_reply, on_lost

    def write(self, commands: Sequence[Command]) -> None:
        """Send commands to whose replies this connection listens."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join([hiredis.pack_command(tuple(command)) for command in commands]))  # type: ignore[arg-type]  # any length

    def close(self) -> None:
        """Close the connection at once, and do not open it any more; a call under way raises ConnectionLost."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is one by its methods alone
        keep_alive(transport)

    def data_received(self, data: bytes) -> None:
        """Parse the replies, and wake the caller when all of its own are there."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if self._on_reply is None:
                    self._replies.append(reply)
                else:
                    self._on_reply(reply)
        except ConnectionLost:  # not RESP; the parser's text may quote the data
            self._lose(ConnectionLost("not a Redis server"))
            self.close()
            return
        if self._on_reply is not None:
            return
        if self._answered is None or len(self._replies) > self._expected:
            self.close()  # the next caller would take the surplus for its own replies
            self._lose(ConnectionLost("more replies than commands"))
        elif len(self._replies) == self._expected:
            if not self._answered.done():
                self._answered.set_result(None)
        elif self._deadline is not None and not self._answered.done():
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._read_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the call that is under way."""
        self._lose(ConnectionLost("EOF" if exc is None else type(exc).__name__))

    def _lose(self, error: ConnectionLost) -> None:
        if self._on_lost is not None:
            self._on_lost(error)
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
