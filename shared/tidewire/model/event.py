"""The event, and the rules that a published one must meet."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import msgspec

TYPE_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
ID_PATTERN = re.compile(r"[\x21-\x7e]{1,256}")  # visible ASCII: safe in a header, a log line and an SSE field
RESERVED_TYPES = "realtime."  # control events of the stream; a published one could pass for a gap
EVENT_SOURCE_TYPES = ("error", "open")
"""What an EventSource dispatches by itself (HTML Living Standard, section 9.2.3). An event of this type would run its
`onerror` or `onopen`, as if the connection had been lost or opened."""

RECORD_BYTES = 800  # of an event without data: its struct, texts, place and record, by CPython's own count
RECEIVED = "/webhooks/"  # the source of a received webhook begins so: a publisher with it could suppress a delivery

MAX_USER_IDS = 1_000
MAX_USER_ID_LENGTH = 256  # characters


class Event(msgspec.Struct, frozen=True):
    """An immutable fact: what happened (`type`, `data`) and who may see it (`user_ids`; None is everyone).

    `data` is the JSON text exactly as published, in UTF-8. `attributes` are CloudEvents context attributes
    (source, subject, time, extensions) that travel with the event. `traceparent` and `tracestate` (W3C Trace Context)
    name the span that handed it over last; they are there only where that was traced, and no subscriber sees them.
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
        """The scope in which an id makes a second publication a duplicate: the type, the id, and the source if given.

        The type: a key that may publish only `task-*` must not suppress an event of another type by its id. The source:
        CloudEvents 1.0 promises unique ids within one source only. The publish key is not part of it, so a retry with
        a rotated key stays a duplicate. Neither type nor id holds a space, so no two scopes are the same text.
        """
        return f"{self.type} {self.chained}"

    @property
    def chained(self) -> str:
        """What the check of a record is computed over (`reading.chain`): source and id, in every log ever written."""
        source = self.attributes.get("source")
        return f"{source} {self.id}" if source else self.id

    @property
    def kept_bytes(self) -> int:
        """About how many bytes of memory the event takes, with its record and place: what bounds are counted in.

        An audience of 1,000 users takes a hundred times what the data of a small event does. It is the same whenever it
        is asked for: what was added to a sum is what is taken off it.
        """
        size = RECORD_BYTES + len(self.data) + len(self.id) + len(self.type)
        if self.user_ids is not None:
            size += sum(8 + text_bytes(user_id) for user_id in self.user_ids)
        for name, value in self.attributes.items():
            size += 100 + text_bytes(name) + text_bytes(value)
        return size


def text_bytes(text: str) -> int:
    """How much memory a text takes in CPython: at most 4 bytes a character, and its UTF-8 once it was encoded."""
    return 60 + len(text) if text.isascii() else 90 + 6 * len(text)


def problems(type: str, id: str | None, user_ids: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    """Yield (JSON pointer, what is wrong) for every rule of docs/protocol.md that the fields break."""
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
    """Return why no event may be of this type although it is well formed; None where one may."""
    if type.startswith(RESERVED_TYPES):
        return f"must not start with {RESERVED_TYPES!r}: these names are reserved"
    if type in EVENT_SOURCE_TYPES:
        return f"must not be {type!r}: an EventSource takes it for its own event; call it by what happened"
    return None


def is_user_id(text: str) -> bool:
    """Tell whether `text` can name a user: 1 to 256 printable characters."""
    return 0 < len(text) <= MAX_USER_ID_LENGTH and not _CONTROL.search(text)


def moment(text: str) -> datetime | None:
    """Return the moment that an RFC 3339 text names, None if it is none.

    Lower case is taken (section 5.6), and the leap second (section 5.7), 23:59:60 in UTC, as the second before it.
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
        return None  # the form is right, but there is no such day or hour
    return None if leap and (in_utc.hour, in_utc.minute) != (23, 59) else found


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def trace_context(traceparent: object, tracestate: object) -> tuple[str | None, str | None]:
    """Return the two where they can be carried, None for what cannot: nothing is refused for its trace.

    W3C Trace Context: version 00 (section 3.2.2), and a tracestate of at most 512 characters (section 3.3.1.5).
    """
    if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
        return None, None
    return traceparent, tracestate if isinstance(tracestate, str) and _TRACESTATE.fullmatch(tracestate) else None


_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def new_id() -> str:
    """Make a UUIDv7 (RFC 9562 section 5.7): unique, and sorted by the millisecond it was made in."""
    value = (
        (time.time_ns() // 1_000_000) << 80
        | 0x7 << 76
        | (int.from_bytes(os.urandom(2), "big") & 0xFFF) << 64
        | 0x2 << 62
        | (int.from_bytes(os.urandom(8), "big") >> 2)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
