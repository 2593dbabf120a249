"""A TCP proxy between Tidewire and its store, which counts round trips and breaks connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.processes import HOST, free_port

READ_BYTES = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Forwards every connection to the server of a URL, until a method changes that; its own `url` stays the same.

    A setting applies to bytes that come after it: `delay` to both directions, `keep` to the next replies, `twice` to
    new connections.
    """

    def __init__(self, server_url: str) -> None:
        port = urlsplit(server_url).port
        assert port is not None
        self._target = port
        self._port = free_port()
        self.url = server_url.replace(f":{port}", f":{self._port}")
        self.delay = 0.0  # seconds that bytes take
        # Bytes of a reply that pass before its connection is cut; 0: the command ran, and its reply is lost.
        self.keep: int | None = None
        self.twice = False  # each request reaches the server twice, as from a proxy that retries too early
        self.turns = 0  # round trips: how often a client wrote after a reply
        self.cuts = 0  # replies cut by `keep`
        self._speaker = ""
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def connect(self) -> None:
        """Let connections through from now on."""
        self._server = await asyncio.start_server(self._forward, HOST, self._port)

    async def refuse(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.freeze()
        self.cut()

    def cut(self) -> None:
        """Cut every open connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def freeze(self) -> None:
        """Leave every open connection open and silent, as a lost route does; new ones work."""
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def lead_to(self, port: int, *, cut: bool = True) -> None:
        """Let new connections lead to another server, as after a failover, and cut the open ones.

        Without `cut` they stay with the old server, as in a planned failover.
        """
        self._target = port
        if cut:
            self.cut()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shadow = None
        try:
            there = await asyncio.open_connection(HOST, self._target)
            if self.twice:
                shadow = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there[1]}
        self._start(self._requests(reader, there[1], shadow))
        self._start(self._answers(there[0], writer, there[1]))

    def _start(self, pumping: Coroutine[Any, Any, None]) -> None:
        pump = asyncio.create_task(pumping)
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        shadow: Connection | None,
    ) -> None:
        writers = [writer] if shadow is None else [writer, shadow[1]]
        if shadow is not None:
            self._writers.add(shadow[1])
            self._start(_discard(shadow[0]))
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await asyncio.sleep(self.delay)
                self.turns += self._speaker != "client"
                self._speaker = "client"
                for each in writers:
                    each.write(data)
                    await each.drain()
        for each in writers:
            each.transport.abort()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await asyncio.sleep(self.delay)
                self._speaker = "server"
                keep = self.keep
                writer.write(data[:keep])
                await writer.drain()
                if keep is not None:
                    self.cuts += 1
                    there.transport.abort()
                    break
        if self.keep is None:
            writer.transport.abort()
        else:
            writer.close()  # what was kept arrives first


class Refusing:
    """Accepts connections and closes them at once, as a proxy in front of a store that is unavailable."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.transport.abort()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[Self]:
        """Listen until the context ends."""
        server = cls()
        async with await asyncio.start_server(server.take, HOST, 0) as listening:
            server.port = listening.sockets[0].getsockname()[1]
            yield server


async def _discard(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(READ_BYTES):
            pass
