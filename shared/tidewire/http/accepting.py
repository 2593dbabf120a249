"""Accepts connections, and keeps this process below its limit of open files.

At that limit a server cannot even accept a connection in order to refuse it, and uvloop silently resets each new one.
So the server accepts by itself: before the limit it closes connections without a request, and it reserves the last
tenth of the files for short requests.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tidewire.http.uvicorn_private import ServerState
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

WARN_SHARE = 0.8  # of the limit, above which a warning is logged
FULL_SHARE = 0.9  # of the limit, above which silent connections are closed and streams refused
STORE_FILES = 16  # reserved for connections to the store, which open later
AT_ONCE = 64  # connections accepted before other tasks run
AGAIN_SECONDS = 0.2  # before the next try if the system had no file left


class OpenFiles:
    """The limit of open files of this process, and how many are in use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Raise the soft limit to the hard one: the usual 1,024 is less than the streams that one hub serves."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
        if soft < wanted:
            with contextlib.suppress(ValueError, OSError):  # macOS refuses what it reports; the soft limit stays
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._others = len(list(Path("/dev/fd").iterdir())) + STORE_FILES
        self._warnings = ThrottledLog(logger, clock)

    def is_full(self, connections: int) -> bool:
        """Return whether only the files reserved for short requests are left; logs a warning before that."""
        files = connections + self._others
        if files < self.limit * WARN_SHARE:
            return False
        self.warn("%d of %d files are in use: raise the limit of open files (ulimit -n, LimitNOFILE)", connections)
        return files >= self.limit * FULL_SHARE

    def warn(self, message: str, connections: int) -> None:
        """Log at most one line per message and minute: a flood of connections must not flood the log."""
        self._warnings.warn(message, connections + self._others, self.limit)


class Abortable(Protocol):
    """A connection, as its server state sees it."""

    def abort(self) -> None:
        """Close at once, without sending what is buffered."""


class State(ServerState):
    """The state that the connections of one server share."""

    def __init__(self, settings: Settings, files: OpenFiles) -> None:
        super().__init__()
        self.settings = settings
        self.files = files
        self.silent: dict[Abortable, None] = {}  # connections without a complete request, longest silent first

    def close_silent(self, keep: int) -> bool:
        """Close the connection that is silent for longest if there are more than `keep`; return whether it did."""
        if len(self.silent) <= keep:
            return False
        oldest = next(iter(self.silent))
        del self.silent[oldest]
        oldest.abort()
        return True


class Acceptor:
    """Accepts the connections of listening sockets."""

    def __init__(self, state: State, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._state = state
        self._make_protocol = make_protocol
        self._connecting: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(AT_ONCE):
                try:
                    connection, _ = await loop.sock_accept(listener)
                except ConnectionError:  # the peer has disconnected already
                    continue
                except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                    self._free_files(0, f"cannot accept a connection ({error.strerror})")
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                connecting = loop.create_task(self._connect(connection))
                self._connecting.add(connecting)
                connecting.add_done_callback(self._connecting.discard)
                if self._state.files.is_full(self._state.count() + len(self._connecting)):
                    await asyncio.wait(self._connecting)
                    if self._state.files.is_full(self._state.count()):  # no connection has closed meanwhile
                        self._free_files(1, "closing the connections that are silent for longest")
                    break
            await asyncio.sleep(0)  # a closed connection frees its file in the next turn of the event loop

    def _free_files(self, keep: int, doing: str) -> None:
        if not self._state.close_silent(keep):
            doing += "; no connection is silent"
        self._state.files.warn(f"%d of %d files are in use: {doing}", self._state.count())

    async def _connect(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the peer has disconnected already
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
