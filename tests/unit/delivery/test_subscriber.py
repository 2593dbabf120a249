"""One subscriber: how long it waits for its client, what it writes at the seams of its states, and what it counts."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.subscriber import HOLD, STALLED, State, Subscriber
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import DATA
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import publish
from tests.contract.staged import StagedLog
from tests.contract.stores import yield_once
from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually
from tests.unit.delivery.members import record

EXPIRING = DATA.expiring(30)


class CountingLog(StagedLog):
    """Counts its reads, and can be slow to read or to tell its head."""

    def __init__(self) -> None:
        super().__init__(MemoryLog(pause=yield_once))
        self.reads = 0
        self.read_seconds = 0.0

    async def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        self.reads += 1
        await asyncio.sleep(self.read_seconds)
        async for page in self._log.replay_pages(after, until):
            yield page


def only(hub: Hub) -> Subscriber:
    (subscriber,) = hub.subscribers
    return subscriber


@virtual_time
async def test_a_control_frame_follows_what_is_pending() -> None:
    """It is refused while the subscriber is not live; the caller tries again."""
    async with Hub(MemoryLog(pause=yield_once)) as hub, subscribed(hub) as sink:
        subscriber = only(hub)
        assert not subscriber.write_control(EXPIRING)
        await sink.ready()
        await asyncio.sleep(0)
        hub.fanout.broadcast(record(1))
        assert subscriber.write_control(EXPIRING)
        assert [event.type for event in sink.all] == ["realtime.ready", "t", "realtime.expiring"]
        sink.full = True
        assert subscriber.write_control(EXPIRING)  # taken, but nothing more after it
        assert not subscriber.write_control(EXPIRING)
        assert subscriber.state is State.REPLAYING


@pytest.mark.parametrize(("pause", "reads"), [(HOLD - 0.1, 1), (HOLD + 0.1, 2)])
@virtual_time
async def test_a_page_is_held_for_half_a_second(pause: float, reads: int) -> None:
    """A client that needs longer costs a second read, and no memory meanwhile."""
    log = CountingLog()
    async with Hub(log) as hub:
        await publish(log, *range(5))
        sink = RecordingSink()
        sink.full = True
        async with subscribed(hub, since="earliest", sink=sink):
            await sink.until(lambda: sink.is_waited_for)
            await asyncio.sleep(pause)
            sink.release()
            await sink.ready()
            assert log.reads == reads
            assert sink.data == list(range(5))


@pytest.mark.parametrize(("seconds", "is_closed"), [(STALLED - 0.1, False), (STALLED + 0.1, True)])
@virtual_time
async def test_a_client_of_a_replay_has_a_minute_for_a_byte(seconds: float, is_closed: bool) -> None:
    async with Hub(MemoryLog(pause=yield_once)) as hub:
        await publish(hub.transport, *range(5))
        sink = RecordingSink()
        sink.full = True
        async with subscribed(hub, since="earliest", sink=sink):
            await sink.until(lambda: sink.is_waited_for)
            await asyncio.sleep(seconds)
            assert sink.ended is is_closed
            assert (only(hub).state is State.CLOSED) is is_closed
            if not is_closed:
                sink.release()
                await sink.ready()


@pytest.mark.parametrize(("seconds", "is_closed"), [(STALLED - 0.1, False), (STALLED + 0.1, True)])
@virtual_time
async def test_a_live_client_has_a_minute_for_a_byte(seconds: float, is_closed: bool) -> None:
    async with Hub(MemoryLog(pause=yield_once), heartbeat=1_000.0) as hub, subscribed(hub) as sink:
        await sink.ready()
        sink.full = True
        await publish(hub.transport, 1)
        await sink.until(lambda: sink.is_waited_for)
        await asyncio.sleep(seconds)
        assert sink.ended is is_closed
        sink.release()


@virtual_time
async def test_events_are_counted_over_all_states() -> None:
    """Replayed, taken from the ring, and written live: the line of a stream's end says how many."""
    async with Hub(MemoryLog(pause=yield_once), ring=Ring(8)) as hub, subscribed(hub) as witness:
        await witness.ready()
        await publish(hub.transport, *range(3))
        async with subscribed(hub, since="earliest") as sink:
            assert (await sink.ready())["replayed"] == 3
            (subscriber,) = [each for each in hub.subscribers if each.sink is sink]
            await publish(hub.transport, *range(3, 5))
            await sink.has(4)
            sink.full = True
            await publish(hub.transport, 5)
            await sink.has(5)
            assert subscriber.sent == 6
            await publish(hub.transport, *range(6, 10))  # the ring holds them
            await witness.has(9)
            sink.release()
            await sink.has(9)
            await eventually(lambda: subscriber.live)
            assert subscriber.sent == 10
            sink.full = True
            await publish(hub.transport, 10)
            await sink.has(10)
            await publish(hub.transport, *range(11, 31))  # more than the ring holds
            await witness.has(30)
            sink.release()
            await sink.has(30)
            assert subscriber.sent == 31
            assert (hub.stats.slow, hub.stats.back_to_log) == (2, 1)
            await publish(hub.transport, 31)
            await sink.has(31)
            subscriber.close("max-age")
            assert subscriber.sent == 32
        assert subscriber.sent == 32


