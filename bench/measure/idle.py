"""Connections that wait: memory and CPU each, heartbeats included."""

import time

from bench.servers import FANOUT
from bench.session import Session
from bench.views import View

TITLE = "Idle connections"
VIEWS = [
    View("memory_kb", "KB a connection (PSS)", plot=True),
    View("cpu_us_s", "CPU µs per second and connection", digits=2),
    View("connect_us", "CPU µs to accept a connection", digits=0),
    View("connects_s", "connections accepted a second", digits=0),
]


def measure(session: Session) -> None:
    """Two heartbeats long: the first one leaves buffers behind that a fresh connection does not have."""
    seconds = session.pick(16.0, 3.0)
    for connections in session.pick([4_000], [500]):
        for run, who in session.rounds(list(FANOUT)):
            one(session, run, who, connections, seconds)


def one(session: Session, run: int, who: str, connections: int, seconds: float) -> None:
    """One server, filled once."""
    with session.attempt(f"{connections:,}", who, run) as stack:
        server = stack.enter_context(FANOUT[who](session.tmp, session.server_core))
        with session.load(server, conns=1, mode="one", events=20) as load:  # imports, caches, first pages
            load.step("connected")
            load.step("done")
        load = stack.enter_context(session.load(server, conns=connections, mode="one", events=1))
        cpu, memory = server.child.cpu(), server.child.memory()
        connected = load.step("connected")
        accepted = server.child.cpu()
        time.sleep(seconds)
        idle_cpu = server.child.cpu() - accepted
        session.add(
            f"{connections:,}",
            who,
            run,
            memory_kb=(server.child.memory() - memory) / connections / 1024,
            cpu_us_s=idle_cpu / seconds / connections * 1e6,
            connect_us=(accepted - cpu) / connections * 1e6,
            connects_s=connections / connected["wall_s"],
        )
        load.step("done")  # all are still there, and each gets the one event
