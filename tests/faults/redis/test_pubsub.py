"""Pub/Sub loses its connection, its Redis, or an answer: one gap per stream, and every later event."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.model.record import Gap
from tidewire.protocol.sse import DATA
from tidewire.transports.redis import pubsub, redis_py
from tidewire.transports.redis.pubsub import RedisPubSub, _PubSubTail

from tests.contract.acts import Received, event, publish
from tests.contract.stores import PubSubStore
from tests.support.processes import MakeRedis, RedisServer
from tests.support.proxy import Proxy
from tests.support.sinks import subscribed
from tests.support.waiting import eventually

NEWCOMER = (Interest(), Start(), DATA)


@pytest.fixture
async def breakable(make_redis: MakeRedis) -> AsyncIterator[tuple[RedisServer, PubSubStore]]:
    """A Redis for this test alone, to be killed and paused."""
    server = await asyncio.to_thread(make_redis, aof=False)
    store = PubSubStore(server.url)
    yield server, store
    await store.aclose()


async def kill_tails(client: redis.Redis) -> int:
    """Cut each connection that is subscribed; return their number."""
    subscribed = await client.client_list(_type="pubsub")
    for each in subscribed:
        await client.client_kill_filter(_id=each["id"])
    return len(subscribed)


async def test_a_lost_connection_is_one_gap_per_stream(pubsub_store: PubSubStore, redis_client: redis.Redis) -> None:
    """Events after the gap arrive, and a live stream's gap is not counted as the gap of a resume."""
    async with Hub(pubsub_store.open()) as hub, Hub(pubsub_store.open()) as other:
        async with subscribed(hub) as one, subscribed(hub, "u1", {"t"}) as two:
            await one.ready()
            await two.ready()
            for cut in (1, 2, 3):
                assert await kill_tails(redis_client) == 1
                await one.until(lambda cut=cut: len(one.gaps) == cut)  # type: ignore[misc]  # binds the loop variable
                await other.dispatch([event(f"after {cut}")])
                await one.has(f"after {cut}")
                await two.has(f"after {cut}")
        expected = [f"after {cut}" for cut in (1, 2, 3)]
        assert one.data == two.data == expected
        assert one.gaps == two.gaps == ["no-log"] * 3
        assert one.order[1:3] == ["realtime.gap", "after 1"]
        assert hub.stats.gaps == {}


async def test_own_streams_get_own_events_without_the_tail(
    pubsub_store: PubSubStore, redis_client: redis.Redis
) -> None:
    async with Hub(pubsub_store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        await kill_tails(redis_client)
        await hub.dispatch([event("own")])
        await sink.has("own")
    assert sink.data == ["own"]


async def test_a_restart_of_redis_is_a_gap_and_the_streams_stay_open(
    breakable: tuple[RedisServer, PubSubStore],
) -> None:
    server, store = breakable
    async with Hub(store.open()) as hub, Hub(store.open()) as other, subscribed(hub) as sink:
        await sink.ready()
        assert hub.tail_running
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not hub.tail_running)
        await asyncio.to_thread(server.start)
        await sink.until(lambda: sink.gaps == ["no-log"])
        assert hub.tail_running
        await other.dispatch([event("after")])
        await sink.has("after")
    assert sink.order == ["realtime.ready", "realtime.gap", "after"]


async def test_unfollowing_during_an_outage_is_no_gap(
    breakable: tuple[RedisServer, PubSubStore],
) -> None:
    server, store = breakable
    publisher, received = store.open(), Received()
    async with store.open().on_message(received) as tail:
        assert isinstance(tail, _PubSubTail)
        await tail.follow({"all": None, "other": None})
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not tail.running)
        tail.unfollow(("all",))
        await asyncio.to_thread(server.start)
        await tail.follow({"all": None})
        await publish(publisher, "end")
        await received.has("end")
    gaps = [item.partition for item in received.items if isinstance(item, Gap)]
    assert gaps == ["other"]


async def test_an_outage_refuses_subscribers_and_publishers(
    breakable: tuple[RedisServer, PubSubStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = breakable
    monkeypatch.setattr(pubsub, "CONFIRM_TIMEOUT", 0.5)
    await asyncio.to_thread(server.kill)
    transport = RedisPubSub(server.url.replace("redis://", "redis://user:hunter2@"))
    async with Hub(transport) as hub:
        for attempt in (hub.add(*NEWCOMER), hub.dispatch([event("refused")]), transport.ping()):
            with pytest.raises(TransportUnavailable) as caught:
                await attempt
            assert "hunter2" not in caught.value.detail
            assert "127.0.0.1" not in caught.value.detail
        assert hub.subscribers == set()
    async with Hub(store.open()) as hub:
        await asyncio.to_thread(server.start)
        async with subscribed(hub) as sink:
            await sink.ready()
            await hub.dispatch([event("back")])
            await sink.has("back")
        assert sink.gaps == []


async def test_only_the_last_confirmation_counts(breakable: tuple[RedisServer, PubSubStore]) -> None:
    """A partition that is left and followed again is not confirmed by the reply to its first SUBSCRIBE."""
    server, store = breakable
    async with store.open().on_message(Received()) as tail:
        assert isinstance(tail, _PubSubTail)
        subscriptions = tail.subscriptions
        await tail.follow({"keep": None})
        server.pause()
        first = tail.follow({"all": None})
        await eventually(lambda: subscriptions.pending("all") == 1)
        tail.unfollow(("all",))
        await eventually(lambda: subscriptions.pending("all") == 2)
        last = tail.follow({"all": None})
        await eventually(lambda: subscriptions.pending("all") == 3)
        server.resume()
        await last
        await first


async def test_a_dead_open_connection_is_a_gap(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is kept as long as it answers pings, and replaced when it does not."""
    monkeypatch.setattr(redis_py, "TIMEOUT", 1.0)
    ping = 0.2
    async with Proxy(redis_url) as proxy, Hub(RedisPubSub(proxy.url, ping=ping)) as hub, subscribed(hub) as sink:
        await sink.ready()
        answered = proxy.turns
        await eventually(lambda: (proxy.turns - answered) * ping > 1.5)  # longer than the time-out
        assert sink.gaps == []
        await proxy.freeze()
        await sink.until(lambda: sink.gaps == ["no-log"])
