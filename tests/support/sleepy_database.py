"""A proxy that behaves like Neon's: the compute is suspended while it is idle, and a new connection starts it again.

https://neon.com/docs/introduction/compute-lifecycle: without active queries for 5 minutes the compute is suspended and
its connections are closed; connecting to it starts it within a few hundred milliseconds. Here the times are shorter.
"""

import asyncio
from typing import Self

from tests.support.proxy import Proxy

TICK = 0.02  # seconds between two looks at the activity
COLD_START = 0.2  # seconds


class SleepyDatabase(Proxy):
    """`wakes` counts the starts of the compute; `idle` are the seconds until it is suspended."""

    def __init__(self, server_url: str, idle: float) -> None:
        super().__init__(server_url)
        self.idle = idle
        self.suspended = False
        self.wakes = 0
        self._monitor: asyncio.Task[None] | None = None
        self._active_at = 0.0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._monitor = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._monitor is not None
        self._monitor.cancel()
        await asyncio.gather(self._monitor, return_exceptions=True)
        await super().__aexit__()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        clock = asyncio.get_running_loop().time
        self._active_at = clock() + COLD_START
        if self.suspended:
            self.suspended = False
            self.wakes += 1
            await asyncio.sleep(COLD_START)
        if not writer.is_closing():
            await super()._forward(reader, writer)

    async def _watch(self) -> None:
        """Suspend the compute once no client has sent anything for long enough; listening sends nothing."""
        clock = asyncio.get_running_loop().time
        self._active_at, turns = clock(), self.turns
        while True:
            await asyncio.sleep(TICK)
            if self.turns != turns:
                self._active_at, turns = clock(), self.turns
            elif not self.suspended and clock() - self._active_at > self.idle:
                self.suspended = True
                self.cut()
