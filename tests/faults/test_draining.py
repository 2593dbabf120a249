"""An instance stops while a stream opens: each stream is still closed with a reason."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import Unavailable
from tidewire.http.stream import StreamApp
from tidewire.settings.config import Settings
from tidewire.transports.memory import MemoryLog

from tests.contract.staged import StagedLog
from tests.support.sinks import subscribed
from tests.support.waiting import DEADLINE


class Client:
    """The server of an ASGI app; until `reads` is set, no part of the response can be sent."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reached = asyncio.Event()  # the app wants to send
        self.gone = asyncio.Event()
        self.sent: list[Mapping[str, Any]] = []

    async def receive(self) -> Mapping[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any], /) -> None:
        self.reached.set()
        await self.reads.wait()
        self.sent.append(message)
        if not message.get("more_body", True):
            self.gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def test_a_drain_does_not_wait_for_a_client_that_reads_nothing() -> None:
    hub = Hub(MemoryLog())
    app, client = StreamApp(hub, Settings()), Client()
    scope = {"type": "http", "method": "GET", "path": "/api/events", "query_string": b"", "headers": []}
    async with hub, asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group, subscribed(hub) as other:
        await other.ready()
        group.create_task(app(scope, client.receive, client.send))
        await client.reached.wait()
        hub.drain()
        assert other.closing == "draining"
        client.reads.set()
    assert client.body.endswith(b'event: realtime.closing\ndata: {"reason":"draining"}\n\n')
    assert client.sent[-1]["more_body"] is False


async def test_a_subscriber_that_arrives_during_a_drain_is_refused() -> None:
    log = StagedLog(MemoryLog())
    log.hold_heads()
    async with Hub(log) as hub, asyncio.timeout(DEADLINE):

        async def subscribe() -> None:
            async with subscribed(hub):
                pytest.fail("it was accepted")

        opening = asyncio.create_task(subscribe())
        await log.head_asked()
        hub.drain()
        log.release_heads()
        with pytest.raises(Unavailable):
            await opening
        assert not hub.subscribers
