"""A Redis server's own settings, read by INFO at the start and by the doctor, and their effect on the log."""

import asyncio
from collections.abc import Mapping

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.transports.errors import StoreError
from tidewire.transports.redis.address import Servers
from tidewire.transports.redis.topology import TIMEOUT, call, find_servers, parse_info
from tidewire.transports.upstash.session import Session

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

    Each node of a cluster is asked. There are none if the server does not answer, or refuses INFO. Raises SettingsError
    if the log cannot work with it.
    """
    if url is not None:
        servers = Servers.parse(url)
        if servers.kind == "sentinel":
            return await _behind_sentinels(servers)
        return _check("REDIS_URL", await _over_tcp(servers), is_cluster=servers.kind == "cluster")
    assert rest_url is not None
    assert rest_token is not None
    return _check("UPSTASH_REDIS_REST_URL", {"": parse_info(await _over_rest(rest_url, rest_token))}, is_cluster=False)


def _check(variable: str, found: Mapping[str, Mapping[str, str]], *, is_cluster: bool) -> list[str]:
    evicting: dict[str, list[str]] = {}
    for name, info in found.items():
        mode = info.get("redis_mode", info.get("server_mode"))  # Redis, Valkey
        if mode == "cluster" and not is_cluster:
            raise SettingsError(variable, _CLUSTER[variable])
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            evicting.setdefault(policy, []).append(name)
    return [
        (f"{', '.join(names)}: " if is_cluster else "") + _EVICTS.format(policy=policy)
        for policy, names in evicting.items()
    ]


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
    try:
        (reply,) = await call(primary, [["INFO"]])
    except StoreError:
        return [_UNREACHABLE]
    return _check("REDIS_URL", {"": parse_info(reply)}, is_cluster=False)


async def _over_tcp(servers: Servers) -> Mapping[str, Mapping[str, str]]:
    """Return the INFO of each server that answers, by its name."""
    try:
        found = await find_servers(servers)
    except StoreError:
        return {}
    replies = await asyncio.gather(*(call(server.address, [["INFO"]]) for server in found), return_exceptions=True)
    infos: dict[str, Mapping[str, str]] = {}
    for server, reply in zip(found, replies, strict=True):
        if isinstance(reply, StoreError):
            continue
        if isinstance(reply, BaseException):
            raise reply
        infos[server.name] = parse_info(reply[0])
    return infos


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
