"""A new partition scheme is rolled out under load: old and new instances run together, then the old ones stop."""

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.faults.traffic import (
    USERS,
    Progress,
    Subscriber,
    assert_has_its_own,
    make_events,
    make_marks,
)
from tests.support.clients import Requests, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import Instance, MakeInstance, MakeRedis
from tests.support.redis_records import read_log

OLD = {"REALTIME_USER_SHARDS": "8"}
NEW = {"REALTIME_USER_SHARDS": "16", "REALTIME_PARTITIONS": "metric"}
EVENTS = 600
PUBLISHERS = 3
RETRIED = 0.3  # of the batches are sent again, to any instance
AWAY = 0.05  # seconds before a refused publisher tries another instance


async def _publish(
    instances: Sequence[Instance], batch: Sequence[Mapping[str, Any]], rng: random.Random
) -> Sequence[Mapping[str, Any]]:
    """Publish a batch at any instance until it is accepted; return the receipts."""
    while True:
        async with Requests(rng.choice(instances)) as requests:
            try:
                answer = await requests.publish(*batch)
            except (OSError, EOFError):
                await asyncio.sleep(AWAY)
                continue
            if answer.status != 503:
                return receipts(answer)
            await asyncio.sleep(AWAY)


async def _publish_all(
    instances: Sequence[Instance], events: Sequence[Mapping[str, Any]], progress: Progress, rng: random.Random
) -> None:
    sent: list[Sequence[Mapping[str, Any]]] = []
    while events:
        await progress.may_go_on()
        size = rng.choice([1, 1, 2, 5])
        batch, events = events[:size], events[size:]
        progress.keep(await _publish(instances, batch, rng))
        sent.append(batch)
        if rng.random() < RETRIED:
            again = await _publish(instances, rng.choice(sent), rng)
            assert all(receipt["duplicate"] for receipt in again), again


@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(150)
async def test_a_rolling_change_of_scheme_loses_and_repeats_nothing(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Only 127 of 183 events arrived, without a gap, when instances with 8 shards were replaced by ones with 16."""
    rng = random.Random(12)
    redis = await asyncio.to_thread(make_redis)
    old = [await asyncio.to_thread(make_instance, **on_redis(redis, **OLD)) for _ in range(2)]
    instances = list(old)
    events, marks = make_events(EVENTS, rng), make_marks()
    subscribers = [
        Subscriber(
            name=f"subscriber {number}",
            user=rng.choice(USERS) if number % 5 else None,
            types=frozenset(rng.sample(["order", "chat", "metric", "note"], 2)) if number % 3 else None,
            since="now",
            steady=number % 2 == 0,  # these leave only when their instance stops
            rng=random.Random(number),
            instances=instances,
            turn=number,
        )
        for number in range(20)
    ]
    for subscriber in subscribers:
        subscriber.owed = {sent["id"] for sent in [*events, *marks] if subscriber.matches(sent)}
        subscriber.marks = sum(subscriber.matches(mark) for mark in marks)
    progress = Progress(EVENTS)
    async with asyncio.timeout(120), asyncio.TaskGroup() as following:
        for subscriber in subscribers:
            following.create_task(subscriber.run())
        for subscriber in subscribers:
            await subscriber.primed.wait()
        async with asyncio.TaskGroup() as publishing:
            for number in range(PUBLISHERS):
                mine = events[number::PUBLISHERS]
                publishing.create_task(_publish_all(instances, mine, progress, random.Random(number)))
            progress.allow(0.4)
            await progress.reaches(0.3)
            instances.append(await asyncio.to_thread(make_instance, **on_redis(redis, **NEW)))
            for share, leaving in zip((0.6, 0.8), old, strict=True):
                progress.allow(share + 0.1)
                await progress.reaches(share)
                leaving.terminate()
                assert await asyncio.to_thread(leaving.wait) == 0
                instances.remove(leaving)
            progress.allow(2.0)
        progress.keep(await _publish(instances, marks, rng))

    log = await read_log(redis)
    shards = {name for name in log if ":u" in name}
    assert shards - {f"all:u{n}" for n in range(8)}, "nothing was written under the new scheme"
    for subscriber in subscribers:
        assert set(subscriber.control) <= {"realtime.ready", "realtime.closing"}, subscriber.control
        assert set(subscriber.closings) <= {"draining"}
        assert_has_its_own(subscriber, log)
    for instance in (*old, *instances):
        assert not re.search("Traceback|never awaited", instance.log_file.read_text())
