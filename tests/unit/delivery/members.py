"""Members of a fan-out, records for it, and a count of what delivering costs."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import tidewire
from tidewire.delivery.early_delivery import Early
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.groups import Sink
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import Record
from tidewire.protocol.sse import DATA, DataFormat, Format

from tests.support.sinks import RecordingSink

CORE = str(Path(tidewire.__file__).parent)


class Listener:
    """A member that is always up to date; `writable` is the future that it waits for after it fell behind."""

    def __init__(self, user_id: str | None = None, types: set[str] | None = None, format: Format = DATA) -> None:
        self.interest = Interest(user_id, None if types is None else frozenset(types))
        self.format = format
        self.partitions: tuple[str, ...] = (ALL,)
        self.seen = RecordingSink()
        self.sink: Sink = self.seen
        self.writable: Awaitable[None] | None = None
        self.numbers: set[int] = set()  # of the ring, that it has read
        self.written = 0
        self.live = True

    def fall_behind(self, writable: Awaitable[None] | None) -> None:
        self.writable, self.live = writable, False

    def received(self, early: Early) -> bool:
        return early.number in self.numbers


class CountingFormat(DataFormat):
    """Counts how often a record is encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    def record(self, cursor: str | None, record: Record) -> bytes:
        self.encoded += 1
        return super().record(cursor, record)


def joined(fanout: Fanout, *members: Listener) -> None:
    """Let all of them join."""
    for member in members:
        fanout.join(member)


def record(
    offset: int,
    data: object = None,
    *,
    type: str = "t",
    users: tuple[str, ...] | None = None,
    partition: str = ALL,
) -> Record:
    """Make the record at this offset; by default its data is the offset."""
    event = Event(f"e{offset}", type, msgspec.json.encode(offset if data is None else data), users)
    return Record(event, partition, Position(7, offset, f"{offset:08x}", 1_000 + offset))


def executed_lines(action: Callable[[], object]) -> int:
    """Count the lines of the core that an action runs: its cost, the same on every machine."""
    lines = 0

    def count(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        lines += what == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines
