"""Waiting for the tail: who is woken by what, in which partition, and what those that give up leave behind."""

import asyncio
from collections.abc import Mapping

import pytest
from tidewire.delivery.position_waiters import PositionWaiters
from tidewire.model.cursor import Position
from tidewire.model.record import Gap

from tests.support.clocks import virtual_time
from tests.support.waiting import spin
from tests.unit.delivery.members import record


class Tail:
    """A tail's place in two partitions, and the subscribers that wait for it."""

    def __init__(self) -> None:
        self.positions = {"a": Position(7, 0), "b": Position(7, 0)}
        self.waiters = PositionWaiters(self.positions)

    def bring(self, partition: str, offset: int) -> None:
        """Move to the record at this offset."""
        item = record(offset, partition=partition)
        assert item.position is not None
        self.positions[partition] = item.position
        self.waiters.on_item(item)

    def go_back(self, partition: str, position: Position) -> None:
        """Move to a gap."""
        self.positions[partition] = position
        self.waiters.on_item(Gap("epoch", partition, position))

    async def waiting(self, **offsets: int) -> asyncio.Task[None]:
        """A subscriber that waits for these offsets."""
        task = asyncio.create_task(self.waiters.reached({name: Position(7, at) for name, at in offsets.items()}))
        await spin()
        return task


async def is_woken(task: asyncio.Task[None]) -> bool:
    """Whether the wait is over, after all callbacks have run."""
    await spin(5)
    return task.done()


@virtual_time
async def test_a_place_that_is_reached_already_is_not_waited_for() -> None:
    tail = Tail()
    tail.bring("a", 3)
    for offsets in ({"a": 3}, {"a": 2, "b": 0}, {}):
        assert await is_woken(await tail.waiting(**offsets))
    assert len(tail.waiters) == 0
    assert tail.waiters.has_reached({"a": Position(7, 3), "unknown": Position(0, 0)})
    assert not tail.waiters.has_reached({"a": Position(7, 3), "unknown": Position(0, 1)})
    assert not tail.waiters.has_reached({"unknown": Position(1, 0)}), "a later epoch, not begun here"


@pytest.mark.parametrize("first", ["a", "b"])
@virtual_time
async def test_all_partitions_must_arrive_in_any_order(first: str) -> None:
    tail = Tail()
    task = await tail.waiting(a=2, b=2)
    for _ in range(2):
        tail.bring(first, 2)
        assert not await is_woken(task)
    tail.bring("b" if first == "a" else "a", 2)
    assert await is_woken(task)
    assert len(tail.waiters) == 0


@virtual_time
async def test_a_partition_that_arrived_is_not_waited_for() -> None:
    """Nothing more may come in it: the wait would last until a time-out."""
    tail = Tail()
    tail.bring("a", 2)
    task = await tail.waiting(a=2, b=2)
    tail.bring("b", 2)
    assert await is_woken(task)


@virtual_time
async def test_a_later_epoch_reaches_every_place_of_the_earlier() -> None:
    tail = Tail()
    task = await tail.waiting(a=9)
    tail.positions["a"] = Position(8, 1)
    tail.waiters.on_item(record(1, partition="a")._replace(position=Position(8, 1)))
    assert await is_woken(task)


@virtual_time
async def test_records_wake_only_those_whose_place_they_reach() -> None:
    """In whatever order the subscribers came: if each compared its place with every record, the tail would be late."""
    tail = Tail()
    tasks = {offset: await tail.waiting(a=offset) for offset in (5, 1, 4, 2, 3)}
    tail.bring("b", 9)
    tail.waiters.on_item(record(9, partition="a")._replace(position=None))  # early, from no log
    assert len(tail.waiters) == 5
    for offset in range(1, 6):
        tail.bring("a", offset)
        assert len(tail.waiters) == 5 - offset, "at once, not at their next comparison"
        await asyncio.gather(tasks[offset])


