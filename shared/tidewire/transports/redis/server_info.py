"""A Redis server's own settings, read by INFO at the start and by the doctor, and their effect on the log."""

import asyncio
import re
from collections.abc import Sequence

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.transports.errors import StoreError
from tidewire.transports.redis.address import Address, Servers
from tidewire.transports.redis.connection import Connection
from tidewire.transports.upstash.session import Session

TIMEOUT = 2.0  # seconds for the connection, and again for the reply

_EVICTS = (
    "Redis may evict keys when its memory is full (maxmemory-policy is {policy}): an event whose id was evicted is"
    " appended a second time, and events are lost before REALTIME_RETENTION; set maxmemory-policy to noeviction"
)

_UNKNOWN = "names a primary that the sentinels do not know: end the URL with the name of their `sentinel monitor` line"
_UNREACHABLE = (
    "this process cannot reach the primary that the sentinels name: it is down, or they name it by an address that is"
    " only valid in its own network (sentinel monitor, replica-announce-ip)"
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
        if servers.kind == "sentinel":
            return await _behind_sentinels(servers)
        variable, text = "REDIS_URL", await _over_tcp(servers.seeds[0]) or ""
    else:
        assert rest_url is not None
        assert rest_token is not None
        variable, text = "UPSTASH_REDIS_REST_URL", await _over_rest(rest_url, rest_token)
    if _is_cluster(text):
        raise SettingsError(variable, _CLUSTER[variable])
    return _evictions([text])


async def _behind_sentinels(servers: Servers) -> list[str]:
    from tidewire.transports.redis.sentinel import Sentinels, UnknownService  # for such a URL alone

    sentinels = Sentinels(servers)
    try:
        primary = await sentinels.locate()
    except UnknownService:
        raise SettingsError("REDIS_URL", _UNKNOWN) from None
    except StoreError:
        return []
    finally:
        await sentinels.aclose()
    text = await _over_tcp(primary)
    if text is None:
        return [_UNREACHABLE]
    if _is_cluster(text):
        raise SettingsError("REDIS_URL", _CLUSTER["REDIS_URL"])
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


async def _of_all(addresses: Sequence[Address]) -> list[str | None]:
    return await asyncio.gather(*map(_over_tcp, addresses))


async def _over_tcp(address: Address) -> str | None:
    """Return INFO: '' if the server refuses it, None if there is no answer."""
    connection = Connection(address)
    try:
        await connection.connect(TIMEOUT)
        (reply,) = await connection.call([["INFO"]], TIMEOUT)
    except StoreError:
        return None
    finally:
        connection.close()
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
