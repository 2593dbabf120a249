"""While the log is unavailable, events are accepted, delivered at once, and appended later: once per connection."""

import pytest
from tidewire.delivery.ring_buffer import Ring
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import Partitions

from tests.contract.acts import event
from tests.contract.stores import MemoryStore
from tests.support.clocks import virtual_time
from tests.support.sinks import subscribed
from tests.support.unavailable_log import Instance, ids_in_log
from tests.support.waiting import eventually

AB = Partitions(frozenset({"a"}), user_shards=2)


@virtual_time
async def test_an_outage_delivers_here_at_once_and_elsewhere_later() -> None:
    """Other instances deliver it once the log is back."""
    store = MemoryStore()
    async with Instance(store) as here, Instance(store) as there:
        async with subscribed(here.hub) as near, subscribed(there.hub) as far:
            await near.ready()
            await far.ready()
            here.log.leave()
            receipts = [(await here.hub.dispatch([event(n)]))[0] for n in range(3)]
            await near.has(2)
            assert [(r.positions, r.duplicate, r.durable) for r in receipts] == [(None, False, False)] * 3
            await there.hub.dispatch([event("from there")])
            await far.has("from there")
            assert far.data == ["from there"]
            here.log.come_back()
            await far.has(2)
            (after,) = await here.hub.dispatch([event("end")])
            await near.has("end")
            await far.has("end")
            assert after.durable
        assert near.data == [0, 1, 2, "from there", "end"]
        assert far.data == ["from there", 0, 1, 2, "end"]
        assert near.gaps == far.gaps == []


@virtual_time
async def test_an_early_event_moves_no_cursor() -> None:
    """A resume from that cursor loses nothing."""
    store = MemoryStore()
    async with Instance(store) as here, Instance(store) as there:
        async with subscribed(here.hub) as sink:
            await sink.ready()
            await here.hub.dispatch([event("kept")])
            await sink.has("kept")
            before = sink.cursor
            here.log.leave()
            await here.hub.dispatch([event("early")])
            await sink.has("early")
            assert sink.cursor == before
        await there.hub.dispatch([event("meanwhile")])
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
        async with subscribed(there.hub, cursor=before) as again:
            await again.has("early")
        assert again.data == ["meanwhile", "early"]


@virtual_time
async def test_the_cursor_passes_an_early_event_once_it_is_logged() -> None:
    store = MemoryStore()
    async with Instance(store) as here:
        async with subscribed(here.hub) as sink:
            await sink.ready()
            here.log.leave()
            await here.hub.dispatch([event("early")])
            await sink.has("early")
            here.log.come_back()
            before = sink.cursor
            await sink.until(lambda: sink.cursor != before)
        async with subscribed(here.hub, cursor=sink.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 0}


@virtual_time
async def test_a_later_subscriber_gets_an_early_event_from_the_log() -> None:
    """The one that received it early does not get it again."""
    store = MemoryStore()
    async with Instance(store) as here:
        async with subscribed(here.hub) as old:
            await old.ready()
            here.log.leave()
            await here.hub.dispatch([event("early")])
            await old.has("early")
            here.log.is_unavailable = False  # it answers again, but the tail has delivered nothing yet
            await eventually(lambda: here.fallback.backlog.events == 0)
            async with subscribed(here.hub, since="earliest") as new:
                await new.has("early")
                here.log.release_tail()
                await here.hub.dispatch([event("end")])
                await old.has("end")
                await new.has("end")
        assert old.data == new.data == ["early", "end"]


@virtual_time
async def test_an_append_with_a_lost_response_is_not_repeated() -> None:
    """Neither in the log nor on a connection."""
    store = MemoryStore()
    async with Instance(store) as here:
        async with subscribed(here.hub) as sink:
            await sink.ready()
            for hold in (False, True):  # the tail delivers it before the publisher's error, or after
                if hold:
                    here.log.hold_tail()
                here.log.answers_lost = 1
                (receipt,) = await here.hub.dispatch([event(f"lost {hold}", id=f"{hold}")])
                assert not receipt.durable
                await sink.has(f"lost {hold}")
                here.log.release_tail()
                await eventually(lambda: here.fallback.backlog.events == 0)
            await here.hub.dispatch([event("end")])
            await sink.has("end")
        assert sink.data == ["lost False", "lost True", "end"]
    assert (await ids_in_log(store))[:2] == ["False", "True"]


