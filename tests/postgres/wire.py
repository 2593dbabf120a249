"""The network between Tidemark and its Postgres: counted, and broken at will."""

import asyncio
import contextlib
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.processes import HOST, free_port

READ_BYTES = 64 * 1024


class Wire:
    """Forwards connections to a server; `url` stays the same whatever happens to them."""

    def __init__(self, server_url: str) -> None:
        self.port = free_port()
        target = urlsplit(server_url)
        assert target.port is not None
        self._target = target.port
        self.url = server_url.replace(f":{target.port}", f":{self.port}") + "?sslmode=disable"
        self.turns = 0  # how often the client wrote after the server had spoken: its round trips
        self.lose: Literal["nothing", "answers"] = "nothing"
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
        self._server = await asyncio.start_server(self._forward, HOST, self.port)

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
        """Leave every open connection open and silent for good, as a lost route does; new ones work."""
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
        for speaker, source, sink in (("client", reader, there[1]), ("server", there[0], writer)):
            pump = asyncio.create_task(self._pump(speaker, source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, speaker: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if speaker == "server" and self.lose == "answers":
                    self.cut()  # the server has done it, and nobody hears so
                    return
                self.turns += speaker == "client" and self._speaker != "client"
                self._speaker = speaker
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
