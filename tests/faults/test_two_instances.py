"""Two instances on one Redis, with faults everywhere: no event is lost, repeated or delivered to another user."""

import asyncio
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tidewire.model.cursor import Cursor

from tests.faults.traffic import AWAY, TYPES, USERS, Progress, Subscriber, assert_has_its_own, make_events, make_marks
from tests.support.clients import Requests, follow, publish_all, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import Instance, MakeInstance, MakeRedis, RedisServer, ServerProcess
from tests.support.redis_records import StoredEvent, read_log

PUBLISHERS = 4
SUBSCRIBERS = 50
STEADY = 5  # of them are cut only by faults of the instances
LARGEST_BATCH = 40
LEEWAY = 0.1  # of the events may be published during one fault
ALL = 2.0  # above any share
STOP = 3.0  # seconds from the signal until the last stream is closed


def _make_batches(events: Sequence[dict[str, Any]], rng: random.Random) -> list[list[dict[str, Any]]]:
    batches, start = [], 0
    while start < len(events):
        size = rng.choice([1, 1, 1, 2, 10, LARGEST_BATCH])
        batches.append(list(events[start : start + size]))
        start += size
    return batches


async def _publish_until_accepted(
    instances: Sequence[Instance],
    batches: Iterable[Sequence[Mapping[str, Any]]],
    progress: Progress,
    rng: random.Random,
) -> None:
    """Publish each batch until it is accepted, always with the same ids."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(Requests(instance)) for instance in instances]
        turn = rng.randrange(len(lines))
        for batch in batches:
            await progress.may_go_on()
            # With line ends between its tokens, `data` is several data: lines of one frame.
            text = json.dumps(batch if len(batch) > 1 else batch[0], indent=rng.choice([None, None, 1]))
            while (accepted := await _try_to_publish(lines[turn % len(lines)], text)) is None:
                progress.refused += 1
                turn += 1
                await asyncio.sleep(rng.uniform(0, AWAY))
            assert [receipt["id"] for receipt in accepted] == [sent["id"] for sent in batch]
            progress.keep(accepted)


async def _try_to_publish(line: Requests, text: str) -> Sequence[Mapping[str, Any]] | None:
    """Return the receipts, or None if the publish must be retried."""
    try:
        answer = await line.post(text)
    except (OSError, EOFError):
        return None
    if answer.status == 503:
        answer.assert_unavailable()
        return None
    return receipts(answer)


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


def _assert_whole(log: Mapping[str, Sequence[StoredEvent]], published: Iterable[Mapping[str, Any]]) -> None:
    """Each acknowledged event is in the log, once per partition, with contiguous offsets."""
    for partition, records in log.items():
        assert [record.offset for record in records] == list(range(1, len(records) + 1)), partition
        assert len({record.epoch for record in records}) == 1, partition
        assert max(Counter(record.event["id"] for record in records).values()) == 1, f"{partition} has one twice"
    kept = {record.event["id"] for records in log.values() for record in records}
    assert kept == {sent["id"] for sent in published}


def _assert_receipts_fit(log: Mapping[str, Sequence[StoredEvent]], accepted: Mapping[str, Mapping[str, Any]]) -> None:
    """Each receipt has the position of its event, also after retries."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for records in log.values():
        for record in records:
            places.setdefault(record.event["id"], {})[record.partition] = (record.epoch, record.offset)
    for id, receipt in accepted.items():
        cursor = Cursor.parse(receipt["cursor"])
        assert cursor is not None
        assert {name: at[:2] for name, at in cursor.positions.items()} == places[id], id


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
    subscribers = [_make_subscriber(number, rng, instances) for number in range(SUBSCRIBERS)]
    for subscriber in subscribers:
        subscriber.owed = {sent["id"] for sent in [*events, *marks] if subscriber.matches(sent)}
        subscriber.marks = sum(subscriber.matches(mark) for mark in marks)
    batches = _make_batches(events, rng)
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
                publishing.create_task(_publish_until_accepted(instances, mine, progress, random.Random(rng.random())))
        await _publish_until_accepted(instances, [marks], progress, rng)

    log = await read_log(redis)
    _assert_whole(log, [*events, *marks])
    _assert_receipts_fit(log, progress.receipts)
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


def _make_subscriber(number: int, rng: random.Random, instances: Sequence[Instance]) -> Subscriber:
    return Subscriber(
        name=f"subscriber {number}",
        user=rng.choice(USERS) if number % 5 else None,
        types=frozenset(rng.sample(TYPES, rng.choice([1, 2, 3]))) if number % 3 else None,
        since=rng.choice(["now", "earliest"]),
        steady=number < STEADY,
        rng=random.Random(rng.random()),
        instances=instances,
        turn=number,
    )


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
