"""Reading the log for one reader: what is written, in which portions, and what happens while the log is unavailable."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Sequence

import pytest
from tidewire.delivery import replay as module
from tidewire.delivery.replay import (
    BATCH_ITEMS,
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
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import CLOUDEVENTS, DATA, Format

from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink
from tests.unit.delivery.members import record
from tests.unit.delivery.replays import (
    HEAD,
    START,
    PageOf,
    RecordingOutlet,
    ScriptedLog,
    both_forms,
    listed,
    make_replay,
    numbered,
    offset_of,
    stored,
)


@pytest.mark.parametrize("format", [DATA, CLOUDEVENTS])
@virtual_time
async def test_a_stored_page_is_written_as_its_records_are(format: Format) -> None:
    """The fast way for a page as the store keeps it has the same bytes, place and counts as record by record."""
    results = []
    for page_of in (listed, stored):
        outlet, stats = RecordingOutlet(), Stats()
        pages = [page_of(*numbered(1, 4), record(4, users=("u2",))), page_of(record(5), record(6, users=("u2",)))]
        progress = make_replay(ScriptedLog(pages), outlet, format=format, stats=stats, interest=Interest("u1"))
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
        await make_replay(ScriptedLog([page]), RecordingOutlet(), stats=stats).run(HEAD)
    assert (stats.replays, stats.replayed, stats.filtered) == (2, 6, 2)


@virtual_time
async def test_a_page_that_begins_elsewhere_is_read_one_by_one() -> None:
    """It may begin before the place, after a reader without room came back: nothing is written twice."""
    for positions, expected in (
        ({ALL: Position(7, 2)}, [3, 4]),
        ({ALL: Position(6, 0)}, [1, 2, 3, 4]),
        ({ALL: START, "other": START}, [1, 2, 3, 4]),
    ):
        outlet = RecordingOutlet()
        progress = make_replay(ScriptedLog([stored(*numbered(1, 5))]), outlet, positions=positions)
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

    log = ScriptedLog([page_of(*numbered(1, 4))])
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
    progress = make_replay(ScriptedLog([records]), outlet, positions={ALL: Position(7, 2), "other": Position(7, 7)})
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
    progress = make_replay(ScriptedLog([[*numbered(1, 3), gap, record(5), gap, lost]]), outlet, stats=stats)
    assert progress.recovered
    await progress.run(HEAD)
    assert outlet.sink.order == [1, 2, "realtime.gap", 5, "realtime.gap", "realtime.gap"]
    assert outlet.sink.gaps == ["trimmed", "trimmed", "no-log"]
    assert outlet.held == [True, False, True, False, False]
    assert [offset_of(event.last_event_id) for event in outlet.sink.all] == [1, 2, 4, 5, 4, 4]
    assert stats.gaps == {"trimmed": 2, "no-log": 1}
    assert not progress.recovered


@virtual_time
async def test_a_read_goes_to_the_head_that_is_read_first() -> None:
    outlet = RecordingOutlet()
    log = ScriptedLog([numbered(1, 3)])
    await make_replay(log, outlet, heads=[HEAD]).run()
    assert log.asked == [(Cursor({ALL: START}), HEAD)]


@both_forms
@virtual_time
async def test_an_interrupted_replay_continues_at_its_place(page_of: PageOf, caplog: pytest.LogCaptureFixture) -> None:
    """With new heads, after a pause and a heartbeat; the warning says why."""
    away = TransportUnavailable(f"the store is unavailable, {page_of.__name__}")
    later = Cursor({ALL: Position(7, 2_000)})
    log = ScriptedLog([page_of(*numbered(1, 3)), away], [away], [page_of(*numbered(3, 5))])
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
    progress = Replay(ScriptedLog([numbered(1, 3)]), place, outlet, Interest(), DATA, Stats(), read_heads)
    await progress.run()
    assert tries == [(ALL,)] * 3
    assert len(outlet.pauses) == 2
    assert outlet.sink.data == [1, 2]


@both_forms
@virtual_time
async def test_a_reader_without_room_reads_on_to_the_same_head(page_of: PageOf) -> None:
    """What was taken is not written again, and the page that was held is read again."""
    log = ScriptedLog([page_of(*numbered(1, 301))], [page_of(*numbered(201, 301))])
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


class _WaitingOutlet(RecordingOutlet):
    """Keeps the exception that is being handled during each wait: its traceback would hold the read and its page."""

    def __init__(self) -> None:
        super().__init__(1)
        self.handled: list[BaseException | None] = []

    async def wait_until_writable(self, writable: Awaitable[None]) -> None:
        self.handled.append(sys.exception())

    async def pause(self, seconds: float) -> None:
        self.handled.append(sys.exception())


@both_forms
@virtual_time
async def test_no_page_is_held_during_a_wait(page_of: PageOf) -> None:
    """150 streams whose clients did not read kept 97 MB: each a page, through the exception that ended its read."""
    log = ScriptedLog([page_of(*numbered(1, 3))], [TransportUnavailable("no answer")], [page_of(*numbered(3, 5))])
    outlet = _WaitingOutlet()
    await make_replay(log, outlet, heads=[HEAD]).run(HEAD)
    assert outlet.handled == [None, None]
