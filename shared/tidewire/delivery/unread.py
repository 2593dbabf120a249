"""Partitions that the tail was given to follow, and for which the store has answered no read yet."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import NamedTuple


class Unread:
    """Knows which partitions wait for their first read, and whether one has waited for longer than it should."""

    def __init__(self, patience: float) -> None:
        """`patience` is in seconds."""
        self._patience = patience
        self._reads: dict[str, _Read] = {}

    def add(self, partitions: Iterable[str], answered: Awaitable[None]) -> None:
        """Wait for a read of these partitions until `answered` is done, or until they are forgotten."""
        names = tuple(partitions)
        read = _Read(asyncio.ensure_future(answered), asyncio.get_running_loop().time())
        self._reads.update(dict.fromkeys(names, read))
        read.answered.add_done_callback(lambda _: self._note(names, read))

    def forget(self, partition: str) -> None:
        """Wait for this partition no longer."""
        self._reads.pop(partition, None)

    async def wait(self, partitions: Iterable[str]) -> None:
        """Return once none of these partitions waits for its first read."""
        if waiting := {read.answered for name in partitions if (read := self._reads.get(name)) is not None}:
            await asyncio.wait(waiting)

    @property
    def is_late(self) -> bool:
        """Whether an answer should have come by now."""
        return any(read.answered.get_loop().time() - read.since > self._patience for read in self._reads.values())

    def _note(self, partitions: Iterable[str], read: "_Read") -> None:
        for name in partitions:
            if self._reads.get(name) is read:
                del self._reads[name]


class _Read(NamedTuple):
    answered: asyncio.Future[None]  # done with the first answered read
    since: float  # on the loop's clock
