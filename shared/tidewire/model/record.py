"""The items of a log: a Record, or a Gap for missing records; and the stored form of a record's event."""

from typing import Literal, NamedTuple

import msgspec

from tidewire.model.cursor import Position
from tidewire.model.event import Event

GapReason = Literal["trimmed", "epoch", "no-log", "invalid"]


class Record(NamedTuple):
    """An event with its position in the log; None if no log keeps it."""

    event: Event
    partition: str
    position: Position | None


class Gap(NamedTuple):
    """Announced loss: records between the reader's position and `position` will never be read.

    Reading resumes at `position` in `partition`; None if no log keeps positions. Reasons: `trimmed` (older than the
    retention), `epoch` (the log is not the one of the cursor), `invalid` (an unreadable cursor), `no-log` (a transport
    without a log was unavailable).
    """

    reason: GapReason
    partition: str
    position: Position | None


class StoredEvent(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True, gc=False):
    """An event as logs store it: all of its fields, with the bytes of `data` unchanged."""

    type: str
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}
    id: str
    traceparent: str | None = None
    tracestate: str | None = None
    data: msgspec.Raw

    def event(self) -> Event:
        """Return the event."""
        trace = self.traceparent, self.tracestate
        return Event(self.id, self.type, bytes(self.data), self.user_ids, self.attributes, *trace)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(StoredEvent)

read_stored = _decoder.decode
"""The result of `pack` → its fields; raises msgspec.DecodeError. Not a Python function: pages call it per record."""


def pack(event: Event) -> bytes:
    """Return the event as the JSON text that logs store, with the bytes of `data` unchanged."""
    return _encoder.encode(
        StoredEvent(
            type=event.type,
            user_ids=event.user_ids,
            attributes=dict(event.attributes),
            id=event.id,
            traceparent=event.traceparent,
            tracestate=event.tracestate,
            data=msgspec.Raw(event.data),
        )
    )


def unpack(stored: bytes) -> Event:
    """Return the event of a text that `pack` returned; raises msgspec.DecodeError for any other."""
    return read_stored(stored).event()
