"""A Redis whose configuration does not fit: cluster mode, an eviction policy, a user without INFO."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clients import (
    follow_unready,
    publish_all,
    until_ready,
    until_tail_reconnects,
)
from tests.support.instance_settings import on_redis
from tests.support.processes import ROOT, Instance, MakeInstance, MakeRedis, RedisServer, inherited


def in_cluster_mode(make_redis: MakeRedis, kind: str = "redis") -> RedisServer:
    """Start one node that holds all slots."""
    redis = make_redis(aof=False, options=("--cluster-enabled", "yes"), kind=kind)
    assert redis.ask("CLUSTER ADDSLOTSRANGE 0 16383") == "+OK"
    return redis


FULL = pytest.mark.full
MODULES = ["functions.local", "functions.stream"]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("transport", "kind"), [("redis", "redis"), ("redis-pubsub", "redis"), pytest.param("redis", "valkey", marks=FULL)]
)
def test_a_redis_in_cluster_mode_is_refused_at_the_start(
    make_redis: MakeRedis, transport: str, kind: str, module: str
) -> None:
    """The log's keys are in several slots, so that each read would fail with CROSSSLOT. Valkey has its own INFO."""
    redis = in_cluster_mode(make_redis, kind)
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


async def test_cluster_mode_found_after_the_start_is_reported(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Redis was unavailable at the start. No stream becomes ready, and the reason is logged once."""
    redis = await asyncio.to_thread(in_cluster_mode, make_redis)
    await asyncio.to_thread(redis.kill)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_USER_SHARDS="8"))
    await asyncio.to_thread(redis.start)
    await until_ready(instance)
    async with follow_unready(instance, userId="ann") as stream:
        await until_tail_reconnects(instance, "cluster mode")
        assert stream.order == []
    assert instance.log().count("cluster mode, which needs a URL") == 1


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_eviction_policy_is_a_warning(make_redis: MakeRedis, make_instance: MakeInstance, policy: str) -> None:
    """An event whose id was evicted would be appended twice, without a notice."""
    redis = await asyncio.to_thread(make_redis, aof=False, options=("--maxmemory-policy", policy))
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert f"maxmemory-policy is {policy}" in instance.log()
    quiet = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(quiet))
    assert "maxmemory-policy" not in instance.log()


@pytest.mark.parametrize("module", MODULES)
def test_each_process_with_streams_warns_at_the_start(make_redis: MakeRedis, tmp_path: Path, module: str) -> None:
    """The stream process did not log what it found in the store, and logged the rest before the format was set."""
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


async def test_a_redis_user_without_info_starts(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """The check at the start uses INFO, a permission that is not required."""
    redis = await asyncio.to_thread(make_redis, aof=False, options=("--maxmemory-policy", "allkeys-lru"))
    assert redis.ask("ACL SETUSER default -info") == "+OK"
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["accepted"])
    assert "maxmemory-policy" not in instance.log()
