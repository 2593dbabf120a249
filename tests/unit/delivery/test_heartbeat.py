"""The heartbeat: a frame with only an id, which moves the cursor past events for others."""

import asyncio
import itertools
from collections.abc import Awaitable
from contextlib import AsyncExitStack

import pytest
from tidewire.delivery.hub import HEARTBEAT_SLOTS, Hub
from tidewire.delivery.replay import BATCH_ITEMS
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.model.partitions import ALL
from tidewire.protocol.sse import DATA
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import MemoryStore, yield_once
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.sse_decoder import SseDecoder
from tests.unit.delivery.members import record


class TimingSink(RecordingSink):
    """Records when each chunk was written."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        self.times.append(asyncio.get_running_loop().time())
        return super().write(chunk)


def make_hub() -> Hub:
    return Hub(MemoryLog(pause=yield_once))


def offset_of(cursor: str) -> int:
    place = Cursor.parse(cursor)
    assert place is not None
    return place.positions[ALL].offset


@virtual_time
async def test_it_moves_the_cursor_past_events_for_others() -> None:
    """And dispatches nothing in a browser."""
    async with make_hub() as hub:
        async with subscribed(hub, "u1", {"a"}) as sink:
            await sink.ready()
            before = len(sink.all)
            for _ in range(5):
                await hub.dispatch([event(1, users=["u2"]), event(2, type="b")])
            await pass_time(hub.heartbeat)
            assert len(sink.all) == before
            assert offset_of(sink.cursor) == 10
            assert sink.chunks[-1] == b"id: " + sink.cursor.encode() + b"\n\n"
        async with subscribed(hub, "u1", cursor=sink.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 0}


@virtual_time
async def test_each_interval_has_one_but_not_all_in_one_turn() -> None:
    async with make_hub() as hub, AsyncExitStack() as stack:
        sinks = [TimingSink() for _ in range(64)]
        for sink in sinks:
            await stack.enter_async_context(subscribed(hub, sink=sink))
            await sink.ready()
            sink.times.clear()
            await pass_time(hub.heartbeat / HEARTBEAT_SLOTS)
        await pass_time(10 * hub.heartbeat)
    for beats in (sink.times for sink in sinks):
        assert len(beats) >= 10
        pauses = [b - a for a, b in itertools.pairwise(beats)]
        assert all(abs(pause - hub.heartbeat) < 0.01 for pause in pauses)
    assert len({round(sink.times[-1], 3) for sink in sinks}) >= HEARTBEAT_SLOTS // 2


@virtual_time
async def test_it_is_never_ahead_of_pending_frames() -> None:
    async with make_hub() as hub, subscribed(hub) as sink, subscribed(hub, "u1") as other:
        await sink.ready()
        await other.ready()
        for offset in range(1, 50):
            hub.fanout.broadcast(record(offset, users=None if offset % 3 else ("u1",)))
            hub.beat()
    for reader in (sink, other):
        decoder = SseDecoder()
        seen: set[int] = set()
        for chunk in reader.stream.split(b"\n\n"):
            seen |= {int(e.data) for e in decoder.feed(chunk + b"\n\n") if e.type == "t"}
            if decoder.last_event_id and b"ready" not in chunk:
                place = offset_of(decoder.last_event_id)
                wanted = {n for n in range(1, place + 1) if n % 3 or reader is other}
                assert wanted <= seen


@virtual_time
async def test_a_replay_of_nothing_but_events_for_others_is_not_silent() -> None:
    async with make_hub() as hub:
        await hub.transport.publish([event(n, users=["u2"]) for n in range(3 * BATCH_ITEMS)])
        async with subscribed(hub, "u1", since="earliest") as sink:
            await sink.ready()
    decoder = SseDecoder()
    places = []
    for chunk in sink.chunks:
        decoder.feed(chunk)
        places.append(offset_of(decoder.last_event_id))
    assert places == [BATCH_ITEMS, 2 * BATCH_ITEMS, 3 * BATCH_ITEMS, 3 * BATCH_ITEMS]


@virtual_time
async def test_it_goes_on_while_the_tail_is_behind_the_replay() -> None:
    log = StagedLog(MemoryLog(pause=yield_once))
    async with Hub(log) as hub, subscribed(hub) as early:
        await early.ready()
        log.hold_tail()
        await publish(log, 1, 2)
        async with subscribed(hub, since="earliest") as late:
            await late.ready()
            written = len(late.chunks)
            await pass_time(10 * hub.heartbeat)
            assert len(late.chunks) - written >= 9
            assert {offset_of(late.cursor)} == {2}
            log.release_tail()
            await publish(log, 3)
            await late.has(3)
            await early.has(3)
    assert late.data == early.data == [1, 2, 3]


@virtual_time
async def test_a_subscriber_that_left_gets_none() -> None:
    async with make_hub() as hub:
        async with subscribed(hub) as sink:
            await sink.ready()
        written = len(sink.chunks)
        async with subscribed(hub) as other:
            await other.ready()
            await pass_time(5 * hub.heartbeat)
            assert len(other.chunks) > 4
    assert len(sink.chunks) == written


@virtual_time
async def test_a_subscriber_without_room_for_it_misses_nothing() -> None:
    async with make_hub() as hub, subscribed(hub) as sink:
        await sink.ready()
        sink.full = True
        await sink.until(lambda: sink.is_waited_for, seconds=2 * hub.heartbeat)
        await publish(hub.transport, 1, 2)
        await pass_time(1)
        assert sink.data == []
        sink.release()
        await sink.has(2)
    assert sink.data == [1, 2]


@pytest.mark.parametrize("heartbeat", [0.5, 60.0])
@virtual_time
async def test_its_interval_is_the_one_that_was_set(heartbeat: float) -> None:
    async with Hub(MemoryLog(), heartbeat=heartbeat) as hub:
        subscriber = await hub.add(Interest(), Start(), DATA)
        sink = RecordingSink()
        subscriber.start(sink)
        await sink.ready()
        await pass_time(heartbeat * 20.5)
        assert 20 <= len(sink.chunks) - 1 <= 21
        hub.remove(subscriber)


@virtual_time
async def test_a_reader_past_a_fallen_back_log_gets_a_gap() -> None:
    """It had read further than the tail will ever be, and waited for it for ever."""
    store = MemoryStore()
    log = StagedLog(store.open())
    async with Hub(log) as hub, subscribed(hub) as early:
        await early.ready()
        await publish(log, 1)
        fall_back = await store.back_up()
        await publish(log, *range(2, 9))
        await early.has(8)
        late = RecordingSink()
        late.full = True
        async with subscribed(hub, since="earliest", sink=late):
            await late.until(lambda: late.is_waited_for)  # it has read up to 8 …
            await fall_back()
            await publish(log, "other")
            await early.until(lambda: early.gaps == ["epoch"])  # … and the tail is back at 2
            late.release()
            await late.has("other", seconds=3 * hub.heartbeat)
    assert late.gaps == ["epoch"]
