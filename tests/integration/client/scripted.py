"""A scripted server in virtual time: each request gets the next response of the script."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import httpx
from tidewire.client import Item, State, Subscription, subscribe

from tests.support.clocks import pass_time

URL = "http://tidewire.test/api/events"
SILENCE = 3_600.0  # seconds; longer than any patience

Step = bytes | float
"""Bytes to send, or seconds to wait."""


class Body(httpx.AsyncByteStream):
    """A body with delays."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = steps
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self._steps:
            if isinstance(step, bytes):
                yield step
            else:
                await pass_time(step)

    async def aclose(self) -> None:
        self.closed = True


Answer = httpx.Response | Exception


class Server:
    """Responds to each request with the next of its responses; records the requests, and their times in `at`."""

    def __init__(self, *answers: Answer | Callable[[], Answer]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.at: list[float] = []
        self.states: list[State] = []
        self.http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.at.append(asyncio.get_running_loop().time())
        answer = self._answers.pop(0) if self._answers else httpx.Response(204)
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def subscribe(self, **options: Any) -> Subscription:
        """A subscription to this server that records its states."""
        return subscribe(URL, http=self.http, on_state=self.states.append, **options)

    @property
    def waits(self) -> list[State]:
        """The waiting states."""
        return [state for state in self.states if state.name == "waiting"]


def stream(*steps: Step) -> httpx.Response:
    """A streaming response."""
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(steps))


def page(*events: bytes, cursor: str, gap: str | None = None) -> httpx.Response:
    """A JSON page."""
    announced = None if gap is None else {"reason": gap, "recovered": False}
    body = (
        b'{"events":['
        + b",".join(events)
        + b'],"cursor":"'
        + cursor.encode()
        + b'","gap":'
        + json.dumps(announced).encode()
    )
    return httpx.Response(200, headers={"content-type": "application/json"}, content=body + b"}")


def problem(status: int, detail: str = "no", headers: Mapping[str, str] | None = None) -> httpx.Response:
    """An error response."""
    body = json.dumps({"title": "Error", "status": status, "detail": detail})
    typed = {"content-type": "application/problem+json", **(headers or {})}
    return httpx.Response(status, headers=typed, content=body)


def cloudevent(name: str) -> bytes:
    """An event with its name as data."""
    return json.dumps({"specversion": "1.0", "id": name, "source": "s", "type": "t", "data": name}).encode()


def event(cursor: str, name: str) -> bytes:
    """The frame of such an event."""
    return b"id: " + cursor.encode() + b"\ndata: " + cloudevent(name) + b"\n\n"


def control(kind: str, cursor: str = "", **data: Any) -> bytes:
    """The frame of a control event."""
    place = f"id: {cursor}\n" if cursor else ""
    return f"{place}event: realtime.{kind}\ndata: {json.dumps(data)}\n\n".encode()


def ready(cursor: str, replayed: int = 0) -> bytes:
    """The frame that ends the replay."""
    return control("ready", cursor, recovered=True, replayed=replayed)


async def take(subscription: Subscription, count: int) -> list[Item]:
    """The next items."""
    return [await anext(subscription) for _ in range(count)]


def position(request: httpx.Request) -> tuple[str | None, str | None]:
    """The position of a request: its Last-Event-ID and its `from`."""
    return request.headers.get("last-event-id"), request.url.params.get("from")
