"""The one connection of a process: what is subscribed when, and what a loss of it is told as."""

import asyncio

import pytest
import redis.asyncio as redis
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap
from tidewire.protocol.sse import DATA
from tidewire.transports.redis import pubsub, redis_py
from tidewire.transports.redis.pubsub import RedisPubSub, _PubSubTail
from tidewire.transports.redis.subscriptions import Subscriptions

from tests.contract.acts import Heard, event, publish
from tests.contract.stores import PubSubStore
from tests.support.processes import RedisServer
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually

NEWCOMER = (Interest(), Start(), DATA)
AB = Partitions(frozenset({"a", "b"}))


async def kill_tails(client: redis.Redis) -> int:
    """Cut every connection that is subscribed; tell how many there were."""
    subscribed = await client.client_list(_type="pubsub")
    for each in subscribed:
        await client.client_kill_filter(_id=each["id"])
    return len(subscribed)


async def heard_gaps(sink: RecordingSink, number: int) -> None:
    """Return once so many gaps were told."""
    await sink.until(lambda: len(sink.gaps) == number)


async def test_a_lost_connection_is_one_gap_per_stream(store: PubSubStore, client: redis.Redis) -> None:
    """Later events arrive."""
    async with Hub(store.open()) as hub, Hub(store.open()) as other:
        async with subscribed(hub) as one, subscribed(hub, "u1", {"t"}) as two:
            await one.ready()
            await two.ready()
            for cut in (1, 2, 3):
                assert await kill_tails(client) == 1
                await heard_gaps(one, cut)
                await other.dispatch([event(f"after {cut}")])
                await one.has(f"after {cut}")
                await two.has(f"after {cut}")
        expected = [f"after {cut}" for cut in (1, 2, 3)]
        assert one.data == two.data == expected
        assert one.gaps == two.gaps == ["no-log"] * 3
        assert one.order[1:3] == ["realtime.gap", "after 1"], "the gap is told before what follows it"
        assert hub.stats.gaps == {}, "a live stream's gap is not a resume's"


async def test_ready_waits_for_redis_confirmation(store: PubSubStore) -> None:
    async with Hub(store.open()) as publisher:
        for number in range(30):
            async with Hub(store.open()) as hub, subscribed(hub) as sink:
                await sink.ready()
                await publisher.dispatch([event(number)])
                await sink.has(number, seconds=5)


async def test_a_second_subscriber_waits_for_the_confirmation_too(store: PubSubStore) -> None:
    async with Hub(store.open()) as publisher, Hub(store.open()) as hub:
        for number in range(30):
            async with subscribed(hub) as one, subscribed(hub) as two:
                await asyncio.gather(one.ready(), two.ready())
                await publisher.dispatch([event(number)])
                await asyncio.gather(one.has(number, seconds=5), two.has(number, seconds=5))


async def test_channels_are_named_as_partitions_are(store: PubSubStore, client: redis.Redis) -> None:
    scheme = Partitions(frozenset({"a"}), user_shards=1)
    others = await connections(client)
    async with Hub(store.open(scheme), scheme) as hub:
        async with subscribed(hub, "u1") as sink:
            await sink.ready()
            assert await named(client) == {b"rt:all", b"rt:all:u0", b"rt:a", b"rt:a:u0"}
            async with subscribed(hub, "u1", {"a"}):
                pass
            async with subscribed(hub, None, {"b"}) as second:
                await second.ready()
                assert len(await named(client)) == 4
        await eventually_empty(client, others)


async def named(client: redis.Redis) -> set[bytes]:
    """The channels that somebody listens to, without those of the processes themselves."""
    channels = await client.pubsub_channels()
    return {name for name in channels if isinstance(name, bytes) and b"=" not in name}


async def connections(client: redis.Redis) -> set[str]:
    """The ids of all connections to this Redis, which other tests use too."""
    return {each["id"] for each in await client.client_list()}


