"""A planned failover: the old primary lives on as a replica, and open connections to it stay open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from tests.support.clients import (
    Requests,
    event,
    follow,
    get,
    publish,
    publish_all,
    publish_until_accepted,
    reasons,
    receipts,
)
from tests.support.instance_settings import FAST_POLLS, on_pubsub, on_redis, on_rest
from tests.support.processes import HOST, Instance, MakeInstance, MakeRedis, RedisServer
from tests.support.proxy import Proxy
from tests.support.redis_records import read_log
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import DEADLINE


@dataclass
class Pair:
    """Two servers, and one address that leads to the primary."""

    old: RedisServer
    new: RedisServer
    proxy: Proxy

    async def follow(self, leader: RedisServer, replica: RedisServer) -> None:
        """Make one server the replica of the other; return when it holds all of its data."""
        assert leader.ask("CONFIG SET repl-diskless-sync-delay 0") == "+OK"
        assert replica.ask(f"REPLICAOF {HOST} {leader.port}") == "+OK"
        async with Redis.from_url(leader.url, single_connection_client=True) as client, asyncio.timeout(DEADLINE):
            while True:
                await client.set("probe", 1)
                if await client.wait(1, 500):
                    return

    async def fail_over(self, *, linked: bool = True) -> None:
        """Promote the new server, demote the old one, and lead new connections to the new one.

        If they are not `linked`, the old server cannot reach its primary, and gets no later record.
        """
        await self.follow(self.old, self.new)
        assert self.new.ask("REPLICAOF NO ONE") == "+OK"
        self.proxy.lead_to(self.new.port, cut=False)
        assert self.old.ask(f"REPLICAOF {HOST} {self.new.port if linked else 1}") == "+OK"


@pytest.fixture
async def pair(make_redis: MakeRedis) -> AsyncIterator[Pair]:
    """Two servers that hold one log, one after the other."""
    old, new = [await asyncio.to_thread(make_redis, aof=False) for _ in range(2)]
    async with Proxy(old.url) as proxy:
        yield Pair(old, new, proxy)


@asynccontextmanager
async def warm(instance: Instance, *, connections: int = 8) -> AsyncIterator[None]:
    """Let the instance open several connections to its store, which stay open."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Requests(instance)) for _ in range(connections)]
        await asyncio.gather(*(client.publish(event(f"warm-{number}")) for number, client in enumerate(clients)))
        yield


async def test_acknowledged_events_survive_a_planned_failover(pair: Pair, make_instance: MakeInstance) -> None:
    """Each publish was a 503 READONLY for ever, and a client that resumed got the old heads: it lost three events."""
    settings = on_redis(pair.old, REDIS_URL=pair.proxy.url)
    instance = await asyncio.to_thread(make_instance, **settings)
    async with warm(instance), follow(instance, types="note") as live:
        await publish_all(instance, ["before"])
        await live.seen.until(lambda: "before" in live.names)
        cursor = live.cursor
        await pair.fail_over(linked=False)
        there = await asyncio.to_thread(make_instance, **on_redis(pair.new))
        receipts(await publish(there, event("one"), event("two"), event("three")))
        async with follow(instance, last_event_id=cursor) as resumed:
            assert resumed.order == ["one", "two", "three", "ready"]
        for name in ("four", "five"):
            receipts(await publish(instance, event(name)))  # accepted at once: the failover is over
        await live.seen.until(lambda: "five" in live.names)
        assert live.names[live.names.index("before") :] == ["before", "one", "two", "three", "four", "five"]
        assert live.seen.gaps == []
        assert (await get(instance, "/api/health/ready")).status == 200


async def test_a_tail_on_the_demoted_node_moves_by_itself(pair: Pair, make_instance: MakeInstance) -> None:
    """No call to this instance follows the failover: the tail itself detects that its node was demoted."""
    instance = await asyncio.to_thread(make_instance, **on_redis(pair.old, REDIS_URL=pair.proxy.url))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        await pair.fail_over(linked=False)
        there = await asyncio.to_thread(make_instance, **on_redis(pair.new))
        receipts(await publish(there, event("after")))
        await live.has("before", "after")
        assert live.seen.gaps == []


async def test_a_retry_is_no_duplicate_on_a_demoted_node(pair: Pair, make_instance: MakeInstance) -> None:
    """The old node answered with its old receipt, although the new primary did not have the event."""
    instance = await asyncio.to_thread(make_instance, **on_redis(pair.old, REDIS_URL=pair.proxy.url))
    await pair.follow(pair.old, pair.new)
    assert pair.new.ask("REPLICAOF NO ONE") == "+OK"
    async with warm(instance):
        await publish_all(instance, ["only-here"])  # the new primary does not have it: the link was cut before
        pair.proxy.lead_to(pair.new.port, cut=False)
        assert pair.old.ask(f"REPLICAOF {HOST} 1") == "+OK"
        (receipt,) = receipts(await publish(instance, event("only-here")))
        assert receipt["duplicate"] is False
    assert [stored.event["id"] for stored in (await read_log(pair.new))["all"]] == ["only-here"]


