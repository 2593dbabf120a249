"""The goals: ratios of medians from the same rounds. README.md shows each beside the measured value."""

from dataclasses import dataclass

from bench.samples import Results, Spread


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of ours to theirs, each a (case, who); without theirs, our value itself."""

    text: str
    measurement: str
    metric: str
    ours: tuple[str, str]
    theirs: tuple[str, str] | None
    goal: float
    stretch: float
    at_least: bool = False  # more is better

    def found(self, all_results: dict[str, Results]) -> Spread | None:
        """Return the measured value, None if there is none."""
        results = all_results.get(self.measurement)
        if results is None:
            return None
        if self.theirs is None:
            return results.spread(*self.ours, self.metric)
        return results.ratio(self.metric, self.ours, self.theirs)

    def verdict(self, median: float) -> str:
        """Return the verdict on a median: stretch, reached or missed."""
        for limit, word in ((self.stretch, "stretch"), (self.goal, "reached")):
            if median >= limit if self.at_least else median <= limit:
                return word
        return "missed"


def _fanout(n: str, mode: str, theirs: str, goal: float, stretch: float) -> Goal:
    case = f"N = {n}, {mode}"
    text = f"deliveries per CPU second, {case}, to {theirs}"
    return Goal(text, "fanout", "per_cpu_s", (case, "tidewire"), (case, theirs), goal, stretch, at_least=True)


def _end_to_end(rate: str) -> Goal:
    ours, theirs, text = (
        (rate, "tidewire"),
        (rate, "C pair + hello"),
        f"publish → SSE, p50 at {rate}, to C pair + hello",
    )
    return Goal(text, "endtoend", "p50_us", ours, theirs, 2.5, 1.8)


def _cold(case: str, goal: float, stretch: float) -> Goal:
    text = f"first invocation, {case}, CPU to the bare hello"
    return Goal(text, "coldstart", "cpu_ms", (case, "tidewire"), (case, "hello"), goal, stretch)


def _redis(text: str, metric: str, case: str, goal: float, stretch: float) -> Goal:
    return Goal(text, "rediscost", metric, (case, "tidewire"), None, goal, stretch)


RATE, TAIL, IDLE = "10/s to 1,000", "500/s", "4,000"
FEW, MANY, SHARDED = "1 of 100", "1 of 10,000", "one of 1,000 users, 256 shards"
REST = "round trip 20 ms"
US, NCHAN, PAIR = "tidewire", "nchan", "C pair"

GOALS = [
    _fanout("1,000", "one at a time", NCHAN, 1.0, 1.3),
    _fanout("4,000", "one at a time", NCHAN, 1.0, 1.3),
    _fanout("1,000", "16 at once", NCHAN, 5.0, 6.5),
    _fanout("4,000", "16 at once", NCHAN, 5.0, 6.5),
    _fanout("1,000", "one at a time", "sse-starlette", 7.0, 9.0),
    _fanout("4,000", "one at a time", "sse-starlette", 7.0, 9.0),
    Goal("memory of an idle connection, to nchan", "idle", "memory_kb", (IDLE, US), (IDLE, NCHAN), 1.1, 0.95),
    Goal("fan-out p50 at 10 events/s to 1,000, to nchan", "rate", "p50_ms", (RATE, US), (RATE, NCHAN), 1.2, 1.0),
    Goal("append → received record, p50 at 500/s, to the C pair", "tail", "p50_us", (TAIL, US), (TAIL, PAIR), 2.0, 1.5),
    _end_to_end("17/s"),
    _end_to_end("500/s"),
    _end_to_end("5,000/s"),
    Goal("1 user among 10,000 connections, to among 100", "peruser", "cpu_us", (MANY, US), (FEW, US), 1.5, 1.1),
    Goal(
        "replay of 100,000 events per second, to reading them with raw hiredis",
        "replay",
        "per_s",
        ("redis", US),
        ("redis", "raw hiredis"),
        0.4,
        0.6,
        at_least=True,
    ),
    _cold("publish, memory", 1.25, 1.12),
    _cold("publish, Upstash REST", 1.4, 1.35),
    _cold("publish, Redis TCP", 2.0, 1.3),
    _redis("Redis commands per minute of an idle instance", "commands", "idle, 1 instance", 12, 3),
    _redis("round trips per POST of 1 event", "commands", "published, 1 per POST", 1, 1),
    _redis("round trips per POST of 100 events", "commands", "published, 100 per POST", 1, 1),
    _redis("bytes read from Redis per byte delivered to one user of 1,000", "read_per_delivered", SHARDED, 2.0, 1.2),
    Goal("commands per idle hour over REST", "rest", "commands_hour", (REST, "doorbell"), None, 90, 60),
    Goal("ms from receipt to reader over REST, p50", "rest", "acknowledged_p50_ms", (REST, "doorbell"), None, 40, 30),
    Goal(
        "events per minute to 1,000 matching connections, 60 s, nothing lost",
        "held",
        "per_minute",
        ("100 per POST, 1 of 1,000 users each", US),
        None,
        300_000,
        600_000,
        at_least=True,
    ),
]
