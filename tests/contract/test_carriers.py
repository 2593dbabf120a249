"""What each transport does for its hubs, with or without a log."""

from tidewire.delivery.hub import Hub

from tests.contract.acts import event, publish
from tests.contract.stores import LogStore, Store
from tests.integration.tracing.spans import Recorded, place
from tests.support.sinks import subscribed


async def test_an_event_reaches_every_hub_once(
    any_store: Store,
) -> None:
    async with Hub(any_store.open()) as one, Hub(any_store.open()) as other:
        async with subscribed(one) as here, subscribed(other) as there:
            await here.ready()
            await there.ready()
            await one.dispatch([event("from one")])
            await there.has("from one")
            await other.dispatch([event("from other"), event("and more")])
            await one.dispatch([event("end")])
            await here.has("end")
            await there.has("end")
        assert sorted(here.data) == ["and more", "end", "from one", "from other"]
        assert sorted(there.data) == sorted(here.data)


async def test_no_event_for_another_user_or_type_is_delivered(any_store: Store) -> None:
    async with Hub(any_store.open()) as hub:
        async with (
            subscribed(hub) as nobody,
            subscribed(hub, "u1") as u1,
            subscribed(hub, "u2", {"a"}) as u2,
            subscribed(hub, None, {"b"}) as only_b,
        ):
            for sink in (nobody, u1, u2, only_b):
                await sink.ready()
            await hub.dispatch([event("a for u1", type="a", users=["u1"])])
            await hub.dispatch([event("b for u2", type="b", users=["u2"])])
            await hub.dispatch([event("a for both", type="a", users=["u1", "u2"])])
            await hub.dispatch([event("a for all", type="a"), event("b for all", type="b")])
            await hub.dispatch([event("end", type="a"), event("end", type="b")])
            for sink in (nobody, u1, u2, only_b):
                await sink.has("end")
            await u1.until(lambda: u1.data.count("end") == 2)
        assert nobody.data[:2] == ["a for all", "b for all"]
        assert u1.data == ["a for u1", "a for both", "a for all", "b for all", "end", "end"]
        assert u2.data == ["a for both", "a for all", "end"]
        assert only_b.data == ["b for all", "end"]


async def test_a_user_named_twice_in_an_audience_gets_one_event(any_store: Store) -> None:
    async with Hub(any_store.open()) as hub, subscribed(hub, "u1") as sink:
        await sink.ready()
        await hub.dispatch([event("once", users=["u1", "u1"]), event("end")])
        await sink.has("end")
    assert sink.data == ["once", "end"]


async def test_a_batch_arrives_in_its_order(any_store: Store) -> None:
    async with Hub(any_store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        await hub.dispatch([event(n) for n in range(50)])
        await sink.has(49)
    assert sink.data == list(range(50))


async def test_a_first_subscription_has_no_gap(any_store: Store) -> None:
    async with Hub(any_store.open()) as hub, subscribed(hub) as sink:
        assert await sink.ready() == {"recovered": True, "replayed": 0}
    assert sink.gaps == []


async def test_without_a_log_a_resume_starts_with_a_gap(
    carrier_store: Store,
) -> None:
    async with Hub(carrier_store.open()) as hub:
        async with subscribed(hub) as first:
            await first.ready()
            await hub.dispatch([event("seen")])
            await first.has("seen")
        await hub.dispatch([event("missed")])
        async with subscribed(hub, cursor=first.cursor) as again:
            assert await again.ready() == {"recovered": False, "replayed": 0}
            await hub.dispatch([event("live")])
            await again.has("live")
        assert again.order == ["realtime.gap", "realtime.ready", "live"]
        assert again.gaps == ["no-log"]


async def test_without_a_log_a_start_in_the_past_is_a_gap(
    carrier_store: Store,
) -> None:
    async with Hub(carrier_store.open()) as hub, subscribed(hub, since="earliest") as sink:
        assert await sink.ready() == {"recovered": False, "replayed": 0}
    assert sink.gaps == ["no-log"]


async def test_receipts_have_positions_only_with_a_log(any_store: Store) -> None:
    async with Hub(any_store.open()) as hub:
        (receipt,) = await publish(hub.transport, 1)
    assert (receipt.positions is not None) == isinstance(any_store, LogStore)


async def test_a_trace_reaches_every_hub(any_store: Store) -> None:
    here, there = Recorded(), Recorded()
    async with (
        Hub(any_store.open(), tracer=here.tracer) as one,
        Hub(any_store.open(), tracer=there.tracer) as other,
        subscribed(other) as sink,
    ):
        await sink.ready()
        await one.dispatch([event("traced", users=["u1", "u2"]), event("for all")])
        await sink.has("for all")
    (append,) = here.named("append all")
    (deliver,) = there.spans
    assert place(deliver.parent) == place(append.context)
