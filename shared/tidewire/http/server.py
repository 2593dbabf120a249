"""Running an ASGI app as a process that drains before it stops."""

import asyncio
import contextlib
import errno
import functools
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import uvicorn

from tidewire.errors import SettingsError
from tidewire.http.accepting import Acceptor, OpenFiles, State
from tidewire.http.connection import Connection
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 10  # between SIGTERM and the end, for answers that are under way
BACKLOG = 4_096  # connections that wait to be accepted


class Server(uvicorn.Server):
    """A uvicorn server that tells the hub to drain as soon as it is asked to stop.

    uvicorn waits for open answers before it runs the lifespan's shutdown; streams never end by themselves.
    """

    def __init__(self, config: uvicorn.Config, state: State, drain: Callable[[], None], banner: str) -> None:
        super().__init__(config)
        self.server_state: State = state  # type: ignore[mutable-override]
        self.servers = []  # of the event loop: we accept by ourselves
        self._drain = drain
        self._banner = banner

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        assert sockets is not None
        state, config = self.server_state, self.config
        make_connection = functools.partial(Connection, config, state, {})
        acceptors = (Acceptor(one, state, make_connection) for one in sockets)
        self._accepting = [asyncio.create_task(acceptor.run()) for acceptor in acceptors]
        for accepting in self._accepting:
            accepting.add_done_callback(self._stop_if_failed)
        self.started = True
        print(self._banner, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Send the subscribers away, then wait for what is under way."""
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._drain()
        await super().shutdown(sockets)

    def _stop_if_failed(self, accepting: "asyncio.Task[None]") -> None:
        """End the process rather than live on without accepting anybody."""
        if not accepting.cancelled() and (error := accepting.exception()) is not None:
            logger.critical("cannot accept connections any more", exc_info=error)
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGINT and SIGTERM while it serves.

        uvicorn's own raises them once more at the end, and the process would be killed before it has closed what
        it holds, and with a status as if it had failed.
        """
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


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

    `begin` comes before that, in the loop that serves. Raises SettingsError where the address cannot be had.
    """
    listener = _listen(settings.host, settings.port, settings.stall_seconds)
    host, port = settings.host, listener.getsockname()[1]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    config = uvicorn.Config(
        app,
        http=Connection,
        interface="asgi3",
        ws="none",
        proxy_headers=False,  # nothing here depends on the client's address, which anyone could forge
        lifespan="off",
        access_log=False,  # its lines would hold query strings, and with them user ids and tickets
        log_level="warning",
        log_config=None,  # its lines go where all others go, in the same form
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    state = State(settings, OpenFiles())

    async def main() -> None:
        try:
            if begin is not None:
                await begin()
            await Server(config, state, drain, banner.format(url=url)).serve(sockets=[listener])
        finally:
            await aclose()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


def _listen(host: str, port: int, stall: float) -> socket.socket:
    """Return a socket that has the address; raises SettingsError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Each connection inherits it. The kernel ends one whose peer has taken nothing for so long, whether the
        # network or the peer has gone or it only does not read (tcp(7)); its buffer hides that from a program.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall * 1000))
    try:
        listener.bind((host, port))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited too
        listener.listen(BACKLOG)  # now: two processes can bind one port with SO_REUSEADDR, and only one can listen
    except OSError as error:
        listener.close()
        raise _address_error(host, port, error) from None
    return listener


def _address_error(host: str, port: int, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError("PORT", f"{port} is in use on {host}: stop what listens there, or choose another port")
    if error.errno == errno.EACCES:
        return SettingsError("PORT", f"{port} is for privileged processes: choose one above 1,023")
    return SettingsError(
        "HOST", f"this machine cannot listen there ({error.strerror or error}): set HOST to one of its addresses"
    )
