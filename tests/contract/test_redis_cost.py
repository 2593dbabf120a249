"""What Redis is asked for: counted, since every command is paid for."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.partitions import Partitions
from tidewire.transports.log_base import FIRST, GROWTH, PAGE, PAGE_BYTES
from tidewire.transports.log_follower import TailPageSize
from tidewire.transports.redis.streams import BLOCK, RedisStreams

from tests.contract.acts import at, event, events, head, publish, tailing
from tests.contract.stores import RedisStore
from tests.contract.watching import watching
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually

ALLOWED_PER_MINUTE = 3  # commands of an idle instance


@pytest.mark.parametrize("size", [1, 100])
async def test_a_publish_is_one_command_in_one_round_trip(redis_store: RedisStore, size: int) -> None:
    log = redis_store.open()
    await publish(log, "the first one brings the script")
    async with watching(redis_store.client) as watch:
        await redis_store.client.config_resetstat()
        await watch.commands()
        await log.publish(events(range(size)))
        commands = await watch.commands()
        stats = await redis_store.client.info("commandstats")
    assert [command[0] for command in commands] == ["evalsha"]
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in stats


async def test_a_batch_for_several_partitions_is_one_round_trip_too(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open(Partitions(frozenset({"a"}), 4))
    batch = [event(1, type="a"), event(2, users=["u1", "u2", "u3"]), event(3)]
    await log.publish(batch)
    async with watching(redis_store.client) as watch:
        receipts = await log.publish([event(4, type="a"), event(5, users=["u1", "u2", "u3"]), event(6)])
        commands = await watch.commands()
    touched = {name for receipt in receipts for name in receipt.positions or ()}
    assert [command[0] for command in commands] == ["evalsha"] * len(touched)


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
        assert len(clients) < 10  # a few for all else, and the test's own


async def test_an_idle_instance_sends_only_its_blocking_read(
    redis_store: RedisStore,
) -> None:
    log = RedisStreams(redis_store.url, block=0.2)
    cycles = 5
    async with Hub(log, heartbeat=0.1) as hub, AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(subscribed(hub, f"u{number}")) for number in range(100)]
        for sink in sinks:
            await sink.ready()
        async with watching(redis_store.client) as watch, asyncio.timeout(20):
            commands: list[str] = []
            async for command in watch.live():
                commands.append(command[0])
                if commands.count("xread") > cycles:
                    break
        for sink in sinks:  # heartbeats went out meanwhile, and none of them asked Redis
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
    assert len(reads) >= 5
    for read in reads:
        epoch, _, offset = read[-1].partition("-")
        assert epoch.isdigit()
        assert offset.isdigit()


async def test_a_partition_that_was_left_is_read_at_once_again(redis_store: RedisStore) -> None:
    """A read that blocks is no answer: whoever comes back would wait for the end of it, without `ready`."""
    redis_store.BLOCK = 3_600.0
    async with Hub(redis_store.open()) as hub:
        for _ in range(3):
            async with subscribed(hub) as sink:
                await sink.ready()
            await publish(hub.transport, "ends the read")
            while any("b" in client["flags"] for client in await redis_store.client.client_list()):
                pass


async def test_the_tail_asks_for_few_records_that_are_large(redis_store: RedisStore) -> None:
    """500 of the largest events are 125 MiB in one answer: what one read may bring follows the size of the last."""
    log = redis_store.open()
    start = await head(log)
    await publish(log, *(f"{number} {'x' * 64_000}" for number in range(120)), batch=10)
    await publish(log, *range(300))
    async with watching(redis_store.client) as watch, tailing(log, at(start)) as (heard, _):
        await heard.has(299)
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
    assert asked == [FIRST, FIRST * GROWTH, PAGE, PAGE], "how large records are is not known at first"


async def test_a_subscriber_who_starts_now_costs_one_look_at_the_head(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open()
    await publish(log, *range(10))
    async with Hub(log) as hub, subscribed(hub) as first, watching(redis_store.client) as watch:
        await first.ready()
        await eventually(lambda: hub.tail_running)  # it has verified its own places by then
        await watch.commands()
        for _ in range(10):
            async with subscribed(hub) as sink:
                await sink.ready()
        commands = [command[0] for command in await watch.commands() if command[0] != "xread"]
    assert commands == ["evalsha"] * 10


async def _drop_tail(store: RedisStore) -> None:
    for client in await store.client.client_list(_type="normal"):
        if "b" in client["flags"]:
            await store.client.client_kill_filter(_id=client["id"])
