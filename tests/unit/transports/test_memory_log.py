"""The log in memory: times that stay ordered, and a tail, which the contract suite cannot see from inside."""

import asyncio

import pytest
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap
from tidewire.transports.base import Log, Retention, Verifying
from tidewire.transports.memory import MARKS, MemoryLog

from tests.contract.acts import at, contents, event, head, place, publish, read, seek, start_of, tailing
from tests.contract.stores import MemoryStore
from tests.support.clocks import Clock
from tests.support.waiting import spin

HOUR = 3_600.0


async def test_times_stay_ordered_when_the_clock_goes_back() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    receipts = await publish(log, 1)
    clock.advance(-3_600)
    receipts += await publish(log, 2, 3)
    times = [place(receipt).time for receipt in receipts]
    assert times == sorted(times)
    assert (await seek(log, times[0])).offset == 0
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == [1, 2, 3]


async def test_publishing_never_waits() -> None:
    """Production has no checkpoint; the pauses of tests stand for the I/O of other logs."""
    log = MemoryLog()
    publishing = log.publish([event(1)])
    with pytest.raises(StopIteration):
        publishing.send(None)


async def appended_at(log: Log, data: object = None) -> int:
    """Publish an event, and return its time in ms."""
    (receipt,) = await publish(log, data)
    return place(receipt).time


@pytest.mark.parametrize(("age", "patience"), [(HOUR, 10.0), (4.0, 4.0)])
async def test_a_clock_that_stays_behind_is_believed(age: float, patience: float) -> None:
    """After ten seconds, or after the retention."""
    clock = Clock()
    log = MemoryLog(retention=Retention(age=age), clock=clock)
    clock.advance(HOUR)
    ahead = await appended_at(log)
    assert ahead == int(clock() * 1000)
    clock.advance(-HOUR)
    assert await appended_at(log) == ahead
    clock.advance(patience - 0.001)
    assert await appended_at(log) == ahead
    clock.advance(0.001)
    assert await appended_at(log) == int(clock() * 1000)
    clock.advance(-2)
    believed = int(clock() * 1000) + 2_000
    assert await appended_at(log) == believed
    clock.advance(2 + patience - 0.001)
    assert await appended_at(log) == int(clock() * 1000), "what came before counts no more"


async def test_a_clock_that_goes_back_again_is_measured_anew() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    clock.advance(HOUR)
    ahead = await appended_at(log)
    clock.advance(-HOUR / 2)
    await publish(log, 1)
    clock.advance(-HOUR / 4)
    assert await appended_at(log) == ahead
    clock.advance(9.999)
    assert await appended_at(log) == ahead
    clock.advance(0.001)
    assert await appended_at(log) == int(clock() * 1000)


async def test_a_clock_behind_by_a_second_is_not_behind() -> None:
    clock = Clock()
    log = MemoryLog(retention=Retention(age=0.5), clock=clock)
    last = await appended_at(log)
    clock.advance(-1.5)
    assert await appended_at(log) == last
    clock.advance(0.5)  # a second behind, after the half second of this retention
    assert await appended_at(log) == last
    clock.advance(-0.001)
    assert await appended_at(log) == last
    clock.advance(-0.5)
    assert await appended_at(log) == last
    clock.advance(0.5)
    assert await appended_at(log) == last - 1_001


async def test_a_clock_may_go_back_before_the_first_record() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    start = await head(log)
    clock.advance(-HOUR)
    assert await appended_at(log) == start.time


async def jump(log: Log, clock: Clock, ahead: float = HOUR) -> None:
    """Append one record of a clock that is far ahead, two of the right one, and one when it is believed."""
    clock.advance(ahead)
    await publish(log, "ahead")
    clock.advance(-ahead)
    await publish(log, "behind")
    clock.advance(10)
    await publish(log, "believed")
    clock.advance(1)


async def test_records_of_a_clock_ahead_are_found_by_the_true_time() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    for _ in range(3):
        await jump(log, clock)
    start = int(Clock()() * 1000)
    found = [(await seek(log, start + 1_000 * second)).offset for second in (0, 10, 11, 21, 22, 32, 33)]
    assert found == [0, 0, 3, 3, 6, 6, 9]


async def test_the_oldest_of_many_jumps_are_found_by_the_next_one() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    for _ in range(MARKS + 2):
        await jump(log, clock)
    start = int(Clock()() * 1000)
    third = start + 2 * 11_000 + 10_000  # when the third jump ended
    assert (await seek(log, third)).offset == 0
    assert (await seek(log, third + 1)).offset == 9
    assert (await seek(log, third + 11_000)).offset == 9
    assert (await seek(log, third + 11_001)).offset == 12


