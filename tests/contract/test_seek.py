"""Seeking a position: the head, the oldest record, a time."""

from tidewire.transports.base import Log, Retention

from tests.contract.acts import at, contents, event, head, place, publish, read, seek
from tests.contract.stores import LogStore


async def test_the_head_of_an_empty_log_is_also_its_earliest(log: Log) -> None:
    empty = await head(log)
    assert empty.offset == 0
    assert (await seek(log, None))[:2] == empty[:2]
    assert (await seek(log, 0))[:2] == empty[:2]
    assert await read(log, at(empty)) == []


async def test_the_head_is_after_each_acknowledged_record(log: Log) -> None:
    receipts = await publish(log, 1, 2, 3)
    assert await head(log) == place(receipts[-1])


async def test_earliest_is_before_the_oldest_record_that_is_kept(store: LogStore) -> None:
    log = store.open(retention=Retention(events=3))
    await publish(log, *range(1, 11))
    assert (await seek(log, None)).offset == 7
    assert contents(await read(log, at(await seek(log, None)))) == [8, 9, 10]


async def test_a_time_is_found_to_the_millisecond(store: LogStore) -> None:
    log = store.open()
    times = []
    for number in range(1, 5):
        (receipt,) = await publish(log, number)
        times.append(place(receipt).time)
        await store.pass_time(0.005)
    for number, time in enumerate(times, 1):
        assert (await seek(log, time)).offset == number - 1
        assert (await seek(log, time + 1)).offset == number


async def test_a_time_between_two_records_starts_at_the_later(
    store: LogStore,
) -> None:
    log = store.open()
    (before,) = await publish(log, "before")
    await store.pass_time(0.02)
    await publish(log, "after")
    middle = place(before).time + 5
    assert contents(await read(log, at(await seek(log, middle)))) == ["after"]


async def test_a_time_finds_the_first_record_of_a_millisecond(store: LogStore) -> None:
    log = store.open()
    await publish(log, "old")
    await store.pass_time(0.005)
    receipts = await log.publish([event(n) for n in range(50)])
    assert len({place(receipt).time for receipt in receipts}) == 1
    assert (await seek(log, place(receipts[0]).time)).offset == 1


async def test_times_outside_the_log_are_its_start_and_head(
    store: LogStore,
) -> None:
    log = store.open(retention=Retention(events=5))
    receipts = await publish(log, *range(9))
    assert (await seek(log, place(receipts[0]).time - 3_600_000)).offset == 4
    assert (await seek(log, place(receipts[-1]).time + 3_600_000))[:2] == (await head(log))[:2]


async def test_a_time_is_found_among_thousands_after_trimming(store: LogStore) -> None:
    log = store.open(retention=Retention(events=1_500))
    await publish(log, *range(2_000))
    await store.pass_time(0.005)
    (receipt,) = await publish(log, "wanted")
    await store.pass_time(0.005)
    await publish(log, *range(700))
    assert (await seek(log, place(receipt).time)).offset == 2_000


async def test_positions_of_several_partitions_are_returned_by_name(log: Log) -> None:
    (receipt,) = await publish(log, 1)
    places = (await log.head(("all", "other"))).positions
    assert set(places) == {"all", "other"}
    assert places["all"] == place(receipt)
    assert places["other"].offset == 0
