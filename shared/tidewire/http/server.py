"""Serves an ASGI app as a process that drains before it stops."""

import asyncio
import errno
import functools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from tidewire.errors import SettingsError
from tidewire.http.accepting import Acceptor, OpenFiles, State
from tidewire.http.connection import Connection
from tidewire.http.uvicorn_private import HttpServer
from tidewire.settings.config import Settings

DRAIN_SECONDS = 10  # between SIGTERM and the exit, for responses under way
BACKLOG = 4_096  # connections that wait to be accepted


def serve(
    app: Any,
    settings: Settings,
    drain: Callable[[], None],
    aclose: Callable[[], Awaitable[None]],
    banner: str,
    *,
    begin: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `banner` is printed with the address once connections are accepted.

    `begin` runs before that, `drain` at the signal and `aclose` at the end, all in the serving event loop. Raises
    SettingsError if this process cannot listen on the address.
    """
    listener = _listen(settings.host, settings.port, settings.stall_seconds)
    host, port = settings.host, listener.getsockname()[1]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    config = uvicorn.Config(
        app,
        http=Connection,
        interface="asgi3",
        ws="none",
        proxy_headers=False,  # anyone can forge the client's address, and nothing here depends on it
        lifespan="off",
        access_log=False,  # its lines contain query strings, with user ids and tickets
        log_level="warning",
        log_config=None,  # its lines go through the handlers of this process
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    state = State(settings, OpenFiles())
    acceptor = Acceptor(state, functools.partial(Connection, config, state, {}))

    def announce() -> None:
        print(banner.format(url=url), flush=True)

    async def main() -> None:
        try:
            if begin is not None:
                await begin()
            await HttpServer(config, state, acceptor.run, announce, drain).serve(sockets=[listener])
        finally:
            await aclose()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


def _listen(host: str, port: int, stall: float) -> socket.socket:
    """Return a socket that listens on the address; raises SettingsError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Every connection inherits it. The kernel ends a connection whose peer has acknowledged no data for so long,
        # because the network or the peer is gone or the peer does not read (tcp(7)); a program cannot see that.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall * 1000))
    try:
        listener.bind((host, port))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited too
        listener.listen(BACKLOG)  # now: with SO_REUSEADDR two processes can bind one port, but only one can listen
    except OSError as error:
        listener.close()
        raise _address_error(host, port, error) from None
    return listener


def _address_error(host: str, port: int, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError("PORT", f"{port} is in use on {host}: stop the other process, or choose another port")
    if error.errno == errno.EACCES:
        return SettingsError("PORT", f"{port} needs a privileged process: choose a port above 1,023")
    return SettingsError(
        "HOST",
        f"this machine cannot listen on that address ({error.strerror or error}): set HOST to one of its addresses",
    )
