"""The log in memory: memory use and the order of times, which the contract suite cannot see."""

import pytest
from tidewire.transports.base import Retention
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import at, contents, event, head, place, publish, read, seek, start_of
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
    for number in range(20_000):
        clock.advance(0.01)
        await publish(log, number)
    assert (await head(log)).offset == 20_000
    assert log.stored("all").records < 2_500
    assert (await seek(log, None)).offset in (19_900, 19_899)


async def test_ids_are_dropped_after_the_window() -> None:
    clock = Clock()
    log = MemoryLog(retention=Retention(idempotency_window=1), clock=clock)
    for number in range(1_000):
        clock.advance(0.01)
        await publish(log, number)
    assert log.stored("all").ids <= 101


async def test_publishing_never_waits() -> None:
    """Production has no checkpoint; the pauses of tests stand for the I/O of other logs."""
    log = MemoryLog()
    publishing = log.publish([event(1)])
    with pytest.raises(StopIteration):
        publishing.send(None)
