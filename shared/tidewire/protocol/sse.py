"""Server-sent events: frames by the WHATWG rules (HTML Living Standard, section 9.2).

A `Format` encodes records and control events. The formats here are stateless: a frame encoded once serves every
subscriber.
"""

import functools
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

from tidewire.model.cursor import encode_one, names_one
from tidewire.model.record import Gap, Record
from tidewire.model.record_page import RecordPage

READY, GAP, CLOSING = "realtime.ready", "realtime.gap", "realtime.closing"
EXPIRING = "realtime.expiring"

ClosingReason = Literal["max-age", "token-expired", "revoked", "draining", "slow-consumer"]

SOURCE = "tidewire"  # the CloudEvents `source` of an event published without one


class Format(Protocol):
    """Encodes what one kind of subscriber receives; `cursor` is the position after the frame.

    `cursor` is None while the position is unknown: the client then keeps its last id.
    """

    def record(self, cursor: str | None, record: Record) -> bytes:
        """Return the bytes of one event."""

    def gap(self, cursor: str, gap: Gap) -> bytes:
        """Return the bytes that announce a loss."""

    def ready(self, cursor: str, recovered: bool, replayed: int) -> bytes:
        """Return the bytes that end the replay: the subscriber is live from here on."""

    def heartbeat(self, cursor: str | None) -> bytes:
        """Return the bytes that move the cursor past events for other subscribers."""

    def expiring(self, seconds: int) -> bytes:
        """Return the bytes that say for how long the token is still valid; without a cursor."""

    def closing(self, reason: ClosingReason) -> bytes:
        """Return the bytes that say why the server ends the stream; without a cursor."""


def frame(cursor: str | None = None, event: str | None = None, data: bytes | None = None) -> bytes:
    """Return one SSE frame; a field that is None is omitted.

    No value can forge a field: control characters are removed from `cursor` and `event`, and each line end in `data`
    (JSON allows them between tokens) starts another `data:` line.
    """
    parts = []
    if cursor is not None:
        parts.append(b"id: %b\n" % _one_line(cursor))
    if event is not None:
        parts.append(_event_field(event))
    if data is not None:
        parts.append(b"data: %b\n" % _data_lines(data))
    parts.append(b"\n" if parts else b":\n\n")  # a comment: only keeps the connection open
    return b"".join(parts)


def retry(milliseconds: int) -> bytes:
    """Return the frame that sets the client's reconnection delay."""
    return b"retry: %d\n\n" % milliseconds


def _data_lines(data: bytes) -> bytes:
    if b"\n" in data or b"\r" in data:
        return b"\ndata: ".join(_LINE_END.split(data))
    return data


@functools.lru_cache(maxsize=256)
def _event_field(name: str) -> bytes:
    return b"event: %b\n" % _one_line(name)


_LINE_END = re.compile(rb"\r\n|\n|\r")
_CONTROL = re.compile(r"[\x00-\x1f]")


def _one_line(text: str) -> bytes:
    return (text if text.isprintable() else _CONTROL.sub("", text)).encode(errors="replace")


class DataFormat:
    """`format=data`: SSE events named by the event's type, with `data` as published."""

    def record(self, cursor: str | None, record: Record) -> bytes:
        """Return the event, named by its type."""
        return frame(cursor, record.event.type, record.event.data)

    def records(self, records: RecordPage, indexes: Iterable[int]) -> list[bytes]:
        """Return the frames of these records, with cursors of their one partition."""
        names, moment, prefix = names_one(records.partition, records.epoch).encode(), b"", b""
        values, entries, first, one_line = records.values, records.stored, records.first, records.one_line
        fields: dict[str, bytes] = {}
        frames = []
        for index in indexes:
            value, stored = values[index], entries[index]
            if (field := fields.get(stored.type)) is None:
                field = fields[stored.type] = b"\n%bdata: " % _event_field(stored.type)
            if value[8:21] != moment:  # many records share a millisecond
                moment = value[8:21]
                prefix = b"id: %b.%x." % (names, int(moment))
            data = stored.data if one_line else _data_lines(bytes(stored.data))
            frames.append(b"%b%x-%b%b%b\n\n" % (prefix, first + index, value[:8], field, data))
        return frames

    def gap(self, cursor: str, gap: Gap) -> bytes:
        """Return the gap control event."""
        return frame(cursor, GAP, msgspec.json.encode({"reason": gap.reason, "recovered": False}))

    def ready(self, cursor: str, recovered: bool, replayed: int) -> bytes:
        """Return the ready control event, whose id is the subscriber's position."""
        return frame(cursor, READY, msgspec.json.encode({"recovered": recovered, "replayed": replayed}))

    def heartbeat(self, cursor: str | None) -> bytes:
        """Return a frame with an id only: it dispatches nothing and moves the cursor."""
        return frame(cursor)

    def expiring(self, seconds: int) -> bytes:
        """Return the warning that the token ends soon; the id stays that of the last event written."""
        return frame(None, EXPIRING, msgspec.json.encode({"seconds": seconds}))

    def closing(self, reason: ClosingReason) -> bytes:
        """Return the closing control event, without an id: the cursor stays that of the last event."""
        return frame(None, CLOSING, msgspec.json.encode({"reason": reason}))


class CloudEventsFormat(DataFormat):
    """`format=cloudevents`: unnamed SSE events with CloudEvents 1.0 JSON objects; control events keep their names."""

    def record(self, cursor: str | None, record: Record) -> bytes:
        """Return the event as an unnamed SSE event."""
        return frame(cursor, None, cloudevent(record))

    def records(self, records: RecordPage, indexes: Iterable[int]) -> list[bytes]:
        """Return the frames of these records."""
        return [
            self.record(encode_one(records.partition, records.position(index)), records[index]) for index in indexes
        ]


def cloudevent(record: Record) -> bytes:
    """Return the record as a CloudEvents 1.0 JSON object, without the audience."""
    event = record.event
    attributes: dict[str, str] = {
        "specversion": "1.0",
        "id": event.id,
        "source": SOURCE,
        "type": event.type,
        "datacontenttype": "application/json",
    }
    if record.position is not None:
        attributes["time"] = rfc3339(record.position.time)
    attributes.update(event.attributes)
    return msgspec.json.encode(attributes)[:-1] + b',"data":' + event.data + b"}"


def rfc3339(milliseconds: int) -> str:
    """Return a time in ms since 1970 as RFC 3339 text in UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


DATA = DataFormat()
CLOUDEVENTS = CloudEventsFormat()
