"""A page has the same records as reading each of its entries on its own."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position, encode_one
from tidewire.model.event import Event
from tidewire.model.record import Record, pack, unpack
from tidewire.model.record_page import RecordPage
from tidewire.protocol.sse import CLOUDEVENTS, DATA, DataFormat
from tidewire.transports.redis.layout import parse_entries, parse_page

ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
data = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
).map(msgspec.json.encode)
events = st.builds(
    Event,
    ids,
    st.sampled_from(["a", "b.c", "data"]),
    data | st.just(b'{"a":\n1,\r"b":2}') | st.just(b'{"x":1,"id":"forged","data":2,"userIds":["u2"]}'),
    st.none() | st.lists(st.sampled_from(["u1", 'u"2', ',"data":', ',"id":"']), min_size=1, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["source", "ext", "time"]), st.text(max_size=5), max_size=2),
    st.sampled_from([None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]),
    st.sampled_from([None, 'vendor=","data":']),
)


def entries(values: list[bytes]) -> list[tuple[bytes, list[bytes]]]:
    return [(b"7-%d" % number, [b"e", value]) for number, value in enumerate(values, 1)]


def stored(*events: Event) -> list[bytes]:
    return [b"%08x%013d" % (number, 1_790_000_000_000 + number // 2) + pack(e) for number, e in enumerate(events, 1)]


@given(st.lists(events, min_size=1, max_size=6))
def test_a_page_has_the_records_that_its_entries_are_one_by_one(page: list[Event]) -> None:
    found = entries(stored(*page))
    assert list(parse_page("all", found)) == parse_entries("all", found)


interests = st.builds(
    Interest,
    st.none() | st.sampled_from(["u1", 'u"2', "nobody"]),
    st.none() | st.frozensets(st.sampled_from(["a", "data"])),
    st.just(()) | st.just(("b.",)),
)


@given(st.lists(events, min_size=1, max_size=6), st.sampled_from([DATA, CLOUDEVENTS]), interests)
def test_frames_of_a_page_are_the_frames_of_its_matching_records(
    page: list[Event], format: DataFormat, interest: Interest
) -> None:
    read = RecordPage.parse("all", 7, 1, stored(*page))
    assert read is not None
    one_by_one = []
    for record in read:
        assert record.position is not None
        if interest.matches(record.event):
            one_by_one.append(format.record(encode_one("all", record.position), record))
    assert format.records(read, read.matching(interest)) == one_by_one


@pytest.mark.parametrize(
    "entry",
    [
        b'{"type":"t","id":"1","userIds":["u1"],"data":1}',
        b'{"id":"1","type":"t","data":{"id":"2","data":3},"userIds":["u1"]}',
        b'{"type":"t","data":1,"id":"1","userIds":["u1"],"attributes":{"a":"b"}}',
        b'{"type":"t","id":"1","data":1,"userIds":["u1"]}',
        b'{"type":"t","id":"1","data":{"userIds":["u2"]},"attributes":{"a":"b"},"userIds":["u1"]}',
    ],
)
def test_an_audience_is_found_wherever_it_stands(entry: bytes) -> None:
    read = RecordPage.parse("all", 7, 1, [b"0badc0de1790000000000" + entry])
    assert read is not None
    assert list(read.matching(Interest("u2"))) == []
    assert list(read.matching(Interest("u1"))) == [0]


@pytest.mark.parametrize(
    "value",
    [
        b'0badc0de1790000000000{"type":"t","userIds":["u1"],"id":"1"}',
        b'0badc0de1790000000000{"type":"t","data":1}',
        b"0badc0de1790000000000",
        b"0badc0de17900",
        b'0badc0de17900000000.0{"type":"t","id":"1","data":1}',
        b'0badc\nde1790000000000{"type":"t","id":"1","data":1}',
        b'0badc0de1790000000000{"type":"t","id":"1","data":1},{"type":"t","id":"2","data":2}',
        b'0badc0de1790000000000{"type":"\xff","id":"1","data":1}',
    ],
)
def test_an_incomplete_entry_makes_no_page(value: bytes) -> None:
    assert RecordPage.parse("all", 7, 1, [*stored(Event("1", "t", b"1")), value]) is None


def test_an_unreadable_entry_leaves_the_others() -> None:
    values = stored(Event("1", "t", b"1"), Event("2", "t", b"2"), Event("3", "t", b"3"))
    values[1] = b"0badc0de1790000000000{broken"
    assert [record.event.id for record in parse_page("all", entries(values))] == ["1", "3"]


@pytest.mark.parametrize("broken", [b"", b'{"a":', b"1}", b"1,2", b"tru", b'"open'])
def test_data_that_is_not_json_is_left_out(broken: bytes) -> None:
    values = stored(Event("1", "t", b"1"), Event("2", "t", broken), Event("3", "t", b"3"))
    assert [record.event.id for record in parse_page("all", entries(values))] == ["1", "3"]


def test_a_log_written_in_the_other_order_is_still_read() -> None:
    old = b"00000001" + b"1790000000000" + b'{"id":"1","type":"t","data":{"a":1.0},"userIds":["u1"]}'
    (record,) = parse_page("all", entries([old]))
    assert record == Record(
        Event("1", "t", b'{"a":1.0}', ("u1",)), "all", Position(7, 1, "00000001", 1_790_000_000_000)
    )


def test_pages_are_cut_by_offset() -> None:
    read = RecordPage.parse("all", 7, 1, stored(*(Event(str(n), "t", b"1") for n in range(1, 6))))
    assert read is not None
    assert [record.event.id for record in read.up_to(3)] == ["1", "2", "3"]
    assert [record.event.id for record in read.up_to(4)] == ["1", "2", "3", "4"]
    assert list(read.up_to(0)) == []
    assert read.up_to(5) is read
    assert [record.event.id for record in read[3:]] == ["4", "5"]
    assert list(read[1:4]) == list(read)[1:4]
    cut = read[2:]
    assert (cut.partition, cut.epoch, cut.first) == ("all", 7, 3)
    assert read[-1].position == Position(7, 5, "00000005", 1_790_000_000_002)


@pytest.mark.parametrize(("end", "is_one_line"), [(b" ", True), (b"\n", False), (b"\r", False), (b"\r\n", False)])
def test_a_page_without_line_ends_needs_no_splitting(end: bytes, is_one_line: bool) -> None:
    """Only such a page is written without a search in each record; a line end in a frame would cut the event."""
    read = RecordPage.parse("all", 7, 1, stored(Event("1", "t", b"[1]"), Event("2", "t", b"[1," + end + b"2]")))
    assert read is not None
    assert read.one_line is is_one_line


@given(events)
def test_packing_and_unpacking_agree(event: Event) -> None:
    attributes: Mapping[str, str] = unpack(pack(event)).attributes
    assert attributes == event.attributes
    assert unpack(pack(event)) == event


def test_an_event_without_a_trace_keeps_the_old_format() -> None:
    assert pack(Event("1", "t", b'{"a":1.0}', ("u1",))) == b'{"type":"t","userIds":["u1"],"id":"1","data":{"a":1.0}}'
