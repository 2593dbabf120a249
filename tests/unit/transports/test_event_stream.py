"""Event streams of Upstash as bytes: any pieces, and no more of them in memory than a line."""

from collections.abc import AsyncIterator

import httpx
import pytest
from tidewire.transports.errors import ConnectionLost, ProtocolError
from tidewire.transports.upstash.event_stream import LINE_BYTES, EventStream

EVENTS = b"data: subscribe,c,1\n\n: keepalive\r\ndata:message,c,a,b\r\n\r\nevent: x\ndata: message,c,\xc3\xa9\n\n"


def stream(*pieces: bytes, error: Exception | None = None, kind: str = "text/event-stream") -> EventStream:
    """A response that arrives in these pieces."""

    async def content() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if error is not None:
            raise error

    return EventStream(httpx.Response(200, headers={"content-type": kind}, content=content()))


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
async def test_data_lines_are_read_from_any_pieces(size: int) -> None:
    """Comments and other fields are left out; no keepalive is documented, and one would be a comment."""
    pieces = [EVENTS[at : at + size] for at in range(0, len(EVENTS), size)]
    assert [data async for data in stream(*pieces).data()] == ["subscribe,c,1", "message,c,a,b", "message,c,é"]


async def test_a_line_without_an_end_is_refused() -> None:
    endless = stream(*[b"data: " + b"x" * 1_000] * (LINE_BYTES // 1_000 + 1))
    with pytest.raises(ProtocolError):
        _ = [data async for data in endless.data()]


async def test_a_cut_stream_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionLost):
        _ = [data async for data in stream(EVENTS, error=httpx.ReadError("reset")).data()]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("text/event-stream; charset=utf-8", True), ("Text/Event-Stream", True), ("text/html", False)],
)
def test_only_an_event_stream_is_one(kind: str, expected: bool) -> None:
    assert stream(kind=kind).is_events is expected
