"""Uses the private parts of uvicorn and httptools, which may change: no other module of Tidewire uses them.

`HttpConnection` and `HttpServer` are the interface for connection.py and server.py.
tests/integration/server/test_uvicorn.py names each private part, so that an update that changes one fails there and
does not silently disable a limit.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState as UvicornState

from tidewire.http.sinks import CONNECTION

logger = logging.getLogger(__name__)

MAX_QUEUED = 16  # pipelined requests that wait for the response before them


class MalformedError(Exception):
    """The peer does not send HTTP."""


class TunnelError(Exception):
    """The peer sends CONNECT."""


class QueueFullError(Exception):
    """The peer pipelines more than `MAX_QUEUED` requests."""


class ServerState(UvicornState):
    """The state that the connections of one server share."""

    def count(self) -> int:
        """Return the number of open connections."""
        return len(self.connections)


class HttpConnection(HttpToolsProtocol):
    """One HTTP/1.1 connection: parses requests, runs the app for one at a time, and counts what it receives.

    Unlike uvicorn it keeps reading while a response is under way. A paused reader would not notice that its peer has
    closed, and the stream would stay open.
    """

    server_state: ServerState  # type: ignore[mutable-override]  # `HttpServer` makes it
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # of the latest request head
    pipeline: "_Pipeline"  # type: ignore[assignment]  # smaller than uvicorn's deque

    # Defaults on the class: an idle stream stores only the values that differ.
    framing = 0  # bytes of the current message that are not content: head, chunk sizes and extensions, trailers
    content = 0  # bytes of content of the current message
    dropped = 0  # bytes of the current message that were dropped; a subclass counts them
    _messages = 0  # requests that have begun
    _answering: RequestResponseCycle | None = None
    _in_message = _in_head = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pipeline = _Pipeline()

    # For a subclass: hooks

    def close(self) -> None:
        """Close the connection; the transport still sends what it has buffered."""
        self.transport.close()

    def response_completed(self) -> None:
        """React to a complete response; the next request of the pipeline has been started, if there is one."""

    # For a subclass: state

    @property
    def is_answering(self) -> bool:
        """Whether a response is under way."""
        return self._answering is not None and not self._answering.response_complete

    @property
    def is_receiving(self) -> bool:
        """Whether the body of the request that is or was answered last is still incomplete."""
        return self._in_message and not self._in_head and self.cycle is self._answering

    @property
    def is_in_message(self) -> bool:
        """Whether a request has begun and is incomplete."""
        return self._in_message

    @property
    def has_response_started(self) -> bool:
        """Whether the response under way has sent its status."""
        return self._answering is not None and self._answering.response_started

    @property
    def is_chunked(self) -> bool:
        """Whether the body of the response under way, whose start was sent, is chunked."""
        return self._answering is not None and self._answering.chunked_encoding is True

    @property
    def is_read_paused(self) -> bool:
        """Whether reading is paused because the app consumes the body slowly."""
        return self.flow.read_paused

    @property
    def is_full(self) -> bool:
        """Whether the peer must read before more is written."""
        return self.flow.write_paused

    async def drain(self) -> None:
        """Return once the peer has read enough, or has disconnected."""
        await self.flow.drain()

    # For a subclass: actions

    def feed(self, piece: bytes) -> tuple[bytes, bytes] | None:
        """Parse bytes. Raises MalformedError, TunnelError and QueueFullError.

        Returns None, or bytes to parse again in two parts, if a request offers another protocol (RFC 9110
        section 7.8): its head without the offer, and the rest. The parser takes everything after such a head as the
        other protocol, but here it is the request body.
        """
        messages, content = self._messages, self.content
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(), piece[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            raise (QueueFullError if isinstance(error.__context__, QueueFullError) else MalformedError) from None
        if self._messages == messages:
            self.framing += len(piece) - (self.content - content)
        return None

    def end_with_last(self) -> None:
        """Close after the last complete request was answered, and drop an incomplete one from the queue.

        The peer sends the unanswered requests again on another connection (RFC 9112 section 9.3.2).
        """
        if self._in_message and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.pop(0)
        self._in_message = self._in_head = False
        self.cycle = self._close_after_last()

    def abandon_answer(self) -> None:
        """Signal a disconnect to the app that is answering."""
        if self._answering is not None:
            _disconnect(self._answering)

    def end_answer(self) -> None:
        """End the response after its last bytes were written.

        Bytes that the peer has not read yet delay only this connection, and for a limited time.
        """
        cycle = self._answering
        if cycle is None or cycle.disconnected or cycle.response_complete or self.transport.is_closing():
            return
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive or self.transport.get_write_buffer_size():
            self.close()
        cycle.on_response()

    def set_timer(self, seconds: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call back in so many seconds; a connection has one timer."""
        self.timeout_keep_alive_task = self.loop.call_later(seconds, callback, *arguments)

    def clear_timer(self) -> None:
        """Cancel the timer, if there is one."""
        self._unset_keepalive_if_required()

    # Called by the event loop and the server

    def connection_lost(self, exc: Exception | None) -> None:
        """Signal the disconnect to the app of every request: uvicorn does so for the latest one only."""
        self.clear_timer()
        self.abandon_answer()
        self.pipeline.clear()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close now if no response is under way, else after the last one."""
        if self.is_answering:
            self._close_after_last()
        else:
            self.close()

    # Called by the parser

    def on_message_begin(self) -> None:
        """Start counting a request."""
        if len(self.pipeline) >= MAX_QUEUED:
            raise QueueFullError
        self._messages, self._in_message, self._in_head = self._messages + 1, True, True
        self.framing = self.content = self.dropped = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; ignore trailers."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Run the app, or queue the request behind the response under way."""
        if self.parser.should_upgrade():
            return  # `feed` returns this head to be parsed again
        self._in_head = False
        super().on_headers_complete()
        if self.pipeline:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Keep content for the app."""
        self.content += len(body)
        if self.cycle is self._answering:
            super().on_body(body)
        elif self.cycle is not None:
            self.cycle.body += body  # a queued request: its size is limited, so reading goes on

    def on_message_complete(self) -> None:
        """Mark the request as complete."""
        if self.parser.should_upgrade():
            return
        self._in_message, self.framing = False, 0
        super().on_message_complete()

    # Called by uvicorn's request cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        # A weak reference: with a strong one only the garbage collector would free a closed connection.
        cycle.scope["extensions"] = {CONNECTION: weakref.proxy(self)}
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] != "1.0" else _until_close(cycle, app))

    def on_response_complete(self) -> None:
        """Start the next request of the pipeline."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
        self.response_completed()

    def _close_after_last(self) -> RequestResponseCycle:
        last = self.pipeline[0][0] if self.pipeline else self._answering
        assert last is not None
        last.keep_alive = False
        return last

    def _without_upgrade(self) -> bytes:
        """Reset the parser, and return the request head without its offer of another protocol."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise TunnelError
        head = _without_offer(method, self.url, self.parser.get_http_version(), self.headers)
        self._messages -= 1
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head


class HttpServer(uvicorn.Server):
    """A uvicorn server that accepts connections by `accept`, and calls `on_stop` as soon as it is asked to stop.

    uvicorn itself waits for open responses before it runs the lifespan's shutdown, but a stream never ends by itself.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        accept: Callable[[socket.socket], Coroutine[Any, Any, None]],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.server_state: ServerState = state  # type: ignore[mutable-override]  # a subclass
        self.servers = []  # none of the event loop's servers is used
        self._accept = accept
        self._on_start = on_start
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting connections."""
        assert sockets is not None
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in sockets]
        for accepting in self._accepting:
            accepting.add_done_callback(self._stop_if_failed)
        self.started = True
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, then wait for the open responses."""
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._on_stop()
        await super().shutdown(sockets)

    def _stop_if_failed(self, accepting: "asyncio.Task[None]") -> None:
        """End the process: a server that no longer accepts connections must not stay alive."""
        if not accepting.cancelled() and (error := accepting.exception()) is not None:
            logger.critical("cannot accept connections any more", exc_info=error)
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGINT and SIGTERM while serving.

        uvicorn's own version raises the signal again at the end: it would kill the process before its connections to
        the store are closed, with the exit status of a failure.
        """
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


class _Pipeline(list[Any]):
    """Queued requests, with the methods of a deque that uvicorn calls.

    An empty deque takes 624 bytes, 5 % of the memory of an idle stream.
    """

    def appendleft(self, request: Any) -> None:
        """Queue a request behind all others."""
        self.insert(0, request)


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


def _until_close(cycle: RequestResponseCycle, app: Any) -> Any:
    """Return the app for HTTP/1.0: the end of the connection ends a body without a length (RFC 9112 section 6.3)."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        has_length = True

        async def send_unframed(message: Mapping[str, Any]) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unframed)

    return run


def _without_offer(method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a request head without the Upgrade header, and without `upgrade` among the Connection options."""
    kept = [name + b": " + value for name, value in headers if name not in (b"connection", b"upgrade")]
    options = [option.strip() for name, value in headers if name == b"connection" for option in value.split(b",")]
    others = [option for option in options if option.lower() != b"upgrade"]
    if others:
        kept.append(b"connection: " + b", ".join(others))
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, url, version.encode()), *kept, b"", b""])