@virtual_time
async def test_a_record_wakes_no_later_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    tail = Tail()
    comparisons: list[Mapping[str, Position]] = []
    has_reached = tail.waiters.has_reached

    def counted(positions: Mapping[str, Position]) -> bool:
        comparisons.append(positions)
        return has_reached(positions)

    monkeypatch.setattr(tail.waiters, "has_reached", counted)
    tasks = [await tail.waiting(a=offset) for offset in (6, 4, 2)]
    comparisons.clear()
    for offset in range(1, 7):
        tail.bring("a", offset)
        await spin()
    await asyncio.gather(*tasks)
    assert len(comparisons) == 3


@pytest.mark.parametrize("partition", ["a", "b"])
@virtual_time
async def test_a_gap_that_goes_back_ends_the_wait_of_its_readers(partition: str) -> None:
    """The place may never come; what is in no way concerned waits on."""
    tail = Tail()
    for name in ("a", "b"):
        tail.bring(name, 3)
    concerned, other = await tail.waiting(**{partition: 9}), await tail.waiting(a=8, b=8)
    unconcerned = await tail.waiting(**{"b" if partition == "a" else "a": 9})
    tail.go_back(partition, Position(7, 2))
    assert await is_woken(concerned)
    assert await is_woken(other)
    assert not await is_woken(unconcerned)
    unconcerned.cancel()


@virtual_time
async def test_a_gap_that_goes_on_leaves_a_later_place_to_wait_for() -> None:
    tail = Tail()
    task = await tail.waiting(a=9)
    tail.go_back("a", Position(7, 5))
    assert not await is_woken(task)
    tail.bring("a", 9)
    assert await is_woken(task)


@virtual_time
async def test_an_unfollowed_partition_counts_as_gone_back() -> None:
    tail = Tail()
    tail.bring("a", 1)
    task = await tail.waiting(a=9)
    del tail.positions["a"]
    tail.waiters.on_item(Gap("epoch", "a", None))
    assert await is_woken(task)


@virtual_time
async def test_anything_is_a_record_of_any_partition_or_a_gap() -> None:
    tail = Tail()
    for item in (record(1, partition="c"), record(2)._replace(position=None), Gap("no-log", "a", None)):
        tasks = [asyncio.create_task(tail.waiters.any_item()) for _ in range(3)]
        await spin()
        assert len(tail.waiters) == 3
        tasks.pop().cancel()
        await spin()
        assert len(tail.waiters) == 2, "one has given up"
        tasks[0].cancel()  # and one does so in the moment in which it is woken
        tail.waiters.on_item(item)
        assert len(tail.waiters) == 0
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False]


@virtual_time
async def test_at_most_half_of_the_waiters_have_given_up() -> None:
    """They may wait for a place that never comes; and forgetting them costs a search only now and then."""
    tail = Tail()
    staying = [await tail.waiting(a=9) for _ in range(4)]

    async def count_after_leaving(offset: int) -> int:
        leaving = await tail.waiting(a=offset)
        leaving.cancel()
        await asyncio.wait((leaving,))
        return len(tail.waiters)

    for _ in range(2):
        assert [await count_after_leaving(8) for _ in range(5)] == [5, 6, 7, 8, 4]
    assert [await count_after_leaving(2) for _ in range(3)] == [5, 6, 7]
    tail.bring("a", 2)
    assert len(tail.waiters) == 4, "the tail has reached the place of those that had given up"
    assert [await count_after_leaving(8) for _ in range(5)] == [5, 6, 7, 8, 4]
    tail.bring("a", 9)
    await asyncio.gather(*staying)


@virtual_time
async def test_a_waiter_cancelled_while_it_is_woken_is_forgotten_once() -> None:
    tail = Tail()
    staying = [await tail.waiting(a=9) for _ in range(2)]
    woken = await tail.waiting(a=1)
    tail.bring("a", 1)
    woken.cancel()  # before it runs again
    await asyncio.wait((woken,))
    assert woken.cancelled()
    leaving = [await tail.waiting(a=8) for _ in range(2)]
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    assert len(tail.waiters) == 4, "half of them have given up, as if the other one had never been there"
    tail.bring("a", 9)
    await asyncio.gather(*staying)
