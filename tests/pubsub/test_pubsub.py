"""Redis Pub/Sub: what can be promised without a log, and that the rest is told as a gap."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as redis

from shared.errors import TransportUnavailable
from shared.event import Event
from shared.filter import Interest
from shared.hub import Hub
from shared.partitions import Partitions
from shared.record import Gap, Record
from shared.sse import DATA
from shared.subscriber import Start
from shared.transports import redis_connection, redis_pubsub
from shared.transports.base import Retention, Transport
from shared.transports.redis_pubsub import RedisPubSub
from tests.contract.acts import Heard, event, publish
from tests.contract.stores import PubSubStore
from tests.processes import MakeRedis, RedisServer
from tests.sinks import RecordingSink, subscribed
from tests.waiting import eventually

AB = Partitions(frozenset({"a", "b"}))
NEWCOMER = (Interest(), Start(), DATA)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[PubSubStore]:
    """A Redis that carries, and all transports opened on it."""
    store = PubSubStore(redis_url)
    yield store
    await store.aclose()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    """A look at the same Redis from outside."""
    async with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
async def breakable(make_redis: MakeRedis) -> AsyncIterator[tuple[RedisServer, PubSubStore]]:
    """A Redis of our own, to be killed and paused."""
    server = await asyncio.to_thread(make_redis, aof=False)
    store = PubSubStore(server.url)
    yield server, store
    await store.aclose()


async def kill_tails(client: redis.Redis) -> int:
    """Cut every connection that is subscribed; tell how many there were."""
    subscribed = await client.client_list(_type="pubsub")
    for each in subscribed:
        await client.client_kill_filter(_id=each["id"])
    return len(subscribed)


async def heard_gaps(sink: RecordingSink, number: int) -> None:
    """Return once so many gaps were told."""
    await sink.until(lambda: len(sink.gaps) == number)


async def test_a_lost_connection_is_one_gap_on_every_open_stream_and_what_follows_arrives(
    store: PubSubStore, client: redis.Redis
) -> None:
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


async def test_ready_is_not_said_before_redis_has_confirmed_the_subscription(store: PubSubStore) -> None:
    async with Hub(store.open()) as publisher:
        for number in range(30):
            async with Hub(store.open()) as hub, subscribed(hub) as sink:
                await sink.ready()
                await publisher.dispatch([event(number)])
                await sink.has(number, seconds=5)


async def test_the_second_subscriber_of_a_partition_waits_for_the_same_confirmation(store: PubSubStore) -> None:
    async with Hub(store.open()) as publisher, Hub(store.open()) as hub:
        for number in range(30):
            async with subscribed(hub) as one, subscribed(hub) as two:
                await asyncio.gather(one.ready(), two.ready())
                await publisher.dispatch([event(number)])
                await asyncio.gather(one.has(number, seconds=5), two.has(number, seconds=5))


async def test_what_a_process_published_itself_is_not_delivered_again_when_redis_brings_it_back(
    store: PubSubStore,
) -> None:
    async with Hub(store.open(AB), AB) as hub, Hub(store.open(AB), AB) as other:
        async with subscribed(hub, "u1") as here, subscribed(other, "u1") as there:
            await here.ready()
            await there.ready()
            for number in range(20):
                await hub.dispatch([event(number, type="abc"[number % 3], users=["u1"] if number % 2 else None)])
            await other.dispatch([event("end", type=type) for type in "abc"])
            await here.until(lambda: here.data.count("end") == 3)
            await there.until(lambda: there.data.count("end") == 3)
        assert sorted(here.data[:-3]) == list(range(20))
        assert sorted(there.data[:-3]) == list(range(20))


async def test_a_process_knows_its_own_events_by_more_than_its_memory(
    store: PubSubStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pubsub, "MAX_REMEMBERED", 1)
    async with Hub(store.open()) as hub, Hub(store.open()) as other, subscribed(hub) as here:
        await here.ready()
        receipts = await hub.dispatch([event(number) for number in range(50)])
        await other.dispatch([event("end")])
        await here.has("end")
    assert here.data == [*range(50), "end"]
    assert not any(receipt.duplicate for receipt in receipts)


async def test_a_retry_reaches_each_process_once_whichever_process_it_comes_by(store: PubSubStore) -> None:
    async with Hub(store.open()) as one, Hub(store.open()) as two, Hub(store.open()) as three:
        async with subscribed(one) as first, subscribed(two) as second, subscribed(three) as third:
            for sink in (first, second, third):
                await sink.ready()
            again = event("once")
            duplicates = [(await hub.dispatch([again]))[0].duplicate for hub in (one, one)]
            await second.has("once")
            duplicates.append((await two.dispatch([again]))[0].duplicate)
            await three.dispatch([event("end")])
            for sink in (first, second, third):
                await sink.has("end")
        assert duplicates == [False, True, True]
        assert first.data == second.data == third.data == ["once", "end"]


async def test_a_publisher_whose_answer_was_lost_may_retry_at_another_process(store: PubSubStore) -> None:
    lost, saved = store.open(), store.open()
    async with Hub(lost) as one, Hub(saved) as two, Hub(store.open()) as three:
        async with subscribed(one) as first, subscribed(two) as second, subscribed(three) as third:
            for sink in (first, second, third):
                await sink.ready()
            again = event("once")
            await break_answer(lost, again)
            await third.has("once")
            await second.has("once")
            assert first.data == [], "the publisher was told that it failed"
            assert (await two.dispatch([again]))[0].duplicate
            await one.dispatch([again])
            await two.dispatch([event("end")])
            for sink in (first, second, third):
                await sink.has("end")
        assert first.data == second.data == third.data == ["once", "end"]


async def break_answer(transport: Transport, published: Event) -> None:
    """Publish; Redis carries it, but the answer does not come back."""
    assert isinstance(transport, RedisPubSub)
    client: Any = transport._client
    pipelines = []

    def make_pipeline(transaction: bool) -> Any:
        pipeline = type(client).pipeline(client, transaction=transaction)
        execute = pipeline.execute

        async def lose() -> None:
            await execute()
            raise redis.TimeoutError("Timeout reading from hunter2")

        pipeline.execute = lose
        pipelines.append(pipeline)
        return pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "pipeline", make_pipeline)
        with pytest.raises(TransportUnavailable) as caught:
            await transport.publish([published])
    assert len(pipelines) == 1
    assert "hunter2" not in caught.value.detail


async def test_a_retry_at_a_process_that_heard_a_part_of_the_audience_repeats_nothing_for_that_part(
    store: PubSubStore,
) -> None:
    scheme = Partitions(user_shards=64)
    one, two = (Hub(store.open(scheme), scheme) for _ in range(2))
    async with one, two, subscribed(two, "u1") as early:
        await early.ready()
        again = event("once", users=["u1", "u2"])
        await one.dispatch([again])
        await early.has("once")
        async with subscribed(two, "u2") as late:
            await late.ready()
            assert (await two.dispatch([again]))[0].duplicate
            await one.dispatch([event("end", users=["u1", "u2"])])
            await early.has("end")
            await late.has("end")
    assert early.data == ["once", "end"]
    assert late.data == ["end"], "it came too late for this one, and nothing is kept"


async def test_an_id_twice_in_a_batch_is_carried_once(store: PubSubStore) -> None:
    async with Hub(store.open()) as hub, Hub(store.open()) as other:
        async with subscribed(hub) as here, subscribed(other) as there:
            await here.ready()
            await there.ready()
            receipts = await hub.dispatch([event(1, id="x"), event(2, id="x"), event("end")])
            await here.has("end")
            await there.has("end")
        assert [receipt.duplicate for receipt in receipts] == [False, True, False]
        assert here.data == there.data == [1, "end"]


async def test_after_its_window_an_id_is_a_new_event(store: PubSubStore) -> None:
    retention = Retention(idempotency_window=0.05)
    async with Hub(store.open(retention=retention)) as hub, Hub(store.open(retention=retention)) as other:
        async with subscribed(hub) as here, subscribed(other) as there:
            await here.ready()
            await there.ready()
            for number in (1, 2):
                assert not (await hub.dispatch([event(number, id="x")]))[0].duplicate
                await there.has(number)
                await asyncio.sleep(0.06)
        assert here.data == there.data == [1, 2]


def test_what_a_process_remembers_of_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_pubsub, "MAX_REMEMBERED", 3)
    seen = redis_pubsub._Seen(60.0)
    assert [seen.add(("all", str(n))) for n in range(5)] == [True] * 5
    assert [seen.knows([("all", str(n))]) for n in range(5)] == [False, False, True, True, True]


async def test_channels_are_named_as_partitions_are(store: PubSubStore, client: redis.Redis) -> None:
    scheme = Partitions(frozenset({"a"}), user_shards=1)
    async with Hub(store.open(scheme), scheme) as hub:
        async with subscribed(hub, "u1") as sink:
            await sink.ready()
            assert set(await client.pubsub_channels()) == {b"rt:all", b"rt:all:u0", b"rt:a", b"rt:a:u0"}
            async with subscribed(hub, "u1", {"a"}):
                pass
            async with subscribed(hub, None, {"b"}) as second:
                await second.ready()
                assert len(await client.pubsub_channels()) == 4
        await eventually_empty(client)


async def eventually_empty(client: redis.Redis) -> None:
    """Return once nobody is subscribed and no connection waits to be."""
    async with asyncio.timeout(10):
        while await client.pubsub_channels() or await client.client_list(_type="pubsub"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_one_connection_serves_every_subscriber_and_none_is_open_while_there_is_none(
    store: PubSubStore, client: redis.Redis
) -> None:
    async with Hub(store.open(AB), AB) as hub:
        assert await client.client_list(_type="pubsub") == []
        for _ in range(3):
            async with subscribed(hub) as one, subscribed(hub, "u1", {"a"}) as two, subscribed(hub, "u2") as three:
                for sink in (one, two, three):
                    await sink.ready()
                assert len(await client.client_list(_type="pubsub")) == 1
            await eventually_empty(client)
    assert hub.stats.gaps == {}, "leaving and coming back is no gap"


async def test_a_partition_left_and_followed_again_at_once_is_told_no_gap_and_misses_nothing(
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


async def test_the_last_follow_is_confirmed_only_by_its_own_answer(store: PubSubStore) -> None:
    publisher, transport, heard = store.open(), store.open(), Heard()
    async with transport.on_message(heard) as tail:
        keep = tail.follow({"keep": None})
        assert keep is not None
        await keep
        for number in range(100):
            first = tail.follow({"all": None})
            await asyncio.sleep(0)  # SUBSCRIBE is on its way
            tail.unfollow(("all",))
            await asyncio.sleep(0)  # and UNSUBSCRIBE
            last = tail.follow({"all": None})
            assert first is not None
            assert last is not None
            await last
            await publish(publisher, number)
            await heard.has(number)
            tail.unfollow(("all",))


async def test_while_redis_is_away_nobody_subscribes_half_and_publishing_accepts_nothing(
    breakable: tuple[RedisServer, PubSubStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = breakable
    monkeypatch.setattr(redis_pubsub, "_CONFIRM", 0.5)
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


async def test_what_is_published_here_while_the_tail_is_away_still_reaches_its_own_streams(
    store: PubSubStore, client: redis.Redis
) -> None:
    async with Hub(store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        await kill_tails(client)
        await hub.dispatch([event("own")])
        await sink.has("own")
    assert sink.data == ["own"]


async def test_a_connection_that_is_open_but_dead_is_given_up_and_told_as_a_gap(
    breakable: tuple[RedisServer, PubSubStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = breakable
    monkeypatch.setattr(redis_connection, "TIMEOUT", 1.0)
    async with Hub(RedisPubSub(server.url, ping=0.2)) as hub, subscribed(hub) as sink:
        await sink.ready()
        await asyncio.sleep(1.5)  # silent for longer than it takes to be given up, but alive: pongs come
        assert sink.gaps == []
        server.pause()
        await eventually(lambda: not hub.tail_running)
        server.resume()
        await sink.until(lambda: sink.gaps == ["no-log"])


async def test_a_crowd_of_publishers_is_served_and_none_is_turned_away(store: PubSubStore) -> None:
    async with Hub(store.open()) as hub, Hub(store.open()) as other, subscribed(other) as sink:
        await sink.ready()
        await asyncio.gather(*(hub.dispatch([event(number)]) for number in range(300)))
        await hub.dispatch([event("end")])
        await sink.has("end")
    assert sorted(sink.data[:-1]) == list(range(300))


async def test_the_largest_event_passes_byte_for_byte(store: PubSubStore) -> None:
    data = ('["' + '\\"é\\u2028' * 26_000 + '"]').encode()
    assert 256_000 < len(data) <= 262_144
    heard = Heard()
    async with store.open().on_message(heard) as tail:
        following = tail.follow({"all": None})
        assert following is not None
        await following
        original = Event("1", "t", data, ("u1", "ü"), {"source": "/s"})
        await store.open().publish([original])
        await heard.until(lambda: bool(heard.items))
    assert heard.items == [Record(original, "all", None)]


async def test_what_others_publish_on_the_channel_is_left_out_and_its_content_not_logged(
    store: PubSubStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Hub(store.open()) as hub, Hub(store.open()) as other, subscribed(hub) as sink:
        await sink.ready()
        for junk in (b"", b"hunter2", b"0" * 16, b"0123456789abcdef{hunter2", b"\xff" * 40):
            await client.publish("rt:all", junk)
        await other.dispatch([event("end")])
        await sink.has("end")
    assert sink.order == ["realtime.ready", "end"]
    assert "hunter2" not in caplog.text
