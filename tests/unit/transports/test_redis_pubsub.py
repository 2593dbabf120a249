"""Redis Pub/Sub, with redis-py's client and connections replaced by ones that behave as a test says."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tidewire.errors import AppendRefused, SettingsError, TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record, pack
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Retention
from tidewire.transports.redis import pubsub
from tidewire.transports.redis.layout import PUBLISH, TAKE
from tidewire.transports.redis.pool import TIMEOUT
from tidewire.transports.redis.pubsub import PING, RedisPubSub

from tests.contract.acts import Received
from tests.support.clocks import virtual_time

KEY = "{rt}:health"
CHECK = ("EVAL", PUBLISH.text, 1, KEY)
CONFIRM_TIMEOUT = 5.0


class FakeRedis:
    """A server, with redis-py's client and the tail's connections to it."""

    def __init__(self) -> None:
        self.url: tuple[Any, ...] = ()
        self.commands: list[tuple[Any, ...]] = []
        self.faults: list[Exception | None] = []
        """What the client's next commands raise; None: nothing."""
        self.result = 0
        self.opened: list[FakeConnection] = []
        self.refusals: list[Exception] = []
        """What opening the tail's next connections raises."""
        self.lost_at_once = False
        """Whether the tail's next connection is lost as soon as it is open."""
        self.waited = False
        """Whether closing a connection has waited for its peer."""
        self.silent = False
        """Whether messages reach no connection, and no subscription is confirmed."""
        self.is_replica = False
        self.dropped: list[bool] = []
        self.closed = False
        self.connection_pool = self

    async def execute_command(self, *command: Any) -> Any:
        self.commands.append(command)
        await asyncio.sleep(0)
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        messages = command[4:]
        for channel, message in zip(messages[::2], messages[1::2], strict=False):
            if not isinstance(channel, int):
                self.publish(channel, message)
        return self.result

    def publish(self, channel: str, message: bytes) -> None:
        for connection in self.opened:
            if channel in connection.channels and not self.silent:
                connection.arrive([b"message", channel.encode(), message])

    async def disconnect(self, inuse_connections: bool = True) -> None:
        self.dropped.append(inuse_connections)

    async def aclose(self) -> None:
        self.closed = True

    def make(self) -> "FakeConnection":
        connection = FakeConnection(self)
        self.opened.append(connection)
        return connection

    @property
    def sent(self) -> list[tuple[Any, ...]]:
        """The commands of the tail's last connection."""
        return self.opened[-1].commands


