"""While the log is away: taken, told at once, appended in order later, and each event once a connection."""

import asyncio
import logging

import pytest
from tidewire.delivery.ring_buffer import Ring
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.transports.fallback import fallback
from tidewire.transports.fallback.outbox import Entry

from tests.contract.acts import at, event, place, publish, read, start_of
from tests.contract.stores import MemoryStore
from tests.integration.fallback.away import Instance
from tests.support.clocks import virtual_time
from tests.support.sinks import subscribed
from tests.support.waiting import eventually

AB = Partitions(frozenset({"a"}), user_shards=2)


async def logged(store: MemoryStore) -> list[str]:
    """The ids that the log holds, in its order."""
    log = store.open()
    head = (await log.head(("all",))).positions["all"]
    return [item.event.id for item in await read(log, at(start_of(head))) if isinstance(item, Record)]


@virtual_time
async def test_an_outage_delivers_here_at_once_and_elsewhere_later() -> None:
    """Elsewhere once the log is back."""
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
async def test_a_later_subscriber_gets_an_early_event_by_the_log() -> None:
    """The one that received it early does not get it again."""
    store = MemoryStore()
    async with Instance(store) as here:
        async with subscribed(here.hub) as old:
            await old.ready()
            here.log.leave()
            await here.hub.dispatch([event("early")])
            await old.has("early")
            here.log.is_away = False  # it answers again; the tail has not brought anything yet
            await eventually(lambda: here.fallback.backlog.events == 0)
            async with subscribed(here.hub, since="earliest") as new:
                await new.has("early")
                here.log.release_tail()
                await here.hub.dispatch([event("end")])
                await old.has("end")
                await new.has("end")
        assert old.data == new.data == ["early", "end"]


@virtual_time
async def test_an_append_with_a_lost_answer_is_not_doubled() -> None:
    """Neither in the log nor on a connection."""
    store = MemoryStore()
    async with Instance(store) as here:
        async with subscribed(here.hub) as sink:
            await sink.ready()
            for hold in (False, True):  # the tail brings it before the publisher gives up, or after
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
    assert (await logged(store))[:2] == ["False", "True"]


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
    assert await logged(store) == ["1", "2", "3", "4"]


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
async def test_a_publish_behind_the_outbox_waits_and_is_durable() -> None:
    store = MemoryStore()
    async with Instance(store) as here:
        here.log.leave()
        await publish(here.fallback, *range(300))
        here.log.seconds = 0.1
        here.log.come_back()
        await eventually(lambda: not here.fallback.is_away)
        assert here.fallback.backlog.events > 0
        (receipt,) = await here.fallback.publish([event("after")])
        assert receipt.durable
        assert place(receipt).offset == 301
        assert here.fallback.backlog.events == 0


@virtual_time
async def test_a_publish_behind_a_new_outage_is_not_durable() -> None:
    """It waited for its turn when the log went away again."""
    store = MemoryStore()
    async with Instance(store) as here, subscribed(here.hub) as sink:
        await sink.ready()
        here.log.leave()
        await here.hub.dispatch([event(n) for n in range(40)])
        here.log.seconds = 0.1
        here.log.is_away = False
        await eventually(lambda: not here.fallback.is_away)
        waiting = asyncio.create_task(here.hub.dispatch([event("waits"), event("too")]))
        await asyncio.sleep(0)
        here.log.leave()
        receipts = await waiting
        assert [r.durable for r in receipts] == [False, False]
        await sink.has("too")
        here.log.come_back()
        await here.hub.dispatch([event("end")])
        await sink.has("end")
    assert sink.data == [*range(40), "waits", "too", "end"]


@virtual_time
async def test_the_outbox_is_appended_in_order_and_growing_batches() -> None:
    store = MemoryStore()
    async with Instance(store) as here:
        here.log.leave()
        ids = [r.id for r in await publish(here.fallback, *range(250))]
        here.log.batches.clear()
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
        sizes = [len(batch) for batch in here.log.batches]
        assert sizes[:5] == [1, 4, 16, 64, 100]
    assert await logged(store) == ids


@pytest.mark.parametrize("bound", ["events", "bytes"])
@virtual_time
async def test_a_full_outbox_refuses_the_whole_request(bound: str) -> None:
    limits = {"max_events": 5} if bound == "events" else {"max_bytes": 5 * Entry(event(0), [("all", "0")]).size}
    async with Instance(MemoryStore(), **limits) as here, subscribed(here.hub) as sink:  # type: ignore[arg-type]
        await sink.ready()
        here.log.leave()
        await here.hub.dispatch([event(n) for n in range(4)])
        with pytest.raises(TransportUnavailable, match="outbox is full") as caught:
            await here.hub.dispatch([event(4), event(5)])
        assert caught.value.retry_after >= 1
        assert here.fallback.backlog.events == 4
        await here.hub.dispatch([event(4)])
        await sink.has(4)
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
        assert here.fallback.backlog.bytes == 0
        (receipt,) = await here.hub.dispatch([event("room again")])
        assert receipt.durable
    assert sink.data[:5] == list(range(5))


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
        here.log.leave()  # before anybody was here: the instance has never seen the log
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


async def test_a_page_does_not_wait_for_a_log_that_is_away() -> None:
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        with pytest.raises(TransportUnavailable):
            async with subscribed(here.hub):
                pass


@virtual_time
async def test_a_slow_reader_of_an_outage_gets_everything_once() -> None:
    """It left the ring meanwhile."""
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


@virtual_time
async def test_the_end_of_a_process_logs_how_much_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It appends what it can before."""
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    async with Instance(store) as here:
        here.log.leave()
        await publish(here.fallback, "saved at the last moment", "hunter2")
        closing = asyncio.create_task(here.hub.aclose())
        await asyncio.sleep(fallback.LAST_FLUSH / 2)
        here.log.come_back()
        await closing
    assert len(await logged(store)) == 2
    assert "LOST" not in caplog.text
    async with Instance(store) as here:
        here.log.leave()
        await publish(here.fallback, "hunter2", "hunter2")
        began = asyncio.get_running_loop().time()
        await here.hub.aclose()
        assert asyncio.get_running_loop().time() - began == pytest.approx(fallback.LAST_FLUSH, abs=0.2)
    (lost,) = [record for record in caplog.records if "LOST" in record.message]
    assert lost.levelno == logging.ERROR
    assert "2 events (18 bytes" in lost.message
    assert "hunter2" not in caplog.text


@virtual_time
async def test_an_outage_and_its_end_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        for number in range(20):
            await publish(here.fallback, number)
            await asyncio.sleep(0.5)
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
    told = [record.message for record in caplog.records if record.name == "tidewire.transports.fallback.fallback"]
    assert [message.split(":")[0] for message in told] == [
        "the log is unavailable",
        "the log is back",
        "the outbox is empty",
    ]


@virtual_time
async def test_an_append_that_fails_on_and_on_is_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Each try wrote one, up to many a second, for as long as the outbox could not be emptied."""
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        await here.hub.dispatch([event("kept")])
        here.log.is_broken = True
        here.log.come_back()
        await eventually(lambda: len(here.log.batches) >= 20)
        here.log.is_broken = False
        await eventually(lambda: here.fallback.backlog.events == 0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]
