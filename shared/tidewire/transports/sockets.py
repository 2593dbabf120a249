"""Sockets to a store: TCP keepalive, and the certificates that are trusted."""

import asyncio
import contextlib
import socket
import ssl

KEEPALIVE_IDLE = 15  # seconds of silence before the first probe
KEEPALIVE_INTERVAL = 5  # seconds between two probes
KEEPALIVE_COUNT = 3  # unanswered probes that end a connection

_IDLE_OPTION = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # on Linux, on macOS

TCP_OPTIONS: dict[int, int] = {
    option: value
    for option, value in (
        (_IDLE_OPTION, KEEPALIVE_IDLE),
        (getattr(socket, "TCP_KEEPINTVL", None), KEEPALIVE_INTERVAL),
        (getattr(socket, "TCP_KEEPCNT", None), KEEPALIVE_COUNT),
    )
    if option is not None
}

SOCKET_OPTIONS: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, option, value) for option, value in TCP_OPTIONS.items()),
]


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Turn keepalive on for a transport's TCP socket; does nothing for other sockets.

    A NAT gateway drops connections that were silent for some minutes (AWS: 350 s, Azure: 240 s), and informs neither
    side. Probes keep them, and end one whose peer is gone after 30 s.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        for option in SOCKET_OPTIONS:
            with contextlib.suppress(OSError):  # the peer has reset it already, which the next read reports
                connection.setsockopt(*option)


def client_context(certificates: str | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Return a TLS context that trusts the authorities in a file, by default those of the system.

    SSL_CERT_FILE and SSL_CERT_DIR name the system's, if they are set. Where Python finds none (the builds from
    python.org on macOS), those of certifi are trusted.
    """
    if certificates is None:
        paths = ssl.get_default_verify_paths()
        if not (paths.cafile or paths.capath):
            import certifi

            certificates = certifi.where()
    context = ssl.create_default_context(cafile=certificates)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
