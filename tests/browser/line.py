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
HEARD_SECONDS = 0.05  # for a browser to hand over what it has
HEAD_BYTES = 1_000  # more than the head of an answer and its first frame
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
        self._carriers: set[asyncio.Task[object]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __str__(self) -> str:
        return f"{self.cuts} cuts, last heartbeat {self.heartbeat_id!r}"

    def hang_up(self) -> None:
        """End every connection; what was on its way still arrives."""
        for carrier in self._carriers:
            carrier.cancel()

    async def carry(self, reader: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        """Carry one connection until either side, or the line itself, ends it."""
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._carry(reader, browser)
        browser.close()
        self._carriers.discard(carrier)

    async def closed(self) -> None:
        """Return once every connection has ended."""
        await asyncio.gather(*self._carriers)

    async def _carry(self, reader: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        answers, instance = await asyncio.open_connection(HOST, self._target)
        ways = [asyncio.ensure_future(_copy(reader, instance)), asyncio.ensure_future(self._answer(answers, browser))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            instance.close()

    def _is_heard(self) -> bool:
        """Whether the client shall have read something before the next cut: a browser throws away what comes with one.

        Every third time; three connections in a row without a byte, and the client would poll: no stream to cut.
        """
        return self.cuts % 3 == 2

    async def _answer(self, answers: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        left: float | None = None
        is_stream = False
        while data := await answers.read(READ_BYTES):
            is_stream = is_stream or STREAM.search(data) is not None
            if is_stream and self.buffers_streams:
                continue
            if is_stream and self.mean_cut is not None:
                if left is None:
                    left = self._dice.expovariate(1 / self.mean_cut) + (HEAD_BYTES if self._is_heard() else 0)
                data, left = data[: max(int(left), 0)], left - len(data)
            browser.write(data)
            await browser.drain()
            if is_stream and (match := LAST_FRAME_ID.match(data.removesuffix(b"\r\n"))):
                self.heartbeat_id = match[1].decode()
                self.grow()
            if left is not None and left <= 0:
                if self._is_heard():
                    await asyncio.sleep(HEARD_SECONDS)
                self.cuts += 1
                return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def line_to(instance: Instance) -> AsyncIterator[Line]:
    """A line to this instance, which does no harm until it is told to."""
    line = Line(instance)
    server = await asyncio.start_server(line.carry, HOST, line.port)
    try:
        yield line
    finally:
        server.close()
        line.hang_up()
        await line.closed()
