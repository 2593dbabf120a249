"""A subscriber that reads on from the ring: in portions, only its own, and never live ahead of the tail."""

import asyncio

from tidewire.delivery.hub import Hub
from tidewire.delivery.replay import BATCH_ITEMS
from tidewire.delivery.subscriber import STALLED
from tidewire.model.cursor import Cursor
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Gap
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import CarrierStore, yield_once
from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink, subscribed


@virtual_time
async def test_a_gap_without_a_log_is_announced_where_it_was() -> None:
    async with Hub(CarrierStore().open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        sink.full = True
        await hub.dispatch([event(1)])
        await sink.has(1)
        await hub.dispatch([event(2)])
        hub.fanout.broadcast(Gap("no-log", ALL, None))
        await hub.dispatch([event(3)])
        sink.release()
        await sink.has(3)
        assert sink.order == ["realtime.ready", 1, 2, "realtime.gap", 3]
        assert sink.gaps == ["no-log"]


@virtual_time
async def test_records_of_other_partitions_in_the_ring_are_passed_over() -> None:
    scheme = Partitions(frozenset({"a"}))
    async with Hub(MemoryLog(scheme, pause=yield_once), scheme) as hub:
        async with subscribed(hub, types={"b"}) as sink, subscribed(hub) as witness:
            await sink.ready()
            await witness.ready()
            sink.full = True
            await hub.dispatch([event(1, type="b")])
            await sink.has(1)
            for number in range(10):
                await hub.dispatch([event(number, type="a"), event(10 + number, type="b")])
            await witness.has(19)
            sink.release()
            await sink.has(19)
            cursor = Cursor.parse(sink.cursor)
            assert cursor is not None
            assert cursor.positions.keys() == {ALL}
            assert hub.stats.back_to_log == 0
        assert sink.data == [1, *range(10, 20)]


@virtual_time
async def test_the_ring_is_read_in_portions() -> None:
    async with Hub(MemoryLog(pause=yield_once)) as hub, subscribed(hub) as sink, subscribed(hub) as witness:
        await sink.ready()
        await witness.ready()
        sink.full = True
        await publish(hub.transport, "first")
        await sink.has("first")
        total = 2 * BATCH_ITEMS + 10
        await publish(hub.transport, *range(total))
        await witness.has(total - 1)
        written = len(sink.chunks)
        sink.release()
        await sink.has(total - 1)
        assert [chunk.count(b"data: ") for chunk in sink.chunks[written:]] == [BATCH_ITEMS, BATCH_ITEMS, 10]
        assert hub.stats.back_to_log == 0


@virtual_time
async def test_a_gap_elsewhere_brings_nobody_live_ahead_of_the_tail() -> None:
    """It would be sent again what it has read, once the tail brings it."""
    scheme = Partitions(frozenset({"a"}))
    log = StagedLog(MemoryLog(scheme, pause=yield_once))
    async with Hub(log, scheme) as hub, subscribed(hub) as early:
        await early.ready()
        log.hold_tail()
        await hub.dispatch([event(1, type="b"), event(2, type="b")])
        async with subscribed(hub, types={"b"}, sink=RecordingSink(), since="earliest") as late:
            (subscriber,) = [each for each in hub.subscribers if each.partitions == (ALL,)]
            late.full = True  # so that the gap comes after its read of the log, and before it looks at the tail
            await late.until(lambda: late.is_waited_for)
            hub.fanout.broadcast(Gap("trimmed", "a", hub.fanout.positions["a"]))
            late.release()
            await late.ready()
            await asyncio.sleep(1)
            assert not subscriber.live
            log.release_tail()
            await hub.dispatch([event(3, type="b")])
            await late.has(3)
            assert late.data == [1, 2, 3]


@virtual_time
async def test_a_reader_of_the_ring_may_be_slow_too() -> None:
    """No page is in memory meanwhile: it just waits."""
    async with Hub(MemoryLog(pause=yield_once)) as hub, subscribed(hub) as sink, subscribed(hub) as witness:
        await sink.ready()
        await witness.ready()
        sink.full = True
        await publish(hub.transport, 1)
        await sink.has(1)
        await publish(hub.transport, 2)
        await witness.has(2)
        sink.release()
        sink.full = True
        await sink.until(lambda: sink.is_waited_for)
        await asyncio.sleep(STALLED - 0.1)
        await publish(hub.transport, 3)
        sink.release()
        await sink.has(3)
        assert hub.stats.back_to_log == 0
