"""The tail of Redis Pub/Sub, without a server and in virtual time."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tidewire.errors import TransportUnavailable
from tidewire.model.record import Gap, Record
from tidewire.primitives.counters import RECONNECTS
from tidewire.transports.redis.layout import PUBLISH
from tidewire.transports.redis.pool import TIMEOUT
from tidewire.transports.redis.pubsub import CONFIRM_TIMEOUT, PING, RedisPubSub

from tests.contract.acts import Received
from tests.support.clocks import virtual_time
from tests.support.fake_pubsub import FakeRedis, event, other, tailing
from tests.support.waiting import spin

KEY = "{rt}:health"
CHECK = ("EVAL", PUBLISH.text, 1, KEY)


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_a_subscription_is_done_once_it_is_confirmed(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    received = Received()
    async with transport.on_message(received) as tail:
        await spin(30)
        assert fake.opened == [], "nothing is followed"
        assert (tail.running, tail.failure) == (False, None)
        await tail.follow({"all": None})
        assert (tail.running, tail.failure) == (True, None)
        assert fake.sent == [CHECK, ("SUBSCRIBE", transport.own_channel), ("SUBSCRIBE", "rt:all")]
        await tail.follow({"all": None, "t": None})
        assert fake.sent[3:] == [("SUBSCRIBE", "rt:t")]
        fake.publish("rt:all", other(event("1"))[0])
        await received.has("1")
        assert received.items == [Record(event("1"), "all", None)]
    assert not fake.opened[0].is_connected
    assert not tail.running


@virtual_time
async def test_a_subscription_that_is_not_confirmed_times_out(fake: FakeRedis) -> None:
    fake.silent = True
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        with pytest.raises(TransportUnavailable) as caught:
            await tail.follow({"all": None})
        assert caught.value.detail == "Redis did not confirm the subscription in time"
        assert caught.value.__suppress_context__
        assert now() == CONFIRM_TIMEOUT
        assert not tail.running


@virtual_time
async def test_the_tail_runs_once_all_are_confirmed(fake: FakeRedis) -> None:
    fake.silent = True
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        waiting = asyncio.ensure_future(tail.follow({"a": None, "b": None}))
        await spin(30)
        (connection,) = fake.opened
        connection.confirm("SUBSCRIBE", "rt:a")
        await spin(30)
        assert not tail.running
        connection.confirm("SUBSCRIBE", "rt:b")
        await waiting
        assert tail.running


@virtual_time
async def test_own_and_unfollowed_and_repeated_messages_are_dropped(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    async with tailing(transport, "all") as (received, _):
        (connection,) = fake.opened
        await transport.publish([event("own")])
        connection.channels.add("rt:left")
        for message in other(event("1"), event("1"), event("2")):
            fake.publish("rt:left", message)
            fake.publish("rt:all", message)
        await received.has("2")
        assert received.data == ["1", "2"]
        (receipt,) = await transport.publish([event("1")])
        assert receipt.duplicate, "it came from another process"


def test_a_message_that_is_no_event_is_logged(fake: FakeRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Without its text, which may hold data."""

    @virtual_time
    async def run() -> None:
        async with tailing(RedisPubSub("redis://h"), "all") as (received, _):
            fake.publish("rt:all", b"0123456789abcdefhunter2")
            fake.publish("rt:all", other(event("1"))[0])
            await received.has("1")

    run()
    assert caplog.messages == ["channel of partition all: a message is not an event"]


@virtual_time
async def test_unfollowing_the_last_partition_ends_the_connection(fake: FakeRedis) -> None:
    before = RECONNECTS.value()
    async with tailing(RedisPubSub("redis://h"), "all", "t") as (received, tail):
        tail.unfollow(("t",))
        await spin(30)
        assert fake.sent[-1] == ("UNSUBSCRIBE", "rt:t")
        assert tail.running
        tail.unfollow(("all",))
        await spin(30)
        assert fake.sent[-1] == ("UNSUBSCRIBE", "rt:all")
        assert not fake.opened[0].is_connected
        assert tail.running is False
        await asyncio.sleep(60)
        assert len(fake.opened) == 1
        await tail.follow({"all": None})
        assert len(fake.opened) == 2
        assert received.data == []
        assert RECONNECTS.value() == before


