"""Idle connections that a NAT has forgotten: open on our side, silent for good, while new ones work."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tidewire.delivery.hub import Hub
from tidewire.transports.base import Transport
from tidewire.transports.redis.pool import CONNECTIONS
from tidewire.transports.redis.pubsub import RedisPubSub
from tidewire.transports.redis.streams import RedisStreams
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.faults.clients import Requests, event, follow, on_redis, publish, receipts
from tests.integration.upstash.test_over_http import FAST, over_rest
from tests.support.processes import Instance, MakeInstance, MakeRedis, RedisServer
from tests.support.proxy import Proxy
from tests.support.sinks import subscribed
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import eventually

PROC = Path("/proc/self/net/tcp")  # proc(5)

ONE_TIME_OUT = 5.0
SLACK = 4.0  # seconds for a busy machine; two time-outs would be 10


@asynccontextmanager
async def idle_connections(instance: Instance, proxy: Proxy) -> AsyncIterator[None]:
    """Have the instance keep as many idle connections to its store as it may."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Requests(instance)) for _ in range(CONNECTIONS)]
        receipts(await clients[0].publish(event("first")))
        proxy.delay = 0.2  # so that all are under way at the same time
        answers = await asyncio.gather(*(client.publish(event(f"warm-{n}")) for n, client in enumerate(clients)))
        assert {answer.status for answer in answers} == {202}
        proxy.delay = 0.0
        yield


async def until_accepted(instance: Instance, name: str) -> float:
    """Publish one event until it is accepted, and return the seconds that it took."""
    began = time.monotonic()
    while (await publish(instance, event(name))).status != 202:
        assert time.monotonic() - began < 60
    return time.monotonic() - began


@pytest.mark.timeout(120)
async def test_forgotten_connections_cost_one_time_out(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """16 idle connections took 86 s of 503: one time-out for each. The tail goes on as soon as one is found silent."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    async with Proxy(redis.url) as proxy:
        instance = await asyncio.to_thread(make_instance, **on_redis(redis, REDIS_URL=proxy.url))
        async with idle_connections(instance, proxy), follow(instance) as live:
            await proxy.freeze()
            assert await until_accepted(instance, "after") < ONE_TIME_OUT + SLACK
            began = time.monotonic()
            await live.seen.until(lambda: "after" in live.names)
            assert time.monotonic() - began < SLACK
            assert live.seen.gaps == []


@pytest.mark.timeout(120)
async def test_over_rest_forgotten_connections_cost_one_time_out(
    redis_server: RedisServer, upstash: StandIn, make_instance: MakeInstance
) -> None:
    """The same over HTTP, for the connections of both clients."""
    async with Proxy(upstash.url) as proxy:
        instance = await asyncio.to_thread(make_instance, **over_rest(upstash, **FAST, REDIS_URL=proxy.url))
        async with idle_connections(instance, proxy), follow(instance) as live:
            await proxy.freeze()
            assert await until_accepted(instance, "after") < ONE_TIME_OUT + SLACK
            await live.seen.until(lambda: "after" in live.names)
            assert live.seen.gaps == []


@pytest.mark.skipif(not PROC.exists(), reason="reads Linux' table of connections")
@pytest.mark.parametrize("kind", [RedisStreams, RedisPubSub, UpstashRest])
async def test_keepalive_is_set(redis_server: RedisServer, upstash: StandIn, kind: type[Transport]) -> None:
    """Probes keep a NAT from forgetting a connection, and find a peer that is gone within half a minute."""
    transport: Transport
    if kind is UpstashRest:
        port, transport = upstash.port, UpstashRest(upstash.url, upstash.token)
    else:
        port, transport = redis_server.port, kind(redis_server.url)  # type: ignore[call-arg]
    async with Hub(transport) as hub, subscribed(hub) as sink:
        await sink.ready()
        await hub.transport.ping()  # by the other HTTP client

        def all_are_kept() -> bool:  # not at any moment: what was just sent is waited for by another timer
            timers = keepalive_timers(port)
            return len(timers) >= 2 and all(0 < seconds <= 15.5 for seconds in timers)

        await eventually(all_are_kept)


def keepalive_timers(port: int) -> list[float]:
    """The seconds until the next keepalive probe of each open connection to this port, 0 where there is none."""
    timers = []
    for line in PROC.read_text().splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        if state == "01" and int(remote.partition(":")[2], 16) == port:  # established
            kind, _, ticks = timer.partition(":")
            timers.append(int(ticks, 16) / 100 if kind == "02" else 0.0)
    return timers
