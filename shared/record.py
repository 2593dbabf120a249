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


class _Stored(msgspec.Struct, omit_defaults=True, rename="camel"):
    id: str
    type: str
    data: msgspec.Raw
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Stored)


def pack(event: Event) -> bytes:
    """Return the event as the JSON text that logs store; `data` goes in untouched."""
    return _encoder.encode(
        _Stored(event.id, event.type, msgspec.Raw(event.data), event.user_ids, dict(event.attributes))
    )


def unpack(stored: bytes) -> Event:
    """Return the event that `pack` stored; raises msgspec.DecodeError where it is not one."""
    s = _decoder.decode(stored)
    return Event(s.id, s.type, bytes(s.data), s.user_ids, s.attributes)
