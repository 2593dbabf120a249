"""Misbehaving peers: raw sockets under the control of a test."""

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import tidewire

from tests.support.api import Api
from tests.support.clients import Answer
from tests.support.processes import HOST, Instance, wait_until
from tests.support.raw_http import parse_head

SOON = 10.0  # seconds in which a slot is free: one is promised, the rest is for a machine that others use too
RECEIVE_BUFFER = 4096  # bytes; the kernel doubles it
SECONDS = 20.0  # for an answer

EVENTS = f"GET /api/events HTTP/1.1\r\nhost: {HOST}\r\naccept: text/event-stream\r\n\r\n".encode()
LIVE = f"GET /api/health/live HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode()
ALIVE = f'{{"status":"live","version":"{tidewire.__version__}"}}'.encode()
opened: "list[Peer]" = []  # by the test that runs
READY = b"event: realtime.ready\n"


class Peer:
    """One connection to an instance; each method blocks until the kernel has done it."""

    def __init__(self, instance: Instance, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        opened.append(self)
        if receive_buffer is not None:  # set before it connects: later the kernel has promised more already
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(SECONDS)
        try:
            self.socket.connect((HOST, instance.port))
        except OSError:
            self.socket.close()
            raise
        self.received = b""

    def send(self, *pieces: bytes) -> None:
        """Send each piece as a write of its own."""
        for piece in pieces:
            self.socket.sendall(piece)

    def send_until_refused(self, piece: bytes, times: int) -> None:
        """Send a piece again and again, until the server takes no more."""
        try:
            for _ in range(times):
                self.socket.sendall(piece)
        except OSError:
            return

    def is_refused(self, piece: bytes) -> bool:
        """Whether the server has closed: a reset or a broken pipe within 100 sends of the piece."""
        try:
            for _ in range(100):
                self.socket.sendall(piece)
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    def read_until(self, end: bytes, *, pause: float = 0.0) -> bytes:
        """The bytes up to `end`, with `end` itself; later bytes are kept for the next call.

        With a pause (s) after each piece it is a slow reader.
        """
        while end not in self.received:
            piece = self.socket.recv(65_536)
            time.sleep(pause)
            assert piece, f"closed after {self.received!r}, without {end!r}"
            self.received += piece
        found, _, self.received = self.received.partition(end)
        return found + end

    def answer(self) -> Answer:
        """The next answer, which has a length."""
        status, headers = parse_head(self.read_until(b"\r\n\r\n"))
        length = int(headers.get("content-length", "0"))
        while len(self.received) < length:
            piece = self.socket.recv(65_536)
            assert piece, f"closed within the answer {status}"
            self.received += piece
        body, self.received = self.received[:length], self.received[length:]
        return Answer(status, headers, body)

    def rest(self) -> bytes:
        """All bytes until the server closes."""
        try:
            while piece := self.socket.recv(65_536):
                self.received += piece
        except ConnectionResetError:
            pass
        rest, self.received = self.received, b""
        return rest

    def drain(self) -> None:
        """Read the bytes that come within the socket's time-out."""
        try:
            while self.socket.recv(65_536):
                pass
        except OSError:
            return

    def reset(self) -> None:
        """Close with a RST: bytes on the way are lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


@contextmanager
def peer(instance: Instance, *, receive_buffer: int | None = None) -> Iterator[Peer]:
    """A peer, closed at the end of the block."""
    found = Peer(instance, receive_buffer=receive_buffer)
    try:
        yield found
    finally:
        found.close()


def stream(instance: Instance, *, head: bytes = EVENTS, receive_buffer: int | None = None) -> Peer:
    """A peer with a live stream, which it has read up to `ready`."""
    opened = Peer(instance, receive_buffer=receive_buffer)
    opened.send(head)
    opened.read_until(READY)
    return opened


def slot_is_free(api: Api, seconds: float = SOON) -> None:
    """Return once another long poll is taken; raises TimeoutError after these seconds."""

    def is_free() -> bool:
        response = api.get(params={"wait": "0.01"})
        assert response.status_code in (200, 429), response.text
        return response.status_code == 200

    wait_until(is_free, seconds)


def memory(instance: Instance) -> int:
    """What the instance holds in memory now, in KiB."""
    printed = subprocess.run(["ps", "-o", "rss=", "-p", str(instance.pid)], capture_output=True, text=True, check=True)
    return int(printed.stdout)
