"""Where a stream's bytes go: any ASGI server's `send`, or the connection itself where our server holds it."""

import asyncio
import logging
import os
import types
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from typing import Any, Protocol

from tidewire.delivery.groups import Sink

logger = logging.getLogger(__name__)

CONNECTION = "tidewire.connection"  # an ASGI extension: the scope's way to its `Connection`, under our own server

Message = Mapping[str, Any]


class Send(Protocol):
    """ASGI send, of a server whose `send` is a coroutine function."""

    def __call__(self, message: Any, /) -> Coroutine[Any, Any, None]: ...


class StreamSink(Sink, Protocol):
    """A sink that ends an answer, whatever its client does."""

    stuck: bool
    """The client took nothing when its answer was to end: the app's task was cancelled instead."""

    @property
    def stalled(self) -> bool:
        """Whether the server has cut the client off because it took nothing."""


class Connection(Protocol):
    """What our server gives a stream beside `send`."""

    @property
    def scarce(self) -> bool:
        """Whether so few files are left that no stream is to be opened."""

    @property
    def stalled(self) -> bool:
        """Whether the peer was cut off because it took nothing."""

    @property
    def is_full(self) -> bool:
        """Whether the peer has to read before more is written."""

    def refuse_stream(self) -> None:
        """Note that a stream was refused because files are scarce."""

    def make_sink(self) -> "ConnectionSink":
        """Return where the body goes, once the start of the answer was sent."""

    async def drain(self) -> None:
        """Return once there is room again, or the peer has gone."""

    def end_answer(self) -> None:
        """End the answer, whose last bytes were written."""


class AsgiSink:
    """Writes to one ASGI `send` without a task of its own.

    A server that has room takes the bytes at once: its `send` ends at the first step, and no task switch is paid
    for. Where it waits for the client to read, the rest of that `send` goes on in a task.
    """

    __slots__ = ("_ended", "_owner", "_send", "_waiting", "stuck")

    stalled = False  # what the server does is not shown

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: asyncio.Task[None] | None = None
        self._ended = False
        self._owner = asyncio.current_task()
        self.stuck = False

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a chunk; an answer to await means that the client does not keep up."""
        if self._ended:
            return None
        return self._drive({"type": "http.response.body", "body": chunk, "more_body": True})

    def end(self, chunk: bytes) -> None:
        """Send the last chunk and end the response; a client that takes nothing is cut off instead."""
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
        """The server's own buffer, which ASGI does not show."""
        return 0

    def _drive(self, message: Message) -> asyncio.Task[None] | None:
        sending = self._send(message)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return None
        except Exception:  # the server says in its own way that the client is gone
            logger.debug("a stream's client is gone", exc_info=True)
            self._ended = True
            return None
        self._waiting = asyncio.get_running_loop().create_task(_finish(sending, waits_for))
        return self._waiting


class ConnectionSink:
    """Writes the chunks of one answer, framed once for all subscribers, to the socket of its connection.

    While nothing is buffered the kernel takes the bytes in one call.
    """

    __slots__ = ("_chunked", "_connection", "_descriptor", "_ended", "_transport", "_waiting")

    stuck = False  # it never holds up the end of its answer

    def __init__(self, connection: "Connection", transport: asyncio.Transport, *, chunked: bool) -> None:
        """Write to the socket under `transport`; without chunks for an HTTP/1.0 client."""
        self._connection = connection
        self._transport = transport
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self._chunked = chunked
        self._ended = False
        self._waiting: asyncio.Task[None] | None = None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a chunk; an answer to await means that the client does not keep up."""
        transport = self._transport
        # A closing transport gives its descriptor back, and the next connection gets the same number: without this
        # look, one user's events could be written to another's socket. Both happen on this thread: no race.
        if self._ended or transport.is_closing():
            return None
        framed = _framed(chunk) if self._chunked else chunk
        if self._connection.is_full:
            self._waiting = asyncio.get_running_loop().create_task(self._write_later(framed))
            return self._waiting
        self._write_now(framed)
        return None

    def end(self, chunk: bytes) -> None:
        """Send the last chunk and end the answer; a client that does not take it soon is cut off."""
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
        """What the transport holds for the kernel."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    @property
    def stalled(self) -> bool:
        """Whether the connection was cut off because its client took nothing."""
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
            return  # the client is gone; the transport notices by itself
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

    The hub writes one bytes object to all members in a row: the last one framed is most often the next.
    """
    global _last  # noqa: PLW0603 — one entry, replaced whole; a race could only frame twice
    known, framed = _last
    if known is not chunk:
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""  # an empty chunk would be the end
        _last = (chunk, framed)
    return framed


async def _finish(sending: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _resume(sending, waits_for)


@types.coroutine
def _resume(sending: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was stepped by hand and is waiting for `waits_for`."""
    while True:
        try:
            try:
                answer = yield waits_for
            except BaseException as error:  # noqa: BLE001 — cancellation belongs to the coroutine too
                waits_for = sending.throw(error)
            else:
                waits_for = sending.send(answer)
        except StopIteration:
            return
