"""A Redis user with exactly the permissions in docs/transports.md can do its work, and needs each of them."""

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
from tests.support.waiting import eventually

SCHEME = Partitions(frozenset({"a"}))
SHORT = Retention(age=0.05, events=3, idempotency_window=60.0)


def documented(process: str) -> list[str]:
    """Return the ACL rules in the table row of this kind of process."""
    text = (ROOT / "docs" / "transports.md").read_text()
    (rules,) = re.findall(rf"^\| {process}[^|]*\| `([^`]+)` \|$", text, re.MULTILINE)
    return re.findall(r"\([^)]*\)|\S+", html.unescape(rules))


@pytest.fixture
async def admin(redis_client: redis.Redis) -> AsyncIterator[Any]:
    """A client with all permissions; it deletes the test's user at the end."""
    yield redis_client
    await redis_client.execute_command("ACL", "DELUSER", "ann")  # type: ignore[no-untyped-call]  # redis-py leaves it so


async def allow(admin: Any, rules: list[str]) -> None:
    """Create a user with these rules only."""
    await admin.execute_command("ACL", "SETUSER", "ann", "reset", "on", ">p", *rules)
    await admin.execute_command("ACL", "LOG", "RESET")


async def denied(admin: Any) -> list[bytes]:
    """Return what the server has refused since then, newest first."""
    return [
        dict(zip(entry[::2], entry[1::2], strict=True))[b"object"]
        for entry in await admin.execute_command("ACL", "LOG")
    ]


@asynccontextmanager
async def opened(transport: Transport) -> AsyncIterator[Transport]:
    """Close the transport at the end, also after an error."""
    try:
        yield transport
    finally:
        await transport.aclose()


async def publishes(url: str, owner: str) -> None:
    """Do what a function that publishes does: duplicates, trimming, rate limits and health included."""
    async with opened(RedisStreams(url, partitions=SCHEME, retention=SHORT)) as log:
        await log.ping()
        once = event("once", id="once")
        for _ in range(2):
            await log.publish([once, event("a", type="a")])
        await asyncio.sleep(2 * SHORT.age)  # so that the first events expire
        await publish(log, *range(5))
        assert isinstance(log, RedisStreams)
        await log.take("key", 1, 10, 1.0)


async def streams(url: str, owner: str) -> None:
    """Do what a process with streams does: live events, replays, a later partition, a trimmed log."""
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


async def has_checked(owner: str) -> bool:
    """Whether the process has published three messages to itself, which check its connection."""
    async with redis.Redis.from_url(owner, protocol=2) as client:
        stats = await client.info("commandstats")
    return bool(stats.get("cmdstat_publish", {}).get("calls", 0) >= 3)


async def carries(url: str, owner: str) -> None:
    """Do what a process does over Pub/Sub."""
    async with redis.Redis.from_url(owner, protocol=2) as client:
        await client.config_resetstat()
    async with (
        Hub(RedisPubSub(url, ping=0.1), SCHEME) as hub,
        Hub(RedisPubSub(owner), SCHEME) as other,
        subscribed(hub, types={"b"}) as sink,
        asyncio.timeout(5),
    ):
        await sink.ready()
        async with subscribed(hub, types={"a"}) as second:
            await second.ready()
        await other.dispatch([event("other", type="b")])
        await sink.has("other", seconds=5)
        await hub.dispatch([event("own")])
        await hub.transport.ping()
        assert isinstance(hub.transport, RedisPubSub)
        await hub.transport.take("key", 1, 10, 1.0)
        await eventually(lambda: has_checked(owner), 2)


async def does_both(url: str, owner: str) -> None:
    await publishes(url, owner)
    await streams(url, owner)


RARE = {"+ping"}  # used over Pub/Sub, only while publishing fails
ROLES: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "publishes only": publishes,
    "streams only": streams,
    "both": does_both,
    "publishes and streams": carries,
}


@pytest.mark.parametrize("process", ROLES)
async def test_the_documented_permissions_are_enough(redis_server: RedisServer, admin: Any, process: str) -> None:
    """With `~rt:*`, the documented prefix, every command was refused: keys begin with `{rt:` as well."""
    await allow(admin, documented(process))
    await ROLES[process](f"redis://ann:p@{HOST}:{redis_server.port}", redis_server.url)
    assert await denied(admin) == []


async def test_streams_work_where_reads_cannot_be_interrupted(redis_server: RedisServer, admin: Any) -> None:
    """Dragonfly and Google Memorystore refuse CLIENT UNBLOCK; a stream of a new partition waited for 30 s."""
    await allow(admin, [rule for rule in documented("streams only") if rule != "+client|unblock"])
    for _ in range(2):
        await streams(f"redis://ann:p@{HOST}:{redis_server.port}", redis_server.url)
    assert {*await denied(admin)} == {b"client|unblock"}


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.parametrize("process", ROLES)
async def test_each_documented_permission_is_needed(redis_server: RedisServer, admin: Any, process: str) -> None:
    """A stolen password can do whatever its user may do."""
    rules = documented(process)
    for rule in [rule for rule in rules if rule not in RARE]:
        await admin.flushall()
        await admin.script_flush()
        await allow(admin, [other for other in rules if other != rule])
        with suppress(TransportUnavailable, TimeoutError, AssertionError):
            await ROLES[process](f"redis://ann:p@{HOST}:{redis_server.port}", redis_server.url)
        assert await denied(admin) != [], f"nothing needs {rule}"
