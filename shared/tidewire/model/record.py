"""What a log hands to its readers: a Record, or a Gap where records are missing; and how a record is stored."""

from typing import Literal, NamedTuple

import msgspec

from tidewire.model.cursor import Position
from tidewire.model.event import Event

GapReason = Literal["trimmed", "epoch", "no-log", "invalid"]


class Record(NamedTuple):
    """An event with its place in the log; `position` is None where no log keeps it."""

    event: Event
    partition: str
    position: Position | None


class Gap(NamedTuple):
    """Announced loss: what lay between the reader's place and `position` will never be read.

    `position` is where reading goes on in `partition`; None where no log keeps positions. Reasons: `trimmed`
    (older than the log keeps), `epoch` (the log is another one than the cursor's), `invalid` (an unreadable
    cursor), `no-log` (a transport that remembers nothing was away).
    """

    reason: GapReason
    partition: str
    position: Position | None


class StoredEvent(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True, gc=False):
    """An event as it stands in a log: all of its fields, `data` as the bytes that they are."""

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
"""What `pack` returned → its fields; raises msgspec.DecodeError. Without a frame of Python: pages ask it per record."""


def pack(event: Event) -> bytes:
    """Return the event as the JSON text that logs store; `data` goes in untouched."""
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
    """Return the event that `pack` stored; raises msgspec.DecodeError where it is not one."""
    return read_stored(stored).event()
