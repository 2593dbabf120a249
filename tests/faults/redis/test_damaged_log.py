"""Records in Redis disappear or are damaged under a running tail: a gap, then everything after it."""

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.cursor import Position
from tidewire.model.partitions import ALL
from tidewire.transports.appending import Part
from tidewire.transports.base import Retention
from tidewire.transports.redis.layout import APPEND, Layout

from tests.contract.acts import at, contents, event, head, place, publish, read, seek, start_of, tailing
from tests.contract.stores import KEEP_ALL, Backup, RedisStore
from tests.support.sinks import subscribed


@pytest.mark.parametrize("counted_again", [0, 1, 2, 3, 4])
async def test_a_reconnecting_tail_detects_an_older_state(redis_store: RedisStore, counted_again: int) -> None:
    log = redis_store.open()
    await publish(log, "a", "b", "c")
    backup = await redis_store.back_up()
    async with tailing(log, await log.head(("all",))) as (received, _):
        await publish(log, "lost 4", "lost 5")
        await received.has("lost 5")
        await fall_back(redis_store, backup, counted_again)
        await received.has("<epoch>")
        await publish(log, "end")
        await received.has("end")
    # Reused offsets up to the tail's position are part of the gap: the tail has read records of these numbers.
    after = [f"other {number}" for number in range(6, 4 + counted_again)]
    assert received.data == ["lost 4", "lost 5", "<epoch>", *after, "end"]


async def test_an_older_state_is_one_gap_per_stream(
    redis_store: RedisStore,
) -> None:
    async with Hub(redis_store.open()) as hub:
        await publish(hub.transport, "a")
        backup = await redis_store.back_up()
        async with subscribed(hub) as sink:
            await sink.ready()
            await publish(hub.transport, "lost")
            await sink.has("lost")
            await fall_back(redis_store, backup, 1)
            await sink.until(lambda: sink.gaps == ["epoch"])
            await publish(hub.transport, "live")
            await sink.has("live")
        async with subscribed(hub, cursor=sink.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 0}
    assert sink.gaps == ["epoch"]


async def fall_back(store: RedisStore, backup: Backup, counted_again: int) -> None:
    """Restore the older state, append to it, and cut the tail, in one transaction: nobody sees a part of it."""
    again = [event(f"other {number}") for number in range(4, 4 + counted_again)]
    parts = [Part(number, ALL, one, one.key) for number, one in enumerate(again)]
    commands = [APPEND.in_full(*call) for call in Layout("rt", KEEP_ALL).append("", parts).calls]
    connected = await store.client.client_list(_type="normal")
    commands += [["CLIENT", "KILL", "ID", client["id"]] for client in connected if "b" in client["flags"]]
    await backup(*commands)


async def test_an_expired_log_keeps_its_epoch_and_its_count(redis_store: RedisStore) -> None:
    log = redis_store.open(retention=Retention(age=0.2))
    receipts = await publish(log, 1, 2, 3)
    await redis_store.pass_time(await redis_store.client.pttl("rt:all") / 1_000 + 0.01)
    assert not await redis_store.client.exists("rt:all")
    assert await head(log) == place(receipts[-1])
    assert await seek(log, None) == await seek(log, 0) == place(receipts[-1])
    assert await read(log, at(place(receipts[-1]))) == []
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == ["<trimmed>"]
    (again,) = await publish(log, 4)
    assert (place(again).epoch, place(again).offset) == (place(receipts[0]).epoch, 4)
    assert contents(await read(log, at(place(receipts[1])))) == ["<trimmed>", 4]
    assert contents(await read(log, at(place(receipts[2])))) == [4]


async def test_an_unreadable_entry_is_a_gap_and_the_tail_continues(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open()
    client = redis_store.client
    (receipt,) = await publish(log, 1)
    epoch = place(receipt).epoch
    async with tailing(log, at(place(receipt))) as (received, _):
        await client.xadd("rt:all", {"e": "0badc0de1790000000000{broken"}, id=f"{epoch}-2")
        await client.hset("{rt:all}:meta", "seq", "2")
        await received.has("<trimmed>")
        await client.config_resetstat()
        await publish(log, 3)  # a tail that read the same entry again would do so a thousand times before this
        await received.has(3)
        stats = await client.info("commandstats")
    assert received.data == ["<trimmed>", 3]
    assert stats["cmdstat_xread"]["calls"] <= 3
    assert contents(await read(log, at(place(receipt)))) == ["<trimmed>", 3]
    assert contents(await read(log, at(place(receipt)), at(Position(epoch, 2)))) == ["<trimmed>"]
