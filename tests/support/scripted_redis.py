"""A Redis that is a function in this process: it answers each command as a test says, without a socket."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

Reply = object
"""None, int, str (a status), bytes, a sequence of them; an Exception is an error reply with its text; or one of the
following."""

SILENCE = object()
"""No reply, now and later."""

HANG_UP = object()
"""The server closes the connection instead of replying."""


class Raw(bytes):
    """Bytes to be sent as they are."""


Answer = Callable[["Peer", Sequence[bytes]], Reply]


class ScriptedRedis:
    """Answers the connections that the running loop opens once `install` was called."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.opened: list[Peer] = []
        self.failure: Exception | None = None
        """What opening a connection raises."""
        self.delay = 0.0
        """Seconds that opening a connection takes."""

    def install(self) -> "ScriptedRedis":
        """Answer the connections of the running loop, which is the test's own."""
        loop = asyncio.get_running_loop()
        loop.create_connection = self._connect  # type: ignore[method-assign,assignment]  # in place of sockets
        loop.create_unix_connection = self._connect_to_path  # type: ignore[method-assign,assignment]  # in place of sockets
        return self

    @property
    def commands(self) -> list[list[bytes]]:
        """The commands of all connections, in order of the connections."""
        return [command for peer in self.opened for command in peer.commands]

    async def _connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int, **options: Any) -> object:
        return await self._open(factory, (host, port, options))

    async def _connect_to_path(self, factory: Callable[[], asyncio.Protocol], path: str) -> object:
        return await self._open(factory, (path,))

    async def _open(self, factory: Callable[[], asyncio.Protocol], address: tuple[Any, ...]) -> object:
        await asyncio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        peer = Peer(self, factory(), address)
        self.opened.append(peer)
        peer.protocol.connection_made(cast(asyncio.Transport, peer))
        return peer, peer.protocol


class Peer:
    """The server's end of one connection; to the client's protocol it is the transport."""

    def __init__(self, redis: ScriptedRedis, protocol: asyncio.Protocol, address: tuple[Any, ...] = ()) -> None:
        self.protocol = protocol
        self.address = address
        self.commands: list[list[bytes]] = []
        self.writes = 0
        self._redis = redis
        self._reader = hiredis.Reader()
        self._closed = False

    def write(self, data: bytes) -> None:
        """Read the client's commands, and reply to them in the loop's next turn."""
        assert not self._closed, "a write to a closed connection, which uvloop refuses"
        self.writes += 1
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self.commands.append(command)
            reply = self._redis.answer(self, command)
            if reply is HANG_UP:
                self.hang_up()
            elif reply is not SILENCE:
                self.send(reply)

    def send(self, reply: Reply) -> None:
        """Send one reply."""
        asyncio.get_running_loop().call_soon(self._deliver, reply if isinstance(reply, Raw) else encode(reply))

    def hang_up(self, error: Exception | None = None) -> None:
        """Close the connection, or break it with an error."""
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def abort(self) -> None:
        """Be closed by the client."""
        self.hang_up()

    def is_closing(self) -> bool:
        """Whether the connection is closed."""
        return self._closed

    def get_extra_info(self, name: str) -> None:
        """Have no socket."""

    def _deliver(self, data: bytes) -> None:
        if not self._closed:
            self.protocol.data_received(data)


def encode(reply: Reply) -> bytes:
    """Return a reply in RESP2."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Exception):
        return f"-{reply}\r\n".encode()
    if isinstance(reply, int):
        return f":{reply}\r\n".encode()
    if isinstance(reply, str):
        return f"+{reply}\r\n".encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    assert isinstance(reply, list | tuple)
    return b"*%d\r\n%s" % (len(reply), b"".join(map(encode, reply)))