@virtual_time
async def test_a_subscriber_closed_in_its_replay_keeps_its_count() -> None:
    async with Hub(MemoryLog(pause=yield_once), ring=Ring(4)) as hub, subscribed(hub) as witness:
        await witness.ready()
        sink = RecordingSink()
        async with subscribed(hub, sink=sink):
            await sink.ready()
            (subscriber,) = [each for each in hub.subscribers if each.sink is sink]
            sink.full = True
            await publish(hub.transport, 0)
            await sink.has(0)
            await publish(hub.transport, *range(1, 6))
            await witness.has(5)
            sink.release()
            sink.full = True
            await sink.until(lambda: sink.is_waited_for)
            assert (subscriber.sent, subscriber.state) == (6, State.REPLAYING)
            subscriber.close("max-age")
            assert (subscriber.sent, subscriber.ending) == (6, "max-age")
        assert subscriber.sent == 6


@virtual_time
async def test_a_stream_that_fails_ends_without_a_reason() -> None:
    """Its client comes back at once, as after a lost connection."""
    async with Hub(MemoryLog(pause=yield_once)) as hub, subscribed(hub) as sink:
        await sink.ready()
        only(hub).close()
        assert (sink.ended, sink.last_words, only(hub).ending) == (True, b"", "failed")


@virtual_time
async def test_a_subscriber_before_its_start_takes_no_bytes() -> None:
    """Its response has not begun; what ends it is written once it does."""
    async with Hub(MemoryLog(pause=yield_once)) as hub:
        subscriber = await hub.add(Interest(), Start(), DATA)
        assert subscriber.buffered == 0
        await asyncio.sleep(100)
        assert subscriber.state is State.REPLAYING
        subscriber.close("token-expired")
        sink = RecordingSink()
        subscriber.start(sink)
        assert (sink.closing, sink.order) == ("token-expired", ["realtime.closing"])
        hub.remove(subscriber)


@virtual_time
async def test_a_gap_of_the_tail_makes_no_slow_client() -> None:
    """All read the log again, because it may hold what the tail has missed."""
    log = CountingLog()
    async with Hub(log) as hub, subscribed(hub) as sink:
        await sink.ready()
        await publish(log, 1)
        await sink.has(1)
        reads = log.reads
        place = hub.fanout.positions[ALL]
        hub.fanout.broadcast(Gap("trimmed", ALL, place))
        await eventually(lambda: only(hub).live)
        assert log.reads == reads + 1
        await publish(log, 2)
        await sink.has(2)
        assert (hub.stats.slow, hub.stats.back_to_log, sink.gaps) == (0, 0, [])


