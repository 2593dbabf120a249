"""Metrics: pairs, gaps, latencies and lag are counted once each."""

import pytest
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.hub import Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.errors import TransportUnavailable
from tidewire.monitoring.metrics import collect, distributions
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import MemoryStore
from tests.support.clocks import Clock
from tests.support.sinks import subscribed
from tests.support.unavailable_log import UnavailableLog
from tests.support.waiting import spin
from tests.unit.delivery.members import Listener, record


async def values(hub: Hub) -> dict[str, float]:
    """The value of each counter and gauge, by name and label values."""
    metrics = await collect(hub)
    return {",".join((m.name, *labels)): value for m in metrics for labels, value in m.values.items()}


async def test_matched_and_filtered_pairs_are_counted() -> None:
    async with (
        Hub(MemoryLog()) as hub,
        subscribed(hub, "u1") as one,
        subscribed(hub, "u2") as two,
        subscribed(hub, "u1") as three,
    ):
        for sink in (one, two, three):
            await sink.ready()
        await hub.dispatch([event("for u1", users=["u1"]), event("for all")])
        for sink in (one, two, three):
            await sink.has("for all")
        found = await values(hub)
    assert found["realtime_matched"] == 2 + 3
    assert found["realtime_filtered"] == 1
    assert found["realtime_deliveries"] == 5
    assert found["realtime_subscribers,live"] == 3


async def test_latencies_are_counted_once_per_record() -> None:
    async with Hub(MemoryLog()) as hub, subscribed(hub) as one, subscribed(hub) as two:
        await one.ready()
        await two.ready()
        await hub.dispatch([event(1), event(2), event(3, users=["nobody here"])])
        await one.has(2)
        await two.has(2)
        counts = {d.name: d.histogram.count for d in distributions(hub)}
    assert counts == {"realtime_publish_seconds": 1, "realtime_tail_lag_seconds": 3, "realtime_delivery_seconds": 2}


async def test_delivery_ends_after_the_write() -> None:
    clock = Clock(1.001)
    fanout, member = Fanout(Ring(), clock=clock), Listener()
    fanout.join(member)
    fanout.broadcast(record(1))  # appended at 1.001
    clock.advance(0.2)
    fanout.flush()
    assert fanout.tail_lag.sum == pytest.approx(0.0)
    assert fanout.delivery.sum == pytest.approx(0.2)


async def test_a_gap_is_counted_for_each_live_subscriber() -> None:
    store = MemoryStore()
    async with Hub(store.open()) as hub, subscribed(hub) as one, subscribed(hub) as two:
        await one.ready()
        await two.ready()
        fall_back = await store.back_up()
        await publish(hub.transport, 1)
        await one.has(1)
        await fall_back()
        await publish(hub.transport, 2)
        await one.has(2)
        await two.has(2)
        found = await values(hub)
    assert one.gaps == two.gaps == ["epoch"]
    assert found["realtime_gaps,epoch"] == 2


async def test_members_are_counted_through_joins_and_leaves() -> None:
    fanout = Fanout(Ring())
    members = [Listener("u1"), Listener("u1"), Listener("u2")]
    for member in members:
        fanout.join(member)
    fanout.leave(members[0])
    fanout.leave(members[0])
    assert fanout.members == 2


async def test_pending_bytes_are_there_until_the_flush() -> None:
    fanout = Fanout(Ring())
    fanout.join(Listener())
    fanout.broadcast(record(1, "x" * 500))
    assert fanout.snapshot().pending_bytes > 500
    fanout.flush()
    assert fanout.snapshot().pending_bytes == 0


async def test_the_tail_lag_costs_a_request_only_with_subscribers() -> None:
    log = StagedLog(MemoryLog())
    async with Hub(log) as hub:
        asked = log.heads_read
        assert (await values(hub))["realtime_tail_behind_records"] == 0
        assert log.heads_read == asked
        async with subscribed(hub) as sink:
            await sink.ready()
            log.hold_tail()
            await hub.dispatch([event(1), event(2)])
            assert (await values(hub))["realtime_tail_behind_records"] == 2
            log.release_tail()
            await sink.has(2)
            assert (await values(hub))["realtime_tail_behind_records"] == 0


async def test_an_unavailable_log_has_no_lag_and_counts_refusals() -> None:
    log = UnavailableLog(MemoryLog())
    async with Hub(log) as hub, subscribed(hub) as sink:
        await sink.ready()
        log.leave()
        with pytest.raises(TransportUnavailable):
            await hub.dispatch([event(1), event(2)])
        found = await values(hub)
        assert "realtime_tail_behind_records" not in found
        assert found["realtime_publish_refused"] == 2
        assert found["realtime_transport_away"] == 1
        log.come_back()
        await spin()
