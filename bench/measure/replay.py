"""A late client reads the whole log: 100,000 events, against reading the same entries with raw hiredis."""

import json
import sys

from bench.client import publish_only
from bench.process import run as run_program
from bench.servers import MEMORY, YARDSTICKS, Server, redis, tidewire, tidewire_on_redis
from bench.session import Session
from bench.views import View

TITLE = "Replay of the log to one late client"
VIEWS = [
    View("per_s", "events per second", digits=0, plot=True),
    View("cpu_us", "CPU µs per event"),
    View("peak_mb", "MB that the process grew at its peak"),
]

BATCH = 100


def measure(session: Session) -> None:
    """One log a round is filled through POST and read by both, so that both read the same bytes."""
    events = session.pick(100_000, 10_000)
    for run in range(session.runs):
        with session.attempt("redis", "both", run) as stack:
            store = stack.enter_context(redis(session.tmp, session.client_core))
            server = stack.enter_context(tidewire_on_redis(session.tmp, store.port, session.server_core))
            fill(session, server, events)
            for who in ("tidewire", "raw hiredis") if run % 2 == 0 else ("raw hiredis", "tidewire"):
                if who == "tidewire":
                    read(session, run, "redis", server, events)
                else:
                    script = str(YARDSTICKS / "hiredis_read.py")
                    argv = [sys.executable, script, str(store.port), "rt:all", str(events)]
                    session.add("redis", who, run, **json.loads(run_program(argv)))
        with session.attempt("memory", "tidewire", run) as stack:
            settings = MEMORY | {"REALTIME_MAX_EVENTS": str(2 * events)}
            server = stack.enter_context(tidewire(session.tmp, session.server_core, settings))
            fill(session, server, events)
            read(session, run, "memory", server, events)


def fill(session: Session, server: Server, events: int) -> None:
    """Publish the log's content."""
    publish_only(server, log=session.tmp / "load.log", mode="burst", burst=4, batch=BATCH, events=events, timeout=180)


def read(session: Session, run: int, case: str, server: Server, events: int) -> None:
    """One client from the start of the log until it has all."""
    late = f"{server.events}?from=earliest"
    server.child.forget_peak()
    before, cpu = server.child.memory(), server.child.cpu()
    with session.load(server, path=late, ready=False, conns=1, mode="listen", events=events, timeout=180) as load:
        connected = load.step("connected")
        with session.profiled(server.child, case):
            done = load.step("done")
        seconds = connected["wall_s"] + done["wall_s"]
        session.add(
            case,
            "tidewire",
            run,
            per_s=events / seconds,
            cpu_us=(server.child.cpu() - cpu) / events * 1e6,
            peak_mb=max(server.child.peak() - before, 0) / 2**20,
        )
