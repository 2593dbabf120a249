"""A Redis that answers and refuses: no place for a lasting lie of `ready`, of silence, or of a log full of warnings."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.clients import (
    Follower,
    Stream,
    event,
    eventually,
    follow,
    get,
    metrics,
    on_redis,
    open_stream,
    publish,
    publish_all,
    receipts,
)
from tests.support.processes import ROOT, Instance, MakeInstance, MakeRedis, RedisServer, inherited


async def reasons(instance: Instance) -> str:
    """What readiness says is wrong, with 503."""
    ready = await get(instance, "/api/health/ready")
    ready.assert_unavailable()
    return str(ready.json()["detail"])


async def is_ready(instance: Instance) -> bool:
    return (await get(instance, "/api/health/ready")).status == 200


@pytest.mark.parametrize(
    ("begin", "end", "code"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd", "NOPERM"),
        ("ACL SETUSER default resetkeys ~other:*", "ACL SETUSER default allkeys", "NOPERM"),
    ],
)
async def test_a_lasting_refusal_is_named_by_readiness(
    make_redis: MakeRedis, make_instance: MakeInstance, begin: str, end: str, code: str
) -> None:
    """Redis answered PING, so readiness said `ready` while every publication was refused."""
    redis = await asyncio.to_thread(make_redis, aof=False)
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


async def test_answers_of_503_are_logged_at_a_bounded_rate(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Each answer was a line: publishers that try again while the store is away filled the disk."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["before"])
    assert redis.ask("CONFIG SET maxmemory 1") == "+OK"
    for number in range(30):
        (await publish(instance, event(f"refused-{number}"))).assert_unavailable()
    warnings = [line for line in instance.log().splitlines() if "answered 503" in line]
    assert len(warnings) <= 3, "one of each reason"
    assert any("OOM" in line for line in warnings)


async def test_readiness_sees_a_refusal_before_anybody_publishes(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """A function that answers one request has no memory of an append: health asks for what an append would meet."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert redis.ask("CONFIG SET maxmemory 1") == "+OK"
    assert "OOM" in await reasons(instance)
    assert redis.ask("CONFIG SET maxmemory 0") == "+OK"
    assert (await get(instance, "/api/health/ready")).status == 200
    assert redis.ask("EXISTS {rt}:health") == ":0"


