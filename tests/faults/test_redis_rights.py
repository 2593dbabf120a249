"""A user of Redis with exactly the rights that docs/transports.md names can do its work, and needs each of them."""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis.asyncio as redis
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import Partitions
from tidewire.transports.base import Retention, Transport
from tidewire.transports.redis.pubsub import RedisPubSub
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import at, event, publish, read, seek, start_of
from tests.support.processes import HOST, ROOT, RedisServer
from tests.support.sinks import subscribed

SCHEME = Partitions(frozenset({"a"}))
SHORT = Retention(age=0.05, events=3, idempotency_window=60.0)


def documented(process: str) -> list[str]:
    """The rules of the row that begins so."""
    text = (ROOT / "docs" / "transports.md").read_text()
    (rules,) = re.findall(rf"^\| {process}[^|]*\| `([^`]+)` \|$", text, re.MULTILINE)
    return re.findall(r"\([^)]*\)|\S+", html.unescape(rules))


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Any]:
    """A look at the same Redis by its owner."""
    client: Any = redis.Redis.from_url(redis_url, protocol=2)
    async with client:
        yield client
        await client.execute_command("ACL", "DELUSER", "ann")


async def allow(admin: Any, rules: list[str]) -> None:
    """Make a user with these rules and no others."""
    await admin.execute_command("ACL", "SETUSER", "ann", "reset", "on", ">p", *rules)
    await admin.execute_command("ACL", "LOG", "RESET")


async def denied(admin: Any) -> list[bytes]:
    """What was refused since then, the last first."""
    return [
        dict(zip(entry[::2], entry[1::2], strict=True))[b"object"]
        for entry in await admin.execute_command("ACL", "LOG")
    ]


@asynccontextmanager
async def opened(transport: Transport) -> AsyncIterator[Transport]:
    """Close it at the end, however that comes."""
    try:
        yield transport
    finally:
        await transport.aclose()


async def publishes(url: str, owner: str) -> None:
    """All that a function does which publishes: also what is known already, what trims, limits and health."""
    async with opened(RedisStreams(url, partitions=SCHEME, retention=SHORT)) as log:
        await log.ping()
        once = event("once", id="once")
        for _ in range(2):
            await log.publish([once, event("a", type="a")])
        await asyncio.sleep(0.1)
        await publish(log, *range(5))
        assert isinstance(log, RedisStreams)
        await log.take("key", 1, 10, 1.0)


async def streams(url: str, owner: str) -> None:
    """All that a process with streams does: live, from the past, of a later partition, and of a trimmed log."""
    async with opened(RedisStreams(owner, partitions=SCHEME, retention=SHORT)) as log:
        await publish(log, *range(5))
        async with Hub(RedisStreams(url, partitions=SCHEME, retention=SHORT), SCHEME) as hub:
            async with subscribed(hub, types={"b"}, since="earliest") as sink, asyncio.timeout(5):
                await sink.ready()
                async with subscribed(hub, types={"a"}) as later:
                    await later.ready()
                    await log.publish([event("live", type="a")])
                    await later.has("live", seconds=5)
            assert isinstance(hub.transport, RedisStreams)
            await hub.transport.ping()
            head = await seek(hub.transport, 0)
            await read(hub.transport, at(start_of(head)), at(head._replace(offset=head.offset + 100)))


async def carries(url: str, owner: str) -> None:
    """All that a process does over Pub/Sub."""
    async with (
        Hub(RedisPubSub(url, ping=0.1), SCHEME) as hub,
        Hub(RedisPubSub(owner), SCHEME) as other,
        subscribed(hub, types={"b"}) as sink,
        asyncio.timeout(5),
    ):
        await sink.ready()
        async with subscribed(hub, types={"a"}) as second:
            await second.ready()
        await other.dispatch([event("heard", type="b")])
        await sink.has("heard", seconds=5)
        await hub.dispatch([event("told")])
        await hub.transport.ping()
        assert isinstance(hub.transport, RedisPubSub)
        await hub.transport.take("key", 1, 10, 1.0)
        await asyncio.sleep(0.3)  # a few messages to itself


async def does_both(url: str, owner: str) -> None:
    await publishes(url, owner)
    await streams(url, owner)


SELDOM = {"+ping"}  # over Pub/Sub, while nothing can be published

ROLES: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "publishes only": publishes,
    "streams only": streams,
    "both": does_both,
    "publishes and streams": carries,
}


@pytest.mark.parametrize("process", ROLES)
async def test_the_documented_rights_are_enough(redis_server: RedisServer, admin: Any, process: str) -> None:
    """With `~rt:*`, the documented prefix, every command was refused: keys begin with `{rt:` as well."""
    await allow(admin, documented(process))
    await ROLES[process](f"redis://ann:p@{HOST}:{redis_server.port}", redis_server.url)
    assert await denied(admin) == []


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.parametrize("process", ROLES)
async def test_each_documented_right_is_needed(redis_server: RedisServer, admin: Any, process: str) -> None:
    """What a user may do and need not is what a stolen password may do."""
    rules = documented(process)
    for rule in [rule for rule in rules if rule not in SELDOM]:
        await admin.flushall()
        await admin.script_flush()
        await allow(admin, [other for other in rules if other != rule])
        with suppress(TransportUnavailable, TimeoutError, AssertionError):
            await ROLES[process](f"redis://ann:p@{HOST}:{redis_server.port}", redis_server.url)
        assert await denied(admin) != [], f"nothing misses {rule}"
