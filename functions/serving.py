"""Running an ASGI app as a process that drains before it stops."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

DRAIN_SECONDS = 10  # between SIGTERM and the end, for answers that are under way


class Server(uvicorn.Server):
    """A uvicorn server that tells the hub to drain as soon as it is asked to stop.

    uvicorn waits for open answers before it runs the lifespan's shutdown; streams never end by themselves.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], banner: str) -> None:
        super().__init__(config)
        self._drain = drain
        self._banner = banner

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        print(self._banner, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Send the subscribers away, then wait for what is under way."""
        self._drain()
        await super().shutdown(sockets)


def serve(
    app: Any, host: str, port: int, drain: Callable[[], None], aclose: Callable[[], Awaitable[None]], banner: str
) -> None:
    """Serve until SIGINT or SIGTERM; `banner` is printed with the address once connections are accepted."""
    _raise_open_files()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",
        access_log=False,  # its lines would hold query strings, and with them user ids and tickets
        log_level="warning",
        server_header=False,
        backlog=4096,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    listener = config.bind_socket()
    url = f"http://{host}:{listener.getsockname()[1]}"

    async def main() -> None:
        try:
            await Server(config, drain, banner.format(url=url)).serve(sockets=[listener])
        finally:
            await aclose()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


def _raise_open_files() -> None:
    """Allow as many connections as the system lets us: the usual soft limit of 1,024 is less than a hub holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS caps below what it reports; the soft limit stands
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
