"""A stream of an outage: what it receives until the log is back, and where it begins then."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.replay import BATCH_ITEMS
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.subscriber import RETRY_CAP, State
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Handler, Log, Tail
from tidewire.transports.fallback.fallback import Fallback

from tests.contract.acts import event
from tests.contract.stores import MemoryStore
from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.unavailable_log import Instance, UnavailableLog
from tests.support.waiting import eventually

AFTER_NOW = 1e10  # s since 1970, of the log's clock: a stream of an outage begins at the time of this process's clock
FORGED = ["not a cursor", "1\nid: forged", "x" * 5_000]


def offset_of(cursor: str) -> int:
    place = Cursor.parse(cursor)
    assert place is not None
    return place.positions[ALL].offset


async def missed_by(store: MemoryStore) -> str:
    """Publish an event, and return the cursor of a client that has not seen it."""
    async with Instance(store) as there, subscribed(there.hub) as client:
        await client.ready()
        await there.hub.dispatch([event("seen")])
        await client.has("seen")
        cursor = client.cursor
        await there.hub.dispatch([event("missed")])
    return cursor


@virtual_time
async def test_a_waiting_stream_writes_back_the_client_s_cursor() -> None:
    store = MemoryStore()
    cursor = await missed_by(store)
    async with Instance(store) as here:
        here.log.leave()
        async with subscribed(here.hub, cursor=cursor, wait_for_log=True) as sink:
            await here.hub.dispatch([event("early", id="1")])
            await sink.has("early")
            assert sink.chunks[-1].startswith(b"id: " + cursor.encode() + b"\nevent: t\n")
            await asyncio.sleep(10)
            assert set(sink.chunks[2:]) == {DATA.heartbeat(cursor)}
            assert here.hub.snapshot().subscribers == {State.WAITING: 1}
            here.log.come_back()
            assert await sink.ready() == {"recovered": True, "replayed": 2}
            assert here.hub.snapshot().subscribers == {State.LIVE: 1}
        assert sink.order == ["early", "missed", "realtime.ready"]


@pytest.mark.parametrize("id", FORGED)
@virtual_time
async def test_an_id_that_is_no_cursor_is_never_written_back(id: str) -> None:
    """It could forge a frame; once the log is back it is a gap."""
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        sink = RecordingSink()
        async with subscribed(here.hub, cursor=id, wait_for_log=True, sink=sink):
            await here.hub.dispatch([event("early")])
            await sink.has("early")
            await asyncio.sleep(5)
            assert b"id:" not in sink.stream
            assert sink.chunks[-1] == DATA.heartbeat(None)
            here.log.come_back()
            assert await sink.ready() == {"recovered": False, "replayed": 1}
        assert sink.gaps == ["invalid"]
        assert sink.order == ["early", "realtime.gap", "realtime.ready"]
        assert Cursor.parse(sink.cursor) is not None


@virtual_time
async def test_a_new_stream_gets_what_came_since_it_was_opened() -> None:
    """Its client has no cursor: until the log is back, no frame has an id."""
    store = MemoryStore()
    async with Instance(store) as here, Instance(store) as there:
        store.clock.now = 1_000.0
        await there.hub.dispatch([event("before")])
        here.log.leave()
        async with subscribed(here.hub, wait_for_log=True) as sink:
            store.clock.now = AFTER_NOW
            await there.hub.dispatch([event("meanwhile")])
            await asyncio.sleep(5)
            assert set(sink.chunks) == {DATA.heartbeat(None)}
            here.log.come_back()
            assert await sink.ready() == {"recovered": True, "replayed": 1}
        assert sink.data == ["meanwhile"]


@virtual_time
async def test_the_log_is_tried_at_least_once_a_second() -> None:
    """However long the outage was; each try that fails is followed by a heartbeat."""
    loop = asyncio.get_running_loop()
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        async with subscribed(here.hub, wait_for_log=True) as sink:
            await asyncio.sleep(600)
            assert len(sink.chunks) >= 600 / RETRY_CAP
            assert len(sink.chunks) < 2_400
            here.log.come_back()
            # The fallback itself tries the log now and then; from then on the stream needs no more than a second.
            await eventually(lambda: not here.fallback.is_unavailable)
            began = loop.time()
            await sink.ready()
            assert loop.time() - began <= RETRY_CAP + 0.1


@virtual_time
async def test_a_waiting_stream_gets_only_its_own_early_events() -> None:
    scheme = Partitions(frozenset({"a"}))
    async with Instance(MemoryStore(), scheme) as here:
        here.log.leave()
        async with subscribed(here.hub, "u1", {"t"}, wait_for_log=True) as sink:
            await here.hub.dispatch([event("another type", type="b"), event("another partition", type="a")])
            await here.hub.dispatch([event("another user", users=["u2"]), event("own", users=["u1", "u2"])])
            here.hub.fanout.broadcast(Gap("epoch", ALL, None))
            await here.hub.dispatch([event("for all")])
            await sink.has("for all")
            (subscriber,) = here.hub.subscribers
            assert subscriber.sent == 2
            assert not subscriber.live
        assert sink.order == ["own", "for all"]


@virtual_time
async def test_many_early_events_are_written_in_portions() -> None:
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        async with subscribed(here.hub, wait_for_log=True) as sink:
            await sink.until(lambda: len(sink.chunks) > 0)
            total = 2 * BATCH_ITEMS + 10
            published = [event(number) for number in range(total)]
            await here.hub.dispatch(published)
            await sink.has(total - 1)
            portions = [chunk.count(b"data: ") for chunk in sink.chunks]
            assert [count for count in portions if count] == [BATCH_ITEMS, BATCH_ITEMS, 10]
            assert sink.chunks[-1] == b"".join(DATA.record(None, Record(each, ALL, None)) for each in published[-10:])
        assert sink.data == list(range(total))


@virtual_time
async def test_a_slow_waiting_stream_gets_the_rest_from_the_log() -> None:
    """What left the ring before it was read was not sent early."""
    store = MemoryStore()
    store.clock.now = AFTER_NOW
    async with Instance(store, ring=Ring(8)) as here:
        here.log.leave()
        async with subscribed(here.hub, wait_for_log=True) as sink:
            await here.hub.dispatch([event("first")])
            await sink.has("first")
            sink.full = True
            await here.hub.dispatch([event("second")])
            await sink.has("second")
            for number in range(20):
                await here.hub.dispatch([event(number)])
            sink.release()
            await asyncio.sleep(5)
            assert sink.data == ["first", "second"]
            await here.hub.dispatch([event("third")])
            await sink.has("third")
            here.log.come_back()
            assert (await sink.ready())["recovered"]
            await sink.received(23)
            await eventually(lambda: here.fallback.backlog.events == 0)
            await here.hub.dispatch([event("end")])
            await sink.has("end")
        assert sink.data == ["first", "second", "third", *range(20), "end"]


@virtual_time
async def test_a_waiting_stream_that_takes_nothing_is_closed() -> None:
    loop = asyncio.get_running_loop()
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        sink = RecordingSink()
        sink.full = True
        async with subscribed(here.hub, wait_for_log=True, sink=sink):
            await sink.until(lambda: sink.is_waited_for)
            began = loop.time()
            await sink.until(lambda: sink.ended, seconds=90)
            assert loop.time() - began == pytest.approx(60.0, abs=1.0)
        assert sink.closing == "slow-consumer"


@virtual_time
async def test_a_waiting_stream_that_left_is_written_no_more() -> None:
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        async with subscribed(here.hub, wait_for_log=True) as sink:
            await asyncio.sleep(3)
        written = len(sink.chunks)
        await here.hub.dispatch([event("early")])
        here.log.come_back()
        await asyncio.sleep(60)
        assert len(sink.chunks) == written
        assert here.hub.snapshot().readers == {}


@virtual_time
async def test_a_stream_that_need_not_wait_is_refused_in_an_outage() -> None:
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        with pytest.raises(TransportUnavailable, match="unavailable"):
            await here.hub.add(Interest(), Start(), DATA)
        with pytest.raises(TransportUnavailable, match="unavailable"):
            async with here.hub.subscribe(Interest(), Start(), DATA):
                pass
        assert here.hub.snapshot().readers == {}


class SlowToAnswer(UnavailableLog):
    """A log whose tail is answered for the first time when the test says."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.answered = asyncio.Event()

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[Tail]:
        async with super().on_message(handler) as tail:
            yield _SlowTail(tail, self.answered)