async def test_behind_the_fallback_a_refusal_is_degraded(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """What waits in the outbox is not durable, whatever the store answers to a PING."""
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

    async def is_well() -> bool:
        return bool((await get(instance, "/api/health/ready")).json()["status"] == "ready")

    await eventually(is_well)


@asynccontextmanager
async def opened(instance: Instance, **query: str) -> AsyncIterator[Follower]:
    """Open a stream and read it, ready or not."""
    async with open_stream(instance.port, query) as stream:
        follower = Follower(stream, "")
        try:
            yield follower
        finally:
            await follower.stop()


async def until_told(instance: Instance, why: str) -> None:
    """Return once readiness says that the tail does not read, and why."""

    async def is_told() -> bool:
        ready = await get(instance, "/api/health/ready")
        reasons = ready.json()["detail"].split("; ") if ready.status == 503 else []
        return any("the tail is reconnecting: " in reason and why in reason for reason in reasons)

    await eventually(is_told)


async def test_a_tail_that_may_not_read_promises_nothing(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """The stream got `ready`, heartbeats and never an event; the tail reconnected 258 times in 7 s, a warning each."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert redis.ask("ACL SETUSER default -xread") == "+OK"
    async with opened(instance) as stream:
        await until_told(instance, "NOPERM")
        await publish_all(instance, ["meanwhile"])
        assert stream.order == []
        assert (await metrics(instance))["realtime_tail_reconnects_total"] < 20
        assert redis.ask("ACL SETUSER default +xread") == "+OK"
        await stream.has("meanwhile")
        assert stream.order == ["ready", "meanwhile"]
        assert await is_ready(instance)
    assert instance.log().count("NOPERM") == 1


async def test_an_open_stream_whose_tail_is_refused(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """A refusal that comes later: readiness says so, the tries are spaced out, and nothing is lost."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        assert redis.ask("ACL SETUSER default -xread") == "+OK"
        receipts(await publish(instance, event("meanwhile")))  # ends the blocked read

        await until_told(instance, "NOPERM")
        tries = (await metrics(instance))["realtime_tail_reconnects_total"]
        assert tries < 20
        assert redis.ask("ACL SETUSER default +xread") == "+OK"
        await live.has("before", "meanwhile")
        assert live.seen.gaps == []
    assert instance.log().count("tail lost") <= 2


async def test_many_streams_that_wait_for_redis_are_one_warning(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Each stream that was reading the log warned at each of its tries: 100 of them wrote 1,145 lines in 10 s."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    for batch in range(20):  # together more than sockets and one page of the log hold
        receipts(await publish(instance, *[event(f"old-{batch}-{n}") | {"data": "x" * 30_000} for n in range(30)]))
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(open_stream(instance.port, {"from": "earliest"}, receive_buffer=4_096))
            for _ in range(8)
        ]
        for stream in streams:
            assert await stream.read() is not None
        await asyncio.to_thread(redis.kill)

        async def until_tried_twice(stream: Stream) -> None:
            body = b""
            while len(re.findall(rb"id: [^\n]+\n\n", body)) < 2:  # heartbeats: one behind each try
                chunk = await stream.read()
                assert chunk is not None
                body = body[-1_000:] + chunk

        await asyncio.gather(*map(until_tried_twice, streams))
        for _ in range(5):
            (await publish(instance, event("refused"))).assert_unavailable()
    assert instance.log().count("replay interrupted") <= 3  # the reason may change: reset, refused
    assert instance.log().count("answered 503") <= 3


def in_cluster_mode(make_redis: MakeRedis) -> RedisServer:
    """One node that holds all slots; its other port would be 10,000 above the first, where connections have theirs."""
    redis = make_redis(aof=False, options=("--cluster-enabled", "yes"))
    assert redis.ask("CLUSTER ADDSLOTSRANGE 0 16383") == "+OK"
    return redis


MODULES = ["functions.local", "functions.stream"]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("transport", ["redis", "redis-pubsub"])
def test_a_redis_in_cluster_mode_is_refused_at_the_start(make_redis: MakeRedis, transport: str, module: str) -> None:
    """One sentence instead of CROSSSLOT for each read: the log's keys lie in several slots."""
    redis = in_cluster_mode(make_redis)
    ran = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**inherited(), **on_redis(redis, REALTIME_TRANSPORT=transport), "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 2
    assert "REDIS_URL: names a Redis in cluster mode" in ran.stderr
    assert redis.url not in ran.stderr


async def test_cluster_mode_that_shows_later_is_told(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """It was away at the start, so nobody could see it: no stream is `ready`, and the log has the reason once."""
    redis = await asyncio.to_thread(in_cluster_mode, make_redis)
    await asyncio.to_thread(redis.kill)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_USER_SHARDS="8"))
    await asyncio.to_thread(redis.start)
    await eventually(lambda: is_ready(instance))
    async with opened(instance, userId="ann") as stream:
        await until_told(instance, "cluster mode")
        assert stream.order == []
    assert instance.log().count("cluster mode, which is not supported") == 1


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_evicting_redis_is_warned_of(make_redis: MakeRedis, make_instance: MakeInstance, policy: str) -> None:
    """An id that is evicted is appended a second time, and nothing said so."""
    redis = await asyncio.to_thread(make_redis, aof=False, options=("--maxmemory-policy", policy))
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert f"maxmemory-policy is {policy}" in instance.log()
    quiet = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(quiet))
    assert "maxmemory-policy" not in instance.log()


@pytest.mark.parametrize("module", MODULES)
def test_each_process_with_streams_warns_at_its_start(make_redis: MakeRedis, tmp_path: Path, module: str) -> None:
    """The stream's process did not say what it had seen of the store, and said the rest before its log had a form."""
    redis = make_redis(aof=False, options=("--maxmemory-policy", "allkeys-lru"))
    settings = on_redis(redis, REALTIME_AUTH="none", REALTIME_PUBLISH_KEYS="hunter2", REALTIME_HEARTBEATS="1s")
    instance = Instance(tmp_path, {**settings, "REALTIME_LOG_FORMAT": "json"}, command=[sys.executable, "-m", module])
    try:
        instance.start()
    finally:
        instance.stop()
    lines = [line for line in instance.log().splitlines() if line.startswith("{")]
    warnings = [line["message"] for line in map(json.loads, lines) if line["level"] == "warning"]
    for text in ("maxmemory-policy is allkeys-lru", "REALTIME_HEARTBEATS is unknown", "REALTIME_AUTH=none"):
        assert len([warning for warning in warnings if text in warning]) == 1, instance.log()
    assert "hunter2" not in instance.log()


async def test_a_user_who_may_not_ask_for_info_starts(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """The look before the start needs a right that a user of Redis need not have."""
    redis = await asyncio.to_thread(make_redis, aof=False, options=("--maxmemory-policy", "allkeys-lru"))
    assert redis.ask("ACL SETUSER default -info") == "+OK"
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["accepted"])
    assert "maxmemory-policy" not in instance.log()
