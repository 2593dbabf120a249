"""In an outage, many calls attempt few connections, and no call waits long."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.primitives.circuit_breaker import LOSSES
from tidewire.transports.base import Transport
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.redis.streams import RedisStreams
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.acts import publish
from tests.support.processes import HOST

CALLS = 500
ATTEMPTS = 3  # connections per call

MAKE: dict[str, Callable[[int], Transport]] = {
    "redis": lambda port: RedisStreams(f"redis://{HOST}:{port}"),
    "upstash": lambda port: UpstashRest(f"http://{HOST}:{port}", "token"),
    "postgres": lambda port: PostgresLog(f"postgres://u@{HOST}:{port}/d?sslmode=disable"),
}


class Refusing:
    """Accepts connections and closes them at once, as a proxy in front of a store that is away."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.transport.abort()

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[Self]:
        """Listen until the context ends."""
        server = cls()
        async with await asyncio.start_server(server.take, HOST, 0) as listening:
            server.port = listening.sockets[0].getsockname()[1]
            yield server


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
