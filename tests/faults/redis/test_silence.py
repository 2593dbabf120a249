"""Redis or the network is silent: open connections stay open, and no answer arrives."""

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

from tests.support.clients import (
    Requests,
    event,
    follow,
    get,
    publish,
    publish_all,
    publish_until_accepted,
    receipts,
)
from tests.support.instance_settings import FAST_POLLS, on_redis, on_rest
from tests.support.processes import Instance, MakeInstance, MakeRedis, RedisServer
from tests.support.proxy import Proxy
from tests.support.sinks import subscribed
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import eventually

SILENCE = 7.0  # seconds until a publisher gets its 503: the time-out (5), and two for a busy machine
PROC = Path("/proc/self/net/tcp")  # proc(5)
ONE_TIME_OUT = 5.0
SLACK = 4.0  # seconds for a busy machine; two time-outs would be 10


async def test_a_silent_redis_is_a_503_in_bounded_time(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """Commands that Redis had received are executed later; a retry with the same ids stores nothing twice."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance, userId="ann") as ann:
        await publish_all(instance, ["before"])
        await ann.has("before")
        await asyncio.to_thread(redis.pause)
        began = time.monotonic()
        refused = await asyncio.gather(
            publish(instance, event("single")),
            publish(instance, event("a", "ann"), event("b")),
            get(instance, "/api/health/ready"),
            get(instance, "/api/events", {"accept": "text/event-stream"}),
        )
        assert time.monotonic() - began < SILENCE
        for answer in refused:
            answer.assert_unavailable()
        assert "did not answer" in refused[2].json()["detail"]

        redis.resume()
        # The first commands were in its socket and are executed now, so that the retries are duplicates.
        await publish_until_accepted(instance, event("single"))
        await publish_until_accepted(instance, event("a", "ann"), event("b"))
        await publish_all(instance, ["after"])
        await ann.seen.until(lambda: "after" in ann.names)
        assert sorted(ann.names) == ["a", "after", "b", "before", "single"]
        assert ann.names.index("a") + 1 == ann.names.index("b")
        assert (ann.seen.gaps, ann.is_open()) == ([], True)


@asynccontextmanager
async def idle_connections(instance: Instance, proxy: Proxy) -> AsyncIterator[None]:
    """Let the instance open the maximum number of idle connections to its store."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Requests(instance)) for _ in range(CONNECTIONS)]
        receipts(await clients[0].publish(event("first")))
        proxy.delay = 0.2  # so that all calls run at the same time
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
    """16 idle connections took 86 s of 503, one time-out each. The first silent one also ends the tail's wait."""
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
    """The same for both HTTP clients of Upstash's REST API."""
    async with Proxy(upstash.url) as proxy:
        instance = await asyncio.to_thread(make_instance, **on_rest(upstash, **FAST_POLLS, REDIS_URL=proxy.url))
        async with idle_connections(instance, proxy), follow(instance) as live:
            await proxy.freeze()
            assert await until_accepted(instance, "after") < ONE_TIME_OUT + SLACK
            await live.seen.until(lambda: "after" in live.names)
            assert live.seen.gaps == []


@pytest.mark.skipif(not PROC.exists(), reason="reads the connection table of Linux")
@pytest.mark.parametrize("kind", [RedisStreams, RedisPubSub, UpstashRest])
async def test_keepalive_is_set(redis_server: RedisServer, upstash: StandIn, kind: type[Transport]) -> None:
    """Probes keep the entry of a NAT alive, and detect a dead peer within half a minute."""
    transport: Transport
    if kind is UpstashRest:
        port, transport = upstash.port, UpstashRest(upstash.url, upstash.token)
    else:
        port, transport = redis_server.port, kind(redis_server.url)  # type: ignore[call-arg]  # both take a URL
    async with Hub(transport) as hub, subscribed(hub) as sink:
        await sink.ready()
        await hub.transport.ping()  # over REST, this uses the second HTTP client

        def all_are_kept() -> bool:  # not at once: while sent data is unacknowledged, another timer runs
            timers = keepalive_timers(port)
            return len(timers) >= 2 and all(0 < seconds <= 15.5 for seconds in timers)

        await eventually(all_are_kept)


def keepalive_timers(port: int) -> list[float]:
    """Return the seconds until the next keepalive probe of each connection to this port; 0 if none is set."""
    timers = []
    for line in PROC.read_text().splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        if state == "01" and int(remote.partition(":")[2], 16) == port:  # established
            kind, _, ticks = timer.partition(":")
            timers.append(int(ticks, 16) / 100 if kind == "02" else 0.0)
    return timers
