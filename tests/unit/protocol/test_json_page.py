"""A JSON page: its items, the rest for the next page, and the moment at which it is complete."""

import json
from typing import Any

import pytest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record
from tidewire.protocol import json_page
from tidewire.protocol.json_page import CLOUDEVENTS_PAGE, DATA_PAGE, MAX_EVENTS, Page, PageFormat, plain

from tests.unit.delivery.members import record

GAP = Gap("trimmed", ALL, Position(7, 3))


def cursor(offset: int) -> str:
    return Cursor({ALL: Position(7, offset, f"{offset:08x}", 1_000)}).encode()


def events(*offsets: int) -> bytes:
    """The frames of these records, each with its own cursor."""
    return b"".join(DATA_PAGE.record(cursor(offset), record(offset)) for offset in offsets)


def body(page: Page) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(page.body())
    return read


def data_on(page: Page) -> list[object]:
    return [event["data"] for event in body(page)["events"]]


async def test_a_page_holds_what_was_written_and_the_place_after_it() -> None:
    page = Page()
    assert page.write(events(1, 2)) is None
    assert data_on(page) == [1, 2]
    assert (body(page)["cursor"], body(page)["gap"]) == (cursor(2), None)
    assert "complete" not in body(page)


async def test_what_was_encoded_and_not_written_does_not_count() -> None:
    page = Page()
    events(1)
    assert (page.cursor, page.is_full, data_on(page)) == (None, False, [])


async def test_frames_of_one_chunk_are_read_one_by_one() -> None:
    """Cursors and items of any length, also such that look like a head, and data with line ends."""
    page = Page()
    odd = [record(1, "e\x00g\n\r"), record(2, ["x" * 70_000]), record(3, "ä€\U0001f600")]
    page.write(
        b"".join(DATA_PAGE.record(cursor(n), each) for n, each in enumerate(odd)) + DATA_PAGE.heartbeat(cursor(9))
    )
    assert data_on(page) == ["e\x00g\n\r", ["x" * 70_000], "ä€\U0001f600"]
    assert page.cursor == cursor(9)


async def test_a_page_is_full_after_its_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_page, "MAX_EVENTS", 3)
    page = Page()
    assert page.write(events(1, 2)) is None
    assert page.write(events(3, 4)) is not None
    assert page.is_full
    assert page.replayed.is_set()
    assert page.settled.is_set()
    assert page.write(events(5)) is not None
    assert (data_on(page), page.cursor) == ([1, 2, 3], cursor(3))


@pytest.mark.parametrize(("more", "count"), [(-1, 2), (0, 2), (1, 3)])
async def test_a_page_is_full_in_bytes(monkeypatch: pytest.MonkeyPatch, more: int, count: int) -> None:
    """The event that reaches or exceeds the limit is on it: one larger than a page would else never be sent."""
    monkeypatch.setattr(json_page, "MAX_BYTES", 2 * len(plain(record(1))) + more)
    page = Page()
    assert page.write(events(1)) is None
    assert page.write(events(2, 3, 4)) is not None
    assert (data_on(page), page.cursor) == ([1, 2, 3][:count], cursor(count))


async def test_a_gap_opens_a_page() -> None:
    page = Page()
    page.write(DATA_PAGE.gap(cursor(3), GAP))
    assert page.cursor == cursor(3)
    page.write(events(4))
    assert body(page)["gap"] == {"reason": "trimmed", "recovered": False}
    assert data_on(page) == [4]
    assert not page.is_full


@pytest.mark.parametrize("before", [events(1), DATA_PAGE.gap(cursor(1), GAP)], ids=["event", "gap"])
async def test_a_gap_after_anything_is_left_for_the_next_page(before: bytes) -> None:
    """A client would else read it as if it lay before the events of the page."""
    page = Page()
    page.write(before)
    assert page.write(DATA_PAGE.gap(cursor(3), GAP) + events(4)) is not None
    assert page.cursor == cursor(1)
    assert 4 not in data_on(page)


