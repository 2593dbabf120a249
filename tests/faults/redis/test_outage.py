"""Redis is unavailable: publishers get 503, streams stay open, and nothing is lost or repeated."""

import asyncio
import random
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from tests.support.clients import (
    Stream,
    event,
    follow,
    get,
    metrics,
    open_stream,
    publish,
    publish_all,
    publish_until_accepted,
    reasons,
    receipts,
    until_ready,
)
from tests.support.instance_settings import on_pubsub, on_redis
from tests.support.processes import Instance, MakeInstance, MakeRedis
from tests.support.redis_records import names_in_log, read_log
from tests.support.sinks import RecordingSink
from tests.support.waiting import DEADLINE, eventually

RECOVERY = 6.0  # seconds until events flow again: the longest backoff (5), and one for a busy machine


async def test_an_outage_refuses_publishers_and_holds_streams(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Nothing that was refused is stored, and the retries are stored once."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_HEARTBEAT="200ms"))
    async with follow(instance, userId="ann") as ann, follow(instance) as anonymous:
        await publish_all(instance, ["before"])
        await ann.has("before")
        await asyncio.to_thread(redis.kill)

        (await publish(instance, event("for-ann", "ann"))).assert_unavailable()
        (await publish(instance, event("a"), event("b"))).assert_unavailable()
        (await get(instance, "/api/events", {"accept": "text/event-stream"})).assert_unavailable()
        (await get(instance, "/api/events", {"accept": "application/json"})).assert_unavailable()
        reported = await reasons(instance)
        assert "the tail is reconnecting" in reported
        assert "Redis cannot be used now" in reported
        assert (await get(instance, "/api/health/live")).status == 200
        # Two more heartbeats: the stream stays open, also for a proxy that closes idle connections.
        seen = len(ann.seen.chunks)
        await ann.seen.until(lambda: len(ann.seen.chunks) >= seen + 2)

        await asyncio.to_thread(redis.start)
        began = time.monotonic()
        await until_ready(instance)
        assert await names_in_log(redis) == ["before"], "a refused event was stored"
        for drafts in ([event("for-ann", "ann")], [event("a"), event("b")]):
            accepted = receipts(await publish_until_accepted(instance, *drafts))
            assert not any(receipt["duplicate"] for receipt in accepted)
        await ann.has("before", "for-ann", "a", "b")
        assert time.monotonic() - began < RECOVERY
        await anonymous.has("before", "a", "b")
        for follower in (ann, anonymous):
            assert follower.is_open()
            assert follower.seen.gaps == []


async def test_a_batch_cut_by_a_crash_is_stored_whole_or_not_at_all(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Each round starts another Redis.

    A Redis that was killed while it wrote a transaction keeps the beginning of it in the append-only file. When it is
    started a second time, it takes what follows for the rest of that transaction.
    """
    accepted: set[str] = set()
    sent: set[str] = set()

    async def publish_until_refused(instance: Instance, prefix: str) -> None:
        number, answer = 0, None
        while answer is None or answer.status == 202:
            batch = f"{prefix}-{number}"
            sent.add(batch)
            drafts = [event(f"{batch}/{n}") | {"data": {"text": "x" * 2_000}} for n in range(50)]
            answer = await publish(instance, *drafts)
            if answer.status == 202:
                accepted.add(batch)
            number += 1
        answer.assert_unavailable()

    for round in range(4):
        redis = await asyncio.to_thread(make_redis)
        instance = await asyncio.to_thread(make_instance, **on_redis(redis))
        accepted.clear()
        sent.clear()
        async with asyncio.TaskGroup() as group:
            for publisher in range(4):
                group.create_task(publish_until_refused(instance, f"{round}-{publisher}"))
            # The fault may come at any moment, and each round at another.
            await asyncio.sleep(random.uniform(0.02, 0.15))
            await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)

        kept = [record.event["id"] for record in (await read_log(redis)).get("all", ())]
        batches = [id.partition("/")[0] for id in kept[::50]]
        assert kept == [f"{batch}/{n}" for batch in batches for n in range(50)], "a part of a batch, or two interleaved"
        assert accepted <= set(batches) <= sent


async def test_a_replay_cut_by_a_crash_continues_after_its_last_event(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """The stream stays open meanwhile, and becomes live at its end."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    names = [f"event-{number}" for number in range(600)]  # three pages of the log, and more than sockets hold
    for start in range(0, len(names), 30):
        batch = [event(name) for name in names[start : start + 30]]
        receipts(await publish(instance, *(one | {"data": {**one["data"], "x": "x" * 30_000}} for one in batch)))
    async with open_stream(instance.port, {"from": "earliest"}, receive_buffer=4_096) as stream:
        seen = RecordingSink()

        async def read_until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    chunk = await stream.read()
                    assert chunk is not None
                    seen.write(chunk)

        await read_until(lambda: len(seen.events) > 10)
        await asyncio.to_thread(redis.kill)
        reading = asyncio.create_task(read_until(lambda: bool(seen.all) and seen.all[-1].type == "realtime.ready"))
        await eventually(lambda: "replay interrupted" in instance.log())
        assert len(seen.events) < len(names)
        await asyncio.to_thread(redis.start)
        await reading
        await publish_until_accepted(instance, event("live"))
        await read_until(lambda: seen.data[-1]["name"] == "live")
    assert [data["name"] for data in seen.data] == [*names, "live"]
    assert (await seen.ready())["recovered"] is True
    assert seen.gaps == []


async def test_an_instance_that_starts_in_an_outage_recovers(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """It is live and not ready until Redis answers."""
    redis = await asyncio.to_thread(make_redis)
    await asyncio.to_thread(redis.kill)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert (await get(instance, "/api/health/live")).status == 200
    assert "Redis cannot be used now" in await reasons(instance)
    (await publish(instance, event("too-early"))).assert_unavailable()
    (await get(instance, "/api/events", {"accept": "text/event-stream"})).assert_unavailable()
    assert (await metrics(instance))['realtime_subscribers{state="catching-up"}'] == 0
    await asyncio.to_thread(redis.start)
    await until_ready(instance)
    async with follow(instance) as follower:
        await publish_all(instance, ["first"])
        await follower.has("first")
        assert follower.order == ["ready", "first"]


async def test_closed_connections_fail_no_publish(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    names = [f"event-{number}" for number in range(20)]
    async with follow(instance) as follower:
        for name in names:
            assert redis.ask("CLIENT KILL TYPE normal").startswith(":")
            receipts(await publish(instance, event(name)))  # accepted at once: the call is made again inside
        await follower.has(*names)
        assert (follower.seen.gaps, follower.is_open()) == ([], True)


async def test_many_streams_that_wait_for_redis_are_one_warning(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Each stream in its replay logged each of its attempts: 100 of them wrote 1,145 lines in 10 s."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    for batch in range(20):  # more than the sockets and one page of the log can hold
        receipts(await publish(instance, *[event(f"old-{batch}-{n}") | {"data": "x" * 30_000} for n in range(30)]))
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(open_stream(instance.port, {"from": "earliest"}, receive_buffer=4_096))
            for _ in range(8)
        ]
        for stream in streams:
            assert await stream.read() is not None
        await asyncio.to_thread(redis.kill)

        async def until_second_attempt(stream: Stream) -> None:
            body = b""
            while len(re.findall(rb"id: [^\n]+\n\n", body)) < 2:  # a heartbeat follows each attempt
                chunk = await stream.read()
                assert chunk is not None
                body = body[-1_000:] + chunk

        await asyncio.gather(*map(until_second_attempt, streams))
        for _ in range(5):
            (await publish(instance, event("refused"))).assert_unavailable()
    assert instance.log().count("replay interrupted") <= 3  # the reason may change: reset, then refused
    assert instance.log().count("answered 503") <= 3


async def test_over_pubsub_an_outage_is_a_503_and_a_gap(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    server = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_pubsub(server))
    async with follow(instance) as here:
        await asyncio.to_thread(server.kill)
        (await publish(instance, event("refused"))).assert_unavailable()
        ready = await get(instance, "/api/health/ready")
        assert ready.status == 503
        await asyncio.to_thread(server.start)
        await here.seen.until(lambda: here.seen.gaps == ["no-log"])
        receipts(await publish(instance, event("back")))
        await here.has("back")
