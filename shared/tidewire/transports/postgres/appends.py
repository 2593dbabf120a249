"""Group commit: events that are published while an append is under way go into the next one together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from tidewire.errors import AppendRefused, EventRefused, TransportUnavailable
from tidewire.model.partitions import SCHEMES
from tidewire.transports.postgres.connection import TIMEOUT, Row

TOGETHER = 500
"""Events of one append, unless a single batch has more: the log is locked for about 0.1 ms per event."""

BYTES_TOGETHER = 2**20  # the limit of one request: a small event must not wait for many large ones


class Entry(NamedTuple):
    """An event to be appended to a partition."""

    partition: str
    scope: str
    """Identifies duplicates."""
    chained: str
    stored: str
    others: str
    """The event's partitions and hashed scopes under other schemes, separated by commas."""


class Call(NamedTuple):
    """The arguments of the SQL function `append_scoped`; `counts` are the events of each partition."""

    partitions: list[str]
    counts: list[int]
    scopes: list[str]
    chained: list[str]
    events: list[str]
    others: list[str]
    expected: str


class _Waiting(NamedTuple):
    expected: str
    entries: Sequence[Entry]
    answer: asyncio.Future[list[Row]]

    def goes_with(self, other: "_Waiting") -> bool:
        """Return whether both can be in one call, which has one expected check and one retention."""
        ours, theirs = self.entries[0].partition == SCHEMES, other.entries[0].partition == SCHEMES
        return self.expected == other.expected and ours == theirs


class Appends:
    """One append at a time: a commit costs as much as hundreds of events, and publishers wait for one lock anyway."""

    def __init__(self, append: Callable[[Call], Awaitable[list[Row]]]) -> None:
        self._append = append
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def add(self, expected: str, entries: Sequence[Entry]) -> list[Row]:
        """Return the row of each entry, in order; none if the registry has another check than the expected one.

        Raises TransportUnavailable and EventRefused.
        """
        answer: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(expected, entries, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(TIMEOUT):
                return await answer
        except TimeoutError as error:
            raise TransportUnavailable("Postgres did not answer in time") from error

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
        """Return the batches of the next append, without those whose callers have given up and got an error."""
        taken: list[_Waiting] = []
        events = size = 0
        while self._waiting:
            waiting = self._waiting[0]
            events += len(waiting.entries)
            size += sum(len(entry.stored) for entry in waiting.entries)
            if taken and (events > TOGETHER or size > BYTES_TOGETHER or not waiting.goes_with(taken[0])):
                break
            self._waiting.popleft()
            if not waiting.answer.done():
                taken.append(waiting)
        return taken

    async def _append_together(self, taken: list[_Waiting]) -> None:
        if not taken:
            return
        try:
            rows = await self._append_in_order(taken[0].expected, [entry for one in taken for entry in one.entries])
        except (EventRefused, TransportUnavailable) as error:
            if len(taken) > 1 and isinstance(error, EventRefused | AppendRefused):
                for one in taken:  # no batch is refused because of another one
                    if not one.answer.done():
                        await self._append_together([one])
                return
            for one in taken:
                if not one.answer.done():
                    one.answer.set_exception(type(error)(error.detail))
            return
        start = 0
        for one in taken:
            if not one.answer.done():
                one.answer.set_result(rows[start : start + len(one.entries)])
            start += len(one.entries)

    async def _append_in_order(self, expected: str, entries: Sequence[Entry]) -> list[Row]:
        """Append grouped by partition; return the rows in the order of the entries, or none."""
        order = sorted(range(len(entries)), key=lambda index: entries[index].partition)
        grouped = [entries[index] for index in order]
        counts = {name: len(list(group)) for name, group in groupby(grouped, key=lambda entry: entry.partition)}
        _, scopes, chained, stored, others = map(list, zip(*grouped, strict=True))
        rows = await self._append(Call(list(counts), list(counts.values()), scopes, chained, stored, others, expected))
        if not rows:
            return []
        placed = dict(zip(order, rows, strict=True))
        return [placed[index] for index in range(len(entries))]