@virtual_time
async def test_a_lost_connection_is_a_gap_of_each_partition(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    before = RECONNECTS.value()
    async with tailing(transport, "all", "t") as (received, tail):
        tail.follow({"new": None})
        fake.opened[0].arrive(RedisConnectionError("hunter2"))
        await received.until(lambda: len(received.items) == 2)
        assert sorted(received.items) == [Gap("no-log", "all", None), Gap("no-log", "t", None)]
        await spin(30)
        assert tail.running
        assert tail.failure == "Redis cannot be used now (ConnectionLost: ConnectionError)"
        assert not fake.opened[0].is_connected
        assert fake.sent[0] == CHECK
        assert set(fake.sent[-1]) == {"SUBSCRIBE", "rt:all", "rt:t", "rt:new"}
        assert RECONNECTS.value() == before + 1


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (ReadOnlyError("hunter2"), "NotServing: READONLY"),
        (RuntimeError("hunter2"), "ConnectionLost: RuntimeError"),
        (ResponseError("hunter2"), "CommandError: ERR"),
        (KeyError("hunter2"), None),
    ],
)
def test_a_failed_tail_says_why_and_reconnects(
    fake: FakeRedis, refusal: Exception, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual_time
    async def run() -> None:
        fake.refusals = [refusal]
        async with tailing(RedisPubSub("redis://h"), "all") as (received, tail):
            own = "it failed, and the log of the server says why"
            assert tail.failure == (f"Redis cannot be used now ({reason})" if reason else own)
            assert tail.running
            assert len(fake.opened) == 2
            assert received.data == [], "nothing was subscribed before"

    run()
    (record,) = caplog.records
    assert record.getMessage() == (f"tail lost, reconnecting: {reason}" if reason else "tail failed, reconnecting")
    assert bool(record.exc_info) is (reason is None)


@virtual_time
async def test_a_replica_is_left_before_any_subscription(fake: FakeRedis) -> None:
    fake.is_replica = True
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        tail.follow({"all": None})
        await spin(30)
        assert fake.opened[0].commands == [CHECK]
        assert not fake.opened[0].is_connected
        assert tail.failure == "Redis cannot be used now (NotServing: READONLY)"
        fake.is_replica = False
        await tail.follow({"all": None})


@virtual_time
async def test_pauses_grow_until_a_subscription_was_confirmed(fake: FakeRedis) -> None:
    fake.refusals = [RedisConnectionError("no")] * 500
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        tail.follow({"all": None})
        await asyncio.sleep(60)
        assert 10 < len(fake.opened) < 60
        fake.refusals.clear()
        await tail.follow({"all": None})
        opened = len(fake.opened)
        for _ in range(3):
            fake.opened[-1].arrive(RedisConnectionError("no"))
            await asyncio.sleep(0.06)
            assert tail.running
        assert len(fake.opened) == opened + 3


@virtual_time
async def test_a_confirmed_subscription_closes_the_breaker(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisConnectionError("no")] * 3
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await transport.take("key", 1, 1, 1)
    async with tailing(transport, "all"):
        assert not transport.is_unavailable


@virtual_time
async def test_a_silent_connection_is_checked(fake: FakeRedis) -> None:
    """It may be half open, or lead to a node that was demoted and receives nothing."""
    transport = RedisPubSub("redis://h")
    async with tailing(transport, "all") as (received, _):
        await asyncio.sleep(PING - 0.1)
        assert fake.commands == []
        await asyncio.sleep(0.2)
        check = ("EVALSHA", PUBLISH.sha, 1, KEY, transport.own_channel, b"")
        assert fake.commands == [check]
        await asyncio.sleep(PING)
        assert fake.commands == [check] * 2
        assert len(fake.opened) == 1
        assert received.data == []


def test_a_connection_without_what_redis_accepted_is_left(fake: FakeRedis, caplog: pytest.LogCaptureFixture) -> None:
    @virtual_time
    async def run() -> None:
        async with tailing(RedisPubSub("redis://h"), "all") as (received, tail):
            await asyncio.sleep(1)
            fake.silent = True
            await asyncio.sleep(PING + TIMEOUT - 1.1)
            assert [one.is_connected for one in fake.opened] == [True]
            fake.silent = False
            await asyncio.sleep(1)
            assert [one.is_connected for one in fake.opened] == [False, True]
            assert tail.running
            assert received.data == ["<no-log>"]

    run()
    assert caplog.messages[0] == "the tail does not receive what Redis has accepted, reconnecting"


@virtual_time
async def test_a_check_that_cannot_be_published_becomes_a_ping(fake: FakeRedis) -> None:
    """It proves nothing about this connection, which must bring an answer itself."""
    async with tailing(RedisPubSub("redis://h"), "all") as (received, tail):
        fake.faults = [RedisConnectionError("no")]
        await asyncio.sleep(PING + TIMEOUT + 1)
        assert fake.sent[-1] == ("PING",)
        assert len(fake.opened) == 1
        assert tail.running
        fake.publish("rt:all", other(event("1"))[0])
        await received.has("1")


@virtual_time
async def test_a_bad_connection_of_the_client_has_the_tail_checked(fake: FakeRedis) -> None:
    """Once, and without closing it: that could lose events."""
    transport = RedisPubSub("redis://h")
    async with tailing(transport, "all"):
        fake.faults = [RedisTimeoutError("no")]
        with pytest.raises(TransportUnavailable):
            await transport.take("key", 1, 1, 1)
        await spin(30)
        assert fake.commands[-1][4:] == (transport.own_channel, b"")
        await asyncio.sleep(PING - 1)
        assert len(fake.commands) == 2
        assert len(fake.opened) == 1


@virtual_time
async def test_a_new_connection_needs_no_check(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    async with tailing(transport) as (_, tail):
        tail.request_refresh()
        await tail.follow({"all": None})
        await asyncio.sleep(PING - 1)
        assert fake.commands == []


@virtual_time
async def test_one_check_at_a_time_is_under_way(fake: FakeRedis) -> None:
    async with tailing(RedisPubSub("redis://h"), "all") as (_, tail):
        fake.silent = True
        for _ in range(3):
            tail.request_refresh()
            await spin(30)
        assert len(fake.commands) == 1


@virtual_time
async def test_a_connection_that_closed_itself_is_not_used(fake: FakeRedis) -> None:
    """redis-py would open another one, without our subscriptions."""
    async with tailing(RedisPubSub("redis://h"), "all") as (received, tail):
        fake.opened[0].is_connected = False
        waiting: Sequence[Any] = [asyncio.ensure_future(tail.follow({"t": None}))]
        await spin(30)
        fake.opened[0].arrive(RedisConnectionError("closed"))
        await asyncio.gather(*waiting)
        assert len(fake.opened) == 2
        assert received.data == ["<no-log>"]


def test_a_tail_ends_with_its_context(fake: FakeRedis, caplog: pytest.LogCaptureFixture) -> None:
    """With the check that was under way."""

    @virtual_time
    async def run() -> None:
        transport = RedisPubSub("redis://h")
        async with tailing(transport, "all"):
            fake.silent = True
            await asyncio.sleep(PING + 1)
        assert not fake.opened[0].is_connected
        fake.faults = [RedisTimeoutError("no")]
        with pytest.raises(TransportUnavailable):
            await transport.ping()
        sent = len(fake.commands)
        await asyncio.sleep(60)
        assert len(fake.commands) == sent

    run()
    assert caplog.messages == []


@virtual_time
async def test_a_connection_that_is_lost_at_once_is_named(fake: FakeRedis) -> None:
    fake.lost_at_once = True
    async with tailing(RedisPubSub("redis://h"), "all") as (_, tail):
        assert tail.failure == "Redis cannot be used now (ConnectionLost: closed)"
        assert len(fake.opened) == 2