@virtual_time
async def test_one_id_is_one_event_across_an_outage() -> None:
    store = MemoryStore()
    async with Instance(store) as here, Instance(store) as there:
        async with subscribed(here.hub) as sink:
            await sink.ready()
            await here.hub.dispatch([event("before", id="1")])
            await sink.has("before")
            here.log.leave()
            (again,) = await here.hub.dispatch([event("before", id="1")])
            (first,) = await here.hub.dispatch([event("while", id="2")])
            second, third = await here.hub.dispatch([event("while", id="2"), event("while", id="2")])
            twice = await here.hub.dispatch([event("batch", id="3"), event("batch", id="3")])
            assert [r.duplicate for r in (first, second, third, *twice)] == [False, True, True, False, True]
            assert not any(r.durable for r in (again, first, second, third, *twice))
            here.log.come_back()
            await eventually(lambda: here.fallback.backlog.events == 0)
            (after,) = await here.hub.dispatch([event("while", id="2")])
            (elsewhere,) = await there.hub.dispatch([event("while", id="2")])
            assert after.duplicate
            assert after.durable
            assert elsewhere == after
            await here.hub.dispatch([event("end", id="4")])
            await sink.has("end")
        assert sink.data == ["before", "while", "batch", "end"]
    assert await ids_in_log(store) == ["1", "2", "3", "4"]


@virtual_time
async def test_after_the_window_an_id_is_a_new_event() -> None:
    store = MemoryStore()
    async with Instance(store, window=0.0) as here, subscribed(here.hub) as sink:
        await sink.ready()
        here.log.leave()
        await here.hub.dispatch([event(1, id="x")])
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
        here.log.leave()
        await here.hub.dispatch([event(2, id="x")])
        await sink.has(2)
    assert sink.data == [1, 2]


@virtual_time
async def test_an_event_of_several_shards_is_delivered_once() -> None:
    """And appended to each."""
    store = MemoryStore()
    async with Instance(store, AB) as here, Instance(store, AB) as there:
        async with (
            subscribed(here.hub, "u1") as one,
            subscribed(here.hub, "u2") as two,
            subscribed(there.hub, "u2") as far,
        ):
            for sink in (one, two, far):
                await sink.ready()
            here.log.leave()
            await here.hub.dispatch([event("both", type="a", users=["u1", "u2", "u3"])])
            await one.has("both")
            await two.has("both")
            here.log.come_back()
            await far.has("both")
            await there.hub.dispatch([event("end", type="a")])
            for sink in (one, two, far):
                await sink.has("end")
        assert one.data == two.data == far.data == ["both", "end"]


@virtual_time
async def test_a_stream_opened_in_an_outage_receives_early_events() -> None:
    """And is ready when the log is back."""
    store = MemoryStore()
    async with Instance(store) as here:
        here.log.leave()  # before any subscriber: the instance has never read the log
        async with subscribed(here.hub, wait_for_log=True) as sink:
            await here.hub.dispatch([event("early")])
            await sink.has("early")
            assert sink.order == ["early"]
            assert sink.cursor == ""
            here.log.come_back()
            assert await sink.ready() == {"recovered": True, "replayed": 1}
            await here.hub.dispatch([event("end")])
            await sink.has("end")
        assert sink.order == ["early", "realtime.ready", "end"]


@virtual_time
async def test_a_stream_resumed_in_an_outage_misses_nothing() -> None:
    """It gets what it missed when the log is back, and nothing twice."""
    store = MemoryStore()
    async with Instance(store) as here, Instance(store) as there:
        async with subscribed(here.hub) as first:
            await first.ready()
            await here.hub.dispatch([event("seen")])
            await first.has("seen")
        await there.hub.dispatch([event("missed")])
        here.log.leave()
        async with subscribed(here.hub, cursor=first.cursor, wait_for_log=True) as sink:
            await here.hub.dispatch([event("early")])
            await sink.has("early")
            assert sink.cursor == first.cursor
            here.log.come_back()
            await sink.ready()
            await here.hub.dispatch([event("end")])
            await sink.has("end")
        assert sink.order == ["early", "missed", "realtime.ready", "end"]


async def test_a_page_does_not_wait_for_a_log_that_is_unavailable() -> None:
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        with pytest.raises(TransportUnavailable):
            async with subscribed(here.hub):
                pass


@virtual_time
async def test_a_slow_reader_of_an_outage_gets_everything_once() -> None:
    """Its position has left the ring."""
    store = MemoryStore()
    async with Instance(store, ring=Ring(8)) as here, subscribed(here.hub) as slow, subscribed(here.hub) as fast:
        await slow.ready()
        await fast.ready()
        here.log.leave()
        await here.hub.dispatch([event(0)])
        await slow.has(0)
        slow.full = True
        for number in range(1, 40):
            await here.hub.dispatch([event(number)])
            await fast.has(number)
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
        slow.release()
        await slow.has(39)
        await here.hub.dispatch([event("end")])
        await slow.has("end")
        await fast.has("end")
    assert slow.data == fast.data == [*range(40), "end"]
