"""Fan-out: one event to N connections, one at a time and 16 at once; what a connection and a delivery cost."""

from bench.servers import FANOUT
from bench.session import Session
from bench.views import View

TITLE = "Fan-out"
VIEWS = [
    View("cpu_us", "CPU µs per delivery", plot=True, log=True),
    View("per_cpu_s", "deliveries per CPU second", digits=0),
    View("per_s", "deliveries per second of wall time", digits=0),
    View("p50_ms", "ms from publish to receipt, p50 of all deliveries", digits=2),
    View("p99_ms", "the same, p99", digits=2),
    View("connect_us", "CPU µs to accept a connection", digits=0),
    View("memory_kb", "KB a connection just made (PSS)"),
]

BURST = 16
SLOWEST = 4_000  # connections with which a burst through a task and a queue each takes minutes


def measure(session: Session) -> None:
    """Each mode on a server of its own, so that no run inherits the other's memory."""
    for connections in session.pick([100, 1_000, 4_000], [100, 1_000]):
        for run, who in session.rounds(list(FANOUT)):
            one(session, run, who, connections, mode="one", deliveries=session.pick(48_000, 20_000))
            if who != "sse-starlette" or connections < SLOWEST:
                one(session, run, who, connections, mode="burst", deliveries=session.pick(96_000, 48_000))


def one(session: Session, run: int, who: str, connections: int, mode: str, deliveries: int) -> None:
    """One server, one client, one sample."""
    case = f"N = {connections:,}, {'one at a time' if mode == 'one' else f'{BURST} at once'}"
    events = max(deliveries // connections, BURST) // BURST * BURST
    with session.attempt(case, who, run) as stack:
        server = stack.enter_context(FANOUT[who](session.tmp, session.server_core))
        with session.load(server, conns=1, mode="one", events=20) as load:  # imports, caches, first pages
            load.step("connected")
            load.step("done")
        load = stack.enter_context(
            session.load(server, conns=connections, mode=mode, burst=BURST, events=events, warmup=BURST, timeout=120)
        )
        cpu, memory = server.child.cpu(), server.child.memory()
        load.step("connected")
        connect_cpu, connected_memory = server.child.cpu() - cpu, server.child.memory() - memory
        warm = load.step("warm")
        cpu = server.child.cpu()
        with session.profiled(server.child, case):
            done = load.step("done")
        cpu = server.child.cpu() - cpu
        session.add(
            case,
            who,
            run,
            cpu_us=cpu / done["deliveries"] * 1e6,
            per_cpu_s=done["deliveries"] / cpu,
            per_s=done["deliveries"] / done["wall_s"],
            p50_ms=done["latency_us"]["p50"] / 1e3,
            p99_ms=done["latency_us"]["p99"] / 1e3,
            connect_us=connect_cpu / connections * 1e6,
            memory_kb=connected_memory / connections / 1024,
            client_cpu_us=(done["client_cpu_s"] - warm["client_cpu_s"]) / done["deliveries"] * 1e6,
        )
