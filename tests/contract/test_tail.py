"""The live tail of one process: each record after its position, once and in order, while partitions change."""

import asyncio

import pytest
from tidewire.model.partitions import Partitions
from tidewire.transports.base import Retention
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import (
    at,
    event,
    events,
    place,
    publish,
    start_of,
    tailing,
)
from tests.contract.stores import LogStore, RedisStore
from tests.support.waiting import eventually

AB = Partitions(frozenset({"a", "b"}))


async def test_a_tail_reads_after_its_position_then_live(
    store: LogStore,
) -> None:
    log = store.open()
    receipts = await publish(log, 1, 2, 3)
    async with tailing(log, at(place(receipts[0]))) as (received, _):
        await received.has(3)
        await publish(log, 4)
        await received.has(4)
    assert received.data == [2, 3, 4]
    assert received.items[0].position == place(receipts[1])


async def test_a_tail_gets_other_processes_events_once(
    store: LogStore,
) -> None:
    reader, one, other = store.open(), store.open(), store.open()
    async with tailing(reader, await reader.head(("all",))) as (received, _):
        for n in range(0, 30, 3):
            await publish(reader, n)
            await publish(one, n + 1)
            await publish(other, n + 2)
        await received.has(29)
    assert received.data == list(range(30))


async def test_a_tail_keeps_the_order_under_many_publishers(
    store: LogStore,
) -> None:
    logs = [store.open() for _ in range(4)]
    async with tailing(logs[0], await logs[0].head(("all",))) as (received, _):
        await asyncio.gather(*(logs[n % 4].publish(events(range(n * 10, n * 10 + n % 7 + 1))) for n in range(60)))
        await publish(logs[1], "end")
        await received.has("end")
    positions = [item.position for item in received.items]
    assert [p.offset for p in positions if p] == list(range(1, len(received.items) + 1))


async def test_a_new_partition_interrupts_the_blocked_read(
    store: LogStore,
) -> None:
    log = store.open(AB)
    heads = await log.head(("a", "b"))
    async with tailing(log, at(heads.positions["a"], "a")) as (received, tail):
        await log.publish([event("a1", type="a")])
        await received.has("a1")  # from now on a read of `a` alone is blocked
        for _ in range(5):
            await asyncio.sleep(0.01)  # time for the read to reach the server; without it the test is only easier
        tail.follow({"b": heads.positions["b"]})
        await log.publish([event("b1", type="b")])
        await received.until(lambda: "b1" in received.data, seconds=2.5)  # a blocked read ends after 5 s
        await log.publish([event("a2", type="a")])
        await received.has("a2")
    assert received.data == ["a1", "b1", "a2"]


async def test_a_follow_during_another_interruption_is_read(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = redis_store.open(Partitions(frozenset({"a", "b", "c"})))
    assert isinstance(log, RedisStreams)
    heads = await log.head(("a", "b", "c"))
    unblock = log.unblock
    slow = asyncio.Event()

    async def is_blocked() -> bool:
        return any("b" in client["flags"] for client in await redis_store.client.client_list())

    async def answer_late(client_id: int) -> bool:
        done = await unblock(client_id)
        if done and not slow.is_set():
            slow.set()
            await eventually(is_blocked)  # in the next read
            tail.follow({"c": heads.positions["c"]})
        return done

    monkeypatch.setattr(log, "unblock", answer_late)
    async with tailing(log, at(heads.positions["a"], "a")) as (received, tail):
        await log.publish([event("a1", type="a")])
        await received.has("a1")
        tail.follow({"b": heads.positions["b"]})
        await log.publish([event("b1", type="b")])
        await received.has("b1")
        async with asyncio.timeout(10):
            await slow.wait()
        await log.publish([event("c1", type="c")])
        await received.until(lambda: "c1" in received.data, seconds=2.5)  # a blocked read ends after 5 s


async def test_records_between_position_and_follow_are_read(
    store: LogStore,
) -> None:
    log = store.open(AB)
    heads = await log.head(("a", "b"))
    async with tailing(log, at(heads.positions["a"], "a")) as (received, tail):
        await log.publish([event("b1", type="b"), event("b2", type="b")])
        tail.follow({"b": heads.positions["b"]})
        await received.has("b2")
    assert received.data == ["b1", "b2"]


async def test_following_again_what_is_followed_changes_nothing(store: LogStore) -> None:
    log = store.open()
    receipts = await publish(log, 1, 2)
    async with tailing(log, at(place(receipts[-1]))) as (received, tail):
        tail.follow(at(start_of(place(receipts[0]))).positions)
        await publish(log, 3)
        await received.has(3)
    assert received.data == [3]


async def test_records_after_the_unfollow_are_not_delivered(store: LogStore) -> None:
    log = store.open(AB)
    async with tailing(log, await log.head(("a", "b"))) as (received, tail):
        await log.publish([event("a1", type="a")])
        await received.has("a1")
        tail.unfollow(("a",))
        await log.publish([event("a2", type="a")])
        await log.publish([event("end", type="b")])
        await received.has("end")
    assert received.data == ["a1", "end"]


async def test_following_again_from_later_repeats_nothing(
    store: LogStore,
) -> None:
    log = store.open()
    for _ in range(20):  # the change may come at any step of the read
        before = await log.head(("all",))
        async with tailing(log, before) as (received, tail):
            receipts = await publish(log, *range(10))
            tail.unfollow(("all",))
            received.data.clear()
            tail.follow(at(place(receipts[-1])).positions)
            await publish(log, "end")
            await received.has("end")
        assert received.data == ["end"]


async def test_a_trimmed_position_is_a_gap_before_the_rest(
    store: LogStore,
) -> None:
    log = store.open(retention=Retention(events=3))
    receipts = await publish(log, *range(1, 10))
    async with tailing(log, at(place(receipts[1]))) as (received, _):
        await received.has(9)
    assert received.data == ["<trimmed>", 7, 8, 9]
    assert received.items[0].position is not None
    assert received.items[0].position.offset == 6


async def test_a_wiped_store_is_a_gap_before_new_records(
    store: LogStore,
) -> None:
    log = store.open()
    async with tailing(log, await log.head(("all",))) as (received, _):
        await publish(log, 1, 2)
        await received.has(2)
        await store.wipe()
        await publish(log, "new", "newer")
        await received.has("newer")
    assert received.data == [1, 2, "<epoch>", "new", "newer"]


async def test_an_idle_tail_waits_and_a_closed_one_gets_nothing(
    store: LogStore,
) -> None:
    log = store.open()
    async with tailing(log) as (received, tail), tailing(log) as (witness, other):
        start = await log.head(("all",))
        await publish(log, 1)
        tail.follow(start.positions)
        await received.has(1)
        other.follow((await log.head(("all",))).positions)
    async with tailing(log, await log.head(("all",))) as (sentinel, _):
        await publish(log, 2)
        await sentinel.has(2)
    assert (received.data, witness.data) == ([1], [])


async def test_a_tail_runs_after_its_first_record(store: LogStore) -> None:
    log = store.open()
    async with tailing(log, await log.head(("all",))) as (received, tail):
        await publish(log, 1)
        await received.has(1)
        assert tail.running
