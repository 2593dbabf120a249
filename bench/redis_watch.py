"""The commands and bytes that Redis receives: commands as billed (a script is one), bytes in and out."""

import re
import socket
import threading
from collections import Counter
from typing import Self

from bench.process import run

RECEIVE = 1 << 16


class Commands:
    """Counts the commands of clients inside `with`, without those that scripts run.

    INFO commandstats counts both, so this reads MONITOR, which slows Redis slightly: do not measure time with it.
    """

    def __init__(self, port: int) -> None:
        self.by_name: Counter[str] = Counter()
        self._port = port
        self._peer = socket.create_connection(("127.0.0.1", port))
        self._lines = self._peer.makefile("rb")
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._peer.sendall(b"MONITOR\r\n")
        assert self._lines.readline() == b"+OK\r\n"
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        # MONITOR shows commands in order: when this one arrives, all before it have been counted.
        with socket.create_connection(("127.0.0.1", self._port)) as last:
            last.sendall(b"ECHO end-of-watch\r\n")
            self._thread.join(timeout=10)
        self._lines.close()
        self._peer.close()

    @property
    def total(self) -> int:
        """The number of commands; valid after `with`."""
        return sum(self.by_name.values())

    def _listen(self) -> None:
        for line in self._lines:  # +1700000000.123456 [0 127.0.0.1:50000] "XREAD" "COUNT" …
            place, _, command = line.partition(b"] ")
            if b'"end-of-watch"' in command:
                return
            if not place.endswith(b" lua"):
                self.by_name[command.split(b'"')[1].decode().upper()] += 1


def bytes_read_by(pid: int, port: int) -> int:
    """Return the bytes that the process received from Redis over its open connections, from the kernel's counters."""
    listing = run(["ss", "-tnipHO", f"dport = :{port}"]).decode()
    lines = [line for line in listing.splitlines() if f"pid={pid}," in line]
    return sum(int(found[1]) for line in lines if (found := re.search(r"bytes_received:(\d+)", line)))


def bytes_moved(port: int) -> tuple[int, int]:
    """Return the bytes in and out over all connections since the start of Redis."""
    found = info(port, "stats")
    return int(found["total_net_input_bytes"]), int(found["total_net_output_bytes"])


def info(port: int, section: str) -> dict[str, str]:
    """Return a section of INFO, such as `cpu`."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(f"INFO {section}\r\n".encode())
        head, _, text = peer.recv(RECEIVE).partition(b"\r\n")
        while len(text) < int(head[1:]):
            text += peer.recv(RECEIVE)
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
