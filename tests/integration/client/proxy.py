"""The network between a client and an instance: it cuts connections, splits data, or buffers."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.processes import HOST, Instance


class Proxy:
    """Forwards connections to an instance; `cuts` counts the connections that it cut."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._port = 0
        self.cuts = 0
        self.connections = 0

    @property
    def url(self) -> str:
        """The URL of the instance's events through this proxy."""
        return f"{self.address}/api/events"

    @property
    def address(self) -> str:
        """The URL of the instance through this proxy."""
        return f"http://{HOST}:{self._port}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Proxy"]:
        """Accept connections until the context ends."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, HOST, 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection(HOST, self.instance.port)
        up = asyncio.create_task(self._carry(reader, there_writer))
        try:
            with contextlib.suppress(OSError):
                await self.down(there_reader, writer)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            there_writer.transport.abort()
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await self.up(reader, writer)

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward requests."""
        await _pump(reader, writer)

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward responses."""
        await _pump(reader, writer)


class CuttingProxy(Proxy):
    """Cuts each connection after a random number of bytes, and forwards random pieces."""

    def __init__(self, instance: Instance, seed: int, maximum: int) -> None:
        super().__init__(instance)
        self._random = random.Random(seed)
        self._most = maximum

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a part of the response."""
        left = self._random.randint(0, self._most)
        while left and (data := await reader.read(self._random.randint(1, 600))):
            writer.write(data[:left])
            left -= len(data[:left])
            await writer.drain()
        self.cuts += not left


class BufferingProxy(Proxy):
    """A proxy that forwards complete responses only, and so never a stream."""

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward responses with a length; hold the others."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                if length is None:
                    writer.write(head + await reader.read())
                    break
                writer.write(head + await reader.readexactly(int(length[1])))
        await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
