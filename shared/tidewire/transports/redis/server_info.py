"""A Redis server's own settings, read by INFO at the start and by the doctor, and their effect on the log."""

import asyncio
import re
from collections.abc import Sequence

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.transports.errors import StoreError
from tidewire.transports.redis.address import Address, Servers
from tidewire.transports.redis.connection import Connection
from tidewire.transports.redis.pool import FixedAddress, Locator, make_locator
from tidewire.transports.upstash.session import Session

TIMEOUT = 2.0  # seconds for the connection, and again for the reply

_EVICTS = (
    "Redis may evict keys when its memory is full (maxmemory-policy is {policy}): an event whose id was evicted is"
    " appended a second time, and events are lost before REALTIME_RETENTION; set maxmemory-policy to noeviction"
)

_CLUSTER = {
    "REDIS_URL": "names a Redis in cluster mode: begin the URL with redis+cluster:// or rediss+cluster://",
    "UPSTASH_REDIS_REST_URL": "names a Redis in cluster mode, which has no REST API: set REDIS_URL=redis+cluster://…",
}


async def check_server(url: str | None, rest_url: str | None, rest_token: str | None) -> list[str]:
    """Return warnings for the operator; it is queried over TCP if there is a URL for that.

    There are none if the server does not answer, or refuses INFO. Raises SettingsError if the log cannot work with it.
    """
    if url is not None:
        servers = Servers.parse(url)
        if servers.kind == "cluster":
            return _check_nodes([text for text in await _of_all(servers.seeds) if text])
        variable, text = "REDIS_URL", await _over_tcp(make_locator(url))
    else:
        assert rest_url is not None
        assert rest_token is not None
        variable, text = "UPSTASH_REDIS_REST_URL", await _over_rest(rest_url, rest_token)
    if _is_cluster(text):
        raise SettingsError(variable, _CLUSTER[variable])
    return _evictions([text])


def _check_nodes(texts: Sequence[str]) -> list[str]:
    if any(not _is_cluster(text) for text in texts):
        raise SettingsError("REDIS_URL", "names a Redis without cluster mode: begin the URL with redis:// or rediss://")
    return _evictions(texts)


def _is_cluster(info: str) -> bool:
    return re.search(r"^(redis|server)_mode:cluster\b", info, re.MULTILINE) is not None  # Redis, Valkey


def _evictions(texts: Sequence[str]) -> list[str]:
    found = [re.search(r"^maxmemory_policy:([a-z-]+)", text, re.MULTILINE) for text in texts]
    policies = sorted({policy[1] for policy in found if policy is not None} - {"noeviction"})
    return [_EVICTS.format(policy=policy) for policy in policies]


async def _of_all(addresses: Sequence[Address]) -> list[str]:
    return await asyncio.gather(*(_over_tcp(FixedAddress(address)) for address in addresses))


async def _over_tcp(locator: Locator) -> str:
    connection: Connection | None = None
    try:
        connection = Connection(await locator.locate())
        await connection.connect(TIMEOUT)
        (reply,) = await connection.call([["INFO"]], TIMEOUT)
    except StoreError:
        return ""
    finally:
        if connection is not None:
            connection.close()
        await locator.aclose()
    return reply.decode() if isinstance(reply, bytes) else ""


async def _over_rest(url: str, token: str) -> str:
    session = Session(url, token)
    try:
        async with asyncio.timeout(TIMEOUT):
            (reply,) = await session.send([["INFO"]], cold=True)
    except (TransportUnavailable, TimeoutError):
        return ""
    finally:
        await session.aclose()
    return reply if isinstance(reply, str) else ""
