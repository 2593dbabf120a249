"""The model of docs/scaling.md: what a deployment needs for a number of users, computed from measured figures."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from redis.crc import key_slot
from tidewire.tools.cost.modes import (
    ACTIVE_CONNECTIONS,
    BALANCED_GB,
    BALANCER_ADDRESSES,
    FRAME_BYTES,
    HEARTBEAT_BYTES,
    HEARTBEAT_SECONDS,
)
from tidewire.tools.cost.prices import load
from tidewire.tools.cost.workload import MONTH_HOURS, MONTH_SECONDS

from bench.measure.scaling import CASES, CLUSTER, ONE, SIZE, Case, append_prefix
from bench.samples import Results

# The workload; docs/scaling.md states it.
CONNECTED = 0.1  # share of the users with an open stream in the busiest hour
EVENTS_PER_DAY = 20  # per user; each event for one user, published alone, delivered to one stream
PEAK = 4  # the busiest hour's rate to the mean
DAY = 86_400

# How much of a machine is used; the rest is for peaks within the hour, retries, and the load of an instance that died.
BUSY = 0.5  # of a core
STREAMS = 10_000  # per streaming process: the maximum that was measured (`peruser`)
CELL = 1_000_000  # users of one deployment
USABLE = 0.75  # of a node's memory: ElastiCache reserves 25 % by default

# Nodes of ElastiCache with GiB of memory and USD per hour, us-east-1, on demand, Redis OSS; seen in copies of AWS's
# price list on 2026-12-01, as https://aws.amazon.com/elasticache/pricing/ was not available.
NODES = (
    ("cache.t4g.small", 1.37, 0.032),
    ("cache.r7g.large", 13.07, 0.219),
    ("cache.r7g.xlarge", 26.32, 0.437),
)
COPIES = 2  # a primary and a replica
TASK_VCPU, TASK_GB = 1.0, 2.0  # of a process on Fargate
SLOTS = 16_384  # of a cluster

APPEND, SHARDED_APPEND = "1 per publish, 200 bytes", "1 per publish, 200 bytes, 64 shards"
BATCH = "100 per publish, 200 bytes"
READ, SHARDED_READ = "read at 1,000/s, no shards", "read at 1,000/s, 256 shards"


@dataclass(frozen=True, slots=True)
class Figures:
    """The medians that the model uses."""

    found: Mapping[str, Results]

    def of(self, name: str, case: str, metric: str, who: str = "tidewire") -> float:
        """Return the median of a metric. Raises LookupError if it was not measured."""
        spread = self.found[name].spread(case, who, metric) if name in self.found else None
        if spread is None:
            raise LookupError(f"{name}: {case}, {who} has no {metric}")
        return spread.median

    def scaling(self, case: str, metric: str, who: str = ONE) -> float:
        """Return a median of `scaling`."""
        return self.of("scaling", case, metric, who)

    @property
    def delivery_us(self) -> float:
        """CPU µs of one delivery, if events come one at a time."""
        return self.of("fanout", "N = 1,000, one at a time", "cpu_us")

    @property
    def idle_us(self) -> float:
        """CPU µs per second of an open stream."""
        return self.of("idle", "4,000", "cpu_us_s")

    @property
    def post_us(self) -> float:
        """CPU µs of a process that publishes one event over HTTP."""
        return self.scaling("publish → SSE, 500/s", "publisher_us")


def peak_events(users: float) -> float:
    """Return the events per second of the busiest hour."""
    return users * EVENTS_PER_DAY / DAY * PEAK


def streaming_processes(users: float) -> int:
    """Return the processes that hold the streams, with one more, so that one may die."""
    return math.ceil(users * CONNECTED / STREAMS) + 1


def redis_cores(figures: Figures, users: float, who: str = ONE, *, shards: bool = False) -> float:
    """Return the cores that the busiest node uses: every event is appended once, and read by each streaming process."""
    append, read = (SHARDED_APPEND, SHARDED_READ) if shards else (APPEND, READ)
    each = figures.scaling(append, "redis_us", who)
    each += streaming_processes(users) * figures.scaling(read, "read_redis_us", who)
    busiest = figures.scaling(f"{BATCH}, 256 shards", "busiest", CLUSTER) / 3 if who == CLUSTER else 1
    return peak_events(users) * each / 1e6 * busiest


def reader_cores(figures: Figures, users: float) -> float:
    """Return the cores of one streaming process, which reads every event and delivers those of its users."""
    streams = users * CONNECTED / streaming_processes(users)
    deliveries = peak_events(users) / streaming_processes(users)
    reading = peak_events(users) * figures.scaling(READ, "reader_us")
    return (reading + deliveries * figures.delivery_us + streams * figures.idle_us) / 1e6


def memory_gib(figures: Figures, users: float) -> float:
    """Return the memory of a day's records and ids: REALTIME_RETENTION and REALTIME_IDEMPOTENCY_WINDOW are 24 h."""
    return users * EVENTS_PER_DAY * figures.scaling(APPEND, "memory_bytes") / 2**30


