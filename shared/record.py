"""What a log hands to its readers: a Record, or a Gap where records are missing; and how a record is stored."""

from typing import Literal, NamedTuple

import msgspec

from shared.cursor import Position
from shared.event import Event

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


class Head(msgspec.Struct, frozen=True, eq=False, rename="camel", forbid_unknown_fields=True):
    """What says whom an event is for, apart from its id and data. The same head may be shared by many records."""

    type: str
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}


class _Stored(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True):
    """In this order: what precedes the id is the head, alike in many events, and the data is all from `"data":` to
    the last brace. Readers of whole pages slice it there (`stored`); any other order is read too, only slower.
    """

    type: str
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}
    id: str
    data: msgspec.Raw


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Stored)
_head_decoder = msgspec.json.Decoder(Head)


def pack(event: Event) -> bytes:
    """Return the event as the JSON text that logs store; `data` goes in untouched."""
    return _encoder.encode(
        _Stored(
            type=event.type,
            user_ids=event.user_ids,
            attributes=dict(event.attributes),
            id=event.id,
            data=msgspec.Raw(event.data),
        )
    )


def unpack(stored: bytes) -> Event:
    """Return the event that `pack` stored; raises msgspec.DecodeError where it is not one."""
    s = _decoder.decode(stored)
    return Event(s.id, s.type, bytes(s.data), s.user_ids, s.attributes)


def read_head(text: bytes) -> Head:
    """Return the head from the text before the id in what `pack` stored; raises msgspec.DecodeError."""
    return _head_decoder.decode(text + b"}")