class _SlowTail:
    running = True

    def __init__(self, tail: Tail, answered: asyncio.Event) -> None:
        self._tail = tail
        self._answered = answered

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        self._tail.follow(positions)
        return self._wait()

    def unfollow(self, partitions: Sequence[str]) -> None:
        self._tail.unfollow(partitions)

    async def _wait(self) -> None:
        await self._answered.wait()


@virtual_time
async def test_ready_waits_for_the_first_answer_of_the_tail() -> None:
    """Heartbeats and early events come meanwhile: `ready` promises what is appended from then on."""
    store = MemoryStore()
    log = SlowToAnswer(store.open())
    async with Hub(Fallback(log)) as hub, subscribed(hub, wait_for_log=True) as sink:
        place = Cursor((await log.head((ALL,))).positions).encode()
        await asyncio.sleep(RETRY_CAP + 0.5)
        log.is_unavailable = True
        await hub.dispatch([event("early")])
        await sink.has("early")
        assert len(sink.chunks) == 1
        assert sink.cursor == place  # every frame has one, also the first
        await asyncio.sleep(20 * RETRY_CAP)
        assert sink.order == ["early"]
        assert sink.chunks[1:] == [DATA.heartbeat(place)] * 20
        log.is_unavailable = False
        log.answered.set()
        assert (await sink.ready())["recovered"]
        await hub.dispatch([event("end")])
        await sink.has("end")
    assert sink.data == ["early", "end"]


