"""The subscribe request: the query and the Last-Event-ID header of GET /api/events, parsed and checked."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from tidewire.errors import InvalidRequest
from tidewire.model.cursor import Start
from tidewire.model.event import TYPE_PATTERN, is_user_id, moment

MAX_TYPES = 100
MAX_FIELDS = 150  # each type may be a field of its own (`types=a&types=b`)
MAX_WAIT = 20.0  # seconds: below the 26 s after which Netlify's rewrites give up


class SubscribeRequest(msgspec.Struct, frozen=True):
    """The parsed request. `wait` is in seconds; `user_id` counts only if authentication is off."""

    types: frozenset[str] | None
    start: Start
    format: Literal["data", "cloudevents"]
    wait: float
    user_id: str | None
    ticket: str | None = None


RESUME = ("last_event_id", "lastEventId", "lastEventID", "Last-Event-ID")
"""Names of the cursor in the query: ours, and those that EventSource polyfills add when they reconnect."""

_TYPES = re.compile(r"types(\[\d{0,3}\])?", re.ASCII)
"""`types=a,b`, and how libraries encode a list: `types=a&types=b`, `types[]=a&types[]=b`, `types[0]=a&types[1]=b`."""


def parse_subscribe_request(query_string: bytes, headers: Mapping[str, str]) -> SubscribeRequest:
    """Return the parsed request; Last-Event-ID overrides a cursor in the query. Raises InvalidRequest."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise InvalidRequest(f"The query is not percent-encoded UTF-8, or has over {MAX_FIELDS} fields") from None
    query: dict[str, str] = {}
    types: list[str] = []
    cursors: set[str] = set()
    for name, value in pairs:
        if _TYPES.fullmatch(name):
            types += value.split(",")
        elif name in RESUME:
            cursors.add(value)
        elif name in query:
            raise InvalidRequest(f"The query has {name!r} twice" if len(name) < 40 else "The query has a field twice")
        else:
            query[name] = value
    return SubscribeRequest(
        _types(types),
        Start(headers.get("last-event-id") or _cursor(cursors), _since(query.get("from", "now"))),
        _format(query.get("format", "data")),
        _wait(query.get("wait", "0")),
        _user_id(query.get("userId")),
        query.get("ticket"),
    )


def _cursor(cursors: set[str]) -> str | None:
    """Return the cursor of the query, None if there is none; an empty value means none."""
    named = cursors - {""}
    if len(named) > 1:
        raise InvalidRequest(f"The query has different cursors: {', '.join(RESUME)} are one field: send one of them")
    return next(iter(named), None)


def _types(types: Sequence[str]) -> frozenset[str] | None:
    if not types:
        return None
    if len(types) > MAX_TYPES:
        raise InvalidRequest(f"types: at most {MAX_TYPES}, not {len(types)}")
    for name in types:
        if not TYPE_PATTERN.fullmatch(name):
            raise InvalidRequest("types: a comma-separated list of event types (A-Z a-z 0-9 . _ -, 1 to 128 each)")
    return frozenset(types)


def _since(text: str) -> Literal["now", "earliest"] | int:
    if text == "now":
        return "now"
    if text == "earliest":
        return "earliest"
    # RFC 3339 allows a space between date and time (section 5.6); a "+" that was not percent-encoded arrives as one.
    spaced = text[:10] + text[10:11].replace(" ", "T") + text[11:].replace(" ", "+")
    found = moment(spaced)
    try:
        if found is not None:
            return max(0, min(int(found.timestamp() * 1000), int(time.time() * 1000) + 86_400_000))
    except OverflowError:
        pass
    raise InvalidRequest("from: must be now, earliest, or an RFC 3339 time such as 2026-11-23T10:00:00Z")


def _format(text: str) -> Literal["data", "cloudevents"]:
    if text == "data":
        return "data"
    if text == "cloudevents":
        return "cloudevents"
    raise InvalidRequest("format: must be data or cloudevents")


def _wait(text: str) -> float:
    if re.fullmatch(r"\d{1,3}(\.\d{1,3})?", text, re.ASCII) and float(text) <= MAX_WAIT:
        return float(text)
    raise InvalidRequest(f"wait: must be a number of seconds from 0 to {MAX_WAIT:g}")


def _user_id(text: str | None) -> str | None:
    if text is not None and not is_user_id(text):
        raise InvalidRequest("userId: must be 1 to 256 characters without control characters")
    return text
