"""Sinks for the frames of a stream: `send` under any ASGI server, or the socket itself under Tidewire's own server."""

import asyncio
import logging
import os
import types
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from typing import Any, Protocol

from tidewire.delivery.groups import Sink

logger = logging.getLogger(__name__)

CONNECTION = "tidewire.connection"  # the ASGI extension by which Tidewire's own server passes the `Connection`

Message = Mapping[str, Any]


class Send(Protocol):
    """ASGI send of a server whose `send` is a coroutine function."""

    def __call__(self, message: Any, /) -> Coroutine[Any, Any, None]: ...


class StreamSink(Sink, Protocol):
    """A sink that can end its response even if the client reads nothing."""

    stuck: bool
    """The client read nothing when the response was to end, so the app's task was cancelled."""

    @property
    def stalled(self) -> bool:
        """Whether the server aborted the connection because the client read nothing."""


class Connection(Protocol):
    """The interface that Tidewire's own server offers a stream beside `send`."""

    @property
    def scarce(self) -> bool:
        """Whether so few files are left that no stream may be opened."""

    @property
    def stalled(self) -> bool:
        """Whether the connection was aborted because the peer read nothing."""

    @property
    def is_full(self) -> bool:
        """Whether the peer must read before more is written."""

    def refuse_stream(self) -> None:
        """Log that a stream was refused because files are scarce."""

    def make_sink(self) -> "ConnectionSink":
        """Return the sink for the body of the response, whose start must have been sent."""

    async def drain(self) -> None:
        """Return once the peer has read enough, or has disconnected."""

    def end_answer(self) -> None:
        """End the response after its last bytes were written."""


class AsgiSink:
    """Writes to one ASGI `send` without a task of its own.

    While the server's buffer has room, its `send` returns at the first step, without a task switch. If it waits for
    the client to read, the rest of that `send` runs in a task.
    """

    __slots__ = ("_ended", "_owner", "_send", "_waiting", "stuck")

    stalled = False  # ASGI does not reveal it

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: asyncio.Task[None] | None = None
        self._ended = False
        self._owner = asyncio.current_task()
        self.stuck = False

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a chunk; a returned awaitable means that the client is slow, and ends once the chunk is sent."""
        if self._ended:
            return None
        return self._drive({"type": "http.response.body", "body": chunk, "more_body": True})

    def end(self, chunk: bytes) -> None:
        """Send the last chunk and end the response; if the client reads nothing, cancel the app's task instead."""
        if self._ended:
            return
        self._ended = True
        waits = self._waiting is not None and not self._waiting.done()
        if waits or self._drive({"type": "http.response.body", "body": chunk, "more_body": False}) is not None:
            self.stuck = True
            if self._owner is not None:
                self._owner.cancel()

    @property
    def buffered(self) -> int:
        """Always 0: ASGI does not reveal the server's buffer."""
        return 0

    def _drive(self, message: Message) -> asyncio.Task[None] | None:
        sending = self._send(message)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return None
        except Exception:  # each server signals a disconnected client in its own way
            logger.debug("the client of a stream has disconnected", exc_info=True)
            self._ended = True
            return None
        self._waiting = asyncio.get_running_loop().create_task(_finish(sending, waits_for))
        return self._waiting


class ConnectionSink:
    """Writes the chunks of one response to the socket of its connection.

    The chunk framing is made once for all subscribers. While nothing is buffered, one system call passes the bytes to
    the kernel.
    """

    __slots__ = ("_chunked", "_connection", "_descriptor", "_ended", "_transport", "_waiting")

    stuck = False  # a slow client never delays the end of the response

    def __init__(self, connection: "Connection", transport: asyncio.Transport, *, chunked: bool) -> None:
        """Write to the socket of `transport`; an HTTP/1.0 client gets no chunks."""
        self._connection = connection
        self._transport = transport
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self._chunked = chunked
        self._ended = False
        self._waiting: asyncio.Task[None] | None = None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a chunk; a returned awaitable means that the client is slow, and ends once the chunk is sent."""
        transport = self._transport
        # A closing transport frees its descriptor, and the next connection gets the same number: without this check,
        # one user's events could be written to another user's socket. Both happen on this thread, so there is no race.
        if self._ended or transport.is_closing():
            return None
        framed = _framed(chunk) if self._chunked else chunk
        if self._connection.is_full:
            self._waiting = asyncio.get_running_loop().create_task(self._write_later(framed))
            return self._waiting
        self._write_now(framed)
        return None

    def end(self, chunk: bytes) -> None:
        """Send the last chunk and end the response; a client that does not read it soon is disconnected."""
        if self._ended:
            return
        self._ended = True
        if self._waiting is not None:
            self._waiting.cancel()
        if not self._transport.is_closing():
            self._write_now(_framed(chunk) + _LAST_CHUNK if self._chunked else chunk)
        self._connection.end_answer()

    @property
    def buffered(self) -> int:
        """Bytes that the transport has not passed to the kernel yet."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    @property
    def stalled(self) -> bool:
        """Whether the connection was aborted because the client read nothing."""
        return self._connection.stalled

    def _write_now(self, framed: bytes) -> None:
        transport = self._transport
        if transport.get_write_buffer_size():
            transport.write(framed)
            return
        try:
            sent = os.write(self._descriptor, framed)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the client has disconnected; the transport notices that by itself
        if sent < len(framed):
            transport.write(framed[sent:])

    async def _write_later(self, framed: bytes) -> None:
        await self._connection.drain()
        if not self._transport.is_closing():
            self._transport.write(framed)


_LAST_CHUNK = b"0\r\n\r\n"
_last: tuple[bytes, bytes] = (b"", b"")


def _framed(chunk: bytes) -> bytes:
    """Return the chunk with its HTTP/1.1 chunk framing (RFC 9112 section 7.1).

    The hub writes one bytes object to all members in a row, so the chunk framed last is usually the next one too.
    """
    global _last  # noqa: PLW0603 — one entry, replaced as a whole; a race could only frame a chunk twice
    known, framed = _last
    if known is not chunk:
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""  # an empty chunk would end the body
        _last = (chunk, framed)
    return framed


async def _finish(sending: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _resume(sending, waits_for)


@types.coroutine
def _resume(sending: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Run the rest of a coroutine that was stepped by hand and waits for `waits_for`."""
    while True:
        try:
            try:
                answer = yield waits_for
            except BaseException as error:  # noqa: BLE001 — the coroutine receives cancellation too
                waits_for = sending.throw(error)
            else:
                waits_for = sending.send(answer)
        except StopIteration:
            return
