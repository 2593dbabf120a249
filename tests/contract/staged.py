"""A log whose tail, or whose responses with heads, a test can delay."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from tidewire.model.cursor import Cursor
from tidewire.model.event import Event
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Handler, Log, Receipt, Tail


class StagedLog:
    """Forwards everything to a real log; what is held arrives late, and complete."""

    def __init__(self, log: Log) -> None:
        self.heads_read = 0
        self._log = log
        self._tail_held = False
        self._held: list[Record | Gap] = []
        self._handler: Handler | None = None
        self._heads = asyncio.Event()
        self._heads.set()
        self._head_asked = asyncio.Event()

    def hold_tail(self) -> None:
        """From now on, keep the tail's records from the hub."""
        self._tail_held = True

    def release_tail(self) -> None:
        """Hand all kept records to the hub."""
        self._tail_held = False
        held, self._held = self._held, []
        for item in held:
            assert self._handler is not None
            self._handler(item)

    def hold_heads(self) -> None:
        """From now on, read heads at once and return them late."""
        self._heads.clear()
        self._head_asked.clear()

    async def head_asked(self) -> None:
        """Return once a head is being held."""
        await self._head_asked.wait()

    def release_heads(self) -> None:
        """Return the heads."""
        self._heads.set()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        return await self._log.publish(events)

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        self._handler = handler
        return self._log.on_message(self._receive)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        answer = await self._log.head(partitions)
        self.heads_read += 1
        self._head_asked.set()
        await self._heads.wait()
        return answer

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        return await self._log.seek(partitions, time)

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        return self._log.replay(after, until)

    async def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        """Yield each item as a page, so that a subclass that stops `replay` stops this too."""
        async for item in self.replay(after, until):
            yield (item,)

    async def ping(self) -> None:
        await self._log.ping()

    async def aclose(self) -> None:
        await self._log.aclose()

    def _receive(self, item: Record | Gap) -> None:
        if self._tail_held:
            self._held.append(item)
        else:
            assert self._handler is not None
            self._handler(item)
