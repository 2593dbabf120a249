"""The commands that a log sends to Redis, counted: hosted Redis bills each of them."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocations
from tidewire.model.partitions import Partitions
from tidewire.transports.base import Log
from tidewire.transports.log_base import FIRST, GROWTH, PAGE, PAGE_BYTES
from tidewire.transports.log_follower import TailPageSize
from tidewire.transports.redis.streams import BLOCK, RedisStreams

from tests.contract.acts import at, event, head, publish, tailing
from tests.contract.stores import RedisStore
from tests.support.redis_monitor import watching
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually

ALLOWED_PER_MINUTE = 3  # commands of an idle instance


async def test_a_restarted_server_gets_each_script_once(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open()
    await publish(log, 1)
    await redis_store.client.script_flush()
    async with watching(redis_store.client) as watch:
        (receipt,) = await publish(log, 2)
        await publish(log, 3)
        commands = await watch.commands()
    assert [command[0] for command in commands] == ["evalsha", "eval", "evalsha"]
    assert not receipt.duplicate


async def test_all_subscribers_share_one_blocking_read(
    redis_store: RedisStore,
) -> None:
    scheme = Partitions(frozenset({"a", "b"}))
    async with Hub(redis_store.open(scheme), scheme) as hub, AsyncExitStack() as stack:
        interests: list[set[str] | None] = [None, {"a"}, {"b"}, {"c"}]
        sinks: list[RecordingSink] = []
        for number in range(60):
            wanted = interests[number % 4]
            sinks.append(await stack.enter_async_context(subscribed(hub, f"u{number}", wanted)))
            await sinks[-1].ready()
        await hub.dispatch([event("end", type=type) for type in "abc"])
        await sinks[0].has("end")
        clients = await redis_store.client.client_list()
        blocked = [client for client in clients if "b" in client["flags"]]
        while len(blocked) != 1:  # between two reads it is not blocked; more than one would stay
            assert len(blocked) < 2
            blocked = [c for c in await redis_store.client.client_list() if "b" in c["flags"]]
        assert blocked[0]["cmd"] == "xread"
        assert len(clients) < 10  # some for other calls, and the test's own


def guarded(log: Log, heartbeat: float = 15.0) -> Hub:
    """A hub that follows revocations, as each hub that requires tokens does."""
    return Hub(log, heartbeat=heartbeat, revocations=Revocations(log, 60))


@pytest.mark.parametrize("make_hub", [Hub, guarded], ids=["open", "with-revocations"])
async def test_an_idle_instance_sends_only_its_blocking_read(
    redis_store: RedisStore, make_hub: Callable[..., Hub]
) -> None:
    """With 100 streams, whose heartbeats send nothing to Redis; following revocations costs nothing more."""
    log = RedisStreams(redis_store.url, block=0.2)
    cycles = 5
    async with make_hub(log, heartbeat=0.1) as hub, AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(subscribed(hub, f"u{number}")) for number in range(100)]
        for sink in sinks:
            await sink.ready()
        async with watching(redis_store.client) as watch, asyncio.timeout(20):
            commands: list[str] = []
            async for command in watch.live():
                commands.append(command[0])
                if commands.count("xread") > cycles:
                    break
        for sink in sinks:
            assert len(sink.chunks) > 1
    assert set(commands) == {"xread"}
    assert 60 / BLOCK * len(commands) / cycles <= ALLOWED_PER_MINUTE


async def test_the_tail_always_reads_after_its_position(
    redis_store: RedisStore,
) -> None:
    """It never reads from `$`, the newest entry."""
    log = redis_store.open()
    async with watching(redis_store.client) as watch, Hub(log) as hub, subscribed(hub) as sink:
        await sink.ready()
        for number in range(5):
            await publish(log, number)
            await sink.has(number)
            await _drop_tail(redis_store)
        await publish(log, "end")
        await sink.has("end")
        reads = [command for command in await watch.commands() if command[0] == "xread"]
    assert sink.data == [0, 1, 2, 3, 4, "end"]
    assert sink.gaps == []
    assert len(reads) >= 5
    for read in reads:
        epoch, _, offset = read[-1].partition("-")
        assert epoch.isdigit()
        assert offset.isdigit()


async def test_a_partition_that_was_left_is_read_again_at_once(redis_store: RedisStore) -> None:
    """A new subscriber must not wait for the end of a blocked read to become ready."""
    redis_store.BLOCK = 3_600.0
    async with Hub(redis_store.open()) as hub:
        for _ in range(3):
            async with subscribed(hub) as sink:
                await sink.ready()
            await publish(hub.transport, "ends the read")
            while any("b" in client["flags"] for client in await redis_store.client.client_list()):
                pass


async def test_the_tail_reads_few_large_records_at_a_time(redis_store: RedisStore) -> None:
    """500 of the largest events are 125 MiB: the size of one read follows the size of the last records."""
    log = redis_store.open()
    start = await head(log)
    await publish(log, *(f"{number} {'x' * 64_000}" for number in range(120)), batch=10)
    await publish(log, *range(300))
    async with watching(redis_store.client) as watch, tailing(log, at(start)) as (received, _):
        await received.has(299)
        counts = [int(command[2]) for command in await watch.commands() if command[0] == "xread"]
    assert counts[0] == TailPageSize.FIRST
    assert max(counts[1:5]) * 64_000 <= PAGE_BYTES
    assert max(counts) <= PAGE


async def test_a_replay_reads_page_by_page(redis_store: RedisStore) -> None:
    log = redis_store.open()
    await publish(log, *range(2 * PAGE + 50))
    async with Hub(log) as hub, watching(redis_store.client) as watch:
        async with subscribed(hub, since="earliest") as sink:
            await sink.ready()
        commands = await watch.commands()
    asked = [int(command[-1]) for command in commands if command[0] == "xrange"]
    assert asked == [FIRST, FIRST * GROWTH, PAGE, PAGE], "the size of records is not known at first"


async def test_a_subscriber_from_now_costs_one_read_of_the_head(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open()
    await publish(log, *range(10))
    async with Hub(log) as hub, subscribed(hub) as first, watching(redis_store.client) as watch:
        await first.ready()
        await eventually(lambda: hub.tail_running)  # it has verified its own positions by then
        await watch.commands()
        for _ in range(10):
            async with subscribed(hub) as sink:
                await sink.ready()
        commands = [command[0] for command in await watch.commands() if command[0] != "xread"]
    assert commands == ["evalsha"] * 10


async def test_a_first_subscriber_costs_one_head_more(
    redis_store: RedisStore,
) -> None:
    """Without any revocation, nothing else is read."""
    log = redis_store.open()
    await publish(log, 1)
    async with (
        guarded(log) as hub,
        watching(redis_store.client) as watch,
        subscribed(hub, "u1") as sink,
    ):
        await sink.ready()
        await eventually(lambda: hub.tail_running)
        commands = [command[0] for command in await watch.commands() if command[0] in ("eval", "evalsha", "xrange")]
    assert "xrange" not in commands
    assert commands.count("evalsha") <= 4, "a head per partition, and the tail's check of both"


async def _drop_tail(store: RedisStore) -> None:
    for client in await store.client.client_list(_type="normal"):
        if "b" in client["flags"]:
            await store.client.client_kill_filter(_id=client["id"])
