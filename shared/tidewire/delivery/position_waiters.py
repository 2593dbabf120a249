"""Waiting for the tail to come to a place: a crowd waits, and each record wakes only those who waited for it."""

import asyncio
from heapq import heapify, heappop, heappush

from tidewire.model.cursor import Position


class PositionWaiters:
    """The places of one partition that somebody waits for.

    After an outage thousands of subscribers have read the log further than the tail is. To let all of them look at each
    record again would take the time that the tail needs to get there.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []  # a heap: epoch, offset, number
        self._number = 0
        self._left = 0  # of those waiting, how many have given up

    async def reached(self, position: Position) -> None:
        """Return once the tail is at or past `position`, or jumps."""
        self._number += 1
        arrived = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (position.epoch, position.offset, self._number, arrived))
        try:
            await arrived
        except asyncio.CancelledError:
            if not arrived.done() or arrived.cancelled():
                self._forget_one()
            raise

    def wake(self, position: Position) -> None:
        """Let those go on who wait for `position`, or for a place before it."""
        waiting = self._waiting
        while waiting and (waiting[0][0], waiting[0][1]) <= (position.epoch, position.offset):
            self._go_on(heappop(waiting)[3])

    def jump(self) -> None:
        """Let all go on: the log is not what it was."""
        waiting, self._waiting = self._waiting, []
        for *_, arrived in waiting:
            self._go_on(arrived)

    def __len__(self) -> int:
        return len(self._waiting)

    def _go_on(self, arrived: asyncio.Future[None]) -> None:
        if arrived.done():
            self._left -= 1
        else:
            arrived.set_result(None)

    def _forget_one(self) -> None:
        """Where half have given up, drop them: their place may be one that never comes."""
        self._left += 1
        if self._left * 2 > len(self._waiting):
            self._waiting = [each for each in self._waiting if not each[3].done()]
            heapify(self._waiting)
            self._left = 0
