"""Subscribers that wait until the tail reaches their position: a record wakes only those that wait for it."""

import asyncio
import itertools
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from tidewire.model.cursor import Position
from tidewire.model.record import Gap, Record


class PositionWaiters:
    """Subscribers that wait until the tail has reached a place, or has brought anything.

    After an outage thousands of subscribers have read the log further than the tail is. If each of them compared its
    place with every record, the tail would never get there.
    """

    def __init__(self, positions: Mapping[str, Position]) -> None:
        """`positions` is the tail's place in each followed partition; `on_item` comes after it has moved."""
        self._positions = positions
        self._by_partition: dict[str, _Heap] = {}
        self._for_anything: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._for_anything) + sum(map(len, self._by_partition.values()))

    def on_item(self, item: Record | Gap) -> None:
        """Wake the subscribers that wait for this item: after a gap all of them, because the log may have changed."""
        for future in self._for_anything:
            if not future.done():
                future.set_result(None)
        self._for_anything.clear()
        if isinstance(item, Gap):
            for heap in self._by_partition.values():
                heap.wake_all()
        elif item.position is not None and (waiting := self._by_partition.get(item.partition)) is not None:
            waiting.wake(item.position)

    def has_reached(self, positions: Mapping[str, Position]) -> bool:
        """Return whether the tail is at or past `positions`."""
        return all(_place(self._positions.get(name)) >= _place(at) for name, at in positions.items())

    async def reached(self, positions: Mapping[str, Position]) -> None:
        """Return once the tail is at or past `positions`, or has gone back."""
        while not self.has_reached(positions):
            before = {name: self._positions.get(name) for name in positions}
            behind = next(name for name, at in positions.items() if _place(before[name]) < _place(at))
            await self._by_partition.setdefault(behind, _Heap()).wait(positions[behind])
            if any(_place(self._positions.get(name)) < _place(before[name]) for name in positions):
                return  # the log went back, and the ring holds the gap

    async def any_item(self) -> None:
        """Return once something more has been broadcast."""
        moved = asyncio.get_running_loop().create_future()
        self._for_anything.add(moved)
        try:
            await moved
        finally:
            self._for_anything.discard(moved)


_numbers = itertools.count()  # so that two entries of one place differ before their futures, which have no order


class _Heap:
    """The places of one partition that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []  # a heap: epoch, offset, number
        self._cancelled = 0  # how many of those waiting have given up

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, position: Position) -> None:
        arrived = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (position.epoch, position.offset, next(_numbers), arrived))
        try:
            await arrived
        except asyncio.CancelledError:
            if arrived.cancelled():  # else it was woken just before, and has left the heap
                self._forget_one()
            raise

    def wake(self, position: Position) -> None:
        waiting = self._waiting
        while waiting and (waiting[0][0], waiting[0][1]) <= (position.epoch, position.offset):
            self._end(heappop(waiting)[3])

    def wake_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for *_, arrived in waiting:
            self._end(arrived)

    def _end(self, arrived: asyncio.Future[None]) -> None:
        if arrived.done():
            self._cancelled -= 1
        else:
            arrived.set_result(None)

    def _forget_one(self) -> None:
        """Drop the waiters that have given up once they are half of all: the tail may never reach their place."""
        self._cancelled += 1
        if self._cancelled * 2 > len(self._waiting):
            self._waiting = [each for each in self._waiting if not each[3].done()]
            heapify(self._waiting)
            self._cancelled = 0


def _place(position: Position | None) -> tuple[int, int]:
    return (0, 0) if position is None else (position.epoch, position.offset)
