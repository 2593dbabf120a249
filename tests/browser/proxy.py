"""A TCP proxy between a browser and an instance, which fails like networks and buffering proxies."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.processes import HOST, Instance, free_port
from tests.support.waiting import Growing

READ_BYTES = 64 * 1024
STREAM = re.compile(rb"content-type: *text/event-stream", re.IGNORECASE)
DELIVERY_SECONDS = 0.05  # time for the browser to hand received bytes to the page
HEAD_BYTES = 1_000  # more than a response's head and first frame
LAST_FRAME_ID = re.compile(rb".*\nid: (\S+)\n\n", re.DOTALL)  # of a frame that has only an id, at the very end


class Proxy(Growing):
    """Forwards connections to an instance; browsers connect to `url`."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self.port = free_port()
        self.mean_cut: float | None = None  # mean number of response bytes before a connection is cut
        self.buffers_streams = False
        self.cuts = 0
        self.heartbeat_id = ""  # the id of the last forwarded heartbeat
        self._target = instance.port
        self._dice = random.Random()
        self._connections: set[asyncio.Task[object]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __str__(self) -> str:
        return f"{self.cuts} cuts, last heartbeat {self.heartbeat_id!r}"

    def hang_up(self) -> None:
        """End every connection. Bytes that were forwarded still arrive."""
        for connection in self._connections:
            connection.cancel()

    async def serve(self, reader: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        """Forward one connection until either side, or the proxy itself, ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._forward(reader, browser)
        browser.close()
        self._connections.discard(task)

    async def closed(self) -> None:
        """Return once every connection has ended."""
        await asyncio.gather(*self._connections)

    async def _forward(self, reader: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        responses, instance = await asyncio.open_connection(HOST, self._target)
        directions = [
            asyncio.ensure_future(_copy(reader, instance)),
            asyncio.ensure_future(self._respond(responses, browser)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            instance.close()

    def _delivers_before_cut(self) -> bool:
        """Whether the client must read some bytes before the next cut: a browser discards bytes that arrive with one.

        True every third time. After three connections without a byte, the client would poll instead.
        """
        return self.cuts % 3 == 2

    async def _respond(self, responses: asyncio.StreamReader, browser: asyncio.StreamWriter) -> None:
        left: float | None = None
        is_stream = False
        while data := await responses.read(READ_BYTES):
            is_stream = is_stream or STREAM.search(data) is not None
            if is_stream and self.buffers_streams:
                continue
            if is_stream and self.mean_cut is not None:
                if left is None:
                    left = self._dice.expovariate(1 / self.mean_cut)
                    left += HEAD_BYTES if self._delivers_before_cut() else 0
                data, left = data[: max(int(left), 0)], left - len(data)
            browser.write(data)
            await browser.drain()
            if is_stream and (match := LAST_FRAME_ID.match(data.removesuffix(b"\r\n"))):
                self.heartbeat_id = match[1].decode()
                self.grow()
            if left is not None and left <= 0:
                if self._delivers_before_cut():
                    await asyncio.sleep(DELIVERY_SECONDS)
                self.cuts += 1
                return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def proxy_to(instance: Instance) -> AsyncIterator[Proxy]:
    """A proxy to this instance, which forwards everything until a test sets a failure."""
    proxy = Proxy(instance)
    server = await asyncio.start_server(proxy.serve, HOST, proxy.port)
    try:
        yield proxy
    finally:
        server.close()
        proxy.hang_up()
        await proxy.closed()