async def test_it_is_settled_once_the_replay_brought_something() -> None:
    page = Page()
    page.write(events(1))
    assert not page.settled.is_set(), "more of the replay is to come"
    page.write(DATA_PAGE.ready(cursor(1), True, 1))
    assert page.replayed.is_set()
    assert page.settled.is_set()


async def test_an_empty_replay_waits_for_an_event() -> None:
    page = Page()
    page.write(DATA_PAGE.ready(cursor(1), True, 0))
    assert page.replayed.is_set()
    page.write(DATA_PAGE.heartbeat(cursor(2)))
    assert not page.settled.is_set()
    page.write(events(3))
    assert page.settled.is_set()


async def test_its_end_settles_it() -> None:
    page = Page()
    page.end(DATA_PAGE.closing("draining"))
    assert page.replayed.is_set()
    assert page.settled.is_set()
    assert page.buffered == 0


async def test_a_heartbeat_without_a_cursor_keeps_the_place() -> None:
    page = Page()
    page.write(events(1) + DATA_PAGE.heartbeat(None))
    assert page.cursor == cursor(1)


@pytest.mark.parametrize(
    ("written", "is_answer"),
    [
        (b"", False),
        (DATA_PAGE.heartbeat(cursor(1)), False),
        (DATA_PAGE.heartbeat(cursor(2)), True),
        (events(1), True),
        (DATA_PAGE.gap(cursor(1), GAP), True),
    ],
    ids=["nothing", "same-place", "moved", "an-event", "a-gap"],
)
async def test_a_page_cut_off_is_sent_if_it_moved(written: bytes, is_answer: bool) -> None:
    """An empty page at the same place would say that there is nothing after it."""
    page = Page(cursor(1))
    page.write(written)
    assert page.cut_off() is is_answer
    assert body(page)["complete"] is False


async def test_a_page_cut_off_after_the_replay_is_complete() -> None:
    page = Page(cursor(1))
    page.write(DATA_PAGE.ready(cursor(1), True, 0))
    assert page.cut_off()
    assert "complete" not in body(page)


@pytest.mark.parametrize("start", [None, "not a cursor"])
async def test_a_page_from_no_cursor_is_sent_if_it_has_one(start: str | None) -> None:
    """Its client would begin somewhere else the next time."""
    page = Page(start)
    assert not page.cut_off()
    page.write(DATA_PAGE.heartbeat(cursor(1)))
    assert page.cut_off()


async def test_a_place_is_the_same_with_another_check_and_time() -> None:
    """A receipt's cursor has no time, and a start may have no check: neither is progress."""
    page = Page(Cursor({ALL: Position(7, 1)}).encode())
    page.write(DATA_PAGE.heartbeat(cursor(1)))
    assert not page.cut_off()


def test_an_event_of_a_page_is_an_object() -> None:
    """Its data as published, and nothing of its audience; an event that no log has appended has no time."""
    event = Event("i", "a.b", b"1.0", ("u1",), {"source": "/s"})
    assert plain(Record(event, ALL, None)) == b'{"id":"i","type":"a.b","data":1.0}'
    appended = plain(Record(event, ALL, Position(7, 1, "", 1_790_000_000_007)))
    assert appended == b'{"id":"i","type":"a.b","time":"2026-09-21T14:13:20.007Z","data":1.0}'


async def test_a_format_encodes_events_with_its_encoder() -> None:
    page = Page()
    page.write(PageFormat(lambda record: record.event.data * 2).record(cursor(1), record(1)))
    assert page.body().startswith(b'{"events":[11],')


async def test_cloudevents_are_collected_as_such() -> None:
    page = Page()
    page.write(CLOUDEVENTS_PAGE.record(cursor(1), record(1)))
    [event] = body(page)["events"]
    assert (event["specversion"], event["data"]) == ("1.0", 1)


def test_control_frames_of_a_stream_are_nothing_on_a_page() -> None:
    assert DATA_PAGE.expiring(30) == DATA_PAGE.closing("max-age") == b""


def test_the_bound_of_a_page_is_the_documented_one() -> None:
    assert MAX_EVENTS == 500
