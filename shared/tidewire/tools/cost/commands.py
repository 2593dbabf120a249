"""The store's commands, as it bills them: a script is one, and so is each command of a pipeline.

tests/integration/cost/test_counted.py compares these numbers with the commands that a real Redis and the stand-in of
Upstash's REST API receive. The numbers are per process, whatever its number of subscribers, and upper bounds if two
operations could share a command.
"""

import math
from dataclasses import dataclass

from tidewire.tools.cost.workload import MONTH_SECONDS, Workload

BLOCK = 30.0  # seconds of one blocking read over TCP: two per minute while no event arrives
HEADS = 60.0  # seconds between two reads of the heads meanwhile; over REST too, where each also tests the doorbell
MAX_COPIES = 16  # of one event
CLUSTER_POLL = 15.0  # seconds between two reads of a partition of a cluster, if nothing rings
POLL_MIN = 0.25  # seconds between two reads over REST, on average, however often the doorbell rings
PAGE = 500  # records of one replay command
RECONNECT_SECONDS = 2.0  # between two streams of a client; the events in between are replayed
CONTROL = 1  # control partitions that every process with streams follows


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process reads while it follows the log."""

    arrivals: float
    """Publish requests per second to the partitions that it follows."""
    records: float
    """Events per second in these partitions."""


def partitions(load: Workload) -> int:
    """Return the number of partitions of one subscriber: each base, and with shards the user's shard of each."""
    return (1 + load.partitions) * (2 if load.shards else 1)


def copies(load: Workload, audience: float) -> float:
    """Return the copies of one event: one per shard of its audience, but one if these exceed `MAX_COPIES`."""
    hit = max(1.0, min(audience, load.shards))
    return hit if hit <= MAX_COPIES else 1.0


def publishing(load: Workload) -> float:
    """Return the commands of a month's publications.

    One script per request and partition of its events, and one more if the key has a rate. Each event of the bus is a
    request of its own.
    """
    batch = 1 if load.bus else load.batch
    bases = min(batch, 1 + load.partitions)
    sharded = load.shards and copies(load, load.audience) == min(load.audience, load.shards)
    scripts = max(bases, min(load.audience * batch, load.shards * bases) if sharded else 0.0)
    limit = load.requests if load.rate_limited else 0.0
    return load.events / batch * scripts + (0.0 if load.bus else limit)


def read_for_all(load: Workload) -> Reading:
    """Return what a process with many users reads: every copy of every event."""
    requests = load.events if load.bus else load.requests
    return Reading(requests / MONTH_SECONDS, load.events * copies(load, load.audience) / MONTH_SECONDS)


def read_for_one(load: Workload) -> Reading:
    """Return what a process with one user reads: with shards, the events of the user's shard only."""
    if not load.shards:
        return read_for_all(load)
    batch = 1 if load.bus else load.batch
    requests, events = load.events / batch / MONTH_SECONDS, load.events / MONTH_SECONDS
    hit, share = (min(audience / load.shards, 1.0) for audience in (load.audience * batch, load.audience))
    return Reading(requests * hit, events * share)


def following(load: Workload, reading: Reading) -> float:
    """Return the commands per second of a tail with subscribers."""
    if load.transport == "redis-tcp":
        reads = blocking_reads(reading.arrivals)
        return reads + min(1 / HEADS, max(reads - reading.arrivals, 0.0))  # the heads are read after an empty read
    if load.transport == "redis-cluster":  # a read per ring; each partition is also polled, and its head read
        return reading.arrivals + (partitions(load) + CONTROL) * (1 / CLUSTER_POLL + 1 / HEADS)
    return rung_reads(reading.arrivals) + 1 / HEADS if load.transport == "upstash-rest" else 0.0


def blocking_reads(arrivals: float, block: float = BLOCK) -> float:
    """Return the reads per second: each ends at the next arrival, or after `block` seconds."""
    if arrivals * block < 1e-9:
        return 1 / block
    return arrivals / -math.expm1(-arrivals * block)


def rung_reads(arrivals: float) -> float:
    """Return the reads per second over REST: one per ring, and at most one per `POLL_MIN` on average."""
    return min(arrivals, 1 / POLL_MIN)


def opening_alone(load: Workload) -> int:
    """Return the commands that open the only stream of a process, as on Lambda, without its reads.

    TCP: the heads of all partitions, twice (for the subscriber and for the tail), CLIENT ID, and CLIENT UNBLOCK for
    partitions added while the tail reads: two, or more on a busy machine, which retries. With partitions or user
    shards, one more reads the partition schemes in use, and over TCP a read that it interrupts.
    """
    schemes = 1 if load.partitions or load.shards else 0
    if load.transport == "upstash-rest":
        return 4 + schemes  # the heads, and once more with the tail; SUBSCRIBE, and the heads after it
    return 2 * (partitions(load) + CONTROL) + 3 + 2 * schemes if load.transport == "redis-tcp" else 0


def opening_among_others(load: Workload) -> int:
    """Return the commands that open another stream: the heads, and with shards those of its shard.

    For a shard that the tail does not follow yet, its read is interrupted (CLIENT UNBLOCK) and repeated.
    """
    if load.transport == "upstash-rest":
        return 3 if load.shards else 1
    if load.transport == "postgres":
        return 0
    return partitions(load) + (1 + load.partitions + 2 if load.shards else 0)


def polling(load: Workload) -> int:
    """Return the commands of one poll without new events."""
    if load.transport == "postgres":
        return 0
    if load.transport == "upstash-rest":
        return 5 if load.poll_wait else 1  # the subscriber's heads and the tail's; then as for a stream
    heads = partitions(load) + CONTROL
    # Five reads (two for the partitions as they are added, one interrupted, one with the event, one after it), and two
    # CLIENT UNBLOCK.
    return heads + 7 if load.poll_wait else heads


def pages(records: float) -> float:
    """Return the average pages of a replay of this many records, one command each; none for an empty replay."""
    return -math.expm1(-records) + records / PAGE
