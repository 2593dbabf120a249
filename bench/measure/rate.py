"""Latency at a fixed rate: 10 events per second to 1,000 connections, which no contestant finds hard."""

from bench.servers import FANOUT
from bench.session import Session
from bench.views import View

TITLE = "Latency at 10 events per second to 1,000 connections"
VIEWS = [
    View("p50_ms", "ms from publish to receipt, p50 of all deliveries", digits=2, plot=True),
    View("p90_ms", "the same, p90", digits=2),
    View("p99_ms", "the same, p99", digits=2),
    View("max_ms", "the same, the slowest", digits=2),
    View("cpu_percent", "server CPU, percent of a core"),
]

CASE = "10/s to 1,000"
RATE = 10.0
CONNECTIONS = 1_000


def measure(session: Session) -> None:
    """The rate is open loop: an event is stamped when it was due, so a stall counts for all that waited behind it."""
    events = session.pick(80, 30)
    for run, who in session.rounds(list(FANOUT)):
        with session.attempt(CASE, who, run) as stack:
            server = stack.enter_context(FANOUT[who](session.tmp, session.server_core))
            load = stack.enter_context(
                session.load(server, conns=CONNECTIONS, mode="rate", rate=RATE, events=events, warmup=10)
            )
            load.step("connected")
            load.step("warm")
            cpu = server.child.cpu()
            done = load.step("done")
            latency = {f"{q}_ms": done["latency_us"][q] / 1e3 for q in ("p50", "p90", "p99", "max")}
            cpu_percent = (server.child.cpu() - cpu) / done["wall_s"] * 100
            session.add(CASE, who, run, **latency, cpu_percent=cpu_percent)
