"""The end of a stream: it names its reason, its cursor covers only written events, and nothing stays behind."""

import asyncio
import gc
from collections.abc import Sequence

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import Unavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.model.record import Record
from tidewire.protocol.sse import DATA, ClosingReason, DataFormat
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import publish
from tests.contract.staged import StagedLog
from tests.contract.stores import yield_once
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import spin
from tests.unit.delivery.members import record

REASONS: tuple[ClosingReason, ...] = ("max-age", "token-expired", "draining", "slow-consumer")


def make_hub() -> Hub:
    return Hub(MemoryLog(pause=yield_once))


def assert_forgotten(hub: Hub) -> None:
    """Nothing of any subscriber is left in the hub."""
    now = hub.snapshot()
    assert (now.subscribers, now.readers, now.in_slots) == ({}, {}, 0)
    assert now.fanout[:3] == (0, 0, 0), "no members, groups or index entries"
    assert hub.fanout.positions == {}


@pytest.mark.parametrize("reason", REASONS)
@virtual_time
async def test_the_reason_is_the_last_frame_and_has_no_id(
    reason: ClosingReason,
) -> None:
    async with make_hub() as hub, subscribed(hub) as sink:
        await sink.ready()
        (subscriber,) = hub.subscribers
        subscriber.close(reason)
        assert sink.ended
        assert sink.closing == reason
        assert b"id:" not in sink.last_words
        assert sink.order == ["realtime.ready", "realtime.closing"]


@virtual_time
async def test_pending_frames_are_written_before_the_end() -> None:
    async with make_hub() as hub, subscribed(hub) as sink:
        await sink.ready()
        (subscriber,) = hub.subscribers
        hub.fanout.broadcast(record(1))
        subscriber.close("max-age")
        hub.fanout.broadcast(record(2))
        await pass_time(1)
    assert sink.order == ["realtime.ready", 1, "realtime.closing"]


@virtual_time
async def test_unwritten_events_come_after_the_resume() -> None:
    async with make_hub() as hub:
        async with subscribed(hub) as sink:
            await sink.ready()
            sink.full = True
            await publish(hub.transport, *range(5))
            await sink.until(lambda: sink.is_waited_for)
            await publish(hub.transport, *range(5, 9))
            (subscriber,) = hub.subscribers
            subscriber.close("max-age")
            sink.release()
            await pass_time(1)
            seen = list(sink.data)
        async with subscribed(hub, cursor=sink.cursor) as again:
            await again.ready()
    assert [*seen, *again.data] == list(range(9))


@virtual_time
async def test_a_stream_is_ended_once_whatever_ends_it_first() -> None:
    async with make_hub() as hub, subscribed(hub) as sink:
        await sink.ready()
        (subscriber,) = hub.subscribers
        subscriber.close("token-expired")
        subscriber.close("max-age")
        hub.drain()
        assert sink.closing == "token-expired"
        assert sink.order.count("realtime.closing") == 1


@virtual_time
async def test_draining_ends_subscribers_in_every_state() -> None:
    log = StagedLog(MemoryLog(pause=yield_once))
    hub = Hub(log)
    await publish(log, *range(1_000))
    sinks = [RecordingSink() for _ in range(4)]
    live, replaying, slow, early = sinks
    replaying.full = True
    async with (
        subscribed(hub, sink=live),
        subscribed(hub, since="earliest", sink=replaying),
        subscribed(hub, sink=slow),
    ):
        await live.ready()
        await slow.ready()
        slow.full = True
        await publish(log, "x")
        await slow.until(lambda: slow.is_waited_for)
        await replaying.until(lambda: replaying.is_waited_for)
        waiting = await hub.add(Interest(), Start(), DATA)  # the head of its answer is on the way
        hub.drain()
        waiting.start(early)
        assert [sink.closing for sink in sinks] == ["draining"] * 4
        assert all(sink.ended for sink in sinks)
        hub.remove(waiting)
    await hub.aclose()
    assert_forgotten(hub)


@virtual_time
async def test_a_subscriber_on_its_way_in_is_refused_while_draining() -> None:
    log = StagedLog(MemoryLog(pause=yield_once))
    async with Hub(log) as hub:
        log.hold_heads()
        coming = asyncio.create_task(hub.add(Interest(), Start(), DATA))
        await log.head_asked()
        hub.drain()
        log.release_heads()
        with pytest.raises(Unavailable):
            await coming
        assert_forgotten(hub)


@virtual_time
async def test_closing_the_hub_ends_every_stream() -> None:
    hub = make_hub()
    async with subscribed(hub) as one, subscribed(hub, "u1") as other:
        await one.ready()
        await other.ready()
        await hub.aclose()
        assert (one.closing, other.closing) == ("draining", "draining")
    assert_forgotten(hub)


@pytest.mark.parametrize("turns", range(12))
@virtual_time
async def test_a_client_that_goes_at_any_moment_leaves_nothing(turns: int) -> None:
    async with make_hub() as hub:
        await publish(hub.transport, *range(500))
        async with subscribed(hub, "u1", {"t"}, since="earliest") as sink:
            await spin(turns)
            if turns == 11:
                await sink.ready()
        written = len(sink.chunks)
        await publish(hub.transport, "late")
        await pass_time(100)
        assert len(sink.chunks) == written
        assert_forgotten(hub)
        gc.collect()  # a coroutine that was never awaited would cause a warning here


@pytest.mark.parametrize("turns", range(8))
@virtual_time
async def test_a_request_cancelled_on_its_way_in_leaves_nothing(
    turns: int,
) -> None:
    async with make_hub() as hub:
        coming = asyncio.create_task(hub.add(Interest("u1"), Start(since="earliest"), DATA))
        await spin(turns)
        if coming.done():
            hub.remove(coming.result())
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        assert_forgotten(hub)


@virtual_time
async def test_a_stream_that_fails_is_ended_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(DataFormat):
        def record(self, cursor: str | None, record: Record) -> bytes:
            raise ValueError("broken")

    async with make_hub() as hub, subscribed(hub) as healthy:
        await publish(hub.transport, 1)
        async with subscribed(hub, since="earliest", format=Broken()) as sink:
            await sink.until(lambda: sink.ended)
        await publish(hub.transport, 2)
        await healthy.has(2)
    assert sink.closing is None
    assert "ended" in caplog.text


@virtual_time
async def test_a_swallowed_cancellation_does_not_revive_a_client() -> None:
    """Before Python 3.12 `asyncio.wait_for`, which redis-py uses, may swallow one (python/cpython#86296)."""

    class Swallowing(StagedLog):
        async def head(self, partitions: Sequence[str]) -> Cursor:
            try:
                return await super().head(partitions)
            except asyncio.CancelledError:
                return await self._log.head(partitions)

    log = Swallowing(MemoryLog(pause=yield_once))
    async with Hub(log) as hub:
        async with subscribed(hub) as witness:
            await witness.ready()
            sink = RecordingSink()
            async with subscribed(hub, sink=sink):
                await sink.ready()
                (subscriber,) = [s for s in hub.subscribers if s.sink is sink]
                sink.full = True
                await publish(log, *range(5_000))  # more than the ring holds: the subscriber reads the head again
                await witness.has(4_999)
                log.hold_heads()
                sink.release()
                await log.head_asked()
            written = len(sink.chunks)
            log.release_heads()
            await publish(log, "end")
            await witness.has("end")
            await pass_time(100)
            assert len(sink.chunks) == written
            assert not subscriber.live
        assert_forgotten(hub)
