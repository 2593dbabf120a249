"""HTTP/1.1 on one connection, over uvicorn: what a peer may send, and for how long it may be silent.

What uvicorn does not promise is used in this module, and what its server does not in serving.py and accepting.py.
tests/server/test_uvicorn.py names it all, so that an update that changes it fails there.
"""

import asyncio
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from functions.accepting import State
from functions.answers import on_the_wire
from functions.sinks import CONNECTION, ConnectionSink
from shared.problem import problem

MAX_HEAD_BYTES = 64 * 1024  # of a request's head, and of its trailers; proxies seldom pass on more than 16 KiB
PIECE_BYTES = 16 * 1024  # parsed at a time: how exactly the bounds below are kept
MAX_QUEUED = 16  # requests that came before the last answer was complete
MAX_QUEUED_BYTES = 64 * 1024  # of these together
MAX_DROPPED_BYTES = 16 * 1024 * 1024  # that a peer may send on after its answer; then it is cut off
DROPPING_SECONDS = 5.0  # for which it may
CLOSING_SECONDS = 3.0  # for which a closed connection may wait for its peer to read on

Owed = Literal["request", "head", "body", "rest", "closing"]


class Connection(HttpToolsProtocol):
    """One connection: bounds what is kept before a request is whole, and sees at any time whether its peer is there.

    Reading is never paused for what comes behind a request: a peer that has closed would not be noticed, and its
    stream would live on.
    """

    server_state: State  # type: ignore[mutable-override]
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # of the request whose head came last
    pipeline: "_Pipelined"  # type: ignore[assignment]

    # On the class: a quiet stream keeps only what differs.
    stalled = False  # the peer took nothing for so long that it was cut off
    _answering: RequestResponseCycle | None = None
    _messages = 0  # begun
    _in_message = _in_head = False
    _framing = 0  # bytes of the message that are no content: its head, chunk sizes and extensions, trailers
    _content = 0  # bytes of the message that are
    _queued = 0  # bytes that came behind the request that is being answered
    _dropped = 0
    _deaf = False  # what comes is dropped, and the connection ends with the answers that it owes
    _owed: Owed | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pipeline = _Pipelined()

    # What the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse, until a bound is passed."""
        if self._deaf:
            self._drop(len(data))
            return
        self._parse(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let everyone know who works for this peer: uvicorn does only for its last request."""
        self.stalled = isinstance(exc, TimeoutError)  # ETIMEDOUT, by TCP_USER_TIMEOUT
        self._deaf = True
        self._unset_keepalive_if_required()
        self.server_state.silent.pop(self, None)
        if self._answering is not None:
            _disconnect(self._answering)
        self.pipeline.clear()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close at once where nothing is being answered, else after that."""
        if self._is_answering:
            self._end_with_last()
        else:
            self._close()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin to count."""
        if len(self.pipeline) >= MAX_QUEUED:
            raise _TooManyQueuedError
        self._messages, self._in_message, self._in_head = self._messages + 1, True, True
        self._framing = self._content = self._dropped = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are nobody's."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Answer the request, or let it wait until those before it have been answered."""
        if self.parser.should_upgrade():
            return  # `_feed` reads it again
        self._in_head = False
        super().on_headers_complete()
        if self.pipeline:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Keep content that the app will read."""
        self._content += len(body)
        if self.cycle is self._answering:
            super().on_body(body)
        elif self.cycle is not None:
            self.cycle.body += body  # bounded by what may be queued: reading goes on

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self.parser.should_upgrade():
            return
        self._in_message, self._framing = False, 0
        super().on_message_complete()

    # What the app's answer calls

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        cycle.scope["extensions"] = {CONNECTION: weakref.proxy(self)}  # else the collector would have to find us
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] != "1.0" else _until_close(cycle, app))

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_closing(self.server_state.settings.stall_seconds)
            return
        self.flow.resume_reading()
        self._queued = 0
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        self._watch()  # its body may be still to come

    # What a stream uses

    @property
    def scarce(self) -> bool:
        """Whether so few files are left that no stream is to be opened."""
        return self.server_state.files.is_full(self.server_state.count())

    def refuse_stream(self) -> None:
        """Note that a stream was refused because files are scarce."""
        self.server_state.files.warn("%d of %d files are in use: streams are refused", self.server_state.count())

    def make_sink(self) -> ConnectionSink:
        """Return where the body of the answer goes; its start must have been sent."""
        assert self._answering is not None
        return ConnectionSink(self, self.transport, chunked=self._answering.chunked_encoding is True)

    @property
    def is_full(self) -> bool:
        """Whether the peer has to read before more is written."""
        return self.flow.write_paused

    async def drain(self) -> None:
        """Return once there is room again, or the peer has gone."""
        await self.flow.drain()

    def end_answer(self) -> None:
        """End the answer, whose last bytes were written.

        What its peer has not taken yet holds up nobody but itself, and not for long.
        """
        cycle = self._answering
        if cycle is None or cycle.disconnected or cycle.response_complete or self.transport.is_closing():
            return
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive or self.transport.get_write_buffer_size():
            self._close()
        cycle.on_response()

    # Bounds

    def _parse(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self._feed(data[start : start + PIECE_BYTES])
            if self._deaf:
                return

    def _feed(self, piece: bytes) -> None:
        messages, content = self._messages, self._content
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooManyQueuedError):
                self._stop_reading()
            else:
                self._refuse(400, "The request is not valid HTTP")
            return
        if self._messages == messages:
            self._framing += len(piece) - (self._content - content)
        if self._framing > MAX_HEAD_BYTES + self._content:  # small chunks are taken, as long as they hold something
            what = "Chunk extensions and trailers" if self._receiving else "The path and the headers"
            self._refuse(431, f"{what} may have at most {MAX_HEAD_BYTES // 1024} KiB")
        elif not self._is_answering:
            if self._receiving:  # it was answered before it was whole
                self._drop(len(piece))
        elif not self._receiving:
            self._queued += len(piece)
            if self._queued > MAX_QUEUED_BYTES:
                self._stop_reading()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read a request that offers another protocol again, without the offer (RFC 9110 section 7.8).

        The parser takes what follows such a head for the other protocol's; here it is the body.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(501, "This is no proxy")
            return
        head = _without_offer(method, self.url, self.parser.get_http_version(), self.headers)
        self._messages -= 1
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(head)
        if not self._deaf:
            self._parse(rest)

    def _stop_reading(self) -> None:
        """Answer the requests that are whole, then close; the peer sends the others again (RFC 9112 section 9.3.2)."""
        self._deaf = True
        if self._in_message and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.pop(0)
        self._in_message = self._in_head = False
        self.cycle = self._end_with_last()

    def _end_with_last(self) -> RequestResponseCycle:
        last = self.pipeline[0][0] if self.pipeline else self._answering
        assert last is not None
        last.keep_alive = False
        return last

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > MAX_DROPPED_BYTES:
            self._deaf = True
            self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer and close: what follows on this connection may be the rest of the request.

        An answer that has begun is finished before, and is the last one.
        """
        if self._is_answering:
            assert self._answering is not None
            if not self._receiving or self._answering.response_started:
                self._stop_reading()
                return
            _disconnect(self._answering)  # the app waits for the rest of the body
        elif self._receiving:  # it has been answered
            self._close()
            return
        self.transport.write(on_the_wire(problem(status, detail, headers={"connection": "close"})))
        self._close()

    # Deadlines

    def _watch(self) -> None:
        """Start the time for what the peer owes now; what it owed already has its time."""
        owed = self._owes()
        if self._owed in (owed, "closing"):
            return
        self._owed = owed
        self._unset_keepalive_if_required()
        if owed is None:
            self.server_state.silent.pop(self, None)
            return
        self.server_state.silent.setdefault(self)
        of = self.server_state.settings
        seconds = {"request": of.keep_alive, "head": of.head_seconds, "body": of.body_seconds, "rest": DROPPING_SECONDS}
        self._expire_after(seconds[owed])

    def _owes(self) -> Owed | None:
        if self._receiving:
            return "body" if self._is_answering else "rest"
        if self._is_answering:
            return None
        return "head" if self._in_message else "request"

    def _expire(self) -> None:
        settings = self.server_state.settings
        match self._owed:
            case "head":
                self._refuse(408, f"The head must come within {settings.head_seconds:g} s (REALTIME_HEAD_SECONDS)")
            case "body" if self.flow.read_paused:  # the app is slow, not the peer
                self._expire_after(settings.body_seconds)
            case "body" if self._answering is not None and self._answering.response_started:
                self.transport.abort()
            case "body":
                self._refuse(408, f"The body must come within {settings.body_seconds:g} s (REALTIME_BODY_SECONDS)")
            case _:
                self._close()

    def _expire_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._expire)

    def _close(self) -> None:
        self._deaf = True
        self.transport.close()
        self._watch_closing(CLOSING_SECONDS)

    def _watch_closing(self, seconds: float) -> None:
        """Cut the peer off once it has taken nothing for so long: a transport would wait for it without end."""
        if self._owed != "closing":
            self._owed = "closing"
            self._unset_keepalive_if_required()
            self._cut_off_after(seconds)

    def _cut_off_after(self, seconds: float) -> None:
        left = self.transport.get_write_buffer_size()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._cut_off, seconds, left)

    def _cut_off(self, seconds: float, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._cut_off_after(seconds)
        else:
            self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    @property
    def _receiving(self) -> bool:
        """Whether the request that is or was answered last is not whole yet."""
        return self._in_message and not self._in_head and self.cycle is self._answering


class _Pipelined(list[Any]):
    """Requests that came before the last answer was complete: the part of a deque that uvicorn uses.

    An empty deque has 624 bytes, a twentieth of what a quiet stream takes.
    """

    def appendleft(self, request: Any) -> None:
        """Put one behind all others."""
        self.insert(0, request)


class _TooManyQueuedError(Exception):
    """A peer sends more requests than are kept for it."""


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Let the app see that its client has gone."""
    cycle.disconnected = True
    cycle.message_event.set()


def _until_close(cycle: RequestResponseCycle, app: Any) -> Any:
    """Answer HTTP/1.0: a body without a length ends with the connection, and has no chunks (RFC 9112 section 6.1)."""

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
    """Return a request's head without its Upgrade, and without that word among its Connection options."""
    kept = [name + b": " + value for name, value in headers if name not in (b"connection", b"upgrade")]
    options = [option.strip() for name, value in headers if name == b"connection" for option in value.split(b",")]
    others = [option for option in options if option.lower() != b"upgrade"]
    if others:
        kept.append(b"connection: " + b", ".join(others))
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, url, version.encode()), *kept, b"", b""])
