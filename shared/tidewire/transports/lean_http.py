"""The HTTP/1.1 that a cold start can afford: POSTs to one host over kept connections; httptools reads the answers.

httpx takes more to be imported than a function takes to start and to publish. This has no proxies, no redirects, no
cookies and no compression, and needs none of them here.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser

from tidewire.transports.keepalive import keep_alive
from tidewire.transports.tls import client_context

MOST_BYTES = 64 * 1024 * 1024  # of an answer: no store sends as much
_READ_SIZE = 256 * 1024


class Answer(NamedTuple):
    """What a server answered; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class LostError(Exception):
    """No answer came: the connection was refused, or broke. To send again may repeat what was done."""


class SilentError(Exception):
    """The server neither took nor sent a byte in time."""


class BrokenError(Exception):
    """What came is not HTTP, or has no end."""


class LeanHttp:
    """POSTs to the host of one URL; each request has a connection for itself, and one that is free is used again.

    `silence` is for how many seconds a server may neither take nor send a byte, `idle` for how many a connection is
    kept that nobody uses.
    """

    def __init__(self, url: str, *, silence: float, idle: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if secure else 80)
        self._authority = parts.netloc
        self._secure = secure
        self._context: ssl.SSLContext | None = None
        self._silence = silence
        self._kept_for = idle
        self._idle: list[_Connection] = []  # the last one used is the next: the others may rest, and end
        self._open: set[_Connection] = set()
        self._trusted: set[_Connection] = set()  # those that may be used again
        self._closed = False

    async def post(self, path: str, headers: Mapping[str, str], content: bytes) -> Answer:
        """Return the answer, whatever its status. Raises LostError, SilentError and BrokenError.

        `path` and `headers` are the caller's own: nothing in them is escaped.
        """
        lines = [f"POST {path} HTTP/1.1", f"host: {self._authority}", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode("ascii") + content
        self._check_open()
        connection = self._take()
        try:
            if connection is None:
                connection = await self._connect()
            answer = await connection.exchange(request, self._silence)
        except TimeoutError:
            self._drop(connection)
            self.condemn()  # what a NAT forgot it has forgotten of all that have rested for as long
            raise SilentError from None
        except (OSError, EOFError, RuntimeError) as error:  # the last is uvloop's, of a write to what has just closed
            self._drop(connection)
            self._check_open()
            self.condemn()  # a restarted server, or a thawed function: they are all dead
            raise LostError(type(error).__name__) from error
        except BaseException:  # cancelled too: the next one to use it would read the rest of our answer
            self._drop(connection)
            raise
        if connection.usable and connection in self._trusted:
            connection.free_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._drop(connection)
        return answer

    def condemn(self) -> None:
        """Use no connection again that is open now: idle ones are closed, those in use when they become free."""
        self._trusted.clear()
        while self._idle:
            self._drop(self._idle.pop())

    async def aclose(self) -> None:
        """Close every connection, also those in use and those that are being opened; no other is opened."""
        self._closed = True
        for connection in tuple(self._open):
            self._drop(connection)
        self._idle.clear()

    def _take(self) -> "_Connection | None":
        oldest = asyncio.get_running_loop().time() - self._kept_for
        while self._idle:
            connection = self._idle.pop()
            if connection.free_since > oldest and connection.usable:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> "_Connection":
        if self._secure and self._context is None:
            self._context = client_context()
        async with asyncio.timeout(self._silence):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, limit=_READ_SIZE)
        connection = _Connection(reader, writer)
        if self._closed:  # meanwhile
            connection.close()
            self._check_open()
        keep_alive(writer.transport)
        self._open.add(connection)
        self._trusted.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise BrokenError("closed")  # not lost: to try again does not help

    def _drop(self, connection: "_Connection | None") -> None:
        if connection is not None:
            self._open.discard(connection)
            self._trusted.discard(connection)
            connection.close()


class _Connection:
    """One connection, and the answer that it is reading; also what httptools calls."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.free_since = 0.0
        self._reader = reader
        self._writer = writer
        self._keeps = True
        self._begin()

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._keeps and not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: bytes, silence: float) -> Answer:
        """Send a request and return its answer. Raises OSError, EOFError, TimeoutError and BrokenError."""
        self._begin()
        self._writer.write(request)
        async with asyncio.timeout(silence):
            await self._writer.drain()
        while self._status < 200:  # 1xx: the answer is still to come (RFC 9110 section 15.2)
            async with asyncio.timeout(silence):
                received = await self._reader.read(_READ_SIZE)
            if not received:
                raise EOFError
            try:
                self._parser.feed_data(received)
            except HttpParserError as error:
                raise BrokenError(type(error).__name__) from None  # its text may repeat what came
            if len(self._content) > MOST_BYTES:
                raise BrokenError("too large")
        return Answer(self._status, self._headers, bytes(self._content))

    def close(self) -> None:
        """Close it at once."""
        self._keeps = False
        self._writer.transport.abort()

    def _begin(self) -> None:
        self._parser = HttpResponseParser(self)
        self._status = 0  # until all of the answer is there
        self._headers: dict[str, str] = {}
        self._content = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, content: bytes) -> None:
        self._content += content

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status, self._keeps = status, self._parser.should_keep_alive()
        else:
            self._headers.clear()
