"""The log in memory: memory use and the order of times, which the contract suite cannot see."""

import asyncio
from collections.abc import Sequence

import pytest
from tidewire.model.event import Event, text_bytes
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap
from tidewire.transports.base import Log, Retention, Verifying
from tidewire.transports.memory import COMPACT_BYTES, EVICT_BATCH, ID_BYTES, MARKS, MAX_BYTES, MemoryLog

from tests.contract.acts import at, event, events, head, place, publish, read, seek, start_of, tailing, contents
from tests.contract.stores import MemoryStore
from tests.support.clocks import Clock


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


@pytest.mark.parametrize("retention", [Retention(events=100), Retention(age=1)], ids=["length", "age"])
async def test_trimmed_records_free_their_memory(retention: Retention) -> None:
    clock = Clock()
    log = MemoryLog(retention=retention, clock=clock)
    for start in range(0, 3_000, 10):
        clock.advance(0.1)
        await log.publish(events(range(start, start + 10)))
        assert log.stored("all").records <= 1_110
    last = await head(log)
    assert last.offset == 3_000
    assert (await seek(log, None)).offset == 2_900
    after, until = last._replace(offset=2_950, check=""), last._replace(offset=2_960, check="")
    assert contents(await read(log, at(after), at(until))) == list(range(2_950, 2_960))


async def test_ids_are_dropped_after_the_window() -> None:
    clock = Clock()
    log = MemoryLog(retention=Retention(idempotency_window=1), clock=clock)
    for number in range(300):
        clock.advance(0.01)
        await publish(log, number)
    assert 99 <= log.stored("all").ids <= 101


async def test_publishing_never_waits() -> None:
    """Production has no checkpoint; the pauses of tests stand for the I/O of other logs."""
    log = MemoryLog()
    publishing = log.publish([event(1)])
    with pytest.raises(StopIteration):
        publishing.send(None)


HOUR = 3_600.0
MIB = 1024 * 1024


def size(one: Event) -> int:
    """The bytes of an event in a log without shards, with its id."""
    return one.kept_bytes + ID_BYTES + text_bytes(one.key)


def id_size(one: Event) -> int:
    return ID_BYTES + text_bytes(one.key)


def of_a_kilobyte(number: int, type: str = "t") -> Event:
    return Event(f"{type}-{number:06}", type, b'"' + b"x" * 100 + b'"')


def bytes_of(log: MemoryLog, *partitions: str) -> int:
    return sum(log.stored(name).bytes for name in partitions or ("all",))


async def fill(log: MemoryLog, sent: Sequence[Event], clock: Clock | None = None) -> None:
    """Publish one by one, a second apart if there is a clock."""
    for one in sent:
        await log.publish([one])
        if clock is not None:
            clock.advance(1)


async def appended_at(log: Log, data: object = None) -> int:
    """Publish an event, and return its time in ms."""
    (receipt,) = await publish(log, data)
    return place(receipt).time


async def test_a_record_and_its_id_count_until_each_is_dropped() -> None:
    clock = Clock()
    log = MemoryLog(retention=Retention(age=5, idempotency_window=10), clock=clock)
    first, second, third = event("é" * 10, source="/é"), event(2), event(3)
    await log.publish([first])
    assert log.stored("all") == (1, 1, size(first))
    clock.advance(5)
    await log.publish([second])
    assert bytes_of(log) == id_size(first) + size(second)
    clock.advance(5)
    await log.publish([third])
    assert bytes_of(log) == id_size(second) + size(third)


async def test_a_repeated_event_takes_no_memory() -> None:
    log = MemoryLog()
    one = event(1)
    for _ in range(3):
        await log.publish([one])
    assert log.stored("all") == (1, 1, size(one))


async def test_a_closed_log_keeps_nothing() -> None:
    log = MemoryLog()
    await publish(log, 1)
    await log.aclose()
    assert log.stored("all") == (0, 0, 0)