class FakeConnection:
    def __init__(self, redis: FakeRedis) -> None:
        self.commands: list[tuple[Any, ...]] = []
        self.channels: set[str] = set()
        self.is_connected = False
        self.faults: dict[str, Any] = {}
        self._redis = redis
        self._arrived = asyncio.Queue[Any]()

    async def connect(self) -> None:
        await asyncio.sleep(0)
        if self._redis.refusals:
            raise self._redis.refusals.pop(0)
        self.is_connected, self._redis.lost_at_once = not self._redis.lost_at_once, False

    def arrive(self, reply: Any) -> None:
        self._arrived.put_nowait(reply)

    async def send_command(self, *command: Any, check_health: bool = True) -> None:
        assert self.is_connected
        assert check_health is False, "redis-py would read the reply of a PING of its own"
        self.commands.append(command)
        if command[0] == "SUBSCRIBE":
            self.channels.update(command[1:])
        if command[0] == "UNSUBSCRIBE":
            self.channels.difference_update(command[1:])
        if command[0].endswith("SUBSCRIBE"):
            if not self._redis.silent:
                self.confirm(*command)
        elif command[0] == "PING":
            self.arrive([b"pong", b""])
        else:
            self.arrive(ReadOnlyError("a replica") if self._redis.is_replica else 0)

    def confirm(self, command: str, *channels: str) -> None:
        for channel in channels:
            self.arrive([command.lower().encode(), channel.encode(), len(self.channels)])

    async def read_response(self) -> Any:
        reply = await self._arrived.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = False) -> None:
        self._redis.waited |= nowait is not True
        if self.is_connected:
            self.is_connected = False
            self.channels.clear()
            self.arrive(RedisConnectionError("closed"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRedis]:
    """The server behind each RedisPubSub that the test makes."""
    one = FakeRedis()

    def client(url: str) -> FakeRedis:
        one.url = (url,)
        return one

    def connections(url: str, seconds: float) -> FakeRedis:
        one.url = (*one.url, url, seconds)
        return one

    monkeypatch.setattr(pubsub, "make_client", client)
    monkeypatch.setattr(pubsub, "TailConnections", connections)
    monkeypatch.setattr(pubsub, "warnings", ThrottledLog(pubsub.log))
    yield one
    assert not one.waited


def event(id: str = "1", type: str = "t", users: tuple[str, ...] | None = None) -> Event:
    return Event(id, type, f'"{id}"'.encode(), users)


def other(*sent: Event) -> list[bytes]:
    """The messages of another process."""
    return [b"0123456789abcdef" + pack(one) for one in sent]


@asynccontextmanager
async def tailing(transport: RedisPubSub, *partitions: str) -> AsyncIterator[tuple[Received, Any]]:
    received = Received()
    async with asyncio.timeout(600), transport.on_message(received) as tail:  # of virtual time
        if partitions:
            await tail.follow(dict.fromkeys(partitions))
        yield received, tail


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def _publish_once(transport: RedisPubSub, fake: FakeRedis) -> None:
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


def test_events_are_published_once_in_one_round_trip(fake: FakeRedis) -> None:
    _publish_once(RedisPubSub("redis://h", "pre"), fake)
    assert fake.url == ("redis://h", "redis://h", PING)


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
    assert not transport.is_away


@virtual_time
async def _try_replica(fake: FakeRedis) -> None:
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


def test_a_refusal_by_a_replica_is_tried_elsewhere(fake: FakeRedis) -> None:
    _try_replica(fake)


async def test_a_timeout_drops_idle_connections_and_ends_the_call(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisTimeoutError("no")]
    with pytest.raises(TransportUnavailable, match=r"\(ReadTimeout: no answer in time\)"):
        await transport.ping()
    assert fake.dropped == [False]
    assert len(fake.commands) == 1


async def test_health_is_probed_while_redis_is_away(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisConnectionError("no")] * 3
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await transport.take("key", 1, 1, 1)
    assert transport.is_away
    with pytest.raises(TransportUnavailable):
        await transport.take("key", 1, 1, 1)
    assert len(fake.commands) == 3, "only a health check is sent"
    await transport.ping()
    assert fake.commands[-1] == ("EVALSHA", PUBLISH.sha, 1, KEY)
    assert not transport.is_away


async def test_closing_closes_the_client(fake: FakeRedis) -> None:
    await RedisPubSub("redis://h").aclose()
    assert fake.closed


def in_virtual_time(test: Any) -> Any:
    """A test of the tail: it gets the server, in virtual time."""

    def run(fake: FakeRedis) -> None:
        virtual_time(test)(fake)

    run.__doc__ = test.__doc__
    return run


@in_virtual_time
async def test_a_subscription_is_done_once_it_is_confirmed(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    received = Received()
    async with transport.on_message(received) as tail:
        await turns()
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


@in_virtual_time
async def test_a_subscription_that_is_not_confirmed_times_out(fake: FakeRedis) -> None:
    fake.silent = True
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        with pytest.raises(TransportUnavailable) as caught:
            await tail.follow({"all": None})
        assert caught.value.detail == "Redis did not confirm the subscription in time"
        assert caught.value.__suppress_context__
        assert now() == CONFIRM_TIMEOUT
        assert not tail.running


@in_virtual_time
async def test_the_tail_runs_once_all_are_confirmed(fake: FakeRedis) -> None:
    fake.silent = True
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        waiting = asyncio.ensure_future(tail.follow({"a": None, "b": None}))
        await turns()
        (connection,) = fake.opened
        connection.confirm("SUBSCRIBE", "rt:a")
        await turns()
        assert not tail.running
        connection.confirm("SUBSCRIBE", "rt:b")
        await waiting
        assert tail.running


@in_virtual_time
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


@in_virtual_time
async def test_unfollowing_the_last_partition_ends_the_connection(fake: FakeRedis) -> None:
    before = RECONNECTS.value()
    async with tailing(RedisPubSub("redis://h"), "all", "t") as (received, tail):
        tail.unfollow(("t",))
        await turns()
        assert fake.sent[-1] == ("UNSUBSCRIBE", "rt:t")
        assert tail.running
        tail.unfollow(("all",))
        await turns()
        assert fake.sent[-1] == ("UNSUBSCRIBE", "rt:all")
        assert not fake.opened[0].is_connected
        assert tail.running is False
        await asyncio.sleep(60)
        assert len(fake.opened) == 1
        await tail.follow({"all": None})
        assert len(fake.opened) == 2
        assert received.data == []
        assert RECONNECTS.value() == before


@in_virtual_time
async def test_a_lost_connection_is_a_gap_of_each_partition(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    before = RECONNECTS.value()
    async with tailing(transport, "all", "t") as (received, tail):
        tail.follow({"new": None})
        fake.opened[0].arrive(RedisConnectionError("hunter2"))
        await received.until(lambda: len(received.items) == 2)
        assert sorted(received.items) == [Gap("no-log", "all", None), Gap("no-log", "t", None)]
        await turns()
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


@in_virtual_time
async def test_a_replica_is_left_before_any_subscription(fake: FakeRedis) -> None:
    fake.is_replica = True
    async with tailing(RedisPubSub("redis://h")) as (_, tail):
        tail.follow({"all": None})
        await turns()
        assert fake.opened[0].commands == [CHECK]
        assert not fake.opened[0].is_connected
        assert tail.failure == "Redis cannot be used now (NotServing: READONLY)"
        fake.is_replica = False
        await tail.follow({"all": None})


@in_virtual_time
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


@in_virtual_time
async def test_a_confirmed_subscription_closes_the_breaker(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    fake.faults = [RedisConnectionError("no")] * 3
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await transport.take("key", 1, 1, 1)
    async with tailing(transport, "all"):
        assert not transport.is_away


@in_virtual_time
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


@in_virtual_time
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


@in_virtual_time
async def test_a_bad_connection_of_the_client_has_the_tail_checked(fake: FakeRedis) -> None:
    """Once, and without closing it: that could lose events."""
    transport = RedisPubSub("redis://h")
    async with tailing(transport, "all"):
        fake.faults = [RedisTimeoutError("no")]
        with pytest.raises(TransportUnavailable):
            await transport.take("key", 1, 1, 1)
        await turns()
        assert fake.commands[-1][4:] == (transport.own_channel, b"")
        await asyncio.sleep(PING - 1)
        assert len(fake.commands) == 2
        assert len(fake.opened) == 1


@in_virtual_time
async def test_a_new_connection_needs_no_check(fake: FakeRedis) -> None:
    transport = RedisPubSub("redis://h")
    async with tailing(transport) as (_, tail):
        tail.request_refresh()
        await tail.follow({"all": None})
        await asyncio.sleep(PING - 1)
        assert fake.commands == []


@in_virtual_time
async def test_one_check_at_a_time_is_under_way(fake: FakeRedis) -> None:
    async with tailing(RedisPubSub("redis://h"), "all") as (_, tail):
        fake.silent = True
        for _ in range(3):
            tail.request_refresh()
            await turns()
        assert len(fake.commands) == 1


@in_virtual_time
async def test_a_connection_that_closed_itself_is_not_used(fake: FakeRedis) -> None:
    """redis-py would open another one, without our subscriptions."""
    async with tailing(RedisPubSub("redis://h"), "all") as (received, tail):
        fake.opened[0].is_connected = False
        waiting: Sequence[Any] = [asyncio.ensure_future(tail.follow({"t": None}))]
        await turns()
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


@in_virtual_time
async def test_a_connection_that_is_lost_at_once_is_named(fake: FakeRedis) -> None:
    fake.lost_at_once = True
    async with tailing(RedisPubSub("redis://h"), "all") as (_, tail):
        assert tail.failure == "Redis cannot be used now (ConnectionLost: closed)"
        assert len(fake.opened) == 2
