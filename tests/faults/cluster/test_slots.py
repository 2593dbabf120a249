"""Slots that move while events flow, and connections that end: MOVED, ASK, TRYAGAIN, and tails that go on."""

import asyncio
import time

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import ALL, Partitions
from tidewire.transports.base import Log

from tests.contract.acts import at as cursor_at
from tests.contract.acts import contents, event, head, place, publish, read, seek, tailing
from tests.contract.stores import ClusterStore
from tests.support.redis_cluster import ClusterNode, RedisCluster

STREAM = "rt:all"
WAIT = 5.0  # seconds: what a caller waits at most


def elsewhere(cluster: RedisCluster, key: str = STREAM) -> ClusterNode:
    """A primary that does not own this key."""
    owner = cluster.primary_of(key)
    return next(node for node in cluster.primaries() if node is not owner)


async def all_of(log: Log) -> list[object]:
    """The data of every record, in order."""
    return contents(await read(log, cursor_at(await seek(log, None))))


async def test_a_moved_slot_is_followed(store: ClusterStore) -> None:
    """A publisher, a replay and a tail knew the old owner."""
    writer, reader = store.open(), store.open()
    await publish(writer, "before")
    async with tailing(reader, cursor_at(await head(reader))) as (received, _):
        await publish(writer, "live")
        await received.has("live")
        await asyncio.to_thread(store.cluster.move_slot, store.cluster.slot_of(STREAM), elsewhere(store.cluster))
        await publish(writer, "moved")
        await received.has("moved")
        assert received.data == ["live", "moved"]
    assert await all_of(reader) == ["before", "live", "moved"]


async def test_a_resharding_that_stops_half_way(store: ClusterStore) -> None:
    """The stream has moved and its counter has not: appends wait for 5 s at most, then 503; then it finishes."""
    writer, reader = store.open(), store.open()
    await publish(writer, "before")
    slot = store.cluster.slot_of(STREAM)
    async with tailing(reader, cursor_at(await head(reader))) as (received, _):
        move = await asyncio.to_thread(store.cluster.begin_move, slot, elsewhere(store.cluster))
        await asyncio.to_thread(move.migrate, STREAM)
        began = time.monotonic()
        with pytest.raises(TransportUnavailable, match="TRYAGAIN"):
            await writer.publish([event("waits", id="waits")])
        assert time.monotonic() - began < WAIT + 1
        waiting = asyncio.create_task(writer.publish([event("waits", id="waits")]))
        await asyncio.to_thread(move.finish)
        (receipt,) = await waiting
        assert not receipt.duplicate
        await received.has("waits")
        assert received.data == ["waits"]
    assert await all_of(reader) == ["before", "waits"]


async def test_followed_partitions_are_resharded(store: ClusterStore) -> None:
    """Each of several partitions moves to and fro while events flow into all of them."""
    scheme = Partitions(user_shards=4)
    writer, reader = store.open(scheme), store.open(scheme)
    await publish(writer, "first")
    users = [f"user-{n}" for n in range(12)]
    names = tuple(scheme.names())
    sent = 0
    async with tailing(reader, await reader.head(names)) as (received, _):
        moving = True

        async def write() -> None:
            nonlocal sent
            while moving:
                await writer.publish([event(sent, users=[users[sent % len(users)]])])
                sent += 1

        writing = asyncio.create_task(write())
        for name in names:
            stream = f"rt:{name}"
            slot, target = store.cluster.slot_of(stream), elsewhere(store.cluster, stream)
            await asyncio.to_thread(store.cluster.move_slot, slot, target)
        moving = False
        await writing
        await publish(writer, "last")
        await received.has("last")
        await received.until(lambda: len(received.data) >= sent + 1)
    assert sorted(n for n in received.data if isinstance(n, int)) == list(range(sent))


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_one_connection_of_a_tail_is_cut(store: ClusterStore, kind: str) -> None:
    """The doorbell or the reading connection alone: both are opened again, as often as it happens."""
    writer, reader = store.open(), store.open()
    await publish(writer, "before")
    node = store.cluster.primary_of(STREAM)
    async with tailing(reader, cursor_at(await head(reader))) as (received, _):
        for number in range(3):
            await publish(writer, f"{number}")
            await received.has(f"{number}")
            node.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await publish(writer, f"{number} cut")
            await received.has(f"{number} cut")
    assert received.data == [text for n in range(3) for text in (f"{n}", f"{n} cut")]


async def test_a_planned_failover_refuses_nothing(store: ClusterStore) -> None:
    """Nothing acknowledged is lost, and no publisher gets an error."""
    writer, reader = store.open(), store.open()
    await publish(writer, "first")
    sent = 0
    failing = True

    async def write() -> None:
        nonlocal sent
        while failing:
            await publish(writer, sent)
            sent += 1

    async with tailing(reader, cursor_at(await head(reader))) as (received, _):
        writing = asyncio.create_task(write())
        await asyncio.to_thread(store.cluster.failover, store.cluster.primary_of(STREAM))
        failing = False
        await writing
        await publish(writer, "last")
        await received.has("last")
    assert received.data == [*range(sent), "last"]


async def test_a_silent_primary_is_left(store: ClusterStore) -> None:
    """The cluster replaces a paused primary; a caller waits 5 s at most, and the next ones find the new primary."""
    writer, reader = store.open(), store.open()
    (receipt,) = await publish(writer, "before")
    primary = store.cluster.primary_of(STREAM)
    async with tailing(reader, cursor_at(await head(reader))) as (received, _):
        await asyncio.to_thread(store.cluster.pause, primary)
        began = time.monotonic()
        with pytest.raises(TransportUnavailable):
            await writer.publish([event("silent", id="silent")])
        assert time.monotonic() - began < WAIT + 1
        await asyncio.to_thread(store.cluster.wait_for_failover, primary)
        await writer.publish([event("silent", id="silent")])
        await asyncio.to_thread(store.cluster.resume, primary)
        await publish(writer, "resumed")
        await received.until(lambda: "resumed" in received.data, 30)
    assert (await head(reader)).epoch == place(receipt, ALL).epoch
    assert await all_of(reader) == ["before", "silent", "resumed"]
