"""Readers of streams that stop reading, and read on, when a test wants it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.support.clients import Stream, open_stream
from tests.support.processes import Instance
from tests.support.waiting import Growing

READ_SECONDS = 40.0  # a second or two on an idle machine


class Reader(Growing):
    """Reads a stream until a condition holds, and keeps the names of its events.

    It decodes nothing else of the many bytes.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.names: list[str] = []
        self.control: list[str] = []
        self._stream = stream
        self._begun = b""  # an incomplete frame

    async def read_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(READ_SECONDS):
            while not condition():
                await self._read()

    async def read_on(self) -> None:
        while True:
            await self._read()

    async def _read(self) -> None:
        chunk = await self._stream.read()
        assert chunk is not None, f"ended after {self}"
        *frames, self._begun = (self._begun + chunk).split(b"\n\n")
        for frame in frames:
            if control := re.search(rb"^event: (realtime\..*)$", frame, re.MULTILINE):
                self.control.append(control[1].decode())
            elif name := re.search(rb'^data: {"name": ?"([^"]*)"', frame, re.MULTILINE):
                self.names.append(name[1].decode())
        self.grow()

    def __str__(self) -> str:
        return f"{len(self.names)} events, {self.control}"


@asynccontextmanager
async def opened(instance: Instance, receive_buffer: int | None = None, **query: str) -> AsyncIterator[Reader]:
    """Open a stream, and read it up to `realtime.ready`."""
    async with open_stream(instance.port, query, receive_buffer=receive_buffer) as stream:
        reader = Reader(stream)
        await reader.read_until(lambda: bool(reader.control))
        yield reader
