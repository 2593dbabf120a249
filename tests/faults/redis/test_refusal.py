"""Redis answers and refuses: readiness names the reason, and a stream is ready only if its tail can read."""

import asyncio

import pytest

from tests.support.clients import (
    event,
    follow,
    follow_unready,
    get,
    is_ready,
    metrics,
    publish,
    publish_all,
    publish_until_accepted,
    reasons,
    receipts,
    until_ready,
    until_tail_reconnects,
)
from tests.support.instance_settings import on_redis
from tests.support.processes import MakeInstance, MakeRedis
from tests.support.redis_records import names_in_log


@pytest.mark.parametrize(
    ("begin", "end", "code"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd", "NOPERM"),
        ("ACL SETUSER default resetkeys ~other:*", "ACL SETUSER default allkeys", "NOPERM"),
    ],
)
@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.full)])
async def test_a_lasting_refusal_is_named_by_readiness(
    make_redis: MakeRedis, make_instance: MakeInstance, kind: str, begin: str, end: str, code: str
) -> None:
    """Redis answered PING, so readiness said `ready` while every publication was refused."""
    redis = await asyncio.to_thread(make_redis, aof=False, kind=kind)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["before"])
    assert redis.ask(begin) == "+OK"
    (await publish(instance, event("refused"))).assert_unavailable()
    assert code in await reasons(instance)
    assert (await metrics(instance))["realtime_append_refused"] == 1
    assert redis.ask(end) == "+OK"
    receipts(await publish(instance, event("after")))
    assert (await get(instance, "/api/health/ready")).status == 200
    assert (await metrics(instance))["realtime_append_refused"] == 0


async def test_readiness_detects_a_refusal_before_the_first_publish(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """A function that serves one request remembers no failed append, so the health check tries a write."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert redis.ask("CONFIG SET maxmemory 1") == "+OK"
    assert "OOM" in await reasons(instance)
    assert redis.ask("CONFIG SET maxmemory 0") == "+OK"
    assert (await get(instance, "/api/health/ready")).status == 200
    assert redis.ask("EXISTS {rt}:health") == ":0"


async def test_a_full_redis_refuses_publishers_and_serves_streams(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Reading heads and pages needs no memory. For a demoted node see `test_failover`."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        assert redis.ask("CONFIG SET maxmemory 1") == "+OK"
        (await publish(instance, event("refused"))).assert_unavailable()
        async with follow(instance, **{"from": "earliest"}) as late:
            assert late.names[0] == "before"
            assert late.seen.gaps == []
        assert "OOM" in await reasons(instance)
        assert redis.ask("CONFIG SET maxmemory 0") == "+OK"
        assert "refused" not in await names_in_log(redis)
        await publish_until_accepted(instance, event("after"))
        await live.has("before", "after")
        assert (live.seen.gaps, live.is_open()) == ([], True)


async def test_answers_of_503_are_logged_at_a_bounded_rate(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Each 503 was a line: publishers that retried in an outage filled the disk."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["before"])
    assert redis.ask("CONFIG SET maxmemory 1") == "+OK"
    for number in range(30):
        (await publish(instance, event(f"refused-{number}"))).assert_unavailable()
    warnings = [line for line in instance.log().splitlines() if "answered 503" in line]
    assert len(warnings) <= 3, "one per reason"
    assert any("OOM" in line for line in warnings)


async def test_behind_the_fallback_a_refusal_is_degraded(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Events in the outbox are not durable, even if the store answers PING."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_FALLBACK="memory"))
    await publish_all(instance, ["before"])
    assert redis.ask("ACL SETUSER default -xadd") == "+OK"
    (receipt,) = receipts(await publish(instance, event("kept")))
    assert receipt["durable"] is False
    health = (await get(instance, "/api/health/ready")).json()
    assert (health["status"], health["outbox"]) == ("degraded", 1)
    assert "accepted events are not in the log yet" in health["reasons"]
    assert redis.ask("ACL SETUSER default +xadd") == "+OK"
    await until_ready(instance)


async def test_a_stream_whose_tail_may_not_read_is_not_ready(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """The stream got `ready`, heartbeats and no event; the tail reconnected 258 times in 7 s, each with a warning."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert redis.ask("ACL SETUSER default -xread") == "+OK"
    async with follow_unready(instance) as stream:
        await until_tail_reconnects(instance, "NOPERM")
        await publish_all(instance, ["meanwhile"])
        assert stream.order == []
        assert (await metrics(instance))["realtime_tail_reconnects_total"] < 20
        assert redis.ask("ACL SETUSER default +xread") == "+OK"
        await stream.has("meanwhile")
        assert stream.order == ["ready", "meanwhile"]
        assert await is_ready(instance)
    assert instance.log().count("NOPERM") == 1


async def test_an_open_stream_whose_tail_is_refused(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """The permission is removed later: readiness reports it, the attempts are spaced out, and nothing is lost."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        assert redis.ask("ACL SETUSER default -xread") == "+OK"
        receipts(await publish(instance, event("meanwhile")))  # ends the blocked read

        await until_tail_reconnects(instance, "NOPERM")
        assert (await metrics(instance))["realtime_tail_reconnects_total"] < 20
        assert redis.ask("ACL SETUSER default +xread") == "+OK"
        await live.has("before", "meanwhile")
        assert live.seen.gaps == []
    assert instance.log().count("tail lost") <= 2
