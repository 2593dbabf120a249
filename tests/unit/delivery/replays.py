"""A replay on a log whose pages a test gives, and what it writes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest
from tidewire.delivery.replay import (
    NotWritableError,
    Place,
    Replay,
    SinkOutlet,
    Stats,
)
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record, pack
from tidewire.model.record_page import RecordPage
from tidewire.protocol.sse import DATA, Format
from tidewire.transports.memory import MemoryLog

from tests.support.sinks import RecordingSink
from tests.unit.delivery.members import record

Page = Sequence[Record | Gap]
START = Position(7, 0)
HEAD = Cursor({ALL: Position(7, 1_000)})


class ScriptedLog(MemoryLog):
    """A log whose reads yield the pages that a test gives for each read; an exception in a page's place is raised."""

    def __init__(self, *reads: Sequence[Page | TransportUnavailable], seconds: float = 0.0) -> None:
        super().__init__()
        self.asked: list[tuple[Cursor, Cursor]] = []
        self._reads = list(reads)
        self._seconds = seconds

    async def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Page]:
        self.asked.append((Cursor(dict(after.positions)), until))
        for page in self._reads.pop(0):
            await asyncio.sleep(self._seconds)
            if isinstance(page, TransportUnavailable):
                raise page
            yield page


class RecordingOutlet:
    """An outlet that keeps what a replay does with it; it has no room after the writes that a test names."""

    def __init__(self, *full_after: int) -> None:
        self.sink = RecordingSink()
        self.held: list[bool] = []
        self.pauses: list[float] = []
        self.waited_for: list[Awaitable[None]] = []
        self.room = asyncio.get_running_loop().create_future()
        self.on_write: Callable[[], None] = lambda: None
        self._full_after = full_after

    async def write(self, chunk: bytes, *, held: bool = False) -> None:
        self.sink.write(chunk)
        self.held.append(held)
        self.on_write()
        if len(self.held) in self._full_after:
            raise NotWritableError(self.room)

    async def wait_until_writable(self, writable: Awaitable[None]) -> None:
        self.waited_for.append(writable)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def make_replay(
    log: MemoryLog | None,
    outlet: RecordingOutlet | SinkOutlet,
    *,
    interest: Interest = Interest(),
    format: Format = DATA,
    positions: dict[str, Position] | None = None,
    stats: Stats | None = None,
    heads: Sequence[Cursor] = (),
    is_repetition: Callable[[Record], bool] | None = None,
) -> Replay:
    positions = {ALL: START} if positions is None else dict(positions)
    answers = list(heads)
    asked = tuple(positions)

    async def read_heads(partitions: Sequence[str]) -> Cursor:
        assert tuple(partitions) == asked
        return answers.pop(0)

    place = Place(tuple(positions), positions)
    return Replay(log, place, outlet, interest, format, stats or Stats(), read_heads, is_repetition)


def stored(*records: Record) -> RecordPage:
    """The page as a store keeps it."""
    first = records[0].position
    assert first is not None
    values = [
        b"%08x%013d" % (each.position.offset, each.position.time) + pack(each.event)
        for each in records
        if each.position is not None
    ]
    page = RecordPage.parse(records[0].partition, first.epoch, first.offset, values)
    assert page is not None
    return page


def numbered(start: int, stop: int, **options: object) -> list[Record]:
    return [record(offset, **options) for offset in range(start, stop)]  # type: ignore[arg-type]  # options of `record`


def offset_of(cursor: str, partition: str = ALL) -> int:
    place = Cursor.parse(cursor)
    assert place is not None
    return place.positions[partition].offset


def sizes(outlet: RecordingOutlet) -> list[int]:
    """How many events each write had."""
    return [chunk.count(b"data: ") for chunk in outlet.sink.chunks]


PageOf = Callable[..., Page]


def listed(*records: Record) -> Page:
    return records


both_forms = pytest.mark.parametrize("page_of", [listed, stored])
