"""Whole instances on Redis Pub/Sub."""

import asyncio

import pytest
import redis.asyncio as redis

from tests.support.clients import event, follow, metrics, publish, read_page, receipts
from tests.support.instance_settings import on_pubsub
from tests.support.processes import Instance, MakeInstance, RedisServer


@pytest.fixture
async def instances(redis_server: RedisServer, redis_url: str, make_instance: MakeInstance) -> list[Instance]:
    """Two instances on one Redis."""
    starts = (asyncio.to_thread(make_instance, **on_pubsub(redis_server)) for _ in range(2))
    return await asyncio.gather(*starts)


async def test_two_processes_deliver_each_others_events_once(instances: list[Instance]) -> None:
    first, second = instances
    async with follow(first) as here, follow(second) as there, follow(second, userId="u1") as user:
        names = [f"event-{number}" for number in range(10)]
        for number, name in enumerate(names):
            (receipt,) = receipts(await publish(instances[number % 2], event(name)))
            assert (receipt["cursor"], receipt["duplicate"]) == (None, False)
        receipts(await publish(first, event("for-u1", "u1")))
        await user.has(*names, "for-u1")
        receipts(await publish(first, event("end")))
        receipts(await publish(second, event("end-too")))
        for follower in (here, there):
            await follower.seen.until(lambda follower=follower: len(follower.names) == 12)  # type: ignore[misc]  # binds the loop variable
            assert sorted(follower.names) == sorted([*names, "end", "end-too"])


async def test_a_resuming_client_gets_the_gap_first(
    instances: list[Instance],
) -> None:
    first, second = instances
    async with follow(first) as here:
        receipts(await publish(first, event("seen")))
        await here.has("seen")
        assert here.cursor != "", "without an id, the client could not resume"
    receipts(await publish(first, event("missed")))
    async with follow(second, last_event_id=here.cursor) as again:
        receipts(await publish(first, event("live")))
        await again.has("live")
        assert again.seen.order[:2] == ["realtime.gap", "realtime.ready"]
        assert again.seen.gaps == ["no-log"]
        assert (await again.seen.ready())["recovered"] is False


async def test_each_later_page_has_a_gap(instances: list[Instance]) -> None:
    page = await read_page(instances[0])
    assert (page["events"], page["gap"]) == ([], None)
    receipts(await publish(instances[1], event("missed")))
    again = await read_page(instances[0], last_event_id=page["cursor"])
    assert (again["events"], again["gap"]) == ([], {"reason": "no-log", "recovered": False})


async def test_a_long_poll_without_a_cursor_gets_the_next_event(instances: list[Instance]) -> None:
    waiting = asyncio.create_task(read_page(instances[0], wait="15"))
    number = 0
    while not waiting.done():
        number += 1
        receipts(await publish(instances[1], event(f"event-{number}")))
    page = await waiting
    assert len(page["events"]) >= 1
    assert page["gap"] is None


async def test_a_lost_connection_is_a_counted_gap_on_each_stream(
    instances: list[Instance], redis_client: redis.Redis
) -> None:
    first, second = instances
    async with follow(first) as one, follow(first, types="note") as two:
        for each in await redis_client.client_list(_type="pubsub"):
            await redis_client.client_kill_filter(_id=each["id"])
        for follower in (one, two):
            await follower.seen.until(lambda follower=follower: follower.seen.gaps == ["no-log"])  # type: ignore[misc]  # binds the loop variable
        receipts(await publish(second, event("after")))
        await one.has("after")
        await two.has("after")
        assert (await metrics(first))["realtime_tail_running"] == 1
