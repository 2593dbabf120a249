"""A client of one Tidewire, for tests; it checks responses against openapi.json."""

import copy
import functools
import itertools
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
from openapi_schema_validator import OAS31Validator, oas31_format_checker

from tests.support.processes import Instance
from tests.support.sse_decoder import SseDecoder, SseEvent

TIMEOUT = 15.0  # seconds; only a failing test waits so long
OPENAPI = Path(__file__).parents[2] / "shared" / "tidewire" / "http" / "openapi.json"
CONTROL = ("realtime.ready", "realtime.gap", "realtime.expiring", "realtime.closing")

Json = Any
Headers = Mapping[str, str]


class Api:
    """Publishes to and reads from one instance; `token` is a subscriber's, `key` a publisher's."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.http = httpx.Client(base_url=instance.url, timeout=TIMEOUT)
        self.key: str | None = None
        self.token: str | None = None

    def acting(self, *, key: str | None = None, token: str | None = None) -> Self:
        """A client of the same instance with these credentials."""
        other = copy.copy(self)
        other.key, other.token = key, token
        return other

    def close(self) -> None:
        self.http.close()

    def post(
        self,
        content: bytes | Iterable[bytes],
        content_type: str | None = "application/json",
        headers: Headers | None = None,
    ) -> httpx.Response:
        """The answer to POST /api/publish with these bytes."""
        typed = {} if content_type is None else {"content-type": content_type}
        raw = _raw({**_bearer(self.key), **typed, **(headers or {})})
        return self.http.post("/api/publish", content=content, headers=raw)

    def publish(self, *events: Mapping[str, Json], **headers: str) -> list[dict[str, Json]]:
        """The receipts of these events, published as one batch, or alone if there is one."""
        body: Json = events[0] if len(events) == 1 else events
        response = self.post(json.dumps(body).encode(), headers=headers)
        assert response.status_code == 202, response.text
        return receipts_of(response)

    def get(self, headers: Headers | None = None, params: Mapping[str, str] | None = None) -> httpx.Response:
        """The answer to GET /api/events as a JSON page."""
        raw = _raw({"accept": "application/json", **_bearer(self.token), **(headers or {})})
        return self.http.get("/api/events", params=dict(params or {}), headers=raw)

    def page(self, **params: str) -> dict[str, Json]:
        """One page for these parameters; `from_` stands for `from`."""
        response = self.get(params=_renamed(params))
        assert response.status_code == 200, response.text
        page: dict[str, Json] = response.json()
        check(page, "Page")
        return page

    def head(self) -> str:
        """The cursor after everything appended so far; the same again proves that nothing was appended."""
        cursor = self.page(from_="now")["cursor"]
        assert isinstance(cursor, str)
        return cursor

    @contextmanager
    def stream(self, headers: Headers | None = None, /, **params: str) -> Iterator["EventStream"]:
        """A stream for these parameters; `from_` stands for `from`."""
        with self.http.stream(
            "GET",
            "/api/events",
            params=_renamed(params),
            headers=_raw({"accept": "text/event-stream", **_bearer(self.token), **(headers or {})}),
        ) as response:
            if response.status_code != 200:
                response.read()
            assert response.status_code == 200, response.text
            sent = (headers or {}).get("last-event-id", params.get("last_event_id", ""))
            yield EventStream(response, sent)


class EventStream:
    """One open stream, read as a browser reads it."""

    def __init__(self, response: httpx.Response, last_event_id: str = "") -> None:
        self.response = response
        self.raw = b""
        self.decoder = SseDecoder(last_event_id)
        self._chunks = response.iter_raw()
        self._events: Iterator[SseEvent] = itertools.chain.from_iterable(map(self._feed, self._chunks))

    def _feed(self, chunk: bytes) -> list[SseEvent]:
        self.raw += chunk
        return self.decoder.feed(chunk)

    @property
    def cursor(self) -> str:
        """The last id, also of a frame that holds nothing else: what a browser would come back with."""
        return self.decoder.last_event_id

    def next(self) -> SseEvent:
        """The next event of any kind; blocks until it arrives, and fails if the stream ends first."""
        event = next(self._events, None)
        assert event is not None, f"the stream ended after {self.raw[-500:]!r}"
        return event

    def until(self, event_type: str) -> list[SseEvent]:
        """All events up to the next one of this type, which is the last."""
        events = [self.next()]
        while events[-1].type != event_type:
            events.append(self.next())
        return events

    def ready(self) -> list[SseEvent]:
        """The frames up to `realtime.ready`; every event appended after it arrives."""
        return self.until("realtime.ready")[:-1]

    def until_cursor_moves(self) -> str:
        """Read on until a frame without an event has moved the cursor."""
        before = self.cursor
        while self.cursor == before:
            events = self._feed(next(self._chunks))
            assert not events, events
        return self.cursor

    def until_frames(self, count: int) -> None:
        """Read `count` more frames; none of them may hold an event."""
        wanted = self.raw.count(b"\n\n") + count
        while self.raw.count(b"\n\n") < wanted:
            events = self._feed(next(self._chunks))
            assert not events, events

    def rest(self) -> list[SseEvent]:
        """All events up to the end of the stream, which the server makes."""
        return list(self._events)


def data_of(events: Iterable[SseEvent]) -> list[Json]:
    """The data of the published events among these."""
    return [json.loads(event.data) for event in events if event.type not in CONTROL]


def ready_of(stream: EventStream) -> dict[str, Json]:
    """The data of the next `realtime.ready`."""
    ready: dict[str, Json] = json.loads(stream.until("realtime.ready")[-1].data)
    return ready


def receipts_of(response: httpx.Response) -> list[dict[str, Json]]:
    """The receipts in this answer."""
    body = response.json()
    check(body, "Receipts")
    receipts: list[dict[str, Json]] = body["events"]
    return receipts


def problem_of(response: httpx.Response, status: int) -> dict[str, Json]:
    """The problem in this answer, which must have this status and give nothing away."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    problem: dict[str, Json] = response.json()
    check(problem, "Problem")
    assert problem["status"] == status
    assert not re.search(r"Traceback|File \"|\.py\b|0x[0-9a-f]{6}", response.text), response.text
    return problem


def pointers_of(problem: Mapping[str, Json]) -> list[str]:
    """The JSON pointers of a problem's errors."""
    return [error["pointer"] for error in problem.get("errors", [])]


def check(value: Json, schema: str) -> None:
    """Fails unless the value matches this schema of the OpenAPI document."""
    _validator(schema).validate(value)


def unique(prefix: str = "t") -> str:
    """An event type or a user that no other test on the same log has."""
    return f"{prefix}-{uuid.uuid4().hex}"


@functools.cache
def _validator(schema: str) -> OAS31Validator:
    components = json.loads(OPENAPI.read_text())["components"]
    root = {"$ref": f"#/components/schemas/{schema}", "components": components}
    return OAS31Validator(root, format_checker=oas31_format_checker)


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def _raw(headers: Headers) -> dict[bytes, bytes]:
    """These headers as bytes: httpx takes no others than ASCII ones, and an attacker does."""
    return {name.encode(): value.encode("latin-1") for name, value in headers.items()}


def _renamed(params: Mapping[str, str]) -> dict[str, str]:
    return {name.removesuffix("_"): value for name, value in params.items()}
