"""Appending for a crowd: what is published while an append is under way goes along with the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from shared.errors import TransportUnavailable
from shared.transports.postgres_connection import TIMEOUT, Row

TOGETHER = 500
"""Events of one append, unless a single batch has more: the log is locked for about 0.1 ms an event."""

BYTES_TOGETHER = 2**20  # one request's limit: a small event must not wait for many large ones


class Entry(NamedTuple):
    """An event on its way into a partition."""

    partition: str
    key: str
    stored: str


class Call(NamedTuple):
    """The arguments of the SQL function `append`: `counts` says how many keys and events are for each partition."""

    partitions: list[str]
    counts: list[int]
    keys: list[str]
    events: list[str]


_Waiting = tuple[Sequence[Entry], asyncio.Future[list[Row]]]


class Appends:
    """One append at a time: a commit costs as much as hundreds of events, and publishers wait for one lock anyway."""

    def __init__(self, append: Callable[[Call], Awaitable[list[Row]]]) -> None:
        self._append = append
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def add(self, entries: Sequence[Entry]) -> list[Row]:
        """Return the append's row for each entry, in order; raises TransportUnavailable."""
        answer: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(TIMEOUT):
                return await answer
        except TimeoutError as error:
            raise TransportUnavailable("Postgres does not answer in time") from error

    async def aclose(self) -> None:
        """Wait for the append that is under way."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._append_together(self._take())
        finally:
            self._task = None

    def _take(self) -> list[_Waiting]:
        """Return batches that go together; whoever gave up waiting has been told that nothing was accepted."""
        taken: list[_Waiting] = []
        events = size = 0
        while self._waiting:
            entries, answer = self._waiting[0]
            events += len(entries)
            size += sum(len(entry.stored) for entry in entries)
            if taken and (events > TOGETHER or size > BYTES_TOGETHER):
                break
            self._waiting.popleft()
            if not answer.done():
                taken.append((entries, answer))
        return taken

    async def _append_together(self, taken: list[_Waiting]) -> None:
        try:
            rows = await self._append_in_order([entry for entries, _ in taken for entry in entries])
        except TransportUnavailable as error:
            for _, answer in taken:
                if not answer.done():
                    answer.set_exception(TransportUnavailable(error.detail))
            return
        start = 0
        for entries, answer in taken:
            if not answer.done():
                answer.set_result(rows[start : start + len(entries)])
            start += len(entries)

    async def _append_in_order(self, entries: Sequence[Entry]) -> list[Row]:
        """Append grouped by partition; return the rows in the order of the entries."""
        order = sorted(range(len(entries)), key=lambda index: entries[index].partition)
        grouped = [entries[index] for index in order]
        counts = {name: len(list(group)) for name, group in groupby(grouped, key=lambda entry: entry.partition)}
        call = Call(
            list(counts), list(counts.values()), [entry.key for entry in grouped], [entry.stored for entry in grouped]
        )
        placed = dict(zip(order, await self._append(call), strict=True))
        return [placed[index] for index in range(len(entries))]
