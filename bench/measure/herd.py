"""An instance dies under 500 clients, and all come back to another one with their cursors."""

from bench.client import publish_only
from bench.process import BenchError
from bench.redis_watch import Commands
from bench.servers import redis, tidewire_on_redis
from bench.session import Session
from bench.views import View

TITLE = "A herd of 500 clients after an instance died"
VIEWS = [
    View("outage_s", "s from the death until all are live and have replayed", digits=2, plot=True),
    View("p50_ms", "ms until one client is back, p50", digits=0),
    View("p99_ms", "the same, p99", digits=0),
    View("cpu_s", "CPU s of the instance that takes them", digits=2),
    View("refused", "connects that were answered with an error and tried again", digits=0),
    View("commands", "Redis commands that this took", digits=0),
]

CLIENTS = 500
BEFORE, MISSED = 50, 500  # events that all have seen, and that all missed


def measure(session: Session) -> None:
    """With the wait that the server sent to each client (jittered), and with none at all."""
    for case, retry in {"retry as sent": -1, "all at once": 0}.items():
        for run, who in session.rounds(["tidewire"]):
            one(session, run, who, case, retry)


def one(session: Session, run: int, who: str, case: str, retry: int) -> None:
    """Nothing may be lost or doubled: the client checks every number on every connection across the death."""
    with session.attempt(case, who, run) as stack:
        store = stack.enter_context(redis(session.tmp, session.client_core))
        dying = stack.enter_context(tidewire_on_redis(session.tmp, store.port, session.server_core))
        other = stack.enter_context(tidewire_on_redis(session.tmp, store.port, session.server_core))
        load = stack.enter_context(
            session.load(
                dying,
                reconnect_port=other.port,
                retry=retry,
                conns=CLIENTS,
                mode="listen",
                events=BEFORE + MISSED,
                timeout=60,
            )
        )
        load.step("connected")
        load.go()
        log = session.tmp / "load.log"
        publish_only(other, log=log, mode="one", events=BEFORE)
        dying.child.freeze()  # hung first, so that there is something to catch up on
        publish_only(other, log=log, mode="burst", batch=50, events=MISSED, first=BEFORE + 1)
        with Commands(store.port) as commands:
            cpu = other.child.cpu()
            dying.child.stop()
            done = load.wait("done")
        if done["back_us"]["count"] != CLIENTS:
            raise BenchError(f"{done['back_us']['count']} of {CLIENTS} clients came back")
        session.add(
            case,
            who,
            run,
            outage_s=done["outage_s"],
            p50_ms=done["back_us"]["p50"] / 1e3,
            p99_ms=done["back_us"]["p99"] / 1e3,
            cpu_s=other.child.cpu() - cpu,
            commands=commands.total,
            refused=done["refused"],
        )
