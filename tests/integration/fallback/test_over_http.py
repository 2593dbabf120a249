"""The fallback over HTTP, with a real Redis or Postgres that stops and starts again."""

import asyncio

import httpx
import pytest
from tidewire.settings.config import Settings
from tidewire.transports.fallback.fallback import Fallback
from tidewire.transports.upstash.rest_log import UpstashRest
from tidewire.wiring import make_transport

from tests.contract.acts import publish as publish_to
from tests.integration.fallback.over_http import back, early
from tests.support.clients import Follower, event, follow, follow_unready, get, metrics, open_stream, publish
from tests.support.instance_settings import FALLBACK, on_postgres, on_redis
from tests.support.postgres_server import MakePostgres
from tests.support.processes import Instance, MakeInstance, MakeRedis
from tests.support.redis_records import read_log
from tests.support.tokens import PUBLISH_KEY, SECRET
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import eventually


def test_a_function_accepts_only_durable_events() -> None:
    settings = Settings(transport="redis", redis_url="redis://127.0.0.1:1", fallback=True)
    assert isinstance(make_transport(settings), Fallback)
    assert not isinstance(make_transport(settings, stateless=True), Fallback)


async def test_an_outage_of_redis_loses_nothing(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Publishers and subscribers are served in the outage."""
    redis = make_redis()
    here, there = (make_instance(**on_redis(redis, **FALLBACK)) for _ in range(2))
    async with follow(here) as near, follow(there) as far:
        await publish(here, event("before"))
        await near.has("before")
        await far.has("before")
        redis.kill()
        for name in ("one", "two"):
            await early(here, name)
        await near.has("before", "one", "two")
        health = (await get(here, "/api/health/ready")).json()
        assert health["status"] == "degraded"
        assert health["outbox"] == 2
        assert any("Redis cannot be used now" in reason for reason in health["reasons"])
        counted = await metrics(here)
        assert counted["realtime_transport_away"] == 1
        assert counted["realtime_outbox_events"] == 2
        assert counted["realtime_outbox_bytes"] > 0
        redis.start()
        await back(here)
        answer = await publish(here, event("end"))
        assert "durable" not in answer.json()["events"][0]
        await near.has("before", "one", "two", "end")
        await far.has("before", "one", "two", "end")
        assert (await metrics(here))["realtime_transport_away"] == 0
    assert [stored.event["id"] for stored in (await read_log(redis))["all"]] == ["before", "one", "two", "end"]
    assert "the log is unavailable" in here.log()
    assert "the log is back" in here.log()


async def test_an_instance_starts_and_serves_without_redis(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = make_redis()
    redis.kill()
    instance = make_instance(**on_redis(redis, **FALLBACK))
    assert "started while the transport is unavailable" in instance.log()
    assert (await get(instance, "/api/health/ready")).json()["status"] == "degraded"
    async with follow_unready(instance) as follower:
        await eventually_subscribed(instance)
        await early(instance, "early")
        await follower.has("early")
        assert follower.order == ["early"]
        redis.start()
        await follower.seen.ready()
        await back(instance)
        await publish(instance, event("end"))
        await follower.has("early", "end")
        assert follower.order == ["early", "ready", "end"]


async def test_a_cursor_of_the_request_forges_no_frame(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """In an outage the cursor cannot be checked; it was written back as the id of each frame."""
    redis = make_redis()
    redis.kill()
    instance = make_instance(**on_redis(redis, **FALLBACK))
    forged = 'x\nevent: realtime.gap\ndata: {"reason": "forged"}\n\nevent: note\ndata: {"name": "forged"}\n\n'
    async with open_stream(instance.port, {"last_event_id": forged}) as stream:
        follower = Follower(stream, "")
        await eventually_subscribed(instance)
        await early(instance, "early")
        await follower.has("early")
        assert follower.order == ["early"]
        assert follower.cursor == "", "an id that is no cursor is not one to come back with"
        redis.start()
        await follower.seen.ready()
        assert follower.order == ["early", "gap: invalid", "ready after a loss"]
        await follower.stop()


async def eventually_subscribed(instance: Instance) -> None:
    """Return once a stream waits for the log."""

    async def waits() -> bool:
        return (await metrics(instance))['realtime_subscribers{state="waiting"}'] == 1

    await eventually(waits)


async def test_an_instance_starts_and_serves_without_postgres(
    make_postgres: MakePostgres, make_instance: MakeInstance
) -> None:
    postgres = await asyncio.to_thread(make_postgres)
    await asyncio.to_thread(postgres.kill)
    instance = make_instance(**on_postgres(postgres.url, **FALLBACK))
    assert (await get(instance, "/api/health/ready")).json()["status"] == "degraded"
    async with follow_unready(instance) as follower:
        await eventually_subscribed(instance)
        await early(instance, "early")
        await follower.has("early")
        await asyncio.to_thread(postgres.start)
        await follower.seen.ready()
        await back(instance)
        await publish(instance, event("end"))
        await follower.has("early", "end")


async def test_upstash_may_be_away_too(upstash: StandIn) -> None:
    fallback = Fallback(UpstashRest(upstash.url, upstash.token, poll_min=0.01, poll_max=0.1))
    await asyncio.to_thread(upstash.stop)
    (receipt,) = await publish_to(fallback, "early")
    assert not receipt.durable
    await asyncio.to_thread(upstash.resume)
    await eventually(lambda: fallback.backlog.events == 0)
    (receipt,) = await publish_to(fallback, "after")
    assert receipt.positions is not None
    assert receipt.positions["all"].offset == 2
    await fallback.aclose()


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_drain_waits_for_the_log_and_logs_what_is_lost(
    make_redis: MakeRedis, make_instance: MakeInstance, comes_back: bool
) -> None:
    redis = make_redis()
    instance = make_instance(**on_redis(redis, **FALLBACK))
    redis.kill()
    for name in ("hunter2-one", "hunter2-two"):
        await early(instance, name)
    instance.terminate()
    if comes_back:
        redis.start()
    assert await asyncio.to_thread(instance.wait) == 0
    assert ("LOST: 2 events" in instance.log()) is not comes_back
    assert "hunter2" not in instance.log()
    if comes_back:
        assert len((await read_log(redis))["all"]) == 2


async def test_a_full_outbox_is_a_503_with_a_retry_after(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = make_redis()
    instance = make_instance(**on_redis(redis, **FALLBACK))
    redis.kill()
    large = '{"type": "note", "data": "' + "x" * 250_000 + '"}'
    answers = [await publish(instance, *[large] * 4) for _ in range(18)]
    assert {answer.status for answer in answers[:16]} == {202}
    answers[-1].assert_unavailable()
    assert "outbox is full" in answers[-1].json()["detail"]
    assert (await metrics(instance))["realtime_outbox_refused_total"] >= 4
    redis.start()
    await back(instance)
    assert (await publish(instance, event("room-again"))).status == 202


async def test_a_revocation_in_memory_alone_is_not_acknowledged(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = make_redis()
    keys = {"REALTIME_AUTH": "required", "REALTIME_PUBLISH_KEYS": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}
    instance = make_instance(**{**on_redis(redis, **FALLBACK), **keys})
    redis.kill()
    headers = {"authorization": f"Bearer {PUBLISH_KEY}", "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=instance.url, headers=headers) as client:
        refused = await client.post("/api/revocations", content=b'{"userId": "u1"}')
        assert refused.status_code == 503
        assert "only this instance applies the revocation" in refused.json()["detail"]
        redis.start()
        await back(instance)
        assert (await client.post("/api/revocations", content=b'{"userId": "u1"}')).status_code == 202
