"""The stream process lives long: it follows rotated secrets, and its clients lose nothing."""

import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tidewire.http import stream_server
from tidewire.http.stream_server import StreamServer
from tidewire.primitives import aws_clients
from tidewire.settings.secrets import EAGER_AGE, MAX_AGE
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import publish
from tests.integration.aws.test_parameters import put
from tests.support.asgi_client import Request
from tests.support.clocks import Clock
from tests.support.processes import MakeRedis
from tests.support.tokens import token
from tests.support.waiting import eventually

OLD, NEW = "old-secret-" * 4, "new-secret-" * 4
NAMES = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": "ssm:/redis", "REALTIME_JWT_SECRET": "ssm:/jwt"}

MakeServer = Callable[..., StreamServer]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def serve(clock: Clock) -> AsyncIterator[MakeServer]:
    """Starts the stream's app with names of secrets."""
    servers: list[StreamServer] = []

    def make(**names: str) -> StreamServer:
        servers.append(StreamServer({**NAMES, **names}, clock))
        return servers[-1]

    yield make
    for server in servers:
        await server.aclose()


@pytest.fixture
def secrets(redis_url: str) -> None:
    put("/jwt", OLD)
    put("/redis", redis_url)


def ask(app: StreamServer, secret: str, query: str = "") -> Request:
    return Request(app, query=query, authorization=f"Bearer {token({'sub': 'u1', 'exp': 4_000_000_000}, secret)}")


async def status(app: StreamServer, secret: str) -> int:
    async with ask(app, secret) as request:
        return await request.answered()


async def test_open_streams_survive_a_rotated_signing_secret(
    serve: MakeServer, clock: Clock, redis_url: str, secrets: None
) -> None:
    server, log = serve(), RedisStreams(redis_url)
    async with ask(server, OLD) as before:
        await before.until_event("realtime.ready")
        await publish(log, 0)
        put("/jwt", NEW)
        clock.advance(MAX_AGE - 1)
        assert await status(server, NEW) == 401, "what was read is kept for a while"
        clock.advance(1)
        async with ask(server, NEW) as other:
            assert await other.answered() == 200
        assert await status(server, OLD) == 401
        hub = server.hub
        clock.advance(MAX_AGE)
        assert await status(server, NEW) == 200
        assert server.hub is hub, "read again and found the same: nobody is sent away"
        closing = await before.until_event("realtime.closing")
        assert closing.data == '{"reason":"draining"}'
    await publish(log, 1)
    async with ask(server, NEW, f"last_event_id={before.cursor}") as after:
        await after.until_event("realtime.ready")
        await publish(log, 2)
        await after.until(lambda: after.events[-1].data == "2")
    await log.aclose()
    received = [event.data for event in (*before.events, *after.events) if not event.type.startswith("realtime.")]
    assert received == ["0", "1", "2"]


async def test_a_rotation_needs_no_request_to_take_effect(
    serve: MakeServer, clock: Clock, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaked secret stops working even if no other client connects."""
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 0.01)
    server = serve()
    async with ask(server, OLD) as thief:
        await thief.until_event("realtime.ready")
        put("/jwt", NEW)
        clock.advance(MAX_AGE)
        await thief.until(lambda: thief.ended)
    assert await status(server, OLD) == 401


async def test_concurrent_requests_read_secrets_once(
    serve: MakeServer, clock: Clock, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one of them waits."""
    reads, go_on = [], threading.Event()
    client = aws_clients.client("ssm")

    def held(params: Any, **_: Any) -> None:
        reads.append(params)
        if len(reads) > 1:
            assert go_on.wait(10)

    client.meta.events.register("provide-client-params.ssm.GetParameters", held)
    monkeypatch.setattr(aws_clients, "client", lambda *_: client)
    server = serve()
    assert [await status(server, OLD) for _ in range(5)] == [200] * 5
    assert len(reads) == 1
    put("/jwt", NEW)
    clock.advance(MAX_AGE)
    async with ask(server, NEW) as first:
        await eventually(lambda: len(reads) == 2)
        assert [await status(server, OLD) for _ in range(5)] == [200] * 5
        assert first.status == 0
        go_on.set()
        assert await first.answered() == 200
    assert await status(server, NEW) == 200
    assert len(reads) == 2


async def test_a_moved_store_is_found_by_requests_and_streams(
    serve: MakeServer, clock: Clock, make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_redis(aof=False), make_redis(aof=False)
    put("/jwt", OLD)
    put("/redis", old.url)
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 60.0)
    asked, waiting = serve(), serve()
    assert await status(asked, OLD) == 200
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 0.01)
    async with ask(waiting, OLD) as request:
        await request.until_event("realtime.ready")
        put("/redis", new.url)
        clock.advance(EAGER_AGE)
        old.kill()
        assert [await status(asked, OLD) for _ in range(2)] == [503, 200]
        await request.until_event("realtime.closing")
    assert await status(waiting, OLD) == 200


async def test_an_invalid_rotated_value_changes_nothing(
    serve: MakeServer, clock: Clock, secrets: None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, without the value."""
    server = serve()
    assert await status(server, OLD) == 200
    put("/redis", "hunter2://")
    clock.advance(MAX_AGE)
    with caplog.at_level(logging.WARNING):
        assert [await status(server, OLD) for _ in range(3)] == [200] * 3
    assert caplog.text.count("keeping the previous settings: REDIS_URL: ") == 1
    assert "hunter2" not in caplog.text
    put("/redis", server.settings.redis_url or "")
    put("/jwt", NEW)
    clock.advance(MAX_AGE)
    assert await status(server, NEW) == 200