async def test_a_later_mark_below_an_earlier_one_replaces_it() -> None:
    """The clock goes back again, behind the time that was believed."""
    clock = Clock()
    log = MemoryLog(clock=clock)
    await jump(log, clock)
    clock.advance(-HOUR)
    await publish(log, "back")
    clock.advance(10)
    back = await appended_at(log, "believed")
    assert back == int(clock() * 1000)
    assert (await seek(log, back)).offset == 0
    assert (await seek(log, back + 1)).offset == 5


async def test_records_and_ids_expire_by_the_true_time() -> None:
    clock = Clock()
    log = MemoryLog(retention=Retention(age=60, idempotency_window=60), clock=clock)
    one = event(1)
    clock.advance(HOUR)
    await log.publish([one])
    clock.advance(-HOUR)
    await publish(log, 2)
    clock.advance(10)
    await publish(log, 3)
    clock.advance(59)
    (again,) = await log.publish([one])
    assert again.duplicate
    clock.advance(1)
    (again,) = await log.publish([one])
    assert not again.duplicate
    assert (await seek(log, None)).offset == 3


async def test_a_position_before_the_oldest_record_has_its_time() -> None:
    clock = Clock()
    log = MemoryLog(retention=Retention(events=2), clock=clock)
    times = []
    for number in range(4):
        times.append(await appended_at(log, number))
        clock.advance(1)
    position = await seek(log, None)
    assert (position.offset, position.check, position.time) == (2, "", times[2])
    assert await seek(log, times[1]) == position
    assert (await seek(log, times[3])).check
    assert await seek(log, times[3] + 1) == await head(log)


async def test_a_cursor_of_another_epoch_reads_nothing_of_this_one() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    await publish(log, 1, 2)
    old = await head(log)
    gone = old._replace(epoch=old.epoch - 1)
    items = await read(log, at(gone._replace(offset=1)), at(gone))
    assert [item.reason for item in items if isinstance(item, Gap)] == ["trimmed"]
    assert len(items) == 1


async def test_a_new_partition_starts_at_the_time_of_the_clock() -> None:
    clock = Clock()
    position = await head(MemoryLog(clock=clock))
    assert position == (int(clock() * 1000), 0, "", int(clock() * 1000))


async def test_schemes_outlive_the_retention() -> None:
    clock = Clock()
    retention = Retention(age=1, events=1, idempotency_window=1)
    log = MemoryLog(Partitions(types=frozenset({"a"})), retention, clock=clock)
    await publish(log, 1)
    clock.advance(5)
    await publish(log, 2)
    assert (await seek(log, None, SCHEMES)).offset == 0
    assert (await head(log, SCHEMES)).offset == 2
    assert log.stored(SCHEMES).records == 2
    clock.advance(HOUR)
    await publish(log, 3)
    assert (await head(log, SCHEMES)).offset == 3, "renewed by the log's own clock"


async def test_an_id_expires_under_each_scheme() -> None:
    store = MemoryStore()
    retention = Retention(idempotency_window=1_000)
    ours = store.open(Partitions(types=frozenset({"a"})), retention)
    theirs = store.open(retention=retention)
    one = event(1, type="a")
    await ours.publish([one])
    store.clock.advance(999.999)
    (again,) = await theirs.publish([one])
    assert again.duplicate
    assert again.positions is not None
    assert list(again.positions) == ["a"]
    store.clock.advance(0.001)
    (again,) = await theirs.publish([one])
    assert not again.duplicate
    await store.aclose()


class Pauses:
    """Counts what would be the I/O of another log, and yields to the other tasks."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        await asyncio.sleep(0)


async def test_a_tail_rests_until_something_is_appended() -> None:
    pauses = Pauses()
    log = MemoryLog(pause=pauses)
    await publish(log, 1)
    start = await head(log)
    async with tailing(log, at(start)) as (received, _):
        await publish(log, 2)
        await received.has(2)
        await spin(50)
        before = pauses.count
        await spin(50)
        assert pauses.count == before
        assert received.data == [2]


async def test_a_tail_follows_and_leaves_partitions() -> None:
    log = MemoryLog()
    start = await head(log)
    async with tailing(log) as (received, tail):
        tail.follow({"all": start, "later": None})
        tail.unfollow(("later", "unknown"))
        await publish(log, 1)
        await received.has(1)
        tail.follow({"all": start})
        await spin(50)
        assert received.data == [1], "it stays at its position"
        tail.unfollow(("all",))
        await publish(log, 2)
        await spin(50)
        assert received.data == [1]


@pytest.mark.parametrize("check", ["0000abcd", ""], ids=["known", "unknown"])
async def test_a_tail_notices_another_history(check: str) -> None:
    """Of a log that fell back, and counted the same offset again."""
    log = MemoryLog()
    await publish(log, 1)
    last = await head(log)
    async with tailing(log, at(last._replace(check=check))) as (received, tail):
        assert isinstance(tail, Verifying)
        await tail.verify()
        assert received.data == (["<epoch>", 1] if check else [])
