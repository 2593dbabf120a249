"""What Redis is asked: next to nothing while nothing happens, and one round trip for a publication."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.faults.clients import event, follow, on_redis, publish, receipts
from tests.support.processes import HOST, MakeInstance, MakeRedis, RedisServer

CONNECTIONS = 100
MINUTE = 60.0
COMMANDS_A_MINUTE = 3  # two blocking reads, and a look at the heads
DONE = "the-end-of-this-watch"


@pytest.mark.full  # tests/contract/test_redis_cost.py holds it of a hub, whose blocking read is shorter
@pytest.mark.timeout(150)
async def test_an_idle_instance_sends_redis_three_commands_a_minute(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """With 100 connections; with one blocking read of 20 s and a look each minute they were four."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_HEARTBEAT="5s"))
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(follow(instance, userId=f"user-{n}")) for n in range(CONNECTIONS)]
        followers = [await one for one in opening]
        await publish(instance, event("warm"))
        for follower in followers:
            await follower.has("warm")
        heartbeats = [len(follower.seen.chunks) for follower in followers]
        async with watch(redis) as commands:
            await asyncio.sleep(MINUTE)  # what is measured is a time, not an absence
        assert commands["XREAD"] >= 1, "no tail was reading"
        assert commands.total() <= COMMANDS_A_MINUTE, commands
        for follower, before in zip(followers, heartbeats, strict=True):
            assert len(follower.seen.chunks) > before, "a connection had no heartbeat"


@pytest.mark.parametrize("size", [1, 100])
async def test_a_publication_of_any_size_is_one_round_trip_whatever_the_number_of_subscribers(
    make_redis: MakeRedis, make_instance: MakeInstance, size: int
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    receipts(await publish(instance, event("warm")))  # the first one brings the script
    batch = [event(f"event-{number}") for number in range(size)]
    async with watch(redis) as commands:
        receipts(await publish(instance, *batch))
    assert commands == {"EVALSHA": 1}
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(follow(instance, userId=f"user-{n}")) for n in range(20)]
        async with watch(redis) as commands:
            receipts(await publish(instance, *(event(f"{one['id']}-again") for one in batch)))
            for follower in followers:
                await follower.has(*(f"{one['id']}-again" for one in batch))
    assert commands["EVALSHA"] == 1
    assert commands["XREAD"] in (1, 2)  # the tail reads on; a batch that it meets half way takes it two reads
    assert commands.total() == commands["EVALSHA"] + commands["XREAD"]


@asynccontextmanager
async def watch(redis: RedisServer) -> AsyncIterator[Counter[str]]:
    """Count the commands that clients send meanwhile; those of scripts travel no wire and are left out."""
    commands: Counter[str] = Counter()
    reader, writer = await asyncio.open_connection(HOST, redis.port)
    try:
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        yield commands
        assert redis.ask(f"ECHO {DONE}").startswith("$")
        while DONE not in (words := _words(await reader.readline())):
            if words[0] != "lua":
                commands[words[1].upper()] += 1
    finally:
        writer.transport.abort()


def _words(line: bytes) -> Sequence[str]:
    """`+1700000000.1 [0 127.0.0.1:5] "XREAD" "COUNT"` → where it came from, and the words of the command."""
    source, _, command = line.decode(errors="replace").partition("] ")
    return [source.rsplit(" ", 1)[1], *(word.strip('"') for word in command.split())]
