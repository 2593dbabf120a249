"""Where a stream's bytes go: any ASGI server's `send`, or the socket under uvicorn where that is cheaper."""

import asyncio
import logging
import os
import types
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from typing import Any, Protocol

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]


class Send(Protocol):
    """ASGI send, of a server whose `send` is a coroutine function."""

    def __call__(self, message: Any, /) -> Coroutine[Any, Any, None]: ...


class AsgiSink:
    """Writes to one ASGI `send` without a task of its own.

    A server that has room takes the bytes at once: its `send` ends at the first step, and no task switch is paid
    for. Where it waits for the client to read, the rest of that `send` goes on in a task.
    """

    __slots__ = ("_ended", "_owner", "_send", "_waiting", "stuck")

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
        if self._waiting is not None and not self._waiting.done():
            self.stuck = True
            if self._owner is not None:
                self._owner.cancel()
            return
        self._drive({"type": "http.response.body", "body": chunk, "more_body": False})

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


class UvicornSink(AsgiSink):
    """Writes chunks, framed once for all subscribers, to the socket under uvicorn's HTTP/1.1 protocol.

    While nothing is buffered, the kernel takes the bytes in one call; everything else goes the server's own way.
    This uses attributes that uvicorn does not promise, so `sink_for` looks for each of them, and takes `AsgiSink`
    where one is missing or the connection is encrypted.
    """

    __slots__ = ("_descriptor", "_transport")

    def __init__(self, send: Send, cycle: Any) -> None:
        super().__init__(send)
        self._transport = cycle.transport
        self._descriptor: int = cycle.transport.get_extra_info("socket").fileno()

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a chunk; an answer to await means that the client does not keep up."""
        transport = self._transport
        # A closing transport gives its descriptor back, and the next connection gets the same number: without this
        # look, one user's events could be written to another's socket. Both happen on this thread: no race.
        if self._ended or transport.is_closing() or transport.get_write_buffer_size():
            return super().write(chunk)
        framed = _framed(chunk)
        try:
            sent = os.write(self._descriptor, framed)
        except BlockingIOError:
            sent = 0
        except OSError:
            return None  # the client is gone; the transport hears of it by itself
        if sent < len(framed):
            transport.write(framed[sent:])  # now its buffer is not empty, and the next chunk goes the long way
        return None

    @property
    def buffered(self) -> int:
        """What the transport holds for the kernel."""
        return 0 if self._transport.is_closing() else int(self._transport.get_write_buffer_size())


_TRANSPORT = ("write", "is_closing", "get_write_buffer_size", "get_extra_info")


def sink_for(send: Send) -> AsgiSink:
    """Return the cheapest sink for this response; its start must have been sent."""
    cycle = getattr(send, "__self__", None)
    transport: Any = getattr(cycle, "transport", None)
    if (
        getattr(cycle, "chunked_encoding", None) is True
        and all(hasattr(transport, name) for name in _TRANSPORT)
        and transport.get_extra_info("socket") is not None
        and transport.get_extra_info("sslcontext") is None
    ):
        return UvicornSink(send, cycle)
    return AsgiSink(send)


_last: tuple[bytes, bytes] = (b"", b"")


def _framed(chunk: bytes) -> bytes:
    """Return the chunk with its HTTP/1.1 chunk framing (RFC 9112 section 7.1).

    The hub writes one bytes object to all members in a row: the last one framed is most often the next.
    """
    global _last  # noqa: PLW0603 — one entry, replaced whole; a race could only frame twice
    known, framed = _last
    if known is not chunk:
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk)
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