async def eventually_empty(client: redis.Redis, others: set[str]) -> None:
    """Return once nobody is subscribed, and no connection is left but those of `others`."""
    async with asyncio.timeout(10):
        while await client.pubsub_channels() or await connections(client) - others:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_one_connection_serves_all_subscribers(store: PubSubStore, client: redis.Redis) -> None:
    """None is open without subscribers."""
    others = await connections(client)
    async with Hub(store.open(AB), AB) as hub:
        assert await client.client_list(_type="pubsub") == []
        for _ in range(3):
            async with subscribed(hub) as one, subscribed(hub, "u1", {"a"}) as two, subscribed(hub, "u2") as three:
                for sink in (one, two, three):
                    await sink.ready()
                assert len(await client.client_list(_type="pubsub")) == 1
            await eventually_empty(client, others)
    assert hub.stats.gaps == {}, "leaving and coming back is no gap"


async def test_following_again_at_once_is_no_gap(
    store: PubSubStore,
) -> None:
    publisher, transport, heard = store.open(), store.open(), Heard()
    async with transport.on_message(heard) as tail:
        for number in range(50):
            following = tail.follow({"all": None})
            if number % 3:
                assert following is not None
                await following
            if number % 2:
                await asyncio.sleep(0.001)
            tail.unfollow(("all",))
        following = tail.follow({"all": None})
        assert following is not None
        await following
        await publish(publisher, "end")
        await heard.has("end")
    assert not [item for item in heard.items if isinstance(item, Gap)]


async def test_only_the_last_confirmation_counts(breakable: tuple[RedisServer, PubSubStore]) -> None:
    """A partition that is left and followed again is not confirmed by the reply to its first SUBSCRIBE."""
    server, store = breakable
    async with store.open().on_message(Heard()) as tail:
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


def test_earlier_confirmations_confirm_nothing() -> None:
    subscriptions = Subscriptions()
    subscriptions.follow({"all"})
    for _ in range(3):
        subscriptions.note_command({"all"})
    confirmed = []
    for is_subscribe in (True, False, True):
        subscriptions.confirm("all", subscribed=is_subscribe)
        confirmed.append("all" in subscriptions.confirmed)
    assert confirmed == [False, False, True]


async def test_unfollowing_during_an_outage_is_no_gap(
    breakable: tuple[RedisServer, PubSubStore],
) -> None:
    server, store = breakable
    publisher, heard = store.open(), Heard()
    async with store.open().on_message(heard) as tail:
        assert isinstance(tail, _PubSubTail)
        await tail.follow({"all": None, "other": None})
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not tail.running)
        tail.unfollow(("all",))
        await asyncio.to_thread(server.start)
        await tail.follow({"all": None})
        await publish(publisher, "end")
        await heard.has("end")
    gaps = [item.partition for item in heard.items if isinstance(item, Gap)]
    assert gaps == ["other"]


async def test_an_outage_refuses_subscribers_and_publishers(
    breakable: tuple[RedisServer, PubSubStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = breakable
    monkeypatch.setattr(pubsub, "_CONFIRM_TIMEOUT", 0.5)
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


async def test_own_streams_get_own_events_without_the_tail(store: PubSubStore, client: redis.Redis) -> None:
    async with Hub(store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        await kill_tails(client)
        await hub.dispatch([event("own")])
        await sink.has("own")
    assert sink.data == ["own"]


async def test_a_dead_open_connection_is_a_gap(
    breakable: tuple[RedisServer, PubSubStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = breakable
    monkeypatch.setattr(redis_py, "TIMEOUT", 1.0)
    async with Hub(RedisPubSub(server.url, ping=0.2)) as hub, subscribed(hub) as sink:
        await sink.ready()
        await asyncio.sleep(1.5)  # silent for longer than it takes to be given up, but alive: pongs come
        assert sink.gaps == []
        server.pause()
        await eventually(lambda: not hub.tail_running)
        server.resume()
        await sink.until(lambda: sink.gaps == ["no-log"])