@virtual_time
async def test_a_stream_that_left_before_the_first_answer_stays_away() -> None:
    log = SlowToAnswer(MemoryStore().open())
    log.leave()
    async with Hub(Fallback(log)) as hub:
        async with subscribed(hub, wait_for_log=True) as sink:
            await asyncio.sleep(5)
            assert hub.snapshot().subscribers == {State.WAITING: 1}
            log.come_back()
            await asyncio.sleep(5)
            assert hub.snapshot().subscribers == {State.REPLAYING: 1}
        written = len(sink.chunks)
        log.answered.set()
        await asyncio.sleep(60)
        assert len(sink.chunks) == written
        assert hub.snapshot().fanout.members == 0
        assert len(asyncio.all_tasks()) <= 3  # this one, the tail's and the outbox's


@virtual_time
async def test_a_slow_waiting_stream_gets_each_event_once() -> None:
    """Of what the ring brings it reads only early events of its own; some of them are in the log already."""
    store = MemoryStore()
    async with Instance(store) as there, Instance(store) as here, subscribed(here.hub) as witness:
        await witness.ready()
        here.log.leave()
        sink = RecordingSink()
        sink.full = True
        async with subscribed(here.hub, since="earliest", wait_for_log=True, sink=sink):
            await here.hub.dispatch([event(1)])
            await sink.until(lambda: sink.is_waited_for)
            await there.hub.dispatch([event("theirs")])
            await here.hub.dispatch([event(2), event("for u2", users=["u2"]), event(3)])
            here.log.come_back()
            last = offset_of(witness.cursor) + 5
            await witness.until(lambda: offset_of(witness.cursor) == last)
            here.log.is_unavailable = True
            here.hub.fanout.broadcast(Gap("trimmed", ALL, here.hub.fanout.positions[ALL]))
            await here.hub.dispatch([event(4), event(5)])
            sink.release()
            await sink.has(5)
            assert sink.data == [1, 2, 3, 4, 5]
            assert sink.cursor == ""
            here.log.is_unavailable = False
            await sink.ready()
            await eventually(lambda: here.fallback.backlog.events == 0)
            await here.hub.dispatch([event("end")])
            await sink.has("end")
        assert sink.data == [1, 2, 3, 4, 5, "theirs", "end"]
        assert sink.gaps == []
