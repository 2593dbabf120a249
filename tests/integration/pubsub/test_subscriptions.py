"""The one connection of a process: which channels it subscribes to, and when it is confirmed."""

import asyncio

import redis.asyncio as redis
from tidewire.delivery.hub import Hub
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap
from tidewire.transports.redis.subscriptions import Subscriptions

from tests.contract.acts import Received, event, publish
from tests.contract.stores import PubSubStore
from tests.support.sinks import subscribed
from tests.support.waiting import eventually

AB = Partitions(frozenset({"a", "b"}))


async def test_ready_waits_for_redis_confirmation(pubsub_store: PubSubStore) -> None:
    async with Hub(pubsub_store.open()) as publisher:
        for number in range(30):
            async with Hub(pubsub_store.open()) as hub, subscribed(hub) as sink:
                await sink.ready()
                await publisher.dispatch([event(number)])
                await sink.has(number, seconds=5)


async def test_a_second_subscriber_waits_for_the_confirmation_too(pubsub_store: PubSubStore) -> None:
    async with Hub(pubsub_store.open()) as publisher, Hub(pubsub_store.open()) as hub:
        for number in range(30):
            async with subscribed(hub) as one, subscribed(hub) as two:
                await asyncio.gather(one.ready(), two.ready())
                await publisher.dispatch([event(number)])
                await asyncio.gather(one.has(number, seconds=5), two.has(number, seconds=5))


async def test_channels_are_named_as_partitions_are(pubsub_store: PubSubStore, redis_client: redis.Redis) -> None:
    scheme = Partitions(frozenset({"a"}), user_shards=1)
    others = await connections(redis_client)
    async with Hub(pubsub_store.open(scheme), scheme) as hub:
        async with subscribed(hub, "u1") as sink:
            await sink.ready()
            assert await named(redis_client) == {b"rt:all", b"rt:all:u0", b"rt:a", b"rt:a:u0"}
            async with subscribed(hub, "u1", {"a"}):
                pass
            async with subscribed(hub, None, {"b"}) as second:
                await second.ready()
                assert len(await named(redis_client)) == 4
        await eventually_empty(redis_client, others)


async def named(client: redis.Redis) -> set[bytes]:
    """Return the subscribed channels, without those of the processes themselves."""
    channels = await client.pubsub_channels()
    return {name for name in channels if isinstance(name, bytes) and b"=" not in name}


async def connections(client: redis.Redis) -> set[str]:
    """Return the ids of all connections to this Redis, which other tests use too."""
    return {each["id"] for each in await client.client_list()}


async def eventually_empty(client: redis.Redis, others: set[str]) -> None:
    """Return once no channel is subscribed, and only connections of `others` are left."""

    async def is_empty() -> bool:
        return not await client.pubsub_channels() and await connections(client) <= others

    await eventually(is_empty)


async def test_one_connection_serves_all_subscribers(pubsub_store: PubSubStore, redis_client: redis.Redis) -> None:
    """Without subscribers there is none."""
    others = await connections(redis_client)
    async with Hub(pubsub_store.open(AB), AB) as hub:
        assert await redis_client.client_list(_type="pubsub") == []
        for _ in range(3):
            async with subscribed(hub) as one, subscribed(hub, "u1", {"a"}) as two, subscribed(hub, "u2") as three:
                for sink in (one, two, three):
                    await sink.ready()
                assert len(await redis_client.client_list(_type="pubsub")) == 1
            await eventually_empty(redis_client, others)
    assert hub.stats.gaps == {}, "a resubscription is no gap"


async def test_following_again_at_once_is_no_gap(
    pubsub_store: PubSubStore,
) -> None:
    publisher, transport, received = pubsub_store.open(), pubsub_store.open(), Received()
    async with transport.on_message(received) as tail:
        for number in range(50):
            following = tail.follow({"all": None})
            if number % 3:
                assert following is not None
                await following
            if number % 2:
                await asyncio.sleep(0.001)  # any moment of the subscription
            tail.unfollow(("all",))
        following = tail.follow({"all": None})
        assert following is not None
        await following
        await publish(publisher, "end")
        await received.has("end")
    assert not [item for item in received.items if isinstance(item, Gap)]


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
