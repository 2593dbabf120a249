"""Each subscriber gets each event once: echoes, retries, other processes, foreign messages."""

import asyncio
import logging
from typing import Any

import pytest
import redis.asyncio as redis
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.primitives.recent_keys import RecentKeys
from tidewire.transports.base import Retention, Transport
from tidewire.transports.redis.pubsub import RedisPubSub

from tests.contract.acts import Received, event
from tests.contract.stores import PubSubStore
from tests.support.sinks import subscribed

AB = Partitions(frozenset({"a", "b"}))


async def test_an_own_event_is_not_delivered_twice(
    pubsub_store: PubSubStore,
) -> None:
    """Redis sends it back to its publisher too."""
    async with Hub(pubsub_store.open(AB), AB) as hub, Hub(pubsub_store.open(AB), AB) as other:
        async with subscribed(hub, "u1") as here, subscribed(other, "u1") as there:
            await here.ready()
            await there.ready()
            for number in range(20):
                await hub.dispatch([event(number, type="abc"[number % 3], users=["u1"] if number % 2 else None)])
            await there.until(lambda: len(there.data) == 20)
            await other.dispatch([event("end", type=type) for type in "abc"])
            await here.until(lambda: here.data.count("end") == 3)
            await there.until(lambda: there.data.count("end") == 3)
        assert sorted(here.data[:-3]) == list(range(20))
        assert sorted(there.data[:-3]) == list(range(20))


async def test_own_events_are_known_after_their_ids_are_forgotten(pubsub_store: PubSubStore) -> None:
    forgetful = pubsub_store.open()
    assert isinstance(forgetful, RedisPubSub)
    forgetful.recent = RecentKeys(60.0, maximum=1)
    async with Hub(forgetful) as hub, Hub(pubsub_store.open()) as other, subscribed(hub) as here:
        await here.ready()
        receipts = await hub.dispatch([event(number) for number in range(50)])
        await other.dispatch([event("end")])
        await here.has("end")
    assert here.data == [*range(50), "end"]
    assert not any(receipt.duplicate for receipt in receipts)


async def test_a_retry_reaches_each_process_once(pubsub_store: PubSubStore) -> None:
    async with Hub(pubsub_store.open()) as one, Hub(pubsub_store.open()) as two, Hub(pubsub_store.open()) as three:
        async with subscribed(one) as first, subscribed(two) as second, subscribed(three) as third:
            for sink in (first, second, third):
                await sink.ready()
            again = event("once")
            duplicates = [(await hub.dispatch([again]))[0].duplicate for hub in (one, one)]
            await second.has("once")
            await third.has("once")
            duplicates.append((await two.dispatch([again]))[0].duplicate)
            await three.dispatch([event("end")])
            for sink in (first, second, third):
                await sink.has("end")
        assert duplicates == [False, True, True]
        assert first.data == second.data == third.data == ["once", "end"]


async def test_a_publish_may_be_retried_at_another_process(pubsub_store: PubSubStore) -> None:
    lost, saved = pubsub_store.open(), pubsub_store.open()
    async with Hub(lost) as one, Hub(saved) as two, Hub(pubsub_store.open()) as three:
        async with subscribed(one) as first, subscribed(two) as second, subscribed(three) as third:
            for sink in (first, second, third):
                await sink.ready()
            again = event("once")
            await break_answer(lost, again)
            await third.has("once")
            await second.has("once")
            assert first.data == [], "its publisher got an error"
            assert (await two.dispatch([again]))[0].duplicate
            await one.dispatch([again])
            await two.dispatch([event("end")])
            for sink in (first, second, third):
                await sink.has("end")
        assert first.data == second.data == third.data == ["once", "end"]


async def break_answer(transport: Transport, published: Event) -> None:
    """Publish an event whose response is lost."""
    execute: Any = redis.Redis.execute_command
    commands: list[str] = []

    async def lose(client: redis.Redis, *command: Any) -> None:
        commands.append(command[0])
        await execute(client, *command)
        raise redis.TimeoutError("Timeout reading from hunter2")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.Redis, "execute_command", lose)
        with pytest.raises(TransportUnavailable) as caught:
            await transport.publish([published])
    assert commands == ["EVALSHA"], "the command was sent again after a time-out"
    assert "hunter2" not in caught.value.detail


async def test_a_retry_repeats_nothing_for_part_of_the_audience(
    pubsub_store: PubSubStore,
) -> None:
    scheme = Partitions(user_shards=64)
    one, two = (Hub(pubsub_store.open(scheme), scheme) for _ in range(2))
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
    assert late.data == ["end"], "a later subscriber got an event that is not stored"


async def test_an_id_twice_in_a_batch_is_delivered_once(pubsub_store: PubSubStore) -> None:
    async with Hub(pubsub_store.open()) as hub, Hub(pubsub_store.open()) as other:
        async with subscribed(hub) as here, subscribed(other) as there:
            await here.ready()
            await there.ready()
            receipts = await hub.dispatch([event(1, id="x"), event(2, id="x"), event("end")])
            await here.has("end")
            await there.has("end")
        assert [receipt.duplicate for receipt in receipts] == [False, True, False]
        assert here.data == there.data == [1, "end"]


async def test_after_its_window_an_id_is_a_new_event(pubsub_store: PubSubStore) -> None:
    retention = Retention(idempotency_window=0.05)
    async with Hub(pubsub_store.open(retention=retention)) as hub, Hub(pubsub_store.open(retention=retention)) as other:
        async with subscribed(hub) as here, subscribed(other) as there:
            await here.ready()
            await there.ready()
            for number in (1, 2):
                assert not (await hub.dispatch([event(number, id="x")]))[0].duplicate
                await there.has(number)
                await asyncio.sleep(0.06)  # the window passes
        assert here.data == there.data == [1, 2]


async def test_300_publishers_at_once_are_all_served(pubsub_store: PubSubStore) -> None:
    async with Hub(pubsub_store.open()) as hub, Hub(pubsub_store.open()) as other, subscribed(other) as sink:
        await sink.ready()
        await asyncio.gather(*(hub.dispatch([event(number)]) for number in range(300)))
        await hub.dispatch([event("end")])
        await sink.has("end")
    assert sorted(sink.data[:-1]) == list(range(300))


async def test_the_largest_event_passes_byte_for_byte(pubsub_store: PubSubStore) -> None:
    data = ('["' + '\\"é\\u2028' * 26_000 + '"]').encode()
    assert 256_000 < len(data) <= 262_144
    received = Received()
    async with pubsub_store.open().on_message(received) as tail:
        following = tail.follow({"all": None})
        assert following is not None
        await following
        original = Event("1", "t", data, ("u1", "ü"), {"source": "/s"})
        await pubsub_store.open().publish([original])
        await received.until(lambda: bool(received.items))
    assert received.items == [Record(original, "all", None)]


async def test_foreign_messages_are_skipped_and_not_logged(
    pubsub_store: PubSubStore, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Hub(pubsub_store.open()) as hub, Hub(pubsub_store.open()) as other, subscribed(hub) as sink:
        await sink.ready()
        for junk in (b"", b"hunter2", b"0" * 16, b"0123456789abcdef{hunter2", b"\xff" * 40):
            await redis_client.publish("rt:all", junk)
        await other.dispatch([event("end")])
        await sink.has("end")
    assert sink.order == ["realtime.ready", "end"]
    assert "hunter2" not in caplog.text
