"""The outbox: its order, its bounds, and what it logs."""

import asyncio
import logging
from typing import Any

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.transports.fallback import fallback
from tidewire.transports.fallback.outbox import Entry

from tests.contract.acts import event, place, publish
from tests.contract.stores import MemoryStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import subscribed
from tests.support.unavailable_log import Instance, ids_in_log
from tests.support.waiting import eventually, spin


@virtual_time
async def test_a_publish_behind_the_outbox_waits_and_is_durable() -> None:
    store = MemoryStore()
    async with Instance(store) as here:
        here.log.leave()
        await publish(here.fallback, *range(300))
        here.log.seconds = 0.1
        here.log.come_back()
        await eventually(lambda: not here.fallback.is_unavailable)
        assert here.fallback.backlog.events > 0
        (receipt,) = await here.fallback.publish([event("after")])
        assert receipt.durable
        assert place(receipt).offset == 301
        assert here.fallback.backlog.events == 0


@virtual_time
async def test_a_publish_behind_a_new_outage_is_not_durable() -> None:
    """It was waiting when the log became unavailable again."""
    store = MemoryStore()
    async with Instance(store) as here, subscribed(here.hub) as sink:
        await sink.ready()
        here.log.leave()
        await here.hub.dispatch([event(n) for n in range(40)])
        here.log.seconds = 0.1
        here.log.is_unavailable = False
        await eventually(lambda: not here.fallback.is_unavailable)
        waiting = asyncio.create_task(here.hub.dispatch([event("waits"), event("too")]))
        await spin()
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
    assert await ids_in_log(store) == ids


@pytest.mark.parametrize("bound", ["events", "bytes"])
@virtual_time
async def test_a_full_outbox_refuses_the_whole_request(bound: str) -> None:
    size = Entry(event(0), [("all", "0")]).size
    limits: dict[str, Any] = {"max_events": 5} if bound == "events" else {"max_bytes": 5 * size}
    async with Instance(MemoryStore(), **limits) as here, subscribed(here.hub) as sink:
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
async def test_the_end_of_a_process_logs_how_much_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It appends as much as it can before."""
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    async with Instance(store) as here:
        here.log.leave()
        await publish(here.fallback, "saved at the last moment", "hunter2")
        closing = asyncio.create_task(here.hub.aclose())
        await pass_time(fallback.LAST_FLUSH / 2)
        here.log.come_back()
        await closing
    assert len(await ids_in_log(store)) == 2
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
            await pass_time(0.5)  # virtual
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
    messages = [record.message for record in caplog.records if record.name == "tidewire.transports.fallback.fallback"]
    assert [message.split(":")[0] for message in messages] == [
        "the log is unavailable",
        "the log is back",
        "the outbox is empty",
    ]


@virtual_time
async def test_an_append_that_keeps_failing_is_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt logged one, many per second, until the outbox was empty."""
    async with Instance(MemoryStore()) as here:
        here.log.leave()
        await here.hub.dispatch([event("kept")])
        here.log.is_broken = True
        here.log.come_back()
        await eventually(lambda: len(here.log.batches) >= 20)
        here.log.is_broken = False
        await eventually(lambda: here.fallback.backlog.events == 0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]
