"""Controls the compiled load client (bench/client/load.c) from mark to mark."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from bench.process import BenchError, Child, read_line, run
from bench.servers import Server

BUILD = Path("build/bench")
LOAD = BUILD / "load"
REDIS_PAIR = BUILD / "redispair"

Mark = dict[str, Any]


class Target(Protocol):
    """The server attributes that the load client needs; `bench.servers.Server` has them."""

    @property
    def port(self) -> int: ...
    @property
    def publish_port(self) -> int: ...
    @property
    def events(self) -> str: ...
    @property
    def publish(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def ready(self) -> bool: ...


class Load:
    """One run: start → connected → (warm) → done. The client runs between marks, and waits at each mark.

    `step` continues to the next mark and returns its counts.
    """

    def __init__(
        self, server: Target, *, log: Path, core: int | None = None, timeout: float = 60.0, **options: Any
    ) -> None:
        self._timeout = timeout
        chosen: dict[str, Any] = {
            "port": server.port,
            "pub-port": server.publish_port,
            "path": server.events,
            "pub-path": server.publish,
            "body": server.body,
            "ready": server.ready,
            "timeout": timeout,
            "steps": True,
        }
        chosen |= {name.replace("_", "-"): value for name, value in options.items()}
        argv: list[str] = [str(LOAD)]
        for name, value in chosen.items():
            if value is True:
                argv.append(f"--{name}")
            elif value is not False and value is not None:
                argv += [f"--{name}", str(value)]
        # The planned duration of a rate is added to the time limit, in the client and here.
        self._planned = float(chosen.get("events", 0)) / float(chosen["rate"]) if chosen.get("mode") == "rate" else 0.0
        self.child = Child(argv, log=log, core=core, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.wait("start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.stop()

    def step(self, expected: str, *, meanwhile: Callable[[], None] | None = None, may_lose: bool = False) -> Mark:
        """Continue to the mark `expected`; calls `meanwhile` about once a second.

        Raises BenchError if the phase did not complete, or if events were lost or duplicated, unless `may_lose`.
        """
        self.go()
        return self.wait(expected, meanwhile=meanwhile, may_lose=may_lose)

    def go(self) -> None:
        """Continue without waiting for the next mark."""
        assert self.child.popen.stdin is not None
        try:
            self.child.popen.stdin.write(b"\n")
            self.child.popen.stdin.flush()
        except BrokenPipeError:
            pass  # it failed: `wait` reads the reason

    def wait(self, expected: str, *, meanwhile: Callable[[], None] | None = None, may_lose: bool = False) -> Mark:
        """Wait for the mark `expected`; the second half of `step`."""
        assert self.child.popen.stdout is not None
        waited = 0.0
        while (line := read_line(self.child.popen.stdout, 1.0)) is None:
            waited += 1.0
            if meanwhile is not None:
                meanwhile()
            if waited > self._timeout + self._planned + 30:
                raise BenchError(f"the load client is stuck before {expected!r}")
        if not line:
            raise BenchError(f"the load client ended before {expected!r}:\n{self.child.tail()}")
        mark: Mark = json.loads(line)
        wrong = {k: mark[k] for k in ("timed_out", "lost", "duplicated", "publish_errors", "misdelivered") if mark[k]}
        # Before the last phase ends, "lost" means not yet arrived.
        if expected != "done":
            wrong.pop("lost", None)
        if mark["mark"] != expected or (wrong and not may_lose):
            raise BenchError(f"at {expected!r}: {wrong} of {mark['expected']} deliveries\n{self.child.tail()}")
        return mark


def publish_only(server: Server, *, log: Path, core: int | None = None, **options: Any) -> Mark:
    """Publish without a subscriber, and return the counts."""
    with Load(server, log=log, core=core, conns=0, **options) as load:
        load.step("connected")
        return load.step("done")


def redis_pair(port: int, *, events: int, rate: float, size: int = 200) -> Mark:
    """Return the latency of a bare XADD → XREAD BLOCK pair, in microseconds."""
    argv = [str(REDIS_PAIR), str(port), str(events), str(rate), str(size)]
    result: Mark = json.loads(run(argv, timeout=events / rate + 60))
    return result
