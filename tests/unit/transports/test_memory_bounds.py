"""What the log in memory keeps: bytes of records and of ids, each with its bound."""

from collections.abc import Sequence

import pytest
from tidewire.model.event import Event, text_bytes
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.transports.base import Retention
from tidewire.transports.memory import COMPACT_BYTES, EVICT_BATCH, ID_BYTES, MAX_BYTES, MemoryLog

from tests.contract.acts import at, contents, event, events, head, publish, read, seek
from tests.support.clocks import Clock

MIB = 1024 * 1024


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


async def test_trimmed_records_may_take_as_much_as_allowed() -> None:
    log = MemoryLog(retention=Retention(events=1))
    small = event(1)
    large = event("x" * (COMPACT_BYTES - small.kept_bytes - 1))
    assert large.kept_bytes == COMPACT_BYTES
    await fill(log, [large, small])
    assert log.stored("all").records == 2
    await fill(log, [event(2)])
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
    await fill(log, [of_a_kilobyte(63), of_a_kilobyte(64)])
    assert bytes_of(log) == 65 * size(one), "a repeated event took memory"
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
