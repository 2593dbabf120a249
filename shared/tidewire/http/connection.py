"""Limits of one HTTP/1.1 connection: the bytes that a peer may send, and the time that it may be silent."""

import asyncio
from http import HTTPStatus
from typing import Literal

from tidewire.http.accepting import State
from tidewire.http.sinks import ConnectionSink
from tidewire.http.uvicorn_private import HttpConnection, MalformedError, QueueFullError, TunnelError
from tidewire.protocol.problem import Problem, problem

MAX_HEAD_BYTES = 64 * 1024  # of a request head, and of trailers; proxies rarely forward more than 16 KiB
PIECE_BYTES = 16 * 1024  # parsed at a time: the precision of the limits in bytes
MAX_QUEUED_BYTES = 64 * 1024  # of all requests that wait for the response before them
MAX_DROPPED_BYTES = 16 * 1024 * 1024  # that a peer may send after its response; then the connection is aborted
DROPPING_SECONDS = 5.0  # for which a peer may send after its response
CLOSING_SECONDS = 3.0  # without progress, after which a closed connection is aborted

Owed = Literal["request", "head", "body", "rest", "closing"]
"""What the peer has to do next, within its own deadline; `rest` is the rest of a body that was answered early."""


class Connection(HttpConnection):
    """One connection, with limits on the bytes kept before a request is complete, and on the time a peer may take."""

    server_state: State  # type: ignore[mutable-override]  # `Server` makes it

    # Defaults on the class: an idle stream stores only the values that differ.
    stalled = False  # the connection was aborted because the peer read nothing for too long
    _queued = 0  # bytes received behind the request that is being answered
    _deaf = False  # further bytes are dropped, and the connection ends after the responses that it owes
    _owed: Owed | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse until a limit is exceeded."""
        if self._deaf:
            self._drop(len(data))
            return
        self._parse(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.stalled = isinstance(exc, TimeoutError)  # ETIMEDOUT, by TCP_USER_TIMEOUT
        self._deaf = True
        self.server_state.silent.pop(self, None)
        super().connection_lost(exc)

    def response_completed(self) -> None:
        """Start the deadline for what the peer has to do next."""
        if self.transport.is_closing():
            self._watch_closing(self.server_state.settings.stall_seconds)
            return
        self._queued = 0
        self._watch()

    def close(self) -> None:
        """Close, and abort if the peer then makes no progress."""
        self._deaf = True
        super().close()
        self._watch_closing(CLOSING_SECONDS)

    def abort(self) -> None:
        """Close at once, without sending what is buffered."""
        self.transport.abort()

    # Used by streams

    @property
    def scarce(self) -> bool:
        """Whether so few files are left that no stream may be opened."""
        return self.server_state.files.is_full(self.server_state.count())

    def refuse_stream(self) -> None:
        """Log that a stream was refused because files are scarce."""
        self.server_state.files.warn("%d of %d files are in use: streams are refused", self.server_state.count())

    def make_sink(self) -> ConnectionSink:
        """Return the sink for the body of the response, whose start must have been sent."""
        return ConnectionSink(self, self.transport, chunked=self.is_chunked)

    # Limits in bytes

    def _parse(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self._feed(data[start : start + PIECE_BYTES])
            if self._deaf:
                return

    def _feed(self, piece: bytes) -> None:
        try:
            again = self.feed(piece)
        except QueueFullError:
            self._stop_reading()
            return
        except TunnelError:
            self._refuse(501, "This server is no proxy")
            return
        except MalformedError:
            self._refuse(400, "The request is not valid HTTP")
            return
        if again is not None:
            head, rest = again
            self._feed(head)
            if not self._deaf:
                self._parse(rest)
            return
        if self.framing > MAX_HEAD_BYTES + self.content:  # small chunks are accepted, as long as they have content
            what = "Chunk extensions and trailers" if self.is_receiving else "The path and the headers"
            self._refuse(431, f"{what} may have at most {MAX_HEAD_BYTES // 1024} KiB")
        elif not self.is_answering:
            if self.is_receiving:  # it was answered before it was complete
                self._drop(len(piece))
        elif not self.is_receiving:
            self._queued += len(piece)
            if self._queued > MAX_QUEUED_BYTES:
                self._stop_reading()

    def _stop_reading(self) -> None:
        """Answer the requests that are complete, then close."""
        self._deaf = True
        self.end_with_last()

    def _drop(self, count: int) -> None:
        self.dropped += count
        if self.dropped > MAX_DROPPED_BYTES:
            self._deaf = True
            self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer and close: the next bytes on this connection may be the rest of the refused request.

        A response under way is finished first, and is then the last one.
        """
        if self.is_answering:
            if not self.is_receiving or self.has_response_started:
                self._stop_reading()
                return
            self.abandon_answer()  # the app waits for the rest of the body
        elif self.is_receiving:  # it has been answered
            self.close()
            return
        self.transport.write(_encode(problem(status, detail, headers={"connection": "close"})))
        self.close()

    # Deadlines

    def _watch(self) -> None:
        """Start the deadline for what the peer has to do now, unless it is running."""
        owed = self._owes()
        if self._owed in (owed, "closing"):
            return
        self._owed = owed
        self.clear_timer()
        if owed is None:
            self.server_state.silent.pop(self, None)
            return
        self.server_state.silent.setdefault(self)
        of = self.server_state.settings
        seconds = {"request": of.keep_alive, "head": of.head_seconds, "body": of.body_seconds, "rest": DROPPING_SECONDS}
        self.set_timer(seconds[owed], self._expire)

    def _owes(self) -> Owed | None:
        if self.is_receiving:
            return "body" if self.is_answering else "rest"
        if self.is_answering:
            return None
        return "head" if self.is_in_message else "request"

    def _expire(self) -> None:
        settings = self.server_state.settings
        match self._owed:
            case "head":
                self._refuse(
                    408, f"The request head must arrive within {settings.head_seconds:g} s (REALTIME_HEAD_SECONDS)"
                )
            case "body" if self.is_read_paused:  # the app is slow, not the peer
                self.set_timer(settings.body_seconds, self._expire)
            case "body" if self.has_response_started:
                self.transport.abort()
            case "body":
                self._refuse(408, f"The body must arrive within {settings.body_seconds:g} s (REALTIME_BODY_SECONDS)")
            case _:
                self.close()

    def _watch_closing(self, seconds: float) -> None:
        """Abort once the peer has read nothing for so long: a closing transport would wait for it without limit."""
        if self._owed != "closing":
            self._owed = "closing"
            self.clear_timer()
            self._abort_after(seconds)

    def _abort_after(self, seconds: float) -> None:
        self.set_timer(seconds, self._abort_if_stuck, seconds, self.transport.get_write_buffer_size())

    def _abort_if_stuck(self, seconds: float, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._abort_after(seconds)
        else:
            self.transport.abort()


def _encode(problem: Problem) -> bytes:
    """Return a whole HTTP/1.1 response to bytes that are not a request that an app could answer."""
    first = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"
    headers = {**problem.headers, "content-length": str(len(problem.body))}
    head = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode() + problem.body
