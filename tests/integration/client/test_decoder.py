"""The client's decoder against the tests' own decoder, which implements the same standard separately."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tidewire.client import decoder
from tidewire.client.decoder import Decoder, FrameTooLarge

from tests.support.sse_decoder import SseDecoder, SseEvent

PIECES = [
    "data",
    "id",
    "event",
    "retry",
    ":",
    " ",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "x",
    "7",
    "\0",
    "\ufeff",
    "é",
    "𝄞",
    "data: a\n\n",
]

streams = st.lists(st.sampled_from(PIECES)).map(lambda pieces: "".join(pieces).encode()) | st.binary()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes, cut at these offsets."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(streams, st.lists(st.integers(0, 10_000)), st.sampled_from(["", "before"]))
@example(b"data\n\ndata:\ndata:\n\nid\n\nid: 1\n\n", [], "before")
@example("data: é\r\n\r\n".encode(), list(range(20)), "")
def test_bytes_cut_anywhere_decode_as_in_the_standard(data: bytes, places: list[int], last: str) -> None:
    ours, oracle = Decoder(last), SseDecoder(last)
    expected = oracle.feed(data)
    frames = [frame for chunk in cut(data, places) for frame in ours.feed(chunk)]
    seen = [SseEvent(frame.type, frame.data, frame.last_event_id) for frame in frames if frame.data is not None]
    assert seen == expected
    assert (frames[-1].last_event_id if frames else last) == oracle.last_event_id
    assert ours.retry == oracle.retry_ms or (oracle.retry_ms or 0) >= 10**15


def test_an_endless_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "MAX_FRAME", 1_000)
    many, one = Decoder(), Decoder()
    for _ in range(30):  # what is finished does not count
        assert len(many.feed(b"data: " + b"x" * 900 + b"\n\n")) == 1
    assert many.feed(b"data: x\n" * 142) == one.feed(b"x" * 1_000) == []
    with pytest.raises(FrameTooLarge):
        many.feed(b"data: x\n")
    with pytest.raises(FrameTooLarge):
        one.feed(b"x")
