"""What a Redis' own settings mean for us, asked before a start and by the doctor: `INFO`, where that is allowed."""

import asyncio
import re

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.transports.redis.connection import Address, Connection, RedisFailure
from tidewire.transports.upstash.session import Session

SECONDS = 2.0  # for the connection, and for the answer

_EVICTS = (
    "Redis may evict keys when its memory is full (maxmemory-policy is {policy}): an id that is evicted is appended a"
    " second time, and events are lost before REALTIME_RETENTION; set maxmemory-policy to noeviction"
)


async def survey(url: str | None, rest_url: str | None, rest_token: str | None) -> list[str]:
    """Return warnings for the operator, of the server over TCP where there is a URL for that.

    A server that does not answer, or refuses INFO, brings none. Raises SettingsError where no start makes sense.
    """
    if url is not None:
        variable, text = "REDIS_URL", await _over_tcp(Address.parse(url))
    else:
        assert rest_url is not None
        assert rest_token is not None
        variable, text = "UPSTASH_REDIS_REST_URL", await _over_rest(rest_url, rest_token)
    if re.search(r"^redis_mode:cluster\b", text, re.MULTILINE):
        raise SettingsError(variable, "names a Redis in cluster mode, which is not supported: use one without it")
    policy = re.search(r"^maxmemory_policy:([a-z-]+)", text, re.MULTILINE)
    return [] if policy is None or policy[1] == "noeviction" else [_EVICTS.format(policy=policy[1])]


async def _over_tcp(address: Address) -> str:
    connection = Connection(address)
    try:
        await connection.connect(SECONDS)
        (reply,) = await connection.call([["INFO"]], SECONDS)
    except RedisFailure:
        return ""
    finally:
        connection.close()
    return reply.decode() if isinstance(reply, bytes) else ""


async def _over_rest(url: str, token: str) -> str:
    session = Session(url, token)
    try:
        async with asyncio.timeout(SECONDS):
            (reply,) = await session.send([["INFO"]], cold=True)
    except (TransportUnavailable, TimeoutError):
        return ""
    finally:
        await session.aclose()
    return reply if isinstance(reply, str) else ""
