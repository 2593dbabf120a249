"""Servers that tests start, break and stop: a private Redis, and Tidewire itself, on 127.0.0.1.

Methods block until their effect has happened; a coroutine calls them with `asyncio.to_thread`.
"""

import fcntl
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from tests.support import servers

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]

START_SECONDS = 20.0  # a start takes 0.05 to 1; the rest is for a machine that others use too
STOP_SECONDS = 15.0
POLL_SECONDS = 0.01
LOG_CHARACTERS = 8_000  # what of a log a failed test shows

# Below the range from which the kernel takes ports for outgoing connections (from 32768 on Linux,
# 49152 on macOS): while a killed server is unavailable, one of a test's many clients could get its port.
PORTS = range(20_000, 32_000)


class ServerError(Exception):
    """A server did not start, or did not stop; the message ends with the end of its log."""


def free_port() -> int:
    """A port on which nothing listens, reserved while this process lives.

    No outgoing connection and no other caller gets it: otherwise another worker's server could start on the port of a
    killed one, and serve its clients.
    """
    locks = Path(tempfile.gettempdir(), f"tidewire-ports-{os.getuid()}")
    locks.mkdir(exist_ok=True)
    while True:
        port = random.choice(PORTS)
        lock = os.open(locks / str(port), os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when this process ends
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, port))
        except OSError:
            os.close(lock)
            continue
        return port


class ServerProcess(ABC):
    """One server process at a time, always on the same port; its output goes to a log file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.log_file = folder / f"{type(self).__name__.lower()}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    @abstractmethod
    def environment(self) -> Mapping[str, str]: ...

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server accepts requests; raises nothing if it does not."""

    def start(self) -> Self:
        """Returns when the server is ready; raises ServerError if it ends or takes too long."""
        assert not self.is_running(), "it runs already"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: not self.is_running() or self.is_ready(), START_SECONDS)
        except TimeoutError:
            self.kill()
            raise ServerError(f"not ready after {START_SECONDS} s\n{self.log()}") from None
        if not self.is_running():
            raise ServerError(f"ended with {self.wait()} at its start\n{self.log()}")
        return self

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    def kill(self) -> None:
        """Ends the process at once, as a crash does; unwritten data is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait; `wait` does."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, after the process has ended; raises ServerError if it does not end in time."""
        assert self._process is not None, "it was not started"
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(f"still running after {seconds} s\n{self.log()}") from None

    def stop(self) -> None:
        """Ends the process in order, paused or not; raises ServerError if it has to be killed."""
        if not self.is_running():
            return
        self.terminate()
        self.resume()
        try:
            self.wait()
        except ServerError:
            self.kill()
            raise

    def pause(self) -> None:
        """Freezes the process: connections stay open and silent, as when packets are dropped."""
        os.kill(self.pid, signal.SIGSTOP)
        if sys.platform == "linux":
            # When kill returns, the signal is on its way: the process may still answer once.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """The end of what the process printed."""
        return self.log_file.read_text(errors="replace")[-LOG_CHARACTERS:]


class RedisServer(ServerProcess):
    """A Redis of its own, empty at first. With `aof`, every acknowledged write is on disk.

    Then a restart keeps everything; without it, a restart loses everything. `kind` is a key of `servers.SERVERS`.
    """

    def __init__(self, folder: Path, *, aof: bool = False, options: Sequence[str] = (), kind: str = "redis") -> None:
        super().__init__(folder)
        self._kind = kind
        self._aof = aof
        self._options = list(options)
        self.bus_port = 0  # of a node of a cluster
        if "--cluster-enabled" in options:
            # Its bus listens on the port + 10,000 otherwise, which an outgoing connection may have.
            self.bus_port = free_port()
            self._options += ["--cluster-port", str(self.bus_port)]

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        return [
            str(servers.find(self._kind)),
            *("--bind", HOST, "--port", str(self.port)),
            *("--dir", str(self.folder), "--save", ""),
            *("--appendonly", "yes" if self._aof else "no"),
            # everysec may put a write off while an fsync takes its time, and answers all the same.
            *("--appendfsync", "always"),
            *self._options,
        ]

    def environment(self) -> Mapping[str, str]:
        return inherited()

    def is_ready(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"  # while it reads its AOF it answers -LOADING
        except OSError:
            return False

    def ask(self, command: str) -> str:
        """The first line of the reply to a command like `EXISTS key`, whose words have no spaces."""
        with socket.create_connection((HOST, self.port), timeout=START_SECONDS) as connection:
            connection.sendall(command.encode() + b"\r\n")
            with connection.makefile("rb") as reply:
                return reply.readline().decode().rstrip()

    def restart(self) -> None:
        """Starts again on the same port, after a stop if it runs; returns when it has loaded."""
        self.stop()
        self.start()


class Instance(ServerProcess):
    """`python -m functions.local` with these settings, and none from this shell.

    `command` runs something else that answers GET /api/health/live on $PORT.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], *, command: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self._settings = dict(settings)
        self._command = command or [sys.executable, "-m", "functions.local"]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        return self._command

    def environment(self) -> Mapping[str, str]:
        own = {"HOST": HOST, "PORT": str(self.port), "PYTHONUNBUFFERED": "1"}
        return {**inherited(), **own, **self._settings}

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/api/health/live")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class MakeRedis(Protocol):
    """The fixture `make_redis`."""

    def __call__(self, *, aof: bool = True, options: Sequence[str] = (), kind: str = "redis") -> RedisServer: ...


class StartInstance(Protocol):
    """The fixture `start_instance`."""

    def __call__(self, settings: Mapping[str, str], command: Sequence[str] = ()) -> Instance: ...


class MakeInstance(Protocol):
    """The fixture `make_instance`."""

    def __call__(self, **settings: str) -> Instance: ...


def inherited() -> dict[str, str]:
    """The variables that every child inherits."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in names if name in os.environ}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns as soon as the condition holds; raises TimeoutError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(POLL_SECONDS)