def read_mb(figures: Figures, users: float) -> float:
    """Return the MB per second that all streaming processes read from Redis."""
    record = figures.of("rediscost", "published, 100 per POST", "bytes_in")
    return peak_events(users) * streaming_processes(users) * record / 1e6


def limits(figures: Figures) -> list[tuple[str, float]]:
    """Return each limit with the number of users that reaches it, in one deployment, the lowest first."""
    bounds: list[tuple[str, Callable[[float], bool]]] = [
        ("streams of one streaming process", lambda users: users * CONNECTED > STREAMS),
        ("memory, one cache.t4g.small", lambda users: memory_gib(figures, users) > NODES[0][1] * USABLE),
        ("memory, one cache.r7g.xlarge", lambda users: memory_gib(figures, users) > NODES[-1][1] * USABLE),
        (
            "memory, three cache.r7g.xlarge in a cluster with 256 user shards",
            lambda users: memory_gib(figures, users) > 3 * NODES[-1][1] * USABLE,
        ),
        ("CPU of one Redis, no user shards", lambda users: redis_cores(figures, users) > BUSY),
        ("CPU of one Redis, 256 user shards", lambda users: redis_cores(figures, users, shards=True) > BUSY),
        (
            "CPU of a cluster of three, 256 user shards",
            lambda users: redis_cores(figures, users, CLUSTER, shards=True) > BUSY,
        ),
        ("CPU of each streaming process, which reads every event", lambda users: reader_cores(figures, users) > BUSY),
    ]
    return sorted(((text, _lowest(exceeds)) for text, exceeds in bounds), key=lambda row: row[1])


