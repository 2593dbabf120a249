"""The highest rate that is held for a minute with nothing lost, and whether memory stays flat under it."""

from dataclasses import dataclass, replace

from bench.client import Mark
from bench.process import BenchError
from bench.servers import TIDEWIRE_USER_BODY, Server, redis, tidewire_on_redis
from bench.session import Session
from bench.views import View

TITLE = "Highest rate held for 60 s, two processes around one Redis"
VIEWS = [
    View("per_minute", "events per minute, nothing lost, p99 below 1 s", digits=0, plot=True, log=True),
    View("p50_ms", "ms from publish to receipt at that rate, p50"),
    View("p99_ms", "the same, p99"),
    View("growth_mb", "MB that the streaming process grew, from second 10 to the end"),
]

PROBE_SECONDS = 4
STEP = 1.6  # a rate that held is tried again times this
BACK = 0.85  # a rate that held for a probe but not for a minute
WORST_P99_US = 1e6  # later than that it is falling behind, not holding
START = 1_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How events are published, and how many connections they reach."""

    case: str
    connections: int
    batch: int
    spread: bool = False


SHAPES = [
    Shape("1 per POST, 10 connections", 10, 1),
    Shape("100 per POST, 10 connections", 10, 100),
    Shape("100 per POST, 1 of 1,000 users each", 1_000, 100, spread=True),
]


def measure(session: Session) -> None:
    """At most three rounds: one takes minutes."""
    for shape in SHAPES:
        for run, who in session.rounds(["tidewire"]):
            if run < 3:
                one(session, run, who, shape)


def one(session: Session, run: int, who: str, shape: Shape) -> None:
    """Climb until a probe fails, then hold the last good rate for the whole minute, a little less where it does not."""
    whole = session.pick(60, 8)
    with session.attempt(shape.case, who, run):
        rate, good = START, 0
        while attempt(session, shape, rate, PROBE_SECONDS) is not None:
            good, rate = rate, int(rate * STEP)
        if not good:
            raise BenchError(f"not even {START} events per second held")
        while (held := attempt(session, shape, good, whole)) is None:
            good = int(good * BACK)
            if good < START / 10:
                raise BenchError("no rate held for the whole time")
        done, growth = held
        session.add(
            shape.case,
            who,
            run,
            per_minute=good * 60,
            p50_ms=done["latency_us"]["p50"] / 1e3,
            p99_ms=done["latency_us"]["p99"] / 1e3,
            growth_mb=growth / 2**20,
        )


def attempt(session: Session, shape: Shape, rate: int, seconds: int) -> tuple[Mark, float] | None:
    """One rate on fresh servers: what was counted and the bytes grown; None where it did not hold."""
    with (
        redis(session.tmp) as store,
        tidewire_on_redis(session.tmp, store.port) as publisher,
        tidewire_on_redis(session.tmp, store.port) as reader,
    ):
        return hold(session, shape, rate, seconds, replace(reader, publish_port=publisher.port))


def hold(session: Session, shape: Shape, rate: int, seconds: int, server: Server) -> tuple[Mark, float] | None:
    """Publish at the rate and judge."""
    if shape.spread:
        server = replace(server, events="/api/events?userId=u{i}", body=TIDEWIRE_USER_BODY)
    memory: list[int] = []
    with session.load(
        server,
        pinned=False,
        conns=shape.connections,
        mode="rate",
        rate=rate,
        batch=shape.batch,
        spread=shape.spread,
        events=rate * seconds,
        timeout=30,
    ) as load:
        load.step("connected")
        done = load.step("done", meanwhile=lambda: memory.append(server.child.memory()), may_lose=True)
    wrong = [done[name] for name in ("timed_out", "lost", "duplicated", "publish_errors", "lost_connections")]
    if any(wrong) or done["latency_us"] is None or done["latency_us"]["p99"] > WORST_P99_US:
        return None
    settled = memory[10:] or memory or [0]
    return done, settled[-1] - settled[0]
