"""Frames of a stream, byte by byte (HTML Living Standard, section 9.2); tests/properties has any input."""

import json

import pytest
from tidewire.model.cursor import Position, encode_one
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record, pack
from tidewire.model.record_page import RecordPage
from tidewire.protocol.sse import CLOUDEVENTS, DATA, DataFormat, Format, frame, retry, rfc3339

RECORD = Record(Event("i", "a.b", b'{"n": 1.0}', ("u1",)), ALL, Position(7, 3, "0badc0de", 1_790_000_000_007))
EARLY = Record(RECORD.event, ALL, None)
CLOUDEVENT = (
    b'{"specversion":"1.0","id":"i","source":"tidewire","type":"a.b","datacontenttype":"application/json",'
    b'"time":"2026-09-21T14:13:20.007Z","data":{"n": 1.0}}'
)


@pytest.mark.parametrize(
    ("cursor", "event", "data", "expected"),
    [
        ("1.c", "t", b"1", b"id: 1.c\nevent: t\ndata: 1\n\n"),
        (None, "t", b"1", b"event: t\ndata: 1\n\n"),
        ("1.c", None, b"1", b"id: 1.c\ndata: 1\n\n"),
        ("1.c", None, None, b"id: 1.c\n\n"),
        (None, None, b"", b"data: \n\n"),
        ("", "", None, b"id: \nevent: \n\n"),
        (None, None, None, b":\n\n"),
        ("a\r\n\0b\x1f", "x\ny", b"1", b"id: ab\nevent: xy\ndata: 1\n\n"),
        ("ü\u2028\x7f\ud800", None, None, "id: ü\u2028\x7f?\n\n".encode()),
        (
            None,
            None,
            b"a\nb\rc\r\nd\n\ne\r\n\r\n",
            b"data: a\ndata: b\ndata: c\ndata: d\ndata: \ndata: e\ndata: \ndata: \n\n",
        ),
        (None, None, b"a\rb", b"data: a\ndata: b\n\n"),
        (None, None, b"a\nb", b"data: a\ndata: b\n\n"),
    ],
    ids=range(12),
)
def test_a_frame_has_the_fields_that_it_is_given(
    cursor: str | None, event: str | None, data: bytes | None, expected: bytes
) -> None:
    """A field of nothing is one, a missing field is none; a line end in a field makes no other field."""
    assert frame(cursor, event, data) == expected


def test_a_frame_of_nothing_is_a_comment() -> None:
    assert frame() == b":\n\n"


def test_the_reconnection_delay_is_a_frame() -> None:
    assert retry(1730) == b"retry: 1730\n\n"


@pytest.mark.parametrize(
    ("format", "record", "expected"),
    [
        (DATA, RECORD, b'event: a.b\ndata: {"n": 1.0}\n\n'),
        (DATA, EARLY, b'event: a.b\ndata: {"n": 1.0}\n\n'),
        (CLOUDEVENTS, RECORD, b"data: %b\n\n" % CLOUDEVENT),
        (CLOUDEVENTS, EARLY, b"data: %b\n\n" % CLOUDEVENT.replace(b'"time":"2026-09-21T14:13:20.007Z",', b"")),
    ],
    ids=["data", "data-early", "cloudevents", "cloudevents-early"],
)
def test_an_event_is_a_frame(format: Format, record: Record, expected: bytes) -> None:
    """Its data as published, and nothing of its audience. A record that no log has appended has no time."""
    assert format.record("1.c", record) == b"id: 1.c\n" + expected
    assert format.record(None, record) == expected


def test_a_cloudevent_has_the_attributes_of_its_publisher() -> None:
    """Its own source and time win."""
    own = {"source": "/s", "time": "2026-11-23T10:00:00Z", "subject": "ü"}
    fixed = {"specversion": "1.0", "id": "i", "type": "t", "datacontenttype": "application/json"}
    record = RECORD._replace(event=Event("i", "t", b"1", None, own))
    sent = json.loads(CLOUDEVENTS.record(None, record).removeprefix(b"data: "))
    assert sent == {**fixed, **own, "data": 1}


@pytest.mark.parametrize("format", [DATA, CLOUDEVENTS], ids=["data", "cloudevents"])
def test_control_events_are_the_same_in_every_format(format: Format) -> None:
    """Only those that belong to a position have an id."""
    gap = b'id: 1.c\nevent: realtime.gap\ndata: {"reason":"trimmed","recovered":false}\n\n'
    assert format.gap("1.c", Gap("trimmed", ALL, None)) == gap
    ready = b'id: 1.c\nevent: realtime.ready\ndata: {"recovered":%b,"replayed":3}\n\n'
    assert format.ready("1.c", True, 3) == ready % b"true"
    assert format.ready("1.c", False, 3) == ready % b"false"
    assert format.heartbeat("1.c") == b"id: 1.c\n\n"
    assert format.heartbeat(None) == b":\n\n"
    assert format.expiring(30) == b'event: realtime.expiring\ndata: {"seconds":30}\n\n'
    assert format.closing("draining") == b'event: realtime.closing\ndata: {"reason":"draining"}\n\n'


def page(*events: Event, step: int = 1) -> RecordPage:
    """A page of these events from offset 30 on, which `step` ms lie between."""
    values = [b"%08x%013d" % (n, 1_000 + step * n) + pack(event) for n, event in enumerate(events)]
    read = RecordPage.parse("user:7", 9, 30, values)
    assert read is not None
    return read


EVENTS = (
    Event("i0", "a", b"0"),
    Event("i1", "b", b'{"a":\n1}'),
    Event("i2", "a", b"2", ("u1",), {"source": "/s"}),
    Event("i3", "a", b"3"),
)


@pytest.mark.parametrize("format", [DATA, CLOUDEVENTS], ids=["data", "cloudevents"])
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("chosen", [range(4), [3, 1], [0, 2], []], ids=str)
def test_frames_of_a_page_are_those_of_its_records(format: DataFormat, step: int, chosen: list[int]) -> None:
    """Each with the cursor of its one partition; also if records share a millisecond, or their data has line ends."""
    read = page(*EVENTS, step=step)
    expected = [format.record(encode_one("user:7", read.position(index)), read[index]) for index in chosen]
    assert format.records(read, chosen) == expected


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_790_000_000_007, "2026-09-21T14:13:20.007Z"),
        (1_790_000_000_999, "2026-09-21T14:13:20.999Z"),
    ],
)
def test_a_time_is_in_utc_with_milliseconds(milliseconds: int, text: str) -> None:
    assert rfc3339(milliseconds) == text
