"""The portions in which a replay writes: bounded in records and bytes, and never long silent."""

import asyncio

import pytest
from tidewire.delivery import replay as module
from tidewire.delivery.replay import (
    BATCH_BYTES,
    BATCH_ITEMS,
    SILENT,
)
from tidewire.model.cursor import Cursor
from tidewire.model.partitions import ALL
from tidewire.protocol.sse import DATA

from tests.support.clocks import virtual_time
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
    sizes,
)


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
    progress = make_replay(ScriptedLog([page_of(*numbered(1, 2 * BATCH_ITEMS + 51))]), outlet)
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
    await make_replay(ScriptedLog([page]), outlet).run(HEAD)
    counts = [count for count in sizes(outlet) if count]
    if page_of is listed and bytes < BATCH_BYTES:
        expected = [4, 4]  # a portion ends with the record that fills it
    assert counts == expected


@virtual_time
async def test_a_portion_ends_with_the_record_that_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = RecordingOutlet()
    await make_replay(ScriptedLog([numbered(1, 3)]), outlet).run(HEAD)
    monkeypatch.setattr(module, "BATCH_BYTES", len(outlet.sink.stream))
    again = RecordingOutlet()
    await make_replay(ScriptedLog([numbered(1, 6)]), again).run(HEAD)
    assert sizes(again) == [2, 2, 1]


@both_forms
@virtual_time
async def test_records_for_others_make_no_long_silence(page_of: PageOf) -> None:
    """After more than a second a heartbeat moves the cursor, and then again."""
    outlet = RecordingOutlet()
    pages = [page_of(record(offset, users=("u2",))) for offset in range(1, 9)]
    progress = make_replay(ScriptedLog(pages, seconds=SILENT / 2), outlet)
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
    await make_replay(ScriptedLog(pages, seconds=0.6), outlet).run(HEAD)
    assert sizes(outlet) == [1, 1, 1, 1]


@both_forms
@virtual_time
async def test_a_reader_of_full_portions_gets_no_heartbeats(page_of: PageOf) -> None:
    """Of which each ends with its page, so that nothing is left to write after it."""
    outlet = RecordingOutlet()
    pages = [page_of(record(offset, data="x" * BATCH_BYTES)) for offset in range(1, 6)]
    await make_replay(ScriptedLog(pages, seconds=0.6), outlet).run(HEAD)
    assert sizes(outlet) == [1] * 5


@virtual_time
async def test_many_records_for_others_are_heartbeats() -> None:
    """Counted over pages, from the last write on."""
    outlet = RecordingOutlet()
    pages = [numbered(start, start + 50, users=("u2",)) for start in range(1, 501, 50)]
    pages.insert(2, [record(101)])
    await make_replay(ScriptedLog(pages), outlet).run(HEAD)
    places = [event.last_event_id for event in outlet.sink.all]
    assert [offset_of(place) for place in places] == [101]
    beats = [offset_of(chunk[4:-2].decode()) for chunk in outlet.sink.chunks if chunk.count(b"\n") == 2]
    assert beats == [300, 500]
