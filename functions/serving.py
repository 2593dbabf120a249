"""Running an ASGI app as a process that drains before it stops."""

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Generator
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from shared.problem import problem

MAX_HEAD_BYTES = 64 * 1024  # of one request, after its first read; proxies seldom pass on more than 16 KiB
DRAIN_SECONDS = 10  # between SIGTERM and the end, for answers that are under way


_HTTP: Any = AutoHTTPProtocol  # h11's or httptools', whichever is installed


class _Pipelined(list[Any]):
    """Requests that came before the last answer was complete: the part of a deque that uvicorn uses."""

    def appendleft(self, request: Any) -> None:
        """Put one behind all others."""
        self.insert(0, request)


class Protocol(_HTTP):  # type: ignore[misc]
    """HTTP/1.1 that bounds a request's head, and whose own refusals are problem+json answers too.

    The callbacks are httptools'. h11, where that is installed instead, has the same bound of its own.
    """

    _in_head = False
    _head_bytes = 0
    _messages = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pipeline = _Pipelined()  # an empty deque has 624 bytes, a twentieth of what a quiet stream takes

    def data_received(self, data: bytes) -> None:
        """Parse; a head that goes on and on would otherwise be kept in memory, before any credential is looked at."""
        messages = self._messages
        super().data_received(data)
        if self._in_head and self._messages == messages:  # all of this read was one head, and it has not ended
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"The path and the headers may have at most {MAX_HEAD_BYTES // 1024} KiB")

    def on_message_begin(self) -> None:
        """Begin to count, with the next read: what else is in this one may be the end of another request."""
        self._in_head, self._head_bytes = True, 0
        self._messages += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: the body has its own bound."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._in_head = False
        self._refuse(400, "The request is not valid HTTP")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer and close: what follows on this connection cannot be told from the rest of the request."""
        refused = problem(status, detail, headers={"connection": "close"})
        head = [f"{name}: {value}" for name, value in refused.headers.items()]
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *head, f"content-length: {len(refused.body)}"]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + refused.body)
        self.transport.close()


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
    host: str,
    port: int,
    drain: Callable[[], None],
    aclose: Callable[[], Awaitable[None]],
    banner: str,
    *,
    begin: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `banner` is printed with the address once connections are accepted.

    `begin` comes before that, in the loop that serves.
    """
    _raise_open_files()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        interface="asgi3",
        ws="none",
        proxy_headers=False,  # nothing here depends on the client's address, which anyone could forge
        lifespan="off",
        access_log=False,  # its lines would hold query strings, and with them user ids and tickets
        log_level="warning",
        log_config=None,  # its lines go where all others go, in the same form
        server_header=False,
        backlog=4096,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    listener = config.bind_socket()
    url = f"http://{host}:{listener.getsockname()[1]}"

    async def main() -> None:
        try:
            if begin is not None:
                await begin()
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
