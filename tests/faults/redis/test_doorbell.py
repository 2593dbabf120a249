"""The doorbell: an append tells readers that cannot block which partition has new records, and never fails by it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as redis
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, SCHEMES, Partitions
from tidewire.transports.appending import Part, Placed
from tidewire.transports.redis.layout import APPEND, Layout
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import event, offsets, place, publish
from tests.contract.stores import KEEP_ALL, RedisStore
from tests.support.processes import HOST, RedisServer

RULES = ["~rt:*", "~{rt:*", "~{rt}:*", "+@all", "-publish", "resetchannels"]


class Listener:
    """Hears all messages of all channels."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._pubsub = client.pubsub()

    async def start(self) -> "Listener":
        await self._pubsub.psubscribe("*")
        assert await self._next() is not None
        return self

    async def rings(self) -> list[tuple[str, str]]:
        """The channels and messages of all rings by now."""
        await self._client.publish("end", "")
        found = []
        while (message := await self._next())["channel"] != b"end":
            found.append((message["channel"].decode(), message["data"].decode()))
        return found

    async def aclose(self) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it so

    async def _next(self) -> Any:
        async with asyncio.timeout(5):
            while (message := await self._pubsub.get_message(timeout=5)) is None:
                pass
            return message


@pytest.fixture
async def listener(redis_store: RedisStore) -> AsyncIterator[Listener]:
    """One that hears every ring from the start of the test."""
    listener = await Listener(redis_store.client).start()
    yield listener
    await listener.aclose()


async def append_at(store: RedisStore, ms: int, *ids: str, layout: Layout | None = None) -> list[int]:
    """Append events to `all` in this ms of the server's clock; return their offsets."""
    parts = [Part(number, ALL, Event(id, "t", b"1"), id) for number, id in enumerate(ids)]
    appending = (layout or Layout("rt", KEEP_ALL)).append("", parts)
    ((keys, arguments),) = appending.calls
    time = f"{{{ms // 1000}, {ms % 1000 * 1000}}}"
    text = APPEND.text.replace("redis.call('TIME')", time)
    answers, _ = appending.answers([await store.client.eval(text, len(keys), *keys, *arguments)])
    return [answer.position.offset for answer in answers if isinstance(answer, Placed)]


async def test_each_partition_rings_also_for_its_first_record(redis_store: RedisStore, listener: Listener) -> None:
    """Control partitions too: readers follow them."""
    log = redis_store.open(Partitions(frozenset({"t"})))
    await publish(log, "first")
    await log.publish([event("second", type="other"), event("third", type="realtime.revocations")])
    rings = await listener.rings()
    assert {channel for channel, _ in rings} == {"rt:=bell"}
    assert {message for _, message in rings} >= {SCHEMES, "t", ALL, "realtime.revocations"}


async def test_a_partition_rings_once_per_millisecond(redis_store: RedisStore, listener: Listener) -> None:
    """A ring is heard, and a read begun, after the millisecond at the earliest: more rings would tell nothing."""
    assert await append_at(redis_store, 5_000, "a", "b") == [1, 2]
    assert await append_at(redis_store, 5_000, "c") == [3]
    assert await listener.rings() == [("rt:=bell", ALL)]
    assert await append_at(redis_store, 5_001, "d") == [4]
    assert await listener.rings() == [("rt:=bell", ALL)]
    assert await append_at(redis_store, 4_000, "e") == [5]
    assert await listener.rings() == [("rt:=bell", ALL)]


async def test_nothing_appended_rings_nothing(redis_store: RedisStore, listener: Listener) -> None:
    await append_at(redis_store, 5_000, "a")
    await listener.rings()
    assert await append_at(redis_store, 6_000, "a") == [1]
    assert await listener.rings() == []


async def test_a_cluster_rings_on_shard_channels(redis_store: RedisStore) -> None:
    async with redis_store.client.pubsub() as pubsub:
        await pubsub.execute_command("SSUBSCRIBE", "{rt:all}:bell")
        await append_at(redis_store, 5_000, "a", layout=Layout("rt", KEEP_ALL, sharded=True))
        async with asyncio.timeout(5):
            assert (await pubsub.parse_response())[0] == b"ssubscribe"
            assert await pubsub.parse_response() == [b"smessage", b"{rt:all}:bell", b"all"]


@pytest.fixture
async def mute(redis_server: RedisServer, redis_store: RedisStore) -> AsyncIterator[RedisStreams]:
    """The log of a user without the right to publish."""
    await redis_store.client.execute_command("ACL", "SETUSER", "mute", "reset", "on", ">p", *RULES)  # type: ignore[no-untyped-call]
    log = RedisStreams(f"redis://mute:p@{HOST}:{redis_server.port}")
    yield log
    await log.aclose()
    await redis_store.client.execute_command("ACL", "DELUSER", "mute")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("right", [[], ["+publish"], ["&rt:*"]], ids=["none", "command", "channel"])
async def test_a_user_who_may_not_publish_appends(
    redis_store: RedisStore, listener: Listener, mute: RedisStreams, right: list[str]
) -> None:
    """An older deployment's user has neither the command nor the channel."""
    await redis_store.client.execute_command("ACL", "SETUSER", "mute", *right)  # type: ignore[no-untyped-call]
    assert offsets(await publish(mute, 1, 2, 3)) == [1, 2, 3]
    assert await listener.rings() == []
    await redis_store.client.execute_command("ACL", "SETUSER", "mute", "+publish", "&rt:*")  # type: ignore[no-untyped-call]
    assert place((await publish(mute, 4))[0]).offset == 4
    assert ("rt:=bell", ALL) in await listener.rings()


async def test_a_ring_that_was_refused_does_not_silence_others(
    redis_store: RedisStore, listener: Listener, mute: RedisStreams
) -> None:
    """Their appends may be in the same millisecond."""
    async with redis.Redis.from_url(redis_store.url.replace("redis://", "redis://mute:p@"), protocol=2) as client:
        other = RedisStore(redis_store.url)
        await other.client.aclose()
        other.client = client
        assert await append_at(other, 5_000, "a") == [1]
    assert await append_at(redis_store, 5_000, "b") == [2]
    assert await listener.rings() == [("rt:=bell", ALL)]
