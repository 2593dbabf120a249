"""Frames: the content of a field stays in that field of that event."""

import re

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.record import Record, pack, unpack
from tidewire.protocol.sse import CLOUDEVENTS, DATA, Format, frame, retry

from tests.support.sse_decoder import SseDecoder, SseEvent

nasty = st.text(st.sampled_from("\r\n\0:\u2028\u2029\x85\x0b\x0c\ufeff\t aé😀\x1f\x7fdataidvent"))
texts = st.text() | nasty
encodable = texts.map(lambda text: text.encode("utf-8", "replace").decode())
blobs = st.binary() | nasty.map(lambda text: text.encode())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


def decode(stream: bytes) -> tuple[list[SseEvent], str]:
    decoder = SseDecoder()
    return decoder.feed(stream), decoder.last_event_id


def lines(data: bytes) -> str:
    """What a browser makes of data: its line ends are all the same."""
    return re.sub("\r\n|\r", "\n", data.decode("utf-8", "replace"))


def without_controls(text: str) -> str:
    return re.sub("[\0-\x1f]", "", text).encode("utf-8", "replace").decode()


@given(texts, texts, blobs)
@example("1\n\ndata: forged\n\n", "x\r\revent: realtime.gap\r", b"1\n\nevent: realtime.gap\ndata: {}\n\n")
@example("\0", "\0", b"\0\r\n\r\n")
@example("\ufeff", "\ufeff", "\ufeff".encode())
@example("\ud800", "\ud800", b"\xff\r")
def test_a_frame_is_exactly_one_event_with_exactly_its_data(cursor: str, event: str, data: bytes) -> None:
    events, last_id = decode(frame(cursor, event, data) + frame("end", "end", b"end"))
    assert len(events) == 2
    assert events[0].data == lines(data)
    assert events[1] == SseEvent("end", "end", "end")
    assert last_id == "end"
    assert events[0].type == (without_controls(event) or "message")
    assert events[0].last_event_id == without_controls(cursor)


@given(texts)
def test_a_frame_with_only_an_id_moves_the_cursor(cursor: str) -> None:
    """It dispatches no event."""
    events, last_id = decode(frame(cursor) + frame(None, "end", b"end"))
    assert [event.type for event in events] == ["end"]
    assert not set(last_id) & {"\r", "\n", "\0"}


@given(st.integers(0, 10**9))
def test_the_time_to_come_back_is_no_event(milliseconds: int) -> None:
    decoder = SseDecoder()
    assert decoder.feed(retry(milliseconds)) == []
    assert decoder.retry_ms == milliseconds


@given(
    json_values,
    st.none() | st.lists(encodable, min_size=1).map(tuple),
    st.dictionaries(st.sampled_from(["source", "subject", "ext"]), encodable),
    st.sampled_from([DATA, CLOUDEVENTS]),
)
def test_any_event_arrives_as_it_was_published(
    value: object, users: tuple[str, ...] | None, attributes: dict[str, str], format: Format
) -> None:
    data = msgspec.json.encode(value)
    event = Event("id-1", "a.b", data, users, attributes)
    record = Record(event, "all", Position(1, 2, "0badc0de", 1_790_000_000_000))
    events, last_id = decode(format.record("1.0", record))
    assert last_id == "1.0"
    (sent,) = events
    if format is DATA:
        assert (sent.type, sent.data) == ("a.b", data.decode())
    else:
        assert sent.type == "message"
        envelope = msgspec.json.decode(sent.data)
        assert envelope["data"] == msgspec.json.decode(data)
        assert (envelope["id"], envelope["type"], envelope["specversion"]) == ("id-1", "a.b", "1.0")
        assert envelope["source"] == event.attributes.get("source", "tidewire")
        assert "userIds" not in envelope
        assert "userids" not in envelope


@given(
    json_values,
    st.none() | st.lists(encodable, min_size=1).map(tuple),
    st.dictionaries(encodable, encodable),
)
def test_what_a_log_stores_is_the_event_to_the_byte(
    value: object, users: tuple[str, ...] | None, attributes: dict[str, str]
) -> None:
    data = b" " + msgspec.json.encode(value) + b"\r\n"
    stored = unpack(pack(Event("1", "t", data.strip(), users, attributes)))
    assert stored == Event("1", "t", data.strip(), users, attributes)