def _lowest(exceeds: Callable[[float], bool]) -> float:
    low, high = 1.0, 1e12
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a number of users needs, and its monthly cost in USD."""

    users: int
    cells: int
    streaming: int
    publishing: int
    node: str
    memory: float
    redis: float
    reader: float
    network: float
    costs: Mapping[str, float]


def deployment(figures: Figures, users: int) -> Deployment:
    """Return the deployment: above CELL users, several that share nothing, each for its own users."""
    cells = math.ceil(users / CELL)
    each = users / cells
    prices = load()
    streaming = streaming_processes(each)
    publishing = math.ceil(peak_events(each) * figures.post_us / 1e6 / BUSY) if each > CELL / 10 else 0
    memory = memory_gib(figures, each)
    node, _, hourly = next(node for node in NODES if memory <= node[1] * USABLE)
    tasks = cells * (streaming + publishing)
    open_streams = users * CONNECTED / PEAK  # on average
    sent = users * EVENTS_PER_DAY / DAY * MONTH_SECONDS * (SIZE + FRAME_BYTES)
    sent += open_streams * MONTH_SECONDS / HEARTBEAT_SECONDS * HEARTBEAT_BYTES
    units = max(open_streams / ACTIVE_CONNECTIONS, sent / 1e9 / MONTH_HOURS / BALANCED_GB)
    costs = {
        "Redis, with replicas": cells * COPIES * hourly * MONTH_HOURS,
        "Fargate": prices["fargate-vcpu-hours"].of(tasks * TASK_VCPU * MONTH_HOURS)
        + prices["fargate-gb-hours"].of(tasks * TASK_GB * MONTH_HOURS),
        "load balancers, public addresses": prices["balancer-hours"].of(cells * MONTH_HOURS)
        + prices["balancer-lcu-hours"].of(units * MONTH_HOURS)
        + prices["ipv4-hours"].of((tasks + cells * BALANCER_ADDRESSES) * MONTH_HOURS),
        "data out to the internet": prices["egress-gb"].of(sent / 1e9),
    }
    return Deployment(
        users,
        cells,
        streaming,
        publishing,
        node,
        memory,
        redis_cores(figures, each),
        reader_cores(figures, each),
        read_mb(figures, each),
        costs,
    )


def busiest_of_three(shards: int) -> float:
    """Return the partitions of the busiest of three nodes to the mean: what `scaling` measured with these names."""
    number = CASES.index(Case(100, shards=shards))
    found = []
    for run in range(3):
        slots = [key_slot(f"{append_prefix(run, number)}:all:u{shard}".encode()) for shard in range(shards)]
        nodes = Counter(slot * 3 // SLOTS for slot in slots)
        found.append(max(nodes.values()) / (shards / 3))
    return median(found)


def checks(figures: Figures) -> list[tuple[str, float, float]]:
    """Return (text with the unit, prediction, measured value) where something was measured that the model predicts."""
    single, batched = (figures.scaling(case, "redis_us") for case in (APPEND, BATCH))
    per_publish = (single - batched) / (1 - 1 / 100)
    ten = batched - per_publish / 100 + per_publish / 10
    read = figures.scaling(READ, "read_redis_us")
    return [
        (
            "CPU µs per event of Redis at 5,000 events/s, 10 per publish, one reading process (`endtoend`)",
            ten + read,
            figures.of("endtoend", "5,000/s", "redis_us"),
        ),
        (
            "the same at 500 events/s, 1 per publish",
            single + read,
            figures.of("endtoend", "500/s", "redis_us"),
        ),
        (
            "% of a core of a streaming process with 1,000 streams at 10 events/s to each (`rate`)",
            (10 * 1_000 * figures.delivery_us + 1_000 * figures.idle_us) / 1e4,
            figures.of("rate", "10/s to 1,000", "cpu_percent"),
        ),
        *(
            (
                f"busiest of three nodes to their mean, {shards} shards (`scaling`)",
                busiest_of_three(shards),
                figures.scaling(f"{BATCH}, {shards} shards", "busiest", CLUSTER),
            )
            for shards in (64, 256)
        ),
    ]


def sections(found: Mapping[str, Results]) -> dict[str, str]:
    """Return the tables of docs/scaling.md by name; empty if something was not measured yet."""
    figures = Figures(found)
    try:
        return {
            name: "\n".join(rows(figures))
            for name, rows in {
                "measured": _measured,
                "streaming": _streaming,
                "checks": _checks,
                "limits": _limits,
                "deployments": _deployments,
            }.items()
        }
    except LookupError:
        return {}


def _measured(figures: Figures) -> Iterator[str]:
    yield "| | one Redis | cluster of three |"
    yield "|---|--:|--:|"
    rows = [
        ("events appended per CPU second of the busiest node: 1 per publish, one partition", APPEND, "appends", 0),
        ("the same, 100 per publish", BATCH, "appends", 0),
        ("the same, 1 per publish, 64 user shards", SHARDED_APPEND, "appends", 0),
        ("the same, 100 per publish, 256 user shards", f"{BATCH}, 256 shards", "appends", 0),
        ("CPU µs per event, all nodes: 1 per publish, one partition", APPEND, "redis_us", 1),
        ("the same, 1 per publish, 64 user shards", SHARDED_APPEND, "redis_us", 1),
        ("CPU µs of Redis per record and reading process: one partition", READ, "read_redis_us", 1),
        ("the same, 64 user shards", "read at 1,000/s, 64 shards", "read_redis_us", 1),
        ("the same, 256 user shards", SHARDED_READ, "read_redis_us", 1),
        ("CPU µs of the reading process per record: one partition", READ, "reader_us", 0),
        ("the same, 256 user shards", SHARDED_READ, "reader_us", 0),
        ("CPU µs of the publishing process per event, without HTTP: one partition", APPEND, "publisher_us", 0),
        ("the same, 64 user shards", SHARDED_APPEND, "publisher_us", 0),
        ("bytes of memory per event of 200 bytes, with its id", APPEND, "memory_bytes", 0),
        ("µs from publish to receipt at 500 events/s, p50", "publish → SSE, 500/s", "p50_us", 0),
        ("CPU of the busiest node to the mean: 16 user shards", f"{BATCH}, 16 shards", "busiest", 2),
        ("the same, 64 user shards", f"{BATCH}, 64 shards", "busiest", 2),
        ("the same, 256 user shards", f"{BATCH}, 256 shards", "busiest", 2),
        ("commands per idle hour of a process: one partition", "idle, no shards", "idle_per_hour", 0),
        ("the same, 64 user shards", "idle, 64 shards", "idle_per_hour", 0),
        ("the same, 256 user shards", "idle, 256 shards", "idle_per_hour", 0),
    ]
    for text, case, metric, digits in rows:
        spreads = [figures.found["scaling"].spread(case, who, metric) for who in (ONE, CLUSTER)]
        cells = [f"{spread.median:,.{digits}f}" if spread else "" for spread in spreads]
        yield f"| {text} | {' | '.join(cells)} |"


def _streaming(figures: Figures) -> Iterator[str]:
    yield "| | |"
    yield "|---|--:|"
    yield f"| CPU µs per delivery, one event at a time to 1,000 streams | {figures.delivery_us:.1f} |"
    burst = figures.of("fanout", "N = 1,000, 16 at once", "cpu_us")
    yield f"| the same, 16 events at once | {burst:.1f} |"
    yield f"| KB of memory per open stream | {figures.of('idle', '4,000', 'memory_kb'):.1f} |"
    yield f"| CPU µs per second and open stream | {figures.idle_us:.2f} |"
    yield f"| CPU µs to accept a stream | {figures.of('idle', '4,000', 'connect_us'):.0f} |"
    yield f"| CPU µs per POST of one event, at 500/s | {figures.post_us:.0f} |"


def _checks(figures: Figures) -> Iterator[str]:
    yield "| | model | measured |"
    yield "|---|--:|--:|"
    for text, predicted, measured in checks(figures):
        digits = 2 if measured < 10 else 1
        yield f"| {text} | {predicted:.{digits}f} | {measured:.{digits}f} |"


def _limits(figures: Figures) -> Iterator[str]:
    yield "| reached first | users | events/s at the peak |"
    yield "|---|--:|--:|"
    for text, users in limits(figures):
        yield f"| {text} | {_rounded(users)} | {_rounded(peak_events(users))} |"


def _deployments(figures: Figures) -> Iterator[str]:
    found = [deployment(figures, users) for users in (10_000, 1_000_000, 100_000_000)]
    yield "| | " + " | ".join(f"{one.users:,} users" for one in found) + " |"
    yield "|---|" + "--:|" * len(found)
    each: list[tuple[str, Callable[[Deployment], str]]] = [
        ("events per second at the peak", lambda one: f"{peak_events(one.users):,.0f}"),
        ("open streams at the peak", lambda one: f"{one.users * CONNECTED:,.0f}"),
        ("deployments that share nothing", lambda one: f"{one.cells:,}"),
        ("*in each:* streaming processes", lambda one: f"{one.streaming:,}"),
        ("publishing processes", lambda one: f"{one.publishing:,}" if one.publishing else "the same"),
        ("log and ids of a day, GiB", lambda one: f"{one.memory:.1f}"),
        ("Redis, primary and replica", lambda one: f"{COPIES} {one.node}"),
        ("CPU of Redis, % of a core", lambda one: f"{one.redis * 100:.1f}"),
        ("CPU of a streaming process, % of a core", lambda one: f"{one.reader * 100:.1f}"),
        ("read from Redis, MB/s", lambda one: f"{one.network:.2f}"),
        *(
            (f"*USD per month:* {name}" if index == 0 else name, lambda one, name=name: f"{one.costs[name]:,.0f}")
            for index, name in enumerate(found[0].costs)
        ),
        ("total", lambda one: f"**{sum(one.costs.values()):,.0f}**"),
        ("per 1,000 users", lambda one: f"{sum(one.costs.values()) / one.users * 1_000:,.2f}"),
    ]
    for text, cell in each:
        yield f"| {text} | " + " | ".join(map(cell, found)) + " |"


def _rounded(number: float) -> str:
    """Two significant digits: the model is not better than that."""
    return f"{float(f'{number:.1e}'):,.0f}"
