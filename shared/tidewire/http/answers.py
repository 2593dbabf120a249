"""Responses over raw ASGI, without Starlette: the stream function starts faster without importing it."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from tidewire.http.sinks import AsgiSink, Connection, Send, StreamSink
from tidewire.monitoring.logs import REQUEST_ID, log_fields, requests
from tidewire.protocol.headers import encode

CLIENT_GONE = 499  # logged as the status if the client disconnected before the response, as nginx does


class Answer:
    """The response to one request: adds the request id, and records whether it has started and with which status."""

    __slots__ = ("_method", "_route", "_status", "began", "connection", "id", "send", "started")

    def __init__(self, send: Send, id: str, method: str, route: str, connection: Connection | None = None) -> None:
        """Respond through `send`; `route` is the path template for the log. `connection`: of Tidewire's own server."""
        self.send = send
        self.connection = connection
        self.id = id
        self.began = time.time()
        self.started = False
        self._method = method
        self._route = route
        self._status = 500  # logged if the app fails before it responds

    async def __call__(self, message: Any, /) -> None:
        """Send an ASGI message; the start of the response gets the request id as a header."""
        self.started = True
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"].append((REQUEST_ID.encode(), self.id.encode()))
        await self.send(message)

    def make_sink(self) -> StreamSink:
        """Return the sink for the body of a stream; the start of the response must have been sent."""
        return AsgiSink(self.send) if self.connection is None else self.connection.make_sink()

    def abandon(self) -> None:
        """Record that the client disconnected, or the server stopped, before the response."""
        if not self.started:
            self._status = CLIENT_GONE

    def note(self, level: int = logging.INFO) -> None:
        """Log a request that opened no stream."""
        if requests.isEnabledFor(level):
            fields = {"request_id": self.id, "method": self._method, "route": self._route, "status": self._status}
            requests.log(level, "request", extra=log_fields(**fields, ms=round((time.time() - self.began) * 1000, 1)))


async def respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Send a complete response."""
    length = {} if status == 204 else {"content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": encode(headers, length)})
    await send({"type": "http.response.body", "body": body, "more_body": False})
