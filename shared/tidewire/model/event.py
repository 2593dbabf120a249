"""The event, and the rules that a published event must meet."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import msgspec

TYPE_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
ID_PATTERN = re.compile(r"[\x21-\x7e]{1,256}")  # visible ASCII: safe in a header, a log line and an SSE field
RESERVED_TYPES = "realtime."  # the stream's control events: a published one could pass for a gap
EVENT_SOURCE_TYPES = ("error", "open")
"""Types that an EventSource dispatches itself (HTML Living Standard, section 9.2.3). A published event of this type
would run `onerror` or `onopen`, as if the connection had been lost or opened."""

RECORD_BYTES = 800  # of memory for an event without data: struct, strings, position and record, measured in CPython
RECEIVED = "/webhooks/"  # prefix of a received webhook's source: a publisher that used it could suppress a delivery

MAX_USER_IDS = 1_000
MAX_USER_ID_LENGTH = 256  # characters


class Event(msgspec.Struct, frozen=True):
    """An immutable event: `type`, `data`, and its audience (`user_ids`; None is everyone).

    `data` is the JSON text exactly as published, in UTF-8. `attributes` are its CloudEvents context attributes
    (source, subject, time, extensions). `traceparent` and `tracestate` (W3C Trace Context) name the span that passed it
    on last; they are None without tracing, and no subscriber receives them.
    """

    id: str
    type: str
    data: bytes
    user_ids: tuple[str, ...] | None = None
    attributes: Mapping[str, str] = {}
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def key(self) -> str:
        """The idempotency scope: a second event with this key is a duplicate. Type, source if there is one, and id.

        The type: a key that may publish only `task-*` must not suppress an event of another type by its id. The source:
        CloudEvents 1.0 promises unique ids within one source only. The publish key is not part of it, so a retry with
        a rotated key is a duplicate. Neither type nor id holds a space, so no two scopes have the same text.
        """
        return f"{self.type} {self.chained}"

    @property
    def chained(self) -> str:
        """The input of a record's check: source and id. Existing logs depend on this text."""
        source = self.attributes.get("source")
        return f"{source} {self.id}" if source else self.id

    @property
    def kept_bytes(self) -> int:
        """The approximate bytes of memory of the event with its record and position: the unit of all memory bounds.

        An audience of 1,000 users takes a hundred times the memory of a small event's data. The value never changes, so
        a sum of them returns to zero.
        """
        size = RECORD_BYTES + len(self.data) + len(self.id) + len(self.type)
        if self.user_ids is not None:
            size += sum(8 + text_bytes(user_id) for user_id in self.user_ids)
        for name, value in self.attributes.items():
            size += 100 + text_bytes(name) + text_bytes(value)
        return size


def text_bytes(text: str) -> int:
    """Return the bytes of memory of a string in CPython: at most 4 per character, plus its cached UTF-8."""
    return 60 + len(text) if text.isascii() else 90 + 6 * len(text)


def problems(type: str, id: str | None, user_ids: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    """Yield (JSON pointer, problem) for every rule of docs/protocol.md that the fields break."""
    if not TYPE_PATTERN.fullmatch(type):
        yield "/type", "must be 1 to 128 characters of A-Z a-z 0-9 . _ -"
    elif (problem := reserved(type)) is not None:
        yield "/type", problem
    if id is not None and not ID_PATTERN.fullmatch(id):
        yield "/id", "must be 1 to 256 visible ASCII characters (no spaces)"
    if user_ids is None:
        return
    if not user_ids:
        yield "/userIds", "must not be empty: leave it out to reach everyone"
    if len(user_ids) > MAX_USER_IDS:
        yield "/userIds", f"must name at most {MAX_USER_IDS:,} users, not {len(user_ids):,}"
        return
    for index, user_id in enumerate(user_ids):
        if not is_user_id(user_id):
            yield (
                f"/userIds/{index}",
                f"must be 1 to {MAX_USER_ID_LENGTH} characters without control characters",
            )


def reserved(type: str) -> str | None:
    """Return why a well-formed type is not allowed, None if it is allowed."""
    if type.startswith(RESERVED_TYPES):
        return f"must not start with {RESERVED_TYPES!r}: these names are reserved"
    if type in EVENT_SOURCE_TYPES:
        return f"must not be {type!r}: an EventSource takes it for its own event; choose another name"
    return None


def is_user_id(text: str) -> bool:
    """Whether `text` is a valid user id: 1 to 256 characters without control characters."""
    return 0 < len(text) <= MAX_USER_ID_LENGTH and not _CONTROL.search(text)


def moment(text: str) -> datetime | None:
    """Return the time of an RFC 3339 text, None if it is not one.

    Lower case is accepted (section 5.6). A leap second (section 5.7), 23:59:60 in UTC, becomes the second before it.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    leap = clock.endswith(":60")
    try:
        found = datetime.fromisoformat(f"{day}T{clock[:-2] + '59' if leap else clock}{fraction or ''}{zone.upper()}")
        in_utc = found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None  # well formed, but no such day or hour
    return None if leap and (in_utc.hour, in_utc.minute) != (23, 59) else found


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def trace_context(traceparent: object, tracestate: object) -> tuple[str | None, str | None]:
    """Return the trace context, with None in place of an invalid value: no event is refused for its trace.

    W3C Trace Context: version 00 (section 3.2.2), and a tracestate of at most 512 characters (section 3.3.1.5).
    """
    if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
        return None, None
    return traceparent, tracestate if isinstance(tracestate, str) and _TRACESTATE.fullmatch(tracestate) else None


_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562 section 5.7): unique, and sortable by its millisecond."""
    value = (
        (time.time_ns() // 1_000_000) << 80
        | 0x7 << 76
        | (int.from_bytes(os.urandom(2), "big") & 0xFFF) << 64
        | 0x2 << 62
        | (int.from_bytes(os.urandom(8), "big") >> 2)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
