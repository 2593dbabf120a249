"""The commands that the log is asked for, as the store bills them: a script is one, and so is each of a pipeline.

Counted on the real thing: tests/cost/test_counted.py holds these numbers against Redis, and against REST's stand-in.
Each function's numbers are for one process (an instance), however many subscribers it has, and an upper bound where
two happenings could share a command.
"""

import math
from dataclasses import dataclass

from tidewire.tools.cost.workload import MONTH_SECONDS, Workload

BLOCK = 30.0  # seconds of one blocking read over TCP: two a minute while nothing happens
LOOK = 60.0  # seconds between two looks at the heads meanwhile
MAX_COPIES = 16  # of one event
POLL_MIN, POLL_MAX, SLOWING = (
    0.25,
    5.0,
    1.5,
)  # seconds between two polls over REST, and the growth while none brings any
PAGE = 500  # records of one command that replays
RECONNECT_SECONDS = 2.0  # without a stream, between two: what is missed meanwhile is replayed
CONTROL = 1  # the heads of the partitions that every process with streams follows besides its subscribers'


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process hears of the log while it follows it."""

    arrivals: float
    """Publish requests a second that reach what it follows."""
    records: float
    """Events a second in what it follows."""


def partitions(load: Workload) -> int:
    """Return how many partitions one subscriber needs: each base's, and with shards the user's own besides."""
    return (1 + load.partitions) * (2 if load.shards else 1)


def copies(load: Workload, audience: float) -> float:
    """Return how many partitions so many users' events are stored in: with shards, one for each that they hit, but one
    in all if these are more than `MAX_COPIES`.
    """
    hit = max(1.0, min(audience, load.shards))
    return hit if hit <= MAX_COPIES else 1.0


def publishing(load: Workload) -> float:
    """Return the commands of a month's publications.

    One script a request and partition that its events' types and users hit, and one more where the key has a rate.
    From the bus each event comes alone.
    """
    batch = 1 if load.bus else load.batch
    bases = min(batch, 1 + load.partitions)
    sharded = load.shards and copies(load, load.audience) == min(load.audience, load.shards)
    scripts = max(bases, min(load.audience * batch, load.shards * bases) if sharded else 0.0)
    limit = load.requests if load.rate_limited else 0.0
    return load.events / batch * scripts + (0.0 if load.bus else limit)


def heard_by_all(load: Workload) -> Reading:
    """Return what a process with many users hears: everything, and each copy of it."""
    requests = load.events if load.bus else load.requests
    return Reading(requests / MONTH_SECONDS, load.events * copies(load, load.audience) / MONTH_SECONDS)


def heard_by_one(load: Workload) -> Reading:
    """Return what a process with one user hears: with shards, what is for somebody of the user's own shard."""
    if not load.shards:
        return heard_by_all(load)
    batch = 1 if load.bus else load.batch
    requests, events = load.events / batch / MONTH_SECONDS, load.events / MONTH_SECONDS
    hit, part = (min(audience / load.shards, 1.0) for audience in (load.audience * batch, load.audience))
    return Reading(requests * hit, events * part)


def following(load: Workload, heard: Reading) -> float:
    """Return the commands a second of a tail that has subscribers."""
    if load.transport == "redis-tcp":
        reads = blocking_reads(heard.arrivals)
        return reads + min(1 / LOOK, max(reads - heard.arrivals, 0.0))  # a look follows a read that brought nothing
    return polls(heard.arrivals) if load.transport == "upstash-rest" else 0.0


def blocking_reads(arrivals: float, block: float = BLOCK) -> float:
    """Return the reads a second: each ends with the next arrival, or after `block` seconds without one."""
    if arrivals * block < 1e-9:
        return 1 / block
    return arrivals / -math.expm1(-arrivals * block)


def polls(arrivals: float, fastest: float = POLL_MIN, slowest: float = POLL_MAX) -> float:
    """Return the polls a second: the fastest after one that brought something, then ever slower ones.

    The shares of time of a chain of states, one for each wait; arrivals are independent of one another.
    """
    waits = [fastest]
    while waits[-1] < slowest:
        waits.append(min(waits[-1] * SLOWING, slowest))
    share, taken, passed = 1.0, 0.0, 0.0
    for wait in waits[:-1]:
        taken += share
        passed += share * wait
        share *= math.exp(-arrivals * wait)
    brings = -math.expm1(-arrivals * waits[-1])
    if brings < 1e-12:
        return 1 / slowest
    last = share / brings  # it stays in the slowest until one brings something
    return (taken + last) / (passed + last * waits[-1])


def polls_within(seconds: float) -> int:
    """Return the polls of a process that follows the log for so long and hears nothing, the first one at once."""
    count, passed, wait = 1, 0.0, POLL_MIN
    while passed + wait <= seconds:
        passed += wait
        wait = min(wait * SLOWING, POLL_MAX)
        count += 1
    return count


def opening_alone(load: Workload) -> int:
    """Return the commands that open the only stream of a process, as on Lambda; its reads come on top.

    TCP: the heads of all that it follows, twice (for the subscriber and for the tail), CLIENT ID, and CLIENT UNBLOCK
    for what is followed while the tail reads already: twice, or more often on a busy machine, which tries again. With
    own types or user shards, one that reads which partition schemes are in use, and over TCP a read begun meanwhile.
    """
    schemes = 1 if load.partitions or load.shards else 0
    if load.transport == "upstash-rest":
        return 2 + schemes  # the heads, and once more with the tail
    return 2 * (partitions(load) + CONTROL) + 3 + 2 * schemes if load.transport == "redis-tcp" else 0


def opening_among_others(load: Workload) -> int:
    """Return the commands that open one stream more: the heads, and with shards those of its own shard.

    With a shard that nobody follows yet the tail's read is ended (CLIENT UNBLOCK) and begun anew.
    """
    if load.transport == "upstash-rest":
        return 3 if load.shards else 1
    if load.transport == "postgres":
        return 0
    return partitions(load) + (1 + load.partitions + 2 if load.shards else 0)


def polling(load: Workload) -> int:
    """Return the commands of one poll that finds nothing new."""
    if load.transport == "postgres":
        return 0
    if load.transport == "upstash-rest":
        return 2 + polls_within(load.poll_wait) if load.poll_wait else 1
    heads = partitions(load) + CONTROL
    # Five reads (two at once, for what is followed first and second, ended, with the event, begun), two CLIENT UNBLOCK.
    return heads + 7 if load.poll_wait else heads


def pages(records: float) -> float:
    """Return the pages of a replay of so many records on average: none where there is none, one command each."""
    return -math.expm1(-records) + records / PAGE
