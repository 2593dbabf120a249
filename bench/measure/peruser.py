"""An event for one user: does its cost follow the connections that match, or all that are there?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.servers import MEMORY, TIDEWIRE_USER_BODY, Server, nchan, tidewire
from bench.session import Session
from bench.views import View

TITLE = "An event for one user"
VIEWS = [
    View("cpu_us", "CPU µs per event, publish included", plot=True),
    View("p50_us", "µs from publish to receipt, p50", digits=0),
    View("p99_us", "the same, p99", digits=0),
]

FEW = 100
USER = 7  # any connection but the first and the last


def measure(session: Session) -> None:
    """The few and the many of one contestant follow each other within a round: their ratio is the result."""
    many = session.pick(10_000, 2_000)
    for run, who in session.rounds(["tidewire", "nchan"]):
        for connections in (FEW, many) if run % 2 == 0 else (many, FEW):
            one(session, run, who, connections)


def one(session: Session, run: int, who: str, connections: int) -> None:
    """Every connection is another user; all events are for one of them."""
    events = session.pick(4_000, 1_000)
    with session.attempt(f"1 of {connections:,}", who, run) as stack:
        server = stack.enter_context(addressed(who, session.tmp, session.server_core))
        load = stack.enter_context(
            session.load(
                server,
                conns=connections,
                sources=4,
                mode="one",
                receivers=1,
                events=events,
                warmup=events // 10,
                timeout=180,
            )
        )
        load.step("connected")
        load.step("warm")
        cpu = server.child.cpu()
        with session.profiled(server.child, f"1 of {connections}"):
            done = load.step("done")
        session.add(
            f"1 of {connections:,}",
            who,
            run,
            cpu_us=(server.child.cpu() - cpu) / events * 1e6,
            p50_us=done["latency_us"]["p50"],
            p99_us=done["latency_us"]["p99"],
        )


@contextmanager
def addressed(who: str, tmp: Path, core: int) -> Iterator[Server]:
    """The server with routes that address users; heartbeats rare, so that they do not fall into what is measured."""
    if who == "nchan":
        with nchan(tmp, core) as server:
            yield replace(server, events="/events?channel=u{i}", publish=f"/publish?channel=u{USER}")
        return
    with tidewire(tmp, core, MEMORY | {"REALTIME_HEARTBEAT": "60s"}) as server:
        body = TIDEWIRE_USER_BODY.replace("{u}", str(USER))
        yield replace(server, events="/api/events?userId=u{i}", body=body)
