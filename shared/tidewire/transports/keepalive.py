"""TCP keepalive for connections to a store, which rest for longer than a NAT remembers them.

A gateway drops what was silent for some minutes (AWS: 350 s, Azure: 240 s) without a word to either side; probes keep
it there, and find a peer that is gone after `IDLE + COUNT * INTERVAL` seconds.
"""

import asyncio
import socket

IDLE = 15  # seconds of silence before the first probe
INTERVAL = 5  # seconds between two
COUNT = 3  # probes without an answer that end a connection

_IDLE_OPTION = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # Linux' name, macOS'

TCP_OPTIONS: dict[int, int] = {
    option: value
    for option, value in (
        (_IDLE_OPTION, IDLE),
        (getattr(socket, "TCP_KEEPINTVL", None), INTERVAL),
        (getattr(socket, "TCP_KEEPCNT", None), COUNT),
    )
    if option is not None
}

OPTIONS: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, option, value) for option, value in TCP_OPTIONS.items()),
]


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Turn keepalive on for the transport's socket; does nothing where that is not a TCP one."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        for option in OPTIONS:
            connection.setsockopt(*option)
