"""Two instances on one Redis, with faults everywhere: no event is lost, repeated or delivered to another user."""

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from tests.faults.traffic import (
    STEADY,
    Progress,
    assert_has_its_own,
    assert_receipts_fit,
    assert_whole,
    make_batches,
    make_events,
    make_marks,
    make_subscriber,
    publish_until_accepted,
)
from tests.support.clients import follow, publish_all
from tests.support.instance_settings import on_redis
from tests.support.processes import Instance, MakeInstance, MakeRedis, RedisServer, ServerProcess
from tests.support.redis_records import read_log

PUBLISHERS = 4
SUBSCRIBERS = 50
LEEWAY = 0.1  # of the events may be published during one fault
ALL = 2.0  # above any share
STOP = 3.0  # seconds from the signal until the last stream is closed


async def _break_everything(redis: RedisServer, instances: Sequence[Instance], progress: Progress) -> None:
    """Kill Redis, kill one instance, stop the other, and kill Redis again, spread over the publication."""
    first, second = instances

    async def kill(server: ServerProcess) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    async def stop(server: ServerProcess) -> None:
        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0
        await asyncio.to_thread(server.start)

    faults: list[tuple[float, Callable[[ServerProcess], Awaitable[None]], ServerProcess]] = [
        (0.15, kill, redis),
        (0.35, kill, first),
        (0.55, stop, second),
        (0.75, kill, redis),
    ]
    for share, fault, server in faults:
        progress.allow(share + LEEWAY)
        await progress.reaches(share)
        await fault(server)
    progress.allow(ALL)


ONE_PARTITION: dict[str, str] = {}
SEVERAL = {"REALTIME_PARTITIONS": "metric", "REALTIME_USER_SHARDS": "3"}


@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("scheme", "count"),
    [
        pytest.param(ONE_PARTITION, 10_000, id="one-partition", marks=pytest.mark.full),
        pytest.param(SEVERAL, 3_000, id="partitions-and-user-shards"),
    ],
)
async def test_faults_lose_repeat_and_misdeliver_nothing(
    make_redis: MakeRedis, make_instance: MakeInstance, scheme: dict[str, str], count: int
) -> None:
    seed = int(os.environ.get("TIDEWIRE_SEED") or random.randrange(2**32))
    print(f"TIDEWIRE_SEED={seed} repeats the events and the cuts")  # noqa: T201 — shown where the test fails
    rng = random.Random(seed)
    redis = await asyncio.to_thread(make_redis)
    settings = on_redis(redis, **scheme)
    instances = [await asyncio.to_thread(make_instance, **settings) for _ in range(2)]
    events, marks = make_events(count, rng), make_marks()
    subscribers = [make_subscriber(number, rng, instances) for number in range(SUBSCRIBERS)]
    for subscriber in subscribers:
        subscriber.owed = {sent["id"] for sent in [*events, *marks] if subscriber.matches(sent)}
        subscriber.marks = sum(subscriber.matches(mark) for mark in marks)
    batches = make_batches(events, rng)
    progress = Progress(count)
    async with asyncio.timeout(120), asyncio.TaskGroup() as following:
        for subscriber in subscribers:
            following.create_task(subscriber.run())
        for subscriber in subscribers:  # from its first cursor on it must get each event
            await subscriber.primed.wait()
        async with asyncio.TaskGroup() as publishing:
            publishing.create_task(_break_everything(redis, instances, progress))
            for number in range(PUBLISHERS):
                mine = batches[number::PUBLISHERS]
                publishing.create_task(publish_until_accepted(instances, mine, progress, random.Random(rng.random())))
        await publish_until_accepted(instances, [marks], progress, rng)

    log = await read_log(redis)
    assert_whole(log, [*events, *marks])
    assert_receipts_fit(log, progress.receipts)
    for subscriber in subscribers:
        assert set(subscriber.control) <= {"realtime.ready", "realtime.closing"}, subscriber.control
        assert set(subscriber.closings) <= {"draining"}
        assert_has_its_own(subscriber, log)
    for instance in instances:
        assert not re.search("Traceback|never awaited", instance.log_file.read_text())
    # Otherwise there were no faults.
    assert progress.refused > 0
    assert sum(subscriber.connections for subscriber in subscribers) > 5 * SUBSCRIBERS
    # The steady subscribers were on the second instance when it stopped.
    assert [subscriber.closings for subscriber in subscribers if subscriber.steady] == [["draining"]] * STEADY


async def test_a_stopping_instance_closes_its_streams_without_loss(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    ending = await asyncio.to_thread(make_instance, **on_redis(redis))
    other = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(follow(ending, userId=f"user-{n}")) for n in range(20)]
        await publish_all(other, ["before"])
        for follower in followers:
            await follower.has("before")
        began = time.monotonic()
        ending.terminate()
        for follower in followers:
            await follower.ended()
            assert follower.order == ["ready", "before", "closing: draining"]
        assert time.monotonic() - began < STOP
        assert await asyncio.to_thread(ending.wait) == 0
        assert "Traceback" not in ending.log()

        await publish_all(other, ["meanwhile"])
        for number, follower in enumerate(followers):
            there = follow(other, userId=f"user-{number}", last_event_id=follower.cursor)
            resumed = await stack.enter_async_context(there)
            assert resumed.order == ["meanwhile", "ready"]
