"""The decoder that all stream tests rely on is checked against the standard and its examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sse_decoder import SseDecoder, SseEvent


def decode(stream: bytes) -> list[SseEvent]:
    return SseDecoder().feed(stream)


def test_an_event_is_dispatched_by_its_blank_line_and_not_before() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"id: 7\nevent: task-updated\ndata: {}\n") == []
    assert decoder.last_event_id == ""
    assert decoder.feed(b"\n") == [SseEvent("task-updated", "{}", "7")]
    assert decoder.last_event_id == "7"


def test_a_frame_with_only_an_id_moves_the_cursor() -> None:
    """It dispatches no event."""
    decoder = SseDecoder()
    assert decoder.feed(b"id: 8\n\n") == []
    assert decoder.last_event_id == "8"
    assert decoder.feed(b"data: x\n\n") == [SseEvent("message", "x", "8")]


def test_an_id_holds_until_the_next_one_also_an_empty_one() -> None:
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n"
    assert [event.last_event_id for event in decode(stream)] == ["1", "1", ""]


def test_an_id_with_nul_is_ignored() -> None:
    assert decode(b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n")[-1].last_event_id == "1"


def test_a_cut_inside_a_frame_leaves_the_cursor_before_it() -> None:
    decoder = SseDecoder("1")
    assert decoder.feed(b"id: 2\ndata: half") == []
    assert decoder.last_event_id == "1"


def test_data_lines_are_joined() -> None:
    """An event name without data is dropped."""
    assert decode(b"event: lost\n\ndata: a\ndata:\ndata: b\n\n") == [SseEvent("message", "a\n\nb", "")]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_counts_once_wherever_the_chunks_are_cut(end: bytes) -> None:
    stream = end.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])
    for cut in range(len(stream) + 1):
        decoder = SseDecoder()
        events = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:])
        assert [event.data for event in events] == ["a\nb", "c"]


def test_a_cr_ends_its_line_before_the_next_byte_is_seen() -> None:
    decoder = SseDecoder()
    assert [event.data for event in decoder.feed(b"data: a\r\r")] == ["a"]
    assert decoder.feed(b"\n") == []


def test_an_empty_chunk_between_cr_and_lf_ends_one_line() -> None:
    decoder = SseDecoder()
    pieces = [b"data: a\r", b"", b"\ndata: b\r\n\r\n"]
    events = [event for piece in pieces for event in decoder.feed(piece)]
    assert [event.data for event in events] == ["a\nb"]


def test_one_byte_order_mark_is_dropped_at_the_start() -> None:
    """Also if chunks cut it; one in the middle of the stream belongs to a line."""
    decoder = SseDecoder()
    pieces = [b"\xef", b"\xbb", b"\xbfdata: a\n\n", b"\xef\xbb\xbfdata: b\n\n"]
    events = [event for piece in pieces for event in decoder.feed(piece)]
    assert [event.data for event in events] == ["a"]


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert decode(b"data: \xff\xe2\x82\n\n")[0].data == "\ufffd\ufffd"


def test_only_line_ends_of_the_standard_end_a_line() -> None:
    separators = "\x0b\x0c\x1c\x85\u2028\u2029"
    assert decode(f"data: {separators}\n\n".encode())[0].data == separators


@pytest.mark.parametrize(
    ("line", "retry_ms"),
    [
        (b"retry: 1730", 1730),
        (b"retry:0", 0),
        (b"retry: 1.5", None),
        (b"retry: -1", None),
        (b"retry: 10s", None),
        (b"retry:  5", None),
        (b"retry", None),
        ("retry: ٣".encode(), None),
    ],
)
def test_retry_takes_ascii_digits_only_and_at_once(line: bytes, retry_ms: int | None) -> None:
    decoder = SseDecoder()
    decoder.feed(line + b"\n")
    assert decoder.retry_ms == retry_ms


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("YHOO\n+2\n10", "")]),
        (
            b": test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
            [("first", "1"), ("second", ""), (" third", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("", ""), ("\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("test", ""), ("test", "")]),
        (b"Data: x\n data: y\ndata : z\n\n", []),
    ],
    ids=["stocks", "comment-and-ids", "empty-data", "one-space", "names-are-exact"],
)
def test_the_examples_of_the_standard(stream: bytes, events: list[tuple[str, str]]) -> None:
    assert [(event.data, event.last_event_id) for event in decode(stream)] == events


PIECES = [b"data", b"id", b"event", b"retry", b":", b" ", b"\r", b"\n", b"\r\n", b"x", b"1", b"\0"]
PIECES += ["\ufeff".encode(), "é€😀".encode(), b"\xe2", b"\xff"]


@given(stream=st.lists(st.sampled_from(PIECES)).map(b"".join), cuts=st.lists(st.integers(0, 60)))
def test_chunk_borders_change_nothing(stream: bytes, cuts: list[int]) -> None:
    whole, cut = SseDecoder(), SseDecoder()
    events: list[SseEvent] = []
    start = 0
    for end in [*sorted(cuts), len(stream)]:
        events += cut.feed(stream[start:end])
        start = max(start, end)
    assert events == whole.feed(stream)
    assert (cut.last_event_id, cut.retry_ms) == (whole.last_event_id, whole.retry_ms)
