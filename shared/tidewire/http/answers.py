"""Answers over raw ASGI, for what has no Starlette around it: a start of the stream function costs less without."""

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from tidewire.http.sinks import AsgiSink, Connection, Send, StreamSink
from tidewire.monitoring.logs import REQUEST_ID, requests, told
from tidewire.protocol.problem import Problem

CLIENT_GONE = 499  # in the log, as in nginx's: nobody was there to be answered


class Answer:
    """Sends, and knows whether the answer has begun: then it is too late for another one."""

    __slots__ = ("_method", "_route", "_status", "began", "connection", "id", "send", "started")

    def __init__(self, send: Send, id: str, method: str, route: str, connection: Connection | None = None) -> None:
        """Answer a request by `send`; `route` is the path as the code spells it."""
        self.send = send
        self.connection = connection  # under our own server
        self.id = id
        self.began = time.time()
        self.started = False
        self._method = method
        self._route = route
        self._status = 500  # where it fails before it answers

    async def __call__(self, message: Any, /) -> None:
        """Send, with the request's id among the headers."""
        self.started = True
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"].append((REQUEST_ID.encode(), self.id.encode()))
        await self.send(message)

    def make_sink(self) -> StreamSink:
        """Return where the body of a stream goes; the start of its answer must have been sent."""
        return AsgiSink(self.send) if self.connection is None else self.connection.make_sink()

    def abandon(self) -> None:
        """Give up: the client has gone, or the server ends."""
        if not self.started:
            self._status = CLIENT_GONE

    def note(self, level: int = logging.INFO) -> None:
        """Tell the log of a request that opened no stream."""
        if requests.isEnabledFor(level):
            fields = {"request_id": self.id, "method": self._method, "route": self._route, "status": self._status}
            requests.log(level, "request", extra=told(**fields, ms=round((time.time() - self.began) * 1000, 1)))


def encode(*headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them."""
    return [(name.encode(), value.encode("latin-1")) for group in headers for name, value in group.items()]


async def respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Send a whole answer."""
    length = {} if status == 204 else {"content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": encode(headers, length)})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def on_the_wire(problem: Problem) -> bytes:
    """Return a whole HTTP/1.1 answer, for where there is no request that an app could answer."""
    first = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"
    headers = {**problem.headers, "content-length": str(len(problem.body))}
    head = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode() + problem.body
