"""A TCP proxy between an instance and its Redis: the network, to be broken at will."""

import asyncio
import contextlib
from typing import Self

from tests.processes import HOST, RedisServer, free_port

READ_BYTES = 64 * 1024


class Proxy:
    """Forwards every connection to a Redis, until it is told otherwise; `url` stays the same."""

    def __init__(self, redis: RedisServer) -> None:
        self.port = free_port()
        self._target = redis.port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def connect(self) -> None:
        """Let connections through from now on."""
        self._server = await asyncio.start_server(self._forward, HOST, self.port)

    async def refuse(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._stop_pumping()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def freeze(self) -> None:
        """Leave every open connection open and silent for good, as a lost route does; new ones work."""
        await self._stop_pumping()

    async def _stop_pumping(self) -> None:
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there[1]}
        for source, sink in ((reader, there[1]), (there[0], writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
