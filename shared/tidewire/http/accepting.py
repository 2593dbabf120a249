"""Accepting connections, and what to do before this process has no file left for one more.

At its limit of open files a server cannot even accept a connection to refuse it. uvloop then resets each new one
without a word, so it is not left to it: connections without a request are closed before, and the last tenth of the
files is kept for short requests.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

WARN_SHARE = 0.8  # of the limit, from which a warning says that it comes near
FULL_SHARE = 0.9  # of the limit, from which silent connections are closed, and no stream is opened
STORE_FILES = 16  # connections to the store, which are opened later
AT_ONCE = 64  # connections accepted before others have their turn
AGAIN_SECONDS = 0.2  # until the next try, once the system had no file


class OpenFiles:
    """The limit of this process, and how near it is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Raise the soft limit to the hard one: the usual 1,024 are fewer than the streams that a hub holds."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
        if soft < wanted:
            with contextlib.suppress(ValueError, OSError):  # macOS caps below what it reports; the soft limit stands
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._others = len(list(Path("/dev/fd").iterdir())) + STORE_FILES
        self._warnings = ThrottledLog(logger, clock)

    def is_full(self, connections: int) -> bool:
        """Whether so few files are left that they are kept for short requests; warns before."""
        files = connections + self._others
        if files < self.limit * WARN_SHARE:
            return False
        self.warn("%d of %d files are in use: raise the limit of open files (ulimit -n, LimitNOFILE)", connections)
        return files >= self.limit * FULL_SHARE

    def warn(self, message: str, connections: int) -> None:
        """Log at most one line of a kind each minute: a flood of connections is no flood of lines."""
        self._warnings.warn(message, connections + self._others, self.limit)


class State(ServerState):
    """What the connections of one server share."""

    def __init__(self, settings: Settings, files: OpenFiles) -> None:
        super().__init__()
        self.settings = settings
        self.files = files
        self.silent: dict[HttpToolsProtocol, None] = {}  # those without a whole request; silent for longest first

    def count(self) -> int:
        """Return how many connections are open."""
        return len(self.connections)

    def close_silent(self, keep: int) -> bool:
        """Close the connection that is silent for longest, if more than `keep` are; returns whether it did."""
        if len(self.silent) <= keep:
            return False
        oldest = next(iter(self.silent))
        del self.silent[oldest]
        oldest.transport.abort()
        return True


class Acceptor:
    """Accepts the connections of one socket."""

    def __init__(
        self,
        listener: socket.socket,
        state: State,
        make_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listener = listener
        self._state = state
        self._make_protocol = make_protocol
        self._connecting: set[asyncio.Task[None]] = set()
        listener.setblocking(False)

    async def run(self) -> None:
        """Accept until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(AT_ONCE):
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except ConnectionError:  # it has gone already
                    continue
                except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                    self._make_room(0, f"cannot accept a connection ({error.strerror})")
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                connecting = loop.create_task(self._connect(connection))
                self._connecting.add(connecting)
                connecting.add_done_callback(self._connecting.discard)
                if self._state.files.is_full(self._state.count() + len(self._connecting)):
                    await asyncio.wait(self._connecting)
                    if self._state.files.is_full(self._state.count()):  # nobody has left meanwhile
                        self._make_room(1, "closing the connections that are silent for longest")
                    break
            await asyncio.sleep(0)  # a connection that was closed gives its file back

    def _make_room(self, keep: int, doing: str) -> None:
        if not self._state.close_silent(keep):
            doing += "; none is silent"
        self._state.files.warn(f"%d of %d files are in use: {doing}", self._state.count())

    async def _connect(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone already
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