@virtual_time
async def test_a_gap_in_the_ring_sends_its_reader_to_the_log() -> None:
    """The log may still hold what the tail has missed."""
    log = CountingLog()
    async with Hub(log) as hub, subscribed(hub) as sink:
        await sink.ready()
        sink.full = True
        await publish(log, 1)
        await sink.has(1)
        await publish(log, 2)
        hub.fanout.broadcast(Gap("trimmed", ALL, hub.fanout.positions[ALL]))
        await publish(log, 3)
        reads = log.reads
        sink.release()
        await sink.has(3)
        await eventually(lambda: only(hub).live)
        assert log.reads == reads + 1
        assert hub.stats.back_to_log == 1
        assert sink.order == ["realtime.ready", 1, 2, 3]


@virtual_time
async def test_a_reader_ahead_of_the_tail_waits_one_heartbeat_for_it() -> None:
    """Then it reads the log again: it may have fallen back."""
    log = CountingLog()
    async with Hub(log, heartbeat=7.0) as hub, subscribed(hub) as early:
        await early.ready()
        log.hold_tail()
        await publish(log, 1)
        async with subscribed(hub, since="earliest") as late:
            await late.ready()
            reads, written = log.reads, len(late.chunks)
            await asyncio.sleep(6.9)
            assert (log.reads, len(late.chunks)) == (reads, written)
            await asyncio.sleep(0.2)
            assert (log.reads, len(late.chunks)) == (reads + 1, written + 1)
            assert late.chunks[-1] == DATA.heartbeat(late.cursor)
            assert hub.stats.back_to_log == 1
            log.release_tail()
            await early.has(1)
            assert {each.live for each in hub.subscribers} == {True}


@virtual_time
async def test_a_reader_does_not_wait_for_a_tail_that_was_cut_off() -> None:
    """After a gap the tail may never reach the place: the log is read again at once."""
    log = CountingLog()
    async with Hub(log, heartbeat=1_000.0) as hub, subscribed(hub) as early:
        await early.ready()
        await publish(log, 1, 2)
        await early.has(2)
        log.read_seconds = 5.0
        async with subscribed(hub, since="earliest") as late:
            await asyncio.sleep(1)
            place = hub.fanout.positions[ALL]
            before = log.reads
            hub.fanout.broadcast(Gap("epoch", ALL, Position(place.epoch, place.offset - 1)))  # it went back
            await asyncio.sleep(20)
            assert log.reads == before + 2  # one of each reader
            assert hub.snapshot().subscribers == {State.REPLAYING: 2}
            hub.fanout.broadcast(record(2)._replace(position=place))
            await eventually(lambda: all(each.live for each in hub.subscribers))
        assert early.data == late.data == [1, 2]


@virtual_time
async def test_a_start_reads_the_heads_once() -> None:
    """A crowd that comes back after an outage would ask the store twice as often."""
    log = CountingLog()
    async with Hub(log) as hub, subscribed(hub) as first:
        await first.ready()
        heads_read, reads = log.heads_read, log.reads
        async with subscribed(hub, since="earliest") as sink:
            await sink.ready()
            assert (log.heads_read, log.reads) == (heads_read + 1, reads + 1)


@virtual_time
async def test_a_subscriber_that_left_ends_its_task() -> None:
    log = CountingLog()
    log.read_seconds = 1_000.0
    async with Hub(log) as hub:
        before = len(asyncio.all_tasks())
        async with subscribed(hub, since="earliest"):
            await asyncio.sleep(1)
            assert log.reads == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= before + 1  # the tail's


@virtual_time
async def test_a_subscriber_that_left_before_its_start_ends_silently() -> None:
    """Its client is gone: there is no reason to send."""
    async with Hub(MemoryLog()) as hub:
        subscriber, sink = await hub.add(Interest(), Start(), DATA), RecordingSink()
        hub.remove(subscriber)
        subscriber.start(sink)
        assert (sink.ended, sink.last_words) == (True, b"")
