"""`tidewire.create_app`: the whole app under any ASGI server."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import tidewire

from tests.support.api import problem_of

OPEN = {"REALTIME_TRANSPORT": "memory"}
UNREACHABLE = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": "redis://127.0.0.1:9", "REALTIME_AUTH": "none"}


class Lifespan:
    """The lifespan protocol, as a server speaks it with an app."""

    def __init__(self, app: Any) -> None:
        self._received: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._sent: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._running = asyncio.create_task(app({"type": "lifespan"}, self._received.get, self._sent.put))

    async def run(self, phase: str) -> Mapping[str, Any]:
        """Begin a phase, and return the app's answer."""
        await self._received.put({"type": f"lifespan.{phase}"})
        return await self._sent.get()


async def test_the_app_serves_the_api_and_the_console() -> None:
    app = tidewire.create_app(OPEN)
    lifespan = Lifespan(app)
    assert await lifespan.run("startup") == {"type": "lifespan.startup.complete"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        published = await client.post("/api/publish", json={"type": "t", "data": 1})
        page = await client.get("/api/events?from=earliest", headers={"accept": "application/json"})
        console = await client.get("/")
    assert (published.status_code, console.status_code) == (202, 200)
    assert [event["data"] for event in page.json()["events"]] == [1]
    assert await lifespan.run("shutdown") == {"type": "lifespan.shutdown.complete"}


async def test_a_draining_app_refuses_streams() -> None:
    app = tidewire.create_app(OPEN)
    app.drain()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        problem_of(await client.get("/api/events"), 503)
    await app.aclose()


async def test_an_app_starts_without_its_store() -> None:
    """As every process does: the store may be back a moment later."""
    lifespan = Lifespan(tidewire.create_app(UNREACHABLE))
    assert await lifespan.run("startup") == {"type": "lifespan.startup.complete"}
    assert await lifespan.run("shutdown") == {"type": "lifespan.shutdown.complete"}


async def test_a_websocket_is_refused() -> None:
    app, sent = tidewire.create_app(OPEN), asyncio.Queue[Mapping[str, Any]]()
    await app({"type": "websocket", "path": "/api/events"}, asyncio.Queue[Any]().get, sent.put)
    assert sent.get_nowait() == {"type": "websocket.close"}
    await app.aclose()


def test_a_wrong_setting_is_an_error() -> None:
    with pytest.raises(tidewire.SettingsError, match="REALTIME_TRANSPORT: must be one of"):
        tidewire.create_app({"REALTIME_TRANSPORT": "carrier-pigeon"})