async def test_heads_of_an_old_primary_that_is_not_demoted_yet(pair: Pair, make_instance: MakeInstance) -> None:
    """It answers like a primary, but its heads are behind the tail's position."""
    instance = await asyncio.to_thread(make_instance, **on_redis(pair.old, REDIS_URL=pair.proxy.url))
    async with warm(instance), follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.seen.until(lambda: "before" in live.names)
        cursor = live.cursor
        await pair.follow(pair.old, pair.new)
        assert pair.new.ask("REPLICAOF NO ONE") == "+OK"
        pair.proxy.lead_to(pair.new.port, cut=False)
        async with Redis.from_url(pair.old.url) as old:
            for client in await old.client_list(_type="normal"):
                if "b" in client["flags"]:  # the tail, which reconnects to the new one
                    await old.client_kill_filter(_id=client["id"])
        there = await asyncio.to_thread(make_instance, **on_redis(pair.new))
        receipts(await publish(there, event("one"), event("two")))
        await live.seen.until(lambda: "two" in live.names)
        async with follow(instance, last_event_id=cursor) as resumed:
            assert resumed.order == ["one", "two", "ready"]
        assert live.seen.gaps == []


async def test_a_demoted_node_is_not_ready(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """The address still leads to the old node: appends are refused, no stream opens, and readiness reports it."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        assert redis.ask(f"REPLICAOF {HOST} 1") == "+OK"
        (await publish(instance, event("refused"))).assert_unavailable()
        assert "READONLY" in await reasons(instance)
        (await get(instance, "/api/events", {"accept": "text/event-stream"})).assert_unavailable()
        assert redis.ask("REPLICAOF NO ONE") == "+OK"
        await publish_until_accepted(instance, event("after"))
        await live.has("before", "after")
        assert live.seen.gaps == []


async def test_the_outbox_is_written_to_the_new_primary(pair: Pair, make_instance: MakeInstance) -> None:
    """The instance accepted events that were never durable: its connections stayed with the old node."""
    settings = on_redis(pair.old, REDIS_URL=pair.proxy.url, REALTIME_FALLBACK="memory")
    instance = await asyncio.to_thread(make_instance, **settings)
    async with warm(instance), follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.seen.until(lambda: "before" in live.names)
        await pair.fail_over(linked=False)
        (receipt,) = receipts(await publish(instance, event("after")))
        assert receipt.get("durable", True) is True
        await live.seen.until(lambda: "after" in live.names)
        assert (await get(instance, "/api/health/ready")).json()["status"] == "ready"
    assert "after" in [stored.event["id"] for stored in (await read_log(pair.new))["all"]]


async def test_pubsub_publishes_and_receives_on_the_new_primary(pair: Pair, make_instance: MakeInstance) -> None:
    """A replica accepts PUBLISH without an error, but only its own clients receive the message."""
    instance = await asyncio.to_thread(make_instance, **on_pubsub(pair.old, REDIS_URL=pair.proxy.url))
    async with warm(instance), follow(instance) as live:
        await pair.fail_over(linked=False)
        there = await asyncio.to_thread(make_instance, **on_pubsub(pair.new))
        async with follow(there) as elsewhere:
            receipts(await publish(instance, event("from-here")))
            await elsewhere.has("from-here")
            await live.seen.until(lambda: "no-log" in live.seen.gaps)  # the gap of its move
            receipts(await publish(there, event("from-there")))
            await live.seen.until(lambda: "from-there" in live.names)


async def test_over_rest_kept_connections_leave_the_old_node(pair: Pair, make_instance: MakeInstance) -> None:
    """Kept HTTP connections lead to the endpoint of the demoted Redis, new ones to that of the new primary."""
    with StandIn(pair.old.port) as old, StandIn(pair.new.port) as new:
        async with Proxy(old.url) as proxy:
            settings = on_rest(old, **FAST_POLLS, REDIS_URL=proxy.url)
            instance = await asyncio.to_thread(make_instance, **settings)
            async with warm(instance), follow(instance) as live:
                await publish_all(instance, ["before"])
                await live.seen.until(lambda: "before" in live.names)
                cursor = live.cursor
                await pair.follow(pair.old, pair.new)
                assert pair.new.ask("REPLICAOF NO ONE") == "+OK"
                proxy.lead_to(new.port, cut=False)
                assert pair.old.ask(f"REPLICAOF {HOST} 1") == "+OK"
                there = await asyncio.to_thread(make_instance, **on_redis(pair.new))
                receipts(await publish(there, event("one")))
                async with follow(instance, last_event_id=cursor) as resumed:
                    assert resumed.order == ["one", "ready"]
                receipts(await publish(instance, event("two")))
                await live.seen.until(lambda: "two" in live.names)
                assert live.names[live.names.index("before") :] == ["before", "one", "two"]
                assert live.seen.gaps == []
