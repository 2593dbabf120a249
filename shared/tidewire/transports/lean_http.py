"""A small HTTP/1.1 client for cold starts: POSTs to one host over kept connections; httptools parses the replies.

httpx takes longer to import than a function takes to start and to publish. This client has no proxies, redirects,
cookies or compression.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser

from tidewire.transports.errors import ConnectionClosed, ConnectionLost, ProtocolError, ReadTimeout
from tidewire.transports.sockets import client_context, keep_alive

MAX_BYTES = 64 * 1024 * 1024  # of a response: no store sends as much
_READ_SIZE = 256 * 1024


class Response(NamedTuple):
    """A server's response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpClient(Protocol):
    """Sends POSTs to one host: `LeanHttp`, or one that lives long."""

    async def post(self, path: str, headers: Mapping[str, str], content: bytes) -> Response:
        """Return the response, whatever its status. Raises StoreError."""

    def evict(self) -> None:
        """Close idle connections now, and those in use when they become free."""


class LeanHttp:
    """POSTs to the host of one URL; each request has a connection to itself, and free ones are used again.

    `read_timeout`: seconds in which the server may neither take nor send a byte. `keepalive`: seconds for which an
    unused connection is kept.
    """

    def __init__(self, url: str, *, read_timeout: float, keepalive: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if secure else 80)
        self._authority = parts.netloc
        self._secure = secure
        self._context: ssl.SSLContext | None = None
        self._read_timeout = read_timeout
        self._keepalive = keepalive
        self._idle: list[_Connection] = []  # a stack: the connection used last is used next, so that the others expire
        self._open: set[_Connection] = set()
        self._reusable: set[_Connection] = set()
        self._closed = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    async def post(self, path: str, headers: Mapping[str, str], content: bytes) -> Response:
        """Return the response, whatever its status. Raises StoreError.

        `path` and `headers` are sent as they are: nothing in them is escaped.
        """
        lines = [f"POST {path} HTTP/1.1", f"host: {self._authority}", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode("ascii") + content
        self._check_open()
        connection = self._take()
        try:
            if connection is None:
                connection = await self._connect()
            response = await connection.exchange(request, self._read_timeout)
        except TimeoutError:
            self._drop(connection)
            self.evict()  # a NAT that forgot this connection has forgotten the idle ones too
            raise ReadTimeout from None
        except (OSError, EOFError, RuntimeError) as error:  # uvloop raises RuntimeError on a write to a closed socket
            self._drop(connection)
            self._check_open()
            self.evict()  # the server was restarted, or this function was frozen: all of them are dead
            raise ConnectionLost(type(error).__name__) from error
        except BaseException:  # also cancelled: the next request on it would read the rest of this response
            self._drop(connection)
            raise
        if connection.usable and connection in self._reusable:
            connection.free_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._drop(connection)
        return response

    def evict(self) -> None:
        """Close idle connections now, and those in use when they become free."""
        self._reusable.clear()
        while self._idle:
            self._drop(self._idle.pop())

    async def aclose(self) -> None:
        """Close every connection, also those in use and those that are being opened; no other one is opened."""
        self._closed = True
        for connection in tuple(self._open):
            self._drop(connection)
        self._idle.clear()

    def _take(self) -> "_Connection | None":
        oldest = asyncio.get_running_loop().time() - self._keepalive
        while self._idle:
            connection = self._idle.pop()
            if connection.free_since > oldest and connection.usable:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> "_Connection":
        if self._secure and self._context is None:
            self._context = client_context()
        async with asyncio.timeout(self._read_timeout):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, limit=_READ_SIZE)
        connection = _Connection(reader, writer)
        if self._closed:  # while it was being opened
            connection.close()
            self._check_open()
        keep_alive(writer.transport)
        self._open.add(connection)
        self._reusable.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed

    def _drop(self, connection: "_Connection | None") -> None:
        if connection is not None:
            self._open.discard(connection)
            self._reusable.discard(connection)
            connection.close()


class _Connection:
    """One connection, and the response that it is reading; httptools calls its `on_` methods."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.free_since = 0.0
        self._reader = reader
        self._writer = writer
        self._keeps = True
        self._begin()

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._keeps and not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: bytes, read_timeout: float) -> Response:
        """Send a request and return its response. Raises OSError, EOFError, TimeoutError and ProtocolError."""
        self._begin()
        self._writer.write(request)
        async with asyncio.timeout(read_timeout):
            await self._writer.drain()
        while self._status < 200:  # 1xx: the final response is still to come (RFC 9110 section 15.2)
            async with asyncio.timeout(read_timeout):
                received = await self._reader.read(_READ_SIZE)
            if not received:
                raise EOFError
            try:
                self._parser.feed_data(received)
            except HttpParserError as error:
                raise ProtocolError(type(error).__name__) from None  # its text may quote the response
            if len(self._content) > MAX_BYTES:
                raise ProtocolError("too large")
        return Response(self._status, self._headers, bytes(self._content))

    def close(self) -> None:
        """Close it at once."""
        self._keeps = False
        self._writer.transport.abort()

    def _begin(self) -> None:
        self._parser = HttpResponseParser(self)
        self._status = 0  # until the whole response has been read
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
