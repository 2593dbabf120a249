"""Redis lost data: wiped, restarted without its data, or restored to an older state. Each client gets a gap first."""

import asyncio
import shutil
from contextlib import AsyncExitStack

import pytest

from tests.support.clients import (
    Follower,
    event,
    follow,
    publish_all,
    publish_until_accepted,
    read_page,
    until_ready,
)
from tests.support.instance_settings import on_redis, on_rest
from tests.support.processes import MakeInstance, MakeRedis, RedisServer
from tests.support.proxy import Proxy
from tests.support.redis_records import names_in_log
from tests.support.upstash_stand_in import StandIn

SNAPSHOT = ["kept-1", "kept-2", "kept-3"]
LOST = ["lost-1", "lost-2", "lost-3", "lost-4"]


async def test_a_wiped_log_is_a_gap_live_and_on_resume(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Each client gets the gap before any new event."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        cursor = live.cursor
        assert redis.ask("FLUSHALL") == "+OK"
        await publish_all(instance, ["new-1", "new-2"])
        await live.has("before", "new-1", "new-2")
        assert live.order == ["ready", "before", "gap: epoch", "new-1", "new-2"]
        async with follow(instance, last_event_id=cursor) as resumed:
            assert resumed.order == ["gap: epoch", "new-1", "new-2", "ready after a loss"]
        async with follow(instance, last_event_id=live.cursor) as resumed:
            assert resumed.order == ["ready"]


async def test_an_empty_restart_is_a_gap_before_the_next_event(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        cursor = live.cursor
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        await live.seen.until(lambda: live.seen.gaps == ["epoch"])
        await publish_all(instance, ["new"])
        await live.has("before", "new")
        assert live.order == ["ready", "before", "gap: epoch", "new"]
        async with follow(instance, last_event_id=cursor) as resumed:
            assert resumed.order == ["gap: epoch", "new", "ready after a loss"]


async def test_a_json_page_of_a_wiped_log_has_a_gap(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["before"])
    page = await read_page(instance, **{"from": "earliest"})
    assert redis.ask("FLUSHALL") == "+OK"
    await publish_all(instance, ["new"])
    page = await read_page(instance, last_event_id=page["cursor"])
    assert page["gap"] == {"reason": "epoch", "recovered": False}
    assert [found["data"]["name"] for found in page["events"]] == ["new"]


def take_snapshot(redis: RedisServer) -> None:
    """Copy the append-only files of an idle Redis: all that it acknowledged is on disk."""
    shutil.copytree(redis.folder / "appendonlydir", redis.folder / "snapshot")


def restore_snapshot(redis: RedisServer) -> None:
    """Restart Redis with the copied files."""
    redis.kill()
    shutil.rmtree(redis.folder / "appendonlydir")
    shutil.copytree(redis.folder / "snapshot", redis.folder / "appendonlydir")
    redis.start()


@pytest.mark.parametrize("again", [0, 2, 4, 6], ids=lambda n: f"{n}-offsets-used-again")
async def test_an_older_state_is_a_gap_at_any_head(
    make_redis: MakeRedis, make_instance: MakeInstance, again: int
) -> None:
    """The new head may be behind the clients, level with them, or ahead."""
    redis = await asyncio.to_thread(make_redis)
    new = [f"new-{number}" for number in range(again)]
    async with Proxy(redis.url) as proxy, AsyncExitStack() as streams:
        there = await asyncio.to_thread(make_instance, **on_redis(redis))
        behind = await asyncio.to_thread(make_instance, **on_redis(redis, REDIS_URL=proxy.url))
        live: Follower = await streams.enter_async_context(follow(behind))
        await publish_all(there, SNAPSHOT)
        await live.has(*SNAPSHOT)
        cursor_before = live.cursor
        await asyncio.to_thread(take_snapshot, redis)
        await publish_all(there, LOST)
        await live.has(*SNAPSHOT, *LOST)
        cursor_after = live.cursor

        # The instance behind the proxy reconnects after the other one has published.
        await proxy.refuse()
        await asyncio.to_thread(restore_snapshot, redis)
        assert await names_in_log(redis) == SNAPSHOT
        for name in new:
            await publish_until_accepted(there, event(name))
        await proxy.connect()
        await live.seen.until(lambda: live.seen.gaps == ["epoch"])  # before the next event
        await publish_until_accepted(there, event("last"))
        await live.seen.until(lambda: "last" in live.names)
        assert live.order == ["ready", *SNAPSHOT, *LOST, "gap: epoch", *SNAPSHOT, *new, "last"]

        async with follow(there, last_event_id=cursor_after) as resumed:
            assert resumed.order == ["gap: epoch", *SNAPSHOT, *new, "last", "ready after a loss"]
        async with follow(there, last_event_id=cursor_before) as resumed:  # the store still holds this history
            assert resumed.order == [*new, "last", "ready"]


async def test_a_json_page_of_an_older_state_has_a_gap(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Over TCP and REST. No tail runs: only the client's cursor shows that records are missing."""
    redis = await asyncio.to_thread(make_redis)
    with StandIn(redis.port) as upstash:
        instances = [await asyncio.to_thread(make_instance, **on) for on in (on_redis(redis), on_rest(upstash))]
        await publish_all(instances[0], SNAPSHOT)
        await asyncio.to_thread(take_snapshot, redis)
        await publish_all(instances[0], LOST)
        cursor = (await read_page(instances[0], **{"from": "earliest"}))["cursor"]
        await asyncio.to_thread(restore_snapshot, redis)
        for instance in instances:
            await until_ready(instance)
            for wait in ("0", "20"):
                page = await read_page(instance, last_event_id=cursor, wait=wait)
                assert page["gap"] == {"reason": "epoch", "recovered": False}
                assert [found["data"]["name"] for found in page["events"]] == SNAPSHOT
                assert (await read_page(instance, last_event_id=page["cursor"]))["gap"] is None
