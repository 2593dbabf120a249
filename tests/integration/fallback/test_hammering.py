"""In an outage, many calls attempt few connections, and no call waits long."""

import time
from collections.abc import AsyncIterator, Callable

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.primitives.circuit_breaker import LOSSES
from tidewire.transports.base import Transport
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.redis.streams import RedisStreams
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.acts import publish
from tests.support.processes import HOST
from tests.support.proxy import Refusing

CALLS = 500
ATTEMPTS = 3  # connections per call

MAKE: dict[str, Callable[[int], Transport]] = {
    "redis": lambda port: RedisStreams(f"redis://{HOST}:{port}"),
    "upstash": lambda port: UpstashRest(f"http://{HOST}:{port}", "token"),
    "postgres": lambda port: PostgresLog(f"postgres://u@{HOST}:{port}/d?sslmode=disable"),
}


@pytest.fixture
async def refusing() -> AsyncIterator[Refusing]:
    async with Refusing.start() as server:
        yield server


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
async def test_many_calls_in_an_outage_attempt_few_connections(
    refusing: Refusing, make: Callable[[int], Transport]
) -> None:
    transport = make(refusing.port)
    began = time.monotonic()
    for number in range(CALLS):
        with pytest.raises(TransportUnavailable):
            await publish(transport, number)
    # One probe per interval; the intervals are random.
    seconds = time.monotonic() - began
    assert refusing.connections <= ATTEMPTS * (LOSSES + 10 + 10 * seconds)
    assert refusing.connections < CALLS / 4
    await transport.aclose()
