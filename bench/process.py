"""Child processes: each in its own session, pinned to a core, sampled, and always killed."""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

PR_SET_PDEATHSIG = 1
START_SECONDS = 30.0  # time limit of a server's start


class BenchError(Exception):
    """A run that does not count; the message says what to do."""


def cores() -> tuple[int, int]:
    """Return the cores of the server and of the client: the first and the last that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """A process and its descendants. Leaving `with` kills them all."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as sink:
            self.popen: subprocess.Popen[bytes] = subprocess.Popen(
                [str(part) for part in argv],
                env=dict(env) if env is not None else None,
                cwd=cwd,
                stdin=stdin,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_tie(core),  # noqa: PLW1509 — no thread runs while a child starts
            )
        self.pid = self.popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill the whole process group and reap the child; a second call does nothing."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, how)
        self.popen.wait(timeout=START_SECONDS)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()

    def freeze(self) -> None:
        """Pause the processes like a hang: the connections stay open and silent."""
        os.killpg(self.pid, signal.SIGSTOP)

    def cpu(self) -> float:
        """Return the user and system seconds of the process and its living descendants, to the nanosecond.

        The same quantity as utime + stime in /proc/<pid>/stat, which counts in steps of 10 ms.
        """
        return sum(_cpu_clock(pid) for pid in _tree(self.pid))

    def memory(self) -> int:
        """Return the bytes of memory of the process and its descendants, shared pages counted once (PSS)."""
        return sum(pss(pid) for pid in _tree(self.pid))

    def peak(self) -> int:
        """Return the peak resident bytes since `forget_peak`, summed over the descendants."""
        return sum(_field(f"/proc/{pid}/status", "VmHWM") for pid in _tree(self.pid))

    def forget_peak(self) -> None:
        """Reset `peak`."""
        for pid in _tree(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def tail(self) -> str:
        """Return the last lines of its log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])

    def wait_until(self, is_up: Callable[[], bool], what: str) -> None:
        """Return once `is_up` is true. Raises BenchError if the process ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not is_up():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{what} did not start:\n{self.tail()}")
            time.sleep(0.02)


def answers(port: int, path: str = "") -> bool:
    """Whether a server accepts connections on the port and, with a path, responds with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
            if not path:
                return True
            peer.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return peer.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout: float = 120.0) -> bytes:
    """Return the output of a short program, whose children end with it. Raises BenchError if it fails."""
    command = [str(part) for part in argv]
    try:
        program = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise BenchError(f"{command[0]}: {error}") from error
    try:
        output, errors = program.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{' '.join(command)}: not done after {timeout:g} s") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    if program.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {errors.decode(errors='replace').strip()[-2000:]}")
    return output


def read_line(stream: IO[bytes], timeout: float) -> bytes | None:
    """Return the next line of an unbuffered pipe, None after the time limit, b"" at its end."""
    if not select.select([stream], [], [], timeout)[0]:
        return None
    return stream.readline()


def pss(pid: int) -> int:
    """Return the bytes of memory of a process, shared pages counted by share; 0 if it has ended."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss")


def _tie(core: int | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def tie() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        if libc is not None:  # if the harness is killed, so are its children
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return tie


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has ended meanwhile
            parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _cpu_clock(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock id of clock_getcpuclockid(3)
    except OSError:
        return 0.0


def _field(path: str, name: str) -> int:
    try:
        text = Path(path).read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
