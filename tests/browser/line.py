"""The line between a browser and an instance: a TCP proxy that fails as networks and other people's proxies do."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.processes import HOST, Instance, free_port
from tests.waiting import Growing

READ_BYTES = 64 * 1024
STREAM = re.compile(rb"content-type: *text/event-stream", re.IGNORECASE)
LAST_FRAME_ID = re.compile(rb".*\nid: (\S+)\n\n", re.DOTALL)  # of a frame that holds nothing else, at the very end


class Line(Growing):
    """Forwards connections to an instance; `url` is where the browser finds it."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self.port = free_port()
        self.mean_cut: float | None = None  # bytes of answers after which a connection is cut, on average
        self.buffers_streams = False
        self.cuts = 0
        self.heartbeat_id = ""  # the id of the last heartbeat that went through
        self._target = instance.port
        self._dice = random.Random()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __str__(self) -> str:
        return f"{self.cuts} cuts, last heartbeat {self.heartbeat_id!r}"

    def hang_up(self) -> None:
        """End every connection; what was on its way still arrives."""
        for writer in self._writers:
            writer.close()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side, or the line itself, ends it."""
        there: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            answers, there = await asyncio.open_connection(HOST, self._target)
            done, pending = await asyncio.wait(
                [asyncio.create_task(_carry(reader, there)), asyncio.create_task(self._answer(answers, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            self._writers.discard(writer)
            for end in (writer, there):
                if end is not None:
                    end.close()

    async def _answer(self, answers: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        left: float | None = None
        is_stream = False
        while data := await answers.read(READ_BYTES):
            is_stream = is_stream or STREAM.search(data) is not None
            if is_stream and self.buffers_streams:
                continue
            if is_stream and self.mean_cut is not None:
                if left is None:
                    left = self._dice.expovariate(1 / self.mean_cut)
                data, left = data[: max(int(left), 0)], left - len(data)
            browser.write(data)
            await browser.drain()
            if is_stream and (match := LAST_FRAME_ID.match(data.removesuffix(b"\r\n"))):
                self.heartbeat_id = match[1].decode()
                self.grow()
            if left is not None and left <= 0:
                self.cuts += 1
                return


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def line_to(instance: Instance) -> AsyncIterator[Line]:
    """A line to this instance, which does no harm until it is told to."""
    line = Line(instance)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await line.forward(reader, writer)

    server = await asyncio.start_server(forward, HOST, line.port)
    try:
        yield line
    finally:
        server.close()
        line.hang_up()
        await server.wait_closed()
