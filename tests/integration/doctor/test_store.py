"""The check `store`: each server of one Redis, of sentinels and of a cluster, asked by the doctor's own process."""

import asyncio

from redis.exceptions import ResponseError
from tidewire.tools.doctor import Finding
from tidewire.transports.redis.server_info import check_server

from tests.integration.doctor.conftest import findings
from tests.support.processes import HOST, MakeRedis, free_port
from tests.support.redis_cluster import MakeCluster, RedisCluster
from tests.support.redis_node import await_that
from tests.support.sentinel import SERVICE, Sentinel, SentinelGroup

STRICT = "cluster-require-full-coverage is yes"
AVAILABLE = ("--cluster-require-full-coverage", "no", "--save", "3600 1")


async def check(url: str) -> Finding:
    """The finding for the settings of an instance on these servers."""
    environ = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": url, "REALTIME_AUTH": "none"}
    return (await findings("https://app.example.com", "store", environ=environ))["store"]


async def test_is_skipped_without_the_address() -> None:
    assert (await findings("https://app.example.com", "store"))["store"].verdict == "skip"


async def test_a_well_configured_cluster_passes(make_cluster: MakeCluster) -> None:
    """With its nodes, and how far its replicas are behind."""
    cluster = await asyncio.to_thread(make_cluster, options=AVAILABLE)
    found = await check(cluster.url)
    assert found.verdict == "ok", found
    assert found.reason.startswith("3 primaries, 3 replicas; replicas are at most ")
    assert (found.measured["primaries"], found.measured["replicas"]) == (3, 3)
    assert int(found.measured["behindBytes"]) < 10_000


async def test_finds_nodes_that_are_away(make_cluster: MakeCluster) -> None:
    """A replica is a risk; a primary whose slots nobody took over refuses events."""
    cluster = await asyncio.to_thread(make_cluster, options=AVAILABLE)
    first, second, *_ = cluster.primaries()
    (replica,) = cluster.replicas_of(first)
    await asyncio.to_thread(cluster.kill, replica)
    found = await check(cluster.url)
    assert found.verdict == "warn", found
    assert f"the replica {replica.address} does not answer" in found.reason
    assert f"the primary {first.address} has no connected replica" in found.reason
    await asyncio.to_thread(cluster.kill, first)
    found = await check(cluster.url)
    assert found.verdict == "fail", found
    assert f"the primary {first.address} does not answer: ConnectionRefusedError" in found.reason
    assert second.address not in found.reason


async def test_finds_slots_without_an_owner(make_cluster: MakeCluster) -> None:
    cluster = await asyncio.to_thread(make_cluster, replicas=0, options=AVAILABLE)
    for node in cluster.nodes:
        node.call("CLUSTER", "DELSLOTSRANGE", 0, 9)
    found = await check(cluster.url)
    assert found.verdict == "fail"
    assert "10 of 16,384 slots have no owner" in found.reason
    assert "has no connected replica" in found.reason


async def test_finds_a_cluster_that_stops_as_a_whole(redis_cluster: RedisCluster) -> None:
    """The default: one lost primary stops all others."""
    found = await check(redis_cluster.url)
    assert found.verdict == "warn"
    assert f"{STRICT} on 3 of 3 primaries" in found.reason
    assert "keeps nothing on disk" in found.reason


async def test_a_cluster_that_is_none_is_named(make_redis: MakeRedis, redis_cluster: RedisCluster) -> None:
    """And the other way around."""
    redis = await asyncio.to_thread(make_redis)
    found = await check(redis.url.replace("redis://", "redis+cluster://"))
    assert found.verdict == "fail"
    assert "is not in cluster mode" in found.reason
    environ = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_cluster.nodes[0].url, "REALTIME_AUTH": "none"}
    found = (await findings("https://app.example.com", "settings", environ=environ))["settings"]
    assert "names a Redis in cluster mode" in found.reason


async def test_every_node_of_a_cluster_is_checked_for_eviction(redis_cluster: RedisCluster) -> None:
    """An instance logs the same warning at its start; a replica counts, which may be promoted."""
    first, *_, last = redis_cluster.nodes
    for node in (first, last):
        node.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    try:
        (warning,) = await check_server(redis_cluster.url, None, None)
    finally:
        for node in (first, last):
            node.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert {first.address, last.address} == set(warning.partition(": ")[0].split(", "))
    assert "maxmemory-policy is volatile-lru" in warning
    assert await check_server(redis_cluster.url, None, None) == []


async def test_nobody_answers() -> None:
    for kind in ("", "+cluster"):
        found = await check(f"redis{kind}://{HOST}:{free_port()}")
        assert found.verdict == "fail"
        assert "ConnectionRefusedError" in found.reason


async def test_sentinels_that_agree_pass(sentinel_group: SentinelGroup) -> None:
    for server in sentinel_group.servers:
        server.call("CONFIG", "SET", "save", "3600 1")
    found = await check(sentinel_group.url)
    assert found.verdict == "ok", found
    assert found.reason.startswith("1 primary, 2 replicas, 3 sentinels; replicas are at most ")


async def test_finds_lost_sentinels(sentinel_group: SentinelGroup) -> None:
    """One is a warning of its own; with two away, the third counts no quorum."""
    first, second, third = sentinel_group.sentinels
    first.kill()
    found = await check(sentinel_group.url)
    assert found.verdict == "warn"
    assert f"the sentinel {first.address} does not answer" in found.reason
    second.kill()
    await asyncio.to_thread(await_that, "no quorum", lambda: _counts_no_quorum(third))
    found = await check(sentinel_group.url)
    assert f"the sentinel {third.address} counts no quorum: NOQUORUM" in found.reason


async def test_a_replica_as_the_address_fails(sentinel_group: SentinelGroup) -> None:
    replica = sentinel_group.replicas[0]
    found = await check(replica.url)
    assert found.verdict == "fail"
    assert f"{replica.address} is a replica, which refuses appends" in found.reason


async def test_finds_a_replica_that_is_behind(sentinel_group: SentinelGroup) -> None:
    """Paused, it does not acknowledge; its primary counts the seconds and the bytes."""
    primary = sentinel_group.primary
    replica = sentinel_group.replicas[0]
    replica.pause()
    primary.call("SET", "filler", "x" * 2_000_000)
    found = await check(primary.url)
    assert found.verdict == "warn"
    assert f"the replica {replica.address} of {primary.address} is 2,0" in found.reason
    assert int(found.measured["behindBytes"]) > 2_000_000


def _counts_no_quorum(sentinel: Sentinel) -> bool:
    try:
        sentinel.call("SENTINEL", "CKQUORUM", SERVICE)
    except ResponseError:
        return True
    return False
