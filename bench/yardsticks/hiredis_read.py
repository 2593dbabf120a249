"""Reads a stream from its start with nothing but a socket and hiredis: `hiredis_read.py PORT STREAM EVENTS`."""

import json
import resource
import socket
import sys
import time

import hiredis

PAGE = 1_000
RECEIVE = 1 << 18


def main() -> None:
    """Print what the whole read took."""
    port, stream, events = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
    reader = hiredis.Reader()
    peer = socket.create_connection(("127.0.0.1", port))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    after, seen = b"-", 0
    while seen < events:
        command = (b"XRANGE", stream, after, b"+", b"COUNT", PAGE)
        peer.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # the stub allows one argument only
        while (entries := reader.gets()) is False:
            reader.feed(peer.recv(RECEIVE))
        seen += len(entries)
        after = b"(" + entries[-1][0]
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "per_s": seen / seconds,
                "cpu_us": (time.process_time() - cpu) / seen * 1e6,
                "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
