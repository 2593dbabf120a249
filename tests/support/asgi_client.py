"""Requests to an ASGI app in this process, with responses that are read as they come; httpx's transport cannot."""

import asyncio
from typing import Any, Self

from tests.support.sse_decoder import SseDecoder, SseEvent
from tests.support.waiting import Growing


class Request(Growing):
    """One request, from entering until leaving; then its client is gone."""

    def __init__(self, app: Any, path: str = "/api/events", query: str = "", **headers: str) -> None:
        super().__init__()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.events: list[SseEvent] = []
        self.ended = False
        self._app = app
        self._decoder = SseDecoder()
        self._gone = asyncio.Event()
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": raw}
        self._scope = {**scope, "query_string": query.encode(), "http_version": "1.1", "scheme": "http"}

    def __str__(self) -> str:
        return f"{self.status} {self.body!r}"

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await self._running

    @property
    def cursor(self) -> str:
        return self._decoder.last_event_id

    async def answered(self) -> int:
        """The status, as soon as it is known; that of a refusal after the complete response."""
        await self.until(lambda: self.status == 200 or self.ended)
        return self.status

    async def until_event(self, type: str) -> SseEvent:
        """The first event of this type."""
        await self.until(lambda: any(event.type == type for event in self.events))
        return next(event for event in self.events if event.type == type)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any, /) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self.events += self._decoder.feed(message["body"])
            self.ended = not message["more_body"]
            if self.ended:
                self._gone.set()  # as a server does once the response is complete
        self.grow()
