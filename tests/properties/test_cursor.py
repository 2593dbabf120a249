"""The cursor: what was encoded is read again, and nothing that a client can send raises."""

import string

from hypothesis import example, given
from hypothesis import strategies as st
from tidewire.model.cursor import MAX_LENGTH, MAX_OFFSET, Cursor, Position, encode_one

TIMES = st.integers(0, 2**48 - 1)
names = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=160)
positions = st.builds(
    Position,
    st.integers(0, 2**48 - 1),
    st.integers(0, MAX_OFFSET),
    st.just("") | st.text("0123456789abcdef", min_size=8, max_size=8),
    TIMES,
)
cursors = st.builds(Cursor, st.dictionaries(names, positions, max_size=8))


def without_times(cursor: Cursor) -> dict[str, Position]:
    return {name: position._replace(time=0) for name, position in cursor.positions.items()}


@given(cursors)
def test_what_was_encoded_is_read_again_with_the_oldest_time_for_all(cursor: Cursor) -> None:
    read = Cursor.parse(cursor.encode())
    assert read is not None
    assert without_times(read) == without_times(cursor)
    assert {position.time for position in read.positions.values()} <= {cursor.time}


@given(cursors, TIMES)
def test_a_time_that_is_given_replaces_the_oldest(cursor: Cursor, time: int) -> None:
    read = Cursor.parse(cursor.encode(time))
    assert read is not None
    assert {position.time for position in read.positions.values()} <= {time}


@given(names, positions)
def test_the_short_way_for_one_partition_writes_the_same(name: str, position: Position) -> None:
    assert encode_one(name, position) == Cursor({name: position}).encode()


@given(cursors)
def test_it_passes_unescaped_through_a_query_a_header_and_an_sse_field(cursor: Cursor) -> None:
    assert set(cursor.encode()) <= set(string.ascii_letters + string.digits + "-._~")


@given(st.dictionaries(names, positions, max_size=8), st.randoms(use_true_random=False))
def test_the_order_in_which_partitions_were_seen_does_not_show(places: dict[str, Position], dice: object) -> None:
    assert Cursor(dict(reversed(places.items()))).encode() == Cursor(places).encode()


@given(st.text())
@example("1" * (MAX_LENGTH + 1))
@example("1\n")
@example("1.0.0-")
@example("1..0")
@example("1.0\n")
@example("1.٣")
@example("1A2FsbA.0.0-")
@example("1" + "A" * (MAX_LENGTH - 1))
def test_no_text_raises(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or Cursor.parse(cursor.encode()) == cursor


@given(
    st.text("0123456789abcdefABCDEF-._", max_size=40).map(lambda text: "1" + text)
    | st.builds(lambda a, b, c: f"1{a}.{b}{c}", st.text("AB-_", max_size=8), st.text("0f"), st.text(".0f-"))
)
def test_nothing_that_looks_like_a_cursor_raises(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or Cursor.parse(cursor.encode()) == cursor


@given(cursors, st.data())
def test_a_damaged_cursor_does_not_raise(cursor: Cursor, data: st.DataObject) -> None:
    text = cursor.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    damage = data.draw(st.sampled_from(["", ".", "-", "0", "A", "é", "\n", "\0", "=", "+"]))
    damaged = Cursor.parse(text[:at] + damage + text[at + 1 :])
    assert damaged is None or all(at.offset <= MAX_OFFSET for at in damaged.positions.values())


@given(st.integers(MAX_OFFSET + 1, 2**64))
def test_an_offset_that_not_every_store_can_count_is_no_cursor(offset: int) -> None:
    text = Cursor({"all": Position(1, offset)}).encode()
    assert Cursor.parse(text) is None
