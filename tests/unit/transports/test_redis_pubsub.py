"""Publishing over Redis Pub/Sub, without a server."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tidewire.errors import AppendRefused, SettingsError, TransportUnavailable
from tidewire.model.partitions import Partitions
from tidewire.model.record import pack
from tidewire.transports.base import Retention
from tidewire.transports.redis.layout import PUBLISH, TAKE
from tidewire.transports.redis.pubsub import PING, RedisPubSub

from tests.support.clocks import virtual_time
from tests.support.fake_pubsub import FakeRedis, event

KEY = "{rt}:health"


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_events_are_published_once_in_one_round_trip(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h", "pre")
    assert fake.url == ("redis://h", "redis://h", PING)
    first, second = event("1"), event("2")
    receipts = await transport.publish([first, second, first])
    assert [(one.id, one.positions, one.duplicate) for one in receipts] == [
        ("1", None, False),
        ("2", None, False),
        ("1", None, True),
    ]
    name = transport.name
    assert len(name) == 16
    assert fake.commands == [
        ("EVALSHA", PUBLISH.sha, 1, "{pre}:health", *("pre:all", name + pack(first), "pre:all", name + pack(second)))
    ]
    assert [one.duplicate for one in await transport.publish([second])] == [True]
    assert len(fake.commands) == 1


def test_each_process_has_a_name_of_its_own(fake: FakeRedis) -> None:
    one, another = RedisPubSub("redis://h"), RedisPubSub("redis://h", ping=3)
    assert one.name != another.name
    assert one.own_channel == f"rt:={one.name.decode()}"
    assert fake.url == ("redis://h", "redis://h", 3)
    assert (one.ping_seconds, another.ping_seconds) == (PING, 3)


def test_a_wrong_url_is_refused_at_once(fake: FakeRedis) -> None:
    with pytest.raises(SettingsError):
        RedisPubSub("redis://h?protocol=3")


@pytest.mark.parametrize("window", [0.0, 60.0])
async def test_ids_are_remembered_for_the_window(fake: FakeRedis, window: float) -> None:
    transport = RedisPubSub("redis://h", retention=Retention(idempotency_window=window))
    await transport.publish([event()])
    (receipt,) = await transport.publish([event()])
    assert receipt.duplicate is bool(window)


async def test_events_go_to_the_channels_of_their_partitions(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h", partitions=Partitions(frozenset({"t"}), 2))
    await transport.publish([event("1", users=("a", "e", "c")), event("2", "x")])
    (command,) = fake.commands
    assert command[4::2] == ("rt:t:u1", "rt:t:u0", "rt:all")


async def test_an_event_that_was_not_published_is_not_remembered(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisConnectionError("hunter2")]
    with pytest.raises(TransportUnavailable, match=r"^Redis cannot be used now \(ConnectionLost: ConnectionError\)$"):
        await transport.publish([event()])
    assert fake.dropped == [], "redis-py drops a lost connection itself"
    (receipt,) = await transport.publish([event()])
    assert not receipt.duplicate


async def test_a_script_is_sent_in_full_if_it_is_not_cached(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [NoScriptError("No matching script")]
    fake.result = 1_500
    assert await transport.take("key", 2, 10, 1.5) == 1.5
    call = (1, "{rt}:rate:key", 2, 10, 1_500)
    assert fake.commands == [("EVALSHA", TAKE.sha, *call), ("EVAL", TAKE.text, *call)]


async def test_a_refused_command_is_not_sent_again(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [NoPermissionError("no")]
    with pytest.raises(AppendRefused) as caught:
        await transport.ping()
    assert caught.value.detail == "Redis cannot be used now (CommandError: NOPERM)"
    assert len(fake.commands) == 1
    assert fake.dropped == []
    assert not transport.is_unavailable


@virtual_time
async def test_a_refusal_by_a_replica_is_tried_elsewhere(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [ReadOnlyError("no"), ReadOnlyError("no"), None]
    await transport.send([("c", b"m")])
    assert fake.commands == [("EVALSHA", PUBLISH.sha, 1, KEY, "c", b"m")] * 3
    assert fake.dropped == [False, False]
    assert 0 < now() <= 0.06
    fake.faults = [ReadOnlyError("no")] * 3
    with pytest.raises(TransportUnavailable, match="NotServing: READONLY"):
        await transport.send([("c", b"m")])
    assert len(fake.commands) == 6


async def test_a_timeout_drops_idle_connections_and_ends_the_call(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisTimeoutError("no")]
    with pytest.raises(TransportUnavailable, match=r"\(ReadTimeout: no answer in time\)"):
        await transport.ping()
    assert fake.dropped == [False]
    assert len(fake.commands) == 1


async def test_health_is_probed_while_redis_is_unavailable(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisConnectionError("no")] * 3
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await transport.take("key", 1, 1, 1)
    assert transport.is_unavailable
    with pytest.raises(TransportUnavailable):
        await transport.take("key", 1, 1, 1)
    assert len(fake.commands) == 3, "only a health check is sent"
    await transport.ping()
    assert fake.commands[-1] == ("EVALSHA", PUBLISH.sha, 1, KEY)
    assert not transport.is_unavailable


async def test_closing_closes_the_client(fake: FakeRedis) -> None:
    await RedisPubSub("redis://h").aclose()
    assert fake.closed
