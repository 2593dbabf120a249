"""HTTP/1.1 as bytes: heads, chunks, and connections whose buffers are small."""

import asyncio
import socket
from collections.abc import Mapping

from tests.support.processes import HOST

READ_BYTES = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Dechunker:
    """Undoes HTTP/1.1's chunked coding (RFC 9112 section 7.1) of bytes in any pieces."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""  # the beginning of a size line
        self._left = 0  # bytes of the chunk that are still to come, with the line end after it

    def feed(self, data: bytes) -> bytes:
        """Return the content of these bytes."""
        data, at, out = self._rest + data, 0, []
        while at < len(data):
            if not self._left:
                end = data.find(b"\r\n", at)
                if end < 0:
                    break
                size = int(data[at:end], 16)
                self.ended = size == 0
                self._left, at = size + 2, end + 2
            piece = data[at : at + self._left]
            out.append(piece[: max(self._left - 2, 0)])
            self._left -= len(piece)
            at += len(piece)
        self._rest = data[at:]
        return b"".join(out)


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of a response."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, value in pairs}


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """A request without its body."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def connect(port: int, receive_buffer: int | None = None) -> Connection:
    """Open a connection; `receive_buffer` bounds what is taken from the server without being read, in bytes."""
    if receive_buffer is None:
        return await asyncio.open_connection(HOST, port, limit=READ_BYTES)
    # Set before it connects: later the kernel has already announced a larger window.
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (HOST, port))
        return await asyncio.open_connection(sock=connection, limit=receive_buffer)
    except BaseException:
        connection.close()
        raise
