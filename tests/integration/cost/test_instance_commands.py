"""The commands that an instance sends to Redis: few while it is idle, and one per publication."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from tests.support.clients import event, follow, publish, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import MakeInstance, RedisServer
from tests.support.redis_monitor import Watch, watching

CONNECTIONS = 100
MINUTE = 60.0
COMMANDS_PER_MINUTE = 3  # two blocking reads, and one read of the heads


async def sent(watch: Watch) -> Counter[str]:
    """Count the commands since the last call; a script's own commands are not among them."""
    return Counter(command[0].upper() for command in await watch.commands())


@pytest.mark.full  # test_redis_commands.py tests it for a hub, with a shorter blocking read
@pytest.mark.timeout(150)
async def test_an_idle_instance_sends_three_commands_per_minute(
    redis_server: RedisServer, redis_client: Redis, make_instance: MakeInstance
) -> None:
    """With 100 streams. Each stream gets its heartbeats meanwhile."""
    instance = await asyncio.to_thread(make_instance, **on_redis(redis_server, REALTIME_HEARTBEAT="5s"))
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(follow(instance, userId=f"user-{n}")) for n in range(CONNECTIONS)]
        followers = [await one for one in opening]
        await publish(instance, event("warm"))
        for follower in followers:
            await follower.has("warm")
        heartbeats = [len(follower.seen.chunks) for follower in followers]
        async with watching(redis_client) as watch:
            await asyncio.sleep(MINUTE)  # the commands of a minute are counted
            commands = await sent(watch)
        assert commands["XREAD"] >= 1, "no tail was reading"
        assert commands.total() <= COMMANDS_PER_MINUTE, commands
        for follower, before in zip(followers, heartbeats, strict=True):
            assert len(follower.seen.chunks) > before, "a connection had no heartbeat"


@pytest.mark.parametrize("size", [1, 100])
async def test_a_publication_of_any_size_is_one_command(
    redis_server: RedisServer, redis_client: Redis, make_instance: MakeInstance, size: int
) -> None:
    instance = await asyncio.to_thread(make_instance, **on_redis(redis_server))
    receipts(await publish(instance, event("warm")))  # the first one loads the script
    batch = [event(f"event-{number}") for number in range(size)]
    async with watching(redis_client) as watch:
        receipts(await publish(instance, *batch))
        assert await sent(watch) == {"EVALSHA": 1}
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(follow(instance, userId=f"user-{n}")) for n in range(20)]
        async with watching(redis_client) as watch:
            receipts(await publish(instance, *(event(f"{one['id']}-again") for one in batch)))
            for follower in followers:
                await follower.has(*(f"{one['id']}-again" for one in batch))
            commands = await sent(watch)
    assert commands["EVALSHA"] == 1
    assert commands["XREAD"] in (1, 2)  # a tail that reads while the batch is appended needs two
    assert commands.total() == commands["EVALSHA"] + commands["XREAD"]
