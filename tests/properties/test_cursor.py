"""The cursor: encoding and parsing agree, and no input of a client raises."""

import base64
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tidewire.model.cursor import MAX_LENGTH, MAX_OFFSET, Cursor, Position, Start, encode_one

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
def test_an_encoded_cursor_is_read_again(cursor: Cursor) -> None:
    """Positions share one time: the oldest."""
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
def test_a_cursor_needs_no_escaping(cursor: Cursor) -> None:
    """In a query, a header or an SSE field."""
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
def test_text_that_resembles_a_cursor_raises_nothing(text: str) -> None:
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


def with_names(packed: bytes, positions: str) -> str:
    """A cursor's text with these partitions, as its version 1 packs them."""
    return "1" + base64.urlsafe_b64encode(packed).rstrip(b"=").decode() + ".0" + positions


EPOCH = (7).to_bytes(6, "big")


def test_version_1_is_read_as_it_is_described() -> None:
    """Clients keep cursors over releases."""
    read = Cursor.parse(with_names(b"\x01a" + EPOCH + b"\x02b:" + EPOCH, ".ff-01234567.1-"))
    assert read == Cursor({"a": Position(7, 255, "01234567"), "b:": Position(7, 1)})


@pytest.mark.parametrize(
    ("packed", "positions"),
    [
        (b"\x01a" + EPOCH[:5], ".1-"),  # the epoch is cut
        (b"\x05a" + EPOCH, ".1-"),  # the name is cut
        (b"\x03a b" + EPOCH, ".1-"),
        (b"\x00" + EPOCH, ".1-"),
        (b"\x02\xc3\xa9" + EPOCH, ".1-"),
        (b"\x01a" + EPOCH + b"\x01a" + EPOCH, ".1-.2-"),
        (b"\x01a" + EPOCH, ""),
        (b"\x01a" + EPOCH, ".1-.2-"),
    ],
)
def test_a_cursor_with_other_partitions_is_none(packed: bytes, positions: str) -> None:
    """Names cut, malformed or repeated, or not one position for each: a gap is announced."""
    assert Cursor.parse(with_names(packed, positions)) is None


def test_the_longest_cursor_is_read_and_no_longer_one() -> None:
    """The length is checked before anything is decoded."""
    packed, positions = b"", ""
    for index in range(200):
        packed += b"\x02" + f"{index:02x}".encode() + EPOCH
        positions += ".1-"
    names = with_names(packed, "").removesuffix(".0")
    text = names + ".0" + positions
    missing = MAX_LENGTH - len(text)
    assert 0 < missing < 13 * 200
    # Leading zeros make it longer, and change nothing.
    padded = "".join(f".{'0' * min(13, max(0, missing - 13 * index))}1-" for index in range(200))
    longest = names + ".0" + padded
    assert len(longest) == MAX_LENGTH
    assert Cursor.parse(longest) == Cursor.parse(text) is not None
    assert Cursor.parse(names + ".00" + padded) is None


@pytest.mark.parametrize(
    ("cursor", "names_more"),
    [(None, False), ("not a cursor", False), (Cursor({}).encode(), False)]
    + [(Cursor(dict.fromkeys(named, Position(1, 1))).encode(), more) for named, more in
       [(["a"], False), (["a", "b"], False), (["c"], True), (["a", "b", "c"], True)]],
)  # fmt: skip
def test_a_start_names_more_partitions_than_are_read(cursor: str | None, names_more: bool) -> None:
    """Then the cursor is of another scheme, or of a subscriber who could read more."""
    assert Start(cursor).names_more_than(["a", "b"]) is names_more