async def test_large_trimmed_records_are_deleted_early() -> None:
    """A thousand trimmed records of 256 KiB would be 250 MiB."""
    log = MemoryLog(retention=Retention(events=1))
    one = "x" * (COMPACT_BYTES // 4)
    await publish(log, *[one] * 5, batch=1)
    assert log.stored("all").records == 1
    await publish(log, *[one] * 4, batch=1)
    assert log.stored("all").records == 1


async def test_trimmed_records_are_deleted_rarely() -> None:
    """Each deletion moves the records that are kept: it must be paid by as many trimmed ones."""
    log = MemoryLog(retention=Retention(events=1_100))
    await log.publish(events(range(2_200)))
    assert log.stored("all").records == 2_200
    await log.publish(events(range(1)))
    assert log.stored("all").records == 1_100
    await log.publish(events(range(1)))
    assert log.stored("all").records == 1_101

    log = MemoryLog(retention=Retention(events=10))
    await log.publish(events(range(1_010)))
    assert log.stored("all").records == 1_010
    await log.publish(events(range(1)))
    assert log.stored("all").records == 10


async def test_memory_is_bounded_by_evicting_the_oldest() -> None:
    clock = Clock()
    log = MemoryLog(max_bytes=MIB, clock=clock)
    sent = [of_a_kilobyte(number) for number in range(2_000)]
    below = MIB - MIB // 16
    lowest, highest = MIB, 0
    for number, one in enumerate(sent):
        await log.publish([one])
        clock.advance(1)
        kept = bytes_of(log)
        if number > 1_000:
            lowest, highest = min(lowest, kept), max(highest, kept)
    assert MIB < highest <= MIB + MIB // 64 + size(sent[0])
    assert below - EVICT_BATCH * size(sent[0]) // 2 < lowest <= below
    oldest = (await seek(log, None)).offset
    left = 2_000 - oldest
    assert bytes_of(log) == left * size(sent[0]), "an id went with its record"
    (again,) = await log.publish([sent[-1]])
    assert again.duplicate
    (forgotten,) = await log.publish([sent[oldest - 1]])
    assert not forgotten.duplicate


async def test_memory_is_measured_after_each_64th_of_its_bound() -> None:
    """Measuring all partitions after each publication would cost too much."""
    one = of_a_kilobyte(0)
    log = MemoryLog(max_bytes=64 * size(one))
    await fill(log, [of_a_kilobyte(number) for number in range(64)])
    assert bytes_of(log) == 64 * size(one), "the bound was reached and not passed"
    await fill(log, [of_a_kilobyte(64)])
    assert bytes_of(log) == 65 * size(one)
    await fill(log, [of_a_kilobyte(65)])
    assert bytes_of(log) < 60 * size(one)
    log = MemoryLog(max_bytes=64 * size(one) - 1)
    await fill(log, [of_a_kilobyte(number) for number in range(64)])
    assert bytes_of(log) < 60 * size(one)


@pytest.mark.parametrize(("left", "batches"), [(0, 1), (1, 2)])
async def test_eviction_ends_a_sixteenth_below_the_bound(left: int, batches: int) -> None:
    """Of one moment, ids go before records."""
    one = of_a_kilobyte(0)
    target = 200 * size(one) - EVICT_BATCH * id_size(one) - left  # of the bound without a sixteenth
    sixteenth = (target - 1) // 15
    log = MemoryLog(max_bytes=target + sixteenth, clock=Clock())
    assert (target + sixteenth) // 16 == sixteenth
    assert (target + sixteenth) % 16
    await log.publish([of_a_kilobyte(number) for number in range(200)])
    evicted = batches * EVICT_BATCH
    assert log.stored("all") == (200, 200 - evicted, 200 * size(one) - evicted * id_size(one))
    assert (await seek(log, None)).offset == 0


async def test_partitions_lose_their_oldest_records_first() -> None:
    clock = Clock()
    log = MemoryLog(Partitions(types=frozenset({"a", "b", "c"})), max_bytes=MIB, clock=clock)
    each = MIB // size(of_a_kilobyte(0, "a")) // 3
    for type in "bac":
        await fill(log, [of_a_kilobyte(number, type) for number in range(each)], clock)
    before = {type: bytes_of(log, type) for type in "abc"}
    await fill(log, [of_a_kilobyte(number, "c") for number in range(each, each + 100)], clock)
    assert bytes_of(log, "b") < before["b"]
    assert bytes_of(log, "a") == before["a"]
    assert bytes_of(log, "c") > before["c"]
    await fill(log, [of_a_kilobyte(number, "c") for number in range(each + 100, 2 * each + 100)], clock)
    assert bytes_of(log, "b") == 0
    assert 0 < bytes_of(log, "a") < before["a"]
    assert bytes_of(log, "c") == (2 * each + 100) * size(of_a_kilobyte(0, "c"))


async def test_an_id_outlives_its_record_until_it_is_the_oldest() -> None:
    """Under a limit of events, an evicted record frees little: the ids take the memory."""
    clock = Clock()
    log = MemoryLog(retention=Retention(events=10), max_bytes=MIB, clock=clock)
    sent = [Event(f"{number:0250}", "t", b"1") for number in range(4_000)]
    await fill(log, sent, clock)
    kept = log.stored("all")
    assert MIB // 2 < kept.bytes < MIB + MIB // 32
    assert (await seek(log, None)).offset == 3_990
    assert kept.bytes == 10 * sent[0].kept_bytes + kept.ids * id_size(sent[0])
    assert all(receipt.duplicate for receipt in await log.publish(sent[-kept.ids :]))


async def test_control_partitions_are_never_evicted() -> None:
    log = MemoryLog(Partitions(types=frozenset({"a"})), max_bytes=0)
    await fill(log, [of_a_kilobyte(number, type) for number in range(EVICT_BATCH) for type in ("a", "b")])
    assert bytes_of(log, "a", "all") == 0
    assert log.stored(SCHEMES).bytes > 0
    other = MemoryLog(max_bytes=MAX_BYTES)
    await fill(other, [of_a_kilobyte(number) for number in range(EVICT_BATCH)])
    assert bytes_of(other) == EVICT_BATCH * size(of_a_kilobyte(0))


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


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_tail_rests_until_something_is_appended() -> None:
    pauses = Pauses()
    log = MemoryLog(pause=pauses)
    await publish(log, 1)
    start = await head(log)
    async with tailing(log, at(start)) as (received, _):
        await publish(log, 2)
        await received.has(2)
        await turns()
        before = pauses.count
        await turns()
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
        await turns()
        assert received.data == [1], "it stays at its position"
        tail.unfollow(("all",))
        await publish(log, 2)
        await turns()
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
