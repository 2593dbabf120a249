"""Reading the log for one reader: what is written, in which portions, and what happens while the log is unavailable."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest
from tidewire.delivery import replay as module
from tidewire.delivery.replay import (
    BATCH_BYTES,
    BATCH_ITEMS,
    SILENT,
    NotWritableError,
    Place,
    Replay,
    SinkIsFullError,
    SinkOutlet,
    Stats,
)
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record, pack
from tidewire.model.record_page import RecordPage
from tidewire.protocol.sse import CLOUDEVENTS, DATA, Format
from tidewire.transports.memory import MemoryLog

from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink
from tests.unit.delivery.members import record

Page = Sequence[Record | Gap]
START = Position(7, 0)
HEAD = Cursor({ALL: Position(7, 1_000)})


class PagedLog(MemoryLog):
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
    return [record(offset, **options) for offset in range(start, stop)]  # type: ignore[arg-type]


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


@pytest.mark.parametrize("format", [DATA, CLOUDEVENTS])
@virtual_time
async def test_a_stored_page_is_written_as_its_records_are(format: Format) -> None:
    """The fast way for a page as the store keeps it has the same bytes, place and counts as record by record."""
    results = []
    for page_of in (listed, stored):
        outlet, stats = RecordingOutlet(), Stats()
        pages = [page_of(*numbered(1, 4), record(4, users=("u2",))), page_of(record(5), record(6, users=("u2",)))]
        progress = make_replay(PagedLog(pages), outlet, format=format, stats=stats, interest=Interest("u1"))
        await progress.run(HEAD)
        assert outlet.held == [True, True]
        assert (progress.events, stats.replayed, stats.filtered) == (4, 4, 2)
        results.append((outlet.sink.chunks, progress.positions, progress.cursor))
    assert results[0] == results[1]
    assert results[0][1] == {ALL: record(6).position}


@both_forms
@virtual_time
async def test_counts_of_several_readers_add_up(page_of: PageOf) -> None:
    stats = Stats()
    for _ in range(2):
        page = page_of(*numbered(1, 4), record(4, users=("u2",)))
        await make_replay(PagedLog([page]), RecordingOutlet(), stats=stats).run(HEAD)
    assert (stats.replays, stats.replayed, stats.filtered) == (2, 6, 2)


@both_forms
@virtual_time
async def test_a_large_page_is_written_in_portions_of_records(page_of: PageOf) -> None:
    """Between two of them other tasks have their turn, and no time passes."""
    outlet = RecordingOutlet()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    at_write: list[int] = []
    outlet.on_write = lambda: at_write.append(turns)
    counting = asyncio.create_task(count_turns())
    progress = make_replay(PagedLog([page_of(*numbered(1, 2 * BATCH_ITEMS + 51))]), outlet)
    await progress.run(HEAD)
    counting.cancel()
    assert sizes(outlet) == [BATCH_ITEMS, BATCH_ITEMS, 50]
    assert outlet.sink.data == list(range(1, 2 * BATCH_ITEMS + 51))
    assert outlet.held == [True] * 3
    assert at_write[0] < at_write[1] < at_write[2]
    assert asyncio.get_running_loop().time() == 0


@both_forms
@pytest.mark.parametrize(("bytes", "expected"), [(20_000, [3, 3, 2]), (100_000, [1] * 8)])
@virtual_time
async def test_a_portion_is_bounded_in_bytes(page_of: PageOf, bytes: int, expected: list[int]) -> None:
    outlet = RecordingOutlet()
    page = page_of(*numbered(1, 9, data="x" * bytes))
    await make_replay(PagedLog([page]), outlet).run(HEAD)
    counts = [count for count in sizes(outlet) if count]
    if page_of is listed and bytes < BATCH_BYTES:
        expected = [4, 4]  # a portion ends with the record that fills it
    assert counts == expected


@virtual_time
async def test_a_portion_ends_with_the_record_that_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = RecordingOutlet()
    await make_replay(PagedLog([numbered(1, 3)]), outlet).run(HEAD)
    monkeypatch.setattr(module, "BATCH_BYTES", len(outlet.sink.stream))
    again = RecordingOutlet()
    await make_replay(PagedLog([numbered(1, 6)]), again).run(HEAD)
    assert sizes(again) == [2, 2, 1]


@virtual_time
async def test_a_page_that_begins_elsewhere_is_read_one_by_one() -> None:
    """It may begin before the place, after a reader without room came back: nothing is written twice."""
    for positions, expected in (
        ({ALL: Position(7, 2)}, [3, 4]),
        ({ALL: Position(6, 0)}, [1, 2, 3, 4]),
        ({ALL: START, "other": START}, [1, 2, 3, 4]),
    ):
        outlet = RecordingOutlet()
        progress = make_replay(PagedLog([stored(*numbered(1, 5))]), outlet, positions=positions)
        await progress.run(HEAD)
        assert outlet.sink.data == expected
        last = Cursor.parse(outlet.sink.cursor)
        assert last is not None
        assert {name: at[:2] for name, at in last.positions.items()} == {
            name: (7, 4) if name == ALL else at[:2] for name, at in positions.items()
        }


@both_forms
@virtual_time
async def test_an_event_that_was_delivered_early_is_left_out(page_of: PageOf) -> None:
    outlet, stats = RecordingOutlet(), Stats()

    def is_repetition(record: Record) -> bool:
        return record.event.id == "e2"

    log = PagedLog([page_of(*numbered(1, 4))])
    progress = make_replay(log, outlet, stats=stats, is_repetition=is_repetition)
    await progress.run(HEAD)
    assert outlet.sink.data == [1, 3]
    assert (progress.events, stats.replayed, stats.filtered) == (2, 2, 0)


@virtual_time
async def test_a_record_from_before_the_place_is_dropped() -> None:
    progress = make_replay(None, RecordingOutlet(), positions={ALL: Position(7, 5)})
    frames: list[bytes] = []
    for offset, epoch in ((4, 7), (5, 7), (9, 6)):
        before = record(offset)._replace(position=Position(epoch, offset))
        assert progress.match(before, frames) == 0
    assert frames == []
    assert progress.positions == {ALL: Position(7, 5)}
    assert progress.match(record(6), frames) == len(frames[0])
    assert progress.match(record(1)._replace(position=Position(8, 1)), frames) == len(frames[1])
    assert progress.positions == {ALL: Position(8, 1)}
    assert progress.events == 2


@virtual_time
async def test_a_record_that_is_not_written_adds_no_bytes() -> None:
    """It moves the place; portions are measured in what is written."""
    progress = make_replay(None, RecordingOutlet(), is_repetition=lambda record: record.event.id == "e2")
    frames: list[bytes] = []
    assert progress.match(record(1, users=("u2",)), frames) == 0
    assert progress.match(record(2), frames) == 0
    assert (frames, progress.positions) == ([], {ALL: record(2).position})


@virtual_time
async def test_a_record_without_a_position_moves_no_place() -> None:
    progress = make_replay(None, RecordingOutlet(), positions={ALL: Position(7, 5)})
    frames: list[bytes] = []
    progress.match(record(9)._replace(position=None), frames)
    assert frames == [DATA.record(progress.cursor, record(9))]
    assert progress.positions == {ALL: Position(7, 5)}


@virtual_time
async def test_a_reader_of_two_partitions_has_a_cursor_of_both() -> None:
    outlet = RecordingOutlet()
    records = [record(3), record(8, partition="other"), record(4)]
    progress = make_replay(PagedLog([records]), outlet, positions={ALL: Position(7, 2), "other": Position(7, 7)})
    await progress.run(HEAD)
    places = [Cursor.parse(event.last_event_id) for event in outlet.sink.all]
    assert [(place.positions[ALL].offset, place.positions["other"].offset) for place in places if place] == [
        (3, 7),
        (3, 8),
        (4, 8),
    ]


@virtual_time
async def test_a_gap_is_announced_between_the_records_around_it() -> None:
    outlet, stats = RecordingOutlet(), Stats()
    gap = Gap("trimmed", ALL, Position(7, 4))
    lost = Gap("no-log", ALL, None)
    progress = make_replay(PagedLog([[*numbered(1, 3), gap, record(5), gap, lost]]), outlet, stats=stats)
    assert progress.recovered
    await progress.run(HEAD)
    assert outlet.sink.order == [1, 2, "realtime.gap", 5, "realtime.gap", "realtime.gap"]
    assert outlet.sink.gaps == ["trimmed", "trimmed", "no-log"]
    assert outlet.held == [True, False, True, False, False]
    assert [offset_of(event.last_event_id) for event in outlet.sink.all] == [1, 2, 4, 5, 4, 4]
    assert stats.gaps == {"trimmed": 2, "no-log": 1}
    assert not progress.recovered


@both_forms
@virtual_time
async def test_records_for_others_make_no_long_silence(page_of: PageOf) -> None:
    """After more than a second a heartbeat moves the cursor, and then again."""
    outlet = RecordingOutlet()
    pages = [page_of(record(offset, users=("u2",))) for offset in range(1, 9)]
    progress = make_replay(PagedLog(pages, seconds=SILENT / 2), outlet)
    await progress.run(HEAD)
    assert outlet.sink.all == []
    assert outlet.held == [True, True]
    cursors = [DATA.heartbeat(Cursor({ALL: record(offset).position or START}).encode()) for offset in (3, 6)]
    assert outlet.sink.chunks == cursors


@both_forms
@virtual_time
async def test_a_reader_with_events_gets_no_heartbeats(page_of: PageOf) -> None:
    outlet = RecordingOutlet()
    pages = [page_of(record(1)), *(page_of(record(n, users=None if n % 2 else ("u2",))) for n in range(2, 9))]
    await make_replay(PagedLog(pages, seconds=0.6), outlet).run(HEAD)
    assert sizes(outlet) == [1, 1, 1, 1]


@both_forms
@virtual_time
async def test_a_reader_of_full_portions_gets_no_heartbeats(page_of: PageOf) -> None:
    """Of which each ends with its page, so that nothing is left to write after it."""
    outlet = RecordingOutlet()
    pages = [page_of(record(offset, data="x" * BATCH_BYTES)) for offset in range(1, 6)]
    await make_replay(PagedLog(pages, seconds=0.6), outlet).run(HEAD)
    assert sizes(outlet) == [1] * 5


@virtual_time
async def test_many_records_for_others_are_heartbeats() -> None:
    """Counted over pages, from the last write on."""
    outlet = RecordingOutlet()
    pages = [numbered(start, start + 50, users=("u2",)) for start in range(1, 501, 50)]
    pages.insert(2, [record(101)])
    await make_replay(PagedLog(pages), outlet).run(HEAD)
    places = [event.last_event_id for event in outlet.sink.all]
    assert [offset_of(place) for place in places] == [101]
    beats = [offset_of(chunk[4:-2].decode()) for chunk in outlet.sink.chunks if chunk.count(b"\n") == 2]
    assert beats == [300, 500]


@virtual_time
async def test_a_read_goes_to_the_head_that_is_read_first() -> None:
    outlet = RecordingOutlet()
    log = PagedLog([numbered(1, 3)])
    await make_replay(log, outlet, heads=[HEAD]).run()
    assert log.asked == [(Cursor({ALL: START}), HEAD)]


@both_forms
@virtual_time
async def test_an_interrupted_replay_continues_at_its_place(page_of: PageOf, caplog: pytest.LogCaptureFixture) -> None:
    """With new heads, after a pause and a heartbeat; the warning says why."""
    away = TransportUnavailable(f"the store is away, {page_of.__name__}")
    later = Cursor({ALL: Position(7, 2_000)})
    log = PagedLog([page_of(*numbered(1, 3)), away], [away], [page_of(*numbered(3, 5))])
    outlet, stats = RecordingOutlet(), Stats()
    progress = make_replay(log, outlet, heads=[HEAD, later], stats=stats)
    with caplog.at_level(logging.WARNING):
        await progress.run(HEAD)
    assert outlet.sink.data == [1, 2, 3, 4]
    places = [(after.positions[ALL][:2], until) for after, until in log.asked]
    assert places == [((7, 0), HEAD), ((7, 2), HEAD), ((7, 2), later)]
    assert stats.replays == 3
    heartbeat = DATA.heartbeat(Cursor({ALL: record(2).position or START}).encode())
    assert outlet.sink.chunks[1:3] == [heartbeat, heartbeat]
    assert 0 <= outlet.pauses[0] <= 0.05
    assert 0 <= outlet.pauses[1] <= 0.1
    warned = [line.getMessage() for line in caplog.records if line.name == module.__name__]
    assert warned == [f"replay interrupted, trying again: {away.detail}"]


@virtual_time
async def test_heads_that_cannot_be_read_are_tried_again() -> None:
    outlet = RecordingOutlet()
    tries: list[Sequence[str]] = []

    async def read_heads(partitions: Sequence[str]) -> Cursor:
        tries.append(partitions)
        if len(tries) < 3:
            raise TransportUnavailable("no heads")
        return HEAD

    place = Place((ALL,), {ALL: START})
    progress = Replay(PagedLog([numbered(1, 3)]), place, outlet, Interest(), DATA, Stats(), read_heads)
    await progress.run()
    assert tries == [(ALL,)] * 3
    assert len(outlet.pauses) == 2
    assert outlet.sink.data == [1, 2]


@both_forms
@virtual_time
async def test_a_reader_without_room_reads_on_to_the_same_head(page_of: PageOf) -> None:
    """What was taken is not written again, and the page that was held is read again."""
    log = PagedLog([page_of(*numbered(1, 301))], [page_of(*numbered(201, 301))])
    outlet = RecordingOutlet(1)
    await make_replay(log, outlet).run(HEAD)
    assert outlet.waited_for == [outlet.room]
    assert [(after.positions[ALL].offset, until) for after, until in log.asked] == [(0, HEAD), (BATCH_ITEMS, HEAD)]
    assert outlet.sink.data == list(range(1, 301))
    assert outlet.pauses == []


@virtual_time
async def test_a_narrowed_replay_forgets_the_other_partitions() -> None:
    progress = make_replay(None, RecordingOutlet(), positions={ALL: START, "old": Position(7, 3)})
    progress.narrow_to((ALL,))
    assert progress.partitions == (ALL,)
    assert progress.positions == {ALL: START}
    assert progress.cursor == Cursor({ALL: START}).encode()


@virtual_time
async def test_a_sink_without_room_ends_a_single_read() -> None:
    sink = RecordingSink()
    outlet = SinkOutlet(sink)
    await outlet.write(b": first\n\n")
    sink.full = True
    with pytest.raises(SinkIsFullError):
        await outlet.write(b": last\n\n")
    assert sink.chunks == [b": first\n\n", b": last\n\n"]


@virtual_time
async def test_a_single_read_waits_for_the_log_too() -> None:
    loop = asyncio.get_running_loop()
    outlet = SinkOutlet(RecordingSink())
    await outlet.pause(3.0)
    assert loop.time() == pytest.approx(3.0)
    writable = loop.create_future()
    loop.call_later(2.0, writable.set_result, None)
    await outlet.wait_until_writable(writable)
    assert loop.time() == pytest.approx(5.0)
