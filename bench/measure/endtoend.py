"""HTTP publish → Redis → another process → SSE frame, at rates from the usual to 300,000 events per minute."""

from dataclasses import replace

from bench.client import publish_only, redis_pair
from bench.servers import hello, redis, tidewire_on_redis
from bench.session import Session
from bench.views import View

TITLE = "End to end: HTTP publish → Redis → another process → SSE"
VIEWS = [
    View("p50_us", "µs from publish to receipt, p50", digits=0, plot=True, log=True),
    View("p99_us", "the same, p99", digits=0, plot=True, log=True),
    View("publisher_us", "CPU µs per event: the publishing process", digits=0),
    View("redis_us", "Redis", digits=0),
    View("reader_us", "the streaming process, 10 connections", digits=0),
]

CONNECTIONS = 10
# events per second → events a POST: one process cannot parse 5,000 requests a second, and need not
RATES = {17: 1, 500: 1, 5_000: 10}


def measure(session: Session) -> None:
    """The floor is the C pair's latency plus that of one HTTP hello, at the same rates, in the same round."""
    seconds = session.pick(5, 3)
    for rate, batch in RATES.items():
        for run, who in session.rounds(["tidewire", "C pair + hello"]):
            measured = ours if who == "tidewire" else floor
            measured(session, run, who, rate, batch, seconds)


def ours(session: Session, run: int, who: str, rate: int, batch: int, seconds: int) -> None:
    """Two processes of ours around one Redis; nothing pinned: the kernel places the four."""
    case = f"{rate:,}/s"
    with session.attempt(case, who, run) as stack:
        store = stack.enter_context(redis(session.tmp))
        publisher = stack.enter_context(tidewire_on_redis(session.tmp, store.port))
        reader = stack.enter_context(tidewire_on_redis(session.tmp, store.port))
        load = stack.enter_context(
            session.load(
                replace(reader, publish_port=publisher.port),
                pinned=False,
                conns=CONNECTIONS,
                mode="rate",
                rate=rate,
                batch=batch,
                events=rate * seconds,
                warmup=rate,
            )
        )
        load.step("connected")
        load.step("warm")
        parts = {"publisher_us": publisher, "redis_us": store, "reader_us": reader}
        before = {name: part.child.cpu() for name, part in parts.items()}
        with session.profiled(publisher.child, f"{rate} publisher"), session.profiled(reader.child, f"{rate} reader"):
            done = load.step("done")
        cpu = {name: (part.child.cpu() - before[name]) / done["published"] * 1e6 for name, part in parts.items()}
        session.add(case, who, run, p50_us=done["latency_us"]["p50"], p99_us=done["latency_us"]["p99"], **cpu)


def floor(session: Session, run: int, who: str, rate: int, batch: int, seconds: int) -> None:
    """Quantiles do not add up; the sum of the two p50 is the floor that the goal names, and the p99 is a rough one."""
    case = f"{rate:,}/s"
    with session.attempt(case, who, run) as stack:
        store = stack.enter_context(redis(session.tmp))
        pair = redis_pair(store.port, events=rate * seconds, rate=rate)["latency_us"]
        server = stack.enter_context(hello(session.tmp))
        posts = rate // batch
        done = publish_only(server, log=session.tmp / "load.log", mode="rate", rate=posts, events=posts * seconds)
        session.add(
            case,
            who,
            run,
            p50_us=pair["p50"] + done["publish_us"]["p50"],
            p99_us=pair["p99"] + done["publish_us"]["p99"],
            pair_p50_us=pair["p50"],
            hello_p50_us=done["publish_us"]["p50"],
        )
